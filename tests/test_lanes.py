"""Threads that many share: nobody has more than their share, and nobody waits behind another."""

import threading
import time

import pytest

from django_webhooks.lanes import Lanes
from tests.processes import wait_until


@pytest.fixture
def lanes():
    made = Lanes(4, lambda key: 3)
    yield made
    made.close()


class Held:
    """What runs until it is let go; how many run at once is counted."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.lock = threading.Lock()
        self.running = self.most = 0

    def __call__(self, result=None):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.go.wait(10)
        with self.lock:
            self.running -= 1
        return result


def test_nobody_has_more_than_their_share_and_all_are_run_in_their_order(lanes):
    held = Held()
    futures = [lanes.submit("a", held, number) for number in range(20)]
    while held.running < 3:
        time.sleep(0.01)
    held.go.set()
    assert [each.result(timeout=10) for each in futures] == list(range(20))
    assert held.most == 3


def test_who_has_a_lane_full_holds_up_no_other(lanes):
    held = Held()
    for _ in range(20):
        lanes.submit("a", held)
    assert lanes.submit("b", lambda: "b").result(timeout=10) == "b"
    assert wait_until(lambda: held.running == 3, 10)
    held.go.set()


def test_what_waits_in_a_lane_can_be_cancelled_and_those_behind_it_are_run(lanes):
    held = Held()
    _, _, _, fourth, fifth = (lanes.submit("a", held, number) for number in range(5))
    assert fourth.cancel()
    held.go.set()
    assert fifth.result(timeout=10) == 4
    assert fourth.cancelled()


def test_what_fails_leaves_its_place(lanes):
    def fail():
        raise KeyError("x")

    futures = [lanes.submit("a", fail) for _ in range(10)]
    assert [type(each.exception(timeout=10)) for each in futures] == [KeyError] * 10


def test_a_share_that_grows_is_used(lanes):
    share = 1
    grown = Lanes(4, lambda key: share)
    held = Held()
    for _ in range(6):
        grown.submit("a", held)
    share = 3
    grown.submit("a", held)
    while held.running < 3:
        time.sleep(0.01)
    held.go.set()
    grown.close()


def test_closing_begins_nothing_more_and_waits_for_nobody(lanes):
    held = Held()
    waiting = [lanes.submit("a", held) for _ in range(5)][-1]
    lanes.close()
    held.go.set()
    time.sleep(0.1)
    assert not waiting.running()
    assert not waiting.done()
