"""The smallest failing input: edits are left out one by one, then stretches of the file."""

MOST_RUNS = 40


def minimise(verdict_of, first):
    """The arguments (`kept`, `cuts`) of the smallest case that fails as `first` did, and its verdict.

    Args:
        verdict_of: runs the case with `kept` and `cuts`.
        first: the verdict of the whole case.
    """
    wanted = {kind for kind, _ in first.faults}
    budget = MOST_RUNS

    def fails(kept):
        nonlocal budget
        budget -= 1
        verdict = verdict_of(kept, None)
        return verdict if wanted & {kind for kind, _ in verdict.faults} else None

    kept, best = set(range(first.edits)), first
    if first.seconds > 20:  # a hang would take an hour
        return kept, best
    for number in range(first.edits):
        if budget and (verdict := fails(kept - {number})):
            kept, best = kept - {number}, verdict
    return kept, best
