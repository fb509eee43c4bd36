"""What an exception that nobody expected means, by its kind and by where it arose."""

import argparse
import errno
import importlib.util
import json
import struct
from pathlib import Path

import pytest

from esrgan_deploy.cli.funnel import PLACES, mapped
from esrgan_deploy.errors import MachineError, MediaError, ModelError, OptionError, OutputError

ARGUMENTS = argparse.Namespace(input=Path("in.png"), model=Path("net.onnx"), output=Path("out.png"), batch=1)


def arising(statement, *modules):
    """The exception of a statement that runs in the last of these modules, which the ones before it have called."""
    call = None
    for name in reversed(modules):
        space = {"__name__": name, "call": call}
        exec(f"def work():\n    {statement if call is None else 'call()'}", space)
        call = space["work"]
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    return caught.value


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.module)
def test_each_place_is_there(place):
    """Looked for by its file, since much of it cannot be imported without torch."""
    package, *inner = place.module.split(".")
    path = Path(importlib.util.find_spec(package).origin).parent.joinpath(*inner)
    assert path.is_dir() or path.with_suffix(".py").is_file()


def test_a_place_comes_before_the_one_that_holds_it():
    names = [place.module for place in PLACES]
    for number, name in enumerate(names):
        assert not any(name.startswith(f"{earlier}.") for earlier in names[:number]), name


@pytest.mark.parametrize(
    ("module", "kind", "about"),
    [
        ("esrgan_deploy.images.read", MediaError, "in.png: "),
        ("esrgan_deploy.video.source.scan", MediaError, "in.png: "),
        ("esrgan_deploy.video.output.mux", OutputError, "out.png: "),
        ("esrgan_deploy.backends.ov", ModelError, "net.onnx: "),
        ("esrgan_deploy.model", ModelError, "net.onnx: "),
        ("esrgan_bench.compare", OptionError, ""),
        ("somebody_else", OptionError, "the arguments cannot be used"),
    ],
)
def test_what_opencv_raises_is_about_what_was_at_work(module, kind, about):
    error = arising("import cv2; cv2.cvtColor(None, 1)", "esrgan_deploy.cli.upscale", module)
    ours = mapped(error, ARGUMENTS)
    assert type(ours) is kind
    assert str(ours).startswith(about)
    assert "\n" not in str(ours)


def test_the_innermost_place_counts():
    error = arising("raise MemoryError", "esrgan_deploy.images.job", "esrgan_deploy.backends.ov")
    assert str(mapped(error, ARGUMENTS)).startswith("net.onnx: ")


def test_what_arises_inside_a_dependency_is_no_fault_of_ours():
    error = arising("{}['key']", "esrgan_deploy.images.header", "PIL.TiffImagePlugin")
    assert type(mapped(error, ARGUMENTS)) is MediaError


@pytest.mark.parametrize(
    "statement",
    ["{}['key']", "None.shape", "[][1]", "assert False", "int('x')", "len(1)", "import esrgan_deploy.missing"],
)
def test_a_fault_of_ours_stays_one(statement):
    assert mapped(arising(statement, "esrgan_deploy.images.read"), ARGUMENTS) is None


def test_a_dependency_that_called_us_back_does_not_hide_our_fault():
    error = arising("{}['key']", "esrgan_deploy.video.run.pipe", "av.container", "esrgan_deploy.video.source.y4m")
    assert mapped(error, ARGUMENTS) is None


@pytest.mark.parametrize(
    "statement",
    ["raise MemoryError", "raise RuntimeError('std::bad_alloc')", 'raise RuntimeError("can\'t start new thread")'],
)
def test_too_little_memory_is_the_machines(statement):
    ours = mapped(arising(statement, "esrgan_deploy.backends.ort"), ARGUMENTS)
    assert type(ours) is MachineError
    assert str(ours).startswith("net.onnx: there is not enough memory for it; give a smaller --batch")


@pytest.mark.parametrize(
    ("cause", "kind", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out.png"), OutputError, "out.png: .*make room"),
        (OSError(errno.EFBIG, "File too large"), OutputError, "ulimit -f"),
        (OSError(errno.EMFILE, "Too many open files", "x"), MachineError, "x: .*ulimit -n"),
        (OSError(errno.EIO, "Input/output error"), MediaError, "in.png: .*disk or network failed"),
        (OSError(errno.EACCES, "Permission denied", b"\xff.png"), MediaError, "\udcff.png: Permission denied"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), MediaError, "in.png: cannot be read"),
        (struct.error("short"), MediaError, "in.png: cannot be read"),
        (ImportError("libx: cannot open", name="cv2.cv2"), MachineError, "package cv2 cannot be loaded"),
    ],
    ids=str,
)
def test_what_the_system_and_the_standard_library_raise(cause, kind, words):
    space = {"__name__": "esrgan_deploy.images.read", "cause": cause}
    exec("def work():\n    raise cause", space)
    with pytest.raises(type(cause)) as caught:
        space["work"]()
    with pytest.raises(kind, match=words) as ours:
        raise mapped(caught.value, ARGUMENTS)
    assert type(ours.value) is kind


def test_what_is_nested_too_deeply():
    with pytest.raises(RecursionError) as caught:
        json.loads("[" * 200_000)
    assert "nested too deeply" in str(mapped(caught.value, None))
