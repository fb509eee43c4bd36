"""Plans on the disk: how they are named, found again, checked and removed."""
