"""Too little of everything: memory, space on the disk, open files; and runs that are killed."""

import os
import shutil
import signal
import subprocess

from hostile.case import Case, Command, Output
from hostile.classes.journals import TARGET, WORDS, interrupted
from hostile.classes.streams import commands

MIB = 1 << 20
NO_ROOM = frozenset({0, 2, 3})
MOUNTED = "mounted"
"""A small file system, where the driver may mount one."""


def limited(shop, limits, number=None):
    """One of the commands, as a process of its own, with limits."""
    known = commands(shop)[:4]
    words, outputs = known[number] if number is not None else shop.pick(known)
    binary = words[words.index("-o") + 1] == "-"
    from hostile.seeds import y4m

    stdin = y4m(3) if words[1] == "-" else None
    return Case("", [Command(words, NO_ROOM, stdin=stdin, limits=limits, apart=True, binary=binary)], outputs)


def little_memory(shop):
    """`ulimit -v`."""
    return limited(shop, {"RLIMIT_AS": shop.pick([400, 600, 1000, 2000]) * MIB})


def network_in_little_memory(shop):
    """`ulimit -v` and a network."""
    case = limited(shop, {"RLIMIT_AS": shop.pick([700, 1000, 1500, 3000]) * MIB}, 0)
    words = case.commands[0].words
    words[-2:] = ["-m", "net.onnx", "-b", shop.pick(["ort", "openvino"])]
    return case


def small_files(shop):
    """`ulimit -f`: what is written ends early."""
    return limited(shop, {"RLIMIT_FSIZE": shop.pick([0, 1, 1000, 4096, 20_000])})


def few_open_files(shop):
    """`ulimit -n`."""
    return limited(shop, {"RLIMIT_NOFILE": shop.pick([6, 10, 16, 24, 40])})


def small_stack(shop):
    """`ulimit -s`."""
    return limited(shop, {"RLIMIT_STACK": shop.pick([256 * 1024, MIB, 2 * MIB])})


def mounted(shop, size):
    """A file system of `size` bytes in the case's folder, or None where the driver may not mount one."""
    folder = shop.folder / MOUNTED
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        return None
    return folder


def full_disk(shop):
    """The disk fills up at a random moment; with room, --resume makes the uninterrupted file byte for byte."""
    made = interrupted(shop)
    shutil.rmtree(shop.folder / f"{TARGET}.parts")
    size = int(shop.rng.integers(4, 110)) * 4096
    if mounted(shop, size) is None:
        return limited(shop, {"RLIMIT_FSIZE": size}, 1)
    target = f"{MOUNTED}/{TARGET}"
    words = [*WORDS[:3], target, *WORDS[4:]]
    room = ["mount", "-o", "remount,size=10m", str(shop.folder / MOUNTED)]
    return Case(
        "",
        [Command(words, NO_ROOM), Command([*words, "--resume"], frozenset({0}), before=room)],
        [Output(target, "clip", same_as=made)],
    )


def full_disk_picture(shop):
    """A picture that does not fit."""
    shop.seed("rgb.png", "in.png")
    shop.seed("rgb.png", "in/a.png")
    if mounted(shop, shop.pick([4096, 8192])) is None:
        return limited(shop, {"RLIMIT_FSIZE": 100}, 0)
    target = shop.pick([f"{MOUNTED}/out.bmp", f"{MOUNTED}/out.tif", f"{MOUNTED}/out.png"])
    return Case(
        "", [Command(["esrgan-upscale", "in.png", "-o", target, "-b", "reference"])], [Output(target, "picture")]
    )


def full_temporary_folder(shop):
    """No room for temporary files."""
    shop.seed("a.mkv", "in.mkv")
    if mounted(shop, 4096) is None:
        return limited(shop, {"RLIMIT_FSIZE": 4096}, 1)
    words = ["esrgan-upscale", "in.mkv", "-o", "out.mkv", "-b", "reference"]
    command = Command(words, env={"TMPDIR": str(shop.folder / MOUNTED)}, apart=True)
    return Case("", [command], [Output("out.mkv", "clip", frames=12)])


def full_pipe_target(shop):
    """Frames from a pipe into a file on a disk that is too small."""
    from hostile.seeds import y4m

    if mounted(shop, shop.pick([4096, 8192])) is None:
        return limited(shop, {"RLIMIT_FSIZE": 2000}, 3)
    target = f"{MOUNTED}/out.mkv"
    command = Command(["esrgan-upscale", "-", "-o", target, "-b", "reference"], NO_ROOM, stdin=y4m(30))
    return Case("", [command], [Output(target, "clip")])


def killed(shop):
    """SIGKILL at any moment: the resumed file is the uninterrupted one, byte for byte."""
    whole = interrupted(shop)
    if shop.rng.random() < 0.6:
        shutil.rmtree(shop.folder / f"{TARGET}.parts")
    else:
        assert (shop.folder / f"{TARGET}.parts").is_dir()
    moment = float(shop.rng.uniform(0.1, 0.7))
    first = [*WORDS, "--resume"]
    return Case(
        "",
        [
            Command(first, frozenset({0, -9}), apart=True, signal=(int(signal.SIGKILL), moment)),
            Command([*WORDS, "--resume"], frozenset({0})),
        ],
        [Output(TARGET, "clip", same_as=whole)],
        ours=(f"{TARGET}.parts",),
    )


def memory_option(shop):
    """--max-memory with numbers that are none."""
    value = shop.pick(["0", "-1", "nan", "inf", "1e999", "x", "0.000001", "9" * 40, "1e-400", "0.5"])
    case = limited(shop, {}, shop.pick([0, 1]))
    case.commands[0].words += ["--max-memory", value]
    case.commands[0].apart = False
    return case


def mutated(shop):
    """Several limits at once, at random."""
    choices = {
        "RLIMIT_AS": [500 * MIB, 1000 * MIB, 4000 * MIB],
        "RLIMIT_FSIZE": [int(shop.rng.integers(0, 60_000))],
        "RLIMIT_NOFILE": [int(shop.rng.integers(6, 60))],
        "RLIMIT_STACK": [MIB],
    }
    if shop.rng.random() < 0.5:
        return shop.pick([full_disk, killed, full_disk_picture, full_pipe_target])(shop)
    return limited(shop, {name: shop.pick(choices[name]) for name in shop.some(choices, 2)})


IDEAS = [
    little_memory,
    network_in_little_memory,
    small_files,
    few_open_files,
    small_stack,
    full_disk,
    full_disk_picture,
    full_temporary_folder,
    full_pipe_target,
    killed,
    memory_option,
]
assert os.name == "posix"
