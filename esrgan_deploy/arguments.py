"""What callers hand over, checked before anything is done with it: paths, numbers, frames, results of their sessions.

Every check of an argument raises an OptionError that names what came and, where it can be told, the call that makes it
right.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from esrgan_deploy.errors import ModelError, OptionError
from esrgan_deploy.frame_io import Frames, FrameType, frame_type_of

StrPath: TypeAlias = "str | os.PathLike[str]"
"""What the public API takes wherever it wants a path."""
LARGEST_NUMBER = 2**31 - 1


def as_path(value: StrPath) -> Path:
    """`value` as a Path; nothing is looked up.

    Raises:
        OptionError: bytes, an open file, None, or text that no file name can hold, like a NUL.
    """
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    try:
        if isinstance(text, str) and b"\0" not in os.fsencode(text):
            return value if isinstance(value, Path) else Path(text)
    except UnicodeEncodeError:  # half a surrogate pair
        pass
    raise OptionError(f"a path is a str or a pathlib.Path; received {described(value)}")


def check_at_least(smallest: int, **values: int | None) -> None:
    """Check whole numbers, given by their names; None stands for "not given" and passes.

    Raises:
        OptionError: a value that is less, or more than 2**31 - 1, which is where libraries end; or no whole number.
    """
    for name, value in values.items():
        if value is None:
            continue
        if not isinstance(value, (int, np.integer)):
            raise OptionError(f"{name} is {described(value)}; give a whole number of at least {smallest}")
        if value < smallest:
            raise OptionError(f"{name} {described(value)} is too small; give at least {smallest}")
        if value > LARGEST_NUMBER:
            raise OptionError(f"{name} is too large; give at most {LARGEST_NUMBER}")


def check_share(name: str, value: float, meaning: str) -> None:
    """Make sure that `value` is a number in [0, 1]; `meaning` says what 0 and 1 are.

    Raises:
        OptionError: it is not.
    """
    if not isinstance(value, Real):
        raise OptionError(f"{name} is {described(value)}; give a number from 0 to 1")
    if not 0 <= value <= 1:  # false for NaN too
        raise OptionError(f"{name} {value:g} is not in [0, 1]; {meaning}")


def check_frame(frame: object) -> FrameType:
    """Check one frame, and tell which integers it holds.

    Raises:
        OptionError: anything but a numpy array of uint8 or uint16 and shape (H, W, 3), none of them 0.
    """
    return _check(frame, "a frame", "(H, W, 3)", 3)


def check_batch(batch: object) -> FrameType:
    """Check a batch of frames, and tell which integers it holds.

    Raises:
        OptionError: anything but a numpy array of uint8 or uint16 and shape (N, H, W, 3), none of them 0.
    """
    return _check(batch, "a batch", "(N, H, W, 3)", 4)


def check_result(frames: Frames, result: object, scale: int, source: str) -> None:
    """Check what a session made of a batch; `source` is what messages name.

    Raises:
        ModelError: anything but an array of the same type, as many frames, and `scale` times their height and width.
    """
    n, height, width, _ = frames.shape
    wanted = (n, height * scale, width * scale, 3)
    if not isinstance(result, np.ndarray) or result.shape != wanted or result.dtype != frames.dtype:
        raise ModelError(
            f"{source}: gives {described(result)} for {frames.dtype} of shape {frames.shape}; enlarged {scale} times, "
            f"that is {wanted}. It does something else, or does not take frames of this size"
        )


def _check(value: object, name: str, shape: str, dimensions: int) -> FrameType:
    if (
        isinstance(value, np.ndarray)
        and value.dtype in (np.uint8, np.uint16)
        and value.ndim == dimensions
        and value.shape[-1] == 3
        and 0 not in value.shape
    ):
        return frame_type_of(value.dtype)
    received = f"{name} is uint8 or uint16 of shape {shape}, RGB; received {described(value)}"
    raise OptionError("; ".join([received, *_remedies(value, dimensions)]))


def described(value: object) -> str:
    """What `value` is, in a few words for a message. It is only looked at: no package is imported for it."""
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    if isinstance(value, int) and value.bit_length() > 1000:  # Python writes out no more than 4300 digits
        return f"a number of {value.bit_length()} bits"
    if value is None or isinstance(value, (bool, int, float, np.generic, str, bytes, os.PathLike)):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
    if package == "PIL":
        return f"a PIL image of mode {getattr(value, 'mode', '?')}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    name = f"an object of type {kind.__qualname__ if package == 'builtins' else f'{package}.{kind.__qualname__}'}"
    shape = _shape(value)
    return name if shape is None else f"{name}, {getattr(value, 'dtype', 'unknown type')} of shape {shape}"


def _shape(value: object) -> tuple[Any, ...] | None:
    """The shape of an array of any package, None of anything else."""
    shape = getattr(value, "shape", None)
    return tuple(shape) if isinstance(shape, tuple) else None


def _remedies(value: object, dimensions: int) -> Iterator[str]:
    """The calls, one after the other, that make a frame (3 dimensions) or a batch (4) of `value`."""
    package, one = type(value).__module__.partition(".")[0], dimensions == 3
    if package == "PIL":
        yield "give np.asarray(image.convert('RGB'))" + ("" if one else "[None]")
    elif isinstance(value, (str, os.PathLike)):
        yield "give the pixels: esrgan_deploy.images.read_image(path).rgb" + ("" if one else "[None]")
    elif isinstance(value, (list, tuple, Iterator)):
        yield "frames one by one go to Upscaler.map(frames)" if one else "give np.stack(frames)"
    shape = _shape(value)
    if shape is None:
        return
    if package == "torch":
        yield "give a numpy array, tensor.cpu().numpy()"
    elif hasattr(value, "__cuda_array_interface__"):
        yield "give a copy in the memory of the host, or use run_device of a tensorrt session"
    elif not isinstance(value, np.ndarray):
        yield "give a numpy array, np.asarray(array)"
    yield from _remedies_of_shape(shape, one)
    dtype = str(getattr(value, "dtype", ""))
    if "float" in dtype:
        yield "values are integers: give np.rint(array.clip(0, 1) * 255).astype(np.uint8) if they are 0 to 1"
    elif dtype.removeprefix("torch.") not in ("uint8", "uint16"):
        yield "give array.astype(np.uint8) if its values are 0 to 255, np.uint16 if they are 0 to 65535"


def _remedies_of_shape(shape: tuple[Any, ...], one: bool) -> Iterator[str]:
    if 0 in shape:
        yield "it holds no pixels"
    elif one and len(shape) == 4:
        yield "the frames of a batch go to Upscaler.map(batch), a whole batch to Session.run(batch)"
    elif not one and len(shape) == 3 and shape[-1] == 3:
        yield "give frame[None], or one frame to Upscaler.upscale(frame)"
    elif len(shape) == 2:
        yield "a grey picture has three equal channels: np.dstack([grey] * 3)" + ("" if one else "[None]")
    elif len(shape) not in (3, 4) or shape[-1] == 3:
        return
    elif shape[-1] == 4:
        yield "give array[..., :3]; esrgan_deploy.images.upscale_image keeps the transparency of a picture"
    elif shape[-1] == 1:
        yield "a grey picture has three equal channels: array.repeat(3, axis=-1)"
    elif shape[-3] == 3:
        yield "channels come last: np.moveaxis(array, -3, -1)"
