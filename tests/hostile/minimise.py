"""The smallest failing input: edits are left out one by one, then stretches of the file."""

from itertools import pairwise

MOST_RUNS = 60
MOST_SECONDS = 120.0
LEAST_CUT = 16
"""Bytes."""


def minimise(verdict_of, first):
    """The arguments (`kept`, `cuts`) of the smallest case that fails as `first` did, and its verdict.

    Args:
        verdict_of: runs the case with `kept` and `cuts`, see `Shop`.
        first: the verdict of the whole case.
    """
    search = _Search(verdict_of, first)
    kept = set(range(first.edits))
    for number in range(first.edits):
        if search.fails(kept - {number}, {}):
            kept -= {number}
    cuts = {}
    for name, size in first.sizes.items():
        step = size // 2
        while step >= LEAST_CUT:
            for begin in range(0, size, step):
                tried = {**cuts, name: [*cuts.get(name, []), (begin, min(begin + step, size))]}
                if not _overlap(tried[name]) and search.fails(kept, tried):
                    cuts = tried
            step //= 2
    return kept, cuts, search.best


class _Search:
    def __init__(self, verdict_of, first):
        self._verdict_of = verdict_of
        self._wanted = {kind for kind, _ in first.faults}
        self.best = first
        self._runs = min(MOST_RUNS, int(MOST_SECONDS / max(first.seconds, 0.1)))

    def fails(self, kept, cuts):
        """Whether it still fails in the same way; False when enough was tried."""
        if self._runs <= 0:
            return False
        self._runs -= 1
        verdict = self._verdict_of(kept, cuts)
        if not self._wanted & {kind for kind, _ in verdict.faults}:
            return False
        self.best = verdict
        return True


def _overlap(ranges):
    ordered = sorted(ranges)
    return any(end > begin for (_, end), (begin, _) in pairwise(ordered))
