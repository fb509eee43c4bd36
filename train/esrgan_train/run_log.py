"""What a run reports while it trains: a progress bar, JSON lines and TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from torch.utils.tensorboard import SummaryWriter

from esrgan_deploy.budget import read_bytes
from esrgan_deploy.cli.progress import Progress
from esrgan_deploy.cli.terminal import note
from esrgan_deploy.errors import OutputError
from esrgan_deploy.system.files import replacing
from esrgan_train.cost_estimate import peak_memory
from esrgan_train.data.loader import Batch
from esrgan_train.run import Run
from esrgan_train.run_folder import LOG, is_there
from esrgan_train.step import Terms
from esrgan_train.validate import Scores, means

if TYPE_CHECKING:
    from typing_extensions import Self

_MOST_BYTES = 1 << 30
"""A run of a million steps that logs every one of them has a quarter of it."""


class TimedBatches(Iterator[Batch]):
    """Passes batches on, and measures the seconds that the network waited for them (`waited`)."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.waited = 0.0

    def __next__(self) -> Batch:
        start = perf_counter()
        batch = next(self._batches)
        self.waited += perf_counter() - start
        return batch


class RunLog:
    """Writes means of the losses, scores, and speed. Only the first process writes.

    A resumed run continues the same files; lines from after the state that it resumes are removed first. Losses that
    are in no line yet are kept in `Run.unlogged`, which is saved with the state, so that the next line is the same as
    without the interruption.

    Raises:
        OutputError: the files cannot be written.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._file: TextIO | None = None
        self._writer: SummaryWriter | None = None
        self._progress: Progress | None = None
        self._steps = 0
        self._since = perf_counter()
        self._waited = 0.0
        if run.fabric.is_global_zero:
            path = run.folder / LOG
            _cut_after(path, run.step)
            try:
                self._file = path.open("a", encoding="utf-8")
                self._writer = SummaryWriter(run.folder, purge_step=run.step + 1)
            except OSError as error:
                raise self._unwritable(error) from error
            self._progress = Progress("step", run.recipe.steps, run.step)

    def step(self, terms: Terms) -> None:
        """Add the losses of one step, as means over all processes."""
        for name, value in terms.items():
            total, count = self._run.unlogged.get(name, (0.0, 0))
            self._run.unlogged[name] = (total + value, count + 1)
        self._steps += 1
        if self._progress is not None:
            self._progress(self._run.step, note=f"{peak_memory(self._run.fabric.device) / 2**30:.1f} GiB")

    def losses(self, batches: TimedBatches) -> None:
        """Write the mean of each loss over the steps since the last line that computed it."""
        now = perf_counter()
        mean = {name: total / count for name, (total, count) in self._run.unlogged.items()}
        speed = {
            "steps_per_second": self._steps / (now - self._since),
            "data_share": (batches.waited - self._waited) / (now - self._since),
            "lr": self._run.model.generator.optimiser.param_groups[0]["lr"],
        }
        self._run.unlogged.clear()
        self._steps, self._since, self._waited = 0, now, batches.waited
        self._write("train", mean | speed)

    def validation(self, scores: Scores, label: str) -> None:
        """Write the scores of one validation, of the weights that `label` names, and print their means."""
        mean = means(scores)
        self._write(label, mean, {"pictures": scores})
        note(f"step {self._run.step} {label}: {', '.join(f'{k} {v:.4g}' for k, v in mean.items())}")

    def _write(self, label: str, values: dict[str, float], more: dict[str, Any] | None = None) -> None:
        if self._file is None or self._writer is None:
            return
        line = {"step": self._run.step, "what": label, **values, **(more or {})}
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._writer.add_scalar(f"{label}/{name}", value, self._run.step)
            self._writer.flush()  # its own thread would print a traceback if the disk is full
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(f"{self._run.folder / LOG}: cannot be written: {error.strerror}; make room and go on")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.__exit__(kind, error, trace)
        for stream in (self._file, self._writer):
            if stream is not None:
                try:
                    stream.close()
                except OSError as failure:
                    if error is None:
                        raise self._unwritable(failure) from failure


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, without those that are damaged: a kill cuts the last one short.

    Raises:
        OutputError: it is no regular file, or cannot be read.
    """
    remedy = "remove it; the run goes on without its earlier lines"
    text = read_bytes(path, OutputError, _MOST_BYTES, remedy).decode(errors="replace")
    return [line for line in map(_parsed, text.splitlines()) if line is not None]


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and type(line.get("step")) is int else None


def _cut_after(path: Path, step: int) -> None:
    """Remove the lines from after `step`; all of them if `step` is 0. What a link names is left as it is."""
    kept = [line for line in read_log(path) if line["step"] <= step] if step and is_there(path) else []
    with replacing(path) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
