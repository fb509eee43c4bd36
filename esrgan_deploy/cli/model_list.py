"""esrgan-upscale --list-models: every model that has a name, and what is known of it on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esrgan_deploy.cli.terminal import say

if TYPE_CHECKING:
    from esrgan_deploy.zoo.entry import Entry

WIDTH, HEIGHT = 640, 360
"""Of the frames that the speed is given for."""
SIDE = 64
HEAD = ("name", "scale", "MFLOP/px", "fps", "licence", "MiB", "here", "for")
LEGEND = f"""\
MFLOP/px: operations for each input pixel. fps: frames of {WIDTH}x{HEIGHT} in a second on this machine, as it was tuned
for long clips or by esrgan-bench --tune; with ~ reckoned from the MFLOP of one that was. MiB: of the download.
here: "needs torch" means esrgan-deploy[export], once. *: not everybody may pass it on. docs/models.md: your own models.
"""


class ListModels(argparse.Action):
    """Print the table and end, as --version does."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - of argparse
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_args: object) -> None:
        """Print the table."""
        say(*model_lines())
        parser.exit()


def model_lines() -> list[str]:
    """The table, a model a line, and what its columns mean.

    Raises:
        OptionError: a file of the user's own models is wrong.
    """
    from esrgan_deploy.zoo.registry import entries

    found = list(entries().values())
    files = {entry.name: _file_of(entry) for entry in found}
    mflop = {entry.name: _mflop(entry) for entry in found}
    speeds = _speeds(files, mflop)
    rows = [HEAD, *(_row(entry, mflop[entry.name], speeds[entry.name], files[entry.name]) for entry in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*table, *LEGEND.splitlines()]


def _row(entry: Entry, mflop: float | None, fps: str, file: Path | None) -> tuple[str, ...]:
    return (
        entry.name,
        f"x{entry.scale}",
        "?" if mflop is None else f"{mflop:.2f}",
        fps,
        entry.licence + ("" if entry.redistribute else "*"),
        "" if entry.bundled else "?" if entry.bytes is None else f"{entry.bytes / 2**20:.1f}",
        _here(entry, file),
        entry.purpose,
    )


def _here(entry: Entry, file: Path | None) -> str:
    from esrgan_deploy.zoo.convert import torch_is_here
    from esrgan_deploy.zoo.find import installed

    if file:
        return "yes"
    if any(installed(source) for source in entry.sources):
        return "in a package"
    needs_torch = all(source.form == "checkpoint" for source in entry.sources) and not torch_is_here()
    return "no, needs torch" if needs_torch else "no"


def _file_of(entry: Entry) -> Path | None:
    """Its ONNX file, if it is on this machine and would run at once."""
    from esrgan_deploy.zoo.find import made_before
    from esrgan_deploy.zoo.registry import own_model

    own = own_model(entry.name)
    if own:
        return own if own.suffix.lower() == ".onnx" else None
    return entry.bundled.onnx if entry.bundled else made_before(entry)


def _mflop(entry: Entry) -> float | None:
    """MFLOP for each input pixel; counted for what comes along, since nobody has written it down."""
    if not entry.bundled:
        return entry.mflop
    from esrgan_deploy.errors import EsrganError
    from esrgan_deploy.flops import count_flops
    from esrgan_deploy.model import load_onnx

    try:
        flops = count_flops(load_onnx(entry.bundled.onnx)[0], SIDE, SIDE)
    except EsrganError:  # without the onnx package
        return None
    return None if flops is None else flops / SIDE**2 / 1e6


def _speeds(files: dict[str, Path | None], mflop: dict[str, float | None]) -> dict[str, str]:
    """Frames in a second of each model, as text."""
    from esrgan_deploy.backends.saved_choices import recall

    known = {}
    for name, file in files.items():
        choice = recall(file, "auto") if file else None
        if choice and choice.tiles:
            known[name] = 1e9 / (choice.tiles[-1][1] * WIDTH * HEIGHT)
    work = {name: fps * count for name, fps in known.items() if (count := mflop[name])}
    return {name: _speed(known.get(name), mflop[name], list(work.values())) for name in files}


def _speed(fps: float | None, mflop: float | None, work: list[float]) -> str:
    if fps is not None:
        return f"{fps:.3g}"
    return f"~{sorted(work)[len(work) // 2] / mflop:.2g}" if work and mflop else "?"
