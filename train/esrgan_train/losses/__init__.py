"""Losses, one file each. Pure functions of tensors; the only state is the frozen VGG of `vgg`."""
