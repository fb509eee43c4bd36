"""Small valid files, each made once and kept in a folder for all cases."""

import contextlib
import io
import secrets


class Seeds:
    """Valid files by name."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name):
        """The path of a seed, which is made when it is asked for first."""
        path = self.folder / name
        if not path.exists():
            partial = self.folder / f"{secrets.token_hex(4)}-{name}"
            made = _maker(name)(partial)
            if isinstance(made, bytes):
                partial.write_bytes(made)
            partial.replace(path)
        return path

    def folder_of(self, name, make):
        """A folder that `make(folder)` fills, once."""
        path = self.folder / name
        if not path.exists():
            partial = self.folder / f"{secrets.token_hex(4)}-{name}"
            partial.mkdir()
            make(partial)
            with contextlib.suppress(OSError):  # another process was faster
                partial.replace(path)
        return path


def _maker(name):
    kind, _, suffix = name.rpartition(".")
    if name in CLIPS:
        return lambda path: _clip(path, **CLIPS[name])
    if name == "large.png":
        return lambda path: _picture("RGB", "PNG", {}, (48, 32))
    if name in PICTURES:
        return lambda path: _picture(*PICTURES[name])
    if suffix == "y4m":
        return lambda path: y4m()
    if suffix == "onnx":
        return lambda path: NETS[kind]().SerializeToString()
    raise KeyError(name)


PICTURES = {
    "rgb.png": ("RGB", "PNG", {}),
    "grey.png": ("L", "PNG", {}),
    "rgba.png": ("RGBA", "PNG", {}),
    "palette.png": ("P", "PNG", {}),
    "deep.png": ("I;16", "PNG", {}),
    "one.png": ("1", "PNG", {}),
    "rgb.jpg": ("RGB", "JPEG", {"quality": 90}),
    "progressive.jpg": ("RGB", "JPEG", {"progressive": True}),
    "cmyk.jpg": ("CMYK", "JPEG", {}),
    "rgb.webp": ("RGB", "WEBP", {"lossless": True}),
    "lossy.webp": ("RGB", "WEBP", {}),
    "rgb.tif": ("RGB", "TIFF", {}),
    "lzw.tif": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "deflate.tif": ("RGBA", "TIFF", {"compression": "tiff_adobe_deflate"}),
    "cmyk.tif": ("CMYK", "TIFF", {}),
    "rgb.bmp": ("RGB", "BMP", {}),
    "palette.bmp": ("P", "BMP", {}),
}
SIZE = (24, 16)


def _picture(mode, kind, options, size=SIZE):
    import numpy as np
    from PIL import Image

    width, height = size
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 10, y * 15, (x * y) % 256], -1).astype(np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif mode == "RGBA":
        image.putalpha(Image.fromarray((x * 10).astype(np.uint8)))
    elif mode != "RGB":
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


FRAMES = 12
CLIP_SIZE = (48, 32)
"""Width and height."""
CLIPS = {
    "a.mp4": {"sounds": ((0, 0.4),), "options": {"g": "4"}},
    "a.mkv": {"options": {"g": "4", "bf": "2"}, "subtitle": True},
    "a.ts": {"options": {"g": "4"}},
    "a.mov": {"options": {"g": "4"}, "rotation": 90},
    "a.avi": {"codec": "mpeg4", "options": {"g": "4"}},
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "ffv1.mkv": {"codec": "ffv1"},
    "a.webm": {"codec": "libvpx", "options": {"g": "4", "cpu-used": "8"}},
    "a.mpg": {"codec": "mpeg2video", "options": {"g": "4"}},
}


def _clip(path, **options):
    from clips import write_clip

    width, height = CLIP_SIZE
    if options.get("codec") == "mpeg2video":
        _mpeg(path, width, height)
    else:
        write_clip(path, pts=tuple(range(0, FRAMES * 512, 512)), size=(height, width), **options)


def _mpeg(path, width, height):
    """`write_clip` gives every encoder a preset, which this one does not take."""
    import av

    from clips import numbered

    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg2video", rate=25, options={"g": "4"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for index in range(FRAMES):
            out.mux(video.encode(numbered(index, (height, width))))
        out.mux(video.encode(None))


def y4m(frames=5, size=(16, 8), header=b"YUV4MPEG2 W%d H%d F25:1 Ip A1:1 C420jpeg\n", marker=b"FRAME\n"):
    """A clip as it comes from a pipe."""
    width, height = size
    frame = bytes(range(256)) * (1 + width * height * 3 // 2 // 256)
    frame = frame[: width * height * 3 // 2]
    return header % (width, height) + b"".join(marker + frame for _ in range(frames))


def _nearest():
    """Repeats pixels, by a convolution that does nothing and a Resize."""
    import numpy as np
    from onnx import helper

    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[range(3), range(3)] = 1
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["same"]),
        helper.make_node("Resize", ["same", "", "scales"], ["output"], mode="nearest"),
    ]
    return network(nodes, {"kernel": kernel, "scales": np.array([1, 1, 4, 4], np.float32)}, {"scale": "4"})


def network(nodes, weights, metadata=None, opset=17, outputs=(1, 3, "H_out", "W_out"), shape=(1, 3, "H", "W")):
    """An ONNX model with input `input` and output `output`; unchecked, since it may be wrong on purpose."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, list(outputs))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if metadata is not None:
        usual = {"format": "1", "scale": "4", "precision": "fp32", "multiple_of": "1", "overlap": "0"}
        helper.set_model_props(model, {f"esrgan.{k}": v for k, v in {**usual, **metadata}.items() if v is not None})
    return model


NETS = {"nearest": _nearest}
