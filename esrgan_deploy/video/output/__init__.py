"""Writing a clip: encode frames, keep finished segments, mux the file."""
