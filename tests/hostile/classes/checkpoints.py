"""Checkpoints, .pth and .safetensors: pickles that call, sizes that lie, keys by the hundred thousand."""

import io
import json
import pickle
import struct
import zipfile

from hostile.case import BAD_INPUT, FINE, REFUSED, Case, Command, Output

EVIL = "\x1b]0;owned\x07"


def measured(shop, name, codes=None):
    """esrgan-eval with a checkpoint and one small picture."""
    shop.seed("large.png", "hr/a.png")
    command = Command(["esrgan-eval", "--hr", "hr", "-m", name, "--metrics", "psnr"])
    command.codes = codes or command.codes
    return Case("", [command])


def exported(shop, name, codes=None):
    """esrgan-export, which is refused before any file is written."""
    command = Command(["esrgan-export", "--gan", name, "-o", "made"])
    command.codes = codes or command.codes
    return Case("", [command], [Output("made", "folder")])


def either(shop, name, codes=BAD_INPUT):
    """One of the two, where a refusal is right."""
    return shop.pick([measured, exported])(shop, name, codes)


def state(kind="srvgg"):
    """The tensors of a small network."""
    from small_networks import small_network

    return {key: tensor.clone() for key, tensor in small_network(kind).state_dict().items()}


def save(shop, content, name="net.pth"):
    """A .pth file."""
    import torch

    file = io.BytesIO()
    torch.save(content, file)
    return shop.write(name, file.getvalue())


def safetensors(header, data=b"", length=None):
    """The bytes of a .safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def good(shop):
    """Nothing is wrong."""
    return measured(shop, save(shop, {"params_ema": state(shop.pick(["srvgg", "rrdb", "msrresnet"]))}), FINE)


class _Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def code(shop):
    """A pickle that runs a command, opens a file, imports a module."""
    import os

    call = shop.pick([_Calls(os.system, "touch owned"), _Calls(open, "owned", "w"), _Calls(exec, "open('owned', 'w')")])
    if shop.rng.random() < 0.5:
        return either(shop, save(shop, {"params": state(), "more": call}))
    return either(shop, shop.write("net.pth", pickle.dumps({"params": call}, protocol=shop.pick([0, 2, 4]))))


def odd_globals(shop):
    """Names of classes with escape sequences, line breaks, or a megabyte."""
    name = shop.pick([b"os\x1b]0;owned\x07", b"a" * 1_000_000, b"\xff\xfe", b"builtins"])
    attribute = shop.pick([b"eval", b"\x1b[2J", b"x"])
    return either(shop, shop.write("net.pth", b"\x80\x02c" + name + b"\n" + attribute + b"\n)R."))


def deep_prefix(shop):
    """Keys with `module.` hundreds of thousands of times."""
    tensors = state()
    prefix = shop.pick(["module.", "_orig_mod.", "net_g.", "model."]) * shop.pick([1000, 300_000])
    return either(shop, save(shop, {prefix + key: value for key, value in tensors.items()}), REFUSED | FINE)


def many_keys(shop):
    """A hundred thousand tensors of one value."""
    import torch

    one = torch.zeros(1)
    tensors = {f"body.{n}.weight": one for n in range(100_000)}
    return either(shop, save(shop, tensors))


def many_blocks(shop):
    """A network of 300 blocks, or of channels by the thousand, made of the same few bytes."""
    import torch

    tensors = state("rrdb")
    if shop.rng.random() < 0.5:
        block = {key: value for key, value in tensors.items() if ".0." in key}
        for n in range(2, 300):
            tensors |= {key.replace(".0.", f".{n}.", 1): value for key, value in block.items()}
        return measured(shop, save(shop, tensors), REFUSED | FINE)
    tensors = {key: torch.zeros(1).expand(value.shape) for key, value in tensors.items()}
    return measured(shop, save(shop, tensors))


def stride_zero(shop):
    """Tensors of terabytes that share one value by a stride of 0."""
    import torch

    shape = shop.pick([(40_000, 40_000, 3, 3), (64, 3, 100_000, 100_000), (2**40,)])
    tensors = state()
    tensors[shop.pick(tensors)] = torch.zeros(1).as_strided(shape, [0] * len(shape))
    return either(shop, save(shop, tensors), REFUSED)


def odd_tensors(shop):
    """Tensors of other types, shapes and kinds, or none at all."""
    import torch

    tensors = state(shop.pick(["srvgg", "rrdb"]))
    first = tensors[next(iter(tensors))]
    values = [torch.zeros(0), torch.zeros(()), torch.full(first.shape, float("nan")), first.to(torch.complex64), None]
    values += [
        first.to(torch.int8),
        first.bool(),
        first.to_sparse(),
        "text",
        [1],
        first[:1],
        first.to(torch.float64) * 1e300,
    ]
    values += [torch.empty(first.shape, device="meta"), torch.nn.Parameter(first), EVIL, {EVIL: first}, first.flatten()]
    tensors[shop.pick(tensors)] = shop.pick(values)
    return measured(shop, save(shop, tensors), REFUSED | FINE)


def odd_keys(shop):
    """Keys that are missing, doubled, renamed, numbers, tuples, escape sequences."""
    tensors = state(shop.pick(["srvgg", "rrdb", "msrresnet"]))
    key = shop.pick(tensors)
    value = tensors.pop(key)
    new = shop.pick([EVIL, "", 7, ("a", 1), None, key + ".weight", "x" * 100_000, "\n", key.replace("0", "9" * 30)])
    if shop.rng.random() < 0.7:
        tensors[new] = value
    return either(shop, save(shop, tensors), REFUSED)


def no_network(shop):
    """Something else in a checkpoint."""
    contents = [
        None,
        1,
        "x",
        [],
        {},
        {"params": {}},
        {"params": None},
        [1, 2],
        {"params_ema": [1]},
        {"params": {"a": 1}},
        b"x",
    ]
    return either(shop, save(shop, shop.pick(contents)))


def no_checkpoint(shop):
    """Something else under that name."""
    name = f"net{shop.pick(['.pth', '.pt', '.safetensors', '.ckpt', '.bin', ''])}"
    contents = [b"", b"\0" * 100, b"PK\x03\x04" + bytes(50), b"\x80\x02.", b"hello", b"<!DOCTYPE html><html>" * 20]
    contents += [shop.seeds.path(seed).read_bytes() for seed in ("rgb.png", "nearest.onnx")]
    return either(shop, shop.write(name, shop.pick(contents)))


def zip_bomb(shop):
    """A .pth, which is a zip file, whose records are packed gigabytes of zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", bytes(300 << 20))
    return either(shop, shop.write("net.pth", file.getvalue()))


def zip_names(shop):
    """Records of a .pth with names that lead outside, twice the same, or none."""
    data = shop.folder / "whole.pth"
    save(shop, state(), "whole.pth")
    file = io.BytesIO()
    with zipfile.ZipFile(data) as old, zipfile.ZipFile(file, "w") as new:
        for entry in old.infolist():
            name = entry.filename
            if shop.rng.random() < 0.3:
                name = shop.pick([f"../../{name}", f"/{name}", name.upper(), f"{name}\x1b[2J", "x"])
            new.writestr(name, old.read(entry))
    data.unlink()
    return either(shop, shop.write("net.pth", file.getvalue()), REFUSED | FINE)


def safetensors_header(shop):
    """Headers of .safetensors that lie."""
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    choices = [
        safetensors({}, length=2**63),
        safetensors({}, length=100_000_000),
        safetensors(b"{" * 100_000),
        safetensors(b'{"a":' * 50_000),
        safetensors({"a": tensor | {"shape": [2**40, 2**40]}}, bytes(4)),
        safetensors({"a": tensor | {"data_offsets": [0, 2**60]}}, bytes(4)),
        safetensors({"a": tensor | {"data_offsets": [4, 0]}}, bytes(4)),
        safetensors({"a": tensor | {"dtype": EVIL}}, bytes(4)),
        safetensors({EVIL: tensor}, bytes(4)),
        safetensors({"a": tensor, "b": tensor}, bytes(4)),
        safetensors({"__metadata__": {"esrgan.arch": "[" * 100_000}, "a": tensor}, bytes(4)),
        safetensors({"__metadata__": {"esrgan.arch": json.dumps({"name": EVIL})}, "a": tensor}, bytes(4)),
        safetensors(
            {"__metadata__": {"esrgan.arch": json.dumps({"name": "RRDBNet", "blocks": 10**9})}, "a": tensor}, bytes(4)
        ),
        safetensors({"__metadata__": [1], "a": tensor}, bytes(4)),
        safetensors(b"\xff\xfe{}"),
        b"\0" * 7,
    ]
    return either(shop, shop.write("net.safetensors", shop.pick(choices)), REFUSED)


def claimed_arch(shop):
    """Good tensors with hyper-parameters that do not fit them."""
    import safetensors.torch

    arch = {"name": "SRVGGNetCompact", "channels": 8, "convs": 1, "scale": 4}
    key = shop.pick([*arch, "extra"])
    arch[key] = shop.pick([0, -1, 10**9, 1e308, "x", None, [], EVIL, True, 10**30])
    metadata = {"esrgan.arch": json.dumps(arch), "esrgan.format": shop.pick(["1", "2", EVIL])}
    data = safetensors.torch.save(state(), metadata)
    return either(shop, shop.write("net.safetensors", data), REFUSED | FINE)


def two(shop):
    """Two checkpoints that do not fit each other."""
    import torch

    save(shop, state(), "psnr.pth")
    other = state(shop.pick(["srvgg", "srvgg-relu-x2", "rrdb", "msrresnet"]))
    key = shop.pick(other)
    other[key] = shop.pick([other[key][:1], torch.full_like(other[key], float("inf"))])
    save(shop, other, "gan.pth")
    words = [
        "esrgan-export",
        "--psnr",
        "psnr.pth",
        "--gan",
        "gan.pth",
        "--alpha",
        shop.pick(["0.5", "nan", "-1", "1e999", "x"]),
    ]
    return Case("", [Command([*words, "-o", "made"], REFUSED)], [Output("made", "folder")])


def options(shop):
    """Shapes, names and alphas that nobody means."""
    save(shop, state(), "net.pth")
    choices = [["--shape", "999999x999999"], ["--shape", "0x0"], ["--shape", f"{'9' * 30}x1"], ["--name", "../x"]]
    choices += [
        ["--name", EVIL],
        ["--name", "x" * 300],
        ["--name", ""],
        ["--alpha", "0.5"],
        ["--int8"],
        ["--name", "-"],
    ]
    case = exported(shop, "net.pth", REFUSED)
    case.commands[0].words += shop.pick(choices[:3] + choices[5:9])
    return case


def bench_options(shop):
    """`--shapes 999999x999999` and numbers of thirty digits."""
    shop.seed("nearest.onnx", "net.onnx")
    choices = [["--shapes", "999999x999999"], ["--batch", "9" * 30], ["--batch", "9999999999"], ["--streams", "9" * 20]]
    choices += [["--threads", "9" * 30], ["--seconds", "1e999"], ["--seconds", "9" * 30], ["--shapes", f"{'9' * 30}x1"]]
    words = ["esrgan-bench", "-m", "net.onnx", "-b", "ort", *shop.pick(choices)]
    return Case("", [Command(words, REFUSED)])


def damaged(shop):
    """A whole .pth or .safetensors, built for the case, with random damage."""
    import safetensors.torch
    import torch

    tensors = state(shop.pick(["srvgg", "rrdb"]))
    if shop.rng.random() < 0.5:
        return "net.safetensors", safetensors.torch.save(tensors)
    file = io.BytesIO()
    torch.save({"params": tensors}, file, _use_new_zipfile_serialization=bool(shop.rng.random() < 0.8))
    return "net.pth", file.getvalue()


def mutated(shop):
    """Random damage."""
    name, data = damaged(shop)
    return measured(shop, shop.write(name, shop.mutate(data)))


IDEAS = [
    good,
    code,
    odd_globals,
    deep_prefix,
    many_keys,
    many_blocks,
    stride_zero,
    odd_tensors,
    odd_keys,
    no_network,
    no_checkpoint,
    zip_bomb,
    zip_names,
    safetensors_header,
    claimed_arch,
    two,
    options,
    bench_options,
]
