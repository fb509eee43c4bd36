"""The study of ordinary material: figures are those of the metrics, and none is kept for other weights or pictures."""

import json
import sys
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
import pytest

from classifier_weights import write_classifiers
from esrgan_deploy.errors import OptionError
from esrgan_export.bicubic import downscale, upscale
from esrgan_export.checkpoint import save_checkpoint
from esrgan_export.evaluation.degradations import DEGRADATIONS
from esrgan_export.metrics import niqe, psnr_y
from esrgan_export.network_session import NetworkSession
from small_networks import small_network

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "studies"))

import ordinary  # the benchmarks are scripts beside each other, no package
import ordinary_net
import ordinary_rows
import ordinary_sheets

skimage_data = pytest.importorskip("skimage.data")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """photos/ with two of at most 200 pixels, the weights of ST-LPIPS, and a pair of networks."""
    folder = write_classifiers(tmp_path_factory.mktemp("ordinary"))
    (folder / "photos").mkdir()
    for name, photo in (
        ("cat", skimage_data.chelsea()[40:144, 90:292]),
        ("cup", skimage_data.coffee()[80:184, 200:400]),
    ):
        cv2.imwrite(str(folder / "photos" / f"{name}.png"), photo[..., ::-1])
    for seed, name in enumerate(("psnr", "gan")):
        save_checkpoint(small_network("srvgg", seed), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def study(folder):
    return ordinary.Study(folder / "photos", folder / "st.pth")


def test_figures_are_means_of_the_metrics_over_the_pictures(study, folder):
    with NetworkSession(small_network("srvgg", 1)) as session:
        found = study.measure(ordinary_rows.Row("gan", (folder / "gan.safetensors",)))
        for kind, damage in DEGRADATIONS.items():
            sr = {name: session.run(damage.apply(downscale(hr, 4), 0)[None])[0] for name, hr in study.hr.items()}
            assert found["psnr_y"][kind] == pytest.approx(fmean(psnr_y(sr[name], study.hr[name], 4) for name in sr))
            assert found["niqe"][kind] == pytest.approx(fmean(niqe(picture, 4) for picture in sr.values()))
    assert found["st_lpips"].keys() == DEGRADATIONS.keys()
    assert [hr.shape for hr in study.hr.values()] == [(104, 200, 3)] * 2


def test_known_figures_are_taken_only_for_the_same_weights_and_pictures(study, folder, tmp_path, capsys):
    file, network = tmp_path / "ordinary.json", tmp_path / "net.safetensors"
    network.write_bytes((folder / "gan.safetensors").read_bytes())
    rows = [ordinary_rows.Row("bicubic"), ordinary_rows.Row("net", (network,))]

    def measure(again=False, over=study):
        figures = ordinary.measured(over, rows, file, again)
        return figures, capsys.readouterr().err.replace("measuring ", "").split()

    first, done = measure()
    assert done == ["bicubic", "net"]
    assert json.loads(file.read_text())["rows"] == first
    assert measure() == (first, [])
    assert measure(again=True) == (first, ["bicubic", "net"])
    network.write_bytes((folder / "psnr.safetensors").read_bytes())
    assert measure()[1] == ["net"]
    (folder / "photos" / "cup.png").rename(tmp_path / "cup.png")
    try:
        fewer = ordinary.Study(folder / "photos", folder / "st.pth")
    finally:
        (tmp_path / "cup.png").rename(folder / "photos" / "cup.png")
    assert measure(over=fewer)[1] == ["bicubic", "net"]


def test_a_pair_has_a_row_for_each_alpha(folder):
    pair = f"new={folder / 'psnr.safetensors'},{folder / 'gan.safetensors'}"
    rows = ordinary_rows.given_rows(pair, (0, 0.25, 1))
    assert [(row.name, row.alpha) for row in rows] == [("new a0", 0), ("new a0.25", 0.25), ("new a1", 1)]
    assert len({row.fingerprint() for row in rows}) == 3
    lr = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    for row, seed in ((rows[0], 0), (rows[2], 1)):
        with NetworkSession(small_network("srvgg", seed)) as session:
            np.testing.assert_array_equal(row.open()(lr), session.run(lr[None])[0])


@pytest.mark.parametrize("text", ["net", "net=", "=a.pth", "net=a.pth,b.pth,c.pth"])
def test_what_names_no_network_is_refused(text):
    with pytest.raises(OptionError, match=r"is neither NAME=CHECKPOINT nor NAME=PSNR,GAN$"):
        ordinary_rows.given_rows(text, (0,))
    with pytest.raises(OptionError, match=r"there is no file b\.pth$"):
        ordinary_rows.given_rows(f"net={__file__},b.pth", (0,))


def test_two_rows_of_one_name_are_refused():
    rows = [*ordinary_rows.given_rows(f"net={__file__}", (0,)), ordinary_rows.Row("bicubic")]
    ordinary_rows.check_names(rows)
    with pytest.raises(OptionError, match=r"^two rows are called 'net'; give one of them another NAME$"):
        ordinary_rows.check_names([*rows, *ordinary_rows.given_rows(f"net={__file__}", (0,))])


def test_summary_names_the_worst_damaged_kind(capsys):
    """The clean column does not count, and each figure has its own kind."""
    bicubic = {"psnr_y": dict.fromkeys(DEGRADATIONS, 25.0), "st_lpips": dict.fromkeys(DEGRADATIONS, 0.5)}
    bicubic["niqe"] = bicubic["psnr_y"]
    net = {metric: dict(kinds) for metric, kinds in bicubic.items()}
    net["psnr_y"] |= {"clean": 20.0, "jpeg60": 24.8, "mpeg4": 25.2, "h264": 24.9}
    net["st_lpips"] |= {"clean": 0.9, "jpeg60": 0.4, "noisy": 0.44, "mpeg4": 0.3, "h264": 0.43}
    ordinary.print_tables({"bicubic": bicubic, "compact-clean a0": bicubic, "animevideov3": bicubic, "net": net})
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last == ["net", "-0.20", "dB", "(jpeg60)", "-12%", "(noisy", ")", "clean", "-5.00", "dB"]


def test_a_row_of_a_sheet_shows_one_place_in_all_cells():
    """Each cell is where it is in the whole picture, and unharmed by the borders of what was enlarged."""
    hr = np.ascontiguousarray(skimage_data.chelsea()[:300, :448])
    lr = downscale(hr, 4)
    scene = ordinary_sheets.Scene("", 100, 200)
    row = ordinary_sheets._row(scene, "clean", lr, hr, {"bicubic": lambda picture: upscale(picture, 4)})
    side, caption, step = ordinary_sheets.SIDE, ordinary_sheets.CAPTION, ordinary_sheets.SIDE + ordinary_sheets.GAP
    cells = [row[caption : caption + side, n * step : n * step + side] for n in range(3)]
    place = np.s_[100 : 100 + side, 200 : 200 + side]
    expected = [lr.repeat(4, 0).repeat(4, 1)[place], upscale(lr, 4)[place], hr[place]]
    for cell, picture in zip(cells, expected, strict=True):
        np.testing.assert_array_equal(cell, picture)


def test_sheets_without_their_pictures_are_refused_before_anything_is_measured(folder):
    with pytest.raises(OptionError, match=r"astronaut\.png: is missing, .* validation_photos\.py writes it"):
        ordinary_sheets.check_sources(folder / "photos", folder)


@pytest.mark.parametrize("strength", [0, 4, 12])
def test_the_net_is_what_repeats_every_four_pixels(strength):
    """A pattern of standard deviation `strength`, on a slope, which is no net."""
    pattern = np.tile([1, 1, -1, -1], 24)[None, :] * strength
    slope = 60 + np.arange(96)[:, None]
    picture = (slope + pattern).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert ordinary_net.net(picture) == pytest.approx(strength, abs=0.1)


def test_what_repeats_otherwise_is_no_net():
    pattern = np.tile([20, 20, 20, 20, -20, -20, -20, -20], 12)[None, :]
    picture = np.broadcast_to((120 + pattern)[..., None], (96, 96, 3)).astype(np.uint8)
    assert ordinary_net.net(picture) == pytest.approx(0, abs=0.1)
