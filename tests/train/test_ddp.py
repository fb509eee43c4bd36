"""Several processes: together they see what one sees, and they agree on everything. The docs say where they differ."""

import math
import os
import signal
import sys
import time

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from esrgan_deploy import MediaError
from esrgan_train.loop import train
from esrgan_train.processes import agree, average_gradients, only_first_raises, together
from esrgan_train.recipe import load_recipe
from tiny import (
    assert_same_run,
    command,
    hidden,
    in_processes,
    interrupt_in_step,
    read_log,
    read_state,
    train_in_processes,
)

STEPS = 100


def curve(folder, name):
    return [line[name] for line in read_log(folder)]


def test_two_processes_are_one_with_twice_the_batch(recipe_file, make_recipe, tmp_path):
    train_in_processes(recipe_file("psnr"), tmp_path / "two")
    train(make_recipe("psnr", "batch=4"), tmp_path / "one")
    train(make_recipe("psnr"), tmp_path / "half")
    assert curve(tmp_path / "two", "l1") == pytest.approx(curve(tmp_path / "one", "l1"), rel=1e-5)
    assert curve(tmp_path / "two", "l1") != pytest.approx(curve(tmp_path / "half", "l1"), rel=1e-2)
    two, one, half = (read_state(tmp_path / name)["average"] for name in ("two", "one", "half"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-6)
    assert any((half[key] - one[key]).abs().max() > 1e-4 for key in one)


@pytest.mark.parametrize(("kind", "equal"), [("standard-gan", True), ("relativistic-gan", False)])
def test_a_relativistic_gan_depends_on_the_number_of_processes(recipe_file, make_recipe, tmp_path, kind, equal):
    """Its means are over the samples of one process. A GAN that compares nothing within a batch does not care."""
    settings = ["discriminator.optimiser.lr=0.01"]
    train_in_processes(recipe_file(kind), tmp_path / "two", *settings)
    train(make_recipe(kind, "batch=4", *settings), tmp_path / "one")
    two, one = (curve(tmp_path / name, "discriminator") for name in ("two", "one"))
    worst = max(abs(a / b - 1) for a, b in zip(two, one, strict=True))
    assert (worst < 1e-4) if equal else (worst > 1e-3)


@pytest.mark.unix("sends signals to another process")
def test_the_command_goes_on_with_two_processes_where_it_was_stopped(recipe_file, tmp_path):
    """SIGTERM reaches the first process alone; both stop behind the same step, and one of them says so."""
    words = [recipe_file("wgan"), "--devices", "2", "--set", f"steps={STEPS}", "-o", tmp_path / "halves"]
    log = tmp_path / "halves" / "log.jsonl"
    with command(*words) as child:
        while not (log.exists() and log.read_text().count("\n") > 1):
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.001)
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate()
    assert child.returncode == 130, errors
    said = [line for line in errors.splitlines() if line.startswith("esrgan-train")]
    assert said == ["esrgan-train: interrupted; nothing was left half-written"]
    state = read_state(tmp_path / "halves")
    assert state["step"] < STEPS
    assert not torch.equal(*(own["random"]["cpu"] for own in state["processes"])), "each draws numbers of its own"
    with command(*words, "--resume") as child:
        _, errors = child.communicate()
    assert child.returncode == 0, errors
    train_in_processes(recipe_file("wgan"), tmp_path / "whole", f"steps={STEPS}")
    assert_same_run(tmp_path / "halves", tmp_path / "whole")
    assert hidden(tmp_path) == []


def stop_first_process(path, folder, number):
    if os.environ["LOCAL_RANK"] == "0":
        interrupt_in_step(pytest.MonkeyPatch(), number)
    train(load_recipe(path), folder, devices=2)


@pytest.mark.parametrize("kind", ["residual", "gan"])
def test_every_process_gets_its_own_back(recipe_file, tmp_path, kind):
    """Random states, and the running statistics of batch normalisation, differ from process to process."""
    path = recipe_file(kind)
    train_in_processes(path, tmp_path / "whole")
    assert in_processes(stop_first_process, path, tmp_path / "halves", 3) == [1, 0]
    assert read_state(tmp_path / "halves")["step"] == 3
    train_in_processes(path, tmp_path / "halves", resume=True)
    assert_same_run(tmp_path / "halves", tmp_path / "whole")
    if kind == "residual":
        first, second = (own["buffers"] for own in read_state(tmp_path / "whole")["processes"])
        assert any(not torch.equal(first[key], second[key]) for key in first)


def launched():
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    return fabric


def check_agreement():
    fabric = launched()
    rank = fabric.global_rank
    values, stop = agree(fabric, {"a": 1.0 + rank, "b": math.nan if rank else 0.0}, stop=False)
    assert values["a"] == 1.5
    assert math.isnan(values["b"])
    assert stop is False
    assert agree(fabric, {}, stop=rank == 1) == ({}, True)
    layer = nn.Linear(2, 1)
    frozen = nn.Parameter(torch.zeros(3))
    layer.weight.grad, layer.bias.grad = torch.tensor([[1.0, 2.0]]) * (rank + 1), torch.tensor([float(rank)])
    average_gradients(fabric, [frozen, *layer.parameters()])
    assert layer.weight.grad.tolist() == [[1.5, 3.0]]
    assert layer.bias.grad.tolist() == [0.5]
    assert frozen.grad is None


def test_means_and_signals_are_everybodys():
    assert in_processes(check_agreement) == [0, 0]


def fail(rank):
    fabric = launched()
    with together(fabric):
        pass
    try:
        with together(fabric):
            if fabric.global_rank in rank:
                raise MediaError(f"{fabric.global_rank}.png: is damaged")
    except MediaError as error:
        sys.exit(2 if fabric.global_rank == 0 and str(error) == f"{rank[0]}.png: is damaged" else 6)
    sys.exit(7)


@pytest.mark.parametrize("rank", [[0], [1], [0, 1]], ids=str)
def test_an_error_in_one_process_ends_both_and_is_said_once(rank):
    assert in_processes(fail, rank) == [2, 0]


def interrupted():
    with only_first_raises(launched()):
        raise KeyboardInterrupt


def test_what_both_raise_is_raised_once():
    assert in_processes(interrupted) == [1, 0]
