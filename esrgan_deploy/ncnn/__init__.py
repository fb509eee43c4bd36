"""Models that are stored for ncnn, the format of Vulkan programs, as artefacts of this project; no torch is needed.

from esrgan_deploy.ncnn import onnx_from_ncnn

Path("animevideo.onnx").write_bytes(onnx_from_ncnn("animevideo.param", "animevideo.bin").SerializeToString())
"""

from esrgan_deploy.ncnn.convert import onnx_from_ncnn
from esrgan_deploy.ncnn.read import NcnnNetwork, read_ncnn

__all__ = ["NcnnNetwork", "onnx_from_ncnn", "read_ncnn"]
