"""INT8 that keeps the picture: post-training quantisation, from a network's fp32 graph to one with Q/DQ nodes.

prepared.py      the steps in their order: ranges, balance, scales, what stays float
structure.py     which tensors are read together, and which channels can be rescaled
calibration.py   crops of the pictures that ranges are measured on
equalise.py      rescale channels so that each uses the eight bits well, and choose where to clip
mixed.py         measure what INT8 costs in each group of convolutions, and choose which stay float
simulate.py      the rounding network in PyTorch
qdq.py           write QuantizeLinear and DequantizeLinear into the graph

docs/int8.md has the study behind it.
"""

from __future__ import annotations

from esrgan_export.quantise.prepared import Prepared, prepare, with_weights

__all__ = ["Prepared", "prepare", "with_weights"]
