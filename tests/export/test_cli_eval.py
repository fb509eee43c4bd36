"""esrgan-eval, called as a user calls it."""

import base64
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from classifier_weights import write_classifiers
from esrgan_deploy import ModelInfo
from esrgan_export.back_projection import back_project
from esrgan_export.bicubic import downscale, upscale
from esrgan_export.checkpoint import save_checkpoint
from esrgan_export.cli.eval import DEGRADATIONS, METRICS, main
from esrgan_export.evaluation import degradations
from esrgan_export.evaluation.measures import NAMES
from esrgan_export.metrics import niqe, pirm_mse, psnr_rgb, psnr_y, ssim_rgb, ssim_y
from esrgan_export.metrics.st_lpips import load_st_lpips
from esrgan_export.network_session import NetworkSession
from esrgan_export.to_onnx import export_onnx
from small_networks import small_network

skimage_data = pytest.importorskip("skimage.data")


def write(path, picture):
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), picture[..., ::-1] if picture.ndim == 3 and picture.shape[2] == 3 else picture)


def read(path):
    return cv2.imread(str(path))[..., ::-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """hr/: two photos, 111x203 and 120x201; net.safetensors, net.onnx and twice.safetensors, which enlarges x2."""
    folder = tmp_path_factory.mktemp("evaluated")
    write(folder / "hr" / "cat.png", skimage_data.chelsea()[90:201, 100:303])
    write(folder / "hr" / "cup.png", skimage_data.coffee()[120:240, 200:401])
    network = small_network("srvgg")
    save_checkpoint(network, folder / "net.safetensors")
    save_checkpoint(small_network("srvgg-relu-x2"), folder / "twice.safetensors")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "exported.onnx").write_bytes(export_onnx(network, ModelInfo(scale=4)).SerializeToString())
    return folder


@pytest.fixture
def hr(folder):
    """The HR pictures as they are compared: cropped to multiples of 4."""
    return {"cat": read(folder / "hr" / "cat.png")[:108, :200], "cup": read(folder / "hr" / "cup.png")[:, :200]}


@pytest.fixture
def evaluate(folder, tmp_path, capsys, monkeypatch):
    """Run the command in `folder`; returns exit code, stdout, stderr and the JSON."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        json_file = tmp_path / "values.json"
        try:
            code = main(["--json", str(json_file), *map(str, arguments)])
        except SystemExit as stop:  # argparse
            code = stop.code
        values = json.loads(json_file.read_text()) if json_file.exists() else None
        return code, *capsys.readouterr(), values

    return run


def test_values_are_those_of_the_metrics(evaluate, hr):
    metrics = ("psnr", "ssim", "psnr-rgb", "ssim-rgb", "rmse", "niqe")
    code, _, err, values = evaluate("--hr", "hr", "-m", "net.safetensors", "--metrics", *metrics)
    assert code == 0, err
    assert list(values["methods"]) == ["bicubic", "net"]
    made = {name: {"bicubic": upscale(downscale(picture, 4), 4)} for name, picture in hr.items()}
    with NetworkSession(small_network("srvgg")) as session:
        for name, picture in hr.items():
            made[name]["net"] = session.run(downscale(picture, 4)[None])[0]
    for method, found in values["methods"].items():
        for name, picture in hr.items():
            sr = made[name][method]
            expected = {
                "psnr": psnr_y(sr, picture, 4),
                "ssim": ssim_y(sr, picture, 4),
                "psnr-rgb": psnr_rgb(sr, picture, 4),
                "ssim-rgb": ssim_rgb(sr, picture, 4),
                "rmse": pirm_mse(sr, picture) ** 0.5,
                "niqe": niqe(sr, 4),
            }
            assert found["pictures"][name] == pytest.approx(expected, rel=1e-12)
        scores = found["pictures"].values()
        assert found["mean"]["psnr"] == pytest.approx(sum(score["psnr"] for score in scores) / 2)
        assert found["mean"]["rmse"] == pytest.approx((sum(score["rmse"] ** 2 for score in scores) / 2) ** 0.5)


def test_table_shows_every_picture_and_the_mean(evaluate):
    code, out, err, values = evaluate("--hr", "hr", "-m", "net.safetensors", "--metrics", "psnr", "rmse")
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["picture", "method", "PSNR-Y", "RMSE"]
    assert [line[:-2] for line in lines[1:7]] == [
        *(["cat", "bicubic"], ["net"], ["cup", "bicubic"], ["net"], ["mean", "of", "2", "bicubic"], ["net"])
    ]
    for line, (method, name) in zip(
        lines[1:5], [("bicubic", "cat"), ("net", "cat"), ("bicubic", "cup"), ("net", "cup")], strict=True
    ):
        scores = values["methods"][method]["pictures"][name]
        assert line[-2:] == [f"{scores['psnr']:.2f}", f"{scores['rmse']:.2f}"]
    assert lines[5][-2:] == [f"{values['methods']['bicubic']['mean'][key]:.2f}" for key in ("psnr", "rmse")]
    assert out.splitlines()[7] == "PIRM region by RMSE: bicubic 1, net none"


def test_checkpoint_and_its_onnx_agree(evaluate):
    models = ("-m", "net.safetensors", "-m", "onnx/exported.onnx", "-b", "ort")
    code, _, err, values = evaluate("--hr", "hr", *models, "--metrics", "psnr")
    assert code == 0, err
    ours, exported = (values["methods"][name]["mean"]["psnr"] for name in ("net", "exported"))
    assert ours == pytest.approx(exported, abs=0.01)


def test_exact_result_is_said_and_does_not_poison_the_mean(evaluate, hr, tmp_path):
    write(tmp_path / "copies" / "cat.png", hr["cat"])
    write(tmp_path / "copies" / "cup_x4.png", upscale(downscale(hr["cup"], 4), 4))
    code, out, err, values = evaluate("--hr", "hr", "--sr", tmp_path / "copies", "--metrics", "psnr", "ssim")
    assert code == 0, err
    found, bicubic = values["methods"]["copies"], values["methods"]["bicubic"]
    assert found["pictures"]["cat"] == {"psnr": None, "ssim": 1}
    assert found["pictures"]["cup"] == bicubic["pictures"]["cup"]
    assert found["mean"]["psnr"] == (100 + bicubic["pictures"]["cup"]["psnr"]) / 2
    assert out.count("exact  ") == 1
    assert "counts as 100 dB" in out


def test_given_lr_is_used(evaluate, hr, tmp_path):
    for name, picture in hr.items():
        write(tmp_path / "lr" / f"{name}x4.png", picture[::4, ::4])
    code, _, err, values = evaluate("--hr", "hr", "--lr", tmp_path / "lr", "-m", "net.safetensors", "--metrics", "psnr")
    assert code == 0, err
    expected = psnr_y(upscale(hr["cat"][::4, ::4], 4), hr["cat"], 4)
    assert values["methods"]["bicubic"]["pictures"]["cat"]["psnr"] == pytest.approx(expected)


def test_scale_of_the_model_decides(evaluate, folder):
    code, _, err, values = evaluate("--hr", "hr", "-m", "twice.safetensors", "--metrics", "psnr")
    assert code == 0, err
    cat = read(folder / "hr" / "cat.png")[:110, :202]
    assert values["scale"] == 2
    expected = psnr_y(upscale(downscale(cat, 2), 2), cat, 2)
    assert values["methods"]["bicubic"]["pictures"]["cat"]["psnr"] == pytest.approx(expected)


def test_back_projection(evaluate, hr, tmp_path):
    blurred = {name: cv2.blur(picture, (7, 7)) for name, picture in hr.items()}
    for name, picture in blurred.items():
        write(tmp_path / "blurred" / f"{name}.png", picture)
    arguments = ("--hr", "hr", "--sr", tmp_path / "blurred", "--metrics", "psnr", "--back-projection", "3")
    code, _, err, values = evaluate(*arguments)
    assert code == 0, err
    assert list(values["methods"]) == ["bicubic", "blurred bp3"]
    expected = psnr_y(back_project(blurred["cup"], downscale(hr["cup"], 4), 3), hr["cup"], 4)
    assert values["methods"]["blurred bp3"]["pictures"]["cup"]["psnr"] == pytest.approx(expected)
    assert expected > psnr_y(blurred["cup"], hr["cup"], 4) + 1


def test_perceptual_index_with_a_function(evaluate, folder):
    (folder / "my_ma.py").write_text("def score(rgb):\n    return rgb.shape[1] / 100\n")
    code, out, err, values = evaluate("--hr", "hr", "-m", "net.safetensors", "--metrics", "pi", "--ma", "my_ma:score")
    assert code == 0, err
    cat = values["methods"]["net"]["pictures"]["cat"]
    assert cat["ma"] == 1.92  # 200 pixels, 4 shaved on each side
    assert cat["pi"] == pytest.approx((10 - 1.92 + cat["niqe"]) / 2)
    assert out.split()[2:5] == ["NIQE", "Ma", "PI"]


def test_perceptual_index_with_scores_of_a_file(evaluate, tmp_path):
    rows = {("bicubic", "cat"): 3, ("bicubic", "cup"): 4, ("net", "cat"): 8, ("net", "cup"): 9}
    lines = ["method,picture,ma", *(f"{method},{picture},{ma}" for (method, picture), ma in rows.items())]
    (tmp_path / "ma.csv").write_text("\n".join(lines))
    arguments = ("--hr", "hr", "-m", "net.safetensors", "--metrics", "pi", "--ma", tmp_path / "ma.csv")
    code, _, err, values = evaluate(*arguments)
    assert code == 0, err
    for method, ma in (("bicubic", 3.5), ("net", 8.5)):
        mean = values["methods"][method]["mean"]
        assert mean["ma"] == ma
        assert mean["pi"] == pytest.approx((10 - ma + mean["niqe"]) / 2)
    (tmp_path / "ma.csv").write_text("\n".join(lines[:-1]))
    code, _, err, _ = evaluate(*arguments)
    assert (code, err) == (2, f"esrgan-eval: net, cup: {tmp_path}/ma.csv has no row 'net,cup,...'\n")


def test_perceptual_distances(evaluate, hr, tmp_path):
    write_classifiers(tmp_path)
    weights = ("--st-lpips-weights", tmp_path / "st.pth")
    weights += ("--lpips-heads", tmp_path / "alex.pth", "--lpips-trunk", tmp_path / "alex_trunk.pth")
    arguments = ("--hr", "hr", "-m", "net.safetensors", "--metrics", "lpips", "st-lpips", *weights)
    code, _, err, values = evaluate(*arguments)
    assert code == 0, err
    assert "alex_trunk.pth is not torchvision's file" in err
    found = values["methods"]["bicubic"]["pictures"]["cat"]
    bicubic = upscale(downscale(hr["cat"], 4), 4)
    assert found["st-lpips"] == pytest.approx(load_st_lpips(tmp_path / "st.pth")(bicubic, hr["cat"], 4))
    assert found["lpips"] > 0


def test_16_bit_is_rounded_and_opaque_alpha_ignored(evaluate, hr, tmp_path):
    write(tmp_path / "deep" / "cat.png", hr["cat"].astype(np.uint16) * 257 + 100)
    write(tmp_path / "deep" / "cup.png", np.dstack([hr["cup"][..., ::-1], np.full(hr["cup"].shape[:2], 255, np.uint8)]))
    code, _, err, values = evaluate("--hr", "hr", "--sr", tmp_path / "deep", "--metrics", "psnr-rgb")
    assert code == 0, err
    assert values["methods"]["deep"]["pictures"] == {"cat": {"psnr-rgb": None}, "cup": {"psnr-rgb": None}}


def png(uri):
    assert uri.startswith("data:image/png;base64,")
    data = np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


def test_html_page_shows_the_same_crop_of_all_methods_and_needs_nothing_else(evaluate, hr, tmp_path):
    write(tmp_path / "a<b&c" / "cat.png", hr["cat"] // 2)
    write(tmp_path / "a<b&c" / "cup.png", hr["cup"] // 2)
    page = tmp_path / "page.html"
    code, _, err, values = evaluate("--hr", "hr", "--sr", tmp_path / "a<b&c", "--metrics", "psnr", "--html", page)
    assert code == 0, err
    text = page.read_text()
    assert not re.search(r"https?:|<script|<link|@import|url\(", text)
    assert "a&lt;b&amp;c" in text
    assert "a<b" not in text
    images = re.findall(r'<img src="([^"]+)" alt="([^"]+)"', text)
    assert [alt for _, alt in images] == ["whole picture", "LR", "bicubic", "a&lt;b&amp;c", "HR"] * 2
    lr, bicubic, half, whole = (png(uri) for uri, _ in images[1:5])
    assert whole.shape == (108, 128, 3)
    found = [x for x in range(73) if (hr["cat"][:, x : x + 128] == whole).all()]
    assert len(found) == 1
    crop = slice(found[0], found[0] + 128)
    np.testing.assert_array_equal(half, whole // 2)
    np.testing.assert_array_equal(bicubic, upscale(downscale(hr["cat"], 4), 4)[:, crop])
    np.testing.assert_array_equal(lr, downscale(hr["cat"], 4).repeat(4, 0).repeat(4, 1)[:, crop])
    mean = values["methods"]["bicubic"]["mean"]["psnr"]
    assert f'<td class="best">{mean:.2f}' in text  # half the brightness is worse


def test_mos_page_shows_what_was_compared(evaluate, tmp_path):
    page = tmp_path / "mos.html"
    code, _, err, _ = evaluate("--hr", "hr", "-m", "net.safetensors", "--metrics", "psnr", "--mos-page", page)
    assert code == 0, err
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page.read_text(), re.DOTALL)[1])
    shown = [json.loads(base64.b64decode(version["key"])) for version in data["pictures"][0]]
    assert {(key["picture"], key["method"]) for key in shown} == {
        ("cup", method) for method in ("bicubic", "net", "nearest", "HR")
    }


NET = ("--hr", "hr", "-m", "net.safetensors")


def by_pillow(lr):
    """JPEG 60, 4:2:0, by another encoder than ours."""
    image, file = pytest.importorskip("PIL.Image"), io.BytesIO()
    image.fromarray(lr).save(file, "JPEG", quality=60, subsampling="4:2:0")
    return np.array(image.open(file))


def test_degraded_lr_is_measured_and_shown_kind_by_kind(evaluate, hr, tmp_path):
    page = tmp_path / "page.html"
    kinds = ("--degrade", "jpeg60", "clean", "--degrade", "jpeg60")
    code, out, err, values = evaluate(*NET, "--metrics", "psnr", "rmse", *kinds, "--html", page)
    assert code == 0, err
    lr = {name: by_pillow(downscale(picture, 4)) for name, picture in hr.items()}
    with NetworkSession(small_network("srvgg")) as session:
        made = {name: {"bicubic": upscale(lr[name], 4), "net": session.run(lr[name][None])[0]} for name in hr}
    for method in ("bicubic", "net"):
        found = values["methods"][method]["degradations"]
        assert list(found) == ["jpeg60", "clean"]
        expected = {name: psnr_y(made[name][method], picture, 4) for name, picture in hr.items()}
        for name, value in expected.items():
            assert found["jpeg60"]["pictures"][name]["psnr"] == pytest.approx(value, rel=1e-12)
        assert found["jpeg60"]["mean"]["psnr"] == pytest.approx(sum(expected.values()) / 2)
    clean = values["methods"]["bicubic"]["degradations"]["clean"]["pictures"]["cat"]["psnr"]
    assert clean == pytest.approx(psnr_y(upscale(downscale(hr["cat"], 4), 4), hr["cat"], 4))
    assert (list(values["degradations"]), values["seed"]) == (["jpeg60", "clean"], 0)
    _check_table_of_kinds(out.splitlines(), values["methods"]["net"]["degradations"]["clean"]["mean"])
    _check_page_of_kinds(page.read_text(), lr["cat"], made["cat"]["bicubic"])


def _check_table_of_kinds(lines, mean):
    words = [line.split() for line in lines]
    assert [line[:-3] for line in words[1:13:2]] == [
        *(["cat", "jpeg60"], ["cup", "jpeg60"], ["cat", "clean"], ["cup", "clean"]),
        *(["mean", "of", "2", "jpeg60"], ["mean", "of", "2", "clean"]),
    ]
    assert words[12] == ["net", f"{mean['psnr']:.2f}", f"{mean['rmse']:.2f}"]
    assert [line.split(":")[0] for line in lines[13:]] == ["PIRM region by RMSE, jpeg60", "PIRM region by RMSE, clean"]


def _check_page_of_kinds(text, lr, bicubic):
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert headings[:2] == ["jpeg60: JPEG 60, 4:2:0", "clean: MATLAB&#x27;s bicubic, as in papers"]
    assert headings[2:] == ["cat jpeg60", "cup jpeg60", "cat clean", "cup clean"]
    shown_lr, shown_bicubic = (png(uri) for uri in re.findall(r'<img src="([^"]+)"', text)[1:3])
    x = next(x for x in range(73) if (bicubic[:, x : x + 128] == shown_bicubic).all())
    np.testing.assert_array_equal(shown_lr, lr.repeat(4, 0).repeat(4, 1)[:, x : x + 128])


def test_all_kinds_are_measured_with_the_noise_of_the_seed(evaluate):
    arguments = (*NET, "--metrics", "psnr", "--degrade", *DEGRADATIONS)
    first, again, other = (evaluate(*arguments, "--seed", seed)[3]["methods"]["bicubic"] for seed in (0, 0, 1))
    assert first == again
    changed = [kind for kind in DEGRADATIONS if first["degradations"][kind] != other["degradations"][kind]]
    assert changed == ["noisy"]
    means = [first["degradations"][kind]["mean"]["psnr"] for kind in DEGRADATIONS]
    assert max(means) == means[0]
    assert len(set(means)) == 5


BAD_INPUT = {
    "nothing": ((), "--hr DIR"),
    "nothing to measure": (("--hr", "hr"), "nothing to measure"),
    "hr is no folder": (("--hr", "net.safetensors", "--sr", "hr"), "net.safetensors: is no folder"),
    "no pictures": (("--hr", "onnx", "--sr", "hr"), "onnx: holds no picture"),
    "no answers": (("--mos-tally", "absent.json"), "absent.json: cannot be read"),
    "missing model": (("--hr", "hr", "-m", "absent.onnx"), "absent.onnx: cannot be read"),
    "no model": (("--hr", "hr", "-m", "hr/cat.png"), "does not look like a checkpoint"),
    "two scales": (("--hr", "hr", "-m", "net.safetensors", "twice.safetensors"), "enlarges 2 times"),
    "another scale": ((*NET, "--scale", "2"), "enlarges 4 times, --scale 2"),
    "scale 0": ((*NET, "--scale", "0"), "--scale 0 is too small"),
    "model twice": (("--hr", "hr", "-m", "net.safetensors", "net.safetensors"), "tables would call it 'net'"),
    "unknown metric": ((*NET, "--metrics", "vmaf"), "'vmaf'"),
    "back-projection": ((*NET, "--back-projection", "-1"), "--back-projection -1"),
    "unknown degradation": ((*NET, "--degrade", "clean", "h265"), "no degradation 'h265'; did you mean 'h264'? Known:"),
    "degraded and given lr": ((*NET, "--degrade", "h264", "--lr", "hr"), "so --lr hr has no part in it; leave one out"),
    "degraded and results": ((*NET, "--degrade", "h264", "--sr", "hr"), "so --sr hr has no part in it; leave one out"),
    "negative seed": ((*NET, "--degrade", "noisy", "--seed", "-1"), "--seed -1 is negative"),
    "tiny and degraded": (("--hr", "tiny", "-m", "net.safetensors", "--degrade", "h264"), "metrics at x4 need 22x22"),
    "pi without ma": ((*NET, "--metrics", "pi"), "whose model is in no Python package"),
    "lpips without weights": ((*NET, "--metrics", "lpips"), "--lpips-heads"),
    "st-lpips without weights": ((*NET, "--metrics", "st-lpips"), "--st-lpips-weights"),
    "ma of no module": ((*NET, "--metrics", "pi", "--ma", "no_such:f"), "cannot be imported"),
    "ma of a broken name": ((*NET, "--metrics", "pi", "--ma", "..:f"), "cannot be imported"),
    "ma that fails": ((*NET, "--metrics", "pi", "--ma", "os:getcwd"), "os:getcwd failed: TypeError"),
    "back-projection for ever": ((*NET, "--back-projection", "9" * 30), "more than 10000 steps"),
    "ma of no function": ((*NET, "--metrics", "pi", "--ma", "json:no_such"), "has no function 'no_such'"),
    "ma of neither": ((*NET, "--metrics", "pi", "--ma", "no_such"), "neither MODULE:FUNCTION nor"),
    "absent ma file": ((*NET, "--metrics", "pi", "--ma", "no.csv"), "no.csv: cannot be read"),
    "lr has no partners": ((*NET, "--lr", "hr"), "hr/cat.png: is 203x111, times 4"),
    "sr of another size": (("--hr", "hr", "--sr", "whole"), "whole/cat.png: is 203x111, HR is 200x108"),
    "sr without partner": (("--hr", "hr", "--sr", "one"), "one: holds no partner of 'cup'"),
    "two of one name": (("--hr", "double", "--sr", "hr"), "same name as cat.jpg"),
    "text as picture": (("--hr", "text", "--sr", "hr"), "text/cat.png: is no picture"),
    "transparent": (("--hr", "clear", "--sr", "hr"), "clear/cat.png: has transparent parts"),
    "tiny": (("--hr", "tiny", "--sr", "whole"), "tiny/cat.png: is 21x22; metrics at x4 need 22x22"),
    "one block": (("--hr", "small", "-m", "net.safetensors"), "bicubic, cat: NIQE needs two blocks"),
    "json in no folder": ((*NET, "--json", "no/such.json"), "no/such.json"),
    "mos of one picture": (("--hr", "one", "-m", "net.safetensors", "--mos-page", "mos.html"), "two pictures or more"),
}


def test_a_picture_that_cannot_be_measured_in_this_memory_is_a_matter_of_the_machine(evaluate):
    code, _, err, _ = evaluate("--hr", "hr", "--sr", "hr", "--metrics", "psnr", "--max-memory", "0.001")
    assert code == 3
    assert "measuring a picture of 203x111 needs 2 MiB of memory, and 1 MiB is allowed; raise --max-memory" in err


@pytest.mark.linux("takes any bytes for a name")
def test_names_that_are_no_utf_8_are_on_the_page(evaluate, folder):
    name = os.fsdecode(b"\xff.png")
    shutil.copytree(folder / "hr", folder / "bytes")
    (folder / "bytes" / "cat.png").rename(folder / "bytes" / name)
    code, _, err, _ = evaluate("--hr", "bytes", "-m", "net.safetensors", "--metrics", "psnr", "--html", "bytes.html")
    assert (code, err) == (0, "")
    assert "\\xff" in (folder / "bytes.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def bad_folders(folder):
    photo = read(folder / "hr" / "cat.png")
    shutil.copytree(folder / "hr", folder / "whole")
    write(folder / "one" / "cat.png", photo[:108, :200])
    write(folder / "double" / "cat.png", photo)
    write(folder / "double" / "cat.jpg", photo)
    (folder / "text").mkdir()
    (folder / "text" / "cat.png").write_text("no picture")
    almost_opaque = np.full((*photo.shape[:2], 1), 255, np.uint8)
    almost_opaque[0, 0] = 254
    write(folder / "clear" / "cat.png", np.dstack([photo, almost_opaque]))
    write(folder / "tiny" / "cat.png", photo[:22, :21])
    write(folder / "small" / "cat.png", photo[:108, :108])


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gives_one_line_and_exit_code_2(evaluate, bad_folders, case):
    arguments, expected = BAD_INPUT[case]
    code, _, err, values = evaluate(*arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("esrgan-eval: ")
    assert expected in err
    assert values is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("method,picture\nnet,cat\n", "line 2 is not method,picture,ma"),
        ("method,picture,ma\nnet,cat,good\n", "line 2 is not"),
        ("method,picture,ma\nnet,cat,5\nnet,cup,11\n", "line 3: Ma scores go from 0 to 10, this is 11"),
        ("method,picture,ma\nnet,cat,nan\n", "this is nan"),
    ],
)
def test_bad_table_of_ma(evaluate, tmp_path, content, words):
    (tmp_path / "ma.csv").write_text(content)
    code, _, err, _ = evaluate(*NET, "--metrics", "pi", "--ma", tmp_path / "ma.csv")
    assert (code, err.count("\n")) == (2, 1)
    assert words in err


def test_commands_of_the_documentation(folder, tmp_path, capsys, monkeypatch):
    """With the files that the page names: photos, models, results, weights, scores and answers."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "hr", "photos")
    for name in ("psnr", "gan"):
        shutil.copy(folder / "net.safetensors", f"{name}.safetensors")
    shutil.copy(folder / "onnx" / "exported.onnx", "esrgan_x4_fp32.onnx")
    for name in ("cat", "cup"):
        write(Path("results", f"{name}.png"), upscale(downscale(read(f"photos/{name}.png")[:108, :200], 4), 4))
    write(Path("photos/cup.png"), read("photos/cup.png")[:108, :200])
    write_classifiers(tmp_path)
    shutil.copy("st.pth", "alex_shift_tolerant.pth")
    shutil.copy("alex_trunk.pth", "alexnet-owt-7be5be79.pth")
    Path("ma.csv").write_text(
        "method,picture,ma\n" + "".join(f"{m},{p},8\n" for m in ("bicubic", "results") for p in ("cat", "cup"))
    )
    for session in ("1f", "a0"):
        content = {"format": "esrgan-mos 1", "session": session, "answers": [{"method": "gan", "score": 4}]}
        Path(f"mos-{session}.json").write_text(json.dumps(content))
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    commands = re.findall(r"^\$ esrgan-eval (.*)$", page, re.MULTILINE)
    assert len(commands) > 4
    for command in commands:
        code, (out, err) = main(shlex.split(command)), capsys.readouterr()
        assert code == 0, err
        if "--mos-tally" in command:
            assert out.splitlines()[1].split() == ["gan", "4.00", "+-", "0.00", "2"]
    for file in ("result.html", "result.json", "mos.html"):
        assert Path(file).stat().st_size > 100
    for program in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        exec(program, {})


def test_metrics_and_degradations_of_the_command_are_those_that_exist():
    assert METRICS == NAMES
    assert list(degradations.DEGRADATIONS) == list(DEGRADATIONS)


def test_help_loads_nothing_heavy():
    script = (
        "import sys\nfrom esrgan_export.cli.eval import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'onnx', 'cv2', 'safetensors', 'onnxruntime'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.startswith("usage: esrgan-eval")
    assert out.endswith("[]\n")


def test_folders_are_compared_without_torch(folder):
    script = (
        "import sys\nfrom esrgan_export.cli.eval import main\n"
        "code = main(['--hr', 'hr', '--sr', 'hr', '--scale', '1'])\nprint(code, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, check=True)
    assert result.stdout.endswith("0 False\n"), result.stderr
