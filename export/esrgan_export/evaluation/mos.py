"""A blind test for mean opinion scores (MOS) as in the SRGAN paper, and counting its answers.

Ledig et al. 2017, section 3.6: raters score pictures from 1 (bad) to 5 (excellent), and are shown nearest neighbour as
an example of 1 and HR as an example of 5. They see the results of all methods and, unmarked among them, nearest
neighbour and HR again, in an order that is shuffled for each picture.
"""

from __future__ import annotations

import base64
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from esrgan_deploy.arguments import StrPath, as_path, described
from esrgan_deploy.budget import TEXT_BYTES, read_bytes
from esrgan_deploy.cli.terminal import printable
from esrgan_deploy.errors import MediaError, OptionError
from esrgan_deploy.system.files import replacing
from esrgan_export.evaluation.evaluate import Scores
from esrgan_export.evaluation.html_images import centre, data_uri, nearest
from esrgan_export.evaluation.image_pairs import ImagePair
from esrgan_export.image_types import Uint8Image

MOS_FORMAT = "esrgan-mos 1"
"""Name of the format of the page's data and of the answers that it saves."""
SIDE = 512
"""Largest side of a shown picture in HR pixels. Of larger pictures the middle is shown, so that nothing is scaled."""
SCORES = (1, 2, 3, 4, 5)
LOWEST, HIGHEST = "nearest", "HR"
"""The names of the two examples in the results."""


class MosWriter:
    """Collects the pictures while an evaluation runs (`add`), and writes the page at the end (`write`)."""

    def __init__(self, seed: int, pictures: int) -> None:
        """Begin a page.

        Args:
            seed: decides the order of pictures and of their versions.
            pictures: the number of pictures that will be added.

        Raises:
            OptionError: fewer than two.
        """
        if pictures < 2:
            raise OptionError("a test of opinions needs two pictures or more: the first one calibrates the raters")
        self._random = random.Random(seed)
        self._calibration: dict[str, str] = {}
        self._pictures: list[list[dict[str, str]]] = []

    def add(self, pair: ImagePair, made: Mapping[str, Uint8Image], scores: Mapping[str, Scores]) -> None:
        """Add one picture; the first one gives the examples of 1 and 5. See `evaluate.PairCallback`."""
        crop = centre(pair.hr, SIDE)
        examples = {LOWEST: nearest(pair.lr, pair.scale), HIGHEST: pair.hr}
        if not self._calibration:
            self._calibration = {name: data_uri(crop.of(picture)) for name, picture in examples.items()}
            return
        versions = [
            {"image": data_uri(crop.of(picture)), "key": _hidden({"picture": pair.label, "method": name})}
            for name, picture in {**made, **examples}.items()
        ]
        self._random.shuffle(versions)
        self._pictures.append(versions)

    def write(self, path: StrPath) -> None:
        """Write the page, with the pictures in a shuffled order.

        Raises:
            OutputError: `path` cannot be written.
        """
        self._random.shuffle(self._pictures)
        content = {"format": MOS_FORMAT, "calibration": self._calibration, "pictures": self._pictures}
        template = resources.files(__package__).joinpath("mos.html").read_text(encoding="utf-8")
        data = json.dumps(content).replace("<", "\\u003c")  # "</script>" in a name would end the script
        with replacing(as_path(path)) as partial:
            partial.write_text(template.replace("__DATA__", data), encoding="utf-8")


def _hidden(answer: Mapping[str, str]) -> str:
    """`answer` encoded, so that a rater who opens the page's source does not read the names of the methods."""
    return base64.b64encode(json.dumps(answer).encode()).decode("ascii")


@dataclass(frozen=True)
class Opinion:
    """The mean opinion score of one method."""

    method: str
    mean: float
    interval: float
    """Half of the width of the 95 % interval of the mean: 1.96 s / sqrt(n), as in ITU-R BT.500; NaN for one score."""
    count: int


def tally(files: Sequence[StrPath]) -> list[Opinion]:
    """The mean opinion scores of all answers in `files`, the best method first.

    Raises:
        MediaError: a file is not a complete file of answers, or two files hold the same answers.
    """
    scores: dict[str, list[int]] = {}
    seen: dict[str, Path] = {}
    for path in map(as_path, files):
        session, answers = _read_answers(path)
        if session in seen:
            raise MediaError(f"{path}: holds the same answers as {seen[session]}; name each rater's file once")
        seen[session] = path
        for method, score in answers:
            scores.setdefault(method, []).append(score)
    opinions = [_opinion(method, values) for method, values in scores.items()]
    return sorted(opinions, key=lambda opinion: -opinion.mean)


def tally_table(opinions: Sequence[Opinion], raters: int) -> str:
    """The opinions as text, one line for each method."""
    width = max(len("method"), *(len(printable(opinion.method)) for opinion in opinions))
    lines = [f"{'method':<{width}}   MOS   95 % interval   scores"]
    for o in opinions:
        interval = f"+- {o.interval:.2f}" if math.isfinite(o.interval) else "-"
        lines.append(f"{printable(o.method):<{width}}  {o.mean:.2f}  {interval:>14}  {o.count:>7}")
    return "\n".join([*lines, f"{raters} rater{'s' * (raters > 1)}; 1 is bad, 5 is excellent"])


def _opinion(method: str, values: Sequence[int]) -> Opinion:
    interval = 1.96 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Opinion(method, fmean(values), interval, len(values))


def _read_answers(path: Path) -> tuple[str, list[tuple[str, int]]]:
    """The identifier of the session, and the method and score of each answer."""
    try:
        content: Any = json.loads(read_bytes(path, MediaError, TEXT_BYTES))
    except (ValueError, RecursionError) as error:
        raise MediaError(f"{path}: is no JSON file ({error}); save the answers again from the page") from error
    if not isinstance(content, dict) or content.get("format") != MOS_FORMAT:
        raise MediaError(
            f"{path}: holds no answers of the format '{MOS_FORMAT}'; save them from the page of --mos-page"
        )
    try:
        session = str(content["session"])
        answers = [(str(answer["method"]), answer["score"]) for answer in content["answers"]]
    except (KeyError, TypeError) as error:
        raise MediaError(f"{path}: answers are incomplete ({error!r}); save them again from the page") from error
    wrong = [score for _, score in answers if isinstance(score, bool) or score not in SCORES]
    if wrong or not answers:
        found = f"a score of {described(wrong[0])}, scores are 1 to 5" if wrong else "no answers"
        raise MediaError(f"{path}: holds {found}; save them again from the page")
    return session, answers
