"""The cache of engines where Windows and macOS lack what Linux has; TensorRT-RTX builds the plans."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from pathlib import Path
from other_systems import become
become(sys.argv[1])
from esrgan_deploy.engine.adapter import load_tensorrt
from esrgan_deploy.engine.options import EngineOptions, Profile
from esrgan_deploy.engine.store.cache import EngineCache

told = []
cache, options = EngineCache(Path(sys.argv[2])), EngineOptions(Profile.fixed(1, 16, 24))
def get():
    return cache.get(load_tensorrt(), None, Path(sys.argv[3]), options, progress=lambda *step: told.append(step))
first = get()
assert any(total for _, _, total in told), "it was built"
told.clear()
assert get() == first
assert not told, "it was found again"
first.path.write_bytes(first.path.read_bytes()[:1000])
assert len(get().read()) > 1000, "a damaged one was built again"
assert {path.name for path in cache.folder.iterdir()} == {first.path.name, first.path.name + ".json"}
cache.prune(None, everything=True)
assert not list(cache.folder.iterdir())
"""


@pytest.mark.parametrize("system", ["macos", "windows"])
def test_engines_are_built_found_mended_and_removed(system, blur_x2, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="needs the wheels of TensorRT-RTX")
    command = [sys.executable, "-c", CODE, system, str(tmp_path / "engines"), str(blur_x2)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
