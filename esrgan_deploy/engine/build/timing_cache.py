"""TensorRT's timing cache as a file that is checked before TensorRT sees it: damaged bytes abort the process there.

8 bytes   magic
8 bytes   length of the content, little-endian
32 bytes  SHA-256 of the content
content   what TensorRT serialised
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from esrgan_deploy.system.files import replacing

MAGIC = b"ESRTIME1"
HEADER = struct.Struct("<8sQ32s")


def read(path: Path) -> bytes:
    """The content of a file that `write` wrote; nothing where it is absent, unreadable or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return b""
    if len(data) < HEADER.size:
        return b""
    magic, length, digest = HEADER.unpack_from(data)
    content = data[HEADER.size :]
    intact = magic == MAGIC and length == len(content) and digest == hashlib.sha256(content).digest()
    return content if intact else b""


def write(path: Path, content: bytes) -> None:
    """Write `content` with its header, completely or not at all.

    Raises:
        OutputError: the folder does not exist or cannot be written to, or the disk is full.
    """
    header = HEADER.pack(MAGIC, len(content), hashlib.sha256(content).digest())
    with replacing(path) as partial:
        partial.write_bytes(header + content)
