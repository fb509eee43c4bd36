"""Run plans: load them, upscale frames in host or GPU memory, and exchange the weights."""
