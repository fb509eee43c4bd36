"""What is right after a case, whatever it was. Each function yields (kind of fault, what was seen)."""

import dataclasses
import re
import stat

from hostile import readings
from hostile.case import GIB, snapshot

FAULT = re.compile(r"Traceback \(most recent call last\)|internal error|Fatal Python error|Segmentation fault")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
PARTLY = re.compile(r"the (\d+) frames before that")
LONGEST_LINE = 4200
MOST_LINES = 400
NOISE = re.compile(
    r"^\[\w+ @ 0x[0-9a-f]+\]|^\[ ?WARN:|^\[ERROR:|^libpng|^TIFF|^Corrupt JPEG|^\d{4}-\d\d-\d\d .*onnxruntime"
)


def judge(case, ended, folder, before, texts, scratch):
    """All faults of a case.

    Args:
        case: as it was made.
        ended: how each command ended; may be fewer, since a fault ends a case.
        folder: where it ran.
        before: the `snapshot` of that folder.
        texts: what each command wrote, (stdout, stderr) in bytes.
        scratch: the folder for temporary files.
    """
    for command, end, (out, err) in zip(case.commands, ended, texts, strict=False):
        yield from exit_code(command, end)
        yield from costs(case, end)
        yield from said(command, end, err.decode("utf-8", "replace"))
        yield from shown(command, out, err)
    kept = case.kept or case.interrupted
    yield from files(case, 0 if kept else ended[-1].code, folder, before, texts[-1][1].decode("utf-8", "replace"))
    for path in sorted(scratch.rglob("*")):
        yield "left behind", f"temporary file {path.name}"
    if ended[-1].code == 0 or kept:
        for output in case.outputs:
            yield from readings.check(output, folder)


def exit_code(command, end):
    """Only codes that the case allows; a signal is a crash."""
    if end.hung or end.greedy:
        return
    if end.code < 0 and end.code not in command.codes:
        yield "crash", f"killed by signal {-end.code}"
    elif end.code not in command.codes:
        yield "exit code", f"{end.code}, right is one of {sorted(command.codes)}"


def costs(case, end):
    """Time and memory."""
    if end.hung:
        yield "hang", f"still running after {end.seconds:.0f} s"
    elif end.seconds > case.seconds and end.cpu_seconds > case.seconds / 2:
        yield "slow", f"{end.seconds:.0f} s"
    # To measure the memory's speed, esrgan-bench copies four times the size of the largest cache.
    most = case.memory + (2 * GIB if any(command.words[0] == "esrgan-bench" for command in case.commands) else 0)
    if end.greedy or end.peak > most:
        yield "memory", f"{end.peak / 2**30:.1f} GiB, at most {most / 2**30:.1f}"


def said(command, end, text):
    """Refusals are one line, the last one; no traceback, no internal error, no chatter of libraries."""
    if command.signal and "KeyboardInterrupt" in text:  # before the command has begun
        return
    if found := FAULT.search(text):
        yield "internal error", text[found.start() :].strip()[-700:]
        return
    if "hostile: connection" in text:
        yield "connection", text.strip()[-200:]
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > MOST_LINES or any(len(line) > LONGEST_LINE for line in lines):
        yield "flood", f"{len(lines)} lines on stderr, {max(map(len, lines))} characters in the longest"
    if noise := [line for line in lines if NOISE.search(line)]:
        yield "noise", noise[0][:200]
    if command.stderr != "file" or end.code not in (2, 3) or command.signal:
        return
    if command.limits.get("RLIMIT_FSIZE", LONGEST_LINE) < LONGEST_LINE:  # it holds for the file of stderr too
        return
    prog = command.words[0]
    if not lines or not lines[-1].startswith(prog):
        yield "no line", f"exit code {end.code} and the last line is {(lines or [''])[-1][:200]!r}"


def shown(command, out, err):
    """Nothing that a terminal obeys, on stderr and on stdout where that is text."""
    for name, data in (("stderr", err), *((("stdout", out),) if not command.binary else ())):
        if found := CONTROL.search(data.decode("utf-8", "replace").replace("\r\n", "\n")):
            at = found.start()
            yield "escape", f"{name}: {data.decode('utf-8', 'replace')[max(0, at - 60) : at + 20]!r}"


def files(case, code, folder, before, said_at_last):
    """Nothing of others touched, nothing new but whole outputs, nothing left behind.

    A damaged clip may leave the frames before its damage, if the last line says how many.
    """
    after = snapshot(folder)
    named = {output.path: output for output in case.outputs}
    for name, was in before.items():
        ours = any(name == entry or name.startswith(f"{entry}/") for entry in case.ours)
        if not ours and after.get(name) != was and not (code == 0 and name in named):
            yield "victim", f"{name} was {'changed' if name in after else 'removed'}"
    for name, status in after.items():
        if name in before:
            continue
        if name in named and (partly := PARTLY.search(said_at_last)):
            yield from readings.check(dataclasses.replace(named[name], like=None, frames=int(partly[1])), folder)
            continue
        yield from _new(case, code, name, status, named, folder)
    if code == 0 and not (case.kept or case.interrupted):
        for name in named:
            if not (folder / name).exists():
                yield "no output", f"exit code 0 and no {name}"


def _new(case, code, name, status, named, folder):
    parts = next((output for output in named if name == f"{output}.parts" or name.startswith(f"{output}.parts/")), None)
    inside = next((output for output in named if name.startswith(f"{output}/")), None)
    if name in named and (code == 0 or stat.S_ISDIR(status[0])):
        return
    if any(name == entry or name.startswith(f"{entry}/") for entry in case.ours):
        return
    if inside and named[inside].kind == "folder":
        if not stat.S_ISDIR(status[0]) and (problem := readings.fault_of(folder / name)):
            yield "half-written", f"{name}: {problem}"
    elif parts and code != 0:
        few_files = any("RLIMIT_NOFILE" in command.limits for command in case.commands)  # too few to list a folder
        if not few_files and not list((folder / f"{parts}.parts").glob("*.packets")):
            yield "left behind", f"{name}, without a finished segment"
        elif re.search(r"/\..*part|\.tmp", name):
            yield "left behind", name
    elif name in named:
        yield "half-written", f"exit code {code} and {name} was written"
    else:
        yield "left behind", name
