"""Find out by timing how to run a network the fastest on this CPU, once, and save the answer.

`candidates` lists the ways that keep the quality asked for, `short_network` cuts a short network off a long one,
`halving` times the candidates on it, `search` puts these together. `run_settings` applies the answer to a run.
"""

from esrgan_deploy.backends.choice import Candidate, Choice, Timing
from esrgan_deploy.backends.saved_choices import recall
from esrgan_deploy.tuning.search import LIMIT_S, tune

__all__ = ["LIMIT_S", "Candidate", "Choice", "Timing", "recall", "tune"]
