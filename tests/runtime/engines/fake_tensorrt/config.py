"""What a build is told: loggers, progress monitor, profiles, timing cache, configuration."""

from __future__ import annotations

import ctypes
import json

from fake_tensorrt.base import setting
from fake_tensorrt.data import Dims

CACHE_MAGIC = b"fttc"


class ILogger:
    def __init__(self):
        self._initialised = True

    def log(self, severity, msg):
        raise RuntimeError('Tried to call pure virtual function "ILogger::log"')

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc_value, traceback):
        pass


class Logger:
    def __init__(self, min_severity=None):
        self._initialised = True
        self._messages = []

    def log(self, severity, msg):
        self._messages.append((severity.name, msg))

    min_severity = setting("min_severity")


class IProgressMonitor:
    def __init__(self):
        self._initialised = True

    def phase_start(self, phase_name, parent_phase, num_steps):
        pass

    def step_complete(self, phase_name, step):
        return True

    def phase_finish(self, phase_name):
        pass


class IOptimizationProfile:
    def _setup(self):
        self._shapes = {}

    def set_shape(self, input, min, opt, max):
        self._shapes[input] = [tuple(shape) for shape in (min, opt, max)]

    def get_shape(self, input):
        return [Dims(shape) for shape in self._shapes.get(input, [])]

    def _is_valid(self):
        return all(
            len(low) == len(middle) == len(high)
            and all(0 <= a <= b <= c for a, b, c in zip(low, middle, high, strict=True))
            for low, middle, high in self._shapes.values()
        )


class ITimingCache:
    def _setup(self, content):
        self._content = content

    def serialize(self):
        return host_memory(CACHE_MAGIC + json.dumps(self._content, sort_keys=True).encode())

    def combine(self, input_cache, ignore_mismatch):
        if not ignore_mismatch and input_cache._content["machine"] != self._content["machine"]:
            return False
        self._content["layers"] = sorted({*self._content["layers"], *input_cache._content["layers"]})
        return True

    def reset(self):
        self._content["layers"] = []
        return True


class IBuilderConfig:
    def _setup(self):
        self._flags = set()
        self._profiles = []
        self._pools = {}
        self._cache = None
        self._preview = {}

    def set_flag(self, flag):
        if not isinstance(flag, self._process.enums.BuilderFlag):
            raise TypeError("set_flag(): incompatible function arguments")
        self._flags.add(flag)

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def get_flag(self, flag):
        return flag in self._flags

    @property
    def flags(self):
        return sum(1 << int(flag) for flag in self._flags)

    def add_optimization_profile(self, profile):
        if not profile._is_valid():
            self._process.error("IOptimizationProfile::isValid: please ensure that MIN<=OPT<=MAX")
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self):
        return len(self._profiles)

    def set_memory_pool_limit(self, pool, pool_size):
        self._pools[pool] = int(pool_size)

    def get_memory_pool_limit(self, pool):
        return self._pools.get(pool, self._process.driver.facts.total_memory)

    def set_preview_feature(self, feature, enable):
        self._preview[feature] = enable

    def get_preview_feature(self, feature):
        return self._preview.get(feature, False)

    def create_timing_cache(self, serialized_timing_cache):
        self._process.check_alive()
        content = bytes(memoryview(serialized_timing_cache))
        if not content:
            return self._process.new("ITimingCache", {"machine": machine(self._process), "layers": []})
        try:
            if not content.startswith(CACHE_MAGIC):
                raise ValueError
            return self._process.new("ITimingCache", json.loads(content[len(CACHE_MAGIC) :]))
        except ValueError:
            return self._process.crash("an assertion failed while a damaged timing cache was read")

    def set_timing_cache(self, cache, ignore_mismatch):
        if not ignore_mismatch and cache._content["machine"] != machine(self._process):
            self._process.error("IBuilderConfig::setTimingCache: the cache was made on another device or version")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache

    def set_tactic_sources(self, tactic_sources):
        return True

    def _check_monitor(self, monitor):
        if monitor is not None and not isinstance(monitor, self._process.classes["IProgressMonitor"]):
            raise TypeError("(): incompatible function arguments")
        return monitor

    progress_monitor = setting("progress_monitor", None, _check_monitor)
    builder_optimization_level = setting("builder_optimization_level", 3, lambda self, level: min(level, 5))
    max_aux_streams = setting("max_aux_streams", -1)
    max_num_tactics = setting("max_num_tactics", -1)
    avg_timing_iterations = setting("avg_timing_iterations", 1)
    tiling_optimization_level = setting("tiling_optimization_level")
    l2_limit_for_tiling = setting("l2_limit_for_tiling", -1)
    profiling_verbosity = setting("profiling_verbosity")
    hardware_compatibility_level = setting("hardware_compatibility_level")
    max_workspace_size = setting("max_workspace_size", 0)


def machine(process):
    """What a plan and a timing cache belong to."""
    facts = process.driver.facts
    return {"version": process.version, "gpu": facts.name, "compute_capability": list(facts.compute_capability)}


def host_memory(content):
    """An IHostMemory: bytes by the buffer protocol, `nbytes`, and no `len`."""
    base = ctypes.c_ubyte * len(content)
    size = property(lambda self: len(content))
    return type("IHostMemory", (base,), {"nbytes": size, "__len__": None}).from_buffer_copy(content)
