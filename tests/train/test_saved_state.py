"""A state in which something is missing or wrong: one line names it, and nothing is changed."""

import copy
import math
import os
import shutil

import pytest
import torch

from esrgan_deploy.errors import EsrganError
from esrgan_train import loop
from esrgan_train.loop import train
from tiny import read_state

WEIGHT = "first.weight"


@pytest.fixture(scope="module")
def saved(make_recipe, tmp_path_factory):
    """The folder of a finished run with two networks."""
    folder = tmp_path_factory.mktemp("saved")
    train(make_recipe("gan", "steps=2"), folder)
    return folder


def entries(content, prefix=()):
    """The place of everything in a state."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*prefix, key)
        if isinstance(value, dict | list):
            yield from entries(value, (*prefix, key))


def place(state, path):
    for key in path[:-1]:
        state = state[key]
    return state, path[-1]


def first_weight(state):
    return next(name for name in state["generator"] if name.endswith("weight"))


DAMAGES = {
    "step is a word": (["step"], "3"),
    "step is negative": (["step"], -1),
    "step is huge": (["step"], 10**500),
    "step is a float": (["step"], 2.0),
    "best is not a number": (["best"], math.nan),
    "digest is a number": (["digest"], 5),
    "losses without counts": (["unlogged"], {"l1": 3.0}),
    "weights are numbers": (["generator"], {"a": 1.0}),
    "weights are a tensor": (["generator"], torch.ones(3)),
    "weights of nothing": (["average"], {}),
    "no process": (["processes"], []),
    "a process is a number": (["processes"], [3]),
    "moments of a parameter that is not there": (["optimiser", "state"], {10**6: None}),
    "precision of another kind": (["precision"], {"scale": 65536.0}),
    "a random state of another size": (["processes", 0, "random", "cpu"], torch.zeros(7, dtype=torch.uint8)),
    "a random state of nonsense": (["processes", 0, "random", "cpu"], torch.full((5056,), 255, dtype=torch.uint8)),
    "another discriminator": (["discriminator"], {"x": torch.ones(1)}),
    "no discriminator": (["discriminator"], None),
    "format is a word": (["format"], "1"),
    "format is huge": (["format"], 10**500),
}


@pytest.fixture
def resumes(saved, make_recipe, tmp_path):
    """What resuming a copy of `saved` says after `damage(state)`; the folder stays as it is."""

    def resume(damage):
        folder = tmp_path / "run"
        shutil.copytree(saved, folder)
        state = read_state(folder)
        damage(state)
        torch.save(state, folder / loop.STATE)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(EsrganError) as caught:
            train(make_recipe("gan", "steps=4"), folder, resume=True)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        shutil.rmtree(folder)
        message = str(caught.value)
        assert caught.value.exit_code == 2
        assert "\n" not in message
        assert message.startswith(f"{folder / loop.STATE}: ")
        assert message.endswith(("take another copy, or begin in a new folder with -o", "put the old file back"))
        return message

    return resume


@pytest.mark.parametrize("what", DAMAGES)
def test_an_entry_of_another_kind(what, resumes):
    path, value = DAMAGES[what]

    def damage(state):
        inside, key = place(state, path)
        inside[key] = value

    message = resumes(damage)
    assert str(path[0]) in message


@pytest.mark.parametrize("what", ["NaN", "shape", "type", "missing", "added", "one number for all"])
@pytest.mark.parametrize("network", ["generator", "average", "discriminator"])
def test_a_tensor_that_does_not_fit(network, what, resumes):
    def damage(state):
        weights = state[network]
        name = next(name for name in weights if name.endswith("weight"))
        if what == "missing":
            del weights[name]
        elif what == "added":
            weights["one.more"] = torch.ones(1)
        else:
            old = weights[name]
            new = {"NaN": old * math.nan, "shape": old[:1].clone(), "type": old.double()}
            weights[name] = new.get(what, torch.ones(1).expand(old.shape))

    message = resumes(damage)
    assert network in message or "more elements than it has numbers" in message


@pytest.mark.parametrize("what", ["NaN", "shape", "negative", "missing"])
@pytest.mark.parametrize("optimiser", ["optimiser", "discriminator_optimiser"])
def test_moments_that_do_not_fit(optimiser, what, resumes):
    def damage(state):
        moments = state[optimiser]["state"][1]
        if what == "missing":
            del moments["exp_avg_sq"]
            return
        old = moments["exp_avg_sq"]
        moments["exp_avg_sq"] = {"NaN": old * math.nan, "shape": old[:1].clone(), "negative": old - 1}[what]

    assert f"entry '{optimiser}.state.1" in resumes(damage)


def test_every_entry_that_is_missing_is_named(saved, resumes):
    """Of each network's tensors one stands for all."""
    paths = [path for path in entries(read_state(saved)) if not {"param_groups", "unlogged"} & set(path)]
    top = [path for path in paths if len(path) == 1]
    assert len(top) >= 12
    for path in [*top, *(path for path in paths if path[0] == "processes" and len(path) > 2)]:

        def damage(state, path=path):
            inside, key = place(state, path)
            del inside[key]

        assert str(path[-1]) in resumes(damage), path


def test_the_settings_of_the_optimiser_are_the_recipes(saved, make_recipe, tmp_path):
    """They are in the file because PyTorch writes them; nobody reads them."""
    results = []
    for name in ("as it is", "changed"):
        folder = tmp_path / name
        shutil.copytree(saved, folder)
        state = read_state(folder)
        if name == "changed":
            state["optimiser"]["param_groups"] = [{"lr": "x", "betas": None, "params": [10**9]}]
            torch.save(state, folder / loop.STATE)
        train(make_recipe("gan", "steps=4"), folder, resume=True)
        results.append(read_state(folder)["generator"])
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


@pytest.mark.unix("makes pipes and links to devices")
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "zeros"])
def test_what_is_no_file(kind, saved, make_recipe, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    path = folder / loop.STATE
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/null" if kind == "device" else "/dev/zero")
    with pytest.raises(EsrganError, match=r"state\.pt: is a \w+; take another copy, or begin in a new folder with -o$"):
        train(make_recipe("gan"), folder, resume=True)


def test_another_recipe_that_is_no_recipe(saved, make_recipe, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    state = copy.deepcopy(read_state(folder))
    laughs = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 20)}]\n" for n in range(1, 20))
    for recipe in (laughs, "a: [", "[" * 5000, "3", ""):
        torch.save(state | {"digest": "other", "recipe": recipe}, folder / loop.STATE)
        with pytest.raises(EsrganError, match=r"state\.pt: ") as caught:
            train(make_recipe("gan"), folder, resume=True)
        assert len(str(caught.value)) < 1000
