"""Compare a benchmark with an older one of the same machine: what is slower, beyond the noise of both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import hypot, sqrt
from pathlib import Path
from typing import Any, NamedTuple

from esrgan_bench.nvml import gpu_facts
from esrgan_bench.report import REPORT_FORMAT
from esrgan_deploy.arguments import described
from esrgan_deploy.budget import TEXT_BYTES, read_bytes
from esrgan_deploy.errors import OptionError
from esrgan_deploy.system.machine import machine_facts

MOST = 1e15
"""Of anything that is measured: milliseconds, runs, GFLOPS."""
KEYS = ("model", "backend", "precision", "width", "height", "batch", "streams", "threads")
"""What two results must have in common to be compared."""
MACHINE = ("cpu", "cpu_features", "cores", "cores_usable")
LEAST_CHANGE = 0.05
"""Smaller changes are called the same: clocks alone may differ by so much between two runs of one machine."""
STANDARD_ERRORS = 3.0
SIGMA_OF_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
ERROR_OF_MEDIAN = 1.2533
"""Standard error of the median of n values over sigma / sqrt(n), likewise."""
RULE = (
    f"slower: the median time has grown by more than {LEAST_CHANGE:.0%}, and by more than {STANDARD_ERRORS:g} standard "
    "errors of the two medians, which follow from the median absolute deviation and the number of runs of each"
)


class Change(NamedTuple):
    """One combination that both benchmarks measured."""

    name: str
    ratio: float
    """The median time now over that of then."""
    noise: float
    """How far from 1 the ratio may be by chance."""

    @property
    def verdict(self) -> str:
        """One of "slower", "faster" and "same"; twice the time and half of it are judged alike."""
        if self.ratio > 1 + self.noise:
            return "slower"
        return "faster" if 1 / self.ratio > 1 + self.noise else "same"


class Comparison(NamedTuple):
    """What came out, in the order of the new results."""

    changes: list[Change]
    others: list[str]
    """Lines about everything that could not be compared, or that may explain a change."""

    @property
    def slower(self) -> list[Change]:
        """The regressions."""
        return [change for change in self.changes if change.verdict == "slower"]


def read_older(path: Path) -> dict[str, Any]:
    """Read a file that `esrgan-bench --json` wrote on this machine.

    Raises:
        OptionError: no such file, something else, another format, or another machine.
    """
    try:
        content = json.loads(read_bytes(path, OptionError, TEXT_BYTES))
        found = content["format"]
        if found == REPORT_FORMAT:
            _check_numbers(content)
            compare(content, content)  # fails where a key is missing
            _check_machine(path, content["machine"])
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise OptionError(f"{path}: is no file of esrgan-bench --json, or is damaged; measure it again") from error
    if found != REPORT_FORMAT:
        raise OptionError(
            f"{path}: has format {described(found)}, this version compares {REPORT_FORMAT} (format 1 holds no spread, "
            "so the noise is unknown); measure it again with --json"
        )
    older: dict[str, Any] = content
    return older


def _check_numbers(content: Mapping[str, Any]) -> None:
    """Make sure that what is computed with can be: numbers, finite and above zero.

    Raises:
        ValueError: one is not; also LookupError and TypeError where something else is wrong.
    """
    results = content["results"]
    numbers = [*(result["latency_ms"]["p50"] for result in results), *(result["runs"] for result in results)]
    numbers += [peak["gflops"] for peak in content["peaks"]]
    spreads = [result["spread_ms"] for result in results]
    if not all(isinstance(number, (int, float)) for number in [*numbers, *spreads]):
        raise ValueError("no number")
    if not all(0 < number < MOST for number in numbers) or not all(0 <= spread < MOST for spread in spreads):
        raise ValueError("a number that nobody has measured")


def compare(older: Mapping[str, Any], newer: Mapping[str, Any]) -> Comparison:
    """Match results by `KEYS`; both are what `report.to_json` returns."""
    then = {_key(result): result for result in older["results"]}
    now = {_key(result): result for result in newer["results"]}
    others = [f"only in the older file: {_name(result)}" for key, result in then.items() if key not in now]
    changes = []
    for key, result in now.items():
        before = then.get(key)
        if before is None:
            others.append(f"not in the older file: {_name(result)}")
        elif before["flops_per_frame"] != result["flops_per_frame"]:
            others.append(f"not compared, the name is the same but not the network: {_name(result)}")
        else:
            changes.append(_change(before, result))
    return Comparison(changes, [*others, *_circumstances(older, newer)])


def report_lines(comparison: Comparison, path: Path) -> list[str]:
    """The comparison for people."""
    lines = [f"Against {path} ({RULE}):"]
    lines += [f"  {c.verdict:6} {c.ratio:5.2f}x the time (noise {c.noise:.0%})  {c.name}" for c in comparison.changes]
    lines += [f"  {line}" for line in comparison.others]
    return [*lines, f"{len(comparison.slower)} of {len(comparison.changes)} slower than before."]


def _check_machine(path: Path, then: Mapping[str, Any]) -> None:
    now = machine_facts()
    names = [name for name in MACHINE if then.get(name) != now[name]]
    different = [f"{name} {then.get(name)!r} there, {now[name]!r} here" for name in names]
    if then.get("gpu"):
        here = (gpu_facts() or {}).get("name")
        if then["gpu"].get("name") != here:
            different.append(f"GPU {then['gpu'].get('name')!r} there, {here!r} here")
    if different:
        raise OptionError(
            f"{path}: was measured on another machine ({'; '.join(different)}); compare files of one machine only"
        )


def _change(before: Mapping[str, Any], result: Mapping[str, Any]) -> Change:
    then, now = before["latency_ms"]["p50"], result["latency_ms"]["p50"]
    noise = STANDARD_ERRORS * hypot(_error(before), _error(result))
    return Change(_name(result), now / then, max(LEAST_CHANGE, noise))


def _error(result: Mapping[str, Any]) -> float:
    """Standard error of the median time, as a share of it."""
    sigma = SIGMA_OF_MAD * result["spread_ms"] / result["latency_ms"]["p50"]
    return float(ERROR_OF_MEDIAN * sigma / sqrt(result["runs"]))


def _circumstances(older: Mapping[str, Any], newer: Mapping[str, Any]) -> Iterator[str]:
    """What else has changed: files, versions, the machine's own speed."""
    for name, sha256 in newer["models"].items():
        if older["models"].get(name, sha256) != sha256:
            yield f"{name}: the file has changed"
    packages_then, packages_now = (content["machine"].get("packages", {}) for content in (older, newer))
    for name in sorted({*packages_then, *packages_now}):
        versions = [packages.get(name, "none") for packages in (packages_then, packages_now)]
        if versions[0] != versions[1]:
            yield f"{name} was {versions[0]}, is {versions[1]} now"
    peaks_then = _peaks(older)
    for key, gflops in _peaks(newer).items():
        change = gflops / peaks_then.get(key, gflops)
        if abs(change - 1) > LEAST_CHANGE:
            yield (
                f"the peak of {' in '.join(key)} is {change:.2f}x of what it was: "
                f"the machine itself, or the library, is {'faster' if change > 1 else 'slower or busier'}"
            )


def _key(result: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(result[key] for key in KEYS)


def _peaks(content: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    return {(peak["backend"], peak["precision"]): float(peak["gflops"]) for peak in content["peaks"]}


def _name(result: Mapping[str, Any]) -> str:
    return (
        f"{result['model']}, {result['backend']} in {result['precision']}, {result['width']}x{result['height']}, "
        f"batch {result['batch']}, streams {result['streams']}, threads {result['threads']}"
    )
