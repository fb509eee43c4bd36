"""Clips: damaged containers and streams, times that make no sense, options that nobody means."""

from hostile.case import BAD_INPUT, Case, Command, Output
from hostile.seeds import CLIPS, FRAMES

CONTAINERS = {".mp4": ".mp4", ".mov": ".mp4"}
"""What a clip is written as, if not as Matroska."""


def upscaled(name, codes=None, *options, output=None, frames=None, like=True, **more):
    """The command for one clip, with nearest neighbour."""
    output = output or f"out{CONTAINERS.get(name[name.rindex('.') :], '.mkv')}"
    command = Command(["esrgan-upscale", name, "-o", output, "-b", "reference", *options])
    command.codes = codes or command.codes
    like = name if like and 0 in command.codes else None
    return Case("", [command], [Output(output, "clip", like=like, frames=frames)], **more)


def truncated(shop):
    """Cut off somewhere: all frames that are left, or a refusal."""
    name = shop.pick(CLIPS)
    data = shop.seeds.path(name).read_bytes()
    end = int(len(data) * shop.rng.uniform(0.1, 0.99))
    return upscaled(shop.write(f"in{name[name.rindex('.') :]}", data[:end]))


def zeroed_tail(shop):
    """The last tenth is zeros, as after a copy that broke: no frame may be missing without a word."""
    name = shop.pick(["a.ts", "a.mkv", "a.mp4", "a.avi", "a.mpg", "a.webm"])
    data = shop.seeds.path(name).read_bytes()
    size = int(len(data) * shop.rng.uniform(0.02, 0.3))
    return upscaled(shop.write(f"in{name[name.rindex('.') :]}", data[:-size] + bytes(size)), frames=FRAMES)


def holes_in_ts(shop):
    """Packets of a transport stream are missing: the continuity counters tell."""
    data = shop.seeds.path("a.ts").read_bytes()
    packets = [data[n : n + 188] for n in range(0, len(data), 188)]
    for _ in range(int(shop.rng.integers(1, 4))):
        del packets[int(shop.rng.integers(4, len(packets)))]
    return upscaled(shop.write("in.ts", b"".join(packets)), frames=FRAMES)


def zero_durations(shop):
    """Durations, time scales and sample counts of an MP4 set to zero or to the largest number."""
    data = bytearray(shop.seeds.path("a.mp4").read_bytes())
    for box in shop.some([b"mvhd", b"mdhd", b"stts", b"stsz", b"stco", b"elst", b"tkhd", b"stsc", b"ctts"]):
        at = data.find(box)
        if at > 0:
            place = at + 4 + 4 * int(shop.rng.integers(0, 6))
            data[place : place + 4] = shop.pick([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1"])
    return upscaled(shop.write("in.mp4", data))


def huge_size(shop):
    """The size in the header of a container, thousands of times the stream's own."""
    data = bytearray(shop.seeds.path("a.mp4").read_bytes())
    at = data.find(b"avc1")
    data[at + 28 : at + 32] = shop.pick([b"\xff\xff\xff\xff", b"\x40\0\x40\0", b"\0\0\0\0", b"\0\1\x75\x30"])
    return upscaled(shop.write("in.mp4", data))


def options(shop):
    """Numbers that are none, are too large, or exclude each other."""
    values = ["inf", "nan", "-1", "0", "1e999", "9" * 30, "1e-300", "0x10", "\u0661"]
    choices = [[option, shop.pick(values)] for option in ("--duration", "--crf", "--stream", "--segment", "--preview")]
    choices += [["--frames", shop.pick(["9:1", "1:1", "99:", f"{'9' * 30}:", ":0", "\u0663:", "-1:2"])]]
    choices += [["--outscale", shop.pick(values)], ["--tolerance", shop.pick(values)], ["--stall", shop.pick(values)]]
    chosen = [word for words in shop.some(choices, 2) for word in words]
    case = upscaled(shop.seed("a.mp4"), None, *chosen, like=False)
    case.ours = ("out.mp4.preview",)
    return case


def duration_inf(shop):
    """`--duration inf` and its like."""
    value = shop.pick(["inf", "nan", "-inf", "1e400"])
    return upscaled(shop.seed("a.mp4"), BAD_INPUT, "--duration", value)


def other_content(shop):
    """A clip's name on text, a picture, a list, a program, nothing."""
    contents = [b"", b"\0" * 1000, b"#EXTM3U\n", b"hello\n" * 50, b"\x7fELF" + bytes(500), b"[Script Info]\n" * 20]
    contents += [shop.seeds.path(name).read_bytes() for name in ("rgb.png", "rgb.jpg", "rgb.tif")]
    suffix = shop.pick([".mp4", ".mkv", ".avi", ".ts", ".txt", ".gif", ".nut", ""])
    return upscaled(shop.write(f"in.x{suffix}", shop.pick(contents)), output="out.mkv")


def text_as_picture(shop):
    """Text of any kind must never be rendered as a clip: FFmpeg draws .txt files as ANSI art."""
    suffix = shop.pick([".txt", ".ans", ".nfo", ".asc", ".diz", ".ass", ".srt", ".sub", ".vtt"])
    return upscaled(shop.write(f"in{suffix}", "a secret line\n" * 30), BAD_INPUT, output="out.mkv")


def unfit_output(shop):
    """A container that does not exist, or that cannot hold the codec."""
    suffix = shop.pick([".xyz", ".webm", ".gif", ".txt", ".m3u8", ".mpd", ".wav", "", ".%d.mkv", ".sdp", ".null"])
    case = upscaled(shop.seed("a.mp4"), None, output=f"out{suffix}", like=False)
    case.outputs[0].kind = "any"
    return case


def metadata(shop):
    """Escape sequences in titles, languages and codec tags."""
    data = shop.seeds.path("a.mkv").read_bytes()
    data = data.replace(b"Lavf", b"\x1b[2J").replace(b"V_MPEG4/ISO/AVC", b"V_\x1b]0;owned\x07/AV"[:15])
    return upscaled(shop.write("in.mkv", data))


def swapped_codec(shop):
    """The container names one codec, and holds another."""
    new = shop.pick([b"hvc1", b"av01", b"\x1b[2J", b"\0\0\0\0", b"tmcd", b"mebx", b"drac", b"encv"])
    return upscaled(shop.write("in.mp4", shop.seeds.path("a.mp4").read_bytes().replace(b"avc1", new)))


def mutated(shop):
    """Random damage of a valid clip."""
    name = shop.pick(CLIPS)
    return upscaled(shop.mutated(name, f"in{name[name.rindex('.') :]}", most=3))


IDEAS = [
    truncated,
    zeroed_tail,
    holes_in_ts,
    zero_durations,
    huge_size,
    options,
    duration_inf,
    other_content,
    text_as_picture,
    unfit_output,
    metadata,
    swapped_codec,
]
