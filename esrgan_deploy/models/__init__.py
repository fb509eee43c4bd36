"""The network that comes with the runtime: the compact pair of `esrgan_export.models`, blended at alpha 0.8.

What it was trained on, how, and what it can do: CARD.md beside the weights.
"""

from __future__ import annotations

from pathlib import Path

BUNDLED = Path(__file__).with_name("compact_x4_a0.80_fp32.onnx")
"""x4, ONNX, fp32; what the commands take when no model is named. `open_session(BUNDLED)`.

Its INT8 artefact lies beside it: `open_session(BUNDLED, precision="int8")`. It is 42 dB from fp32 on the worst of the
five photos that exports are verified on, none of which it was calibrated on."""
