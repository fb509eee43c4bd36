"""Write the figures of results/ordinary.json into the card of the pair for ordinary material, between its two markers.

python benchmarks/studies/ordinary_card.py
"""

from __future__ import annotations

import json
from pathlib import Path

from esrgan_deploy.models import MODELS
from esrgan_deploy.system.files import replacing
from esrgan_export.evaluation.degradations import DEGRADATIONS
from ordinary import Rows, worst
from side_by_side import RESULTS

NAME = "ordinary"
"""Of the pair, and what the names of its rows begin with."""
BEGIN, END = "<!-- figures: benchmarks/studies/ordinary_card.py -->\n", "<!-- end of figures -->\n"


def figures(rows: Rows) -> str:
    """Both tables, in Markdown: every method on every kind of LR; what the pair is judged by."""
    kinds = tuple(DEGRADATIONS)
    lines = [f"| PSNR-Y in dB / ST-LPIPS | {' | '.join(kinds)} |", "|---" * (1 + len(kinds)) + "|"]
    for name, row in rows.items():
        cells = (f"{row['psnr_y'][kind]:.2f} / {row['st_lpips'][kind]:.3f}" for kind in kinds)
        lines.append(f"| {_label(name)} | {' | '.join(cells)} |")
    lines += [
        "",
        "| | PSNR-Y against bicubic's, worst damaged kind | ST-LPIPS against animevideov3's, worst damaged kind | "
        "PSNR-Y of clean LR against compact-clean's at alpha 0 |",
        "|---|---|---|---|",
    ]
    for name in (name for name in rows if name.startswith(f"{NAME} ")):
        decibels, low, share, high, gap = worst(rows, name)
        lines.append(f"| {_label(name)} | {decibels:+.2f} dB ({low}) | {share:+.0%} ({high}) | {gap:+.2f} dB |")
    return "\n".join(lines) + "\n"


def _label(name: str) -> str:
    """'ordinary a0.5' -> 'ordinary, alpha 0.5'."""
    first, _, alpha = name.rpartition(" a")
    return f"{first}, alpha {alpha}" if first else name


def with_figures(card: str, rows: Rows) -> str:
    """The text of a card with new figures between the markers, which it must have."""
    before, _, rest = card.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert rest, f"the card has no line {BEGIN}"
    assert END in rest, f"the card has no line {END}"
    return f"{before}{BEGIN}\n{figures(rows)}\n{END}{after}"


def read_rows(results: Path = RESULTS / "ordinary.json") -> Rows:
    """What was measured last."""
    rows: Rows = json.loads(results.read_text("utf-8"))["rows"]
    return rows


def main() -> None:
    """Read, write."""
    card = MODELS[NAME].card
    text = with_figures(card.read_text("utf-8"), read_rows())
    with replacing(card) as partial:
        partial.write_text(text, "utf-8")
    print(f"{card}: written")


if __name__ == "__main__":
    main()
