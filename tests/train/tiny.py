"""Small recipes of every kind, runs of them in one and in several processes, and what two runs have in common."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from children import popen
from esrgan_train import loop, run_folder
from esrgan_train.recipe import load_recipe

BASE = {
    "description": "a test",
    "compared_with": "nothing",
    "gpu_hours": 0,
    "network": {"name": "RRDBNet", "channels": 8, "growth": 4, "blocks": 1, "scale": 4},
    "data": {},
    "losses": [{"loss": "l1"}],
    "optimiser": {"lr": 1e-3},
    "steps": 6,
    "batch": 2,
    "ema": 0.9,
    "log_every": 1,
    "save_every": 2,
}
UNET = {"name": "UNetDiscriminator", "channels": 4}
RECIPES = {
    "psnr": BASE,
    # Batch normalisation in G, no average, several passes, a schedule, clipping, lines of the log across a save.
    "residual": BASE
    | {
        "network": {"name": "SRResNet", "channels": 8, "blocks": 1},
        "losses": [{"loss": "mse"}, {"loss": "total-variation", "weight": 1e-3}],
        "ema": None,
        "accumulate": 2,
        "clip_gradient": 0.1,
        "schedule": {"schedule": "cosine", "periods": 2, "warmup": 1},
        "log_every": 4,
    },
    # RaGAN, batch normalisation in D, several of its steps for one of G's.
    "gan": BASE
    | {
        "losses": [{"loss": "l1", "weight": 0.01}, {"loss": "adversarial", "weight": 0.1, "relativistic": True}],
        "discriminator": {"network": {"name": "VGGDiscriminator", "size": 32, "channels": 4}, "steps": 2},
        "log_every": 4,
    },
    # WGAN-GP draws random numbers in each step; spectral norm changes D's buffers in each pass.
    "wgan": BASE
    | {
        "losses": [{"loss": "l1"}, {"loss": "adversarial", "weight": 0.1, "kind": "wasserstein"}],
        "discriminator": {"network": UNET, "gradient_penalty": 10.0},
    },
    "standard-gan": BASE
    | {
        "losses": [{"loss": "l1"}, {"loss": "adversarial", "weight": 0.1}],
        "discriminator": {"network": UNET},
    },
    "relativistic-gan": BASE
    | {
        "losses": [{"loss": "l1"}, {"loss": "adversarial", "weight": 0.1, "relativistic": True}],
        "discriminator": {"network": UNET},
    },
}


def read_log(folder, what="train"):
    """The lines of one kind, without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / run_folder.LOG).read_text().splitlines()]
    clock = ("steps_per_second", "data_share")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines if line["what"] == what]


def read_state(folder):
    return torch.load(folder / loop.STATE, weights_only=True)


def assert_same(a, b, where="state"):
    """Equal to the last bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for number, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_same(left, right, f"{where}.{number}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_run(a, b):
    """Weights, averages, optimisers, random states, log and exported weights."""
    assert_same(read_state(a), read_state(b))
    assert read_log(a) == read_log(b)
    assert (a / loop.LAST).read_bytes() == (b / loop.LAST).read_bytes()


def hidden(folder):
    """Files that are not complete."""
    return [path.name for path in folder.rglob("*.part*")]


def interrupt_in_step(monkeypatch, number):
    """This process gets SIGTERM while it computes step `number`, counted from 1."""
    real = loop.train_step

    def interrupted(model, batches, step):
        if step + 1 == number:
            signal.raise_signal(signal.SIGTERM)
        return real(model, batches, step)

    monkeypatch.setattr(loop, "train_step", interrupted)


def command(*words):
    """Start the real command in a process group of its own, with one thread per process."""
    script = str(Path(sys.executable).with_name("esrgan-train"))
    return popen(
        [script, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def forkserver():
    """Processes are forked from one that has torch loaded, which takes a tenth of the time of a start.

    Windows forks nothing: every process is started anew there.
    """
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    context.set_forkserver_preload(["esrgan_train.loop"])
    return context


def in_processes(function, *arguments, world=2):
    """Exit codes of `world` processes that call `function(*arguments)`, joined as `esrgan-train --devices` does it."""
    context = forkserver()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        context.Process(target=_join, args=(rank, world, port, function, arguments), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _join(rank, world, port, function, arguments):
    names = {"LOCAL_RANK": rank, "WORLD_SIZE": world, "NODE_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    torch.set_num_threads(1)
    function(*arguments)


def train_in_processes(path, folder, *settings, resume=False):
    """A run in two processes that must succeed."""
    assert in_processes(_train, path, folder, settings, resume) == [0, 0]


def _train(path, folder, settings, resume):
    loop.train(load_recipe(path, settings), folder, resume=resume, devices=2)


def train_until(monkeypatch, recipe, folder, step):
    """A run that is interrupted after `step` steps."""
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, step)
        with pytest.raises(KeyboardInterrupt):
            loop.train(recipe, folder)
