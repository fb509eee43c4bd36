"""Keep plans on the disk: name, find, check and remove them."""
