"""YUV pictures to RGB frames and back."""
