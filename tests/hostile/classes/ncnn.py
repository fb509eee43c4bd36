"""ncnn's two files: a graph of text and its weights."""

import struct

import numpy as np

from hostile.case import BAD_INPUT, FINE, REFUSED, Case, Command, Output
from hostile.classes.checkpoints import EVIL, measured
from hostile.seeds import SIZE


def graph(shop):
    """The text of a small graph and its weights."""
    rng = np.random.default_rng(5)
    data = bytearray()
    lines = ["Input in 0 1 data", "Split s 1 2 data d0 d1"]
    blob = "d1"
    for k, (outputs, inputs) in enumerate([(8, 3), (8, 8), (8, 8), (12, 8)]):
        weight = rng.normal(0, 0.1, (outputs, inputs, 3, 3)).astype("<f4")
        data += bytes(4) + weight.tobytes() + np.zeros(outputs, "<f4").tobytes()
        lines.append(f"Convolution c{k} 1 1 {blob} b{k} 0={outputs} 1=3 4=1 5=1 6={weight.size}")
        blob = f"b{k}"
        if k < 3:
            lines.append(f"PReLU p{k} 1 1 {blob} q{k} 0={outputs}")
            data += np.full(outputs, 0.1, "<f4").tobytes()
            blob = f"q{k}"
    lines.append(f"PixelShuffle shuffle 1 1 {blob} large 0=2")
    lines.append("Interp base 1 1 d0 nearest 0=1 1=2.0 2=2.0")
    lines.append("BinaryOp add 2 1 large nearest output 0=0")
    return lines, bytes(data)


def text(lines, layers=None, magic="7767517"):
    """The file of a graph."""
    return "\n".join([magic, f"{len(lines) if layers is None else layers} {len(lines) + 1}", *lines]) + "\n"


def written(shop, lines, data, codes=None, **more):
    """The command for a graph."""
    shop.write("net.param", text(lines, **more))
    shop.write("net.bin", data)
    return measured(shop, "net.param", codes)


def good(shop):
    """Nothing is wrong."""
    return written(shop, *graph(shop), FINE)


def counts(shop):
    """Numbers of layers, blobs and weights that lie."""
    lines, data = graph(shop)
    number = shop.pick(["999999999", "-1", "9" * 30, "x", "0", "1e9", "\x1b[2J"])
    if shop.rng.random() < 0.3:
        return written(shop, lines, data, BAD_INPUT, layers=number)
    at = shop.pick(range(2, len(lines)))
    words = lines[at].split()
    place = shop.pick(range(2, len(words)))
    words[place] = f"{words[place].split('=')[0]}={number}" if "=" in words[place] else number
    lines[at] = " ".join(words)
    return written(shop, lines, data, REFUSED)


def arrays(shop):
    """Arrays of parameters with a length of thousands of millions, nested, or of NaN."""
    lines, data = graph(shop)
    at = shop.pick(range(2, len(lines)))
    lines[at] += " " + shop.pick(
        ["-23310=2000000000,1", "-23310=1,nan", "-23310=", "-23310", "-99999999999=1", "0=0=0", "=1"]
    )
    return written(shop, lines, data, REFUSED | FINE)


def escapes(shop):
    """Names of layers and blobs that a message would quote."""
    lines, data = graph(shop)
    at = shop.pick(range(2, len(lines)))
    words = lines[at].split()
    words[shop.pick([0, 1, 4])] = EVIL.replace(" ", "")
    lines[at] = " ".join(words)
    return written(shop, lines, data, REFUSED | FINE)


def circles(shop):
    """Blobs that nobody makes, that two make, that make themselves."""
    lines, data = graph(shop)
    at = shop.pick(range(2, len(lines)))
    words = lines[at].split()
    words[4] = shop.pick([words[5], "nobody", "output", "data", lines[-1].split()[6]])
    lines[at] = " ".join(words)
    return written(shop, lines, data)


def weights(shop):
    """Weights that are cut, too long, of another type, NaN."""
    lines, data = graph(shop)
    change = shop.pick(
        [
            b"",
            data[: len(data) // 2],
            data + bytes(100),
            struct.pack("<I", 0x01306B47) + data[4:],
            struct.pack("<I", 0x000D4B38) + data[4:],
            struct.pack("<I", 7) + data[4:],
            data[:4] + struct.pack("<f", float("nan")) * 200 + data[804:],
            data[:4] + b"\xff" * 200 + data[204:],
        ]
    )
    return written(shop, lines, change)


def many_layers(shop):
    """A hundred thousand layers."""
    lines, data = graph(shop)
    lines[2:2] = [f"Noop n{n} 1 1 x{n} x{n + 1}" for n in range(100_000)]
    return written(shop, lines, data, REFUSED)


def one_line(shop):
    """A line of megabytes, no line, no text, no weights beside it."""
    contents = [
        "",
        "7767517",
        "7767517\n",
        "7767517\n1 1\n" + "x " * 1_000_000,
        "\0" * 1000,
        "7767518\n1 1\nInput a 0 1 b\n",
    ]
    shop.write("net.param", shop.pick(contents))
    if shop.rng.random() < 0.7:
        shop.write("net.bin", b"")
    return measured(shop, "net.param", BAD_INPUT)


def mutated(shop):
    """Random damage of either file."""
    lines, data = graph(shop)
    shop.write("net.param", shop.mutate(text(lines).encode()) if shop.rng.random() < 0.7 else text(lines))
    shop.write("net.bin", shop.mutate(data, 2) if shop.rng.random() < 0.4 else data)
    return measured(shop, "net.param")


def run_by_its_path(shop):
    """One of the above, which esrgan-upscale converts and runs."""
    made = shop.pick([good, counts, arrays, escapes, circles, weights, one_line])(shop)
    shop.seed("rgb.png", "in.png")
    command = Command(["esrgan-upscale", "in.png", "-o", "out.png", "-m", "net.param", "-b", "ort"])
    command.codes = made.commands[0].codes
    width, height = SIZE
    return Case("", [command], [Output("out.png", "picture", size=(2 * width, 2 * height))])


IDEAS = [good, counts, arrays, escapes, circles, weights, many_layers, one_line, run_by_its_path]
