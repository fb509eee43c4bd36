"""Pictures for training: decoded once, cropped by number."""
