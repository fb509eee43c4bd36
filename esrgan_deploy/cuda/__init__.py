"""The few parts of CUDA that the runtime needs, and arrays of other libraries that lie in GPU memory."""
