"""YUV4MPEG2 through a pipe: headers, frame markers, cuts."""

from hostile.case import BAD_INPUT, Case, Command, Output
from hostile.seeds import y4m

SIZE, FRAMES = (16, 8), 5
FRAME_BYTES = 16 * 8 * 3 // 2


def piped(data, codes=None, to="out.mkv", frames=None):
    """The command that takes `data` from its standard input."""
    command = Command(["esrgan-upscale", "-", "-o", to, "-b", "reference"], stdin=bytes(data), binary=to == "-")
    command.codes = codes or command.codes
    outputs = [] if to == "-" else [Output(to, "clip", frames=frames, size=(64, 32) if frames else None)]
    return Case("", [command], outputs)


def to(shop):
    """A file or a pipe."""
    return shop.pick(["out.mkv", "out.mp4", "-"])


def truncated(shop):
    """The last frame is cut, anywhere: never exit code 0."""
    cut = int(shop.rng.integers(1, FRAME_BYTES + 6))
    return piped(y4m()[:-cut], BAD_INPUT, "-")


def truncated_to_file(shop):
    """The same to a file, cut behind whole lines of the picture, which a count of lines does not see."""
    cut = 16 * int(shop.rng.integers(1, 11))
    case = piped(y4m()[:-cut], BAD_INPUT)
    case.ours = ("out.mkv",)  # the frames before the damage are kept
    return case


def bad_marker(shop):
    """A frame that does not begin with FRAME."""
    marker = shop.pick(
        [b"FRAMF\n", b"frame\n", b"FRAME", b"FRAME\x1b[2J\n", b"\n", b"", b"FRAME " + b"x" * 5000 + b"\n"]
    )
    case = piped(y4m(2) + marker + bytes(FRAME_BYTES), to=to(shop))
    case.ours = tuple(output.path for output in case.outputs)
    return case


def mono(shop):
    """Grey clips, and spaces of colours that do not exist."""
    space = shop.pick(
        [b"mono", b"mono16", b"420paldv", b"411", b"422", b"444alpha", b"420p10", b"xyz", b"\x1b[2J", b"0"]
    )
    header = b"YUV4MPEG2 W%d H%d F25:1 C" + space.replace(b"%", b"%%") + b"\n"
    return piped(y4m(header=header), to=to(shop), codes=None)


def header(shop):
    """Sizes, rates and aspects that make no sense."""
    size = shop.pick([b"W16 H8", b"W0 H8", b"W-16 H8", b"W99999 H99999", b"W2147483647 H2", b"H8", b"W16", b"W1e3 H8"])
    rate = shop.pick([b"F25:1", b"F0:0", b"F1:0", b"F0:1", b"F-1:1", b"F2147483647:1", b"F99999999999:1", b"", b"F25"])
    rest = shop.pick([b"", b" A0:0", b" A1:0", b" Ib", b" It", b" I?", b" X" + b"y" * 3000, b" XCOLORRANGE=\x1b[2J"])
    data = y4m()
    body = data[data.index(b"\n") :]
    case = piped(b"YUV4MPEG2 " + size + b" " + rate + rest + body, to=to(shop))
    case.ours = tuple(output.path for output in case.outputs)
    return case


def no_y4m(shop):
    """Something else comes from the pipe."""
    data = [
        b"",
        b"\n",
        b"YUV4MPEG2",
        b"YUV4MPEG2\n",
        b"YUV4MPEG2 " + b"W" * 100_000,
        b"\0" * 100_000,
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    ]
    data += [shop.seeds.path(name).read_bytes() for name in ("a.mp4", "rgb.png", "a.ts", "a.mkv")]
    return piped(shop.pick(data), BAD_INPUT, to(shop))


def no_frame(shop):
    """A header and nothing else."""
    return piped(y4m(0), BAD_INPUT, to(shop))


def closed_stdin(shop):
    """Standard input is not there."""
    case = piped(b"", BAD_INPUT, to(shop))
    case.commands[0].stdin, case.commands[0].apart = "closed", True
    return case


def whole(shop):
    """A good clip, to a file and to a pipe."""
    frames = int(shop.rng.integers(1, 9))
    return piped(y4m(frames), frozenset({0}), "out.mkv", frames)


def y4m_file(shop):
    """A damaged y4m as a file."""
    data = y4m()
    shop.write("in.y4m", data[: -int(shop.rng.integers(1, FRAME_BYTES))])
    command = Command(["esrgan-upscale", "in.y4m", "-o", "out.mkv", "-b", "reference"], BAD_INPUT)
    return Case("", [command], [Output("out.mkv", "clip")])


def mutated(shop):
    """Random damage: no frame may be lost without a word."""
    data = y4m()
    damaged = shop.mutate(data, 3)
    case = piped(damaged, to=to(shop))
    case.ours = tuple(output.path for output in case.outputs)
    return case


IDEAS = [
    truncated,
    truncated_to_file,
    bad_marker,
    mono,
    header,
    no_y4m,
    no_frame,
    closed_stdin,
    whole,
    y4m_file,
]
