"""What makes super-resolved pictures: a folder of results, a network, or bicubic interpolation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy.backends import open_session
from esrgan_deploy.errors import BackendMissingError, MediaError
from esrgan_deploy.upscaler import Upscaler
from esrgan_export.back_projection import back_project
from esrgan_export.bicubic import upscale
from esrgan_export.evaluation.pictures import Subject, list_pictures, partner, read_picture, size

if TYPE_CHECKING:
    from esrgan_deploy.backends import Session
    from esrgan_export.image_types import Uint8Image


class Method(ABC):
    """Makes the SR picture of a subject."""

    name: str
    """As tables show it."""
    source: str
    """File or folder that it comes from."""

    @abstractmethod
    def __call__(self, subject: Subject) -> Uint8Image:
        """uint8 RGB of the size of `subject.hr`.

        Raises:
            MediaError: the picture cannot be read, or has another size.
        """


class Bicubic(Method):
    """MATLAB's imresize: the baseline of every table."""

    name = "bicubic"
    source = "MATLAB imresize"

    def __call__(self, subject: Subject) -> Uint8Image:
        """See `Method`."""
        return upscale(subject.lr, subject.scale)


class Folder(Method):
    """Results that lie in a folder, one file for each HR picture."""

    def __init__(self, folder: Path, names: Iterable[str], scale: int) -> None:
        """Find the partners of the HR pictures; they are read when they are asked for.

        Args:
            folder: of pictures, more of them than are needed if it likes.
            names: stems of the HR pictures that will come.
            scale: see `partner`.

        Raises:
            MediaError: not a folder, no picture in it, or one of `names` has no partner.
        """
        self.name = folder.resolve().name
        self.source = str(folder)
        pictures = list_pictures(folder)
        self._paths = {name: partner(name, pictures, folder, scale) for name in names}

    def __call__(self, subject: Subject) -> Uint8Image:
        """See `Method`."""
        path = self._paths[subject.name]
        picture = read_picture(path)
        if picture.shape != subject.hr.shape:
            raise MediaError(
                f"{path}: is {size(picture)}, HR is {size(subject.hr)} (cropped to multiples of {subject.scale}); "
                "results and HR must have one size"
            )
        return picture


class Model(Method):
    """A network: an ONNX file in a session of the runtime, or a checkpoint in PyTorch."""

    def __init__(self, path: Path, backend: str = "auto", tile: int | None = None) -> None:
        """Load the network.

        Args:
            path: .onnx, or a checkpoint that `load_checkpoint` reads.
            backend: for ONNX files; see `open_session`. Checkpoints run in PyTorch, on the GPU if it sees one.
            tile: see `Upscaler`.

        Raises:
            BackendMissingError: a package is not installed.
            ModelError: the file cannot be used.
            OptionError: a tile that is not larger than its overlap.
        """
        self.name = path.stem
        self.source = str(path)
        session = open_session(path, backend) if path.suffix.lower() == ".onnx" else _open_checkpoint(path)
        self.scale = session.info.scale
        self._upscaler = Upscaler(session, tile=tile)

    def __call__(self, subject: Subject) -> Uint8Image:
        """See `Method`."""
        return self._upscaler.upscale(subject.lr)

    def close(self) -> None:
        """Give back what the device holds."""
        self._upscaler.close()


class BackProjected(Method):
    """Another method's pictures, made to agree with LR."""

    def __init__(self, method: Method, iterations: int) -> None:
        self.name = f"{method.name} bp{iterations}"
        self.source = method.source
        self._method = method
        self._iterations = iterations

    def __call__(self, subject: Subject) -> Uint8Image:
        """See `Method`."""
        return back_project(self._method(subject), subject.lr, self._iterations)


def _open_checkpoint(path: Path) -> Session:
    try:
        import torch

        from esrgan_export.checkpoint import load_checkpoint
        from esrgan_export.network_session import NetworkSession
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("esrgan"):
            raise
        raise BackendMissingError(
            f"{path}: a checkpoint needs {error.name}: pip install 'esrgan-deploy[export]'"
        ) from error
    network = load_checkpoint(path).network
    return NetworkSession(network.to("cuda" if torch.cuda.is_available() else "cpu"))
