"""A clip from file to file, through pipes, or on a cluster."""
