"""Builds a case, runs its commands and judges it, each in a forked child.

This process only imports, and starts nothing: so no child inherits threads or sessions, and no hostile file is read
in this process.
"""

import contextlib
import os
import pickle
import shutil
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hostile.case import Shop, snapshot
from hostile.oracles import judge
from hostile.process import call, run
from hostile.seeds import Seeds

WARM = ("cv2", "av", "onnx", "PIL.Image", "numpy", "onnxruntime", "esrgan_deploy.cli.upscale", "esrgan_deploy.video")
WARM_TORCH = ("torch", "esrgan_export.checkpoint", "esrgan_train.loop", "esrgan_train.recipe")
CANARY = "ESRGAN_HOSTILE_CANARY"
"""Names the address that listens; files that want to lure a command somewhere name it."""


@dataclass
class Verdict:
    """What came of one case."""

    seed: int
    name: str
    idea: str
    codes: list
    seconds: float
    peak: int
    faults: list = field(default_factory=list)
    """(kind, what was seen)."""
    commands: list = field(default_factory=list)
    edits: int = 0
    sizes: dict = field(default_factory=dict)
    """Of the damaged files."""
    last: str = ""
    """The last line on stderr."""

    @property
    def kind(self):
        """Its class."""
        return self.name.rpartition("-")[0]

    def to_json(self):
        """For a report."""
        return asdict(self)


class Worker:
    """Runs cases one after another in a folder of its own."""

    def __init__(self, folder, seeds, deadline_s=None):
        self.folder = Path(folder)
        self.seeds = Seeds(Path(seeds))
        self.deadline_s = deadline_s
        self._warm = set()
        self._canary = socket.create_server(("127.0.0.1", 0))
        self._canary.setblocking(False)
        os.environ[CANARY] = f"127.0.0.1:{self._canary.getsockname()[1]}"

    def warm(self, modules):
        """Import what the children need, once."""
        import importlib

        for name in modules:
            if name not in self._warm:
                self._warm.add(name)
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
        if "cv2" in self._warm and "cv2" in sys.modules:
            sys.modules["cv2"].setNumThreads(1)

    def close(self):
        """Stop listening."""
        self._canary.close()

    def verdict(self, spec, kept=None, cuts=None):
        """Run one case.

        Args:
            spec: see `classes.Spec`.
            kept: the edits that are made; None: all.
            cuts: see `Shop`.
        """
        self.warm(WARM)
        if spec.needs_torch:
            self.warm(WARM_TORCH)
        room = Room(self.folder / f"{spec.name}-{spec.seed}")
        try:
            return self._verdict(room, spec, kept, cuts)
        finally:
            room.clear()

    def _verdict(self, room, spec, kept, cuts):
        if not call(build, room, self.seeds, spec, kept, cuts):
            return Verdict(spec.seed, spec.name, spec.idea, [], 0, 0, [("driver", "could not be built")])
        case = pickle.loads((room.path / "case").read_bytes())
        ended = []
        begin = time.monotonic()
        for number, command in enumerate(case.commands):
            if command.run is not None:
                command.run = spec.run
            deadline = self.deadline_s or case.seconds
            ended.append(run(command, room.files, room.outputs(number), room.cache, room.scratch, deadline))
            if ended[-1].code != 0 and number + 1 < len(case.commands) and ended[-1].code not in command.codes:
                break
        connected = self._was_connected()
        call(_judge, room, case, ended)
        try:
            faults, last = pickle.loads((room.path / "faults").read_bytes())
        except OSError:
            faults, last = [("driver", "could not be judged")], ""
        if connected:
            faults.append(("connection", "something connected to the address that a file named"))
        return Verdict(
            spec.seed,
            spec.name,
            case.idea,
            [end.code for end in ended],
            round(time.monotonic() - begin, 3),
            max(end.peak for end in ended),
            faults,
            [command.shell() for command in case.commands],
            case.edits,
            case.sizes,
            last,
        )

    def _was_connected(self):
        found = False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._canary.accept()[0].close()
                found = True
        return found


class Room:
    """The folders of one case."""

    def __init__(self, path):
        self.path = path
        self.files = path / "files"
        self.cache = path / "cache"
        self.scratch = path / "tmp"
        self.clear()
        for folder in (self.files, self.cache, self.scratch):
            folder.mkdir(parents=True)

    def outputs(self, number):
        """The files that take stdout and stderr of a command."""
        return self.path / f"stdout.{number}", self.path / f"stderr.{number}"

    def clear(self):
        """Remove everything, also what was made unreadable."""
        if not self.path.exists():
            return
        import subprocess

        for mounted in self.path.rglob("mounted"):
            subprocess.run(["umount", "-l", str(mounted)], capture_output=True)
        shutil.rmtree(self.path, onerror=_writable_then_again)


def _writable_then_again(remove, path, _error):
    with contextlib.suppress(OSError):
        Path(path).parent.chmod(0o700)
        Path(path).chmod(0o700)
        remove(path)


def build(room, seeds, spec, kept, cuts):
    os.chdir(room.files)
    shop = Shop(spec.random(), room.files, seeds, kept, cuts)
    case = spec.make(shop)
    case.idea, case.edits = spec.idea, shop.edits
    case.sizes = shop.sizes if shop.edits else {}
    for command in case.commands:
        if command.run is not None:
            command.run = True  # functions are not pickled; `spec.run` has it
    for user in {command.user for command in case.commands if command.user is not None}:
        for folder in (room.cache, room.scratch):
            os.chown(folder, user, user)
    (room.path / "case").write_bytes(pickle.dumps(case))
    (room.path / "before").write_bytes(pickle.dumps(snapshot(room.files)))


def _judge(room, case, ended):
    before = pickle.loads((room.path / "before").read_bytes())
    texts = [tuple(_read(path) for path in room.outputs(number)) for number in range(len(ended))]
    faults = list(judge(case, ended, room.files, before, texts, room.scratch))
    lines = texts[-1][1].decode("utf-8", "replace").strip().splitlines()
    (room.path / "faults").write_bytes(pickle.dumps((faults, lines[-1][:400] if lines else "")))


def _read(path):
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(1 << 22)
    return b""
