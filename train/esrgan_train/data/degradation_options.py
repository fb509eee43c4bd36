"""The options of Real-ESRGAN's degradation: what `degradation` in a recipe can say.

The defaults are the official configuration RealESRGAN_x4plus.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"{limits[0]} is above {limits[1]}; write the smaller one first")
    return limits


Probability = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Range = Annotated[tuple[NotNegative, NotNegative], AfterValidator(_ordered)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
Count = Annotated[int, Field(ge=1)]
Quality = Annotated[int, Field(ge=1, le=100)]
QualityRange = Annotated[tuple[Quality, Quality], AfterValidator(_ordered)]
Quantiser = Annotated[int, Field(ge=1, le=31)]
Crf = Annotated[int, Field(ge=0, le=51)]
Crf63 = Annotated[int, Field(ge=0, le=63)]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class _Mixture(_Options):
    """Probabilities of alternatives, of which one is drawn; they sum to 1."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        weights = self.model_dump()
        if abs(sum(weights.values()) - 1) > 1e-6:
            raise ValueError(f"{', '.join(weights)} sum to {sum(weights.values()):g}; make it 1")
        return self

    def draw(self, rng: np.random.Generator) -> str:
        """The name of a random field; each comes up with the probability that it holds."""
        weights = self.model_dump()
        return str(rng.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values())))


class KernelMixture(_Mixture):
    """Probability of each shape of blur kernel; sums to 1."""

    isotropic: Probability = 0.45
    anisotropic: Probability = 0.25
    generalized_isotropic: Probability = 0.12
    generalized_anisotropic: Probability = 0.03
    plateau_isotropic: Probability = 0.12
    plateau_anisotropic: Probability = 0.03


class ResizeMixture(_Mixture):
    """Probability that a resize enlarges, shrinks, or does nothing; sums to 1."""

    up: Probability = 0.2
    down: Probability = 0.7
    keep: Probability = 0.1


class StageOptions(_Options):
    """One round of blur, resize, noise and JPEG; the defaults are those of the first round."""

    blur_probability: Probability = 1.0
    """Probability that there is a blur."""
    sinc_probability: Probability = 0.1
    """Probability that the blur is a sinc filter, instead of one from `kernels`."""
    kernels: KernelMixture = KernelMixture()
    sigma: PositiveRange = (0.2, 3.0)
    """Standard deviation of a kernel in px; drawn for each axis of an anisotropic kernel."""
    generalized_beta: PositiveRange = (0.5, 4.0)
    """Exponent of a generalised Gaussian; half of the draws are below 1, half above."""
    plateau_beta: PositiveRange = (1.0, 2.0)
    """Exponent of a plateau kernel; half of the draws are below 1 (with the default: exactly 1), half above."""
    resize: ResizeMixture = ResizeMixture()
    resize_range: PositiveRange = (0.15, 1.5)
    """Factors of the strongest shrinking and enlarging; the second round's are relative to the LR size."""
    gaussian_noise_probability: Probability = 0.5
    """Probability that the noise is Gaussian; otherwise it is Poisson noise."""
    gaussian_noise_sigma: Range = (1.0, 30.0)
    """Standard deviation in 8-bit code values."""
    poisson_noise_scale: Range = (0.05, 3.0)
    """Factor on the Poisson noise; 1 is shot noise with as many photons as the picture has grey levels."""
    grey_noise_probability: Probability = 0.4
    """Probability that the noise is the same in the three channels."""
    jpeg_quality: QualityRange = (30, 95)

    @model_validator(mode="after")
    def _ranges_contain_one(self) -> Self:
        if not self.resize_range[0] <= 1 <= self.resize_range[1]:
            raise ValueError(
                f"resize_range {list(self.resize_range)} must contain 1; it shrinks below and enlarges above"
            )
        for name in ("generalized_beta", "plateau_beta"):
            if not getattr(self, name)[0] <= 1 <= getattr(self, name)[1]:
                raise ValueError(f"{name} {list(getattr(self, name))} must contain 1; half of the draws are below it")
        return self


class SecondStageOptions(StageOptions):
    """The second round, which is weaker.

    It is a class of its own, so that a recipe that sets one of its fields keeps the others of the second round.
    """

    blur_probability: Probability = 0.8
    sigma: PositiveRange = (0.2, 1.5)
    resize: ResizeMixture = ResizeMixture(up=0.3, down=0.4, keep=0.3)
    resize_range: PositiveRange = (0.3, 1.2)
    gaussian_noise_sigma: Range = (1.0, 25.0)
    poisson_noise_scale: Range = (0.05, 2.5)


class CodecMixture(_Mixture):
    """Probability of each video codec; sums to 1."""

    h264: Probability = 0.4
    h265: Probability = 0.2
    mpeg4: Probability = 0.2
    vp9: Probability = 0.2


class VideoOptions(_Options):
    """Video instead of the last JPEG, with the scales of quality that FFmpeg's encoders have: lower is better."""

    probability: Probability = 0.5
    """Probability that the last compression is a video codec."""
    codecs: CodecMixture = CodecMixture()
    frames: Annotated[tuple[Count, Count], AfterValidator(_ordered)] = (1, 4)
    """Length of the clip, of which the last frame is taken: 1 is a key frame, later ones are predicted."""
    motion: NotNegative = 3.0
    """The picture moves at most this many px from frame to frame, in each direction."""
    h264_crf: Annotated[tuple[Crf, Crf], AfterValidator(_ordered)] = (18, 34)
    h265_crf: Annotated[tuple[Crf, Crf], AfterValidator(_ordered)] = (20, 36)
    mpeg4_q: Annotated[tuple[Quantiser, Quantiser], AfterValidator(_ordered)] = (2, 10)
    vp9_crf: Annotated[tuple[Crf63, Crf63], AfterValidator(_ordered)] = (20, 48)

    def quality(self, codec: str) -> tuple[int, int]:
        """The range of quality of one of `codecs`."""
        ranges = {"h264": self.h264_crf, "h265": self.h265_crf, "mpeg4": self.mpeg4_q, "vp9": self.vp9_crf}
        return ranges[codec]


class DegradationOptions(_Options):
    """Real-ESRGAN's second-order degradation; the defaults are RealESRGAN_x4plus."""

    first: StageOptions = StageOptions()
    second: SecondStageOptions = SecondStageOptions()
    final_sinc_probability: Probability = 0.8
    """Probability of a sinc filter at the end."""
    video: VideoOptions | None = None
    """Video codecs in place of some of the last JPEGs; none: always JPEG, as in the official code."""
    sharpen_target: bool = True
    """LR is made from HR that went through `sharpen`, and the pixel and perceptual losses compare with it, so that the
    network also learns to sharpen a little. The discriminator sees HR as it is, as in the official code."""
