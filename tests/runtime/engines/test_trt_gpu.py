"""A real TensorRT on a real GPU, on the network that ships, against the same graph on the CPU.

Where there is a GPU, everything but a TensorRT that is not installed is a failure: a builder that cannot be made, too.
"""

import logging
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from esrgan_deploy.alpha import TYPES, Endpoints, endpoints_path, model_at_alpha, write_endpoints
from esrgan_deploy.backends.trt import TensorRTSession
from esrgan_deploy.cuda.driver import open_driver
from esrgan_deploy.engine.adapter import load_tensorrt
from esrgan_deploy.engine.options import EngineOptions, Profile, Shape
from esrgan_deploy.engine.store.cache import EngineCache
from esrgan_deploy.frame_io import attach_frame_io
from esrgan_deploy.model import load_onnx
from esrgan_deploy.models import COMPACT_CLEAN

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (find_spec("tensorrt") or find_spec("tensorrt_rtx")), reason="TensorRT is not installed for this Python"
    ),
]
RTX_COMPUTE_CAPABILITIES = {(7, 5), (8, 6), (8, 9), (12, 0), (12, 1)}
HEIGHT, WIDTH = 24, 40


@pytest.fixture(scope="module", autouse=True)
def builder():
    """Made before anything else: that it cannot be made is a failure of its own."""
    driver = open_driver()
    try:
        trt = load_tensorrt()
        if trt.portable and driver.facts.compute_capability not in RTX_COMPUTE_CAPABILITIES:
            pytest.skip(f"{trt} does not run on {driver.facts.name}, only full TensorRT does")
        with driver.active():
            assert trt.create_builder() is not None
    finally:
        driver.close()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One for all tests, so that each engine is built once."""
    return EngineCache(tmp_path_factory.mktemp("engines"))


def open_network(model):
    """The graph with frames on the CPU: onnxruntime, or onnx's own evaluator where that is missing."""
    if find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return lambda frames: session.run(["frames_out"], {"frames_in": frames})[0]
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(model)
    return lambda frames: evaluator.run(["frames_out"], {"frames_in": frames})[0]


def on_cpu(frames, model=None):
    """What the float32 network makes of (N, H, W, 3) frames, one by one."""
    run = open_network(attach_frame_io(model or load_onnx(COMPACT_CLEAN)[0], frames.dtype.name))
    return np.concatenate([run(frame[None]) for frame in frames])


def quality(one, other):
    """In dB, over all samples, relative to the largest value of the type."""
    difference = one.astype(np.float64) - other
    return 10 * np.log10(np.iinfo(one.dtype).max ** 2 / max(1e-12, (difference**2).mean()))


def smooth_frames(rng, count, dtype=np.uint8, height=HEIGHT, width=WIDTH):
    """Waves with some noise: what a network was not trained on says little about its precision."""
    y, x, z = np.meshgrid(np.arange(height), np.arange(width), np.arange(3 * count), indexing="ij")
    waves = np.sin(y * 0.31 + z) + np.cos(x * 0.23 - z) + 0.1 * rng.standard_normal(y.shape)
    scaled = np.rint((waves - waves.min()) / np.ptp(waves) * np.iinfo(dtype).max).astype(dtype)
    return np.ascontiguousarray(scaled.reshape(height, width, count, 3).transpose(2, 0, 1, 3))


@pytest.fixture(scope="module")
def fp16_model(tmp_path_factory):
    """The network that ships with its weights, constants and endpoints in float16."""
    model = onnx.load(COMPACT_CLEAN)
    graph = model.graph
    scales = {node.input[2] for node in graph.node if node.op_type == "Resize"}
    constants = [
        (node.output[0], node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    ]
    for name, tensor in [*((tensor.name, tensor) for tensor in graph.initializer), *constants]:
        if tensor.data_type == TensorProto.FLOAT and name not in scales:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    del graph.value_info[:]
    for value in (graph.input[0], graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    next(entry for entry in model.metadata_props if entry.key == "esrgan.precision").value = "fp16"
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path_factory.mktemp("models") / "fp16.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_float32_is_exact_but_for_rounding(cache, rng, dtype):
    frames = smooth_frames(rng, 2, dtype)
    with TensorRTSession(COMPACT_CLEAN, cache=cache) as session:
        result = session.run(frames)
    assert result.dtype == dtype
    assert quality(result, on_cpu(frames)) >= (60 if dtype == np.uint8 else 80)


def test_float16_is_close(cache, fp16_model, rng):
    frames = smooth_frames(rng, 2)
    with TensorRTSession(fp16_model, cache=cache) as session:
        assert session.precision == "fp16"
        result = session.run(frames)
    assert quality(result, on_cpu(frames)) >= 50


@pytest.mark.parametrize("streams", [1, 2])
def test_batches_in_flight_do_not_mix(cache, rng, streams, caplog):
    """Longer batches, short ones, and what they hold in the right order; the same twice, bit for bit."""
    caplog.set_level(logging.INFO, "esrgan_deploy")
    frames = smooth_frames(rng, 12)
    parts = np.split(frames, [2, 4, 5, 10])
    with TensorRTSession(COMPACT_CLEAN, cache=cache, batch=2, streams=streams) as session:
        futures = [session.submit(part) for part in parts * 4]
        results = [future.result() for future in futures]
        again = np.concatenate([session.run(frame[None]) for frame in frames])
    for part, result in zip(parts * 4, results, strict=True):
        start = next(index for index in range(12) if np.array_equal(frames[index], part[0]))
        np.testing.assert_array_equal(result, again[start : start + len(part)])
    assert quality(again, on_cpu(frames)) >= 60
    assert "no CUDA graphs" not in caplog.text


def test_a_dynamic_engine_takes_its_shapes_in_turn(cache, rng):
    driver = open_driver()
    with driver.active():
        profile = Profile(Shape(1, 16, 16), Shape(2, HEIGHT, WIDTH), Shape(2, 48, 64))
        free, _ = driver.memory()
        engine = cache.get(
            load_tensorrt(),
            driver.facts,
            COMPACT_CLEAN,
            EngineOptions(profile),
            free_memory=free,
            progress=lambda phase, done, total: None,
        )
    driver.close()
    with TensorRTSession(engine.path, batch=2) as session:
        for height, width in ((16, 16), (48, 64), (24, 40), (16, 16)):
            frames = smooth_frames(rng, 2, height=height, width=width)
            for _ in range(6):  # the first by itself, the others as graphs
                result = session.run(frames)
            assert quality(result, on_cpu(frames)) >= 60


class Raw:
    """Memory of this project's driver, in the shape of other libraries' arrays."""

    def __init__(self, driver, array):
        self.driver, self.nbytes = driver, array.nbytes
        self.address = driver.allocate(array.nbytes)
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.address, False),
            "strides": None,
        }


def through_raw(session, frames, expected_shape):
    driver = session._driver
    with driver.active():
        stream, source = driver.create_stream(), Raw(driver, frames)
        pinned = driver.allocate_pinned(16 * frames.nbytes)
        host = np.asarray(Pinned(pinned, 16 * frames.nbytes))
        host[: frames.nbytes] = frames.reshape(-1).view(np.uint8)
        driver.copy_in(source.address, pinned, frames.nbytes, stream)
        result = session.run_device(source, stream=stream)
        result.check()
        driver.copy_out(pinned, result.address, 16 * frames.nbytes, stream)
        driver.synchronize_stream(stream)
        values = host.copy().view(frames.dtype).reshape(expected_shape)
        driver.free_pinned(pinned)
        driver.free(source.address)
        driver.destroy_stream(stream)
    return values


class Pinned:
    def __init__(self, address, nbytes):
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (nbytes,), "data": (address, False)}


def through_torch(session, frames, expected_shape):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        result = session.run_device(torch.from_numpy(frames).cuda(), stream=stream)
        taken = torch.from_dlpack(result)
        assert taken.data_ptr() == result.address
        assert tuple(taken.shape) == expected_shape
        values = taken.cpu().numpy()
    on_default = torch.from_dlpack(session.run_device(torch.from_numpy(frames).cuda())).cpu().numpy()
    np.testing.assert_array_equal(on_default, values)
    return values


def through_cupy(session, frames, expected_shape):
    cupy = pytest.importorskip("cupy")
    with cupy.cuda.Stream(non_blocking=True) as stream:
        target = cupy.empty(expected_shape, frames.dtype)
        result = session.run_device(cupy.asarray(frames), target, stream=stream)
        assert cupy.asarray(result).data.ptr == target.data.ptr
        return cupy.asnumpy(target)


def through_pycuda(session, frames, expected_shape):
    pytest.importorskip("pycuda")
    import pycuda.autoprimaryctx  # noqa: F401  # makes the primary context current
    from pycuda import driver, gpuarray

    stream = driver.Stream()
    target = gpuarray.empty(expected_shape, frames.dtype)
    session.run_device(gpuarray.to_gpu(frames), target, stream=stream)
    stream.synchronize()
    return target.get()


@pytest.mark.filterwarnings("default")  # what the libraries warn of is theirs
@pytest.mark.parametrize("through", [through_raw, through_torch, through_cupy, through_pycuda])
def test_frames_of_other_libraries_stay_on_the_gpu(cache, rng, through):
    frames = smooth_frames(rng, 2)
    with TensorRTSession(COMPACT_CLEAN, cache=cache) as session:
        on_host = session.run(frames)
        np.testing.assert_array_equal(through(session, frames, on_host.shape), on_host)


@pytest.mark.filterwarnings("default")
def test_frames_in_a_context_that_the_program_made(cache, rng):
    """As `pycuda.autoinit` makes one: memory of another context would be no memory at all."""
    pytest.importorskip("pycuda")
    from pycuda import driver, gpuarray

    frames = smooth_frames(rng, 2)
    driver.init()
    context = driver.Device(0).make_context()
    try:
        with TensorRTSession(COMPACT_CLEAN, cache=cache) as session:
            stream = driver.Stream()
            height, width = (size * session.info.scale for size in frames.shape[1:3])
            target = gpuarray.empty((2, height, width, 3), frames.dtype)
            session.run_device(gpuarray.to_gpu(frames), target, stream=stream)
            stream.synchronize()
            result = target.get()
            assert driver.Context.get_current() == context
            del target, stream
    finally:
        context.pop()
    assert quality(result, on_cpu(frames)) >= 60


def constants_of(model):
    """The floating-point constants, by the names that nodes read them by."""
    tensors = {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    return {name: tensor for name, tensor in tensors.items() if tensor.data_type in floats}


def write_pair(path, source):
    """A copy of a model with endpoints beside it: its own weights at alpha 1, all a tenth smaller at alpha 0."""
    model, info = load_onnx(source)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    constants = constants_of(model)
    types = {name: TYPES[tensor.data_type] for name, tensor in {**tensors, **constants}.items()}
    gan, same = (
        {name: numpy_helper.to_array(tensor).astype(np.float32) for name, tensor in part.items()}
        for part in (tensors, constants)
    )
    psnr = {name: values * np.float32(0.9) for name, values in gan.items()}
    endpoints = Endpoints(psnr, gan, types, info.psnr_sha256, info.gan_sha256, info.arch, same)
    path.write_bytes(source.read_bytes())
    write_endpoints(endpoints_path(path), endpoints)
    return endpoints


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_alpha_in_place_is_the_model_at_that_alpha(cache, fp16_model, tmp_path, rng, precision):
    path = tmp_path / "pair.onnx"
    endpoints = write_pair(path, COMPACT_CLEAN if precision == "fp32" else fp16_model)
    frames = smooth_frames(rng, 2)
    with TensorRTSession(path, cache=cache, refit=True) as session:
        for alpha in (1.0, 0.35, 0.0):
            session.set_alpha(alpha)
            expected = on_cpu(frames, model_at_alpha(load_onnx(COMPACT_CLEAN)[0], endpoints, alpha))
            for _ in range(5):  # the later ones as graphs
                assert quality(session.run(frames), expected) >= (60 if precision == "fp32" else 50)
