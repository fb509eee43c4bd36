"""Standard input, output and error that are closed, full, or read by nobody."""

import signal

from hostile.case import FINE, Case, Command, Output
from hostile.seeds import y4m

INTERRUPTED = frozenset({0, 130, 143})
KINDS = ("closed", "full", "gone")


def commands(shop):
    """Every command that prints, with what it makes."""
    shop.seed("rgb.png", "in.png")
    shop.seed("a.mkv", "in.mkv")
    shop.seed("nearest.onnx", "net.onnx")
    return [
        (
            ["esrgan-upscale", "in.png", "-o", "out.png", "-b", "reference"],
            [Output("out.png", "picture", like="in.png")],
        ),
        (["esrgan-upscale", "in.mkv", "-o", "out.mkv", "-b", "reference"], [Output("out.mkv", "clip", frames=12)]),
        (["esrgan-upscale", "in.mkv", "-o", "-", "-b", "reference"], []),
        (["esrgan-upscale", "-", "-o", "-", "-b", "reference"], []),
        (["esrgan-upscale", "gone.png", "-o", "out.png", "-b", "reference"], []),
        (["esrgan-upscale", "--help"], []),
        (["esrgan-upscale", "--version"], []),
        (["esrgan-upscale", "--nothing"], []),
        (["esrgan-engine", "--list", "--cache", "engines"], []),
        (["esrgan-bench", "-m", "net.onnx", "-b", "ort", "--shapes", "8x8", "--seconds", "0.05"], []),
    ]


def with_streams(shop, number=None, **streams):
    """One of them, as a process of its own."""
    known = commands(shop)
    words, outputs = known[number] if number is not None else shop.pick(known)
    # What is written before the last line cannot be printed is whole, and may stay.
    command = Command(words, apart=True, binary=True, **streams)
    if "-" in words[1:2] and command.stdin is None:
        command.stdin = y4m(3)
    return Case("", [command], outputs, kept=True)


def stdout_closed(shop):
    """No standard output."""
    return with_streams(shop, stdout="closed")


def stdout_full(shop):
    """Standard output is a full disk."""
    return with_streams(shop, stdout="full")


def stdout_gone(shop):
    """The reader of standard output has gone away."""
    return with_streams(shop, stdout="gone")


def stderr_closed(shop):
    """No standard error."""
    return with_streams(shop, stderr="closed")


def stderr_full(shop):
    """Standard error is a full disk."""
    return with_streams(shop, stderr="full")


def stdin_closed(shop):
    """No standard input."""
    return with_streams(shop, stdin="closed")


def all_closed(shop):
    """None of the three: files that are opened get their numbers."""
    return with_streams(shop, stdin="closed", stdout="closed", stderr="closed")


def both_gone(shop):
    """Nobody reads what is said."""
    return with_streams(shop, stdout=shop.pick(KINDS), stderr=shop.pick(KINDS))


def frames_to_nobody(shop):
    """Frames to a full or closed standard output."""
    return with_streams(shop, shop.pick([2, 3]), stdout=shop.pick(KINDS))


def help_to_nobody(shop):
    """`--help | head -1`."""
    return with_streams(shop, shop.pick([5, 6, 7, 8]), stdout=shop.pick(KINDS))


def picture_to_nobody(shop):
    """The picture is written; only its name cannot be printed."""
    return with_streams(shop, 0, stdout=shop.pick(KINDS), stderr=shop.pick(["file", *KINDS]))


def interrupted(shop):
    """Ctrl-C or SIGTERM at any moment: nothing half-written, 130 or 143."""
    known = commands(shop)
    words, outputs = shop.pick(known[:2])
    number = shop.pick([signal.SIGINT, signal.SIGTERM])
    # Until the command has set its handlers, the interpreter ends as it always does.
    codes = INTERRUPTED | {-int(number), 1, 2}
    command = Command(words, codes, apart=True, signal=(int(number), float(shop.rng.uniform(0.02, 0.6))))
    return Case("", [command], outputs, interrupted=True)


def ordinary(shop):
    """Nothing is wrong."""
    case = with_streams(shop, shop.pick([0, 1]))
    case.commands[0].codes = FINE
    return case


def mutated(shop):
    """Any of them, in any way."""
    streams = {name: shop.pick(["file", "file", *KINDS]) for name in ("stdout", "stderr")}
    if shop.rng.random() < 0.3:
        streams["stdin"] = "closed"
    return with_streams(shop, **streams)


IDEAS = [
    stdout_closed,
    stdout_full,
    stdout_gone,
    stderr_closed,
    stderr_full,
    stdin_closed,
    all_closed,
    both_gone,
    frames_to_nobody,
    help_to_nobody,
    picture_to_nobody,
    interrupted,
    ordinary,
]
