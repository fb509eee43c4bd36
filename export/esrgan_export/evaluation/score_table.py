"""The scores of an evaluation as a table of text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from esrgan_deploy.cli.terminal import printable
from esrgan_export.evaluation.degradations import DEGRADATIONS
from esrgan_export.evaluation.evaluate import Evaluation, Scores
from esrgan_export.evaluation.measures import Measure
from esrgan_export.metrics.psnr import LARGEST_IN_MEAN
from esrgan_export.metrics.rmse import pirm_region

SCORES_FORMAT = 1
"""Of the JSON. Raised when a key changes its meaning or goes away."""
NARROWEST = 8
"""Least width of a column in characters."""


class ScoreTable:
    """A table of text whose lines can be printed as soon as a picture is measured."""

    def __init__(self, measures: Sequence[Measure], labels: Sequence[str], methods: Sequence[str]) -> None:
        """The labels of pictures and means, and the names of methods, decide the widths of the columns."""
        self._measures = measures
        self._first = max(len(printable(label)) for label in labels)
        self._second = max(len(printable(name)) for name in (*methods, "method"))

    def head(self) -> str:
        """The line with the names of the columns."""
        return self._line("picture", "method", [m.title for m in self._measures])

    def rows(self, label: str, scores: Mapping[str, Scores]) -> str:
        """The lines of one picture, one for each method."""
        lines = []
        for index, (method, values) in enumerate(scores.items()):
            cells = [cell(values[m.key], m) for m in self._measures]
            lines.append(self._line("" if index else label, method, cells))
        return "\n".join(lines)

    def foot(self, evaluations: Sequence[Evaluation]) -> str:
        """The lines of the means of each evaluation, and the notes below them."""
        lines = [self.rows(evaluation.label, evaluation.means()) for evaluation in evaluations]
        return "\n".join([*lines, *map(printable, notes(evaluations))])

    def _line(self, first: str, second: str, cells: Sequence[str]) -> str:
        columns = zip(cells, self._measures, strict=True)
        padded = [f"{text:>{max(NARROWEST, len(measure.title))}}" for text, measure in columns]
        names = [printable(first).ljust(self._first), printable(second).ljust(self._second)]
        return "  ".join([*names, *padded])


def cell(value: float, measure: Measure) -> str:
    """A score as text, with the decimals of its measure; "exact" for an infinite PSNR."""
    return f"{value:.{measure.decimals}f}" if math.isfinite(value) else "exact"


def notes(evaluations: Sequence[Evaluation]) -> list[str]:
    """The notes below the table: PIRM's regions, and how pictures that were reproduced exactly are counted."""
    lines = []
    for evaluation in evaluations:
        if any(m.key == "rmse" for m in evaluation.measures):
            regions = (f"{name} {pirm_region(mean['rmse']) or 'none'}" for name, mean in evaluation.means().items())
            of = f", {evaluation.degradation}" if evaluation.degradation else ""
            lines.append(f"PIRM region by RMSE{of}: {', '.join(regions)}")
    everything = (scores for evaluation in evaluations for _, _, scores in _all(evaluation))
    if any(value == math.inf for scores in everything for value in scores.values()):
        lines.append(f"exact: the PSNR is infinite; it counts as {LARGEST_IN_MEAN:g} dB in the mean")
    return lines


def to_json(evaluations: Sequence[Evaluation], command: str, seed: int) -> dict[str, Any]:
    """Everything that was measured, ready for JSON; an infinite PSNR is null.

    Args:
        evaluations: one of LR that was not degraded; or one for each degradation, by whose names each method's means
            and pictures then are.
        command: the command line of the evaluation.
        seed: of the degradations.
    """
    first = evaluations[0]
    degradations = [evaluation.degradation for evaluation in evaluations if evaluation.degradation]
    return {
        "format": SCORES_FORMAT,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "scale": first.scale,
        **(_degradations(degradations, seed) if degradations else {}),
        "measures": {m.key: {"title": m.title, "higher_is_better": m.higher_is_better} for m in first.measures},
        "methods": {
            name: {
                "source": source,
                **(
                    {"degradations": {e.degradation: _scores_of(e, name) for e in evaluations}}
                    if degradations
                    else _scores_of(first, name)
                ),
            }
            for name, source in first.sources.items()
        },
    }


def _degradations(names: Sequence[str], seed: int) -> dict[str, Any]:
    return {"degradations": {name: DEGRADATIONS[name].description for name in names}, "seed": seed}


def _scores_of(evaluation: Evaluation, method: str) -> dict[str, Any]:
    """The means and all values of one method."""
    mean = evaluation.mean(method)
    return {
        "mean": mean,
        **({"pirm_region": pirm_region(mean["rmse"])} if "rmse" in mean else {}),
        "pictures": {
            picture: {key: value if math.isfinite(value) else None for key, value in scores.items()}
            for picture, name, scores in _all(evaluation)
            if name == method
        },
    }


def _all(evaluation: Evaluation) -> list[tuple[str, str, Scores]]:
    """Picture, method and scores of every result."""
    return [(p, m, scores) for p, by_method in evaluation.scores.items() for m, scores in by_method.items()]
