"""What the processor and the container allow: instructions, and threads."""

import os

import pytest

from esrgan_deploy.system import cpu


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
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 5})
    monkeypatch.setattr(cpu, "usable_cores", lambda: 5)
    for number, siblings in ((0, "0,4"), (1, "1,5"), (2, "2,6"), (3, "3,7"), (5, "1,5")):
        (folder := tmp_path / f"cpu{number}/topology").mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    assert cpu.default_threads(tmp_path) == 4
    monkeypatch.setattr(cpu, "usable_cores", lambda: 2.5)
    assert cpu.default_threads(tmp_path) == 3
