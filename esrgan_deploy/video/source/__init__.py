"""Reading a clip: open it, scan its packets, decode its frames."""
