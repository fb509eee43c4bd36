"""What makes SR pictures: a folder of results, a network, or bicubic interpolation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.backends import open_session
from esrgan_deploy.errors import BackendMissingError, MediaError
from esrgan_deploy.system.paths import real_path
from esrgan_deploy.upscaler import Upscaler
from esrgan_export.back_projection import back_project
from esrgan_export.bicubic import upscale
from esrgan_export.evaluation.image_pairs import ImagePair, images_by_stem, partner, read_uint8_image, size

if TYPE_CHECKING:
    from esrgan_deploy.backends import Session
    from esrgan_export.image_types import Uint8Image


class Method(ABC):
    """Makes the SR picture of a pair."""

    name: str
    """The name in tables."""
    source: str
    """The file or folder that it comes from."""

    @abstractmethod
    def __call__(self, pair: ImagePair) -> Uint8Image:
        """The SR picture: uint8 RGB of the size of `pair.hr`.

        Raises:
            MediaError: the picture cannot be read, or has another size.
        """


class Bicubic(Method):
    """MATLAB's imresize, the baseline of every table."""

    name = "bicubic"
    source = "MATLAB imresize"

    def __call__(self, pair: ImagePair) -> Uint8Image:
        """See `Method`."""
        return upscale(pair.lr, pair.scale)


class Folder(Method):
    """Results in a folder, one file for each HR picture."""

    def __init__(self, folder: StrPath, names: Iterable[str], scale: int) -> None:
        """Find the results of the HR pictures. They are read later, one at a time.

        Args:
            folder: holds the results; may hold other pictures too.
            names: stems of the HR pictures.
            scale: see `partner`.

        Raises:
            MediaError: not a folder, no picture in it, or one of `names` has no result.
        """
        folder = as_path(folder)
        self.name = real_path(folder).name
        self.source = str(folder)
        pictures = images_by_stem(folder)
        self._paths = {name: partner(name, pictures, folder, scale) for name in names}

    def __call__(self, pair: ImagePair) -> Uint8Image:
        """See `Method`."""
        path = self._paths[pair.name]
        picture = read_uint8_image(path)
        if picture.shape != pair.hr.shape:
            raise MediaError(
                f"{path}: is {size(picture)}, HR is {size(pair.hr)} (cropped to multiples of {pair.scale}); "
                "results and HR must have one size"
            )
        return picture


class Model(Method):
    """A network: an ONNX file in a session of the runtime, or a checkpoint in PyTorch."""

    def __init__(self, path: StrPath, backend: str = "auto", tile: int | None = None) -> None:
        """Load the network.

        Args:
            path: an ONNX file, or a checkpoint that `load_checkpoint` reads.
            backend: for ONNX files, see `open_session`. Checkpoints run in PyTorch, on a GPU if there is one.
            tile: see `Upscaler`.

        Raises:
            BackendMissingError: a package is not installed.
            ModelError: the file cannot be used.
            OptionError: a tile that is not larger than its overlap.
        """
        path = as_path(path)
        self.name = path.stem
        self.source = str(path)
        session = open_session(path, backend) if path.suffix.lower() == ".onnx" else _open_checkpoint(path)
        self.scale = session.info.scale
        self._upscaler = Upscaler(session, tile=tile)

    def __call__(self, pair: ImagePair) -> Uint8Image:
        """See `Method`."""
        return self._upscaler.upscale(pair.lr)

    def close(self) -> None:
        """Free the memory of the network."""
        self._upscaler.close()


class BackProjected(Method):
    """The pictures of another method after back-projection."""

    def __init__(self, method: Method, iterations: int) -> None:
        self.name = f"{method.name} bp{iterations}"
        self.source = method.source
        self._method = method
        self._iterations = iterations

    def __call__(self, pair: ImagePair) -> Uint8Image:
        """See `Method`."""
        return back_project(self._method(pair), pair.lr, self._iterations)


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
