"""Successive halving: all candidates on small tiles, the better half on larger ones, and so on.

Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization", algorithm 1, with
the side of the tile as the resource. In each round the candidates take turns, so that other work on the machine meets
all of them, and the fastest of a candidate's runs counts, since other work can only slow it down.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np

from esrgan_deploy.backends.ort import OrtSession
from esrgan_deploy.backends.ov import OpenVinoSession
from esrgan_deploy.backends.session import Session
from esrgan_deploy.errors import EsrganError
from esrgan_deploy.tuning.candidates import STREAMS
from esrgan_deploy.tuning.choice import WORTH, Candidate, Timing

SIDES = (64, 128)
"""Of the tiles, round after round."""
RUNS = (3, 3)
"""Timed runs of each candidate in each round."""
HOPELESS = 1.5
"""So many times slower than the best, a candidate drops out even if it is in the better half."""
TILE_SIDES = (96, 128, 192, 256, 384, 512)
TILE_RUNS = 3
TILES_AT_ONCE = max(STREAMS)


@dataclass
class Runner:
    """A candidate whose network is loaded, and how it did."""

    place: int
    """Among all candidates: the first is the plainest."""
    candidate: Candidate
    session: Session
    seconds: dict[int, float] = field(default_factory=dict)
    """The fastest run so far, by the side of the tile: `TILES_AT_ONCE` tiles."""

    def run(self, side: int) -> None:
        """Compute the tiles once more, and note the time if it is the shortest so far."""
        took = self.timed(side)
        self.seconds[side] = min(took, self.seconds.get(side, took))

    def timed(self, side: int) -> float:
        """Seconds for `TILES_AT_ONCE` tiles of noise; these networks take the same time for every picture."""
        tile = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
        start = perf_counter()
        for result in [self.session.submit(tile) for _ in range(TILES_AT_ONCE)]:
            result.result()
        return perf_counter() - start

    def ns_per_pixel(self, side: int) -> float:
        """Nanoseconds for each input pixel."""
        return self.seconds[side] / (TILES_AT_ONCE * side * side) * 1e9

    def timing(self, best: Runner) -> Timing:
        """How it did, beside the best."""
        side = max(self.seconds)
        return Timing(self.candidate, self.seconds[side] / best.seconds[side], side)


class SuccessiveHalving:
    """Candidates that are timed against each other, within a time limit."""

    def __init__(self, model: Path, int8: Path | None, until: float, told: Callable[[int, int], None]) -> None:
        """Prepare.

        Args:
            model: what the candidates run, but for those in int8.
            int8: what those run.
            until: the `perf_counter` after which nothing new is begun, but for what is needed for an answer.
            told: called with steps done, and all that there will be.
        """
        self._files: Mapping[bool, Path | None] = {False: model, True: int8}
        self._until = until
        self._told = told
        self._faults: list[Timing] = []
        self._open = contextlib.ExitStack()

    def __enter__(self) -> SuccessiveHalving:
        return self

    def __exit__(self, *_error: object) -> None:
        self._open.close()

    def decide(self, candidates: Sequence[Candidate]) -> tuple[list[Timing], Runner]:
        """Time the candidates, and return how they did, the best first, and the best.

        Raises:
            EsrganError: none of them runs: what the first one failed with.
        """
        runners = self._loaded(candidates)
        ranking = _ranked(runners, SIDES[0])
        for number, (side, runs) in enumerate(zip(SIDES, RUNS, strict=True), 1):
            if not self._time_for(runners, side):
                break
            ranking = self._round(runners, side, runs) + ranking[len(runners) :]
            best = ranking[0].ns_per_pixel(side)
            keep = max(2, -(-len(runners) // 2))
            runners = [r for r in ranking[:keep] if r.ns_per_pixel(side) <= HOPELESS * best]
            self._told(len(candidates) + number, len(candidates) + len(SIDES))
        return [*(runner.timing(ranking[0]) for runner in ranking), *self._faults], ranking[0]

    def _loaded(self, candidates: Sequence[Candidate]) -> list[Runner]:
        """All candidates that run here, as far as the time goes, and one in any case."""
        runners: list[Runner] = []
        first_error = None
        for done, candidate in enumerate(candidates, 1):
            if runners and perf_counter() > self._until:
                self._faults.append(Timing(candidate, None, 0, "no time was left"))
                continue
            try:
                runners.append(self._load(done, candidate))
            except EsrganError as error:
                first_error = first_error or error
                self._faults.append(Timing(candidate, None, 0, str(error)))
            self._told(done, len(candidates) + len(SIDES))
        if first_error and not runners:
            raise first_error
        return runners

    def curve(self, runner: Runner, most_pixels: int) -> list[tuple[int, float]]:
        """Side of a tile, and nanoseconds for each of its pixels, as far as the time goes."""
        sides = []
        known = runner.ns_per_pixel(max(runner.seconds)) * 1e-9
        runner.seconds.clear()  # those of some tiles were the fastest of more runs than others get here
        for side in TILE_SIDES:
            expected = known * side * side * TILES_AT_ONCE * (1 + TILE_RUNS)
            if side * side > most_pixels or perf_counter() + expected > self._until:
                break
            runner.run(side)  # the first run of a shape allocates memory and generates code
            sides.append(side)
        for _ in range(TILE_RUNS - 1):
            for side in sides:
                if perf_counter() < self._until:
                    runner.run(side)
        return [(side, runner.ns_per_pixel(side)) for side in sides]

    def _load(self, place: int, candidate: Candidate) -> Runner:
        path = self._files[candidate.precision == "int8"]
        assert path is not None  # there is a file for every precision among the candidates
        session: Session
        if candidate.backend == "openvino":
            session = OpenVinoSession(
                path, precision=candidate.precision, threads=candidate.threads, streams=candidate.streams
            )
        else:
            session = OrtSession(path, threads=candidate.threads)
        runner = Runner(place, candidate, self._open.enter_context(session))
        runner.run(SIDES[0])  # a backend may find out only now that it has no code for this processor
        return runner

    def _time_for(self, runners: Sequence[Runner], side: int) -> bool:
        """Whether a round of two runs each can be expected to end in time. One alone needs none."""
        expected = sum(
            runner.ns_per_pixel(max(runner.seconds)) * 1e-9 * TILES_AT_ONCE * side * side for runner in runners
        )
        return len(runners) > 1 and perf_counter() + 2 * expected < self._until

    def _round(self, runners: Sequence[Runner], side: int, runs: int) -> list[Runner]:
        """Time all of them in turns, and rank them. The first run of a size allocates memory and generates code."""
        for _ in range(1 + runs):
            for runner in runners:
                if side not in runner.seconds or perf_counter() < self._until:
                    runner.run(side)
        return _ranked(runners, side)


def _ranked(runners: Sequence[Runner], side: int) -> list[Runner]:
    """The fastest first; but a plainer one beats it where the difference is in the noise."""
    ranked = sorted(runners, key=lambda runner: runner.ns_per_pixel(side))
    near = [r for r in ranked if r.ns_per_pixel(side) <= WORTH * ranked[0].ns_per_pixel(side)]
    first = min(near, key=lambda runner: runner.place)
    return [first, *(runner for runner in ranked if runner is not first)]
