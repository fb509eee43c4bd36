"""Writing a clip: encode pictures, keep finished segments, mux the file."""
