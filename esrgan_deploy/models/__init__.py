"""The network that comes with the runtime: the compact pair of `esrgan_export.models`, interpolated at alpha 0.8.

CARD.md in `esrgan_export.models` says what it was trained on, how, and what it can do.
"""

from __future__ import annotations

from pathlib import Path

BUNDLED = Path(__file__).with_name("compact_x4_a0.80_fp32.onnx")
"""ONNX, x4, fp32: `open_session(BUNDLED)`. The commands use it if no model is named.

Its INT8 artefact lies beside it: `open_session(BUNDLED, precision="int8")`. It is 42 dB from fp32 on the worst of the
five photos that exports are verified on, none of which it was calibrated on."""
