"""What differs between operating systems: processor, memory, locks, folders, files, processes, native libraries.

The only package that may know which system it runs on.
"""
