"""The results of a benchmark as rows: which belong together, and what tells them apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

SETTINGS = ("size", "batch", "streams", "threads")
AXES = ("model", "backend", "precision", *SETTINGS)
"""What a row can differ in from another one, the first being the coarsest."""
SPLIT_BY = ("size", "threads", "streams", "batch")
"""The order in which too many lines are spread over several plots."""
Kind = tuple[str, str]
"""Backend and precision: what has a colour of its own."""


@dataclass(frozen=True)
class Row:
    """One entry of `results` in a benchmark's JSON (format 2): what plots use, and the rest in `result`."""

    model: str
    backend: str
    precision: str
    width: int
    height: int
    batch: int
    streams: int
    threads: int
    p50_ms: float
    p99_ms: float
    fps: float
    gflops: float | None
    share_of_peak: float | None
    intensity: float | None
    """Operations for each byte that the network's nodes read and write."""
    result: Mapping[str, Any]
    """The whole entry."""

    @classmethod
    def read(cls, result: Mapping[str, Any]) -> Row:
        """From an entry of the JSON."""
        flops, moved = result["flops_per_frame"], result["bytes_per_frame"]
        latency = result["latency_ms"]
        return cls(
            **{name: result[name] for name in ("model", "backend", "precision", "width", "height")},
            **{name: result[name] for name in ("batch", "streams", "threads", "fps", "gflops", "share_of_peak")},
            p50_ms=latency["p50"],
            p99_ms=latency["p99"],
            intensity=flops / moved if flops and moved else None,
            result=result,
        )

    @property
    def family(self) -> str:
        """The network: its file without suffix and precision, so that its FP32 and its INT8 file share a plot."""
        return re.sub(r"_(fp32|fp16|bf16|int8)(?=_|$)", "", PurePath(self.model).stem)

    @property
    def kind(self) -> Kind:
        """What has a colour of its own."""
        return self.backend, self.precision

    @property
    def pixels(self) -> int:
        """Of one frame that goes in."""
        return self.width * self.height

    @property
    def size(self) -> str:
        """Of one frame that goes in."""
        return f"{self.width}x{self.height}"

    @property
    def order(self) -> tuple[int, ...]:
        """Among rows of one kind: by size, then by the other settings."""
        return self.pixels, self.batch, self.streams, self.threads

    @property
    def in_flight(self) -> int:
        """Frames that are being computed at any time."""
        return self.batch * self.streams

    def says(self, axis: str) -> str:
        """In words, what it has on one of the `AXES`."""
        value = getattr(self, axis)
        if axis in ("streams", "threads"):
            return f"{value} {axis if value > 1 else axis[:-1]}"
        return f"batch {value}" if axis == "batch" else str(value)


def varying(rows: Iterable[Row]) -> list[str]:
    """Those of the `AXES` on which the rows differ."""
    return [axis for axis in AXES if len({getattr(row, axis) for row in rows}) > 1]


def distinct(rows: Iterable[Row], key: str) -> list[Any]:
    """Values of an attribute, in the order in which they first occur."""
    return list(dict.fromkeys(getattr(row, key) for row in rows))


def lines(rows: Sequence[Row], free: Sequence[str], by: str) -> list[list[Row]]:
    """Rows that differ on the `free` axes only, each line in rising order of the attribute `by`."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, axis) for axis in AXES if axis not in free), []).append(row)
    return [sorted(group, key=lambda row: getattr(row, by)) for group in groups.values()]


def name_lines(found: Sequence[Sequence[Row]], free: Sequence[str]) -> list[str]:
    """What a plot calls its lines: backend and precision, unless all share them (`one_kind`), and what else differs."""
    firsts = [line[0] for line in found]
    differing = [axis for axis in varying(firsts) if axis in SETTINGS and axis not in free]
    kind = not one_kind(firsts, free)
    names = [" · ".join([" ".join(row.kind)] * kind + [row.says(axis) for axis in differing]) for row in firsts]
    # Two files of one network that are computed in the same precision, such as an FP16 file in fp32.
    return [
        f"{name} · {PurePath(row.model).stem}" if names.count(name) > 1 else name
        for name, row in zip(names, firsts, strict=True)
    ]


def one_kind(rows: Sequence[Row], free: Sequence[str]) -> str:
    """Backend and precision of a plot whose lines differ in something else only; empty: they are told apart by it."""
    kinds = distinct(rows, "kind")
    settings = [axis for axis in varying(rows) if axis in SETTINGS and axis not in free]
    return " ".join(kinds[0]) if len(kinds) == 1 and settings else ""


def facets(rows: Sequence[Row], free: Sequence[str], most: int) -> list[tuple[str, str, list[Row]]]:
    """Spread rows over plots, one for each network, or more where that has more than so many lines.

    Returns:
        For each plot the network, what else all its rows share, in words, and the rows.
    """
    return [
        (family, " · ".join([*said, *filter(None, [one_kind(some, free)])]), some)
        for family in distinct(rows, "family")
        for said, some in _split([], [row for row in rows if row.family == family], free, most)
    ]


def _split(said: list[str], rows: list[Row], free: Sequence[str], most: int) -> list[tuple[list[str], list[Row]]]:
    differing = [axis for axis in SPLIT_BY if axis in varying(rows) and axis not in free]
    if len(lines(rows, free, "pixels")) <= most or not differing:
        return [(said, rows)]
    parts = []
    for value in distinct(rows, differing[0]):
        members = [row for row in rows if getattr(row, differing[0]) == value]
        parts += _split([*said, members[0].says(differing[0])], members, free, most)
    return parts


def held(rows: Sequence[Row], free: str, by: str) -> list[tuple[str, list[Row]]]:
    """What is plotted along one axis: for each network the lines with more than one value, one line of each kind.

    Where the other axes were varied too, the lines are those of small frames, one at a time, with all threads: there
    the effect of more is largest.

    Args:
        rows: of all networks.
        free: the axis.
        by: the attribute of a row that stands for it.

    Returns:
        For each plot what all its rows share, in words, and the rows.
    """
    found = []
    for family in distinct(rows, "family"):
        whole = [row for row in rows if row.family == family]
        scaled = [line for line in lines(whole, (free,), by) if len(distinct(line, by)) > 1]
        chosen: dict[tuple[str, Kind], list[Row]] = {}
        for line in sorted(scaled, key=lambda line: _plainness(line[0], free)):
            chosen.setdefault((line[0].model, line[0].kind), line)
        if kept := [row for line in chosen.values() for row in line]:
            firsts = [line[0] for line in chosen.values()]
            shared = [axis for axis in SPLIT_BY if axis in varying(whole) and axis not in (free, *varying(firsts))]
            found.append((" · ".join([family, *(kept[0].says(axis) for axis in shared)]), kept))
    return found


def _plainness(row: Row, free: str) -> tuple[int, ...]:
    """Least of small frames that are computed one at a time with all threads, whatever it is on the `free` axis."""
    order = {"size": row.pixels, "streams": row.streams, "batch": row.batch, "threads": -row.threads}
    return tuple(value for axis, value in order.items() if axis != free)
