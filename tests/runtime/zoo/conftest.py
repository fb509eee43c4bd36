"""An entry of a user's own, whose file a real server has."""

import hashlib

import onnx
import pytest
from file_server import serving
from own_models import write_entry


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, no configuration of this user's, no folder of models, no mirror."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("ESRGAN_MODELS", "ESRGAN_MIRROR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "esrgan-deploy" / "models"


@pytest.fixture
def own(tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv("ESRGAN_MODELS", str(folder))
    return folder


@pytest.fixture
def blur(server, own, blur_x2):
    """The entry of a user's own, named `blur`, whose file the server has."""
    content = blur_x2.read_bytes()
    server.files["blur.onnx"] = content
    write_entry(own, server, hashlib.sha256(content).hexdigest())
    return content


@pytest.fixture
def large(server, own, blur_x2):
    """As `blur`, of several chunks, which are what a download loses at most when it stops."""
    model = onnx.load(blur_x2)
    model.doc_string = "long" * 100_000
    server.files["blur.onnx"] = content = model.SerializeToString()
    write_entry(own, server, hashlib.sha256(content).hexdigest())
    return content
