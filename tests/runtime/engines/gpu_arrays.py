"""Arrays that say they lie on the GPU, as other libraries do."""

import numpy as np

from esrgan_deploy.cuda import dlpack


class OnGpu:
    """CuPy's and PyCUDA's side of the CUDA Array Interface."""

    def __init__(self, address, shape, dtype="|u1", **changes):
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": dtype,
            "data": (address, False),
            "strides": None,
            **changes,
        }


class LentOnGpu:
    """A tensor that speaks DLPack alone."""

    def __init__(self, address, shape, dtype="u1", device=(dlpack.CUDA, 0)):
        self.view = dlpack.ArrayView(address, shape, np.dtype(dtype), None, device)
        self.streams = []

    def __dlpack__(self, *, stream):
        self.streams.append(stream)
        return dlpack.export_capsule(self.view, self)

    def __dlpack_device__(self):
        return self.view.device
