"""HLS lists and ffconcat: lists of themselves, without an end, of foreign files, of addresses."""

import os

from hostile.case import BAD_INPUT, Case, Command, Output
from hostile.seeds import FRAMES

HEAD = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n"
END = "#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\n"


def canary():
    """An address on this machine at which the driver listens."""
    return os.environ.get("ESRGAN_HOSTILE_CANARY", "127.0.0.1:9")


def upscaled(name, codes=None, *options, frames=None):
    """The command for a list."""
    command = Command(["esrgan-upscale", name, "-o", "out.mkv", "-b", "reference", *options])
    command.codes = codes or command.codes
    return Case("", [command], [Output("out.mkv", "clip", frames=frames)])


def hls(*entries, end=True, duration=0.48):
    """The text of a list."""
    return HEAD + "".join(f"#EXTINF:{duration},\n{entry}\n" for entry in entries) + (END if end else "")


def good(shop):
    """A list of two parts, which is read as it always was."""
    shop.seed("a.ts", "part.ts")
    return upscaled(shop.write("in.m3u8", hls("part.ts")), frozenset({0}), frames=FRAMES)


def of_itself(shop):
    """A list that names itself, or two that name each other."""
    shop.write("b.m3u8", hls("in.m3u8"))
    entry = shop.pick(["in.m3u8", "./in.m3u8", "b.m3u8", str(shop.folder / "in.m3u8")])
    return upscaled(shop.write("in.m3u8", hls(*[entry] * shop.pick([1, 2, 50]))), BAD_INPUT)


def without_end(shop):
    """A live list: it has no end, and nobody adds to it."""
    shop.seed("a.ts", "part.ts")
    return upscaled(shop.write("in.m3u8", hls("part.ts", end=False)))


def master(shop):
    """A list of variants, one of them itself or thousands of them."""
    shop.seed("a.ts", "part.ts")
    shop.write("low.m3u8", hls("part.ts"))
    names = shop.pick([["in.m3u8"], ["low.m3u8"] * 3000, ["low.m3u8", "in.m3u8"], ["gone.m3u8"]])
    lines = "".join(f"#EXT-X-STREAM-INF:BANDWIDTH=1000,RESOLUTION=48x32\n{name}\n" for name in names)
    return upscaled(shop.write("in.m3u8", f"#EXTM3U\n{lines}"), BAD_INPUT)


def many_parts(shop):
    """Hundreds of thousands of parts, or one of a hundred million seconds."""
    shop.seed("a.ts", "part.ts")
    kind = shop.pick(["parts", "time", "lines"])
    if kind == "parts":
        text = hls(*["part.ts"] * 200_000)
    elif kind == "time":
        text = hls("part.ts", duration=shop.pick(["1e18", "-1", "nan", "99999999999999999999"]))
    else:
        text = HEAD + "#EXT-X-WHATEVER:1\n" * 500_000 + END
    return upscaled(shop.write("in.m3u8", text))


def long_part(shop):
    """A part whose name has five thousand characters, or escape sequences."""
    name = shop.pick(
        ["x" * 5000 + ".ts", "\x1b]0;owned\x07.ts", "a/" * 3000 + "b.ts", "\u202e.ts", "%00.ts", "?" * 5000]
    )
    return upscaled(shop.write("in.m3u8", hls(name)), BAD_INPUT)


def addresses(shop):
    """Parts, keys and maps on other machines: nobody is called."""
    host = canary()
    url = shop.pick([f"http://{host}/x.ts", f"tcp://{host}", f"rtmp://{host}/x", f"ftp://{host}/x.ts", f"udp://{host}"])
    kind = shop.pick(["part", "key", "map", "concat", "subfile", "crypto", "nested"])
    shop.seed("a.ts", "part.ts")
    if kind == "key":
        text = HEAD + f'#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF:1,\npart.ts\n' + END
    elif kind == "map":
        text = HEAD + f'#EXT-X-MAP:URI="{url}"\n#EXTINF:1,\npart.ts\n' + END
    elif kind == "nested":
        text = hls(f"concat:part.ts|{url}")
    else:
        text = hls(
            {"part": url, "concat": f"concat:{url}", "subfile": f"subfile,,start,0,end,9,,:{url}"}.get(kind, url)
        )
    if shop.rng.random() < 0.3:
        return upscaled(shop.write("in.ffconcat", f"{CONCAT}file '{url}'\n"), BAD_INPUT)
    return upscaled(shop.write("in.m3u8", text), BAD_INPUT)


def foreign_files(shop):
    """Parts that are secrets of the machine: text that would be rendered, devices, folders, pipes."""
    shop.write("secret.txt", "password\n" * 40)
    os.mkfifo(shop.folder / "pipe.ts")
    name = shop.pick(["secret.txt", "/etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/environ", "pipe.ts", "."])
    if shop.rng.random() < 0.5:
        safe = shop.pick(["", "option safe 0\n"])
        return upscaled(shop.write("in.ffconcat", f"{CONCAT}file '{name}'\n{safe}"), BAD_INPUT)
    return upscaled(shop.write("in.m3u8", hls(shop.pick([name, f"file:{name}", f"file://{name}"]))), BAD_INPUT)


def concat_of_itself(shop):
    """An ffconcat that names itself, directly or by a link."""
    (shop.folder / "link.ffconcat").symlink_to("in.ffconcat")
    name = shop.pick(["in.ffconcat", "link.ffconcat"])
    return upscaled(shop.write("in.ffconcat", CONCAT + f"file '{name}'\n" * shop.pick([1, 2, 100])), BAD_INPUT)


def concat_of_clips(shop):
    """An ffconcat of two clips: both are there, or it is refused."""
    shop.seed("a.mp4")
    shop.seed(shop.pick(["a.mp4", "a.mkv", "a.ts"]), "b.mp4")
    extra = shop.pick(["", "duration 0.4\n", "inpoint 0.1\n", "outpoint 0.2\n", "duration -5\n", "duration 1e30\n"])
    frames = 2 * FRAMES if not extra else None
    return upscaled(shop.write("in.ffconcat", f"{CONCAT}file a.mp4\n{extra}file b.mp4\n"), frames=frames)


def concat_options(shop):
    """Directives that open other demuxers, run filters or set metadata."""
    shop.seed("a.mp4")
    lines = [
        "stream\nexact_stream_id 0x1\n",
        "option format_whitelist ALL\n",
        "option protocol_whitelist file,http,tcp\n",
        "file_packet_metadata a=\x1b[2J\n",
        "stream_codec rawvideo\n",
        "chapter 1 0 9e30\n",
        "stream_extradata " + "41" * 100_000 + "\n",
    ]
    return upscaled(shop.write("in.ffconcat", f"{CONCAT}file a.mp4\n{''.join(shop.some(lines, 3))}"))


def byte_ranges(shop):
    """Ranges beyond the file, negative ones, and overlapping ones."""
    shop.seed("a.ts", "part.ts")
    value = shop.pick(["99999999999@0", "100@99999999", "-1@-1", "0@0", "188@0", "18446744073709551615@1", "x"])
    return upscaled(shop.write("in.m3u8", HEAD + f"#EXTINF:1,\n#EXT-X-BYTERANGE:{value}\npart.ts\n" + END))


def dash(shop):
    """Other lists: DASH, SMIL, ASX, PLS, XSPF, M3U, and their content under the name of a clip."""
    host = canary()
    texts = [
        f"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>http://{host}/</BaseURL>"
        "<Period><AdaptationSet><Representation id='1' mimeType='video/mp4'/></AdaptationSet></Period></MPD>",
        f"[playlist]\nFile1=http://{host}/a.mp4\nNumberOfEntries=1\n",
        f"v=0\no=- 0 0 IN IP4 {host}\ns=x\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        f"#EXTM3U\n#EXTINF:1,\nhttp://{host}/a.ts\n#EXT-X-ENDLIST\n",
        "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;'>]><MPD>&b;&b;&b;</MPD>",
    ]
    suffix = shop.pick([".mpd", ".pls", ".sdp", ".m3u", ".mp4", ".mkv", ".ts", ".xspf"])
    return upscaled(shop.write(f"in{suffix}", shop.pick(texts)), BAD_INPUT)


def sequence(shop):
    """The pattern of a sequence of pictures, which must not be followed to other files."""
    for number in range(3):
        shop.seed("rgb.png", f"f{number}.png")
    name = shop.pick(["f%d.png", "f*.png", "f%01d.mkv", "concat:a.ts|a.ts", "http:", "-i", "file:a.ts", "pipe:0"])
    return upscaled(name, BAD_INPUT)


def mutated(shop):
    """Random damage of a list."""
    shop.seed("a.ts", "part.ts")
    if shop.rng.random() < 0.5:
        return upscaled(shop.write("in.m3u8", shop.mutate(hls("part.ts", "part.ts").encode())))
    return upscaled(
        shop.write("in.ffconcat", shop.mutate(f"{CONCAT}file part.ts\nduration 0.4\nfile part.ts\n".encode()))
    )


IDEAS = [
    good,
    of_itself,
    without_end,
    master,
    many_parts,
    long_part,
    addresses,
    foreign_files,
    concat_of_itself,
    concat_of_clips,
    concat_options,
    byte_ranges,
    dash,
    sequence,
]
