"""Which way to run a network is the fastest on this CPU is found out by timing, once, and remembered.

candidates.py lists the ways that keep the quality asked for, excerpt.py makes a short network of a long one, timing.py
lets the candidates compete on it, choice.py is the answer, memory.py keeps it, settings.py applies it to a job.
"""

from esrgan_deploy.tuning.choice import Candidate, Choice, Timing
from esrgan_deploy.tuning.saved_choices import recall
from esrgan_deploy.tuning.search import LIMIT_S, tune

__all__ = ["LIMIT_S", "Candidate", "Choice", "Timing", "recall", "tune"]
