"""ONNX becomes a TensorRT engine, on the machine that will run it and without torch.

A plan belongs to one GPU, driver and TensorRT, so it is built where it runs, and found again by everything that it
depends on. `tensorrt` is imported inside functions only.
"""
