"""What an engine is built for: the shapes of batches, the type of the frames, and settings of the builder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from esrgan_deploy.errors import OptionError
from esrgan_deploy.frame_io import FrameType
from esrgan_deploy.model import ModelInfo

Tiling = Literal["none", "fast", "moderate", "full"]
TILINGS: tuple[Tiling, ...] = ("none", "fast", "moderate", "full")
DEFAULT_SIZE = (360, 640)
"""Height and width."""
SHORT: dict[FrameType, str] = {"uint8": "u8", "uint16": "u16"}


@dataclass(frozen=True)
class Shape:
    """Frames in a batch, and their height and width in input pixels."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read back what `str` gave.

        Raises:
            OptionError: not BATCHxHEIGHTxWIDTH.
        """
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", text):
            raise OptionError(f"shape '{text}' is not BATCHxHEIGHTxWIDTH, for instance 4x360x640")
        return cls(*map(int, text.split("x")))

    def _sizes(self) -> tuple[int, int, int]:
        return self.batch, self.height, self.width


@dataclass(frozen=True)
class Profile:
    """The shapes that an engine takes: from `min` to `max` in each dimension, fastest at `opt`."""

    min: Shape
    opt: Shape
    max: Shape

    def __post_init__(self) -> None:
        rows = zip(self.min._sizes(), self.opt._sizes(), self.max._sizes(), strict=True)
        if not all(1 <= low <= middle <= high for low, middle, high in rows):
            raise OptionError(
                f"profile {self.min}, {self.opt}, {self.max}: batch, height and width must be 1 or more and grow "
                "from min over opt to max"
            )

    @classmethod
    def fixed(cls, batch: int, height: int, width: int) -> Profile:
        """A profile of a single shape, which builds and runs the fastest."""
        shape = Shape(batch, height, width)
        return cls(shape, shape, shape)

    @property
    def is_static(self) -> bool:
        """Whether there is one shape only."""
        return self.min == self.max

    def covers(self, shape: Shape) -> bool:
        """Whether an engine with this profile takes batches of `shape`."""
        rows = zip(self.min._sizes(), shape._sizes(), self.max._sizes(), strict=True)
        return all(low <= size <= high for low, size, high in rows)

    def __str__(self) -> str:
        """For file names: 1x360x640, or 1x64x64-1x360x640-4x720x1280."""
        return str(self.opt) if self.is_static else f"{self.min}-{self.opt}-{self.max}"

    @classmethod
    def parse(cls, text: str) -> Profile:
        """Read back what `str` gave.

        Raises:
            OptionError: something else.
        """
        shapes = [Shape.parse(part) for part in text.split("-")]
        if len(shapes) not in (1, 3):
            raise OptionError(f"profile '{text}' is neither one shape nor three")
        return cls(shapes[0], shapes[len(shapes) // 2], shapes[-1])


def default_profile(info: ModelInfo) -> Profile:
    """One frame of the model's own size, or of 640x360 rounded up to a size that the model takes."""
    height, width = info.fixed_size or (-(-side // info.multiple_of) * info.multiple_of for side in DEFAULT_SIZE)
    return Profile.fixed(1, height, width)


@dataclass(frozen=True)
class EngineOptions:
    """Everything that the caller decides about an engine. Model, machine and options make the engine's key."""

    profile: Profile
    frames: FrameType = "uint8"
    """Type of the samples that go in and come out."""
    refit: bool = False
    """Allow the weights to be exchanged, so that alpha can be set later; costs a little speed."""
    optimization_level: int | None = None
    """0 (quick build) to 5 (long search); None: TensorRT's default, 3. TensorRT 8.5 has no such setting."""
    tiling: Tiling = "none"
    """How thoroughly TensorRT looks for tilings that keep data in the L2 cache (from 10.8 on)."""
    aux_streams: int | None = None
    """Additional CUDA streams that TensorRT may compute layers in; None: it decides."""
    workspace_mib: int | None = None
    """Scratch memory that a layer may use, in MiB; None: all of the GPU's."""

    def __post_init__(self) -> None:
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise OptionError(f"optimization level {self.optimization_level} is out of range; give 0 to 5")
        if self.tiling not in TILINGS:
            raise OptionError(f"tiling '{self.tiling}' is unknown; choose one of {', '.join(TILINGS)}")
        for name, value, smallest in (("aux-streams", self.aux_streams, 0), ("workspace", self.workspace_mib, 1)):
            if value is not None and value < smallest:
                raise OptionError(f"{name} {value} is too small; give at least {smallest}")

    def to_json(self) -> dict[str, Any]:
        """Values for the sidecar and the key."""
        return {**self.__dict__, "profile": str(self.profile)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> EngineOptions:
        """Read back what `to_json` gave.

        Raises:
            OptionError: a value out of range.
            TypeError: a field too many or too few.
        """
        return cls(**{**content, "profile": Profile.parse(content["profile"])})

    def label(self) -> str:
        """For file names: u8_1x360x640, u16_1x360x640_refit."""
        return f"{SHORT[self.frames]}_{self.profile}" + ("_refit" if self.refit else "")
