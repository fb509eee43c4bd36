"""A PyTorch network as a Session: integer frames in and out, for evaluation and for validation while training."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from torch import Tensor

from esrgan_deploy.backends.session import ThreadedSession
from esrgan_deploy.errors import MachineError, ModelError
from esrgan_deploy.frame_io import LARGEST, Frames
from esrgan_deploy.model import ModelInfo
from esrgan_export.networks import Network


class NetworkSession(ThreadedSession):
    """Runs `network` in fp32 on the device that it is on. Until `close`, the network is in evaluation mode.

    Args:
        network: has fp32 weights on one device. They are not copied, so that training can go on with the network;
            `close` restores its mode.

    Frames are converted as in the ONNX backends (`frame_io`): x / largest before the network, and after it
    round(clip(y, 0, 1) * largest), half to even. On a GPU, TF32 is switched off.
    """

    def __init__(self, network: Network) -> None:
        info = ModelInfo(scale=network.scale, multiple_of=network.multiple_of, arch=network.config())
        super().__init__(info, backend="torch", precision="fp32")
        self._network = network
        self._device = next(network.parameters()).device
        self._was_training = network.training
        network.eval()

    def close(self) -> None:
        """See `Session.close`."""
        super().close()
        self._network.train(self._was_training)

    def _infer(self, frame: Frames) -> Frames:
        height, width = frame.shape[1:3]
        largest = LARGEST[frame.dtype.name]
        try:
            with torch.inference_mode(), _without_tf32(self._device):
                output = self._network(_to_planes(frame, self._device) / largest)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            raise MachineError(
                f"{self._device}: not enough memory for a {width}x{height} frame; a smaller tile needs less"
            ) from error
        if output.isnan().any():
            raise ModelError(f"the network gives NaN on a {width}x{height} frame; its weights are broken")
        pixels = (output.clamp(0, 1) * largest).round().to(torch.int32).permute(0, 2, 3, 1)
        result: Frames = pixels.cpu().numpy().astype(frame.dtype)
        return result


def _to_planes(frame: Frames, device: torch.device) -> Tensor:
    """(N, H, W, 3) integers -> (N, 3, H, W) floats of the same values, converted on the device."""
    if frame.dtype == np.uint16:
        frame = frame.astype(np.int32)  # PyTorch has few operations for uint16
    return torch.from_numpy(frame).to(device).permute(0, 3, 1, 2).float()


def _without_tf32(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Convolutions in full fp32: by default cuDNN keeps 10 bits of the mantissa, which changes pixels by 1."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    flags: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether `error` says that memory ran out; PyTorch has an exception of its own for the memory of a GPU only."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
