"""A model that was published twice, once to remove noise and once to keep it, and all that lies between the two."""

from __future__ import annotations

from pathlib import Path

from esrgan_deploy.denoise import check_denoise, denoised_file
from esrgan_deploy.errors import OptionError
from esrgan_deploy.zoo.download import Progress
from esrgan_deploy.zoo.find import Ask, model_file, own_place
from esrgan_deploy.zoo.registry import entries, is_name


def models_with_denoise() -> list[str]:
    """The names for which `denoise` means something."""
    return [name for name, entry in entries().items() if entry.weak_denoise]


def denoised_model(name: str, denoise: float, ask: Ask, progress: Progress) -> Path:
    """The ONNX file of a model at `denoise`, as `model_file` finds it; the second network is fetched where it matters.

    Args:
        name: of a model that has a second network.
        denoise: 1 removes noise, 0 keeps it; a blend of both networks between.
        ask: see `model_file`.
        progress: see `model_file`.

    Raises:
        OptionError: the model has no second network, or `denoise` is not in [0, 1].
        EsrganError: see `zoo.fetch_model`.
    """
    check_denoise(denoise)
    entry = entries().get(name)
    weak = entry.weak_denoise if entry else None
    if is_name(name) and not weak:
        raise OptionError(
            f"denoise {denoise:g}: model '{name}' has no second network that keeps noise; leave it out, or take "
            f"{' or '.join(models_with_denoise())}"
        )
    if not weak or denoise == 1:
        return model_file(name, ask, progress)
    keeping = model_file(weak, ask, progress)
    if denoise == 0:
        return keeping
    removing = model_file(name, ask, progress)
    with own_place(name, progress) as folder:
        return denoised_file(removing, keeping, denoise, folder)
