"""Training states that a run goes on with: entries missing, of other types, pickles that call."""

import io
import os
import pickle
import shutil

from hostile.case import BAD_INPUT, FINE, REFUSED, Case, Command
from hostile.classes.checkpoints import EVIL, _Calls
from hostile.classes.recipes import content, dumped

WORDS = ["esrgan-train", "r.yaml", "-o", "run", "--resume"]
OURS = ("run", "cache")


def _finished(folder):
    """A run of one step whose recipe now asks for two."""
    import numpy as np

    from esrgan_train.cli import main
    from hostile.case import Shop

    os.chdir(folder)
    recipe = content(Shop(np.random.default_rng(3), folder, None))
    (folder / "r.yaml").write_text(dumped({**recipe, "steps": 2}))
    import esrgan_train.loop as loop

    real = loop.train_step
    steps = []

    def interrupted(model, batches, step):
        if steps:
            raise KeyboardInterrupt
        steps.append(step)
        return real(model, batches, step)

    loop.train_step = interrupted
    try:
        main(WORDS[1:])
    finally:
        loop.train_step = real
    assert (folder / "run" / "state.pt").exists()


def begun(shop):
    """Such a run."""
    made = shop.seeds.folder_of("begun", _finished)
    shutil.copytree(made, shop.folder, dirs_exist_ok=True, symlinks=True)
    return shop.folder / "run" / "state.pt"


def load(path):
    """What a state holds."""
    import torch

    return torch.load(path, weights_only=True)


def resumed(shop, value=None, codes=REFUSED | FINE):
    """The command that goes on, with another state."""
    import torch

    if value is not None:
        file = io.BytesIO()
        torch.save(value, file)
        shop.write("run/state.pt", file.getvalue())
    return Case("", [Command(WORDS, codes)], ours=OURS)


def good(shop):
    """Nothing is wrong."""
    begun(shop)
    return resumed(shop, codes=FINE)


def missing(shop):
    """Entries are missing."""
    state = load(begun(shop))
    for key in shop.some(state, 2):
        del state[key]
    return resumed(shop, state)


def wrong(shop):
    """Entries of other types and shapes."""
    import torch

    state = load(begun(shop))
    values = [
        None,
        1,
        -1,
        "x",
        EVIL,
        [],
        {},
        [1, 2],
        {"a": 1},
        torch.zeros(3),
        torch.zeros(0),
        float("nan"),
        10**30,
        True,
    ]
    state[shop.pick(state)] = shop.pick(values)
    return resumed(shop, state)


def wrong_inside(shop):
    """The same one or two levels below."""
    import torch

    state = load(begun(shop))
    inner = [value for value in state.values() if isinstance(value, dict) and value]
    inner += [value for each in list(inner) for value in each.values() if isinstance(value, dict) and value]
    target = shop.pick(inner)
    values = [None, "x", EVIL, [], {}, torch.zeros(3), torch.full((2, 2), float("nan")), -1, 10**30, float("inf")]
    key = shop.pick(target)
    if shop.rng.random() < 0.3:
        del target[key]
    else:
        target[key] = shop.pick(values)
    return resumed(shop, state)


def random_states(shop):
    """The states of random generators."""
    import torch

    state = load(begun(shop))
    state["processes"] = shop.pick(
        [[], [{}], [None], [{"random": {}, "buffers": {}}], {}, "x", [{"random": {"cpu": torch.zeros(3)}}]]
    )
    return resumed(shop, state, BAD_INPUT)


def steps(shop):
    """The number of the step."""
    state = load(begun(shop))
    state["step"] = shop.pick([-1, 10**30, 2**63, float("nan"), 1.5, "1", None, 99999])
    return resumed(shop, state)


def recipe_text(shop):
    """The recipe inside, which messages quote."""
    state = load(begun(shop))
    state["recipe"] = shop.pick([EVIL, "[" * 100_000, "a: &a [*a]", None, 1, "x" * 1_000_000, ""])
    state["digest"] = shop.pick([EVIL, None, 1, "0" * 64])
    return resumed(shop, state, BAD_INPUT)


def optimiser(shop):
    """The optimiser's state."""
    import torch

    state = load(begun(shop))
    inner = state["optimiser"]
    kind = shop.pick(["groups", "state", "lr", "shape", "none"])
    if kind == "groups":
        inner["param_groups"] = shop.pick([[], [{}], None, "x", [{"params": [99]}]])
    elif kind == "state":
        inner["state"] = shop.pick([None, {"x": 1}, {0: None}, {99: {}}, []])
    elif kind == "lr":
        inner["param_groups"][0]["lr"] = shop.pick(["x", None, float("nan"), -1, EVIL])
    elif kind == "shape":
        inner["state"][0] = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(7), "exp_avg_sq": torch.zeros(7)}
    else:
        state["optimiser"] = None
    return resumed(shop, state)


def stride_zero(shop):
    """A tensor of terabytes in a few bytes."""
    import torch

    state = load(begun(shop))
    key = next(iter(state["generator"]))
    state["generator"][key] = torch.zeros(1).as_strided((2**20, 2**20), (0, 0))
    return resumed(shop, state, REFUSED)


def code(shop):
    """A pickle that runs a command."""
    begun(shop)
    call = _Calls(os.system, "touch owned")
    if shop.rng.random() < 0.5:
        return resumed(shop, {"format": 1, "processes": [call]}, BAD_INPUT)
    shop.write("run/state.pt", pickle.dumps({"format": call}, protocol=2))
    return resumed(shop, codes=BAD_INPUT)


def no_state(shop):
    """Something else under that name."""
    path = begun(shop)
    kind = shop.pick(["text", "empty", "pipe", "zero", "itself", "picture", "list"])
    if kind in ("pipe", "zero", "itself"):
        path.unlink()
        os.mkfifo(path) if kind == "pipe" else path.symlink_to({"zero": "/dev/zero", "itself": "state.pt"}[kind])
        return resumed(shop, codes=BAD_INPUT)
    if kind == "list":
        return resumed(shop, [1, 2], BAD_INPUT)
    data = {"text": b"hello", "empty": b"", "picture": shop.seeds.path("rgb.png").read_bytes()}[kind]
    shop.write("run/state.pt", data)
    return resumed(shop, codes=BAD_INPUT)


def log(shop):
    """The log of the run is damaged, is a link, is a pipe."""
    begun(shop)
    logs = [path for path in (shop.folder / "run").iterdir() if path.suffix in (".jsonl", ".json")]
    path = shop.pick(logs) if logs else shop.folder / "run" / "log.jsonl"
    shop.write("precious.txt", "precious")
    kind = shop.pick(["deep", "text", "link", "escapes"])
    if kind == "link":
        path.unlink(missing_ok=True)
        path.symlink_to(shop.folder / "precious.txt")
        return resumed(shop)
    text = {"deep": "[" * 100_000 + "\n", "text": "hello\n", "escapes": f'{{"what": "{EVIL}", "step": 1}}\n'}[kind]
    shop.write(f"run/{path.name}", text)
    return resumed(shop)


def cache(shop):
    """The cache of decoded pictures is damaged."""
    begun(shop)
    files = [path for path in (shop.folder / "cache").rglob("*") if path.is_file()]
    for path in files[:2]:
        name = str(path.relative_to(shop.folder))
        shop.write(name, shop.mutate(path.read_bytes()))
    return resumed(shop)


def mutated(shop):
    """Random damage of a state."""
    data = begun(shop).read_bytes()
    shop.write("run/state.pt", shop.mutate(data))
    return resumed(shop)


IDEAS = [
    good,
    missing,
    wrong,
    wrong_inside,
    random_states,
    steps,
    recipe_text,
    optimiser,
    stride_zero,
    code,
    no_state,
    log,
    cache,
]
