"""From a plan to results: runtime, engine, execution contexts, refitter, weights."""

from __future__ import annotations

import weakref

import numpy as np

from esrgan_deploy.errors import MachineError
from fake_tensorrt import data
from fake_tensorrt.base import setting
from fake_tensorrt.builder import read_plan, write_plan
from fake_tensorrt.config import host_memory, machine
from fake_tensorrt.data import Dims
from fake_tensorrt.refitter import Refitter, Weights


class Runtime:
    def __init__(self, logger):
        self._process.adopt(logger)
        self._process.require_device()
        self._logger = logger

    @property
    def logger(self):
        return self._logger

    max_threads = setting("max_threads", 1)

    def deserialize_cuda_engine(self, serialized_engine):
        process = self._process
        process.check_alive()
        if isinstance(serialized_engine, str):
            raise TypeError("deserialize_cuda_engine(): incompatible function arguments")
        try:
            header, model = read_plan(bytes(memoryview(serialized_engine)))
        except ValueError:
            return process.crash("bytes that are not a whole plan were deserialised")
        here = machine(process)
        if header["version"] != here["version"]:
            text = f"expecting library version {here['version']} got {header['version']}, please rebuild."
            process.error(f"The engine plan file is not compatible with this version of TensorRT, {text}")
            return None
        if header["compute_capability"] != here["compute_capability"]:
            need, have = (".".join(map(str, place["compute_capability"])) for place in (header, here))
            text = f"generated on an incompatible device, expecting compute {have} got compute {need}, please rebuild."
            process.error(f"The engine plan file is {text}")
            return None
        try:
            return process.new("ICudaEngine", header, model)
        except MachineError as error:
            process.error(f"IRuntime::deserializeCudaEngine: Error Code 2: OutOfMemory ({error})")
            return None


class ICudaEngine:
    def _setup(self, header, model):
        self._header = header
        self._model = model
        self._session = None
        self._contexts = weakref.WeakSet()
        self._inputs = {value.name: value for value in data.inputs(model)}
        self._outputs = {value.name: value for value in model.graph.output}
        self._sizes_cache = {}
        size = max(1, sum(len(data.raw_bytes(tensor)) for tensor in data.weights(model).values()))
        self._memory = (self._process.driver.reserve(size, "engine"), size)

    def __del__(self):
        if hasattr(self, "_memory"):
            self._process.driver.release(self._memory[0])

    num_io_tensors = property(lambda self: len(self._inputs) + len(self._outputs))
    num_layers = property(lambda self: len(self._model.graph.node))
    num_optimization_profiles = property(lambda self: len(self._header["profiles"]))
    num_aux_streams = property(lambda self: 0)
    refittable = property(lambda self: self._header["refit"])
    device_memory_size = property(lambda self: max(self._header["activations"]))
    device_memory_size_v2 = property(lambda self: max(self._header["activations"]))
    name = property(lambda self: "Unnamed Network 0")

    def get_device_memory_size_for_profile(self, profile_index):
        return self._header["activations"][profile_index]

    def get_device_memory_size_for_profile_v2(self, profile_index):
        return self._header["activations"][profile_index]

    def get_tensor_name(self, index):
        names = [*self._inputs, *self._outputs]
        return names[index] if 0 <= index < len(names) else None

    def get_tensor_mode(self, name):
        modes = self._process.enums.TensorIOMode
        return modes.INPUT if name in self._inputs else modes.OUTPUT if name in self._outputs else modes.NONE

    def get_tensor_dtype(self, name):
        return getattr(self._process.enums.DataType, self._type(name))

    def get_tensor_location(self, name):
        return self._process.enums.TensorLocation.DEVICE

    def get_tensor_shape(self, name):
        if name in self._inputs:
            return Dims(data.shape_of(self._inputs[name]))
        profile = self._header["profiles"][0]
        ends = [self._sizes({key: tuple(shapes[end]) for key, shapes in profile.items()})[name] for end in (0, 2)]
        return Dims(low if low == high else -1 for low, high in zip(*ends, strict=True))

    def get_tensor_profile_shape(self, name, profile_index):
        return [Dims(shape) for shape in self._header["profiles"][profile_index][name]]

    def create_execution_context(self, strategy=None):
        self._process.check_alive()
        own = strategy is None or strategy.name != "USER_MANAGED"
        return self._new_context(own)

    def create_execution_context_without_device_memory(self):
        return self._new_context(own=False)

    def serialize(self):
        return host_memory(write_plan(self._header, self._model))

    def _context_bytes(self):
        """What a context really allocates: never nothing."""
        return max(1, *self._header["activations"])

    def _new_context(self, own):
        try:
            context = self._process.new("IExecutionContext", self, own)
        except MachineError as error:
            self._process.error(f"ICudaEngine::createExecutionContext: Error Code 2: OutOfMemory ({error})")
            return None
        self._contexts.add(context)
        return context

    def _type(self, name):
        value = self._inputs.get(name) or self._outputs[name]
        return data.NAMES[value.type.tensor_type.elem_type]

    def _sizes(self, shapes):
        """Shapes of all inputs and outputs for these of the inputs."""
        key = tuple(sorted(shapes.items()))
        if key not in self._sizes_cache:
            inferred = data.infer(self._model, shapes)
            self._sizes_cache[key] = {name: tuple(inferred[name][1]) for name in (*self._inputs, *self._outputs)}
        return self._sizes_cache[key]

    def _loaded(self):
        """The onnxruntime session of the weights as they are now."""
        if self._session is None:
            self._session = data.open_session(self._model)
        return self._session


class IExecutionContext:
    def _setup(self, engine, own):
        self._engine = engine
        self._token = object()
        """Stands for the context's own state, which one execution at a time may use."""
        self._addresses = {}
        self._settled_shapes = None
        """Shapes of the last execution: the first one after a change cannot be captured."""
        self._memory = None
        self._owned = None
        if own:
            self._owned = self._process.driver.reserve(engine._context_bytes(), "context")
            self._memory = (self._owned, engine._context_bytes())
        static = all(-1 not in data.shape_of(value) for value in engine._inputs.values())
        self._static = static
        self._profile = 0 if self._may_use_profile(0) else -1
        self._shapes = {name: tuple(data.shape_of(value)) for name, value in engine._inputs.items()} if static else {}

    def __del__(self):
        if getattr(self, "_owned", None):
            self._process.driver.release(self._owned)

    engine = property(lambda self: self._engine)
    active_optimization_profile = property(lambda self: self._profile)
    name = setting("name", "")
    persistent_cache_limit = setting("persistent_cache_limit", 0)
    enqueue_emits_profile = setting("enqueue_emits_profile", True)
    nvtx_verbosity = setting("nvtx_verbosity")

    def set_optimization_profile_async(self, profile_index, stream_handle):
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            self._process.error(f"IExecutionContext::setOptimizationProfileAsync: no profile {profile_index}")
            raise RuntimeError("Error in set optimization profile async.")
        if not self._may_use_profile(profile_index):
            text = f"Profile {profile_index} has been chosen by another IExecutionContext."
            self._process.error(f"IExecutionContext::setOptimizationProfileAsync: Error Code 3 ({text})")
            raise RuntimeError("Error in set optimization profile async.")  # where C++ returns false
        if profile_index != self._profile:
            self._profile = profile_index
            self._shapes = {} if not self._static else self._shapes
        return True

    def set_input_shape(self, name, shape):
        if not isinstance(shape, tuple | list | Dims):
            raise TypeError("set_input_shape(): incompatible function arguments")
        if name not in self._engine._inputs or self._profile < 0:
            self._process.error(f"IExecutionContext::setInputShape: {name} is no input, or no profile was chosen")
            return False
        low, _, high = self._engine._header["profiles"][self._profile][name]
        shape = tuple(shape)
        inside = len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if not inside:
            text = f"Supplied shape {shape} for {name} does not satisfy any profile from {low} to {high}"
            self._process.error(f"IExecutionContext::setInputShape: Error Code 3: API Usage Error ({text})")
            return False
        self._shapes[name] = shape
        return True

    def get_tensor_shape(self, name):
        if name in self._shapes:
            return Dims(self._shapes[name])
        if len(self._shapes) < len(self._engine._inputs):
            return self._engine.get_tensor_shape(name)
        return Dims(self._engine._sizes(self._shapes)[name])

    def infer_shapes(self):
        return [name for name in self._engine._inputs if name not in self._shapes]

    def set_tensor_address(self, name, memory):
        if name not in self._engine._inputs and name not in self._engine._outputs:
            self._process.error(f"IExecutionContext::setTensorAddress: {name} is no tensor of the engine")
            return False
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name):
        return self._addresses.get(name, 0)

    def get_max_output_size(self, name):
        return data.nbytes(self._engine._type(name), self._engine._sizes(self._largest())[name])

    def set_device_memory(self, memory, size):
        self._memory = (int(memory), int(size))

    def update_device_memory_size_for_shapes(self):
        return data.activation_bytes(self._engine._model, self._shapes)

    def set_aux_streams(self, aux_streams):
        pass

    def _set_device_memory_property(self, memory):
        self._memory = (int(memory), self._engine._context_bytes())

    device_memory = property(lambda self: self._memory, _set_device_memory_property)

    def execute_async_v3(self, stream_handle):
        process, engine = self._process, self._engine
        process.check_alive()
        problem = self._find_problem()
        if problem:
            process.error(f"IExecutionContext::enqueueV3: Error Code 3: API Usage Error ({problem})")
            return False
        if process.driver.is_capturing(stream_handle) and self._settled_shapes != self._shapes:
            what = "the first execution after a change of shapes"
            process.error(f"IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime ({what} cannot be captured)")
            process.driver.fail_capture(stream_handle, what)
            return False
        self._settled_shapes = dict(self._shapes)
        sizes = engine._sizes(self._shapes)
        ranges = {name: (self._addresses[name], data.nbytes(engine._type(name), sizes[name])) for name in sizes}
        reads = [ranges[name] for name in engine._inputs]
        writes = [ranges[name] for name in engine._outputs]
        run = self._closure(ranges)
        process.driver.enqueue(
            stream_handle, "execution", run, [*reads, engine._memory], [*writes, self._memory, self._token]
        )
        return True

    def _closure(self, ranges):
        """The execution with weights, addresses and shapes as they are now.

        It keeps neither context nor engine alive: whoever drops them while it waits, or replays it from a graph,
        finds their memory gone.
        """
        engine, driver, memory, weights = self._engine, self._process.driver, self._memory, self._engine._memory
        session, shapes, outputs = engine._loaded(), dict(self._shapes), list(engine._outputs)
        types = {name: np.dtype(data.nptype(engine._type(name))) for name in ranges}

        def run():
            driver.device_view(*weights)
            driver.device_view(*memory)[:] = 0xEE
            fed = {
                name: driver.device_view(*ranges[name]).copy().view(types[name]).reshape(shape)
                for name, shape in shapes.items()
            }
            for name, result in zip(outputs, session.run(outputs, fed), strict=True):
                content = np.ascontiguousarray(result.astype(types[name])).reshape(-1).view(np.uint8)
                driver.device_view(*ranges[name])[:] = content
            driver.counters.executions += 1

        return run

    def _find_problem(self):
        engine = self._engine
        missing = self.infer_shapes()
        if missing:
            return f"Not all shapes are specified: {missing}"
        absent = [name for name in (*engine._inputs, *engine._outputs) if not self._addresses.get(name)]
        if absent:
            return f"Neither address or allocator is set for tensor {absent[0]}. Call setTensorAddress"
        if self._memory is None or self._memory[1] < engine._context_bytes():
            return "the context has not enough device memory"
        return None

    def _may_use_profile(self, index):
        """Before 9, contexts of a dynamic engine cannot share a profile."""
        others = [other for other in self._engine._contexts if other is not self]
        return self._process.major > 8 or self._static or index not in [other._profile for other in others]

    def _largest(self):
        return {name: tuple(shapes[2]) for name, shapes in self._engine._header["profiles"][self._profile].items()}


RUNTIME_CLASSES = {kind.__name__: kind for kind in (Runtime, ICudaEngine, IExecutionContext, Weights, Refitter)}
