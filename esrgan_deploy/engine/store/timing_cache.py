"""TensorRT's timing cache as a file with a check sum, since TensorRT aborts the process when it reads a damaged one.

8 bytes   magic
8 bytes   length of the content, little-endian
32 bytes  SHA-256 of the content
content   what TensorRT serialised
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from esrgan_deploy.budget import read_bytes
from esrgan_deploy.errors import EsrganError, ModelError
from esrgan_deploy.system.files import replacing

_MAGIC = b"ESRTIME1"
_HEADER = struct.Struct("<8sQ32s")


def read(path: Path) -> bytes:
    """The content of a file that `write` wrote; empty if it is missing, unreadable or damaged."""
    try:
        data = read_bytes(path, ModelError)
    except EsrganError:
        return b""
    content = data[_HEADER.size :]
    return content if data[: _HEADER.size] == _header(content) else b""


def write(path: Path, content: bytes) -> None:
    """Write `content` with its header, completely or not at all.

    Raises:
        OutputError: the folder does not exist or cannot be written to, or the disk is full.
    """
    with replacing(path) as partial:
        partial.write_bytes(_header(content) + content)


def _header(content: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, len(content), hashlib.sha256(content).digest())
