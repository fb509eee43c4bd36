"""Names and places: links, pipes and devices as outputs, folders of others, names that are too long or no text."""

import os

from hostile.case import BAD_INPUT, FINE, REFUSED, Case, Command, Output

NOBODY, SOMEBODY = 65534, 65533
SUFFIXES = {"picture": ".png", "clip": ".mkv"}
SOURCES = {"picture": "rgb.png", "clip": "ffv1.mkv"}


def made(shop, kind, target, codes=None, source=None, **more):
    """The command for a picture or a clip to `target`."""
    if source is None:
        source = shop.seed(SOURCES[kind], f"in{SUFFIXES[kind]}")
    command = Command(["esrgan-upscale", source, "-o", target, "-b", "reference"])
    command.codes = codes or command.codes
    return Case("", [command], [Output(target, kind, frames=12 if kind == "clip" else None)], **more)


def a_kind(shop):
    """A picture or a clip."""
    return shop.pick(SUFFIXES)


def output_is_link(shop):
    """The output is a link to somebody's file, to nowhere, to itself, to a folder."""
    kind = a_kind(shop)
    target = f"out{SUFFIXES[kind]}"
    shop.write("victim/precious.txt", "precious")
    shop.write(f"victim/precious{SUFFIXES[kind]}", "precious")
    where = shop.pick(
        ["victim/precious.txt", f"victim/precious{SUFFIXES[kind]}", "nowhere", target, "victim", "/dev/full"]
    )
    (shop.folder / target).symlink_to(where)
    return made(shop, kind, target)


def folder_is_link(shop):
    """The folder of the output is a link."""
    kind = a_kind(shop)
    shop.write("victim/precious.txt", "precious")
    (shop.folder / "there").symlink_to("victim")
    case = made(shop, kind, f"there/out{SUFFIXES[kind]}")
    case.ours = (f"victim/out{SUFFIXES[kind]}",)
    return case


def output_is_special(shop):
    """The output is a pipe, a socket or a device: never replaced."""
    kind = a_kind(shop)
    target = f"out{SUFFIXES[kind]}"
    what = shop.pick(["pipe", "socket", "device"])
    if what == "socket":
        import socket

        socket.socket(socket.AF_UNIX).bind(target)
    elif what == "device" and os.geteuid() == 0:
        os.mknod(shop.folder / target, 0o020666, os.makedev(1, 3))
    else:
        os.mkfifo(shop.folder / target)
    return made(shop, kind, target, BAD_INPUT)


def output_is_input(shop):
    """The output is the input: by its name, a link, a hard link, another way there."""
    kind = a_kind(shop)
    suffix = SUFFIXES[kind]
    source = shop.seed(SOURCES[kind], f"in{suffix}")
    (shop.folder / "sub").mkdir()
    way = shop.pick(["same", "link", "hard", "dots"])
    target = {"same": source, "dots": f"sub/../in{suffix}"}.get(way, f"out{suffix}")
    if way == "link":
        (shop.folder / target).symlink_to(source)
    elif way == "hard":
        os.link(shop.folder / source, shop.folder / target)
    return made(shop, kind, target, BAD_INPUT, source)


def long_names(shop):
    """Names of 200 to 255 bytes, which temporary names and folders of parts make longer."""
    kind = a_kind(shop)
    suffix = SUFFIXES[kind]
    length = shop.pick([200, 230, 240, 245, 249, 250, 251, 255, 256, 300])
    letter = shop.pick(["a", "\u00fc", "\u65e5"])
    name = letter * ((length - len(suffix)) // len(letter.encode())) + suffix
    return made(shop, kind, name)


def deep_places(shop):
    """A path of more than four thousand bytes."""
    kind = a_kind(shop)
    folder = "/".join(["d" * 200] * 18)
    (shop.folder / folder).mkdir(parents=True)
    return made(shop, kind, f"{folder}/{'x' * shop.pick([50, 200, 400, 460])}{SUFFIXES[kind]}")


def odd_names(shop):
    """Names that are no UTF-8, hold line breaks, escape sequences, directional marks, or look like options."""
    kind = a_kind(shop)
    names = [
        b"\xff\xfe",
        b"a\nb",
        b"\x1b]0;owned\x07",
        "\u202egnp".encode(),
        b" ",
        b"-o",
        b"%d",
        b"file:x",
        b"a\tb",
        b"*",
    ]
    names += [
        b"http:",
        b"\x80" * 50,
        "e\u0301".encode(),
        "\ud800".encode("utf-8", "surrogatepass"),
        b"a|b",
        b"$(x)",
        b"~",
    ]
    stem = os.fsdecode(shop.pick(names))
    source = f"./{stem}{SUFFIXES[kind]}"
    (shop.folder / source).write_bytes(shop.seeds.path(SOURCES[kind]).read_bytes())
    target = f"{stem}.out{SUFFIXES[kind]}"
    case = made(shop, kind, f"./{target}", FINE, source)
    case.outputs[0].path = target
    return case


def missing(shop):
    """Inputs with such names that do not exist, which a message names."""
    name = shop.pick(
        [b"\xff\xfe.png", b"\x1b]0;x\x07.mkv", b"a\nb.png", b"x" * 300 + b".png", b"", b"/", b".", b"\xe2\x80\xae.mkv"]
    )
    return made(shop, "picture", "out.png", BAD_INPUT, os.fsdecode(name))


def others_folder(shop):
    """A folder that another user owns and nobody else may write."""
    if os.geteuid() != 0:
        (shop.folder / "theirs").mkdir(mode=0o555)
        return made(shop, a_kind(shop), "theirs/out.png", REFUSED)
    kind = a_kind(shop)
    shop.write("theirs/precious.txt", "precious")
    os.chown(shop.folder / "theirs", SOMEBODY, SOMEBODY)
    (shop.folder / "theirs").chmod(0o755)
    case = made(shop, kind, f"theirs/out{SUFFIXES[kind]}", REFUSED)
    case.commands[0].user = NOBODY
    return case


def shared_folder(shop):
    """In a folder that all may write, another user has prepared what a run would make."""
    if os.geteuid() != 0:
        return others_folder(shop)
    shop.seed("ffv1.mkv", "in.mkv")
    shop.write("theirs/precious.txt", "precious")
    shared = shop.folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    parts = shared / "out.mkv.parts"
    what = shop.pick(["folder", "open folder", "link", "output", "journal"])
    if what == "link":
        parts.symlink_to(shop.folder / "theirs")
    elif what == "output":
        shop.write("shared/out.mkv", "precious")
    else:
        parts.mkdir()
        parts.chmod(0o777 if what == "open folder" else 0o755)
        if what == "journal":
            parts.chmod(0o777)
            (parts / "journal.jsonl").symlink_to(shop.folder / "theirs" / "precious.txt")
    for path in (*shop.folder.rglob("*"),):
        if path.name in ("out.mkv.parts", "out.mkv", "journal.jsonl", "precious.txt"):
            os.lchown(path, SOMEBODY, SOMEBODY)
    os.chown(shop.folder / "theirs", NOBODY, NOBODY)
    case = made(shop, "clip", "shared/out.mkv", source="in.mkv")
    case.commands[0].user = NOBODY
    return case


def cache_of_others(shop):
    """The cache belongs to another user, or all may write to it."""
    shop.seed("ffv1.mkv", "in.mkv")
    shop.seed("nearest.onnx", "net.onnx")
    cache = shop.folder / "cache"
    (cache / "esrgan-deploy" / "tuning").mkdir(parents=True)
    (cache / "esrgan-deploy" / "engines").mkdir(parents=True)
    for folder in (cache / "esrgan-deploy", *(cache / "esrgan-deploy").iterdir()):
        folder.chmod(0o777)
        if os.geteuid() == 0:
            os.chown(folder, SOMEBODY, SOMEBODY)
    words = ["esrgan-upscale", "in.mkv", "-o", "out.mkv", "-m", "net.onnx", "--frames", "0:2"]
    words = shop.pick([words, ["esrgan-engine", "--list"], ["esrgan-engine", "--prune", "all"]])
    command = Command(words, env={"XDG_CACHE_HOME": str(cache)})
    return Case("", [command], [Output("out.mkv", "clip", frames=2)] if words[0] == "esrgan-upscale" else [])


def read_only(shop):
    """A folder and an older output that may not be written."""
    kind = a_kind(shop)
    target = f"sub/out{SUFFIXES[kind]}"
    shop.write(target, "older")
    case = made(shop, kind, target)
    (shop.folder / target).chmod(0o444)
    (shop.folder / "sub").chmod(0o555)
    if os.geteuid() == 0:
        case.commands[0].user = NOBODY
    case.commands[0].codes = REFUSED
    return case


def older_output(shop):
    """An older file under that name is replaced whole, or stays."""
    kind = a_kind(shop)
    target = f"out{SUFFIXES[kind]}"
    shop.write(target, "older")
    if shop.rng.random() < 0.5:
        return made(shop, kind, target, FINE)
    shop.write(f"bad{SUFFIXES[kind]}", shop.mutate(b"no picture"))
    return made(shop, kind, target, BAD_INPUT, f"bad{SUFFIXES[kind]}")


def strange_targets(shop):
    """Outputs that are addresses, devices, patterns, empty."""
    kind = a_kind(shop)
    stems = [
        "http://127.0.0.1:9/x",
        "tcp://127.0.0.1:9/x",
        "file:out",
        "pipe:1",
        "%03d",
        "",
        ".",
        "..",
        "a/b/c",
        "sub/",
    ]
    return made(shop, kind, shop.pick(stems) + shop.pick([SUFFIXES[kind], ""]))


def mutated(shop):
    """Random names."""
    kind = a_kind(shop)
    letters = [bytes([n]) for n in range(1, 256) if n != 0x2F]
    stem = b"".join(shop.pick(letters) for _ in range(int(shop.rng.integers(1, 40))))
    source = f"./{os.fsdecode(stem)}{SUFFIXES[kind]}"
    (shop.folder / source).write_bytes(shop.seeds.path(SOURCES[kind]).read_bytes())
    target = f"o{os.fsdecode(stem)}{SUFFIXES[kind]}"
    return made(shop, kind, target, FINE, source)


IDEAS = [
    output_is_link,
    folder_is_link,
    output_is_special,
    output_is_input,
    long_names,
    deep_places,
    odd_names,
    missing,
    others_folder,
    shared_folder,
    cache_of_others,
    read_only,
    older_output,
    strange_targets,
]
