"""What files may claim: only regular files, no more bytes than their kind has, no more memory than there is."""

import os
import subprocess
import sys

import pytest

from esrgan_deploy import MachineError, MediaError, budget
from esrgan_deploy.cli import upscale
from esrgan_deploy.system import memory


@pytest.fixture(autouse=True)
def no_limit_stays():
    yield
    budget.set_memory_limit(None)


@pytest.mark.unix("makes a pipe")
@pytest.mark.parametrize("call", ["read_bytes", "check_regular"])
def test_only_regular_files_are_read(tmp_path, call):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name, what in (("pipe", "a pipe"), ("link", "a device"), (".", "a folder")):
        with pytest.raises(MediaError, match=what):
            getattr(budget, call)(tmp_path / name, MediaError)
    with pytest.raises(MediaError, match="cannot be read"):
        getattr(budget, call)(tmp_path / "missing", MediaError)


def test_no_more_is_read_than_a_kind_of_file_may_have(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(bytes(100))
    assert budget.read_bytes(file, MediaError, 100) == budget.read_bytes(file, MediaError) == bytes(100)
    with pytest.raises(MediaError, match="more than"):
        budget.read_bytes(file, MediaError, 99)


def test_a_file_that_does_not_fit_into_memory_is_not_read(tmp_path):
    file = tmp_path / "a"
    with file.open("wb") as sparse:
        sparse.truncate(300 << 20)
    budget.set_memory_limit(200 << 20)
    with pytest.raises(MachineError, match=r"300 MiB of memory, and 200 MiB is allowed; raise --max-memory"):
        budget.read_bytes(file, MediaError)


def test_without_an_option_the_limit_is_what_is_free():
    budget.check_memory("a", "this", 1 << 20)
    with pytest.raises(MachineError, match="free"):
        budget.check_memory("a", "this", 1 << 60)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e3", "9" * 5000, ""])
def test_max_memory_is_a_number(value, capsys):
    with pytest.raises(SystemExit) as end:
        upscale.main(["a.png", "-o", "b.png", "--max-memory", value])
    assert end.value.code == 2
    assert "--max-memory" in capsys.readouterr().err


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]) << 20,) * 2)
from esrgan_deploy.cli.upscale import main
from esrgan_deploy.system import memory
assert memory.free_mib() < int(sys.argv[1]), memory.free_mib()
sys.exit(main(["nowhere.png", "-o", "b.png"]))
"""


@pytest.mark.linux("sets RLIMIT_AS, which macOS does not keep to")
@pytest.mark.parametrize(("mib", "code", "words"), [(700, 3, "ulimit -v"), (2000, 2, "does not exist")])
def test_a_limit_of_the_shell_counts(mib, code, words):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(mib)], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert words in done.stderr


def test_what_a_container_uses_is_not_free(monkeypatch):
    monkeypatch.setattr(memory, "cgroup_memory_mib", lambda: 512)
    monkeypatch.setattr(memory, "cgroup_used_mib", lambda: 500)
    assert memory.free_mib() == 12


@pytest.mark.parametrize(
    ("usage", "copies", "folder"),
    [("memory.current", "inactive_file", "."), ("memory.usage_in_bytes", "total_inactive_file", "memory")],
)
def test_copies_of_files_are_free(tmp_path, usage, copies, folder):
    assert memory.cgroup_used_mib(tmp_path) is None
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / usage).write_text(f"{300 << 20}\n")
    (tmp_path / folder / "memory.stat").write_text(f"anon 5\n{copies} {100 << 20}\nactive_file 7\n")
    assert memory.cgroup_used_mib(tmp_path) == 200
