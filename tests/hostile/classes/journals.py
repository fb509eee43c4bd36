"""Folders of finished segments: foreign ones, links, edited journals, damaged segments."""

import json
import os
import shutil

from hostile.case import BAD_INPUT, Case, Command, Output

TARGET = "own.mkv"
WORDS = ["esrgan-upscale", "in.mkv", "-o", TARGET, "-b", "reference", "--segment", "4"]
"""Three segments of four frames."""


def _interrupted(folder):
    """A run that was interrupted after two of three segments, and the file of one that was not."""
    from clips import nearest
    from esrgan_deploy.cli.upscale import main
    from hostile.seeds import Seeds

    os.chdir(folder)
    shutil.copy(Seeds(folder.parent).path("ffv1.mkv"), "in.mkv")
    assert nearest
    assert main([*WORDS[1:3], "whole.mkv", *WORDS[4:]]) == 0
    import esrgan_deploy.video.output.checkpoint as checkpoint

    real = checkpoint.Checkpoint.add

    def add(self, record):
        real(self, record)
        if len(self.records) == 2:
            raise KeyboardInterrupt

    checkpoint.Checkpoint.add = add
    try:
        main(WORDS[1:])
    finally:
        checkpoint.Checkpoint.add = real


def interrupted(shop):
    """Such a folder, copied; the path of the file that a resumed run must equal."""
    made = shop.seeds.folder_of("interrupted", _interrupted)
    shutil.copytree(made, shop.folder, dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns("whole.mkv"))
    return str(made / "whole.mkv")


def parts(shop):
    """The folder of finished segments."""
    return shop.folder / f"{TARGET}.parts"


def resumed(shop, whole, codes=None, **more):
    """The command that goes on, whose result is the uninterrupted one or a refusal."""
    command = Command([*WORDS, "--resume"])
    command.codes = codes or command.codes
    return Case("", [command], [Output(TARGET, "clip", same_as=whole)], ours=(f"{TARGET}.parts",), **more)


def foreign_folder(shop):
    """A folder of that name that somebody else made: never emptied, never removed."""
    parts(shop).mkdir()
    shop.seed("ffv1.mkv", "in.mkv")
    names = shop.some(["notes.txt", ".hidden", "photos/a.txt", "000000.packets", "lock", ".000001.part"], 4)
    for name in names:
        shop.write(f"{TARGET}.parts/{name}", "precious")
    words = WORDS + ["--resume"] * int(shop.rng.integers(2))
    return Case("", [Command(words)], [Output(TARGET, "clip", frames=12)])


def foreign_journal(shop):
    """The same with a journal that is none of ours."""
    parts(shop).mkdir()
    shop.seed("ffv1.mkv", "in.mkv")
    shop.write(
        f"{TARGET}.parts/journal.jsonl", shop.pick(["", "\n", "{}\n", "[]\n[]\n", "diary of a year\n", '{"a":1}\n' * 9])
    )
    shop.write(f"{TARGET}.parts/notes.txt", "precious")
    return Case("", [Command(WORDS + ["--resume"] * int(shop.rng.integers(2)))], [Output(TARGET, "clip", frames=12)])


def link_to_folder(shop):
    """The folder is a link to somebody's folder."""
    shop.seed("ffv1.mkv", "in.mkv")
    shop.write("victim/precious.txt", "precious")
    shop.write("victim/000000.packets", "precious")
    parts(shop).symlink_to(shop.pick(["victim", str(shop.folder / "victim"), "nowhere", "../.."]))
    return Case("", [Command(WORDS + ["--resume"] * int(shop.rng.integers(2)))], [Output(TARGET, "clip", frames=12)])


def links_inside(shop):
    """Journal, lock, a segment or a partial file are links to somebody's file."""
    whole = interrupted(shop)
    shop.write("precious.txt", "precious\n")
    for name in shop.some(["journal.jsonl", "lock", "000000.packets", "000002.packets", ".000002.part"], 2):
        path = parts(shop) / name
        path.unlink(missing_ok=True)
        path.symlink_to(shop.folder / shop.pick(["precious.txt", "precious.txt", "nowhere"]))
    return resumed(shop, whole)


def hard_link(shop):
    """The journal is a second name of somebody's file."""
    shop.seed("ffv1.mkv", "in.mkv")
    parts(shop).mkdir()
    shop.write("precious.txt", "precious\n")
    os.link(shop.folder / "precious.txt", parts(shop) / "journal.jsonl")
    return Case("", [Command(WORDS)], [Output(TARGET, "clip", frames=12)], ours=())


def something_else(shop):
    """The folder is a file, a pipe, a socket, a device."""
    shop.seed("ffv1.mkv", "in.mkv")
    path = parts(shop)
    kind = shop.pick(["file", "fifo", "fifo inside", "folder inside"])
    if kind == "file":
        path.write_text("precious")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
        inside = path / shop.pick(["journal.jsonl", "lock"])
        os.mkfifo(inside) if kind == "fifo inside" else inside.mkdir()
    return Case("", [Command(WORDS + ["--resume"] * int(shop.rng.integers(2)))], [Output(TARGET, "clip", frames=12)])


def edited(shop):
    """Values of a line of the journal are changed: the same file, or a refusal."""
    whole = interrupted(shop)
    path = parts(shop) / "journal.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for _ in range(int(shop.rng.integers(1, 3))):
        line = lines[int(shop.rng.integers(len(lines)))]
        lines = shop.edit(lambda lines, line=line: _with_edit(shop, lines, line), lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return resumed(shop, whole)


def _with_edit(shop, lines, line):
    if not isinstance(line, dict) or not line:
        return lines
    key = shop.pick(line)
    value = line[key]
    if isinstance(value, list) and value and isinstance(value[0], int) and shop.rng.random() < 0.7:
        value[int(shop.rng.integers(len(value)))] += shop.pick([-1, 1, 512, -(2**40), 2**70])
    else:
        line[key] = shop.pick([None, 0, -1, 2**80, 1e308, "", "\x1b[2J", [], {}, [[[]]], True, "x" * 100_000])
    return lines


def edited_times(shop):
    """Times, sizes and key frames of a segment are changed, and nothing else."""
    whole = interrupted(shop)
    path = parts(shop) / "journal.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    line = lines[shop.pick(range(1, len(lines)))]
    names = [name for name, value in line.items() if isinstance(value, list) and value]
    if names:
        values = line[shop.pick(names)]
        at = int(shop.rng.integers(len(values)))
        if isinstance(values[at], bool):
            values[at] = not values[at]
        elif isinstance(values[at], int):
            values[at] += shop.pick([1, -1, 100])
        else:
            values.reverse()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return resumed(shop, whole)


def deep_json(shop):
    """A line of a hundred thousand brackets."""
    whole = interrupted(shop)
    path = parts(shop) / "journal.jsonl"
    deep = shop.pick(["[" * 100_000 + "]" * 100_000, '{"a":' * 50_000, "9" * 100_000, '"' + "\\u0000" * 99_999 + '"'])
    lines = path.read_text().splitlines()
    lines[int(shop.rng.integers(len(lines)))] = deep
    path.write_text("\n".join(lines) + "\n")
    return resumed(shop, whole)


def swapped(shop):
    """Lines of the journal change places, are doubled, or are missing."""
    whole = interrupted(shop)
    path = parts(shop) / "journal.jsonl"
    lines = path.read_text().splitlines()
    order = [int(n) for n in shop.rng.integers(len(lines), size=int(shop.rng.integers(1, 6)))]
    path.write_text("".join(f"{lines[n]}\n" for n in order))
    return resumed(shop, whole)


def escapes(shop):
    """Values of the first line hold escape sequences, which a message would quote."""
    whole = interrupted(shop)
    path = parts(shop) / "journal.jsonl"
    first, rest = path.read_text().split("\n", 1)
    values = json.loads(first)
    for name in shop.some([name for name in values if name != "format"], 2):
        values[name] = "\x1b]0;owned\x07\x1b[2J"
    path.write_text(json.dumps(values) + "\n" + rest)
    return resumed(shop, whole)


def resealed(shop):
    """Values of other types in lines whose seals are right, as another program could write them: a refusal, or done."""
    from esrgan_deploy.video.output.journal import sealed

    interrupted(shop)
    path = parts(shop) / "journal.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line.pop("chain", None)
    for _ in range(int(shop.rng.integers(1, 3))):
        line = lines[int(shop.rng.integers(len(lines)))]
        lines = shop.edit(lambda lines, line=line: _with_edit(shop, lines, line), lines)
    chain, data = "", b""
    for line in lines:
        text, chain = sealed(line, chain)
        data += text
    path.write_bytes(data)
    case = resumed(shop, None)
    case.outputs[0].frames = None
    return case


def packets(shop):
    """A finished segment is damaged, cut, empty, or another one's."""
    whole = interrupted(shop)
    files = sorted(parts(shop).glob("*.packets"))
    path = shop.pick(files)
    name = f"{TARGET}.parts/{path.name}"
    shop.write(name, shop.pick([b"", shop.mutate(path.read_bytes()), files[0].read_bytes(), bytes(100)]))
    return resumed(shop, whole)


def untouched(shop):
    """Nothing is wrong: the resumed file is the uninterrupted one."""
    return resumed(shop, interrupted(shop), frozenset({0}))


def mutated(shop):
    """Random damage of the journal."""
    whole = interrupted(shop)
    path = parts(shop) / "journal.jsonl"
    shop.write(f"{TARGET}.parts/journal.jsonl", shop.mutate(path.read_bytes(), 3))
    return resumed(shop, whole)


IDEAS = [
    foreign_folder,
    foreign_journal,
    link_to_folder,
    links_inside,
    hard_link,
    something_else,
    edited,
    edited_times,
    deep_json,
    swapped,
    escapes,
    packets,
    untouched,
    resealed,
]
__all__ = ["BAD_INPUT", "IDEAS", "mutated"]
