"""Remove engines that are of no use any more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from esrgan_deploy.alpha import endpoints_path
from esrgan_deploy.engine.machine import Machine
from esrgan_deploy.engine.store.folder import EngineFolder, Entry, remove_file
from esrgan_deploy.engine.store.sidecar import sidecar_beside
from esrgan_deploy.system.locks import locked_if_free


@dataclass(frozen=True)
class RemovedFile:
    """A file that was removed, and why."""

    path: Path
    nbytes: int
    why: str


@dataclass(frozen=True)
class PruneResult:
    """What was removed, and what was left alone."""

    removed: tuple[RemovedFile, ...]
    at_work: tuple[Path, ...]
    """Files of engines that another process is building at this moment."""


def prune(folder: EngineFolder, machine: Machine | None, *, everything: bool) -> PruneResult:
    """Remove broken engines, what killed builds left, and engines for another machine.

    Args:
        folder: files in it that are not named as engines are never touched.
        machine: this one; None: unknown, so engines of all machines stay.
        everything: remove all engines, those that work on this machine too.

    Raises:
        OutputError: the folder cannot be read or written.
    """
    removed: list[RemovedFile] = []
    at_work: list[Path] = []
    for key, paths in folder.by_key().items():
        with locked_if_free(folder.lock_path(key)) as free:
            if not free:
                at_work += paths
                continue
            reasons = dict.fromkeys(folder.of_key(key), "left by a build that was killed")
            for entry in folder.engines(key):
                parts = {entry.path, sidecar_beside(entry.path), endpoints_path(entry.path)}
                reasons.update(dict.fromkeys(parts & reasons.keys(), _why(entry, machine, everything=everything)))
            removed += [RemovedFile(path, remove_file(path), why) for path, why in sorted(reasons.items()) if why]
    for path in folder.timings():
        if everything or (machine is not None and path != folder.timing_path(machine)):
            removed.append(RemovedFile(path, remove_file(path), "measurements of a builder"))
    return PruneResult(tuple(removed), tuple(at_work))


def _why(entry: Entry, machine: Machine | None, *, everything: bool) -> str:
    """Why an engine is removed; empty: it stays."""
    if entry.engine is None:
        return entry.fault
    if everything:
        return "asked for"
    theirs = entry.engine.sidecar.machine
    return "" if machine in (None, theirs) else f"built for {theirs}"
