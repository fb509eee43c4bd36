"""The scores of an evaluation as a table of text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from esrgan_deploy.cli.terminal import printable
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

    def __init__(self, measures: Sequence[Measure], pictures: Sequence[str], methods: Sequence[str]) -> None:
        """The names decide the widths of the columns."""
        self._measures = measures
        self._first = max(len(printable(name)) for name in (*pictures, f"mean of {len(pictures)}"))
        self._second = max(len(printable(name)) for name in (*methods, "method"))

    def head(self) -> str:
        """The line with the names of the columns."""
        return self._line("picture", "method", [m.title for m in self._measures])

    def rows(self, name: str, scores: Mapping[str, Scores]) -> str:
        """The lines of one picture, one for each method."""
        lines = []
        for index, (method, values) in enumerate(scores.items()):
            cells = [cell(values[m.key], m) for m in self._measures]
            lines.append(self._line("" if index else name, method, cells))
        return "\n".join(lines)

    def foot(self, evaluation: Evaluation) -> str:
        """The lines of the means, and the notes below them."""
        lines = [self.rows(f"mean of {len(evaluation.scores)}", evaluation.means())]
        return "\n".join([*lines, *map(printable, notes(evaluation))])

    def _line(self, first: str, second: str, cells: Sequence[str]) -> str:
        columns = zip(cells, self._measures, strict=True)
        padded = [f"{text:>{max(NARROWEST, len(measure.title))}}" for text, measure in columns]
        names = [printable(first).ljust(self._first), printable(second).ljust(self._second)]
        return "  ".join([*names, *padded])


def cell(value: float, measure: Measure) -> str:
    """A score as text, with the decimals of its measure; "exact" for an infinite PSNR."""
    return f"{value:.{measure.decimals}f}" if math.isfinite(value) else "exact"


def notes(evaluation: Evaluation) -> list[str]:
    """The notes below the table: PIRM's regions, and how pictures that were reproduced exactly are counted."""
    lines = []
    if any(m.key == "rmse" for m in evaluation.measures):
        regions = (f"{name} {pirm_region(mean['rmse']) or 'none'}" for name, mean in evaluation.means().items())
        lines.append(f"PIRM region by RMSE: {', '.join(regions)}")
    if any(value == math.inf for _, _, scores in _all(evaluation) for value in scores.values()):
        lines.append(f"exact: the PSNR is infinite; it counts as {LARGEST_IN_MEAN:g} dB in the mean")
    return lines


def to_json(evaluation: Evaluation, command: str) -> dict[str, Any]:
    """Everything that was measured, ready for JSON; an infinite PSNR is null.

    Args:
        evaluation: the result.
        command: the command line of the evaluation.
    """
    means = evaluation.means()
    return {
        "format": SCORES_FORMAT,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "scale": evaluation.scale,
        "measures": {m.key: {"title": m.title, "higher_is_better": m.higher_is_better} for m in evaluation.measures},
        "methods": {
            name: {
                "source": source,
                "mean": means[name],
                **({"pirm_region": pirm_region(means[name]["rmse"])} if "rmse" in means[name] else {}),
                "pictures": {
                    picture: {key: value if math.isfinite(value) else None for key, value in scores.items()}
                    for picture, method, scores in _all(evaluation)
                    if method == name
                },
            }
            for name, source in evaluation.sources.items()
        },
    }


def _all(evaluation: Evaluation) -> list[tuple[str, str, Scores]]:
    """Picture, method and scores of every result."""
    return [(p, m, scores) for p, by_method in evaluation.scores.items() for m, scores in by_method.items()]
