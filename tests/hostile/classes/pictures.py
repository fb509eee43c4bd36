"""Pictures: headers that lie, damaged streams, metadata of every kind, names that do not fit what is inside."""

import io
import struct
import zlib

from hostile.case import BAD_INPUT, GIB, REFUSED, Case, Command, Output
from hostile.seeds import PICTURES, SIZE

SUFFIXES = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tif": ".tif", "bmp": ".bmp"}


def upscaled(name, codes=None, output="out.png", **options):
    """The command for one picture, with nearest neighbour."""
    command = Command(["esrgan-upscale", name, "-o", output, "-b", "reference"])
    command.codes = codes or command.codes
    like = None if codes and 0 not in codes else name
    return Case("", [command], [Output(output, "picture", like=like)], **options)


def png(width, height, *chunks, bits=8, colour=2, data=None, interlace=0):
    """A PNG with any header and further chunks, (type, content) each."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    data = zlib.compress(bytes(100)) if data is None else data
    body = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in body)


def chunk(kind, content):
    """One chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def rows(width, height, channels=3):
    """The compressed pixels of a PNG."""
    return zlib.compress(b"".join(b"\0" + bytes(range(256))[: width * channels] for _ in range(height)))


def png_huge_header(shop):
    """A few bytes that claim a huge picture."""
    side = shop.pick([10_000, 40_000, 65_535, 2**31 - 1])
    return upscaled(shop.write("in.png", png(side, side)), REFUSED)


def png_bomb(shop):
    """All rows are there, and are zeros: 100 megapixels in 100 kB; read or refused, but not with a multiple of it."""
    shop.write("in.png", png(9000, 9000, bits=1, colour=0, data=zlib.compress(bytes(9000 * 1126), 9)))
    return upscaled("in.png", REFUSED)


def jpeg_huge_header(shop):
    """A small JPEG whose header claims 10000x10000 or more."""
    data = bytearray(shop.seeds.path("rgb.jpg").read_bytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", *shop.pick([(10000, 10000), (65500, 65500), (65500, 1), (0, 24)]))
    return upscaled(shop.write("in.jpg", data), REFUSED)


def tiff_without_size(shop):
    """A TIFF that says neither width nor height."""
    data = shop.seeds.path("rgb.tif").read_bytes()
    for tag in shop.some([256, 257], 2):
        data = data.replace(struct.pack("<HH", tag, 4), struct.pack("<HH", 40000 + tag, 4)).replace(
            struct.pack("<HH", tag, 3), struct.pack("<HH", 40000 + tag, 3)
        )
    return upscaled(shop.write("in.tif", data), BAD_INPUT)


def tiff_huge_tag(shop):
    """A tag of a TIFF that counts 4 thousand million values, or a strip beyond the end."""
    data = bytearray(shop.seeds.path("rgb.tif").read_bytes())
    first = struct.unpack("<I", data[4:8])[0]
    entries = struct.unpack("<H", data[first : first + 2])[0]
    at = first + 2 + 12 * int(shop.rng.integers(entries))
    data[at + 4 : at + 8] = struct.pack("<I", shop.pick([0, 2**31, 2**32 - 1]))
    return upscaled(shop.write("in.tif", data))


def tiff_circle(shop):
    """The list of pages of a TIFF leads to itself."""
    data = bytearray(shop.seeds.path("rgb.tif").read_bytes())
    first = struct.unpack("<I", data[4:8])[0]
    entries = struct.unpack("<H", data[first : first + 2])[0]
    end = first + 2 + 12 * entries
    data[end : end + 4] = struct.pack("<I", first)
    return upscaled(shop.write("in.tif", data))


def icc_profiles(shop):
    """A colour profile that is none, is huge, or is a bomb."""
    profile = shop.pick([b"", b"x", bytes(200_000), b"\xff" * 128, bytes(50_000_000)])
    content = b"icc\0\0" + zlib.compress(profile, 1)
    return upscaled(shop.write("in.png", png(8, 8, (b"iCCP", content), data=rows(8, 8))))


def text_chunks(shop):
    """Escape sequences in the text of a PNG, and a bomb of text."""
    chunks = [
        (b"tEXt", b"Title\0\x1b]0;owned\x07"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000), 1)),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + b"<a>" * 10_000),
        (b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(100)),
        (b"tEXt", b"Raw profile type exif\0\nexif\n 99999999\n" + b"41" * 50),
        (b"\x1b[2J"[:4], b"?"),
    ]
    return upscaled(shop.write("in.png", png(8, 8, *shop.some(chunks, 6), data=rows(8, 8))))


def exif_orientation(shop):
    """An orientation that does not exist, or an EXIF block that leads to itself."""
    from PIL import Image

    value = shop.pick([0, 9, 255, 65535])
    block = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + struct.pack(">HHIHH", 0x112, 3, 1, value, 0)
    block += struct.pack(">HHII", 0x8769, 4, 1, shop.pick([8, 0, 2**32 - 1])) + struct.pack(">I", shop.pick([0, 8]))
    file = io.BytesIO()
    Image.new("RGB", SIZE, (200, 100, 50)).save(file, "JPEG", exif=block)
    return upscaled(shop.write("in.jpg", file.getvalue()))


def other_content(shop):
    """The name of one format, the content of another, of text, of a program, of nothing."""
    contents = [b"", b"\0", b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", b"%PDF-1.7\n"]
    contents += [
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b"#EXTM3U\n#EXTINF:1,\nin.png\n",
        b"\x7fELF" + bytes(99),
    ]
    contents += [shop.seeds.path(name).read_bytes() for name in ("a.mp4", "rgb.jpg", "rgb.bmp")]
    return upscaled(shop.write(f"in{shop.pick(SUFFIXES.values())}", shop.pick(contents)))


def many_frames(shop):
    """An animation where one picture is expected."""
    from PIL import Image

    kind = shop.pick(["webp", "tif", "png"])
    pages = [Image.new("RGB", SIZE, (n * 20, 0, 0)) for n in range(8)]
    file = io.BytesIO()
    pages[0].save(file, {"tif": "TIFF"}.get(kind, kind.upper()), save_all=True, append_images=pages[1:])
    case = upscaled(shop.write(f"in.{kind}", file.getvalue()))
    case.outputs[0].like = None
    return case


def bmp_header(shop):
    """A BMP of negative or huge size, or with a palette beyond the end."""
    data = bytearray(shop.seeds.path("rgb.bmp").read_bytes())
    at, value = shop.pick([(18, -1), (18, 2**31 - 1), (22, -(2**31)), (22, 2**31 - 1), (10, 2**31 - 1), (46, 2**30)])
    data[at : at + 4] = struct.pack("<i", value)
    return upscaled(shop.write("in.bmp", data))


def beyond_the_format(shop):
    """An output that its format cannot hold: known before anything is computed."""
    width, height = shop.pick([(20_000, 1), (1, 20_000)])
    name = shop.write("in.png", png(width, height, colour=0, data=zlib.compress((b"\0" + bytes(width)) * height)))
    kind = shop.pick([".jpg", ".webp"])
    return upscaled(name, frozenset({2}), f"out{kind}")


def outscale(shop):
    """Enlargements that nobody means."""
    value = shop.pick(["1e9", "1e-9", "nan", "inf", "-1", "0", "1e308", "999999", "4000"])
    case = upscaled(shop.seed("rgb.png"), REFUSED)
    case.commands[0].words += ["--outscale", value]
    return case


def tiles(shop):
    """Sizes of tiles, overlaps and batches that nobody means."""
    case = upscaled(shop.seed("rgb.png"))
    for option in shop.some(["--tile", "--overlap", "--batch", "--threads"]):
        case.commands[0].words += [option, shop.pick(["1", "-1", "0", "7", "9999999999", "1" * 30])]
    return case


def folder(shop):
    """A folder of good and bad pictures, links in a circle among them: the good ones are done, the rest is named."""
    shop.seed("rgb.png", "in/good.png")
    shop.seed("grey.png", "in/deep/er/good.png")
    shop.write("in/bad.png", b"no picture")
    shop.mutated("rgb.jpg", "in/odd.jpg")
    (shop.folder / "in/circle").symlink_to("..")
    (shop.folder / "in/gone.png").symlink_to("nowhere")
    shop.write("in/\x1b]0;x\x07.png", b"no picture")
    words = ["esrgan-upscale", "in", "-o", "out", "-b", "reference"]
    return Case("", [Command(words, BAD_INPUT)], [Output("out", "folder")])


def same_stems(shop):
    """Pictures whose names differ by case only, into the folder that they lie in, or one in it: no input is lost."""
    shop.seed("rgb.png", "in/a.png")
    shop.seed("rgb.png", "in/A.png")
    target = shop.pick(["in", "in/out", "."])
    words = ["esrgan-upscale", "in", "-o", target, "-b", "reference"]
    made = {"in/out": [Output("in/out", "folder")], ".": [Output("a.png", "picture"), Output("A.png", "picture")]}
    return Case("", [Command(words)], made.get(target, []))


def evaluated(shop):
    """A damaged picture in a folder that esrgan-eval is given."""
    shop.seed("large.png", "hr/a.png")
    shop.mutated("large.png", "sr/a.png")
    return Case("", [Command(["esrgan-eval", "--hr", "hr", "--sr", "sr", "--metrics", "psnr"])], needs_torch=True)


def mutated(shop):
    """Random damage of a valid picture."""
    name = shop.pick(PICTURES)
    return upscaled(shop.mutated(name, f"in{name[name.rindex('.') :]}"), memory=2 * GIB)


IDEAS = [
    png_huge_header,
    png_bomb,
    jpeg_huge_header,
    tiff_without_size,
    tiff_huge_tag,
    tiff_circle,
    icc_profiles,
    text_chunks,
    exif_orientation,
    other_content,
    many_frames,
    bmp_header,
    beyond_the_format,
    outscale,
    tiles,
    folder,
    same_stems,
]
