"""Models by name: which there are, where their files come from, and how they become the ONNX files that run.

registry.toml   the names, with licences, addresses and hashes, and where each hash is published
entry.py registry.py     one model; all of them, with the user's own
find.py         from a name to a file: the user's folder, the cache, a Python package, the network
download.py convert.py   one file from the network; ncnn and checkpoints become ONNX
"""

from esrgan_deploy.zoo.fetch import fetch_model

__all__ = ["fetch_model"]
