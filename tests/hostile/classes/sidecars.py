"""Small files beside others: reports, engines' sidecars, endpoints, older benchmarks, opinions, tables of scores."""

import json
import os

from hostile.case import BAD_INPUT, Case, Command, Output

DEEP = (
    "[" * 100_000,
    '{"a":' * 50_000,
    "9" * 100_000,
    '"\\ud800"',
    "1e999",
    "NaN",
    "null",
    "",
    "\0",
    "[]",
    "{}",
    "\xff\xfe{",
)


def older_benchmark(shop, content):
    """esrgan-bench --compare."""
    shop.seed("nearest.onnx", "net.onnx")
    shop.write("old.json", content)
    words = ["esrgan-bench", "-m", "net.onnx", "-b", "ort", "--shapes", "16x16", "--seconds", "0.05"]
    return Case("", [Command([*words, "--compare", "old.json"], frozenset({0, 2, 3, 4}))])


def opinions(shop, content):
    """esrgan-eval --mos-tally."""
    shop.write("mos.json", content)
    return Case("", [Command(["esrgan-eval", "--mos-tally", "mos.json"])])


def engine_sidecar(shop, content):
    """esrgan-engine --list and --prune of a folder."""
    shop.write("engines/a.engine.json", content)
    shop.write("engines/a.engine", "ftrt" + "x" * 100)
    return Case("", [Command(["esrgan-engine", "--list", "--cache", "engines"])], ours=("engines",))


def report(shop, content):
    """A report beside a model, which nobody needs to trust."""
    shop.seed("nearest.onnx", "net.onnx")
    shop.seed("rgb.png", "in.png")
    shop.write("net.report.json", content)
    shop.write("net_int8.report.json", content)
    words = ["esrgan-upscale", "in.png", "-o", "out.png", "-m", "net.onnx", "-b", "ort"]
    return Case("", [Command(words)], [Output("out.png", "picture", like="in.png")])


def scores(shop, content):
    """esrgan-eval --ma FILE.csv, a table of another program."""
    shop.seed("rgb.png", "hr/a.png")
    shop.seed("rgb.png", "sr/a.png")
    shop.write("ma.csv", content)
    words = ["esrgan-eval", "--hr", "hr", "--sr", "sr", "--metrics", "ma", "--ma", "ma.csv"]
    return Case("", [Command(words)], needs_torch=True)


READERS = (older_benchmark, opinions, engine_sidecar, report)


def deep_json(shop):
    """Brackets by the hundred thousand, in each file that is JSON."""
    return shop.pick(READERS)(shop, shop.pick(DEEP))


def deep_compare(shop):
    """The same for --compare."""
    return older_benchmark(shop, shop.pick(DEEP[:4]))


def deep_opinions(shop):
    """The same for --mos-tally."""
    return opinions(shop, shop.pick(DEEP[:4]))


def deep_sidecar(shop):
    """The same for an engine."""
    return engine_sidecar(shop, shop.pick(DEEP[:4]))


def escapes(shop):
    """Values that a message would quote."""
    evil = "\x1b]0;owned\x07\x1b[2J"
    contents = [
        {"format": evil, "results": []},
        {"format": 1, evil: evil, "results": [{evil: evil}]},
        [evil],
        {"format": "esrgan-mos 1", "answers": {evil: evil}, "seed": evil},
        {"format": 1, "key": evil, "model": evil, "notes": [evil], "machine": {evil: 1}},
    ]
    return shop.pick(READERS)(shop, json.dumps(shop.pick(contents), ensure_ascii=False))


def wrong_types(shop):
    """JSON of another shape."""
    values = [None, 1, "x", [1], {"format": 1}, {"format": 1, "results": None}, {"format": 1, "results": [None, 1, {}]}]
    values += [{"format": "esrgan-mos 1", "answers": [1]}, {"format": 1, "results": [{"seconds": "x"}], "machine": []}]
    return shop.pick(READERS)(shop, json.dumps(shop.pick(values)))


def instead_of_a_file(shop):
    """A pipe, a folder, a device, a link to nowhere or to itself where a small file is expected."""
    case = shop.pick(READERS)(shop, "{}")
    path = next(shop.folder / name for name in ("old.json", "mos.json", "engines/a.engine.json", "net.report.json")
                if (shop.folder / name).exists())  # fmt: skip
    path.unlink()
    kind = shop.pick(["pipe", "folder", "zero", "nowhere", "itself"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"zero": "/dev/zero", "nowhere": "gone", "itself": path.name}[kind])
    return case


def pipe_as_input(shop):
    """A pipe that nobody writes to, as each kind of input file."""
    os.mkfifo(shop.folder / "pipe.onnx")
    os.mkfifo(shop.folder / "pipe.png")
    os.mkfifo(shop.folder / "pipe.mkv")
    shop.seed("rgb.png", "in.png")
    shop.seed("ffv1.mkv", "in.mkv")
    words = shop.pick(
        [
            ["in.png", "-o", "out.png", "-m", "pipe.onnx"],
            ["pipe.png", "-o", "out.png", "-b", "reference"],
            ["pipe.mkv", "-o", "out.mkv", "-b", "reference"],
        ]
    )
    return Case("", [Command(["esrgan-upscale", *words], BAD_INPUT)])


def device_as_input(shop):
    """A link to /dev/zero, as each kind of input file."""
    for name in ("zero.onnx", "zero.png", "zero.mkv"):
        (shop.folder / name).symlink_to(shop.pick(["/dev/zero", "/dev/urandom", "/dev/full"]))
    shop.seed("rgb.png", "in.png")
    words = shop.pick(
        [
            ["in.png", "-o", "out.png", "-m", "zero.onnx"],
            ["zero.png", "-o", "out.png", "-b", "reference"],
            ["zero.mkv", "-o", "out.mkv", "-b", "reference"],
        ]
    )
    return Case("", [Command(["esrgan-upscale", *words], BAD_INPUT)])


def saved_choice(shop):
    """Files in the cache of tuned choices, which are ours and may be damaged."""
    shop.seed("ffv1.mkv", "in.mkv")
    shop.seed("nearest.onnx", "net.onnx")
    folder = shop.folder / "cache" / "esrgan-deploy" / "tuning"
    folder.mkdir(parents=True)
    for n in range(3):
        (folder / f"{n:016x}.json").write_text(shop.pick(DEEP).encode("utf-8", "replace").decode())
    command = Command(["esrgan-upscale", "in.mkv", "-o", "out.mkv", "-m", "net.onnx", "--frames", "0:2"])
    command.env = {"XDG_CACHE_HOME": str(shop.folder / "cache")}
    return Case("", [command], [Output("out.mkv", "clip", frames=2)], ours=("cache",))


def mutated(shop):
    """Random damage of a report, an engine's sidecar, or an older benchmark."""
    contents = [
        {"format": 1, "command": "x", "machine": {"cpu": "x"}, "results": [{"model": "net.onnx", "median_s": 0.1}]},
        {"format": "esrgan-mos 1", "seed": 0, "answers": [{"picture": "a", "method": "b", "score": 3}]},
        {"format": 1, "key": "00", "model": "net.onnx", "plan_bytes": 104, "plan_sha256": "00", "notes": []},
    ]
    return shop.pick(READERS)(shop, shop.mutate(json.dumps(shop.pick(contents)).encode()))


IDEAS = [
    deep_json,
    deep_compare,
    deep_opinions,
    deep_sidecar,
    escapes,
    wrong_types,
    instead_of_a_file,
    pipe_as_input,
    device_as_input,
    saved_choice,
]
