"""Fixtures of the training tests: four small photographs, and recipes whose steps take milliseconds."""

import cv2
import pytest

pytest.importorskip("torch", reason="training needs the 'train' extra")
pytest.importorskip("lightning_fabric", reason="training needs the 'train' extra")

import torch
import yaml

from esrgan_export.photos import load_photos
from esrgan_train.recipe import load_recipe
from tiny import RECIPES


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Sums depend on the number of threads; processes that are compared have one each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder with PNGs of 96x64, 64x96, 80x72 and, one level below, 67x65 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    photos = load_photos()
    (folder / "below").mkdir()
    for name, (width, height) in {
        "brushes": (96, 64),
        "dogs": (64, 96),
        "below/mountain": (67, 65),
        "bottle": (80, 72),
    }.items():
        photo = photos[name.rpartition("/")[2]][:height, :width]
        cv2.imwrite(str(folder / f"{name}.png"), photo[:, :, ::-1])
    return folder


@pytest.fixture(scope="session")
def recipe_file(pictures, tmp_path_factory):
    """Kind of recipe, see `tiny.RECIPES` -> a file with it that trains on `pictures`."""
    folder = tmp_path_factory.mktemp("recipes")

    def write(kind):
        content = RECIPES[kind]
        data = {"train": [{"folder": str(pictures)}], "patch": 32, "cache": str(folder / "cache"), **content["data"]}
        path = folder / f"{kind}.yaml"
        path.write_text(yaml.safe_dump(content | {"data": data}))
        return str(path)

    return write


@pytest.fixture(scope="session")
def make_recipe(recipe_file):
    """Kind of recipe, and settings as for `--set` -> a checked recipe."""
    return lambda kind, *settings: load_recipe(recipe_file(kind), settings)
