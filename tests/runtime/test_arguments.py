"""What callers may hand over, and what they are told where it is wrong."""

import io
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from esrgan_deploy import ClosedError, EsrganError, OptionError, Upscaler, open_session
from esrgan_deploy.alpha import endpoints_path, read_endpoints, write_endpoints
from esrgan_deploy.arguments import as_path
from esrgan_deploy.endpoints import load_at_alpha
from esrgan_deploy.images import StillImage, read_image, upscale_image, write_image
from esrgan_deploy.model import load_onnx
from esrgan_deploy.models import COMPACT_CLEAN
from esrgan_deploy.video import parts_of, probe, upscale_pipe, upscale_video
from gain_pair import write_model

CLIP = Path(__file__).parents[1] / "data" / "bigbuckbunny.mp4"
FRAME = np.zeros((5, 7, 3), np.uint8)


@pytest.fixture(scope="module")
def session():
    with open_session(None, "reference") as session:
        yield session


@pytest.fixture(scope="module")
def upscaler(session):
    return Upscaler(session)


class Tensor:
    """What can be seen of a torch tensor without torch."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, dtype


Tensor.__module__ = "torch"


FRAMES = {
    "PIL": (
        Image.new("RGBA", (7, 5)),
        r"received a PIL image of mode RGBA; give np.asarray\(image.convert\('RGB'\)\)$",
    ),
    "float": (np.zeros((5, 7, 3), np.float32), r"float32 of shape \(5, 7, 3\); .*np.rint\(array.clip\(0, 1\) \* 255\)"),
    "int64": (np.zeros((5, 7, 3), np.int64), r"int64 of shape \(5, 7, 3\); give array.astype\(np.uint8\)"),
    "grey": (np.zeros((5, 7), np.uint8), r"uint8 of shape \(5, 7\); .*np.dstack\(\[grey\] \* 3\)"),
    "planes": (np.zeros((3, 5, 7), np.uint8), r"shape \(3, 5, 7\); channels come last: np.moveaxis\(array, -3, -1\)"),
    "RGBA": (np.zeros((5, 7, 4), np.uint8), r"shape \(5, 7, 4\); give array\[..., :3\]; .*upscale_image"),
    "one channel": (np.zeros((5, 7, 1), np.uint8), r"array.repeat\(3, axis=-1\)"),
    "empty": (np.zeros((0, 7, 3), np.uint8), "it holds no pixels"),
    "batch": (FRAME[None], r"shape \(1, 5, 7, 3\); the frames of a batch go to Upscaler.map\(batch\)"),
    "list": ([FRAME], r"type list; frames one by one go to Upscaler.map\(frames\)"),
    "None": (None, "received None$"),
    "path": ("photo.png", r"received 'photo.png'; give the pixels: esrgan_deploy.images.read_image\(path\).rgb"),
    "torch": (
        Tensor((3, 5, 7), "torch.float32"),
        r"torch.Tensor, torch.float32 of shape \(3, 5, 7\); .*tensor.cpu\(\).numpy\(\).*moveaxis.*np.rint",
    ),
    "GPU": (
        SimpleNamespace(shape=(5, 7, 3), dtype=np.dtype("uint8"), __cuda_array_interface__={}),
        "memory of the host, or use run_device",
    ),
}


@pytest.mark.parametrize("case", FRAMES)
def test_what_is_no_frame_is_named_with_its_remedy(upscaler, case):
    value, says = FRAMES[case]
    with pytest.raises(OptionError, match=says) as caught:
        upscaler.upscale(value)
    assert "a frame is uint8 or uint16 of shape (H, W, 3), RGB; received " in str(caught.value)
    assert "\n" not in str(caught.value)


REMEDIES = {
    "PIL": lambda image: np.asarray(image.convert("RGB")),
    "float": lambda array: np.rint(array.clip(0, 1) * 255).astype(np.uint8),
    "int64": lambda array: array.astype(np.uint8),
    "grey": lambda grey: np.dstack([grey] * 3),
    "planes": lambda array: np.moveaxis(array, -3, -1),
    "RGBA": lambda array: array[..., :3],
    "one channel": lambda array: array.repeat(3, axis=-1),
}


@pytest.mark.parametrize("case", REMEDIES)
def test_the_remedies_work(upscaler, case):
    assert upscaler.upscale(REMEDIES[case](FRAMES[case][0])).shape == (20, 28, 3)


BATCHES = {
    "frame": (FRAME, r"uint8 of shape \(5, 7, 3\); give frame\[None\], or one frame to Upscaler.upscale\(frame\)$"),
    "list": ([FRAME], r"give np.stack\(frames\)$"),
    "PIL": (Image.new("L", (7, 5)), r"mode L; give np.asarray\(image.convert\('RGB'\)\)\[None\]$"),
    "planes": (np.zeros((2, 3, 5, 7), np.float16), r"np.moveaxis\(array, -3, -1\); .*np.rint"),
    "grey": (np.zeros((5, 7), np.uint8), r"np.dstack\(\[grey\] \* 3\)\[None\]$"),
}


@pytest.mark.parametrize("case", BATCHES)
@pytest.mark.parametrize("method", ["submit", "run"])
def test_what_is_no_batch_is_named_with_its_remedy(session, method, case):
    value, says = BATCHES[case]
    with pytest.raises(OptionError, match=says):
        getattr(session, method)(value)


ARRAYS = hnp.arrays(
    hnp.scalar_dtypes() | hnp.array_dtypes() | st.sampled_from([np.dtype(">u2"), np.dtype(object)]),
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    fill=st.nothing(),
    elements=None,
) | hnp.arrays(st.sampled_from([np.uint8, np.uint16]), hnp.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=4))
ANYTHING = ARRAYS | st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.just(object())
    | st.just(FRAME),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)


def is_pixels(value, ndim):
    if not isinstance(value, np.ndarray) or value.ndim != ndim or value.dtype not in (np.uint8, np.uint16):
        return False
    return value.shape[-1] == 3 and value.size > 0


@given(ANYTHING)
def test_a_frame_is_upscaled_and_anything_else_is_an_esrgan_error(upscaler, value):
    if is_pixels(value, 3):
        result = upscaler.upscale(value)
        assert (result.dtype, result.shape) == (value.dtype, (value.shape[0] * 4, value.shape[1] * 4, 3))
        return
    with pytest.raises(EsrganError) as caught:
        upscaler.upscale(value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@given(ANYTHING)
def test_a_batch_is_upscaled_and_anything_else_is_an_esrgan_error(session, value):
    if is_pixels(value, 4):
        assert session.run(value).shape[:3] == (len(value), value.shape[1] * 4, value.shape[2] * 4)
        return
    for method in (session.submit, session.run):
        with pytest.raises(EsrganError):
            method(value)


@given(ANYTHING)
def test_map_takes_frames_and_refuses_anything_else(upscaler, value):
    """Nothing at all is no frame: an empty list has no results."""
    try:
        results = list(upscaler.map(value))
    except EsrganError:
        assert not isinstance(value, list) or not all(is_pixels(frame, 3) for frame in value)
    else:
        assert len(results) == len(value)


def test_map_tells_at_once_what_it_cannot_iterate(upscaler):
    for value, says in (
        (FRAME, r"one frame goes to upscale\(frame\)"),
        (None, "received None"),
        (Image.new("L", (2, 2)), "mode L"),
    ):
        with pytest.raises(OptionError, match=says):
            upscaler.map(value)
    assert [frame.shape for frame in upscaler.map(np.stack([FRAME, FRAME]))] == [(20, 28, 3)] * 2


def test_map_gives_the_frames_before_a_wrong_one(upscaler):
    results = Upscaler(upscaler.session).map([FRAME, FRAME[..., 0]])
    with pytest.raises(OptionError, match="grey"):
        list(results)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tile": "64"}, "tile is '64'; give a whole number of at least 0"),
        ({"tile": 64.5}, "tile is 64.5"),
        ({"batch": 0}, "batch 0 is too small; give at least 1"),
        ({"tolerance": 256}, "tolerance 256 is out of range"),
        ({"batch": 2**31}, "batch is too large"),
        ({"tile": 10**5000}, "tile is too large"),
        ({"overlap": -(10**5000)}, r"overlap a number of 16610 bits is too small"),
        ({"outscale": 10**5000}, r"outscale a number of 16610 bits is out of range"),
        ({"outscale": 1e-9}, "outscale 1e-09 is out of range"),
        ({"outscale": "2"}, "outscale '2' is out of range"),
        ({"outscale": float("nan")}, "outscale nan is out of range"),
    ],
)
def test_numbers_are_checked(session, options, says):
    with pytest.raises(OptionError, match=says):
        Upscaler(session, **options)
    Upscaler(session, tile=np.int64(64), outscale=np.float32(2))


def test_an_upscaler_wants_a_session():
    with pytest.raises(OptionError, match=r"from open_session\(model\); received 'model.onnx'"):
        Upscaler("model.onnx")


@pytest.mark.parametrize("backend", ["reference", "openvino", "ort"])
def test_what_is_closed_says_so(backend, tmp_path):
    model = None if backend == "reference" else write_model(tmp_path / "pair.onnx", 0.8)
    upscaler = Upscaler(open_session(model, backend))
    upscaler.close()
    upscaler.close()
    for use in (lambda: upscaler.upscale(FRAME), lambda: upscaler.map([FRAME])):
        with pytest.raises(ClosedError, match="this Upscaler is closed"):
            use()
    for use in (lambda: upscaler.session.submit(FRAME[None]), lambda: upscaler.session.run(FRAME[None])):
        with pytest.raises(ClosedError, match=f"the {backend} session is closed; open another one with open_session"):
            use()
    if model:
        with pytest.raises(ClosedError):
            upscaler.session.set_alpha(0.5)


def test_a_map_that_is_cut_off_by_close_says_so():
    upscaler = Upscaler(open_session(None, "reference"))
    frames = (np.full((5, 7, 3), value, np.uint8) for value in range(9))
    results = upscaler.map(frames)
    next(results)
    upscaler.close()
    with pytest.raises(ClosedError, match="session is closed"):
        list(results)


# --- paths ---


class Named:
    """A path of another library, like py.path."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


@pytest.fixture(params=[Path, str, Named])
def kind(request):
    return request.param


def test_models_and_pictures_by_any_kind_of_path(kind, tmp_path):
    model = write_model(tmp_path / "pair.onnx", 0.8)
    assert load_onnx(kind(model))[1].scale == 2
    assert load_at_alpha(kind(model), 0.5)[1].alpha == 0.5
    write_endpoints(kind(tmp_path / "b.ends.safetensors"), read_endpoints(endpoints_path(kind(model))))
    for backend in ("openvino", "ort", "reference"):
        with open_session(kind(model), backend, cache=kind(tmp_path / "cache")) as session:
            assert session.run(FRAME[None]).shape == (1, 10, 14, 3)
    write_image(kind(tmp_path / "a.png"), StillImage(FRAME))
    assert read_image(kind(tmp_path / "a.png")).rgb.shape == FRAME.shape


def test_clips_by_any_kind_of_path(kind, tmp_path):
    source = shutil.copy(CLIP, tmp_path / "clip.mp4")
    assert probe(kind(source)).width
    assert parts_of(kind(tmp_path / "out.mp4")) == tmp_path / "out.mp4.parts"
    with Upscaler(open_session(None, "reference"), outscale=0.5) as upscaler:
        assert upscale_video(kind(source), kind(tmp_path / "out.mp4"), upscaler).frames
        assert upscale_pipe(kind(source), kind(tmp_path / "piped.mp4"), upscaler).frames


@pytest.mark.parametrize("value", [None, 3, b"model.onnx", io.BytesIO(), "a\0b", ["a"]])
def test_what_is_no_path_is_named(value, tmp_path):
    uses = [as_path, load_onnx, read_image, probe, parts_of, lambda path: write_image(path, StillImage(FRAME))]
    for use in uses:
        with pytest.raises(OptionError, match=r"a path is a str or a pathlib.Path; received "):
            use(value)
    if value is not None:
        with pytest.raises(OptionError, match="received "):
            open_session(value)


@given(st.text() | st.text(st.characters(categories=["Cs"])) | st.binary() | st.none() | st.integers())
def test_any_text_is_a_path_to_nothing_or_an_esrgan_error(value):
    if isinstance(value, str) and value.isprintable() and Path(value).exists():
        return
    for use in (load_onnx, read_image, open_session):
        with pytest.raises(EsrganError):
            use(value)


# --- pictures ---


def test_pictures_that_are_none_are_named(upscaler, tmp_path):
    for value, says in ((FRAME, r"received uint8 of shape \(5, 7, 3\)"), (Image.new("L", (2, 2)), "mode L")):
        with pytest.raises(OptionError, match=r"a picture is a StillImage.*" + says):
            upscale_image(value, upscaler)
        with pytest.raises(OptionError, match=r"a picture is a StillImage"):
            write_image(tmp_path / "a.png", value)


def test_transparency_fits_its_picture():
    with pytest.raises(OptionError, match=r"alpha of this picture is uint8 of shape \(5, 7\); received uint8 of .*6"):
        StillImage(FRAME, np.zeros((5, 6), np.uint8))
    with pytest.raises(OptionError, match=re.escape("received float32 of shape (5, 7, 3)")):
        StillImage(np.zeros((5, 7, 3), np.float32))


def test_the_bundled_model_opens_by_name():
    assert load_onnx(str(COMPACT_CLEAN))[1].scale == 4
