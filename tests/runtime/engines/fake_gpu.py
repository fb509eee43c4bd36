"""A machine with the fake GPU and the fake TensorRT, on which nothing may be left behind."""

import gc
from contextlib import contextmanager

import numpy as np

import fake_tensorrt
from esrgan_deploy.backends.trt import TensorRTSession
from esrgan_deploy.cuda.pool import Block
from esrgan_deploy.engine.adapter import TensorRT
from esrgan_deploy.engine.options import EngineOptions, Profile, Shape
from esrgan_deploy.engine.store.cache import EngineCache
from fake_cuda import FakeDriver

NEWEST = fake_tensorrt.VERSIONS[-1]


class FakeMachine:
    def __init__(self, folder, driver, version):
        self.driver = driver
        self.trt = TensorRT(fake_tensorrt.make(version, driver))
        self.cache = EngineCache(folder)

    def session(self, model, **options):
        return TensorRTSession(model, trt=self.trt, driver=self.driver, cache=self.cache, **options)

    def engine(self, model, low, best=None, high=None, *, frames="uint8", refit=False):
        """A built engine's path; shapes are (N, H, W)."""
        profile = Profile(Shape(*low), Shape(*(best or low)), Shape(*(high or low)))
        options = EngineOptions(profile, frames, refit=refit)
        with self.driver.active():
            file = self.cache.get(self.trt, self.driver.facts, model, options, progress=lambda *step: None)
        return file.path


@contextmanager
def fake_machine(folder, *, version=NEWEST, driver=None, **options):
    """`options` are those of `FakeDriver`. At the end nothing may be left but the memory of results that are alive."""
    driver = driver or FakeDriver(**options)
    yield FakeMachine(folder, driver, version)
    gc.collect()
    results = {thing.address for thing in gc.get_objects() if type(thing) is Block}
    kept = [allocation for allocation in driver._memory._allocations if allocation.alive]
    assert [allocation.owner for allocation in kept if allocation.address not in results] == []
    assert (len(driver._streams) - 3, len(driver._events), len(driver._graphs)) == (0, 0, 0)
    if not kept:
        driver.close()


def random_frames(rng, count, height, width, dtype=np.uint8):
    """(count, height, width, 3)."""
    return rng.integers(0, np.iinfo(dtype).max + 1, (count, height, width, 3)).astype(dtype)


def doubled(frames):
    """What the network `unshuffle_x2` does."""
    return frames.repeat(2, 1).repeat(2, 2)
