"""What the processor and the container allow: instructions, threads, clocks, caches; and how busy the machine is."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from esrgan_deploy.system import cpu, machine


@pytest.mark.parametrize(
    ("limit", "gone", "words"),
    [
        ("SSE41", {"avx2", "fma", "avx512f", "avx512_vnni"}, ["no AVX2", "no int8 dot products (VNNI)", "no bf16"]),
        ("avx2", {"avx512f", "avx512_vnni", "avx_vnni"}, ["no AVX-512", "no int8 dot products (VNNI)", "no bf16"]),
        ("AVX512_CORE", {"avx512_vnni", "avx_vnni", "amx_int8"}, ["no int8 dot products (VNNI)", "no bf16"]),
        ("AVX512_CORE_VNNI", {"avx512_bf16", "amx_bf16"}, ["no bf16"]),
        ("NONSENSE", set(), []),
    ],
)
def test_what_onednn_must_not_use_counts_as_missing(tmp_path, monkeypatch, limit, gone, words):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name : Test\nflags : fpu sse4_1 {' '.join(cpu.CPU_FEATURES)}\n\nprocessor : 1\n")
    monkeypatch.setattr(cpu, "_CPUINFO", cpuinfo)
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "_INT8_PRODUCTS", cpu._INT8_PRODUCTS - {"asimddp", "i8mm"})
    monkeypatch.setattr(cpu, "_BF16_PRODUCTS", cpu._BF16_PRODUCTS - {"bf16"})
    monkeypatch.setattr(cpu, "usable_cores", lambda: float(os.cpu_count()))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert not gone & cpu.features()
    assert cpu.shortcomings() == words
    assert cpu.openvino_runs_here() is (limit != "SSE41")


@pytest.mark.parametrize(("quota", "threads"), [(0.5, 1), (1, 1), (1.5, 2), (8, 8)])
def test_threads_follow_the_quota_of_the_container(monkeypatch, quota, threads):
    monkeypatch.setattr(cpu, "usable_cores", lambda: quota)
    assert cpu.usable_threads() == threads


def test_two_threads_of_one_core_count_once_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "_allowed_cpus", lambda: [0, 1, 2, 3, 5])
    monkeypatch.setattr(cpu, "usable_cores", lambda: 5)
    for number, siblings in ((0, "0,4"), (1, "1,5"), (2, "2,6"), (3, "3,7"), (5, "1,5")):
        (folder := tmp_path / f"cpu{number}/topology").mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    assert cpu.default_threads(tmp_path) == 4
    monkeypatch.setattr(cpu, "usable_cores", lambda: 2.5)
    assert cpu.default_threads(tmp_path) == 3


@pytest.mark.parametrize(("cores", "allowed", "threads"), [(4, 8, 4), (4, 2, 2), (None, 3, 3)])
def test_where_the_kernel_tells_no_siblings_psutil_counts_cores(tmp_path, monkeypatch, cores, allowed, threads):
    import psutil

    monkeypatch.setattr(cpu, "_allowed_cpus", lambda: range(allowed))
    monkeypatch.setattr(cpu, "usable_cores", lambda: allowed)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None if logical else cores)
    assert cpu.default_threads(tmp_path / "none") == threads


@pytest.mark.linux("sets affinity")
def test_affinity_is_respected():
    code = (
        "import os; from esrgan_deploy.system import cpu; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        "print(cpu.usable_cores() <= 1, cpu.usable_threads(), cpu.default_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True 1 1\n"


def test_without_affinity_all_cores_count(monkeypatch):
    import psutil

    monkeypatch.delattr(psutil.Process, "cpu_affinity", raising=False)
    monkeypatch.setattr(cpu, "cgroup_cores", lambda: None)
    assert cpu.usable_cores() == os.cpu_count()


@pytest.mark.linux("compares with /proc/cpuinfo")
def test_numpy_and_the_kernel_agree_on_instructions(monkeypatch, tmp_path):
    told = cpu.instructions()
    assert told
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "none")
    unknown = {"avx_vnni", "bf16", "i8mm"} | {name for name in cpu.CPU_FEATURES if name.startswith("amx")}
    newer = {"avx512_bf16", "avx512_fp16"}  # which older NumPy does not look for
    assert cpu.instructions() - newer == told - unknown - newer
    assert cpu.openvino_runs_here() is ("avx2" in told or cpu.platform.machine() != "x86_64")


def test_without_proc_the_processor_still_has_a_name(monkeypatch, tmp_path):
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "none")
    assert cpu.cpu_name()


def test_caches_are_read(tmp_path):
    files = {
        **{"cpu0/cache/index0/type": "Data\n", "cpu0/cache/index0/level": "1\n", "cpu0/cache/index0/size": "32K\n"},
        **{"cpu0/cache/index1/type": "Instruction\n", "cpu0/cache/index1/level": "1\n"},
        "cpu0/cache/index1/size": "64K\n",
        "cpu0/cache/index2/type": "Unified\n",
        **{"cpu0/cache/index2/level": "3\n", "cpu0/cache/index2/size": "8192K\n"},
    }
    assert cpu.caches(tmp_path) == {}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    assert cpu.caches(tmp_path) == {1: 32 << 10, 3: 8 << 20}


@pytest.mark.parametrize("told", [[], None, [(0.0, 0.0, 0.0)], [(1200.0, 800.0, 3400.0)]])
def test_clocks_that_the_system_does_not_tell_are_none(monkeypatch, tmp_path, told):
    import psutil
    from psutil._ntuples import scpufreq

    def cpu_freq(percpu):
        if told is None:
            raise RuntimeError("no clock")
        return [scpufreq(*clock) for clock in told]

    monkeypatch.setattr(psutil, "cpu_freq", cpu_freq)
    monkeypatch.setattr(cpu, "_CPUS", tmp_path)
    now, most = (1200, 3400) if told and told[0][0] else (None, None)
    assert cpu.clocks() == {"now": now, "max": most, "governor": None}
    (tmp_path / "cpu0/cpufreq").mkdir(parents=True)
    (tmp_path / "cpu0/cpufreq/scaling_governor").write_text("powersave\n")
    assert cpu.clocks()["governor"] == "powersave"


def test_a_machine_at_work_is_seen():
    """While one process computes and this one waits, at least half a core is busy, even if others want them too."""
    endless = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert 0.5 < cpu.busy_cores(0.5) <= os.cpu_count()
    finally:
        endless.kill()
        endless.wait()


def test_a_busy_machine_is_remarked_on(monkeypatch):
    monkeypatch.setattr(cpu, "usable_cores", lambda: 8)
    monkeypatch.setattr(cpu, "busy_cores", lambda _: 0.7)
    assert cpu.disturbance() is None
    monkeypatch.setattr(cpu, "busy_cores", lambda _: 1.5)
    assert "1.5 cores busy" in cpu.disturbance()


@pytest.mark.linux("compares with sched_getaffinity and sysconf")
def test_machine_facts_agree_with_the_system():
    facts = json.loads(json.dumps(machine.machine_facts()))
    assert facts["cores"] == os.cpu_count()
    assert 0 < facts["cores_usable"] <= len(os.sched_getaffinity(0))
    assert 0 < facts["ram_mib"] <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    assert facts["packages"]["numpy"] == np.__version__
