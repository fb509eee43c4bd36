"""Some frames before and after, side by side, to look at while a clip is being upscaled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy.errors import OutputError
from esrgan_deploy.system.files import replacing
from esrgan_deploy.system.own_folder import make_folder, open_folder
from esrgan_deploy.system.paths import check_name

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

_ENDING = ".preview"


class Preview:
    """Writes `TARGET.preview/frame_000120.png` for every Nth frame of a run."""

    def __init__(self, target: Path, every: int) -> None:
        """Prepare.

        Raises:
            OutputError: the name is too long, or something that this program did not make has it.
        """
        # Loaded by the thread that makes this, since `add` is called by another one, beside a third that needs it too.
        import cv2  # noqa: F401

        check_name(target, ending=_ENDING)
        self.folder = target.with_name(f"{target.name}{_ENDING}")
        try:
            if folder := open_folder(self.folder):
                folder.close()
        except OSError as error:
            raise self._not_kept(error) from error
        self._every = every
        self._count = 0

    def add(self, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> None:
        """Take the next frame; every `every`th one is written.

        Args:
            before: (H, W, 3) RGB, uint8 or uint16. It is enlarged without smoothing, to show its pixels.
            after: of the same type, and larger.

        Raises:
            OutputError: the PNG cannot be written.
        """
        import cv2
        import numpy as np

        self._count += 1
        if (self._count - 1) % self._every:
            return
        height, width = after.shape[:2]
        enlarged = cv2.resize(before, (width, height), interpolation=cv2.INTER_NEAREST)
        side_by_side = cv2.cvtColor(np.hstack([enlarged, after]), cv2.COLOR_RGB2BGR)
        try:
            with make_folder(self.folder) as folder:
                folder.mark()
        except OSError as error:
            raise self._not_kept(error) from error
        with replacing(self.folder / f"frame_{self._count - 1:06}.png") as partial:
            partial.write_bytes(cv2.imencode(".png", side_by_side)[1].tobytes())

    def _not_kept(self, error: OSError) -> OutputError:
        return OutputError(f"{self.folder}: no previews can be kept there: {error.strerror}; name another output")
