"""The figures of `peers.py`: one row for each contender, a table, and whether the targets are met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from esrgan_export.metrics import mean_psnr, psnr
from esrgan_export.metrics.psnr import LARGEST_IN_MEAN
from peers_lineup import DEFAULT, INT8, ORT, OWN, REFERENCE
from peers_messages import Ready, Upscaled
from side_by_side import ratio

FULL_FIDELITY_DB = 45.0
NO_SLOWER = 0.98
"""How much slower still counts as equal: two contenders that call the same library differ by up to 2 % by chance."""
INT8_TARGETS_DB = {"rrdbnet": {"mean": 40.0, "worst": 34.0}, "compact": {"mean": 42.0}}
COLUMNS = {
    **{"contender": "", "computes in": "", "s/frame": ".3f", "GFLOPS": ".0f", "cores": ".1f", "RSS MiB": ".0f"},
    **{"default is": ".2f", "int8 is": ".2f", "PSNR dB": ".1f", "worst": ".1f"},
}
"""Titles and formats."""

Row = dict[str, Any]


def describe(
    answers: Mapping[str, Sequence[Upscaled]], ready: Mapping[str, Ready], memory: Mapping[str, float], flops: int
) -> list[Row]:
    """A row for each contender, in the order of `answers`.

    Args:
        answers: of each contender, one for each round; those of one round have upscaled the same photo.
        ready: what each contender said of itself.
        memory: the most that its process held, in MiB.
        flops: of one frame.
    """
    seconds = {name: [answer.seconds for answer in given] for name, given in answers.items()}
    rows = []
    for name, given in answers.items():
        middle = median(seconds[name])
        rows.append(
            {
                "contender": name,
                "own": name in OWN,
                "version": ready[name].version,
                "precision": ready[name].precision,
                "seconds": seconds[name],
                "median_s": middle,
                "fps": 1 / middle,
                "gflops": flops / middle / 1e9,
                "cores_busy": median(answer.cpu_seconds / answer.seconds for answer in given),
                "peak_rss_mib": memory[name],
                "default_is_faster_by": ratio(seconds[name], seconds[DEFAULT]) if DEFAULT in seconds else None,
                "int8_is_faster_by": ratio(seconds[name], seconds[INT8]) if INT8 in seconds else None,
                "psnr_db": None if REFERENCE not in answers else fidelity(answers[REFERENCE], given),
            }
        )
    return rows


def fidelity(reference: Sequence[Upscaled], answers: Sequence[Upscaled]) -> dict[str, float]:
    """Mean and worst PSNR in dB between frames of 8 bits; `LARGEST_IN_MEAN` where they are equal."""
    decibels = [
        min(LARGEST_IN_MEAN, psnr(expected.frame.pixels(), answer.frame.pixels(), peak=255))
        for expected, answer in zip(reference, answers, strict=True)
    ]
    return {"mean": mean_psnr(decibels), "worst": min(decibels)}


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown, whose columns also line up as they stand."""
    cells = [list(COLUMNS), *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = [f"{'-' * (width - 1)}{'-' if i < 2 else ':'}" for i, width in enumerate(widths)]
    padded = [
        [
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in (cells[0], rule, *cells[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _cells(row: Row) -> list[str]:
    """The texts of one line, in the order of `COLUMNS`."""
    decibels = row["psnr_db"] or {"mean": None, "worst": None}
    values = (
        *(row["contender"], row["precision"], row["median_s"], row["gflops"], row["cores_busy"], row["peak_rss_mib"]),
        *(row["default_is_faster_by"], row["int8_is_faster_by"], decibels["mean"], decibels["worst"]),
    )
    return ["-" if value is None else f"{value:{form}}" for value, form in zip(values, COLUMNS.values(), strict=True)]


def judge(network: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each target with what was measured; both None where it could not be.

    The fastest peer is the one with the shortest median time among those at full fidelity.
    """
    by_name = {row["contender"]: row for row in rows}
    peers = [row for row in rows if not row["own"] and (_decibels(row, "worst") or 0) >= FULL_FIDELITY_DB]
    fastest = min(peers, key=lambda row: float(row["median_s"]), default=None)
    own, int8 = by_name.get(DEFAULT), by_name.get(INT8)
    peer = fastest["contender"] if fastest else "none"
    targets = [
        _target(f"default beside the fastest peer ({peer})", NO_SLOWER, _lead(fastest, "default"), "x"),
        _target("default, worst PSNR to fp32", FULL_FIDELITY_DB, _decibels(own, "worst"), " dB"),
    ]
    if network == "rrdbnet":
        targets.append(_target(f"INT8 beside the fastest peer ({peer})", 1.6, _lead(fastest, "int8"), "x"))
        targets.append(_target(f"INT8 beside {ORT} in fp32", 3.3, _lead(by_name.get(ORT), "int8"), "x"))
    else:
        targets.append(_target("INT8 beside the default", 1.6, _lead(own, "int8"), "x"))
    for which, least in INT8_TARGETS_DB[network].items():
        targets.append(_target(f"INT8, {which} PSNR to fp32", least, _decibels(int8, which), " dB"))
    return targets


def _lead(row: Row | None, of: str) -> float | None:
    """How much faster than the contender of this row "default" or "int8" is."""
    return None if row is None else row[f"{of}_is_faster_by"]


def _decibels(row: Row | None, which: str) -> float | None:
    return None if row is None or row["psnr_db"] is None else row["psnr_db"][which]


def _target(claim: str, least: float, measured: float | None, unit: str) -> dict[str, Any]:
    met = None if measured is None else measured >= least
    figure = "not measured" if measured is None else f"{measured:.2f}{unit}, {'met' if met else 'missed'}"
    text = f"{claim[0].upper()}{claim[1:]}: {figure}; target {least:g}{unit}."
    return {"text": text, "claim": claim, "target": least, "measured": measured, "met": met}
