"""esrgan-bench: arithmetic counted from the graph, percentiles, the JSON, interruptions, bad input.

Times are never measured here: `seconds_of` is replaced, so that every figure has one right value.
"""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from esrgan_deploy import ModelInfo
from esrgan_deploy.bench import machine, measure, peak
from esrgan_deploy.bench.flops import count_flops
from esrgan_deploy.cli import bench
from esrgan_deploy.errors import ModelError
from esrgan_deploy.model import load_onnx
from tiny_onnx import write_onnx

BLUR_MFLOP = 2 * 9 * 3 * 3 / 1e6  # per pixel: 9 taps, 3 channels in, 3 out, two operations each


# --- arithmetic ---------------------------------------------------------------------------------------------------


def one_node(node, weights):
    """A graph of one operator on the input."""
    initialisers = [helper.make_tensor(k, TensorProto.FLOAT, v.shape, v.ravel()) for k, v in weights.items()]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        initialisers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def macs_by_running(model, height, width):
    """Ones times ones, summed up: what comes out is the number of multiplications that went in."""
    ones = np.ones((1, 3, height, width), np.float32)
    return round(float(ReferenceEvaluator(model).run(None, {"input": ones})[0].astype(np.float64).sum()))


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(6, 9),
    width=st.integers(6, 9),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    group=st.sampled_from([1, 3]),
)
def test_convolutions_count_what_they_multiply(height, width, kernel, stride, group):
    weight = np.ones((6, 3 // group, *kernel), np.float32)
    node = helper.make_node("Conv", ["input", "w"], ["output"], strides=[stride, stride], group=group)
    model = one_node(node, {"w": weight})
    assert count_flops(model, height, width) == 2 * macs_by_running(model, height, width)


@pytest.mark.parametrize("stride", [1, 2])
def test_transposed_convolutions_count_what_they_multiply(stride):
    weight = np.ones((3, 5, 2, 3), np.float32)
    node = helper.make_node("ConvTranspose", ["input", "w"], ["output"], strides=[stride, stride])
    model = one_node(node, {"w": weight})
    assert count_flops(model, 4, 7) == 2 * macs_by_running(model, 4, 7)


@given(height=st.integers(1, 5), width=st.integers(1, 5), columns=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_a_batched_matrix_product_counts_what_it_multiplies(height, width, columns):
    node = helper.make_node("MatMul", ["input", "w"], ["output"])
    model = one_node(node, {"w": np.ones((width, columns), np.float32)})
    assert count_flops(model, height, width) == 2 * macs_by_running(model, height, width)


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_counts_what_it_multiplies(transposed):
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], axis=2),  # (3, 4 * 5)
        helper.make_node("Gemm", ["flat", "w"], ["output"], transA=transposed),
    ]
    model = one_node(nodes[1], {"w": np.ones((3 if transposed else 20, 7), np.float32)})
    model.graph.node.insert(0, nodes[0])
    assert count_flops(model, 4, 5) == 2 * macs_by_running(model, 4, 5) == 2 * 3 * 20 * 7


def test_padding_counts_in_full_and_each_node_counts(blur_x2):
    model, _ = load_onnx(blur_x2)
    assert count_flops(model, 10, 20) == 200 * 162


def test_compact_x4_needs_the_published_1_238_mflop_per_pixel(tmp_path):
    """SRVGGNetCompact, 16 convolutions of 64 channels (animevideov3): 3 -> 64, 16 times 64 -> 64, 64 -> 48."""
    channels = [3, *[64] * 17, 48]
    weights = {f"w{i}": np.zeros((channels[i + 1], channels[i], 3, 3), np.float32) for i in range(18)}
    names = ["input", *[f"x{i}" for i in range(18)]]
    nodes = [
        helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], kernel_shape=[3, 3], pads=[1] * 4)
        for i in range(18)
    ]
    nodes.append(helper.make_node("DepthToSpace", ["x17"], ["output"], blocksize=4))
    model, info = load_onnx(write_onnx(tmp_path / "compact.onnx", nodes, weights))
    assert info.scale == 4
    assert count_flops(model, 6, 10) / 60 / 1e6 == pytest.approx(1.238, abs=5e-4)


def test_a_size_the_model_is_not_fixed_to_is_refused(blur_x2):
    model, _ = load_onnx(blur_x2)
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 64
    assert count_flops(model, 8, 64) == 8 * 64 * 162
    with pytest.raises(ModelError, match=r"fixed to 1x3xHx64 .* 32x8 image"):
        count_flops(model, 8, 32)


def test_operators_outside_the_standard_leave_the_count_unknown(blur_x2):
    model, _ = load_onnx(blur_x2)
    model.graph.node[0].domain = "com.example"
    assert count_flops(model, 8, 8) is None


def test_what_an_exporter_claims_about_shapes_is_not_believed(blur_x2):
    model, _ = load_onnx(blur_x2)
    model.graph.value_info.append(helper.make_tensor_value_info("blurred", TensorProto.FLOAT, [1, 3, 64, 64]))
    assert count_flops(model, 8, 8) == 64 * 162


# --- the matrix product that is the yardstick -----------------------------------------------------------------------


def test_the_yardstick_multiplies_matrices():
    model = peak.gemm_model(12, 3, "fp32")
    onnx.checker.check_model(model, full_check=True)
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    image = np.random.default_rng(0).random((1, 3, 4, 12), dtype=np.float32)
    result = ReferenceEvaluator(model).run(None, {"input": image})[0]
    expected = image.reshape(12, 12).astype(np.float64) @ weights @ weights @ weights
    np.testing.assert_allclose(result.reshape(12, 12), expected, rtol=1e-4, atol=1e-5)
    assert count_flops(model, 4, 12) == 3 * 2 * 12**3


def test_values_of_the_yardstick_neither_grow_nor_fade():
    model = peak.gemm_model(192, 16, "fp16")
    image = np.random.default_rng(0).random((1, 3, 64, 192)).astype(np.float16)
    result = ReferenceEvaluator(model).run(None, {"input": image})[0]
    assert result.dtype == np.float16
    assert 0.1 < result.astype(np.float64).std() < 10


def test_the_peak_is_the_fastest_step_of_the_ladder(monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(peak, "LADDER", ((6, 2), (12, 3), (48, 1)))
    times = iter([2e-6, 1e-6, 1.0])
    really_run = peak._fastest

    def fastest(*arguments):
        assert really_run(*arguments) > 0
        return next(times)

    monkeypatch.setattr(peak, "_fastest", fastest)
    found = peak.measure_peak("ort", "fp32")
    assert (found.side, found.chain) == (12, 3)
    assert found.gflops == pytest.approx(3 * 2 * 12**3 / 1e-6 / 1e9)


def test_no_larger_matrices_once_a_run_takes_long(monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(peak, "LADDER", ((6, 2), (12, 3)))
    monkeypatch.setattr(peak, "_fastest", lambda *_: peak.LONG_ENOUGH_S * 2)
    assert peak.measure_peak("ort", "fp32").side == 6


def test_integers_have_no_floating_point_peak():
    assert peak.measure_peak("openvino", "int8") is None


# --- statistics and memory ------------------------------------------------------------------------------------------


def test_percentiles():
    milliseconds = np.random.default_rng(0).permutation(np.arange(1, 102))  # 1 ... 101: the p-th percentile is p + 1
    found = measure.percentiles_ms(milliseconds / 1000)
    assert found == pytest.approx({"p50": 51, "p90": 91, "p99": 100})


MEMORY_PROGRAM = """
import mmap, resource
from esrgan_deploy.bench import machine

before = machine.rss_mib()
with mmap.mmap(-1, 64 << 20) as block:  # given back at once, which malloc does not promise
    for page in range(0, len(block), mmap.PAGESIZE):
        block[page] = 1
    assert machine.rss_mib() - before > 60
assert machine.peak_rss_mib() - before > 60
assert machine.peak_rss_mib() <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 + 1
if machine.reset_peak_rss():
    assert machine.peak_rss_mib() - before < 30
"""


def test_memory_is_seen_to_come_and_go():
    """In a process of its own, where no other library changes when memory is given back."""
    done = subprocess.run([sys.executable, "-c", MEMORY_PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("files", "cores", "mib"),
    [
        ({"cpu.max": "150000 100000\n", "memory.max": "1073741824\n"}, 1.5, 1024),
        ({"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        (
            {
                "cpu/cpu.cfs_quota_us": "400000\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "memory/memory.limit_in_bytes": "536870912\n",
            },
            4.0,
            512,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"}, None, None),
        ({}, None, None),
    ],
)
def test_limits_of_a_container_are_read(tmp_path, files, cores, mib):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.cgroup_cores(tmp_path) == cores
    assert machine.cgroup_memory_mib(tmp_path) == mib


def test_machine_facts_agree_with_the_system():
    facts = json.loads(json.dumps(machine.machine_facts()))
    assert facts["cores"] == os.cpu_count()
    assert 0 < facts["cores_usable"] <= len(os.sched_getaffinity(0))
    assert 0 < facts["ram_mib"] <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    assert facts["packages"]["numpy"] == np.__version__


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Every run takes 0.25 s, says the clock; it can be told to be interrupted at its n-th reading."""

    class Clock:
        readings = 0
        peaks_measured = 0
        interrupted_at = None

        def __call__(self, call):
            call()
            self.readings += 1
            if self.readings == self.interrupted_at:
                raise KeyboardInterrupt
            return 0.25

        def measure_peak(self, backend, precision):
            self.peaks_measured += 1
            return peak.Peak(backend, precision, side=12, chain=3, gflops=0.001)

    fake = Clock()
    monkeypatch.setattr(measure, "seconds_of", fake)
    monkeypatch.setattr(measure, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(measure, "measure_peak", fake.measure_peak)
    return fake


def test_figures_follow_from_the_times(blur_x2, tmp_path, clock, capsys):
    pytest.importorskip("onnxruntime")
    target = tmp_path / "figures.json"
    arguments = [
        "-m",
        str(blur_x2),
        "-b",
        "ort",
        "--shapes",
        "20x10",
        "8x8",
        "--batch",
        "1",
        "2",
        "--json",
        str(target),
    ]
    assert bench.main(arguments) == 0
    report = json.loads(target.read_text())
    assert report["complete"] is True
    assert clock.peaks_measured == 1
    assert report["command"] == " ".join(["esrgan-bench", *arguments])
    assert report["peaks"] == [{"backend": "ort", "precision": "fp32", "side": 12, "chain": 3, "gflops": 0.001}]
    lines = [(r["width"], r["height"], r["batch"]) for r in report["results"]]
    assert lines == [(20, 10, 1), (20, 10, 2), (8, 8, 1), (8, 8, 2)]
    second = report["results"][1]
    assert (second["model"], second["backend"], second["precision"]) == (blur_x2.name, "ort", "fp32")
    assert second["runs"] == measure.LEAST_RUNS
    assert second["latency_ms"] == {"p50": 250.0, "p90": 250.0, "p99": 250.0}
    assert second["fps"] == pytest.approx(2 / 0.25)
    assert second["flops_per_frame"] == 200 * 162
    assert second["gflops"] == pytest.approx(8 * 200 * 162 / 1e9)
    assert second["share_of_peak"] == pytest.approx(8 * 200 * 162 / 1e9 / 0.001)
    assert 0 < second["rss_mib"]["now"] <= second["rss_mib"]["peak"]
    row = capsys.readouterr().out.splitlines()[2].split()
    assert row[:7] == [blur_x2.name, "ort", "fp32", "20x10", "2", "5", "250.0"]
    assert row[9:12] == ["8.000", "0.0", "25.9%"]


def test_padding_to_a_multiple_is_counted_because_it_is_computed(unshuffle_x2):
    (case,) = measure.plan_cases([unshuffle_x2], ["ort"], [(7, 5)], [1])
    assert case.flops == 2 * (8 // 2) * (6 // 2) * 12 * 48


def test_the_reference_backend_claims_no_arithmetic(blur_x2, tmp_path, clock):
    target = tmp_path / "figures.json"
    assert bench.main(["-m", str(blur_x2), "-b", "reference", "--shapes", "8x8", "--json", str(target)]) == 0
    (result,) = json.loads(target.read_text())["results"]
    assert (result["flops_per_frame"], result["gflops"], result["share_of_peak"]) == (None, None, None)


@pytest.mark.parametrize(("at", "runs"), [(5 + 3, [5, 2]), (5 + 1, [5]), (3, [2])])
def test_an_interrupted_benchmark_keeps_what_was_measured(blur_x2, tmp_path, clock, at, runs):
    clock.interrupted_at = at
    target = tmp_path / "figures.json"
    arguments = ["-m", str(blur_x2), "-b", "reference", "--shapes", "8x8", "9x9", "--json", str(target)]
    assert bench.main(arguments) == 130
    report = json.loads(target.read_text())
    assert report["complete"] is False
    assert [result["runs"] for result in report["results"]] == runs


def test_a_failure_keeps_what_was_measured_before(blur_x2, tmp_path, clock, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    target = tmp_path / "figures.json"
    bf16 = write_bf16(tmp_path / "bf16.onnx")
    arguments = ["-m", str(blur_x2), str(bf16), "-b", "ort", "--shapes", "8x8", "--json", str(target)]
    assert bench.main(arguments) == 2
    report = json.loads(target.read_text())
    assert report["complete"] is False
    assert [result["model"] for result in report["results"]] == [blur_x2.name]
    assert "bf16.onnx" in capsys.readouterr().err


def write_bf16(path):
    node = helper.make_node("Identity", ["input"], ["output"])
    info = ModelInfo(scale=1, precision="bf16")
    return write_onnx(path, [node], {}, info, element=TensorProto.BFLOAT16)


@pytest.mark.parametrize("at", [None, 1])
def test_a_benchmark_without_a_result_leaves_an_older_file_alone(blur_x2, tmp_path, clock, at):
    clock.interrupted_at = at
    target = tmp_path / "figures.json"
    target.write_text("older")
    model = blur_x2 if at else tmp_path / "missing.onnx"
    assert bench.main(["-m", str(model), "-b", "reference", "--shapes", "8x8", "--json", str(target)]) != 0
    assert target.read_text() == "older"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-m", "missing.onnx"], 2, "missing.onnx"),
        (["-m", "MODEL", "-b", "cpu"], 2, "'cpu'"),
        (["-m", "MODEL", "--shapes", "12by3"], 2, "'12by3' is not WIDTHxHEIGHT"),
        (["-m", "MODEL", "--shapes", "0x3"], 2, "'0x3'"),
        (["-m", "MODEL", "--batch", "0"], 2, "'0' is not a number of frames"),
        (["-m", "MODEL", "--json", "FOLDER"], 2, "is a folder"),
        (["-m", "MODEL", "--json", "FOLDER/none/f.json"], 2, "does not exist"),
        (["-m", "TEXT"], 2, "is not an ONNX file"),
    ],
)
def test_bad_input_is_answered_in_one_line_before_anything_runs(blur_x2, tmp_path, capsys, arguments, code, said):
    text = tmp_path / "text.onnx"
    text.write_text("hello")
    filled = [
        a.replace("MODEL", str(blur_x2)).replace("FOLDER", str(tmp_path)).replace("TEXT", str(text)) for a in arguments
    ]
    try:
        found = bench.main(filled)
    except SystemExit as stop:  # argparse's own way out
        found = stop.code
    captured = capsys.readouterr()
    assert found == code
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_the_help_states_the_least_that_is_run():
    assert f"at least {measure.LEAST_RUNS} and at least {measure.LEAST_SECONDS:.0f} seconds" in bench.EPILOG
