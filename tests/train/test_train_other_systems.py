"""A training run where Windows and macOS lack what Linux has."""

import json

from other_systems import run


def test_the_first_steps_of_a_run_are_the_same(tmp_path):
    made = {}
    for system in ("linux", "macos", "windows"):
        folder = tmp_path / system
        words = ("debug/psnr", "-o", folder / "run", "--set", f"data.cache={folder / 'cache'}", "--set", "log_every=1")
        few = ("--set", "schedule={schedule: constant}", "--set", "save_every=2", "--set", "validation.every=4")
        run(system, "train", *words, *few, "--set", "steps=4")
        made[system] = (folder / "run" / "last.safetensors").read_bytes()
        log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_bytes().splitlines()]
        assert [line["step"] for line in log if line["what"] == "train"] == [1, 2, 3, 4]
    assert made["macos"] == made["windows"] == made["linux"]
