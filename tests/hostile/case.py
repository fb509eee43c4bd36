"""What a case is: commands to run in a folder of files, and what may be true afterwards."""

import hashlib
import resource
import stat
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

GIB = 1 << 30
BAD_INPUT = frozenset({2})
REFUSED = frozenset({2, 3})
FINE = frozenset({0})
USUAL = frozenset({0, 2, 3})


@dataclass
class Command:
    """One command of ours, with what surrounds it."""

    words: list
    """The name of the command, then its arguments; file names are relative to the case's folder."""
    codes: frozenset = USUAL
    """Exit codes that are right."""
    stdin: bytes | str | None = None
    """Bytes, "closed", or None for an empty one."""
    stdout: str = "file"
    """"file", "closed", "full" (/dev/full), "gone" (a pipe that nobody reads any more)."""
    stderr: str = "file"
    env: dict = field(default_factory=dict)
    """Set for the command; None removes a variable."""
    limits: dict = field(default_factory=dict)
    """Name of a limit of `resource`, to bytes or a number."""
    apart: bool = False
    """A process of its own, started anew: for streams, limits and surroundings; forked otherwise."""
    user: int | None = None
    signal: tuple | None = None
    """(number, seconds after the start)."""
    before: list | None = None
    """A program and its arguments, run before the command by the driver: it makes room on a disk."""
    binary: bool = False
    """Standard output is no text."""
    run: object = None
    """A function that is called in place of a command, for tests of the oracles."""

    def shell(self):
        """To be typed, for a report."""
        if not self.words[0]:
            return ""
        import shlex

        before = ["; ".join([shlex.join(self.before), ""])] if self.before else []
        before += [f"{name}={shlex.quote(str(value))}" for name, value in self.env.items() if value is not None]
        after = [f"{n}>&-" for n, kind in ((1, self.stdout), (2, self.stderr)) if kind == "closed"]
        after += ["< stdin"] if isinstance(self.stdin, bytes) else ["<&-"] if self.stdin == "closed" else []
        limits = [f"prlimit --{name.removeprefix('RLIMIT_').lower()}={value}" for name, value in self.limits.items()]
        return " ".join([*before, *limits, *(shlex.quote(str(word)) for word in self.words), *after])


@dataclass
class Output:
    """What a command makes, and how to know that it is right."""

    path: str
    kind: str = "any"
    """"picture", "clip", "onnx", "folder" (of pictures, some of which may be refused) or "any"."""
    size: tuple | None = None
    """(width, height)."""
    like: str | None = None
    """The input that it was made from, read independently: number of frames, or pixels (enlarged 4 times)."""
    frames: int | None = None
    """At least so many."""
    same_as: str | None = None
    """A file outside of the case's folder that it must equal byte for byte."""


@dataclass
class Case:
    """Made by a generator in a folder of its own."""

    idea: str
    commands: list
    outputs: list = field(default_factory=list)
    ours: tuple = ()
    """Files and folders that were there before, and that the commands may change or remove."""
    kept: bool = False
    """Outputs may stay after a refusal, if they are whole: only the last line could not be printed."""
    interrupted: bool = False
    """Ended by a signal: outputs are whole or not there, and the last line may be anything."""
    memory: int = 2 * GIB
    seconds: float = 60.0
    needs_torch: bool = False
    edits: int = 0
    """How many edits of a seed there were, for the search of the smallest failing input."""
    sizes: dict = field(default_factory=dict)
    """See `Shop.sizes`."""


class Shop:
    """What a generator works with: a random generator, a folder, and seeds to damage."""

    def __init__(self, rng, folder, seeds, kept=None, cuts=None):
        self.rng: np.random.Generator = rng
        self.folder: Path = folder
        self.seeds = seeds
        self.kept = kept
        """Numbers of the edits that are made; None: all."""
        self.cuts = cuts or {}
        """Name of a file to byte ranges that are cut out of it at the end."""
        self.edits = 0
        self.sizes = {}
        """Name of a file that was written to its size, before anything was cut out."""

    def write(self, name, data):
        """A file in the case's folder; returns its name."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else bytes(data)
        self.sizes[name] = len(data)
        for first, end in sorted(self.cuts.get(name, ()), reverse=True):
            data = data[:first] + data[end:]
        path.write_bytes(data)
        return name

    def seed(self, name, as_name=None):
        """A copy of a valid file."""
        return self.write(as_name or name, self.seeds.path(name).read_bytes())

    def mutated(self, name, as_name=None, most=4):
        """A valid file with up to `most` random edits."""
        return self.write(as_name or name, self.mutate(self.seeds.path(name).read_bytes(), most))

    def mutate(self, data, most=4):
        """Bytes with random edits."""
        from hostile.mutate import byte_edit

        for _ in range(int(self.rng.integers(1, most + 1))):
            data = self.edit(byte_edit(self.rng, len(data)), data)
        return data

    def edit(self, change, value):
        """`change(value)`, unless this edit is to be left out."""
        number, self.edits = self.edits, self.edits + 1
        return change(value) if self.kept is None or number in self.kept else value

    def pick(self, choices):
        """One of them."""
        choices = list(choices)
        return choices[int(self.rng.integers(len(choices)))]

    def some(self, choices, most=3):
        """One to `most` of them, in their order."""
        choices = list(choices)
        count = int(self.rng.integers(1, min(most, len(choices)) + 1))
        return [choices[n] for n in sorted(self.rng.choice(len(choices), count, replace=False))]


def snapshot(folder, skip=()):
    """Relative name -> what a file is: everything below `folder`, links not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if any(name == entry or name.startswith(f"{entry}/") for entry in skip):
            continue
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        if stat.S_ISREG(status.st_mode):
            found[name] = (kind, status.st_size, status.st_mtime_ns, status.st_mode, _digest(path))
        elif stat.S_ISLNK(status.st_mode):
            found[name] = (kind, str(path.readlink()))
        else:
            found[name] = (kind, status.st_mode)
    return found


def _digest(path):
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while (block := file.read(1 << 20)) and file.tell() < 1 << 26:
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


def unlimited():
    """As many bytes as there may be."""
    return resource.RLIM_INFINITY
