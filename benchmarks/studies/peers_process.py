"""The other end of `peers_child.py`: start a contender, send it frames, and keep it still while it is not its turn."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any

from peers_messages import Failed, Frame, Pixels, Ready, Upscaled

CHILD = Path(__file__).with_name("peers_child.py")
ANSWER_LIMIT_S = 120.0
"""For one frame. Nobody here takes a quarter of it; a library that hangs must not hang the others."""


class UnavailableError(Exception):
    """A contender cannot take part; one line says why."""


class Contender:
    """A process that upscales frames with one library.

    It is stopped (SIGSTOP) whenever it is not its turn: threads that spin while they wait for work, as those of OpenMP
    and ONNX Runtime do for a while after each frame, then take nothing from whoever is measured.
    """

    def __init__(
        self,
        loader: str,
        arguments: Mapping[str, Any],
        size: tuple[int, int],
        *,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start loading; `wait_until_ready` is next.

        Args:
            loader: a name in `peers_child.LOADERS`.
            arguments: its arguments, ready for JSON.
            size: (height, width) of the frames to come; the first is made up, and warms it up.
            python: the interpreter that has the library.
            environment: variables to set, beside those of this process.
        """
        request = {"loader": loader, "arguments": dict(arguments), "height": size[0], "width": size[1]}
        self._connection, theirs = Pipe()
        # What a library prints would tear the table apart; if the process dies, the end of it says why.
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `close`
        self._process = subprocess.Popen(
            [python, str(CHILD), str(theirs.fileno()), json.dumps(request)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._printed,
            stderr=self._printed,
            env={**os.environ, **(environment or {})},
        )
        theirs.close()
        self._started = time.monotonic()

    def __enter__(self) -> Contender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def wait_until_ready(self, limit_s: float) -> Ready:
        """What it says of itself once it has upscaled a first frame.

        Raises:
            UnavailableError: it failed, or is not ready `limit_s` after it was started.
        """
        answer = self._receive(limit_s, since=self._started)
        assert isinstance(answer, Ready)
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def upscale(self, pixels: Pixels) -> Upscaled:
        """One frame, upscaled while it is this contender's turn.

        Raises:
            UnavailableError: it failed, died, or takes longer than `ANSWER_LIMIT_S`.
        """
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(ConnectionError):  # it is dead; `_receive` says of what
            self._connection.send(Frame.of(pixels))
        answer = self._receive(ANSWER_LIMIT_S, since=time.monotonic())
        assert isinstance(answer, Upscaled)
        self._process.send_signal(signal.SIGSTOP)
        return answer

    @property
    def peak_rss_mib(self) -> float:
        """The most memory that the whole process has held, interpreter and libraries included."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:"))

    def close(self) -> None:
        """End the process, whatever it is doing. May be called twice."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._printed.close()

    def _receive(self, limit_s: float, since: float) -> Ready | Upscaled:
        """Its next message."""
        try:
            if not self._connection.poll(max(0.0, since + limit_s - time.monotonic())):
                raise UnavailableError(f"no answer within {limit_s:.0f} s")
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            raise UnavailableError(self._last_words()) from None
        if isinstance(answer, Failed):
            raise UnavailableError(answer.reason)
        assert isinstance(answer, Ready | Upscaled)
        return answer

    def _last_words(self) -> str:
        """How the process ended, and the last line that it printed."""
        status = self._process.wait()
        ended = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"its process {ended}{': ' if last else ''}{last}"
