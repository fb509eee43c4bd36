"""Everything a user can cause is an `EsrganError`.

    EsrganError                 exit code
    |-- OptionError             2   an argument that cannot be right: alpha 1.5, a tile smaller than its overlap
    |-- ModelError              2   a checkpoint, ONNX file or engine that is damaged or of another kind
    |   `-- FidelityError       2   an export that does not do what the network did
    |-- MediaError              2   a picture or clip that cannot be read, or is of a kind that is not supported
    |-- OutputError             2   a path that cannot be written
    |-- ClosedError             2   a session or an Upscaler that is used after it was closed
    |-- MachineError            3   this machine cannot do it
    |   `-- BackendMissingError 3   a Python package is not installed; the message names the extra
    `-- StallError              5   nothing has moved for minutes; 4 is that of `esrgan-bench --compare`

A message is one line that names the file, the value and the remedy. `ImportError`, `OSError` and the exceptions of
FFmpeg, ONNX Runtime and OpenVINO become the most specific of these where they arise. Any other exception is a fault of
this project, and commands exit with 1.
"""

from __future__ import annotations


class EsrganError(Exception):
    """Root of the tree; `exit_code` is what a command returns."""

    exit_code = 2


class OptionError(EsrganError):
    """An argument that cannot be right, whatever the files hold."""


class ModelError(EsrganError):
    """A checkpoint, ONNX file or engine that is damaged, of another kind, or does not fit its partner."""


class FidelityError(ModelError):
    """An exported artefact whose output differs too much from the network it was made from."""


class MediaError(EsrganError):
    """A picture or clip that cannot be read or is of a kind that is not supported."""


class OutputError(EsrganError):
    """A path that cannot be written, or a disk that is full."""


class ClosedError(EsrganError):
    """A session or an Upscaler is used after it was closed."""


class MachineError(EsrganError):
    """The input is fine, but this machine cannot do the work: no GPU, not enough memory."""

    exit_code = 3


class BackendMissingError(MachineError):
    """The Python package of a backend is not installed, or is shadowed by another one."""


class StallError(EsrganError):
    """A run stood still: no stage of it had moved for minutes. What is finished is kept."""

    exit_code = 5
