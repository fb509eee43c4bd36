"""Every way in which a download can go wrong."""

import hashlib
import os

import pytest
from own_models import works, write_entry

from esrgan_deploy import fetch_model
from esrgan_deploy.errors import MachineError, ModelError, OutputError
from esrgan_deploy.zoo import download


def test_another_hash_is_kept_aside_and_named(server, own, blur_x2, cache):
    content = blur_x2.read_bytes()
    server.files["blur.onnx"] = content
    write_entry(own, server, 64 * "0")
    with pytest.raises(ModelError) as error:
        fetch_model("blur")
    aside = cache / "blur" / "blur.onnx.unexpected"
    assert str(error.value).startswith(f"{aside}: came from {server.address}/blur.onnx and has SHA-256")
    assert aside.read_bytes() == content
    assert [path.name for path in (cache / "blur").iterdir()] == [aside.name]


def test_a_server_that_stops_in_the_middle_is_asked_for_the_rest(server, large, cache):
    server.behaviour["blur.onnx"] = "stop"
    with pytest.raises(MachineError, match=r"stopped after .* MiB, which are kept"):
        fetch_model("blur")
    part = cache / "blur" / "blur.onnx.part"
    have = part.stat().st_size
    assert 0.8 * len(large) < have < len(large)
    assert large.startswith(part.read_bytes())
    assert 1 < len(server.requests) <= download.TRIES
    server.behaviour.clear()
    server.requests.clear()
    works(fetch_model("blur"))
    assert server.requests == [("blur.onnx", f"bytes={have}-")]
    assert not part.exists()


def test_a_server_without_ranges_is_taken_from_the_start(server, blur, cache):
    (cache / "blur").mkdir(parents=True)
    (cache / "blur" / "blur.onnx.part").write_bytes(blur[:100])
    server.behaviour["blur.onnx"] = "no ranges"
    works(fetch_model("blur"))
    assert server.requests == [("blur.onnx", "bytes=100-")]


@pytest.mark.parametrize("extra", [0, 10_000], ids=["shorter", "longer"])
def test_the_beginning_of_another_file_is_not_built_on(server, blur, cache, extra):
    (cache / "blur").mkdir(parents=True)
    (cache / "blur" / "blur.onnx.part").write_bytes(b"x" * (100 + extra))
    works(fetch_model("blur"))
    assert server.requests == [("blur.onnx", f"bytes={100 + extra}-"), ("blur.onnx", None)]


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("loop", "leads from one address to the next without an end"),
        ("page", "answers with a web page instead of the file"),
        (404, "404 Client Error"),
        (503, "503 Server Error"),
    ],
)
def test_answers_that_are_no_file(server, blur, cache, behaviour, said):
    server.behaviour["blur.onnx"] = behaviour
    with pytest.raises(MachineError, match=said):
        fetch_model("blur")
    assert not list((cache / "blur").iterdir())


def test_a_page_that_claims_to_be_a_file(server, own, cache):
    server.files["blur.onnx"] = b"\n<html><body>moved</body></html>"
    write_entry(own, server, 64 * "0")
    with pytest.raises(ModelError, match=r"blur.onnx.unexpected: came from .* and is a web page; it is not used"):
        fetch_model("blur")


def test_a_server_that_sends_without_end_is_cut_off(server, own, blur_x2, cache):
    content = blur_x2.read_bytes()
    server.files["blur.onnx"], server.behaviour["blur.onnx"] = content, "endless"
    (own / "models.toml").write_text(
        f'[blur]\nscale = 2\nlicence = "x"\n[[blur.from]]\nat = ["{server.address}/"]\npublished = "here"\n'
        f'files = [{{name = "blur.onnx", sha256 = "{64 * "0"}", bytes = {len(content)}}}]\n'
    )
    with pytest.raises(MachineError, match=f"sends more than the {len(content)} bytes"):
        fetch_model("blur")
    assert not list((cache / "blur").iterdir())


def test_a_disk_that_fills_up(server, own, tiny_disk, monkeypatch, rng):
    content = rng.bytes(200_000)
    server.files["blur.onnx"] = content
    write_entry(own, server, hashlib.sha256(content).hexdigest())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tiny_disk))
    with pytest.raises(OutputError, match=r"blur.onnx.part: cannot be written: No space left.*what came is kept"):
        fetch_model("blur")


def test_a_disk_that_is_too_small_from_the_start(server, own, tiny_disk, monkeypatch):
    (own / "models.toml").write_text(
        f'[blur]\nscale = 2\nlicence = "x"\n[[blur.from]]\nat = ["{server.address}/"]\npublished = "here"\n'
        f'files = [{{name = "blur.onnx", sha256 = "{64 * "0"}", bytes = 5000000}}]\n'
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tiny_disk))
    with pytest.raises(OutputError, match=r"4.8 MiB are to come, and its disk has room for 0.1"):
        fetch_model("blur")
    assert not server.requests


@pytest.mark.unix("closes a folder by its mode")
def test_a_cache_that_cannot_be_written(server, blur, cache, monkeypatch, caplog):
    """What is in it is used; what is not is kept for this process alone, with a warning."""
    path = fetch_model("blur")
    monkeypatch.setattr(os, "access", lambda where, mode: mode != os.W_OK)  # root may write everywhere
    assert fetch_model("blur") == path
    path.unlink()
    other = fetch_model("blur")
    works(other)
    assert cache not in other.parents
    assert "nothing is kept for the next run" in caplog.text


def test_a_home_that_is_no_folder(monkeypatch, tmp_path, server, blur, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    works(fetch_model("blur"))
    assert "nothing is kept for the next run" in caplog.text
