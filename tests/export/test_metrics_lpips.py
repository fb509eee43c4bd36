"""LPIPS and ST-LPIPS against the code of their authors, on random weights that every run makes again.

The golden values come from lpips 0.1.4 and stlpips-pytorch 0.0.2, given the same weights. With the published weights of
ST-LPIPS, both gave 0.302333 for the bicubic picture that docs/evaluation.md names.
"""

import numpy as np
import pytest
import torch

from classifier_weights import write_classifiers
from esrgan_deploy import MediaError, ModelError
from esrgan_export.metrics.lpips import is_published_trunk, load_lpips
from esrgan_export.metrics.st_lpips import load_st_lpips

skimage_data = pytest.importorskip("skimage.data")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_classifiers(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def pair():
    """A crop of odd size, and the same after every second row and column was lost."""
    hr = skimage_data.astronaut()[10:111, 200:277]
    sr = hr[::2, ::2].repeat(2, 0).repeat(2, 1)[:101, :77]
    return np.ascontiguousarray(sr), np.ascontiguousarray(hr)


@pytest.mark.parametrize(("kind", "expected"), [("alex", 0.1121888980), ("vgg", 0.1427157074)])
def test_lpips_is_that_of_its_authors(files, pair, kind, expected):
    distance = load_lpips(files / f"{kind}.pth", files / f"{kind}_trunk.pth")
    assert distance(*pair) == pytest.approx(expected, rel=1e-5)


def test_st_lpips_is_that_of_its_authors(files, pair):
    assert load_st_lpips(files / "st.pth")(*pair) == pytest.approx(0.0300449617, rel=1e-5)


def test_equal_pictures_and_the_border(files, pair):
    sr, hr = pair
    distance = load_st_lpips(files / "st.pth")
    assert distance(hr, hr) == 0
    framed = hr.copy()
    framed[:4], framed[-4:], framed[:, :4], framed[:, -4:] = 0, 0, 0, 0
    assert distance(framed, hr, shave=4) == 0
    assert distance(framed, hr) > 0
    assert distance(sr, hr) == pytest.approx(distance(hr, sr))


def test_small_pictures_are_refused(files):
    distance = load_st_lpips(files / "st.pth")
    picture = np.zeros((40, 39, 3), np.uint8)
    assert distance(picture[:32, :32], picture[:32, :32]) == 0
    with pytest.raises(MediaError, match="31x32 are there"):
        distance(picture, picture, shave=4)
    with pytest.raises(ValueError, match="one size"):
        distance(picture, picture[1:])


BAD_FILES = {
    "absent": (None, "cannot be read"),
    "damaged": (b"PK\x03\x04", "altered, or no file of PyTorch"),
    "empty": (b"", "altered, or no file of PyTorch"),
    "no tensors": ({"epoch": 3}, "no named tensors"),
    "another network": ({"features.0.weight": torch.zeros(1)}, "another network|no LPIPS heads"),
}


@pytest.mark.parametrize("case", BAD_FILES)
@pytest.mark.parametrize("role", ["heads", "trunk", "st"])
def test_bad_weights_give_one_line(files, tmp_path, case, role):
    content, words = BAD_FILES[case]
    path = tmp_path / "bad.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    load = {
        "heads": lambda: load_lpips(path, files / "alex_trunk.pth"),
        "trunk": lambda: load_lpips(files / "alex.pth", path),
        "st": lambda: load_st_lpips(path),
    }[role]
    with pytest.raises(ModelError, match=words) as caught:
        load()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_heads_of_one_trunk_do_not_go_on_another(files):
    with pytest.raises(ModelError, match=r"features\.0\.weight.* is of shape \(64, 3, 3, 3\)"):
        load_lpips(files / "alex.pth", files / "vgg_trunk.pth")


def test_trunk_of_another_origin_is_recognised(files):
    assert not is_published_trunk(files / "alex_trunk.pth")
