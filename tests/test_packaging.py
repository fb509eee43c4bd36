"""The wheel, installed alone in a fresh environment: the runtime works, and torch is not needed for it."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from esrgan_deploy.backends.int8 import int8_path
from esrgan_deploy.models import MODELS

ROOT = Path(__file__).parent.parent

RUNTIME_PROGRAM = """
import importlib, pkgutil, sys
import esrgan_deploy
names = [m.name for m in pkgutil.walk_packages(esrgan_deploy.__path__, "esrgan_deploy.")]
assert "esrgan_deploy.video.run.pipeline" in names, names
for name in names:
    importlib.import_module(name)
heavy = {"torch", "onnx", "onnxruntime", "openvino", "esrgan_export", "esrgan_train", "esrgan_bench"} & set(sys.modules)
assert not heavy, heavy
import numpy as np
with esrgan_deploy.Upscaler(esrgan_deploy.open_session(None, "reference")) as upscaler:
    print(upscaler.upscale(np.zeros((4, 6, 3), np.uint8)).shape)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_sdist_holds_what_the_makefile_and_its_readers_need(tmp_path):
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"SECURITY.md", "README.md", "LICENSE", "NOTICE", "Makefile", "requirements/ci.lock"} <= names
    assert not [name for name in names if name.startswith((".venv", "dist", "runs"))]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of scripts of an environment that holds the wheel and its base dependencies."""
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder, with_pip=True)
    scripts = folder / ("Scripts" if sys.platform == "win32" else "bin")
    pip = [scripts / "python", "-m", "pip", "install", "--disable-pip-version-check", "-q", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    return scripts


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)


def test_wheel_holds_nothing_but_our_packages(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {
        "esrgan_bench",
        "esrgan_deploy",
        "esrgan_export",
        "esrgan_train",
    }
    assert {name for name in names if name.endswith("py.typed")} == {
        "esrgan_bench/py.typed",
        "esrgan_deploy/py.typed",
        "esrgan_export/py.typed",
        "esrgan_train/py.typed",
    }
    assert any(name.startswith("esrgan_export/photos/") and name.endswith("CREDITS.md") for name in names)
    assert {name.split("/")[2] for name in names if name.startswith("esrgan_train/recipes/")} == {
        "basicsr",
        "compact",
        "debug",
        "ordinary",
        "paper",
        "realesrgan",
    }


def test_the_bundled_models_are_small_and_come_with_their_cards(wheel):
    sizes = {info.filename: info.file_size for info in zipfile.ZipFile(wheel).infolist()}
    for model in MODELS.values():
        for path in (model.psnr, model.gan, model.onnx, int8_path(model.onnx)):
            assert 100_000 < sizes[f"esrgan_deploy/models/{path.name}"] < 4_000_000, path.name
        assert f"esrgan_deploy/models/{model.card.name}" in sizes


@pytest.mark.slow
def test_runtime_works_alone(installed):
    result = run(installed / "python", "-c", RUNTIME_PROGRAM)
    assert result.stdout.strip() == "(16, 24, 3)", result.stderr
    packages = run(installed / "python", "-m", "pip", "list", "--format=freeze").stdout.lower()
    assert "torch" not in packages
    assert "onnx" not in packages


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code", "extra"),
    [
        (["esrgan-upscale", "in.png", "-o", "out.png", "-m", "m.onnx", "-b", "openvino"], 3, "[cpu]"),
        (["esrgan-upscale", "in.png", "-o", "out.png", "-m", "m.onnx", "-b", "ort"], 3, "[cpu]"),
        (["esrgan-upscale", "in.png", "-o", "out.png", "-m", "m.onnx", "-b", "ort-cuda"], 3, "[gpu]"),
        (["esrgan-upscale", "in.png", "-o", "out.png", "-m", "m.onnx"], 3, "[cpu]"),
        (["esrgan-export", "--gan", "a.pth"], 3, "[export]"),
        (["esrgan-bench", "-m", "m.onnx"], 3, "[cpu]"),
        (["esrgan-bench", "-m", "m.onnx", "--html", "page.html"], 3, "[bench]"),
        (["esrgan-eval", "--hr", ".", "-m", "a.pth"], 3, "[export]"),
        (["esrgan-train", "debug/psnr"], 3, "[train]"),
        (["esrgan-train", "doctor", "."], 3, "[train]"),
    ],
)
def test_missing_backend_names_its_extra(installed, tmp_path, command, code, extra):
    for name in ("in.png", "m.onnx", "a.pth"):
        (tmp_path / name).write_bytes(b"any")
    result = run(installed / command[0], *command[1:], cwd=tmp_path)
    assert result.returncode == code
    assert f"esrgan-deploy{extra}" in result.stderr
    assert result.stderr.count("\n") == 1


def test_public_names_are_sorted_and_exist():
    import esrgan_deploy

    assert esrgan_deploy.__all__ == sorted(esrgan_deploy.__all__)
    assert all(hasattr(esrgan_deploy, name) for name in esrgan_deploy.__all__)
