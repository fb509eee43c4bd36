"""Hostile input, made by the thousand: files, surroundings and faults that no ordinary user has.

`classes/` makes the cases, one file for each class; `worker.py` runs them in forked processes; `oracles.py` says what
is right. `python -m tests.hostile --help`, and README.md beside this file.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
for _folder in ("tests/train", "tests/export", "tests/runtime", "tests", "benchmarks", "train", "export", "."):
    if str(ROOT / _folder) not in sys.path:
        sys.path.insert(0, str((ROOT / _folder).resolve()))
