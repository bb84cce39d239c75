"""Saves, workers, failures and people in any order, against a model that is pure Python.

Each rule does one thing to the app and says what must have come of it; after each the rows must
be what the model says. No request is made: an outcome is what the rule decides. The invariants
are those of the design: I1 (nothing lost), I4 (rolled back is nothing), I6 (no
lease for ever), I7 (attempts within the schedule), I8 (what has ended stays so).
"""

import os
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from django_webhooks import claim, delivery
from django_webhooks.claim import Claimer
from django_webhooks.delivery import Outcome
from django_webhooks.fanout import fan_out
from django_webhooks.models import Delivery, Event, Subscription
from django_webhooks.outbox import redeliver
from django_webhooks.transport import Exchange
from tests.shop.models import Order

SCHEDULE = [3600]
"""Seconds: so long that no retry comes up by itself on a slow machine, only by `time_passes`."""
PLACE = st.integers(0, 100)
"""Which of a list is meant, counted round and round.

What is drawn must not hang on what a database answered: Hypothesis takes that for a fault of the
test ("inconsistent data generation"), and which of many due deliveries a claim takes is the
database's to choose. So a rule that finds nothing does nothing.
"""
ALWAYS, DEAR, ONCE = "always", "dear", "once"
NAMES = (ALWAYS, DEAR, ONCE)
ENDED = {"succeeded", "failed", "cancelled"}


@dataclass
class Expected:
    """What the model knows of one delivery."""

    status: str = "pending"
    attempts: int = 0
    first: int = 1
    holder: Any = None
    """The claim that holds the lease."""
    is_due: bool = True

    @property
    def round(self) -> int:
        return self.attempts - self.first + 1

    def claim(self, holder: Any) -> None:
        assert self.status == "pending"
        assert self.is_due, "taken before its time"
        self.attempts += 1
        self.holder, self.is_due = holder, False

    def give_up(self) -> None:
        self.status, self.holder, self.is_due = "failed", None, False

    def end(self, status: str) -> None:
        self.status, self.holder, self.is_due = status, None, False

    def retry(self) -> None:
        self.holder, self.is_due = None, False
        if self.round > len(SCHEDULE):
            self.end("failed")


@dataclass
class Model:
    """What must be true, without a database."""

    subscriptions: dict[str, str] = field(default_factory=lambda: dict.fromkeys(NAMES, "active"))
    waiting: list[tuple[str, int]] = field(default_factory=list)
    """Orders whose events are not fanned out: number and total."""
    deliveries: dict[tuple[str, str], Expected] = field(default_factory=dict)
    """By number of the order and name of the subscription."""
    has_fired: bool = False

    def save(self, number: str, total: int) -> None:
        if "active" in self.subscriptions.values():
            self.waiting.append((number, total))

    def fan_out(self) -> None:
        for number, total in self.waiting:
            for name in NAMES:
                if self.subscriptions[name] == "active" and (name != DEAR or total >= 100):
                    self.deliveries[number, name] = Expected()
                    if name == ONCE:
                        self.subscriptions[ONCE], self.has_fired = "completed", True
        self.waiting.clear()

    def resume(self, name: str) -> None:
        if self.subscriptions[name] in ("paused", "disabled"):
            fired = name == ONCE and self.has_fired
            self.subscriptions[name] = "completed" if fired else "active"

    def may_send(self, name: str) -> bool:
        return self.subscriptions[name] in ("active", "completed")


def outcome_of(claimed: Delivery, status_code: int) -> Outcome:
    error = "" if status_code < 300 else "status"
    exchange = Exchange(status_code, {}, "", error, "", 1, "")
    return Outcome(claimed, exchange, timezone.now(), {}, "https://example.com/")


class Outbox(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.claimed: list[Delivery] = []
        """What workers hold, or held and don't know that they lost."""
        self.numbers = 0

    @initialize()
    def subscribe(self) -> None:
        conditions = {DEAR: {"field": "total", "op": "gte", "value": 100}}
        for name in NAMES:
            mode = "one_time" if name == ONCE else "recurring"
            made = Subscription.objects.create(name=name, url="https://example.com/", mode=mode)
            made.rules.create(event_type="shop.order.created", conditions=conditions.get(name, {}))
        self.save(total=100)
        self.fan_out()

    def teardown(self) -> None:
        try:
            self.all_comes_to_an_end()
        finally:
            for model in (Delivery, Event, Subscription, Order):
                model.objects.all().delete()

    # What the site does

    @rule(total=st.sampled_from([1, 100]))
    def save(self, total: int) -> None:
        self.numbers += 1
        Order.objects.create(number=self.numbers, total=total)
        self.model.save(str(self.numbers), total)

    @rule(savepoint=st.booleans())
    def roll_back(self, savepoint: bool) -> None:
        with transaction.atomic():
            if savepoint:
                self.save(1)
            with transaction.atomic():
                Order.objects.create(number="never", total=100)
                transaction.set_rollback(True)

    # What workers do

    @rule()
    def fan_out(self) -> None:
        fan_out("default")
        self.model.fan_out()

    @rule(wanted=st.integers(2, 5), later=st.sampled_from(["soon", "late", "now"]))
    def claim(self, wanted: int, later: str) -> None:
        if later == "soon":
            self.time_passes()
        if later == "late":
            self.leases_run_out()
        claimed = Claimer("default", places=16).claim(wanted).deliveries
        for each in claimed:
            assert self.model.may_send(each.subscription.name)
            self.expected(each).claim(each.lease_token)
        self.note_what_was_given_up()
        self.claimed += claimed

    @rule(place=PLACE, status_code=st.sampled_from([500, 200]))
    def finish(self, place: int, status_code: int) -> None:
        """In time or late; late is whoever's lease another has taken over."""
        if not self.claimed:
            return
        claimed = self.one_claimed(place)
        expected = self.expected(claimed)
        is_late = expected.holder != claimed.lease_token
        settled = delivery.settle("default", [outcome_of(claimed, status_code)])
        assert settled.stale == is_late
        if not is_late:
            expected.end("succeeded") if status_code == 200 else expected.retry()

    @rule(place=PLACE)
    def give_back(self, place: int) -> None:
        """As a drain does with what it has not begun."""
        if not self.claimed:
            return
        claimed = self.one_claimed(place)
        expected = self.expected(claimed)
        Delivery.objects.filter(pk=claimed.pk).release([claimed.lease_token])
        if expected.holder == claimed.lease_token:
            expected.attempts -= 1
            expected.holder, expected.is_due = None, True

    @rule(place=PLACE)
    def kill(self, place: int) -> None:
        """Nobody will ever write the result of that one."""
        if self.claimed:
            self.one_claimed(place)

    # What time does

    @rule()
    def leases_run_out(self) -> None:
        Delivery.objects.in_flight().update(next_attempt_at=timezone.now())
        for expected in self.model.deliveries.values():
            expected.is_due |= expected.holder is not None

    @rule()
    def time_passes(self) -> None:
        """Retries are due, and endpoints that failed may be asked again."""
        retries = Delivery.objects.pending().filter(lease_token=None)
        retries.update(next_attempt_at=timezone.now())
        Subscription.objects.update(held_until=None)
        for expected in self.model.deliveries.values():
            expected.is_due |= expected.status == "pending" and expected.holder is None

    # What people do

    @rule(name=st.sampled_from(NAMES), verb=st.sampled_from(["pause", "disable"]))
    def stop(self, name: str, verb: str) -> None:
        subscription = Subscription.objects.get(name=name)
        if verb == "disable":
            subscription.disable("by hand")
            self.model.subscriptions[name] = "disabled"
        elif subscription.pause():
            assert self.model.subscriptions[name] == "active"
            self.model.subscriptions[name] = "paused"

    @rule(name=st.sampled_from(NAMES))
    def resume(self, name: str) -> None:
        Subscription.objects.get(name=name).resume()
        self.model.resume(name)

    @rule(place=PLACE)
    def redeliver(self, place: int) -> None:
        row, expected = self.any_delivery(place)
        is_free = expected.holder is None
        assert redeliver([row]) == is_free
        if is_free and expected.status in ENDED:
            expected.first = expected.attempts + 1
            expected.status = "pending"
        expected.is_due |= is_free

    @rule(place=PLACE)
    def cancel(self, place: int) -> None:
        row, expected = self.any_delivery(place)
        count = Delivery.objects.filter(pk=row.pk).cancel("by hand")
        assert count == (expected.status == "pending")
        if count:
            expected.end("cancelled")

    # What is true at any time

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        """I1 and I8: no delivery more, none less, and each where the model has it."""
        rows = self.rows()
        found = {self.key(row): (row.status, row.attempt_count, row.lease_token) for row in rows}
        assert found == {
            key: (expected.status, expected.attempts, expected.holder)
            for key, expected in self.model.deliveries.items()
        }
        for row in rows:
            self.check_time(row)
            assert row.round <= len(SCHEDULE) + 1, "I7"

    def check_time(self, row: Delivery) -> None:
        """I6: what has ended is free, and all else comes up again."""
        if row.status in ENDED:
            assert (row.lease_token, row.next_attempt_at) == (None, None)
            assert row.completed_at is not None
        else:
            longest = max(claim.LEASE, timedelta(seconds=SCHEDULE[0] * 2))
            assert row.next_attempt_at <= timezone.now() + longest

    @invariant()
    def events_and_subscriptions_are_what_the_model_says(self) -> None:
        """I4 among it: what was rolled back is not there."""
        numbers = [event.data["number"] for event in Event.objects.waiting().order_by("id")]
        assert numbers == [number for number, _ in self.model.waiting]
        statuses = dict(Subscription.objects.values_list("name", "status"))
        assert statuses == self.model.subscriptions

    def all_comes_to_an_end(self) -> None:
        """Whatever has happened: with workers that live and receivers that answer, all is sent."""
        for name in NAMES:
            self.resume(name)
        self.fan_out()
        for _ in range(100):
            self.leases_run_out()
            self.time_passes()
            claimed = Claimer("default", places=16).claim(16).deliveries
            delivery.settle("default", [outcome_of(each, 200) for each in claimed])
            if not Delivery.objects.pending().exists():
                break
        assert not Delivery.objects.pending().exists()

    # Helpers

    def rows(self) -> list[Delivery]:
        return list(Delivery.objects.select_related("event", "subscription").order_by("pk"))

    def key(self, row: Delivery) -> tuple[str, str]:
        return row.event.data["number"], row.subscription.name

    def expected(self, row: Delivery) -> Expected:
        return self.model.deliveries[self.key(row)]

    def one_claimed(self, place: int) -> Delivery:
        return self.claimed.pop(place % len(self.claimed))

    def any_delivery(self, place: int) -> tuple[Delivery, Expected]:
        rows = self.rows()
        row = rows[place % len(rows)]
        return row, self.expected(row)

    def note_what_was_given_up(self) -> None:
        """A claim ends what was abandoned in its last attempt, and only that."""
        for row in self.rows():
            expected = self.expected(row)
            if row.status == "failed" and expected.status == "pending":
                assert expected.is_due
                assert expected.holder is not None, "only what was abandoned"
                assert expected.round == len(SCHEDULE) + 1
                expected.give_up()


def explore(examples: int, steps: int, **options: Any) -> None:
    run_state_machine_as_test(
        Outbox,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **options,
        ),
    )


@pytest.fixture
def schedule(settings):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "RETRY_SCHEDULE": SCHEDULE}


@pytest.mark.django_db
def test_rows_are_what_the_model_says_whatever_comes_in_whatever_order(schedule):
    # Not shortened: that takes minutes. The slow test below looks for the shortest that fails.
    explore(examples=40, steps=60, phases=[Phase.generate])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.django_db
def test_rows_are_what_the_model_says_in_many_and_longer_orders(schedule):
    explore(examples=int(os.environ.get("CHAOS_EXAMPLES", "500")), steps=60)
