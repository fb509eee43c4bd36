"""Checkpoints to artefacts: load, interpolate, export to ONNX, verify. Needs the `export` extra (torch)."""

import esrgan_deploy  # noqa: F401  # before ONNX Runtime is loaded, which would report to its maker
