"""YUV frames to RGB arrays and back."""
