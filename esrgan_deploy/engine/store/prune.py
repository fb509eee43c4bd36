"""Remove engines that nobody will use any more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from esrgan_deploy.alpha import endpoints_path
from esrgan_deploy.engine.store.folder import EngineFolder, Entry, remove_file
from esrgan_deploy.engine.store.sidecar import Machine, sidecar_beside
from esrgan_deploy.system.locks import locked_if_free


@dataclass(frozen=True)
class Removed:
    """A file that was removed, and why."""

    path: Path
    nbytes: int
    why: str


@dataclass(frozen=True)
class Pruned:
    """What was removed, and what was not."""

    removed: tuple[Removed, ...]
    at_work: tuple[Path, ...]
    """Left alone, since another process is building there at this moment."""


def prune(folder: EngineFolder, machine: Machine | None, *, everything: bool) -> Pruned:
    """Remove engines that are broken, what killed builds left, and what was built for another machine.

    Args:
        folder: of which files that are not named as engines are never touched.
        machine: this one; None: not known, and engines of all machines stay.
        everything: remove whole engines of this machine as well.

    Raises:
        OutputError: the folder cannot be read or written.
    """
    removed: list[Removed] = []
    at_work: list[Path] = []
    for key, paths in folder.by_key().items():
        with locked_if_free(folder.lock_path(key)) as free:
            if not free:
                at_work += paths
                continue
            reasons = dict.fromkeys(folder.of_key(key), "left by a build that was killed")
            for entry in folder.engines(key):
                why = _why(entry, machine, everything=everything)
                reasons.update(dict.fromkeys(_parts(entry.path) & reasons.keys(), why))
            removed += [Removed(path, remove_file(path), why) for path, why in sorted(reasons.items()) if why]
    for path in folder.timings():
        if everything or (machine is not None and path != folder.timing_path(machine)):
            removed.append(Removed(path, remove_file(path), "measurements of a builder"))
    return Pruned(tuple(removed), tuple(at_work))


def _parts(engine: Path) -> set[Path]:
    return {engine, sidecar_beside(engine), endpoints_path(engine)}


def _why(entry: Entry, machine: Machine | None, *, everything: bool) -> str:
    """Why an engine is to go; empty: it stays."""
    if entry.engine is None:
        return entry.fault
    if everything:
        return "asked for"
    theirs = entry.engine.sidecar.machine
    return "" if machine in (None, theirs) else f"built for {theirs}"
