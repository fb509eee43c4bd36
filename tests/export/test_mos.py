"""The blind test: what its page holds, that a browser fills it in, and the counting of answers."""

import base64
import json
import os
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from esrgan_deploy import MediaError, OptionError
from esrgan_export.evaluation.image_pairs import ImagePair
from esrgan_export.evaluation.mos import MosWriter, tally, tally_table


def picture(name, width=16):
    rng = np.random.default_rng(list(name.encode()))
    hr = rng.integers(0, 256, (8, width, 3)).astype(np.uint8)
    return ImagePair(name, hr, hr[::4, ::4], 4)


def write_page(path, names=("calibration", "fisherman", "köpek</script>"), seed=0, width=16):
    """A test of two methods; returns the data of the page."""
    writer = MosWriter(seed, len(names))
    for name in names:
        pair = picture(name, width)
        writer.add(pair, {"bicubic": pair.hr // 2, "secret net": pair.hr // 3}, {})
    writer.write(path)
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', path.read_text(), re.DOTALL)[1])


def revealed(versions):
    return [json.loads(base64.b64decode(version["key"])) for version in versions]


def png(uri):
    data = np.frombuffer(base64.b64decode(uri.removeprefix("data:image/png;base64,")), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


def test_page_is_blind_and_needs_nothing_else(tmp_path):
    write_page(tmp_path / "mos.html")
    assert not re.search(r"https?:|<link|@import|secret net|bicubic|fisherman", (tmp_path / "mos.html").read_text())


def test_first_picture_calibrates(tmp_path):
    data = write_page(tmp_path / "mos.html")
    pair = picture("calibration")
    np.testing.assert_array_equal(png(data["calibration"]["HR"]), pair.hr)
    np.testing.assert_array_equal(png(data["calibration"]["nearest"]), pair.lr.repeat(4, 0).repeat(4, 1))
    scored = {key["picture"] for versions in data["pictures"] for key in revealed(versions)}
    assert scored == {"fisherman", "köpek</script>"}


def test_every_version_is_what_its_key_says(tmp_path):
    for versions in write_page(tmp_path / "mos.html")["pictures"]:
        assert {key["method"] for key in revealed(versions)} == {"bicubic", "secret net", "nearest", "HR"}
        for version, key in zip(versions, revealed(versions), strict=True):
            pair = picture(key["picture"])
            expected = {
                "bicubic": pair.hr // 2,
                "secret net": pair.hr // 3,
                "nearest": pair.lr.repeat(4, 0).repeat(4, 1),
                "HR": pair.hr,
            }
            np.testing.assert_array_equal(png(version["image"]), expected[key["method"]])


def test_large_pictures_are_cut_to_their_middle(tmp_path):
    data = write_page(tmp_path / "mos.html", names=("a", "b"), width=600)
    original = next(v for v in data["pictures"][0] if revealed([v])[0]["method"] == "HR")
    np.testing.assert_array_equal(png(original["image"]), picture("b", 600).hr[:, 44:556])


def test_order_follows_the_seed_and_differs_between_pictures(tmp_path):
    names = ("calibration", *"abcdefgh")
    data = [write_page(tmp_path / "mos.html", names, seed)["pictures"] for seed in (0, 0, 1)]
    orders = [[[key["method"] for key in revealed(versions)] for versions in pictures] for pictures in data]
    assert orders[0] == orders[1] != orders[2]
    assert len({tuple(order) for order in orders[0]}) > 3
    pictures = [[revealed(versions)[0]["picture"] for versions in pictures] for pictures in data]
    assert pictures[0] == pictures[1] != pictures[2]
    assert pictures[0] != sorted(pictures[0])


def test_one_picture_is_too_few():
    with pytest.raises(OptionError, match="two pictures"):
        MosWriter(0, 1)


DRIVE = """<script>
URL.createObjectURL = (blob) => { blob.text().then((text) => { document.title = text; }); return "about:blank"; };
URL.revokeObjectURL = () => {};
HTMLAnchorElement.prototype.click = () => {};
element("start").click();
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key }));
data.pictures[0].forEach((_, index) => press(String(index + 1)));
element("next").click();
press("5");  // the second picture stays incomplete
element("save").click();
</script></html>"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium, in which the page is filled in")
def test_page_and_tally_fit_together(tmp_path):
    first, _ = write_page(tmp_path / "mos.html")["pictures"]
    page = tmp_path / "driven.html"
    page.write_text((tmp_path / "mos.html").read_text().replace("</html>", DRIVE))
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    command = ["chromium", *options, f"--user-data-dir={tmp_path}/user", "--virtual-time-budget=2000", "--dump-dom"]
    dom = subprocess.run([*command, str(page)], capture_output=True, text=True, check=True, timeout=300).stdout
    saved = tmp_path / "answers.json"
    saved.write_text(re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1])
    methods = [key["method"] for key in revealed(first)]
    assert [(o.method, o.mean) for o in tally([saved])] == [(m, s) for s, m in reversed(list(enumerate(methods, 1)))]


def answers(path, session, scores):
    content = [{"picture": "cat", "method": method, "score": score} for method, score in scores]
    path.write_text(json.dumps({"format": "esrgan-mos 1", "session": session, "answers": content}))
    return path


def test_mean_and_interval(tmp_path):
    one = answers(tmp_path / "1.json", "a", [("net", 1), ("net", 2), ("HR", 5)])
    two = answers(tmp_path / "2.json", "b", [("net", 3), ("net", 4), ("HR", 5), ("once", 3)])
    table = tally_table(tally([one, two]), raters=2).splitlines()
    # 1 2 3 4: mean 2.5, deviation 1.29099, 1.96 * 1.29099 / sqrt(4) = 1.265
    assert [line.split() for line in table[1:4]] == [
        ["HR", "5.00", "+-", "0.00", "2"],
        ["once", "3.00", "-", "1"],
        ["net", "2.50", "+-", "1.27", "4"],
    ]
    assert table[4].startswith("2 raters")


def test_answers_are_counted_once(tmp_path):
    one = answers(tmp_path / "1.json", "a", [("net", 1)])
    copy = answers(tmp_path / "2.json", "a", [("net", 1)])
    with pytest.raises(MediaError, match=r"2\.json: holds the same answers as .*1\.json"):
        tally([one, copy])


HEAD = '{"format": "esrgan-mos 1", "session": "a", "answers": '
BAD_ANSWERS = {
    "no JSON": ("{", "no JSON file"),
    "another file": ('{"format": 1}', "no answers of the format"),
    "a list": ("[]", "no answers of the format"),
    "incomplete": (HEAD + '[{"method": "x"}]}', "incomplete"),
    "of another kind": (HEAD + "3}", "incomplete"),
    "no answers": (HEAD + "[]}", "holds no answers"),
    "score 6": (HEAD + '[{"method": "x", "score": 6}]}', "score of 6"),
    "no score": (HEAD + '[{"method": "x", "score": null}]}', "score of None"),
    "a list as score": (HEAD + '[{"method": "x", "score": [1]}]}', "score of an object of type list"),
    "deep": ("[" * 100_000, "no JSON file"),
    "large": (" " * (17 << 20), "more than 16 MiB"),
    "true": (HEAD + '[{"method": "x", "score": true}]}', "score of True"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_bad_answers_give_one_line(tmp_path, case):
    content, words = BAD_ANSWERS[case]
    (tmp_path / "answers.json").write_text(content)
    with pytest.raises(MediaError, match=words) as caught:
        tally([tmp_path / "answers.json"])
    assert str(caught.value).startswith(f"{tmp_path}/answers.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.unix("makes a pipe")
def test_a_pipe_holds_no_answers(tmp_path):
    os.mkfifo(tmp_path / "answers.json")
    with pytest.raises(MediaError, match="a pipe"):
        tally([tmp_path / "answers.json"])
