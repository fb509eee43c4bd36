"""Recipes: YAML that expands, types that do not fit, paths that lead elsewhere."""

import os

from hostile.case import BAD_INPUT, FINE, REFUSED, Case, Command

EVIL = "\x1b]0;owned\x07"


def content(shop):
    """A small recipe that is right, and its pictures."""
    from tiny import BASE

    for number in range(2):
        _picture(shop, f"photos/{number}.png")
    data = {"train": [{"folder": "photos"}], "patch": 32, "cache": "cache"}
    return {**BASE, "data": data, "steps": 1, "save_every": 1}


def _picture(shop, name):
    import cv2

    path = shop.folder / name
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), shop.rng.integers(0, 256, (48, 48, 3)).astype("uint8"))


def dumped(recipe):
    """As YAML."""
    import yaml

    return yaml.safe_dump(recipe, allow_unicode=True)


def trained(shop, text, codes=None, *words):
    """esrgan-train with a recipe: what is wrong in it is said before anything is trained."""
    shop.write("r.yaml", text)
    command = Command(["esrgan-train", "r.yaml", "-o", "run", *words])
    command.codes = codes or command.codes
    return Case("", [command], ours=("run", "cache"))


def checked(shop, text, codes=None):
    """esrgan-train doctor, which reads the recipe too."""
    shop.write("r.yaml", text)
    command = Command(["esrgan-train", "doctor", "--recipe", "r.yaml"])
    command.codes = codes or command.codes
    return Case("", [command], ours=("cache",))


def good(shop):
    """One step, as it should be."""
    return trained(shop, dumped(content(shop)), FINE)


def billion_laughs(shop):
    """Aliases of aliases of aliases."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, shop.pick([6, 9, 30]))]
    return trained(shop, "\n".join(lines) + "\n", BAD_INPUT)


def deep(shop):
    """Brackets by the ten thousand, an alias of itself, merges of merges."""
    text = shop.pick(
        ["[" * 20_000, "{a: " * 5000, "a: &a [*a]\n", "&a {<<: *a}\n", "a: &a {b: *a}\n", "- " * 20_000, "? " * 5000]
    )
    return trained(shop, text, BAD_INPUT)


def tags(shop):
    """Tags that make objects."""
    tag = shop.pick(
        ["!!python/object/apply:os.system ['touch owned']", "!!python/name:os.system", "!!binary AAAA", "!!set {a, b}",
         f"!<{EVIL}> x", "!!timestamp 9999-99-99", "!!int '0x" + "f" * 5000 + "'", "!!float x", "!!omap [a]"]
    )  # fmt: skip
    return trained(shop, dumped(content(shop)) + f"more: {tag}\n", BAD_INPUT)


def numbers(shop):
    """Seeds of thirty digits, batches of thousands of millions, rates of NaN."""
    recipe = content(shop)
    values = [
        10**30,
        -1,
        0,
        float("nan"),
        float("inf"),
        1e308,
        10**4300,
        "1e5",
        True,
        None,
        [],
        {},
        EVIL,
        9999999999,
        2**63,
    ]
    key = shop.pick(
        ["seed", "batch", "steps", "ema", "log_every", "save_every", "accumulate", "clip_gradient", "gpu_hours"]
    )
    recipe[key] = shop.pick(values)
    if recipe[key] in (9999999999, 2**63, 10**30) and key in ("steps", "log_every", "save_every", "gpu_hours"):
        recipe[key] = -5
    return checked(shop, _dump_big(recipe))


def _dump_big(recipe):
    import sys

    sys.set_int_max_str_digits(0)
    return dumped(recipe)


def huge_batch(shop):
    """`batch=9999999999` and its like."""
    setting = shop.pick(
        ["batch=9999999999", "data.patch=9999996", "network.channels=999999999", "network.blocks=999999999"]
    )
    return trained(shop, dumped(content(shop)), REFUSED, "--set", setting)


def big_seed(shop):
    """A seed of 30 digits."""
    return trained(
        shop, dumped(content(shop)), REFUSED, "--set", f"seed={shop.pick(['9' * 30, '-5', '1e30', '9' * 5000])}"
    )


def settings(shop):
    """`--set` with keys that are none."""
    key = shop.pick(
        ["", "=", "a", "a.b.c=1", "data.train.99.folder=x", "data.train.-1.folder=x", "data.train.x=1", EVIL + "=1"]
    )
    extra = shop.pick(
        [key, f"data.train.{10**9}.folder=x", "losses.0.weight=" + "9" * 5000, "network=" + "[" * 5000, "steps=&a [*a]"]
    )
    return trained(shop, dumped(content(shop)), BAD_INPUT, "--set", shop.pick([key, extra]))


def keys(shop):
    """Unknown keys, escape sequences in keys, keys that are lists and numbers."""
    extra = shop.pick(
        [
            '"\\e]0;owned\\a": 1\n',
            "? [a, b]\n: 1\n",
            "1: 2\n",
            "steps: 2\n",
            "losses2: x\n",
            "~: 1\n",
            ".nan: 1\n",
            "x" * 100_000 + ": 1\n",
        ]
    )
    return trained(shop, dumped(content(shop)) + extra, BAD_INPUT)


def values(shop):
    """Sections of the wrong kind."""
    recipe = content(shop)
    key = shop.pick(recipe)
    recipe[key] = shop.pick([None, [], {}, "x", EVIL, [[]], {"name": EVIL}, [{"loss": EVIL}], -1, {"a": {"b": {}}}])
    return checked(shop, dumped(recipe))


def network(shop):
    """Networks that do not exist, or are larger than any machine."""
    recipe = content(shop)
    field, value = shop.pick(
        [
            ("name", EVIL),
            ("channels", 10**9),
            ("blocks", 10**7),
            ("growth", -1),
            ("scale", 1000),
            ("scale", 3),
            ("channels", 0),
        ]
    )
    recipe["network"] = {**recipe["network"], field: value}
    return checked(shop, dumped(recipe), REFUSED)


def folders(shop):
    """Pictures elsewhere: no folder, a pipe, a device, a file, names with escape sequences."""
    recipe = content(shop)
    os.mkfifo(shop.folder / "pipe")
    shop.write("file", "x")
    folder = shop.pick(["gone", "pipe", "/dev/zero", "file", EVIL, "", "x" * 5000, "\0", "/proc"])
    recipe["data"]["train"] = [{"folder": folder}]
    return trained(shop, dumped(recipe), REFUSED)


def pictures(shop):
    """Damaged pictures among those that are trained on."""
    recipe = content(shop)
    name = shop.pick(["rgb.png", "rgb.jpg", "lzw.tif", "rgb.webp"])
    shop.mutated(name, f"photos/9{name[name.rindex('.') :]}")
    return shop.pick([trained, checked])(shop, dumped(recipe))


def no_recipe(shop):
    """No YAML at all."""
    text = shop.pick(
        [
            "",
            "\0",
            "a: b: c",
            "%YAML 9.9\n---\na",
            "\t",
            "- a\n- b\n",
            "x",
            "42",
            "null",
            "\ufeff{}",
            "--- a\n--- b\n",
            "{",
        ]
    )
    return trained(shop, text, BAD_INPUT)


def special_file(shop):
    """A pipe, a folder, a device, a link to itself."""
    kind = shop.pick(["pipe", "folder", "/dev/zero", "r.yaml"])
    path = shop.folder / "r.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(kind)
    return Case("", [Command(["esrgan-train", "r.yaml", "-o", "run"], BAD_INPUT)])


def start_from(shop):
    """A file to start from that is none."""
    recipe = content(shop)
    shop.write("bad.safetensors", shop.mutate(b"\x08\0\0\0\0\0\0\0{}      "))
    recipe["start_from"] = shop.pick(["bad.safetensors", "gone.pth", "/dev/zero", "photos", EVIL, "r.yaml"])
    return trained(shop, dumped(recipe), BAD_INPUT)


def other_parser(shop):
    """`new`, `list`, and recipes of the package with names that lead elsewhere."""
    words = shop.pick(
        [
            ["new", "../../../etc/passwd"],
            ["new", EVIL],
            ["new", "debug/psnr", "-o", "x.txt"],
            ["new", "debug/psnr", "-o", "gone/x.yaml"],
            ["debug/psnr", "--devices", "9" * 30],
            ["debug/psnr", "--nodes", "0"],
            ["../debug/psnr"],
            [EVIL],
            [""],
        ]
    )
    return Case("", [Command(["esrgan-train", *words], REFUSED)], ours=("runs",))


def mutated(shop):
    """Random damage of a good recipe."""
    return checked(shop, shop.mutate(dumped(content(shop)).encode()))


IDEAS = [
    good,
    billion_laughs,
    deep,
    tags,
    numbers,
    huge_batch,
    big_seed,
    settings,
    keys,
    values,
    network,
    folders,
    pictures,
    no_recipe,
    special_file,
    start_from,
    other_parser,
]
