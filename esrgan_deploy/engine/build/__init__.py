"""Compile an ONNX network to a TensorRT plan."""
