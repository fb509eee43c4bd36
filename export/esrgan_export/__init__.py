"""Checkpoints to artefacts: load, interpolate, export to ONNX, verify. Needs the `export` extra (torch)."""
