"""The two types of image that this package passes around."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Uint8Image: TypeAlias = "npt.NDArray[np.uint8]"
"""RGB (H, W, 3), 0 to 255."""

FloatImage: TypeAlias = "npt.NDArray[np.float32]"
"""RGB (H, W, 3); 0 is black and 1 is white. What a network gives before it is clamped goes beyond."""
