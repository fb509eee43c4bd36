"""All methods on all pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from esrgan_export.evaluation.measures import Case, Measure, score
from esrgan_export.evaluation.methods import Method
from esrgan_export.evaluation.pictures import Subject
from esrgan_export.image_types import Uint8Image

Scores = Mapping[str, float]
"""Values by key of the measure."""

Watcher = Callable[[Subject, Mapping[str, Uint8Image], Mapping[str, Scores]], None]
"""Called after each picture with what the methods made of it and how it scored, both by name of the method."""


@dataclass(frozen=True)
class Evaluation:
    """Every score, and the means."""

    scale: int
    measures: Sequence[Measure]
    sources: Mapping[str, str]
    """File or folder of each method, by its name; the order is that of the tables."""
    scores: Mapping[str, Mapping[str, Scores]]
    """By picture, then by method."""

    def mean(self, method: str) -> dict[str, float]:
        """Mean over the pictures by key of the measure, as the measure defines it."""
        columns = {m.key: [by_method[method][m.key] for by_method in self.scores.values()] for m in self.measures}
        return {m.key: m.mean(columns[m.key]) for m in self.measures}

    def means(self) -> dict[str, dict[str, float]]:
        """`mean` of every method, by name."""
        return {method: self.mean(method) for method in self.sources}


def evaluate(
    subjects: Iterable[Subject],
    scale: int,
    methods: Sequence[Method],
    measures: Sequence[Measure],
    watchers: Sequence[Watcher] = (),
) -> Evaluation:
    """Run every method on every subject, and measure the results.

    One picture at a time is held, whatever their number.

    Args:
        subjects: of `scale`; at least one.
        scale: of all methods.
        methods: their names differ.
        measures: from `build_measures`.
        watchers: called with each picture, for progress and for pages.

    Raises:
        MediaError: a picture cannot be read, does not fit, or cannot be measured.
    """
    scores: dict[str, dict[str, Scores]] = {}
    for subject in subjects:
        made = {method.name: method(subject) for method in methods}
        scores[subject.name] = {
            name: score(Case(name, subject.name, sr, subject.hr, scale), measures) for name, sr in made.items()
        }
        for watcher in watchers:
            watcher(subject, made, scores[subject.name])
    return Evaluation(scale, measures, {method.name: method.source for method in methods}, scores)
