"""An ONNX network becomes a plan: TensorRT compiles it for the shapes that will come."""
