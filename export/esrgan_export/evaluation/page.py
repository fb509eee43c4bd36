"""An evaluation as one HTML file: the table of means, then each picture's most detailed crop by all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.cli.terminal import html_text
from esrgan_deploy.system.files import replacing
from esrgan_export.evaluation.degradations import DEGRADATIONS
from esrgan_export.evaluation.evaluate import Evaluation, Scores
from esrgan_export.evaluation.html_images import data_uri, most_detailed, nearest, thumbnail
from esrgan_export.evaluation.image_pairs import ImagePair, size
from esrgan_export.evaluation.measures import Measure
from esrgan_export.evaluation.score_table import cell, notes
from esrgan_export.image_types import Uint8Image

CROP = 128
"""Side of a crop in HR pixels; each is shown twice as large."""
THUMBNAIL = 256

STYLE = f"""
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1480px; padding: 0 1rem;
  color: #1b1b1b; background: #fff; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.1rem; margin: 2.2rem 0 .6rem; }}
code {{ overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }}
th:first-child, td:first-child {{ text-align: left; }}
.best {{ font-weight: 700; }}
.row {{ display: flex; flex-wrap: wrap; gap: 12px; align-items: flex-start; }}
figure {{ margin: 0; width: {2 * CROP}px; }}
figcaption {{ font-size: .82rem; }} figcaption b {{ display: block; overflow-wrap: anywhere; }}
figcaption span {{ white-space: nowrap; margin-right: .6em; }}
figure img {{ display: block; max-width: 100%; }}
.crop img {{ width: 100%; image-rendering: pixelated; }}
"""


class PageWriter:
    """Collects crops, as PNG, while an evaluation runs (`add`), and writes the page at the end (`write`)."""

    def __init__(self, measures: Sequence[Measure]) -> None:
        self._measures = measures
        self._sections: list[str] = []

    def add(self, pair: ImagePair, made: Mapping[str, Uint8Image], scores: Mapping[str, Scores]) -> None:
        """Add the section of one picture; see `evaluate.PairCallback`."""
        crop = most_detailed(pair.hr, CROP)
        figures = [_figure(data_uri(thumbnail(pair.hr, THUMBNAIL, crop)), "whole picture", [], "whole")]
        figures += [_figure(data_uri(crop.of(nearest(pair.lr, pair.scale))), "LR", [size(pair.lr)])]
        for name, picture in made.items():
            values = [f"{m.title} {cell(scores[name][m.key], m)}" for m in self._measures]
            figures.append(_figure(data_uri(crop.of(picture)), name, values))
        figures.append(_figure(data_uri(crop.of(pair.hr)), "HR", [size(pair.hr)]))
        row = "\n".join(figures)
        self._sections.append(f'<h2>{html_text(pair.label)}</h2>\n<div class="row">\n{row}\n</div>')

    def write(self, path: StrPath, evaluations: Sequence[Evaluation], command: str) -> None:
        """Write the page.

        Args:
            path: the HTML file.
            evaluations: the results, for the tables of means.
            command: the command line of the evaluation, which the page shows.

        Raises:
            OutputError: `path` cannot be written.
        """
        count = len(evaluations[0].scores)
        parts = [
            '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">\n<title>esrgan-eval</title>',
            f"<style>{STYLE}</style>",
            f"<h1>Super-resolution x{evaluations[0].scale}: mean of {count} picture{'s' * (count > 1)}</h1>",
            *map(_table, evaluations),
            *(f"<p>{html_text(line)}</p>" for line in notes(evaluations)),
            f"<p><code>{html_text(command)}</code></p>",
            f"<p>Crops of {CROP}x{CROP} pixels, where HR has most detail, each pixel shown 2x2. "
            "LR is shown without interpolation.</p>",
            *self._sections,
            "</html>\n",
        ]
        with replacing(as_path(path)) as partial:
            partial.write_text("\n".join(parts), encoding="utf-8", errors="backslashreplace")  # names may be no UTF-8


def _figure(uri: str, name: str, values: Sequence[str], kind: str = "crop") -> str:
    spans = " ".join(f"<span>{html_text(value)}</span>" for value in values)
    caption = f"<figcaption><b>{html_text(name)}</b>{spans}</figcaption>"
    return f'<figure class="{kind}"><img src="{uri}" alt="{html_text(name)}">{caption}</figure>'


def _table(evaluation: Evaluation) -> str:
    """The means of all methods, with the best of each column in bold."""
    means = evaluation.means()
    head = "".join(f"<th>{html_text(m.title)} {'↑' if m.higher_is_better else '↓'}" for m in evaluation.measures)
    rows = []
    for name, values in means.items():
        cells = "".join(
            f"<td{_mark(values[m.key], [v[m.key] for v in means.values()], m)}>{cell(values[m.key], m)}"
            for m in evaluation.measures
        )
        rows.append(f"<tr><td>{html_text(name)}{cells}")
    found = evaluation.degradation
    title = [f"<h2>{html_text(f'{found}: {DEGRADATIONS[found].description}')}</h2>"] if found else []
    return "\n".join([*title, "<table>", f"<tr><th>method{head}", *rows, "</table>"])


def _mark(value: float, column: Sequence[float], measure: Measure) -> str:
    best = max(column) if measure.higher_is_better else min(column)
    return ' class="best"' if value == best else ""
