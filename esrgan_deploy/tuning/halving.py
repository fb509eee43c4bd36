"""Successive halving: time all candidates on small tiles, then the better half on larger ones.

Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization", algorithm 1, with
the side of the tile as the resource. In each round the candidates take turns, so that other work on the machine slows
all of them alike, and the fastest of a candidate's runs counts, since other work never makes a run faster.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np

from esrgan_deploy.backends.choice import Candidate, Timing
from esrgan_deploy.backends.ort import OrtSession
from esrgan_deploy.backends.ov import OpenVinoSession
from esrgan_deploy.backends.session import Session
from esrgan_deploy.errors import EsrganError
from esrgan_deploy.tuning.candidates import STREAMS

NOISE = 1.03
"""Times whose ratio is below this count as equal; the candidate that comes first in the list is then taken."""
SIDES = (64, 128)
"""Of the tiles, one for each round."""
RUNS = (3, 3)
"""Timed runs of each candidate, one number for each round."""
HOPELESS = 1.5
"""A candidate that takes this many times as long as the best is dropped, even from the better half."""
TILE_SIDES = (96, 128, 192, 256, 384, 512)
TILE_RUNS = 3
TILES_AT_ONCE = max(STREAMS)


@dataclass
class Runner:
    """A candidate with its network loaded, and its times so far."""

    place: int
    """In the list of candidates; the first is what runs without tuning."""
    candidate: Candidate
    session: Session
    seconds: dict[int, float] = field(default_factory=dict)
    """The fastest run so far, of `TILES_AT_ONCE` tiles, by the side of the tile."""

    def run(self, side: int) -> None:
        """Compute the tiles once more, and keep the time if it is the shortest so far."""
        took = self.timed(side)
        self.seconds[side] = min(took, self.seconds.get(side, took))

    def timed(self, side: int) -> float:
        """Seconds for `TILES_AT_ONCE` tiles of noise; the content of a tile does not change its time."""
        tile = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
        start = perf_counter()
        for result in [self.session.submit(tile) for _ in range(TILES_AT_ONCE)]:
            result.result()
        return perf_counter() - start

    def ns_per_pixel(self, side: int) -> float:
        """Nanoseconds for each input pixel."""
        return self.seconds[side] / (TILES_AT_ONCE * side * side) * 1e9

    def expected_s(self, side: int) -> float:
        """Seconds that a run of this side will take, going by the largest side timed so far."""
        return self.ns_per_pixel(max(self.seconds)) * 1e-9 * TILES_AT_ONCE * side * side

    def timing(self, best: Runner) -> Timing:
        """Its result, relative to the best."""
        side = max(self.seconds)
        return Timing(self.candidate, self.seconds[side] / best.seconds[side], side)


class SuccessiveHalving:
    """Times candidates against each other within a time limit."""

    def __init__(self, model: Path, int8: Path | None, until: float, told: Callable[[int, int], None]) -> None:
        """Prepare.

        Args:
            model: what the candidates run, except those in int8.
            int8: what those in int8 run.
            until: value of `perf_counter` after which no run is begun that an answer does not need.
            told: called with the number of steps done and of all steps.
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
        """Time the candidates; return all results, the best first, and the best one's runner.

        Raises:
            EsrganError: none of them runs; it is the first one's error.
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

    def curve(self, runner: Runner, most_pixels: int) -> list[tuple[int, float]]:
        """Time tiles of growing sides, as far as the time limit allows: the side, and nanoseconds for each pixel."""
        sides = []
        expected = {side: runner.expected_s(side) for side in TILE_SIDES}
        runner.seconds.clear()  # some sides had more runs than the others will get here
        for side in TILE_SIDES:
            if side * side > most_pixels or perf_counter() + expected[side] * (1 + TILE_RUNS) > self._until:
                break
            runner.run(side)  # the first run of a shape also allocates memory and generates code
            sides.append(side)
        for _ in range(TILE_RUNS - 1):
            for side in sides:
                if perf_counter() < self._until:
                    runner.run(side)
        return [(side, runner.ns_per_pixel(side)) for side in sides]

    def _loaded(self, candidates: Sequence[Candidate]) -> list[Runner]:
        """Load every candidate that runs on this machine; past the time limit, only until one is loaded."""
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
        runner.run(SIDES[0])  # some backends fail only now on a processor that they have no code for
        return runner

    def _time_for(self, runners: Sequence[Runner], side: int) -> bool:
        """Whether a round, of two runs each at least, should end in time. A single candidate needs no round."""
        expected = sum(runner.expected_s(side) for runner in runners)
        return len(runners) > 1 and perf_counter() + 2 * expected < self._until

    def _round(self, runners: Sequence[Runner], side: int, runs: int) -> list[Runner]:
        """Time the candidates in turn, and rank them. The first run also allocates memory and generates code."""
        for _ in range(1 + runs):
            for runner in runners:
                if side not in runner.seconds or perf_counter() < self._until:
                    runner.run(side)
        return _ranked(runners, side)


def _ranked(runners: Sequence[Runner], side: int) -> list[Runner]:
    """The fastest first; among those within the noise, the first in the list of candidates."""
    ranked = sorted(runners, key=lambda runner: runner.ns_per_pixel(side))
    near = [r for r in ranked if r.ns_per_pixel(side) <= NOISE * ranked[0].ns_per_pixel(side)]
    first = min(near, key=lambda runner: runner.place)
    return [first, *(runner for runner in ranked if runner is not first)]
