"""Pictures decoded once, crops by number, and batches: what a step is given."""

import hashlib
import itertools
import json
import mmap
import os
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from esrgan_deploy import MediaError, OptionError, OutputError
from esrgan_deploy.system.locks import locked
from esrgan_export.bicubic import downscale, mod_crop
from esrgan_train.data import degradation
from esrgan_train.data.cache import Pair, in_threads, open_pairs
from esrgan_train.data.crops import Crops, Source
from esrgan_train.data.degradation_options import DegradationOptions, StageOptions
from esrgan_train.data.loader import batches
from tiny import forkserver


def decoded(path):
    return np.array(Image.open(path).convert("RGB"))


@pytest.fixture
def copies(pictures, tmp_path):
    """The pictures, to be changed."""
    return Path(shutil.copytree(pictures, tmp_path / "copies"))


def test_the_cache_holds_the_decoded_pictures_and_matlabs_lr(pictures, tmp_path):
    pairs = open_pairs(pictures, 4, cache=tmp_path)
    assert [pair.name for pair in pairs] == ["below/mountain.png", "bottle.png", "brushes.png", "dogs.png"]
    assert pairs[0].hr.shape == (64, 64, 3), "67x65 is cut at the lower right"
    for pair in pairs:
        hr = mod_crop(decoded(pictures / pair.name), 4)
        assert np.array_equal(pair.hr, hr)
        assert np.array_equal(pair.lr, downscale(hr, 4))


def test_the_cache_is_mapped_and_read_only(pictures, tmp_path):
    for pair in open_pairs(pictures, 4, cache=tmp_path):
        for picture in (pair.hr, pair.lr):
            assert not picture.flags.writeable
            owner = picture
            while isinstance(owner, np.ndarray):
                owner = owner.base
            assert isinstance(owner, mmap.mmap)


def test_nothing_is_decoded_twice(copies, tmp_path):
    cache = tmp_path / "cache"
    open_pairs(copies, 4, cache=cache)
    (file,) = cache.iterdir()
    written = file.stat().st_mtime_ns
    (copies / "readme.txt").write_text("no picture")
    open_pairs(copies, 4, cache=cache)
    assert [path.name for path in cache.iterdir()] == [file.name]
    assert file.stat().st_mtime_ns == written


@pytest.mark.parametrize("change", ["content", "time", "new", "gone", "renamed"])
def test_changed_pictures_are_decoded_anew(copies, tmp_path, change):
    cache = tmp_path / "cache"
    before = open_pairs(copies, 4, cache=cache)
    dogs = copies / "dogs.png"
    if change == "content":
        Image.fromarray(255 - decoded(dogs)).save(dogs)
    elif change == "time":
        os.utime(dogs, ns=(0, dogs.stat().st_mtime_ns + 1))
    elif change == "new":
        shutil.copy(dogs, copies / "cats.png")
    elif change == "gone":
        dogs.unlink()
    else:
        dogs.rename(copies / "cats.png")
    after = open_pairs(copies, 4, cache=cache)
    assert len(list(cache.iterdir())) == 2
    expected = {"new": len(before) + 1, "gone": len(before) - 1}.get(change, len(before))
    assert len(after) == expected
    for pair in after:
        assert np.array_equal(pair.hr, mod_crop(decoded(copies / pair.name), 4))


def test_options_have_caches_of_their_own(pictures, tmp_path):
    plain, half, by_two = (
        open_pairs(pictures, 4, cache=tmp_path),
        open_pairs(pictures, 4, shrink=2, cache=tmp_path),
        open_pairs(pictures, 2, cache=tmp_path),
    )
    assert len(list(tmp_path.iterdir())) == 3
    for whole, pair in zip(plain, half, strict=True):
        hr = mod_crop(downscale(mod_crop(decoded(pictures / whole.name), 2), 2), 4)
        assert np.array_equal(pair.hr, hr)
        assert np.array_equal(pair.lr, downscale(hr, 4))
    assert by_two[1].lr.shape == (36, 40, 3)


def test_given_lr_pictures_are_taken(copies, tmp_path):
    lr_folder = tmp_path / "lr"
    (lr_folder / "below").mkdir(parents=True)
    for pair in open_pairs(copies, 4, cache=tmp_path / "cache"):
        Image.fromarray(255 - pair.lr).save(lr_folder / pair.name)
    for pair in open_pairs(copies, 4, lr_folder=lr_folder, cache=tmp_path / "cache"):
        assert np.array_equal(pair.lr, 255 - downscale(np.array(pair.hr), 4))
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(lr_folder / "dogs.png")
    with pytest.raises(MediaError, match=r"lr/dogs.png: is 9x9, but dogs.png is 64x96 and the scale is 4; make"):
        open_pairs(copies, 4, lr_folder=lr_folder, cache=tmp_path / "cache")


def test_a_picture_that_cannot_be_read_leaves_no_cache(copies, tmp_path):
    (copies / "broken.png").write_bytes((copies / "dogs.png").read_bytes()[:3000])
    with pytest.raises(MediaError, match=r"broken\.png: is damaged or truncated"):
        open_pairs(copies, 4, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_picture_of_nothing_is_named(copies, tmp_path):
    Image.fromarray(np.zeros((3, 50, 3), np.uint8)).save(copies / "strip.png")
    with pytest.raises(MediaError, match=r"strip.png: is smaller than 4 pixels; remove it"):
        open_pairs(copies, 4, cache=tmp_path / "cache")


def test_a_cache_that_cannot_be_written(pictures, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/cache: cannot be made: Not a directory; set data.cache"):
        open_pairs(pictures, 4, cache=tmp_path / "file" / "cache")


def test_a_full_disk_while_the_cache_is_built(pictures, tiny_disk):
    (tiny_disk / "filler").write_bytes(bytes(40_000))
    with pytest.raises(OutputError, match="No space left on device"):
        open_pairs(pictures, 4, cache=tiny_disk)
    assert [path.name for path in tiny_disk.iterdir()] == ["filler"]


def with_entries(change):
    """A damage that writes another header: `change(entries)`."""

    def damage(data):
        start = int.from_bytes(data[:8], "little")
        entries = json.loads(data[start:])
        return data[:start] + json.dumps(change(entries)).encode()

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda data: b"", lambda data: data[:1000], lambda data: data[:-40], lambda data: b"\xff" * 8 + data[8:]),
        with_entries(lambda entries: 3),
        with_entries(lambda entries: [3]),
        with_entries(lambda entries: [{"at": 8}]),
        with_entries(lambda entries: [entries[0] | {"at": -5}]),
        with_entries(lambda entries: [entries[0] | {"at": "8"}]),
        with_entries(lambda entries: [entries[0] | {"hr": [-1, -64, 3]}]),
        with_entries(lambda entries: [entries[0] | {"hr": [10**30, 64, 3]}]),
        with_entries(lambda entries: [entries[0] | {"hr": [64, 64]}]),
        lambda data: data[: int.from_bytes(data[:8], "little")] + b"[" * 100_000,
    ],
)
def test_a_damaged_cache_is_named(pictures, tmp_path, damage):
    open_pairs(pictures, 4, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(MediaError, match=rf"{file.name}: is damaged; remove it, and the pictures are decoded again"):
        open_pairs(pictures, 4, cache=tmp_path)


@pytest.mark.unix("makes a pipe")
def test_a_cache_that_is_a_pipe(pictures, tmp_path):
    open_pairs(pictures, 4, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(MediaError, match="is a pipe; remove it, and the pictures are decoded again"):
        open_pairs(pictures, 4, cache=tmp_path)


def test_only_a_few_pictures_are_in_memory_however_slow_the_disk_is(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    begun = itertools.count()
    pairs = in_threads(lambda hr, lr: hr, ((next(begun), None) for _ in range(100)))
    assert [next(pairs) for _ in range(10)] == list(range(10)), "in order"
    assert next(begun) <= 10 + 5
    assert list(pairs)[-1] > 90


# Crops


def source(*pictures, ratio=1.0, degradation=None, scale=4):
    pairs = [Pair(f"{i}.png", hr, downscale(hr, scale)) for i, hr in enumerate(pictures)]
    return Source(Path("set"), pairs, ratio, degradation)


def noise(height, width):
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)


def flat(size, value):
    return np.full((size, size, 3), value, np.uint8)


def pixels(tensor):
    return tensor.permute(1, 2, 0).numpy()


def test_lr_and_hr_show_the_same_place():
    """Away from its border, where the kernel of the whole picture reaches further than the crop."""
    crops = Crops([source(noise(80, 96), noise(64, 64))], 32, 4, seed=1)
    for number in range(40):
        lr, hr, _ = crops[number]
        assert (lr.shape, hr.shape, lr.dtype, hr.dtype) == ((3, 8, 8), (3, 32, 32), torch.uint8, torch.uint8)
        made = downscale(np.ascontiguousarray(pixels(hr)), 4).astype(int)
        assert np.abs(made - pixels(lr))[2:-2, 2:-2].max() <= 1, "a half may round either way when it is mirrored"


def orientations(picture):
    """All eight, by what was done."""
    return {
        (mirrored, turns): np.rot90(picture[:, ::-1] if mirrored else picture, turns)
        for mirrored in (False, True)
        for turns in range(4)
    }


@pytest.mark.parametrize(("flips", "rotations", "count"), [(True, True, 8), (True, False, 2), (False, False, 1)])
def test_orientations(flips, rotations, count):
    """Each as often as the others, and the same for LR and HR."""
    hr = noise(32, 32)
    crops = Crops([source(hr)], 32, 4, seed=0, flips=flips, rotations=rotations)
    known = list(zip(*(orientations(picture).values() for picture in (hr, downscale(hr, 4))), strict=True))
    seen = [0] * 8
    for number in range(320):
        lr_crop, hr_crop, _ = crops[number]
        (which,) = [
            i
            for i, (big, small) in enumerate(known)
            if np.array_equal(big, pixels(hr_crop)) and np.array_equal(small, pixels(lr_crop))
        ]
        seen[which] += 1
    assert sum(n > 0 for n in seen) == count
    assert all(abs(n - 320 / count) < 5 * (320 / count) ** 0.5 for n in seen if n)


def digest(crops, number):
    lr, hr, _ = crops[number]
    return hashlib.sha256(lr.numpy().tobytes() + hr.numpy().tobytes()).hexdigest()


def test_a_sample_is_the_same_whoever_asks_and_when():
    degraded = source(noise(64, 64), degradation=DegradationOptions())
    crops = Crops([source(noise(80, 96)), degraded], 32, 4, seed=7, textured_of=2)
    alone = [digest(crops, number) for number in range(24)]
    assert len(set(alone)) == 24
    backwards = [digest(crops, number) for number in reversed(range(24))][::-1]
    with ThreadPoolExecutor(4) as threads:
        threaded = list(threads.map(digest, itertools.repeat(crops), range(24)))
    with ProcessPoolExecutor(1, forkserver()) as processes:
        elsewhere = list(processes.map(digest, itertools.repeat(crops), range(24)))
    assert alone == backwards == threaded == elsewhere
    other = Crops(crops.sources, 32, 4, seed=8, textured_of=2)
    assert not set(alone) & {digest(other, number) for number in range(24)}


def test_data_sets_are_drawn_by_ratio_and_pictures_by_area():
    """9 : 3 : 4, of which the last data set is two pictures of 1024 and 3072 pixels."""
    tall = np.full((96, 32, 3), 40, np.uint8)
    sources = [source(flat(32, 10), ratio=9), source(flat(64, 20), ratio=3), source(flat(32, 30), tall, ratio=4)]
    crops = Crops(sources, 32, 4, seed=3)
    drawn = [int(crops[number][1][0, 0, 0]) for number in range(1600)]
    for value, share in ((10, 9 / 16), (20, 3 / 16), (30, 1 / 16), (40, 3 / 16)):
        deviation = (1600 * share * (1 - share)) ** 0.5
        assert abs(drawn.count(value) - 1600 * share) < 4 * deviation


def test_every_place_is_drawn():
    """A picture of 5x4 LR pixels has two places for crops of 4x4."""
    ramp = np.repeat(np.repeat(np.arange(5, dtype=np.uint8), 4)[:, None, None], 16, 1).repeat(3, 2) * 40
    crops = Crops([source(ramp)], 16, 4, seed=0, flips=False, rotations=False)
    tops = [int(crops[number][1][0, 0, 0]) for number in range(100)]
    assert set(tops) == {0, 40}
    assert 30 < tops.count(0) < 70


def test_the_most_textured_crop_is_kept():
    """A quarter of the picture is grass, the rest is sky."""
    picture = flat(128, 200)
    picture[:64, :64] = noise(64, 64)
    one, best = (Crops([source(picture)], 16, 4, seed=0, textured_of=n) for n in (1, 16))
    textured = [sum(float(crops[i][1].float().std()) > 20 for i in range(100)) for crops in (one, best)]
    assert textured[0] < 50
    assert textured[1] > 95


def test_a_patch_larger_than_a_picture():
    with pytest.raises(OptionError, match=r"set/1.png: is 32x64, smaller than data.patch 48; remove it or"):
        Crops([source(noise(64, 64), noise(64, 32))], 48, 4, seed=0)


def test_a_degradation_makes_lr_from_the_crop():
    crops = Crops([source(noise(64, 64), degradation=DegradationOptions())], 32, 4, seed=0)
    lr, hr, _ = crops[0]
    assert (lr.shape, hr.shape) == ((3, 8, 8), (3, 32, 32))
    assert np.abs(downscale(np.ascontiguousarray(pixels(hr)), 4).astype(int) - pixels(lr)).mean() > 4


BLUR = {
    "blur_probability": 1,
    "sinc_probability": 0,
    "kernels": dict.fromkeys(dict(StageOptions().kernels), 0) | {"isotropic": 1},
    "sigma": (2, 2),
    "resize": {"up": 0, "down": 0, "keep": 1},
    "gaussian_noise_probability": 1,
    "gaussian_noise_sigma": (0, 0),
    "jpeg_quality": (100, 100),
}
UPRIGHT = {"flips": False, "rotations": False}
ONLY_BLUR = {"first": BLUR, "second": BLUR | {"blur_probability": 0}, "final_sinc_probability": 0}


def test_a_degraded_crop_is_like_the_same_place_of_the_degraded_picture(monkeypatch):
    """What is outside of a crop shows inside. Without it the outer pixels are off by about 5 code values."""
    monkeypatch.setattr(degradation, "KERNEL_SIZES", [21])  # smaller ones cut off what is far away
    picture = cv2.resize(noise(40, 40)[..., :1].repeat(3, axis=2), (160, 160), interpolation=cv2.INTER_CUBIC)
    options = DegradationOptions.model_validate(ONLY_BLUR | {"sharpen_target": False})
    blurred = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 2)
    crops = Crops([source(picture, degradation=options, scale=1)], 32, 1, seed=0, **UPRIGHT)
    for number in range(20):
        lr, hr, target = crops[number]
        assert target is hr
        places = cv2.matchTemplate(picture, pixels(hr), cv2.TM_SQDIFF)
        top, left = np.unravel_index(places.argmin(), places.shape)
        error = np.abs(pixels(lr) - blurred[top : top + 32, left : left + 32])
        assert error.mean() < 2
        if min(top, left) >= 10 and max(top, left) <= 160 - 32 - 10:
            edge = np.concatenate([error[0], error[-1], error[:, 0], error[:, -1]])
            assert edge.mean() < 1.5 * error[8:-8, 8:-8].mean() + 0.5


def test_blocks_of_a_codec_begin_anywhere_in_a_crop(monkeypatch):
    """The place of the crop within what is degraded, by the remainder of 16."""
    starts = Counter()
    cut = Crops._cut

    def spy(self, picture, top, left, factor):
        if picture.shape[0] < 256:
            starts[top % 16] += 1
        return cut(self, picture, top, left, factor)

    monkeypatch.setattr(Crops, "_cut", spy)
    options = DegradationOptions.model_validate(ONLY_BLUR | {"sharpen_target": False})
    crops = Crops([source(noise(256, 256), degradation=options, scale=1)], 32, 1, seed=0)
    for number in range(150):
        crops[number]
    assert len(starts) == 16


def test_the_target_is_sharpened_and_hr_is_not():
    picture = cv2.resize(noise(40, 40), (160, 160), interpolation=cv2.INTER_CUBIC)
    plain, sharp = (
        Crops([source(picture, degradation=DegradationOptions(sharpen_target=on))], 64, 4, seed=0, **UPRIGHT)
        for on in (False, True)
    )
    for number in range(4):
        before, after = plain[number], sharp[number]
        assert torch.equal(before.hr, after.hr)
        assert before.target is before.hr
        assert after.target.float().std() > 1.05 * after.hr.float().std()
    batch = next(iter(batches(sharp, 0, 2)))
    assert torch.equal(batch.target, torch.stack([sharp[0].target, sharp[1].target]))
    assert not torch.equal(batch.target, batch.hr)
    batch = next(iter(batches(plain, 0, 2)))
    assert batch.target is batch.hr


# Batches


@pytest.fixture
def crops():
    return Crops([source(noise(64, 80))], 16, 4, seed=2)


def take(generator, count):
    with_close = list(itertools.islice(generator, count))
    generator.close()
    return with_close


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_hold_consecutive_samples(crops, workers):
    for number, (lr, hr, _) in enumerate(take(batches(crops, 0, 3, workers=workers), 5)):
        samples = [crops[3 * number + i] for i in range(3)]
        assert torch.equal(lr, torch.stack([sample[0] for sample in samples]))
        assert torch.equal(hr, torch.stack([sample[1] for sample in samples]))


def test_a_resumed_stream_goes_on(crops):
    whole = take(batches(crops, 0, 2, world=2, rank=1), 6)
    rest = take(batches(crops, 4, 2, world=2, rank=1), 2)
    for one, other in zip(whole[4:], rest, strict=True):
        assert all(map(torch.equal, one, other))


def test_two_processes_see_together_what_one_sees(crops):
    alone = take(batches(crops, 0, 4), 3)
    ranks = [take(batches(crops, 0, 2, world=2, rank=rank), 3) for rank in range(2)]
    for (lr, hr, _), first, second in zip(alone, *ranks, strict=True):
        assert torch.equal(lr, torch.cat([first[0], second[0]]))
        assert torch.equal(hr, torch.cat([first[1], second[1]]))


class Unreadable(list):
    """Pictures of which the fifth access fails."""

    def __getitem__(self, index):
        self.reads = getattr(self, "reads", 0) + 1
        if self.reads == 5:
            raise MediaError("dogs.png: is gone")
        return super().__getitem__(index)


def test_an_error_in_a_thread_reaches_the_caller():
    healthy = source(noise(64, 64))
    crops = Crops([Source(healthy.folder, Unreadable(healthy.pairs), 1.0)], 16, 4, seed=0)
    stream = batches(crops, 0, 2)
    received = []
    with pytest.raises(MediaError, match=r"dogs.png: is gone"):
        received.extend(stream)
    assert len(received) <= 2
    assert not crop_threads()


def crop_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("crops")]


def test_closing_ends_the_threads(crops):
    stream = batches(crops, 0, 2, workers=2)
    next(stream)
    assert crop_threads()
    stream.close()
    assert not crop_threads()


def test_two_processes_decode_once(pictures, tmp_path, caplog):
    """The second one waits for the first, says so, and maps what that has written."""
    open_pairs(pictures, 4, cache=tmp_path / "known")
    (known,) = (tmp_path / "known").iterdir()
    (cache := tmp_path / "shared").mkdir()
    with ThreadPoolExecutor(1) as pool:
        with locked(cache / f"{known.stem}.lock", lambda: None):
            second = pool.submit(open_pairs, pictures, 4, cache=cache)
            while not caplog.records:
                time.sleep(0.01)
            known.rename(cache / known.name)
            written = (cache / known.name).stat()
        assert second.result(timeout=20)
    assert (cache / known.name).stat().st_mtime_ns == written.st_mtime_ns, "not decoded again"
    assert "another process decodes it" in caplog.text


def test_folders_may_be_str(pictures, tmp_path):
    by_path = open_pairs(pictures, 4, cache=tmp_path / "cache")
    by_str = open_pairs(str(pictures), 4, cache=str(tmp_path / "cache"))
    assert [pair.name for pair in by_str] == [pair.name for pair in by_path]
    assert len(list((tmp_path / "cache").glob("*.pairs"))) == 1
