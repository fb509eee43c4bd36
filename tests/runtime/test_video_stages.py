"""Stages: order, bounds, and stopping together."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esrgan_deploy.video.run.stages import Stages


def produce(channel, items):
    for item in items:
        channel.put(item)
    channel.close()


def still_running(*names):
    return [thread for thread in threading.enumerate() if thread.name in [f"esrgan-{name}" for name in names]]


@given(st.lists(st.integers()), st.integers(1, 5), st.integers(1, 5))
def test_items_arrive_once_and_in_order(items, first, second):
    with Stages() as stages:
        numbers, doubled, got = stages.channel(first), stages.channel(second), []
        stages.start("produce", lambda: produce(numbers, items))
        stages.start("double", lambda: produce(doubled, (2 * number for number in numbers)))
        got.extend(doubled)
        stages.join()
    assert got == [2 * item for item in items]


def test_a_channel_holds_no_more_than_its_capacity():
    taken, most = 0, 0

    def count_ahead(items):
        nonlocal most
        for made, item in enumerate(items, 1):
            most = max(most, made - taken)
            yield item

    with Stages() as stages:
        channel = stages.channel(3)
        stages.start("produce", lambda: produce(channel, count_ahead(range(50))))
        for taken, _ in enumerate(channel, 1):  # noqa: B007  # read by the producer
            time.sleep(0.001)
    assert 3 <= most <= 3 + 2  # one in the hand of each side


def test_the_first_error_of_a_thread_stops_all_and_is_raised():
    ended = []

    def fail_after(channel, count):
        for item in channel:
            if item == count:
                raise ZeroDivisionError(f"at {item}")

    def endless(channel):
        try:
            produce(channel, iter(int, 1))
        finally:
            ended.append("endless")

    def run():
        with Stages() as stages:
            numbers, zeros = stages.channel(2), stages.channel(2)
            stages.start("fail", lambda: fail_after(numbers, 7))
            stages.start("endless", lambda: endless(zeros))
            produce(numbers, range(10**9))

    with pytest.raises(ZeroDivisionError, match="at 7") as caught:
        run()
    assert ended == ["endless"]
    assert caught.value.__suppress_context__, "the way how the others stopped is no news"
    assert not still_running("endless", "fail", "produce")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("mine")])
def test_an_error_of_the_body_stops_the_threads(error):
    def run():
        with Stages() as stages:
            channel = stages.channel(1)
            stages.start("produce", lambda: produce(channel, iter(int, 1)))
            raise error

    with pytest.raises(type(error)):
        run()
    assert not still_running("endless", "fail", "produce")


def test_join_notices_a_thread_that_failed():
    def fail():
        raise OSError("late")

    def run():
        with Stages() as stages:
            stages.start("fail", fail)
            stages.join()

    with pytest.raises(OSError, match="late"):
        run()


def test_busy_time_leaves_out_the_waits():
    def slow(channel):
        for _ in channel:
            time.sleep(0.02)

    with Stages() as stages:
        numbers, same = stages.channel(1), stages.channel(1)
        stages.start("slow", lambda: slow(same))
        stages.start("fast", lambda: produce(numbers, range(20)))
        produce(same, numbers)
        stages.join()
        waited = stages.waited_s()
    assert stages.busy_s["slow"] >= 0.4
    assert stages.busy_s["fast"] < 0.2, "it waited for nearly all of the time"
    assert waited > 0.2, "so did the body"
