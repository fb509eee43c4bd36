"""PyNvVideoCodec, CuPy, PyCUDA and torch on the fake GPU: as much of them as docs/embedding.md uses.

Names, parameters and refusals are those of the real packages: PyNvVideoCodec 2.2.4 (its Python files, the docstrings of
its module, and for the encoder's input PyNvEncoder.cpp and PyCAIMemoryView.cpp), CuPy 13, PyCUDA 2026.1, torch 2.13.
Work goes into streams, as there. A copy to the host that is not ordered after it reads what memory holds meanwhile.
"""

import contextlib
import enum
import types

import numpy as np

from esrgan_deploy.cuda import dlpack
from fake_cuda import LEGACY_STREAM


class Array:
    """C-contiguous elements on the fake GPU."""

    def __init__(self, gpu, address, shape, dtype, owner=None):
        self.gpu, self.address, self.shape, self.dtype, self.owner = gpu, address, tuple(shape), np.dtype(dtype), owner

    @property
    def nbytes(self):
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def range(self):
        return self.address, self.nbytes

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, key):
        """Along the first axis only, where what comes out is contiguous."""
        step = self.nbytes // len(self)
        if isinstance(key, slice):
            start, stop, _ = key.indices(len(self))
            return type(self)(self.gpu, self.address + start * step, (stop - start, *self.shape[1:]), self.dtype, self)
        if key >= len(self):
            raise IndexError
        return type(self)(self.gpu, self.address + key * step, self.shape[1:], self.dtype, self)

    def __setitem__(self, key, value):
        def run():
            source = self.gpu.driver.device_view(*value.range).view(value.dtype).reshape(value.shape)
            self.gpu.driver.device_view(*self.range).view(self.dtype).reshape(self.shape)[key] = source

        self.gpu.enqueue("assign", run, reads=[value.range], writes=[self.range])

    def on_host(self):
        """What memory holds at this moment."""
        return self.gpu.driver.download(self.address, self.shape, self.dtype)

    def interface(self, **more):
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "strides": None, **more}


class CupyArray(Array):
    @property
    def __cuda_array_interface__(self):
        return self.interface(version=3, stream=self.gpu.current or LEGACY_STREAM)


class GPUArray(Array):
    """PyCUDA's. No DLPack."""

    @property
    def __cuda_array_interface__(self):
        return self.interface(version=3, stream=None)

    def get(self):
        return self.on_host()


class Tensor(Array):
    @property
    def __cuda_array_interface__(self):
        return self.interface(version=2)

    def __dlpack__(self, *, stream=None):
        return dlpack.export_capsule(dlpack.ArrayView(self.address, self.shape, self.dtype), self)

    def __dlpack_device__(self):
        return dlpack.CUDA, 0

    def cuda(self):
        return self

    def cpu(self):
        self.gpu.synchronize(self.gpu.current)
        return types.SimpleNamespace(numpy=self.on_host)


class Stream:
    """With the names that each of the packages has for the handle."""

    def __init__(self, gpu, handle):
        self.gpu, self.cuda_stream = gpu, handle
        self.ptr = self.handle = handle

    def synchronize(self):
        self.gpu.synchronize(self.cuda_stream)

    @contextlib.contextmanager
    def made_current(self):
        before, self.gpu.current = self.gpu.current, self.cuda_stream
        yield self
        self.gpu.current = before


class DecodedFrame:
    def __init__(self, array):
        self._array = array
        self.shape = array.shape

    def __dlpack__(self, stream=None):
        return dlpack.export_capsule(dlpack.ArrayView(self._array.address, self.shape, self._array.dtype), self)

    def __dlpack_device__(self):
        return dlpack.CUDA, 0


class Packages:
    """The modules, on `driver`. `clip` is what a decoder finds in every file, `encoded` what the encoder was given."""

    def __init__(self, driver, clip):
        self.driver = driver
        self.clip = clip
        self.encoded = []
        self.current = 0

    def enqueue(self, label, run, reads=(), writes=(), stream=None):
        with self.driver.active():
            self.driver.enqueue(self.current if stream is None else stream, label, run, reads, writes)

    def synchronize(self, stream):
        with self.driver.active():
            self.driver.synchronize_stream(stream)

    def new_stream(self):
        with self.driver.active():
            return Stream(self, self.driver.create_stream())

    def new(self, kind, shape, dtype, fill=0):
        content = np.full(shape, fill, dtype)
        return kind(self, self.driver.upload(content), shape, dtype)

    def current_stream(self):
        return Stream(self, self.current)

    def modules(self):
        """By name, for sys.modules."""
        return {
            "cupy": self._cupy(),
            "torch": self._torch(),
            "PyNvVideoCodec": self._codec(),
            **self._pycuda(),
        }

    def _cupy(self):
        def asarray(other):
            interface = other.__cuda_array_interface__
            if interface.get("stream"):  # CUPY_CUDA_ARRAY_INTERFACE_SYNC is on by default
                self.synchronize(interface["stream"])
            return CupyArray(self, interface["data"][0], interface["shape"], interface["typestr"], other)

        def asnumpy(array):
            self.synchronize(self.current)
            return array.on_host()

        return module(
            "cupy",
            uint8=np.uint8,
            zeros=lambda shape, dtype: self.new(CupyArray, shape, dtype),
            asarray=asarray,
            asnumpy=asnumpy,
            cuda=types.SimpleNamespace(get_current_stream=self.current_stream),
        )

    def _torch(self):
        def from_dlpack(other):
            assert other.__dlpack_device__() == (dlpack.CUDA, 0)
            held = dlpack.ImportedArray(other.__dlpack__(stream=self.current or LEGACY_STREAM))
            return Tensor(self, held.view.address, held.view.shape, held.view.dtype, held)

        def full(size, fill_value, *, dtype, device):
            assert device == "cuda"
            return self.new(Tensor, size, dtype, fill_value)

        cuda = types.SimpleNamespace(
            Stream=self.new_stream, stream=lambda stream: stream.made_current(), current_stream=self.current_stream
        )
        return module(
            "torch",
            uint8=np.uint8,
            zeros=lambda size, **options: full(size, 0, **options),
            full=full,
            from_dlpack=from_dlpack,
            cuda=cuda,
        )

    def _pycuda(self):
        gpuarray = module(
            "pycuda.gpuarray",
            to_gpu=lambda array: GPUArray(self, self.driver.upload(array), array.shape, array.dtype),
            empty=lambda shape, dtype: self.new(GPUArray, shape, dtype, 77),
        )
        driver, context = module("pycuda.driver", Stream=self.new_stream), module("pycuda.autoinit")
        package = module("pycuda", gpuarray=gpuarray, driver=driver, autoinit=context, __path__=[])
        return {f"pycuda.{m.__name__[7:]}": m for m in (gpuarray, driver, context)} | {"pycuda": package}

    def _codec(self):
        packages = self

        class ThreadedDecoder(Decoder):
            gpu = packages

        return module(
            "PyNvVideoCodec",
            OutputColorType=OutputColorType,
            ThreadedDecoder=ThreadedDecoder,
            CreateEncoder=lambda *arguments, **options: Encoder(packages, *arguments, **options),
        )


class OutputColorType(enum.Enum):
    NATIVE = 0
    RGB = 1
    RGBP = 2


class Decoder:
    """ThreadedDecoder. What it handed out it uses again for the next batch, in a stream of its own."""

    gpu: Packages

    def __init__(
        self,
        enc_file_path,
        buffer_size,
        gpu_id=0,
        cuda_context=0,
        cuda_stream=0,
        use_device_memory=True,
        max_width=0,
        max_height=0,
        need_scanned_stream_metadata=0,
        decoder_cache_size=4,
        output_color_type=OutputColorType.NATIVE,
        start_frame=0,
        enableDecodeStats=False,  # noqa: N803  # the real one's name
    ):
        assert output_color_type is OutputColorType.RGB
        assert use_device_memory
        self._left = list(self.gpu.clip)
        self._buffer_size = buffer_size
        self._stream, self._own = cuda_stream, self.gpu.new_stream()
        self._slots = [self.gpu.new(Array, self._left[0].shape, np.uint8) for _ in range(buffer_size)]
        self._out = []

    def get_stream_metadata(self):
        height, width = self.gpu.clip[0].shape[:2]
        return types.SimpleNamespace(
            width=width, height=height, num_frames=len(self.gpu.clip), average_fps=23.976, codec_name="h264"
        )

    def get_batch_frames(self, batch_size):
        if batch_size > self._buffer_size:
            raise Exception("batch_size cannot be greater than buffer_size")
        for slot in self._out:
            self._write(slot, np.full(slot.shape, 99, np.uint8), self._own.cuda_stream)
        self._own.synchronize()
        count = min(batch_size, len(self._left))
        self._out = self._slots[:count]
        for slot in self._out:
            self._write(slot, self._left.pop(0), self._stream)
        return [DecodedFrame(slot) for slot in self._out]

    def end(self):
        self._left = []

    def _write(self, slot, pixels, stream):
        def run():
            self.gpu.driver.device_view(*slot.range)[:] = pixels.reshape(-1)

        self.gpu.enqueue("decode", run, writes=[slot.range], stream=stream)


class Encoder:
    """What CreateEncoder makes. It keeps one picture back, like an encoder with one B-frame."""

    def __init__(self, gpu, width, height, format, use_cpu_buffer, **options):
        assert format == "ABGR"
        assert not use_cpu_buffer
        assert set(options) <= {"codec", "preset", "fps", "bitrate", "gop", "rc", "tuning_info", "gpu_id"}
        self._gpu, self._shape = gpu, (height, width, 4)
        self._kept = []

    def Encode(self, frame):  # noqa: N802
        if not hasattr(frame, "cuda"):
            raise RuntimeError("incorrect usage of CPU inut buffer")
        interface = frame.cuda().__cuda_array_interface__
        if interface["typestr"] not in ("|u1", "B"):
            raise RuntimeError(f"Could not encode CUDA array! Invalid typstr: {interface['typestr']}")
        if interface["shape"] != self._shape:
            raise RuntimeError(f"Invalid shape: {interface['shape']}, expected: {self._shape}")
        if interface["strides"] not in (None, (4 * self._shape[1], 4, 1)):
            raise RuntimeError(f"Invalid strides: {interface['strides']}")
        self._gpu.encoded.append(self._gpu.driver.download(interface["data"][0], self._shape, np.uint8))
        self._kept.append(len(self._gpu.encoded) - 1)
        return self._packets(len(self._kept) - 1)

    def EndEncode(self):  # noqa: N802
        return self._packets(len(self._kept))

    def _packets(self, count):
        ready, self._kept = self._kept[:count], self._kept[count:]
        return [{"data": bytes([index]), "timestamp": index, "picture_type": 0} for index in ready]


def module(name, **content):
    made = types.ModuleType(name)
    vars(made).update(content)
    return made
