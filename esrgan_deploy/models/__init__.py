"""The models that come with the package: pairs of a PSNR network and a GAN akin to it, and what is made of them.

Of each pair lie here both checkpoints, their blend at the pair's own alpha as ONNX in fp32 and in INT8, the reports of
both, and a card: what it was trained on, how, and what it can do. `benchmarks/studies/bundle.py` makes the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class BundledModel:
    """A pair that comes with the package, x4, and where its files are."""

    name: str
    """What the commands call it."""
    stem: str
    """What the names of its files begin with."""
    alpha: float
    """The GAN's share of the blend that `onnx` is, 0 to 1."""
    purpose: str
    """What it is for, in a line."""
    licence: str = "Apache-2.0"
    """SPDX identifiers of the weights' licences; NOTICE names the holders."""
    scale: int = 4
    """Output pixels per input pixel, in each direction."""

    @property
    def onnx(self) -> Path:
        """The blend at `alpha`, fp32. Its INT8 artefact lies beside it: `open_session(path, precision="int8")`."""
        return _FOLDER / f"{self.stem}_x{self.scale}_a{self.alpha:.2f}_fp32.onnx"

    @property
    def psnr(self) -> Path:
        """The checkpoint at alpha 0."""
        return _FOLDER / f"{self.stem}_psnr_x{self.scale}.safetensors"

    @property
    def gan(self) -> Path:
        """The checkpoint at alpha 1, trained from `psnr` or, like it, from a third one."""
        return _FOLDER / f"{self.stem}_gan_x{self.scale}.safetensors"

    @property
    def card(self) -> Path:
        """What it was trained on, how, and how good it is: Markdown."""
        return _FOLDER / f"{self.name}.md"


MODELS = {
    model.name: model
    for model in (
        BundledModel(
            "ordinary",
            stem="ordinary",
            alpha=0.5,
            purpose="photographs and clips as people have them: JPEG, compressed video, noise, and clean ones",
            licence="Apache-2.0 AND BSD-3-Clause",
        ),
        BundledModel(
            "compact-clean",
            stem="compact",
            alpha=0.8,
            purpose="clean pictures shrunk by bicubic interpolation, as in the papers' tables; the fastest",
        ),
    )
}
"""Name -> model."""

DEFAULT = "ordinary"
"""The name of the model that the commands use if none is named."""

BUNDLED = MODELS[DEFAULT].onnx
"""The default model, ONNX, x4, fp32: `open_session(BUNDLED)`."""

COMPACT_CLEAN = MODELS["compact-clean"].onnx
"""The smallest of the models, in the same form."""
