"""How much noise a network removes, where the same network was trained twice: once to remove it, once to keep it.

    theta = denoise * theta_strong + (1 - denoise) * theta_weak

This is `--denoise_strength` of Real-ESRGAN's inference script for realesr-general-x4v3 and realesr-general-wdn-x4v3
(deep network interpolation, Wang et al. 2019): 1 is the strong network alone, 0 the weak one. It is the blend of
`esrgan_deploy.alpha`, with the weak network at alpha 0 and the strong one at alpha 1.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy.alpha import model_at_alpha, of_graph
from esrgan_deploy.arguments import StrPath, as_path, check_share
from esrgan_deploy.budget import read_bytes
from esrgan_deploy.errors import ModelError
from esrgan_deploy.model import ModelInfo, load_onnx
from esrgan_deploy.onnx_write import set_info
from esrgan_deploy.system.files import replacing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx


def check_denoise(denoise: float) -> None:
    """Make sure that `denoise` is a share of the strong network.

    Raises:
        OptionError: it is no number in [0, 1].
    """
    check_share("denoise", denoise, "0 keeps noise, 1 removes it, 0.5 is between")


def denoised_file(strong: StrPath, weak: StrPath, denoise: float, folder: StrPath) -> Path:
    """The ONNX file of the network at `denoise`, made in `folder` from those of both networks.

    Args:
        strong: the network that removes noise; itself the answer for 1.
        weak: the same network, trained to keep noise; itself the answer for 0.
        denoise: the share of the strong one, 0 to 1.
        folder: where the file is written, unless it is there already.

    Raises:
        BackendMissingError: onnx or ml_dtypes is not installed.
        ModelError: a damaged file, or two different networks.
        OptionError: `denoise` is not in [0, 1].
        OutputError: `folder` cannot be written.
    """
    strong, weak = as_path(strong), as_path(weak)
    check_denoise(denoise)
    if denoise in (0, 1):
        return strong if denoise else weak
    data = blend(strong, weak, denoise).SerializeToString()
    path = as_path(folder) / f"{strong.stem}_dn{float(denoise)!r}.onnx"
    if not (path.is_file() and read_bytes(path, ModelError) == data):
        with replacing(path) as partial:
            partial.write_bytes(data)
    return path


def blend(strong: StrPath, weak: StrPath, denoise: float) -> onnx.ModelProto:
    """The network at `denoise`: what esrgan-export makes of the two with `--psnr weak --gan strong --alpha denoise`.

    Raises:
        BackendMissingError: onnx is not installed.
        ModelError: a damaged file, or two different networks.
        OptionError: `denoise` is not in [0, 1].
    """
    from onnx import TensorProto

    strong, weak = as_path(strong), as_path(weak)
    check_denoise(denoise)
    (one, one_info), (zero, zero_info) = load_onnx(strong), load_onnx(weak)
    for path, model in ((strong, one), (weak, zero)):
        if any(tensor.data_type != TensorProto.FLOAT for tensor in model.graph.initializer):
            raise ModelError(
                f"{path}: holds weights that are not fp32, from which no blend is made; give its fp32 file"
            )
    if _without_weights(one) != _without_weights(zero):
        raise ModelError(f"{weak}: is another network than {strong}, so there is nothing between the two")
    info = dataclasses.replace(
        one_info,
        overlap=max(one_info.overlap, zero_info.overlap) if one_info.overlap and zero_info.overlap else None,
        alpha=float(denoise),
        psnr_sha256=_origin(zero_info),
        gan_sha256=_origin(one_info),
    )
    model = model_at_alpha(one, of_graph(one, info, psnr=_weights(zero), gan=_weights(one)), denoise)
    set_info(model, info)
    return model


def _weights(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.float32]]:
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _without_weights(model: onnx.ModelProto) -> bytes:
    """The graph, and the names and shapes of its weights in their order."""
    bare = type(model.graph)()
    bare.CopyFrom(model.graph)
    for tensor in bare.initializer:
        for values in ("raw_data", "float_data"):
            tensor.ClearField(values)
    data: bytes = bare.SerializeToString(deterministic=True)
    return data


def _origin(info: ModelInfo) -> str:
    """SHA-256 of the checkpoint that a file was made from, or of the file itself."""
    return info.gan_sha256 or info.psnr_sha256 or info.file_sha256 or ""
