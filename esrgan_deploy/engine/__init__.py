"""Build TensorRT engines of ONNX networks, keep them on the disk and run them, without torch.

A plan runs only with the GPU, driver and TensorRT that it was built with, so it is built on the machine that runs it.
`tensorrt` is imported inside functions only.
"""
