"""New weights for an engine that was built with REFIT."""

from __future__ import annotations

import ctypes
import weakref

import numpy as np

from fake_cuda_memory import CudaBug
from fake_tensorrt import data
from fake_tensorrt.base import setting


class Weights:
    def __init__(self, *values):
        """Weights(), Weights(type), from 10 on Weights(type, ptr, count), or Weights(a): a view, nothing is copied."""
        if len(values) == 3 and self._process.major < 10:
            raise TypeError("__init__(): incompatible constructor arguments")
        types = self._process.enums.DataType
        self._array, self._pointer, self._count = None, 0, 0
        if values and isinstance(values[0], np.ndarray):
            array = values[0]
            if not array.flags.c_contiguous:
                raise ValueError("Could not convert non-contiguous NumPy array to Weights.")
            name = {"float32": "FLOAT", "float16": "HALF", "int8": "INT8", "int32": "INT32"}.get(array.dtype.name)
            if name is None:
                raise ValueError(f"[TRT] [E] Could not implicitly convert NumPy data type: {array.dtype} to TensorRT.")
            self._dtype, self._array, self._count = getattr(types, name), weakref.ref(array), array.size
        elif len(values) == 3:
            self._dtype, self._pointer, self._count = values
        else:
            self._dtype = values[0] if values else types.FLOAT

    def __len__(self):
        return self._count

    dtype = property(lambda self: self._dtype)
    size = property(lambda self: self._count)
    nbytes = property(lambda self: self._count * data.ITEMSIZE[self._dtype.name])

    def _content(self):
        """The bytes as they are now, or None when the array is gone."""
        if self._pointer:
            return ctypes.string_at(self._pointer, self.nbytes)
        array = self._array() if self._array else None
        return None if array is None else array.tobytes()


class Refitter:
    def __init__(self, engine, logger):
        self._process.adopt(logger)
        if not engine.refittable:
            self._process.error("createInferRefitter: Error Code 3: API Usage Error (engine was not built with kREFIT)")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._engine = engine
        self._given = {}

    max_threads = setting("max_threads", 1)
    weights_validation = setting("weights_validation", True)

    def get_all_weights(self):
        return list(data.weights(self._engine._model))

    def get_missing_weights(self):
        """What shares a layer with given weights and was not given itself."""
        groups = [group for group in data.weight_groups(self._engine._model) if group.intersection(self._given)]
        return sorted({name for group in groups for name in group} - set(self._given))

    def set_named_weights(self, name, weights, location=None):
        known = data.weights(self._engine._model)
        if isinstance(weights, np.ndarray):
            weights = self._process.classes["Weights"](weights)
        if name not in known:
            self._process.error(f"IRefitter::setNamedWeights: Error Code 3: API Usage Error (no weights named {name})")
            return False
        count, kind = data.volume(known[name].dims), data.NAMES[known[name].data_type]
        if (weights.size, weights.dtype.name) != (count, kind):
            text = f"{name}: {count} of type {kind} expected, received {weights.size} of type {weights.dtype.name}"
            self._process.error(f"IRefitter::setNamedWeights: Error Code 3: API Usage Error ({text})")
            return False
        self._given[name] = weights
        return True

    def unset_named_weights(self, weights_name):
        return self._given.pop(weights_name, None) is not None

    def get_weights_prototype(self, weights_name):
        tensor = data.weights(self._engine._model).get(weights_name)
        kind = getattr(self._process.enums.DataType, data.NAMES[tensor.data_type] if tensor else "FLOAT")
        return self._process.classes["Weights"](kind, 0, data.volume(tensor.dims) if tensor else -1)

    def refit_cuda_engine(self):
        process, engine = self._process, self._engine
        process.check_alive()
        missing = self.get_missing_weights()
        if missing:
            process.error(f"IRefitter::refitCudaEngine: Error Code 3: API Usage Error (missing weights: {missing})")
            return False
        process.driver.require_idle(engine._memory, "the engine was refitted")
        contents = {name: weights._content() for name, weights in self._given.items()}
        if None in contents.values():
            return process.crash("weights were given back before the refit read them")
        engine._model = data.with_weights(engine._model, contents)
        engine._session = None
        self._given = {}
        return True

    def refit_cuda_engine_async(self, stream_handle):
        if self._process.driver.is_capturing(stream_handle):
            raise CudaBug("a refit cannot be captured")
        return self.refit_cuda_engine()
