"""What a network moves, and what the machine's counters tell: bytes of a graph, RAPL, NVML, bandwidth."""

import ctypes
import sys

import numpy as np
import onnx
import pynvml
import pytest
from onnx import TensorProto, helper, numpy_helper

from esrgan_bench import bandwidth, energy, nvml
from esrgan_bench.traffic import Traffic, count_traffic
from esrgan_deploy.model import load_onnx

# --- bytes of a graph -----------------------------------------------------------------------------------------------


def graph(nodes, constants):
    initialisers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "H", "W"]) for name in ("input", "output")]
    made = helper.make_graph(nodes, "test", ends[:1], ends[1:], initialisers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_every_node_reads_and_writes_for_itself(blur_x2):
    """By hand: the convolution 3 + 3 values per pixel and 81 weights, the resizing 3 + 4 * 3."""
    model, _ = load_onnx(blur_x2)
    assert count_traffic(model, 4, 5) == Traffic(floats=20 * (3 + 3 + 3 + 12) + 81, quantised=0)


def test_a_new_shape_of_the_same_values_moves_nothing():
    nodes = [
        helper.make_node("Reshape", ["input", "flat"], ["pixels"]),
        helper.make_node("Reshape", ["pixels", "image"], ["again"]),
        helper.make_node("Relu", ["again"], ["output"]),
    ]
    model = graph(nodes, {"flat": np.array([1, 3, -1]), "image": np.array([1, 3, 4, 5])})
    assert count_traffic(model, 4, 5) == Traffic(floats=2 * 3 * 20, quantised=0)


STEP = {"step": np.float32(0.1), "zero": np.int8(0)}


def quantised(source, result):
    return [
        helper.make_node("QuantizeLinear", [source, "step", "zero"], [f"{source}_bytes"]),
        helper.make_node("DequantizeLinear", [f"{source}_bytes", "step", "zero"], [result]),
    ]


def test_between_q_and_dq_a_value_is_one_byte():
    """Conv, Q/DQ, Conv: the first writes bytes and the second reads them, with one-byte weights in both."""
    weights = {"w_bytes": np.ones((3, 3, 1, 1), np.int8), **STEP}
    nodes = [
        helper.make_node("DequantizeLinear", ["w_bytes", "step", "zero"], ["w"]),
        helper.make_node("Conv", ["input", "w"], ["between"]),
        *quantised("between", "factor"),
        helper.make_node("Conv", ["factor", "w"], ["output"]),
    ]
    assert count_traffic(graph(nodes, weights), 4, 5) == Traffic(floats=60 + 60, quantised=9 + 60 + 60 + 9)


def test_a_float_that_something_else_wants_too_is_written_and_quantised():
    """The residual path: the float is written (60), read by Q (60) and by Add (60), beside bytes written and read."""
    nodes = [
        helper.make_node("Relu", ["input"], ["trunk"]),
        *quantised("trunk", "factor"),
        helper.make_node("Relu", ["factor"], ["branch"]),
        helper.make_node("Add", ["trunk", "branch"], ["output"]),
    ]
    expected = Traffic(floats=(60 + 60) + 60 + 60 + (60 + 60 + 60), quantised=60 + 60)
    assert count_traffic(graph(nodes, STEP), 4, 5) == expected


def test_floats_take_what_the_session_computes_in():
    traffic = Traffic(floats=100, quantised=7)
    assert {p: traffic.bytes_in(p) for p in ("fp32", "fp16", "bf16", "int8")} == {
        **{"fp32": 407, "fp16": 207, "bf16": 207, "int8": 407}
    }


def test_operators_outside_the_standard_leave_the_bytes_unknown(blur_x2):
    model, _ = load_onnx(blur_x2)
    model.graph.node[0].domain = "com.example"
    assert count_traffic(model, 8, 8) is None


def test_counting_leaves_the_model_as_it_was(blur_x2):
    model, _ = load_onnx(blur_x2)
    before = onnx.ModelProto()
    before.CopyFrom(model)
    count_traffic(model, 8, 8)
    assert model == before


# --- RAPL -----------------------------------------------------------------------------------------------------------


def domain(folder, name, microjoules, largest=1000):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{largest}\n")


def test_packages_and_their_memory_add_up_and_parts_do_not_count_twice(tmp_path):
    names = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram", "intel-rapl:1": "psys"}
    for folder, name in names.items():
        domain(tmp_path / folder, name, 100)
    domain(tmp_path / "intel-rapl-mmio:0", "package-0", 100)  # the same counter once more
    meter = energy.open_meter("openvino", tmp_path)
    assert meter.joules() == 0
    for folder, microjoules in zip(names, (150, 10_000, 107, 20_000), strict=True):
        (tmp_path / folder / "energy_uj").write_text(str(microjoules))
    assert meter.joules() == pytest.approx((50 + 7) * 1e-6)
    assert "dram and package" in meter.about


def test_a_counter_that_begins_again_is_followed(tmp_path):
    domain(tmp_path / "intel-rapl:0", "package-0", 990, largest=999)
    meter = energy.open_meter("ort", tmp_path)
    readings = []
    for microjoules in (995, 4, 500, 499):
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text(str(microjoules))
        readings.append(round(meter.joules() * 1e6))
    assert readings == [5, 14, 510, 1509]


def test_without_counters_the_reason_is_told(tmp_path):
    absent = energy.open_meter("openvino", tmp_path)
    assert absent.joules is None
    assert "no RAPL" in absent.about
    domain(tmp_path / "intel-rapl:0", "package-0", 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    (tmp_path / "intel-rapl:0" / "energy_uj").mkdir()  # not even root may read it
    locked = energy.open_meter("openvino", tmp_path)
    assert locked.joules is None
    assert "energy_uj cannot be read" in locked.about


# --- NVML -----------------------------------------------------------------------------------------------------------


class FakeDriver:
    """Both libraries of a machine whose second GPU by NVML is CUDA's first; functions fill in pointers, like in C."""

    energy_mj = 1_500
    gpus = (pynvml.struct_c_nvmlDevice_t(), pynvml.struct_c_nvmlDevice_t())

    def cuInit(self, flags):  # noqa: N802
        return 0

    def cuDeviceGet(self, device, ordinal):  # noqa: N802
        device._obj.value = 7
        return 0

    def cuDeviceGetPCIBusId(self, address, size, device):  # noqa: N802
        address.value = b"0000:0A:00.0" if device.value == 7 else b""
        return 0

    def nvmlInitWithFlags(self, flags):  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByPciBusId_v2(self, address, handle):  # noqa: N802
        handle._obj.contents = self.gpus[address.value == b"0000:0A:00.0"]
        return 0

    def nvmlDeviceGetName(self, handle, name, size):  # noqa: N802
        name.value = b"Card" if ctypes.addressof(handle.contents) == ctypes.addressof(self.gpus[1]) else b"wrong"
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, value):  # noqa: N802
        assert isinstance(value._obj, ctypes.c_uint64)  # nvml.h: unsigned long long *energy, in mJ
        value._obj.value = self.energy_mj
        return 0

    def nvmlDeviceGetEnforcedPowerLimit(self, handle, value):  # noqa: N802
        value._obj.value = 350_000
        return 0

    def nvmlDeviceGetClockInfo(self, handle, kind, value):  # noqa: N802
        value._obj.value = {1: 1410}[kind.value]  # NVML_CLOCK_SM
        return 0

    def nvmlDeviceGetMaxClockInfo(self, handle, kind, value):  # noqa: N802
        return 3  # NVML_ERROR_NOT_SUPPORTED


@pytest.fixture
def driver(monkeypatch):
    fake = FakeDriver()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: fake)
    monkeypatch.setattr(pynvml, "nvmlLib", fake)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    nvml._gpu.cache_clear()
    yield fake
    nvml._gpu.cache_clear()


def test_the_gpu_that_cuda_computes_on_is_asked(driver):
    assert nvml.gpu_facts() == {"name": "Card", "clock_mhz": {"now": 1410, "max": None}, "power_limit_w": 350.0}


def test_sessions_on_a_gpu_are_metered_by_it(driver, tmp_path):
    meter = energy.open_meter("tensorrt", tmp_path)
    before = meter.joules()
    driver.energy_mj += 250
    assert meter.joules() - before == pytest.approx(0.25)
    assert "GPU" in meter.about


def test_without_a_driver_there_is_no_gpu_to_tell_of(monkeypatch, tmp_path):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    nvml._gpu.cache_clear()
    assert nvml.gpu_facts() is None
    assert energy.open_meter("ort-cuda", tmp_path).joules is None
    nvml._gpu.cache_clear()


# --- main memory ----------------------------------------------------------------------------------------------------


def test_bandwidth_counts_what_is_read_and_what_is_written(monkeypatch):
    """4 MiB by each of two cores, out and in; the clock gives the fastest of the copies 1 ms."""
    monkeypatch.setattr(bandwidth, "LEAST_BYTES", 8 << 20)
    monkeypatch.setattr(bandwidth, "largest_cache_bytes", lambda: 0)
    monkeypatch.setattr(bandwidth, "usable_cores", lambda: 2)
    times = iter([0, 0.5, 1, 1.003, 2, 2.001, 3, 3.002, 4, 4.004, 5, 5.1])
    monkeypatch.setattr(bandwidth, "perf_counter", lambda: next(times))
    assert bandwidth.copy_bandwidth_gb_s() == pytest.approx(2 * (8 << 20) / 0.001 / 1e9, rel=1e-6)


def test_without_nvidia_ml_py_the_remedy_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(energy, "find_spec", lambda _: None)
    nvml._gpu.cache_clear()
    assert nvml.gpu_facts() is None
    meter = energy.open_meter("tensorrt", tmp_path)
    assert meter.joules is None
    assert "pip install 'esrgan-deploy[bench]'" in meter.about
