"""The fake GPU goes wrong where a real one may: what depends on it would else prove nothing."""

import ctypes
import threading
from dataclasses import replace

import numpy as np
import pytest

from driver_checks import in_thread, pinned
from esrgan_deploy.errors import MachineError
from fake_cuda import FACTS, FakeDriver
from fake_cuda_memory import CudaBug

SEEDS = range(24)


@pytest.fixture
def driver():
    """A fake GPU with one kilobyte, its context current."""
    made = FakeDriver(replace(FACTS, total_memory=1024))
    with made.active():
        yield made


def through_two_streams(seed, *, ordered, detect_races=False):
    """Eight bytes through the device, in on one stream and out on another; whether they came out right."""
    driver = FakeDriver(seed=seed, detect_races=detect_races)
    with driver.active():
        into, out, event = driver.create_stream(), driver.create_stream(), driver.create_event()
        there, (source, sent), (target, received) = driver.allocate(8), pinned(driver, 8), pinned(driver, 8)
        sent[:] = 5
        driver.copy_in(there, source, 8, into)
        driver.record(event, into)
        if ordered:
            driver.wait(out, event)
        driver.copy_out(target, there, 8, out)
        driver.synchronize_stream(out)
        return bool((received == 5).all())


def test_a_missing_wait_gives_wrong_data_in_some_orders():
    assert all(through_two_streams(seed, ordered=True) for seed in SEEDS)
    assert {through_two_streams(seed, ordered=False) for seed in SEEDS} == {True, False}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_missing_wait_is_found_in_every_order(seed):
    assert through_two_streams(seed, ordered=True, detect_races=True)
    with pytest.raises(CudaBug, match="nothing orders 'copy out' after 'copy in'"):
        through_two_streams(seed, ordered=False, detect_races=True)


def staging_used_again(seed, *, waits):
    driver = FakeDriver(seed=seed)
    with driver.active():
        stream, event, (host, content) = driver.create_stream(), driver.create_event(), pinned(driver, 8)
        buffers = [driver.allocate(8), driver.allocate(8)]
        for value, buffer in enumerate(buffers, 1):
            content[:] = value
            driver.copy_in(buffer, host, 8, stream)
            driver.record(event, stream)
            if waits:
                driver.synchronize(event)
        driver.synchronize_stream(stream)
        return [int(driver.download(buffer, 8, np.uint8)[0]) for buffer in buffers]


def test_staging_that_is_filled_again_too_early_corrupts_what_was_sent():
    assert all(staging_used_again(seed, waits=True) == [1, 2] for seed in SEEDS)
    assert [2, 2] in [staging_used_again(seed, waits=False) for seed in SEEDS]


def test_nothing_runs_before_somebody_waits():
    driver = FakeDriver(eagerness=0)
    with driver.active():
        stream, event, later = driver.create_stream(), driver.create_event(), driver.create_stream()
        there, (source, sent) = driver.allocate(8), pinned(driver, 8)
        (first, one), (second, two) = pinned(driver, 8), pinned(driver, 8)
        sent[:], one[:], two[:] = 5, 0, 0
        driver.copy_in(there, source, 8, stream)
        driver.copy_out(first, there, 8, stream)
        driver.record(event, stream)
        driver.copy_out(second, there, 8, stream)
        driver.synchronize_stream(later)
        assert not one.any()
        driver.synchronize(event)
        assert (one == 5).all()
        assert not two.any(), "work after the event was done as well"
        driver.synchronize_stream(stream)
        assert (two == 5).all()
        assert (driver.counters.copies_in, driver.counters.bytes_in) == (1, 8)
        assert (driver.counters.copies_out, driver.counters.bytes_out) == (2, 16)


@pytest.mark.parametrize(
    ("misuse", "text"),
    [
        (lambda d, there, host: d.free(there + 8), "middle"),
        (lambda d, there, host: (d.free(there), d.free(there)), "given back"),
        (lambda d, there, host: d.free(host), "wrong way"),
        (lambda d, there, host: d.free_pinned(there), "wrong way"),
        (lambda d, there, host: d.free(there + 4096), "no allocation"),
        (lambda d, there, host: d.copy_in(there, host, 17, 1), "do not fit"),
        (lambda d, there, host: d.copy_in(there + 8, host, 9, 1), "do not fit"),
        (lambda d, there, host: d.copy_in(host, there, 8, 1), "not device memory"),
        (lambda d, there, host: d.copy_in(there, id(d), 8, 1), "no allocation|not pinned"),
        (lambda d, there, host: (d.free_pinned(host), d.copy_in(there, host, 8, 1)), "given back"),
        (lambda d, there, host: d.copy_in(np.int64(there), host, 8, 1), "an address is an int"),
        (lambda d, there, host: d.synchronize_stream(4711), "does not exist"),
        (lambda d, there, host: (d.copy_in(there, host, 8, 1), d.free(there)), "in flight"),
        (lambda d, there, host: (d.copy_in(there, host, 8, 1), d.free_pinned(host)), "in flight"),
        (lambda d, there, host: (d.copy_in(there, host, 8, 1), d.close()), "work in flight"),
        (lambda d, there, host: d.elapsed_ms(d.create_event(), d.create_event()), "without timing"),
        (lambda d, there, host: in_thread(d, d.memory, active=False), r"outside active\(\)"),
        (lambda d, there, host: (d.close(), d.memory()), r"after close\(\)"),
    ],
)
def test_misuse_is_a_bug_and_stays_one(misuse, text):
    driver = FakeDriver(eagerness=0)
    with driver.active():
        there, (host, _) = driver.allocate(16), pinned(driver, 16)
        with pytest.raises(CudaBug, match=text):
            misuse(driver, there, host)
        with pytest.raises(CudaBug):
            driver.memory()


def test_lack_of_memory_is_no_bug(driver):
    first = driver.allocate(1000)
    with pytest.raises(MachineError, match="OUT_OF_MEMORY: 25 bytes wanted, 24 are free"):
        driver.allocate(25)
    driver.free(first)
    assert driver.memory() == (1024, 1024)


def test_memory_is_born_dirty_and_pinned_memory_is_the_hosts(driver):
    assert driver.download(driver.allocate(64), 64, np.uint8).all()
    address, view = pinned(driver, 4)
    ctypes.memmove(address, b"abcd", 4)
    assert bytes(view) == b"abcd"


def test_what_was_not_given_back_is_counted(driver):
    driver.allocate(8)
    driver.allocate_pinned(8)
    driver.create_stream()
    driver.create_event()
    driver.close()
    assert driver.leaked == {"device memory": 1, "pinned memory": 1, "streams": 1, "events": 1}


def captured_fork(driver, *, joined, forked=True):
    """A copy in on one stream and a copy out on another, recorded from the first; (graph, source, result, stream)."""
    main, side = driver.create_stream(), driver.create_stream()
    there, (source, sent), (target, received) = driver.allocate(8), pinned(driver, 8), pinned(driver, 8)
    before, after = driver.create_event(), driver.create_event()
    driver.begin_capture(main)
    if forked:
        driver.copy_in(there, source, 8, main)
    driver.record(before, main)
    driver.wait(side, before)
    if not forked:
        driver.copy_in(there, source, 8, main)
    driver.copy_out(target, there, 8, side)
    driver.record(after, side)
    if joined:
        driver.wait(main, after)
    return driver.end_capture(main), sent, received, main


@pytest.mark.parametrize("forked_late", [False, True])
def test_graphs_of_two_streams_keep_their_order_and_no_other(forked_late):
    right = []
    for seed in SEEDS:
        driver = FakeDriver(seed=seed)
        with driver.active():
            graph, sent, received, stream = captured_fork(driver, joined=True, forked=not forked_late)
            sent[:], received[:] = 6, 0
            driver.launch(graph, stream)
            driver.synchronize_stream(stream)
            right.append(bool((received == 6).all()))
    assert set(right) == ({True, False} if forked_late else {True})


def test_a_capture_fails_when_a_stream_does_not_come_back(driver):
    with pytest.raises(MachineError, match="UNJOINED"):
        captured_fork(driver, joined=False)


def test_a_capture_cannot_wait_for_what_is_outside_of_it(driver):
    stream, other, event = driver.create_stream(), driver.create_stream(), driver.create_event()
    driver.record(event, other)
    driver.begin_capture(stream)
    with pytest.raises(CudaBug, match="from outside the capture"):
        driver.wait(stream, event)


def test_other_threads_allocate_while_one_captures(driver):
    stream = driver.create_stream()
    driver.begin_capture(stream)
    in_thread(driver, lambda: driver.free(driver.allocate(8)))
    graph = driver.end_capture(stream)
    assert graph is not None, "the capture was invalidated"
    driver.destroy_graph(graph)


def test_graphs_keep_addresses_and_see_memory_that_is_gone(driver):
    stream, there, (host, _) = driver.create_stream(), driver.allocate(8), pinned(driver, 8)
    driver.begin_capture(stream)
    driver.copy_in(there, host, 8, stream)
    graph = driver.end_capture(stream)
    driver.free(there)
    driver.launch(graph, stream)
    with pytest.raises(CudaBug, match="given back"):
        driver.synchronize_stream(stream)


def test_threads_at_once():
    driver, results = FakeDriver(), {}

    def work(number):
        with driver.active():
            stream, event = driver.create_stream(), driver.create_event()
            there, (host, content) = driver.allocate(64), pinned(driver, 128)
            for turn in range(20):
                content[:64], content[64:] = number * 20 + turn, 0
                driver.copy_in(there, host, 64, stream)
                driver.copy_out(host + 64, there, 64, stream)
                driver.record(event, stream)
                driver.synchronize(event)
                results[number, turn] = set(content[64:].tolist())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {(number, turn): {number * 20 + turn} for number in range(4) for turn in range(20)}
