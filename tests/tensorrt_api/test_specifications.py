"""The files under tests/data/tensorrt_api, on which other tests rest, say what the real bindings offer."""

import subprocess
import sys

import pytest

from real_bindings import ALL, HERE, SPECIFICATIONS, run, specification


@pytest.mark.parametrize("bindings", ALL)
def test_file_says_what_the_bindings_offer(bindings):
    found = run(bindings, HERE / "extract.py", bindings.module)
    assert found == (SPECIFICATIONS / f"tensorrt_{bindings.version}.json").read_text()


def test_file_says_what_tensorrt_rtx_offers():
    rtx = pytest.importorskip("tensorrt_rtx")
    found = subprocess.check_output([sys.executable, "-B", HERE / "extract.py", "tensorrt_rtx"], text=True)
    assert found == (SPECIFICATIONS / f"tensorrt_rtx_{rtx.__version__}.json").read_text()


def test_signatures_are_those_of_the_manual():
    """Against what NVIDIA's Python API reference states for TensorRT 10, by hand."""
    ten = specification("10.13.3.9")["classes"]
    assert ten["IBuilderConfig"]["set_memory_pool_limit"] == ["pool", "pool_size"]
    assert ten["IOptimizationProfile"]["set_shape"] == ["input", "min", "opt", "max"]
    assert ten["OnnxParser"]["parse"] == ["model", "path="]
    assert ten["IProgressMonitor"]["phase_start"] == ["phase_name", "parent_phase", "num_steps"]
    assert ten["Weights"]["__init__"] == [["type="], ["type", "ptr", "count"], ["a"]]
    assert ten["ICudaEngine"]["num_io_tensors"] == "property"
    assert ten["IBuilderConfig"]["max_aux_streams"] == "writable property"
