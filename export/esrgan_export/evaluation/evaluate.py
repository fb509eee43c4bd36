"""Run all methods on all pictures, and measure the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from esrgan_export.evaluation.image_pairs import ImagePair
from esrgan_export.evaluation.measures import Measure, MethodResult, score
from esrgan_export.evaluation.methods import Method
from esrgan_export.image_types import Uint8Image

Scores = Mapping[str, float]
"""Key of a measure -> value."""

PairCallback = Callable[[ImagePair, Mapping[str, Uint8Image], Mapping[str, Scores]], None]
"""Called after each picture with the pair, the SR pictures and their scores, both by the name of the method."""


@dataclass(frozen=True)
class Evaluation:
    """All scores of all methods, and their means."""

    scale: int
    measures: Sequence[Measure]
    sources: Mapping[str, str]
    """File or folder of each method, by its name; the order is that of the tables."""
    scores: Mapping[str, Mapping[str, Scores]]
    """By picture, then by method."""
    degradation: str | None = None
    """What was done to all LR pictures, see `degradations`; None: nothing was to be."""

    @property
    def label(self) -> str:
        """The row of the means in tables."""
        return mean_label(len(self.scores), self.degradation)

    def mean(self, method: str) -> dict[str, float]:
        """The mean over the pictures by key of the measure, computed as the measure defines it."""
        columns = {m.key: [by_method[method][m.key] for by_method in self.scores.values()] for m in self.measures}
        return {m.key: m.mean(columns[m.key]) for m in self.measures}

    def means(self) -> dict[str, dict[str, float]]:
        """`mean` of every method, by name."""
        return {method: self.mean(method) for method in self.sources}


def mean_label(pictures: int, degradation: str | None) -> str:
    """`Evaluation.label`, before there is one."""
    return f"mean of {pictures}{f' {degradation}' if degradation else ''}"


def evaluate(
    pairs: Iterable[ImagePair],
    scale: int,
    methods: Sequence[Method],
    measures: Sequence[Measure],
    callbacks: Sequence[PairCallback] = (),
    degradation: str | None = None,
) -> Evaluation:
    """Run every method on every pair, and measure the results. One pair at a time is in memory.

    Args:
        pairs: at least one, all of `scale`.
        scale: HR pixels per LR pixel.
        methods: each has a different name.
        measures: from `build_measures`.
        callbacks: see `PairCallback`.
        degradation: that of all pairs.

    Raises:
        MediaError: a picture cannot be read, does not fit, or cannot be measured.
    """
    scores: dict[str, dict[str, Scores]] = {}
    for pair in pairs:
        made = {method.name: method(pair) for method in methods}
        scores[pair.name] = {
            name: score(MethodResult(name, pair.label, sr, pair.hr, scale), measures) for name, sr in made.items()
        }
        for callback in callbacks:
            callback(pair, made, scores[pair.name])
    return Evaluation(scale, measures, {method.name: method.source for method in methods}, scores, degradation)
