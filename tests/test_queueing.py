"""The model behind docs/explanation/scaling.md keeps to what is known of queues."""

import pytest

from django_webhooks.fanout import LOTS
from tests.queueing import Costs, Line, Receivers, Site, Step, contend, drain, serve

pytestmark = pytest.mark.once

FREE = Step(Line(0, 0), Line(0, 0), 0)
QUICK = Step(Line(0.001, 0.0001), Line(0.001, 0.0001), 4)


def costs(step: Step = QUICK, send: float = 0.0005) -> Costs:
    return Costs(fan_out=step, claim=step, settle=step, send=send)


def test_a_backlog_is_done_to_the_last_and_nothing_twice():
    run = drain(costs(), Site(3), Receivers(0.05, 1), 1000)
    assert run.left == 0
    assert run.done == sum(run.batches) == len(run.waits) == 1000


def test_the_same_seed_gives_the_same_run():
    first, second = (serve(costs(), Site(2), Receivers(0.1, 1, 0.01), 100, 5) for _ in range(2))
    assert first == second


def test_no_more_are_in_flight_than_there_are_places():
    run = drain(costs(FREE, send=0), Site(2, places=8), Receivers(0.1), 1600)
    assert run.rate == pytest.approx(2 * 8 / 0.1, rel=0.1)  # Little's law


def test_a_process_does_no_more_than_its_processor():
    run = drain(costs(FREE, send=0.002), Site(2), Receivers(0.0), 1000)
    assert run.rate == pytest.approx(2 / 0.002, rel=0.1)


def test_processes_on_one_core_are_no_faster_than_one():
    one, four = (
        drain(costs(), Site(count, cores=1, database_cores=0), Receivers(0.0), 1000).rate
        for count in (1, 4)
    )
    assert four < one * 1.1


def test_a_slow_database_is_the_limit_of_all():
    step = Step(Line(0, 0), Line(0, 0.01), 0)
    run = drain(costs(step), Site(1, database_cores=1), Receivers(0.0), 300)
    assert run.rate == pytest.approx(1 / 0.02, rel=0.1)  # a claim and a settle


def test_one_claimer_loses_nothing_and_many_the_more():
    lost = [contend(costs(), Site(count), 2000, 16).lost for count in (1, 2, 8)]
    assert lost[0] == 0
    assert 0 < lost[1] < lost[2] < 1


def test_what_comes_faster_than_it_can_be_sent_is_left():
    receivers = Receivers(0.1)
    slow = serve(costs(), Site(1, places=4), receivers, 20, 20)
    fast = serve(costs(), Site(1, places=4), receivers, 80, 20)
    assert slow.left < 5
    assert slow.wait(0.5) < 0.2
    assert fast.rate == pytest.approx(4 / 0.1, rel=0.2)
    assert fast.left > 20 * 20
    assert fast.wait(0.99) > fast.wait(0.5) > 1


def test_as_many_fan_out_at_a_time_as_there_are_lots_however_many_workers():
    fan_out = Step(Line(0.1, 0), Line(0, 0), 0)  # a hundred events in a tenth of a second
    dear = Costs(fan_out, FREE, FREE, send=0.0)
    run = serve(dear, Site(40, 64), Receivers(0.0), 2000 * LOTS, 2)
    assert run.rate == pytest.approx(1000 * LOTS, rel=0.1)


def test_dead_receivers_count_by_their_time_out():
    assert Receivers(0.1, dead=0.01, timeout=15).mean == pytest.approx(0.249)


def test_a_line_is_found_again():
    line = Line(0.003, 0.0002)
    found = Line.through({rows: line.of(rows) for rows in (1, 10, 100)})
    assert (found.fixed, found.each) == pytest.approx((0.003, 0.0002))
