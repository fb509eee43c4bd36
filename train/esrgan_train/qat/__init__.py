"""Quantisation-aware fine-tuning: an INT8 network is trained to give the pictures of its float original.

artefact.py   from a network to a fine-tuned ONNX file
crops.py      crops of the pictures, to train on and to validate on
student.py    the network that is trained, which rounds; and how its weights get back into one that does not
tune.py       the run
state.py      the state of a run that was interrupted
"""
