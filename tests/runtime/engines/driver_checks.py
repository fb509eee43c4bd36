"""What `Driver` does, as functions of an open one; and a script that runs them on a stand-in for libcuda.

    LD_LIBRARY_PATH=folder-of-the-stub python driver_checks.py

prints {check: traceback, or nothing} as JSON. A process has one libcuda, hence a script.
"""

import ctypes
import json
import sys
import threading
import traceback

import numpy as np

from esrgan_deploy.errors import MachineError

LIVE = ("device memory", "pinned memory", "streams", "events", "graphs", "instantiated graphs")


def pinned(driver, nbytes):
    """Page-locked memory and numpy's view of it."""
    address = driver.allocate_pinned(nbytes)
    return address, np.frombuffer((ctypes.c_uint8 * nbytes).from_address(address), np.uint8)


def free(driver, *, device=(), host=(), streams=(), events=(), graphs=()):
    for give_back, things in (
        (driver.destroy_graph, graphs),
        (driver.destroy_event, events),
        (driver.destroy_stream, streams),
        (driver.free, device),
        (driver.free_pinned, host),
    ):
        for thing in things:
            give_back(thing)


def check_copies_are_done_when_waited_for(driver):
    stream, event = driver.create_stream(), driver.create_event()
    there, (source, sent), (target, received) = driver.allocate(1000), pinned(driver, 1000), pinned(driver, 1000)
    sent[:] = np.arange(1000) % 251
    driver.copy_in(there, source, 1000, stream)
    driver.copy_out(target, there, 1000, stream)
    driver.record(event, stream)
    driver.synchronize(event)
    np.testing.assert_array_equal(received, np.arange(1000) % 251)
    received[:] = 0
    driver.copy_out(target + 10, there + 500, 200, stream)
    driver.synchronize_stream(stream)
    np.testing.assert_array_equal(received[10:210], np.arange(500, 700) % 251)
    assert received.sum() == received[10:210].sum(), "it wrote outside the range"
    free(driver, device=[there], host=[source, target], streams=[stream], events=[event])


def check_events_order_streams(driver):
    """Six batches through two buffers and two streams, as a pipeline does it."""
    into, out = driver.create_stream(), driver.create_stream()
    buffers = [driver.allocate(64) for _ in range(2)]
    (source, sent), (target, received) = pinned(driver, 6 * 64), pinned(driver, 6 * 64)
    filled, read = ([driver.create_event() for _ in range(2)] for _ in range(2))
    sent[:] = np.arange(6 * 64) % 256
    for batch in range(6):
        slot = batch % 2
        driver.wait(into, read[slot])
        driver.copy_in(buffers[slot], source + 64 * batch, 64, into)
        driver.record(filled[slot], into)
        driver.wait(out, filled[slot])
        driver.copy_out(target + 64 * batch, buffers[slot], 64, out)
        driver.record(read[slot], out)
    driver.synchronize(read[1])
    np.testing.assert_array_equal(received, sent)
    free(driver, device=buffers, host=[source, target], streams=[into, out], events=[*filled, *read])


def check_memory_is_counted(driver):
    free_before, total = driver.memory()
    address = driver.allocate(5 << 20)
    assert driver.memory() == (free_before - (5 << 20), total)
    driver.free(address)
    assert driver.memory() == (free_before, total) == (total, driver.facts.total_memory)


def check_lack_of_memory_says_how_much_was_wanted(driver):
    first = driver.allocate(20 << 20)
    error = raised(driver.allocate, 3 << 30)
    assert isinstance(error, MachineError)
    assert "\n" not in str(error)
    assert "3072 MiB wanted" in str(error) or str(3 << 30) in str(error)
    driver.free(first)


def check_threads_share_the_context(driver):
    """What one thread made, another uses and a third gives back."""
    made = {}

    def make():
        made["stream"], made["memory"] = driver.create_stream(), driver.allocate(16)
        made["in"], made["sent"] = pinned(driver, 16)
        made["sent"][:] = 77

    def use():
        driver.copy_in(made["memory"], made["in"], 16, made["stream"])
        target, received = pinned(driver, 16)
        driver.copy_out(target, made["memory"], 16, made["stream"])
        driver.synchronize_stream(made["stream"])
        made["out"], made["result"] = target, received.copy()

    def give_back():
        free(driver, device=[made["memory"]], host=[made["in"], made["out"]], streams=[made["stream"]])

    for step in (make, use, give_back):
        in_thread(driver, step)
    assert (made["result"] == 77).all()


def stub_check_calls_outside_active_fail(driver):
    error = in_thread(driver, lambda: raised(driver.allocate, 16), active=False)
    assert isinstance(error, MachineError)


def check_active_nests(driver):
    with driver.active():
        address = driver.allocate(16)
    driver.free(address)


def check_the_default_stream_can_be_used(driver):
    there, (source, sent), (target, received) = driver.allocate(8), pinned(driver, 8), pinned(driver, 8)
    sent[:] = 5
    driver.copy_in(there, source, 8, 1)  # CU_STREAM_LEGACY
    driver.copy_out(target, there, 8, 1)
    driver.synchronize_stream(1)
    assert (received == 5).all()
    free(driver, device=[there], host=[source, target])


def check_timed_events_tell_the_time_between_them(driver):
    stream, start, end = driver.create_stream(), driver.create_event(timing=True), driver.create_event(timing=True)
    there, (source, _) = driver.allocate(8), pinned(driver, 8)
    driver.record(start, stream)
    driver.copy_in(there, source, 8, stream)
    driver.record(end, stream)
    driver.synchronize(end)
    assert driver.elapsed_ms(start, end) > 0
    assert driver.elapsed_ms(end, start) < 0
    free(driver, device=[there], host=[source], streams=[stream], events=[start, end])


def check_graphs_replay_what_was_captured(driver):
    stream, there, (host, content) = driver.create_stream(), driver.allocate(8), pinned(driver, 16)
    content[:] = 1
    driver.begin_capture(stream)
    driver.copy_in(there, host, 8, stream)
    driver.copy_out(host + 8, there, 8, stream)
    graph = driver.end_capture(stream)
    driver.synchronize_stream(stream)
    assert (content == 1).all(), "captured work was executed"
    for value in (7, 9):
        content[:8], content[8:] = value, 0
        driver.launch(graph, stream)
        driver.synchronize_stream(stream)
        assert (content[8:] == value).all()
    free(driver, device=[there], host=[host], streams=[stream], graphs=[graph])


def check_a_broken_capture_leaves_the_stream_usable(driver):
    stream, there, (host, content) = driver.create_stream(), driver.allocate(8), pinned(driver, 16)
    for breaking in (lambda: driver.allocate(8), lambda: driver.synchronize_stream(stream)):
        driver.begin_capture(stream)
        driver.copy_in(there, host, 8, stream)
        assert isinstance(raised(breaking), MachineError)
        assert "CAPTURE_INVALIDATED" in str(raised(driver.end_capture, stream))
    content[:8], content[8:] = 3, 0
    driver.copy_in(there, host, 8, stream)
    driver.copy_out(host + 8, there, 8, stream)
    driver.synchronize_stream(stream)
    assert (content == 3).all()
    free(driver, device=[there], host=[host], streams=[stream])


def stub_check_wrong_handles_are_named(driver):
    stream = driver.create_stream()
    memory, (host, _) = driver.allocate(8), pinned(driver, 8)
    for function, *arguments in (
        (driver.copy_in, memory, host, 9, stream),
        (driver.copy_out, host, memory + 1, 8, stream),
        (driver.synchronize_stream, 12345),
    ):
        text = str(raised(function, *arguments))
        assert "CUDA_ERROR_INVALID" in text or "invalid" in text, text
    free(driver, device=[memory], host=[host], streams=[stream])
    assert isinstance(raised(driver.free, memory), MachineError)
    assert isinstance(raised(driver.free_pinned, host), MachineError)


def stub_check_too_much_pinned_memory_is_said(driver):
    error = raised(driver.allocate_pinned, 3 << 30)
    assert isinstance(error, MachineError)
    assert "3072 MiB of host memory cannot be page-locked" in str(error)


def stub_check_streams_do_not_block_and_events_do_not_spin(driver):
    flags = libcuda().stub_flags
    stream, events = driver.create_stream(), [driver.create_event(), driver.create_event(timing=True)]
    handles = [event.value if isinstance(event, ctypes.c_void_p) else int(event) for event in events]
    assert flags(ctypes.c_void_p(stream)) == 1  # CU_STREAM_NON_BLOCKING
    assert [flags(ctypes.c_void_p(handle)) for handle in handles] == [1 | 2, 1]  # BLOCKING_SYNC, DISABLE_TIMING
    free(driver, streams=[stream], events=events)


def stub_check_a_callers_stream_takes_part(driver):
    """A stream that `Driver` did not make: only its number is known."""
    foreign = ctypes.c_void_p()
    assert libcuda().cuStreamCreate(ctypes.byref(foreign), 1) == 0
    own, event, done = driver.create_stream(), driver.create_event(), driver.create_event()
    there, (host, content) = driver.allocate(8), pinned(driver, 16)
    content[:8], content[8:] = 4, 0
    driver.copy_in(there, host, 8, own)
    driver.record(event, own)
    driver.wait(foreign.value, event)
    driver.record(done, foreign.value)
    driver.synchronize(done)  # the copy is before it, by way of two streams
    driver.synchronize_stream(foreign.value)
    driver.copy_out(host + 8, there, 8, own)
    driver.synchronize_stream(own)
    assert (content == 4).all()
    assert libcuda().cuStreamDestroy_v2(foreign) == 0
    free(driver, device=[there], host=[host], streams=[own], events=[event, done])


def stub_check_waiting_releases_the_gil(driver):
    """The stub waits until another Python thread lets go, and fails after five seconds."""
    stream, event = driver.create_stream(), driver.create_event()
    driver.record(event, stream)
    for wait in (lambda: driver.synchronize(event), lambda: driver.synchronize_stream(stream)):
        libcuda().stub_hold(1)
        threading.Timer(0.05, libcuda().stub_hold, [0]).start()
        wait()
    free(driver, streams=[stream], events=[event])


def context_check_a_context_that_the_program_made_is_used(open_driver):
    """As `pycuda.autoinit` makes one: the program's memory is ours, ours is the program's, in every thread."""
    context = create_context()
    driver = open_driver()
    assert libcuda().stub_primary() == 0, "a primary context was made that nobody needs"
    ours = in_thread(driver, lambda: driver.allocate(8))
    assert libcuda().cuMemFree_v2(ctypes.c_void_p(ours)) == 0
    theirs = ctypes.c_void_p()
    assert libcuda().cuMemAlloc_v2(ctypes.byref(theirs), ctypes.c_size_t(8)) == 0
    in_thread(driver, lambda: driver.free(theirs.value))
    in_thread(driver, driver.close, active=False)
    assert current_context() == context, "the program's context is no longer current"
    libcuda().cuCtxPopCurrent_v2(None)


def context_check_it_is_used_beside_an_active_primary_context(open_driver):
    """Where another library, torch for instance, works in the primary one."""
    retain_primary()
    context = create_context()
    driver = open_driver()
    assert in_thread(driver, current_context) == context
    driver.close()
    assert libcuda().stub_primary() == 1, "the other library's primary context was given back"
    libcuda().cuCtxPopCurrent_v2(None)
    libcuda().cuDevicePrimaryCtxRelease_v2(0)


def context_check_a_current_primary_context_is_kept_alive(open_driver):
    """As `pycuda.autoprimaryctx` makes it current: the driver still works when the program has let go of it."""
    primary = retain_primary()
    libcuda().cuCtxPushCurrent_v2(ctypes.c_void_p(primary))
    driver = open_driver()
    assert libcuda().stub_primary() == 2
    libcuda().cuCtxPopCurrent_v2(None)
    libcuda().cuDevicePrimaryCtxRelease_v2(0)
    assert in_thread(driver, current_context) == primary
    driver.close()


def context_check_a_context_on_another_gpu_is_left_alone(open_driver):
    context = create_context(device=1)
    driver = open_driver()
    assert libcuda().stub_primary() == 1
    assert in_thread(driver, current_context) not in (None, context)
    driver.close()
    libcuda().cuCtxPopCurrent_v2(None)


def create_context(device=0):
    """The address of a context that was made, and made current, without `Driver`."""
    context = ctypes.c_void_p()
    assert libcuda().cuCtxCreate_v2(ctypes.byref(context), 0, device) == 0
    return context.value


def retain_primary():
    context = ctypes.c_void_p()
    assert libcuda().cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    return context.value


def current_context():
    context = ctypes.c_void_p()
    assert libcuda().cuCtxGetCurrent(ctypes.byref(context)) == 0
    return context.value


CHECKS = {name: value for name, value in globals().items() if name.startswith("check_")}
STUB_CHECKS = {name: value for name, value in globals().items() if name.startswith("stub_check_")}
CONTEXT_CHECKS = {name: value for name, value in globals().items() if name.startswith("context_check_")}


def raised(function, *arguments):
    """The exception of a call, which must raise one."""
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError(f"{function} did not fail with {arguments}")


def in_thread(driver, function, *, active=True):
    """Run in a thread of its own, by default inside `active()`; its result, or its exception raised here."""
    outcome = []

    def run():
        try:
            if active:
                with driver.active():
                    outcome.append((function(), None))
            else:
                outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = outcome[0]
    if error:
        raise error
    return result


def libcuda():
    return ctypes.CDLL("libcuda.so.1")


def run_on_stub():
    """All checks, each with a driver of its own, after which nothing may be left; {check: traceback or nothing}."""
    from esrgan_deploy.cuda.driver import open_driver

    def with_driver(check, close_in_thread):
        driver = open_driver()
        assert libcuda().stub_primary() == 1, "the primary context is not retained once"
        with driver.active():
            check(driver)
        if close_in_thread:
            in_thread(driver, driver.close, active=False)
        else:
            driver.close()

    results = {}
    for number, (name, check) in enumerate({**CHECKS, **STUB_CHECKS, **CONTEXT_CHECKS}.items()):
        try:
            if name in CONTEXT_CHECKS:
                check(open_driver)
            else:
                with_driver(check, number % 2)
            left = [libcuda().stub_live(kind) for kind in range(len(LIVE))]
            assert not any(left), dict(zip(LIVE, left, strict=True))
            assert libcuda().stub_primary() == 0, "the primary context is kept"
            assert libcuda().stub_depth() == 0, "a context stays current"
            results[name] = ""
        except Exception:
            results[name] = traceback.format_exc()
    return results


if __name__ == "__main__":
    json.dump(run_on_stub(), sys.stdout)
