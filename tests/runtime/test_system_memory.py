"""Memory of the machine, of a container and of this process."""

import subprocess
import sys

import psutil
import pytest

from esrgan_deploy.system import cpu, memory

MEMORY_PROGRAM = """
import mmap, resource
from esrgan_deploy.system import memory

before = memory.rss_mib()
with mmap.mmap(-1, 64 << 20) as block:  # given back at once, which malloc does not promise
    for page in range(0, len(block), mmap.PAGESIZE):
        block[page] = 1
    assert memory.rss_mib() - before > 60
assert memory.peak_rss_mib() - before > 60
assert memory.peak_rss_mib() <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 + 1
if memory.reset_peak_rss():
    assert memory.peak_rss_mib() - before < 30
"""


@pytest.mark.linux("compares with getrusage, in its units")
def test_memory_is_seen_to_come_and_go():
    """In a process of its own, where no other library changes when memory is given back."""
    done = subprocess.run([sys.executable, "-c", MEMORY_PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.linux("asks /proc")
def test_without_proc_the_system_is_asked_for_the_peak(monkeypatch, tmp_path):
    told = memory.peak_rss_mib()
    monkeypatch.setattr(memory, "_SELF", tmp_path / "none")
    assert memory.peak_rss_mib() >= memory.rss_mib() * 0.9
    assert memory.peak_rss_mib() >= told * 0.9
    assert not memory.reset_peak_rss()


def test_a_container_has_less_memory_than_its_machine(monkeypatch):
    total = psutil.virtual_memory().total >> 20
    assert 0 < memory.free_mib() <= memory.ram_mib() <= total
    monkeypatch.setattr(memory, "cgroup_used_mib", lambda: 0)
    monkeypatch.setattr(memory, "cgroup_memory_mib", lambda: 64)
    assert memory.ram_mib() == memory.free_mib() == 64
    monkeypatch.setattr(memory, "cgroup_memory_mib", lambda: total * 2)
    assert memory.ram_mib() == total


@pytest.mark.parametrize(
    ("files", "cores", "mib"),
    [
        ({"cpu.max": "150000 100000\n", "memory.max": "1073741824\n"}, 1.5, 1024),
        ({"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        (
            {
                "cpu/cpu.cfs_quota_us": "400000\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "memory/memory.limit_in_bytes": "536870912\n",
            },
            4.0,
            512,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"}, None, None),
        ({}, None, None),
    ],
)
def test_limits_of_a_container_are_read(tmp_path, files, cores, mib):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu.cgroup_cores(tmp_path) == cores
    assert memory.cgroup_memory_mib(tmp_path) == mib
