"""The adapter on the real bindings of each version: what it finds there, and how it fails without a driver."""

import json
import subprocess
import sys

import pytest

from real_bindings import ALL, HERE, ROOT, run

NEWER_SETTINGS = {"optimization_level", "tiling", "aux_streams"}


@pytest.fixture(params=ALL)
def bindings(request):
    return request.param


@pytest.fixture
def report(bindings):
    return json.loads(run(bindings, HERE / "report_adapter.py", bindings.module, path=(ROOT,)))


def test_features(bindings, report):
    old = bindings.version.startswith("8.")
    assert (report["name"], report["version"]) == ("TensorRT", bindings.version)
    assert report["strongly typed"] == (not old)
    assert not report["portable"]
    assert set(report["refused"]) == (NEWER_SETTINGS if old else set())
    assert {kind for kind, _ in report["refused"].values()} <= {"OptionError"}


def test_without_a_driver(bindings, report):
    """The stubs hand out null pointers, as the real libraries do without a driver."""
    for kind, line in (report["builder"], report["runtime"]):
        assert kind == "MachineError"
        assert line.startswith(f"TensorRT {bindings.version} cannot start here: ")
        assert "nvidia-smi" in line
        assert "\n" not in line


def test_tensorrt_rtx():
    rtx = pytest.importorskip("tensorrt_rtx")
    report = json.loads(subprocess.check_output([sys.executable, HERE / "report_adapter.py", "tensorrt_rtx"]))
    assert report == {
        "name": "TensorRT-RTX",
        "version": rtx.__version__,
        "strongly typed": True,
        "portable": True,
        "refused": {},
        "builder": None,
        "runtime": None,
    }
