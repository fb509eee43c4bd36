"""Quantisation-aware fine-tuning: an INT8 network learns to give what its float original gives.

crops.py reads the pictures, student.py makes the network that rounds and takes its weights back, tune.py is the run,
saved.py its state between two calls, and artefact.py leads from network to file.
"""
