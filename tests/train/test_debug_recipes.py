"""The debug recipes, whole, against the curves that they had when they were written down.

Any change of samples, initial weights, losses, order of a step, schedule or average moves them by more than rounding:
another number of threads or memory layout changes the losses by less than one per cent.
"""

import json

import pytest

from esrgan_train.loop import train
from esrgan_train.recipe import load_recipe


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("debug")

    def run(name):
        train(load_recipe(name, [f"data.cache={folder / 'cache'}"]), folder / name)
        lines = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
        return lambda what, key: [line[key] for line in lines if line["what"] == what]

    return run


def test_psnr(curves):
    curve = curves("debug/psnr")
    expected = [0.09023, 0.06817, 0.05705, 0.05716, 0.05655, 0.05005, 0.04922, 0.05005, 0.05032, 0.04859]
    assert curve("train", "l1") == pytest.approx(expected, rel=0.02)
    assert curve("validation", "psnr") == pytest.approx([27.11, 27.37], abs=0.05)
    assert curve("validation", "ssim") == pytest.approx([0.7136, 0.7236], abs=0.002)
    assert curve("bicubic", "psnr") == pytest.approx([27.2253], abs=1e-3)


def test_gan(curves):
    curve = curves("debug/gan")
    assert curve("train", "l1") == pytest.approx([9.2e-4, 8.8e-4, 8.8e-4, 8.4e-4, 8.6e-4, 9.6e-4], rel=0.03)
    adversarial = [0.00701, 0.00819, 0.00891, 0.01000, 0.01060, 0.01126]
    assert curve("train", "adversarial") == pytest.approx(adversarial, rel=0.02)
    discriminator = [1.379, 1.181, 1.086, 0.942, 0.877, 0.806]
    assert curve("train", "discriminator") == pytest.approx(discriminator, rel=0.02)
    assert curve("validation", "psnr") == pytest.approx([25.1, 24.75], abs=0.25)
