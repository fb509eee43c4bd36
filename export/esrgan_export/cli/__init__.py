"""The commands of esrgan_export: one file each."""
