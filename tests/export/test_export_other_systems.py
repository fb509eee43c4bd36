"""Exports where Windows and macOS lack what Linux has."""

import json

from esrgan_export.checkpoint import save_checkpoint
from other_systems import run
from small_networks import small_network


def test_exports_are_the_same_files(tmp_path):
    network = small_network("srvgg")
    save_checkpoint(network, tmp_path / "psnr.safetensors")
    for parameter in network.parameters():
        parameter *= 1.01
    save_checkpoint(network, tmp_path / "gan.safetensors")
    both = ("--psnr", tmp_path / "psnr.safetensors", "--gan", tmp_path / "gan.safetensors", "--alpha", "0.5", "--refit")
    made = {}
    for system in ("linux", "macos", "windows"):
        folder = tmp_path / system
        run(system, "export", *both, "--fp16", "-o", folder)
        made[system] = {path.name: path.read_bytes() for path in folder.iterdir()}
    reports = {system: json.loads(files.pop("gan_x4_a0.50_fp16.report.json")) for system, files in made.items()}
    assert made["macos"] == made["windows"] == made["linux"]
    assert reports["macos"] == reports["windows"] == reports["linux"]
