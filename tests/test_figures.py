"""The figures of endpoints: the same on every database, and bounded however many attempts."""

from datetime import timedelta

import pytest
from django.utils import timezone

from django_webhooks import figures
from django_webhooks.figures import Sample, Tried, backlog_of, newest, newest_of, percentile
from django_webhooks.models import Attempt, Delivery, Event, Subscription

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


@pytest.fixture
def subscription() -> Subscription:
    return Subscription.objects.create(url="https://receiver.example.com/")


def deliver(subscription, *attempts, status="succeeded", ended=HOUR, **fields) -> Delivery:
    """A delivery with attempts of (how long ago, milliseconds, error)."""
    now = timezone.now()
    pending = status == "pending"
    made = Delivery.objects.create(
        event=Event.objects.create(type="shop.order.created"),
        subscription=subscription,
        status=status,
        attempt_count=len(attempts),
        completed_at=None if pending else now - ended,
        **fields,
    )
    for number, (ago, duration, error) in enumerate(attempts, 1):
        Attempt.objects.create(
            delivery=made,
            number=number,
            started_at=now - ago,
            duration_ms=duration,
            url=subscription.url,
            error=error,
        )
    return made


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, None),
        ([7], 50, 7),
        ([7], 95, 7),
        ([1, 2, 3, 4], 50, 2),
        (range(1, 101), 95, 95),
        (range(1, 101), 0, 1),
        ([3, 1, 2], 100, 3),
    ],
)
def test_a_percentile_is_one_of_the_values(values, percent, expected):
    assert percentile(values, percent) == expected


def test_rates_and_durations_come_from_all_attempts_of_the_week(subscription):
    deliver(subscription, (2 * HOUR, 900, "timeout"), (HOUR, 100, ""))
    deliver(subscription, (HOUR, 300, "status"), status="failed")
    deliver(subscription, (HOUR, 200, "status"), status="pending", next_attempt_at=timezone.now())
    deliver(subscription, (HOUR, 400, "status"), status="cancelled")
    sample = newest_of(subscription)
    assert len(sample) == 5
    assert sample.success_rate == pytest.approx(1 / 5)
    assert (sample.duration(50), sample.duration(95)) == (300, 900)
    assert [each.started_at for each in sample.attempts] == sorted(
        (each.started_at for each in sample.attempts), reverse=True
    )
    assert not sample.is_cut


def test_other_subscriptions_and_older_weeks_do_not_count(subscription):
    deliver(Subscription.objects.create(url="https://other.example.com/"), (HOUR, 1, ""))
    deliver(subscription, (8 * 24 * HOUR, 1, ""), ended=8 * 24 * HOUR)
    assert len(newest_of(subscription)) == 0
    assert newest_of(subscription).success_rate is None


def test_a_redelivery_of_something_old_counts_as_of_today(subscription):
    deliver(subscription, (30 * 24 * HOUR, 1, "status"), (HOUR, 5, ""))
    [attempt] = newest_of(subscription).attempts
    assert attempt.duration_ms == 5


def test_what_was_never_sent_tells_nothing_of_the_endpoint(subscription):
    deliver(subscription, (HOUR, 0, "blocked"), status="failed")
    sample = newest_of(subscription)
    assert sample.failed == 1
    assert sample.duration(50) is None


def test_too_many_attempts_are_cut_to_the_newest_of_all_outcomes(subscription, monkeypatch):
    monkeypatch.setattr(figures, "MOST_ATTEMPTS", 3)
    for hours in range(1, 6):
        deliver(subscription, (hours * HOUR, 10, ""), ended=hours * HOUR)
    deliver(subscription, (2 * HOUR, 20, "status"), status="failed", ended=2 * HOUR)
    deliver(subscription, (5 * HOUR, 20, "status"), status="failed", ended=5 * HOUR)
    sample = newest_of(subscription)
    assert sample.is_cut
    # Of the successes only three are known, so of the failures no older ones may count.
    assert [round((timezone.now() - each.started_at) / HOUR) for each in sample.attempts] == [
        1,
        2,
        2,
        3,
    ]
    assert sample.success_rate == pytest.approx(3 / 4)


def test_the_newest_of_all_end_at_the_bound(subscription, monkeypatch):
    monkeypatch.setattr(figures, "MOST_ATTEMPTS", 2)
    for hours in (3, 2, 1):
        deliver(subscription, (hours * HOUR, hours, ""))
    sample = newest("default")
    assert [each.duration_ms for each in sample.attempts] == [1, 2]
    assert sample.is_cut
    assert sample.by_subscription().keys() == {subscription.pk}


def test_a_stale_attempt_counts_nowhere(subscription):
    deliver(subscription, (HOUR, 1, ""))
    Attempt.objects.update(stale=True)
    assert len(newest_of(subscription)) == len(newest("default")) == 0


def test_bars_hold_each_attempt_once():
    now = timezone.now()
    tried = [Tried(now - timedelta(minutes=5 + 30 * n), 1, "x" * (n % 2), None) for n in range(10)]
    bars = Sample(tried, now - 24 * HOUR).bars(now, HOUR, 24)
    assert [each.total for each in bars[-5:]] == [2, 2, 2, 2, 2]
    assert sum(each.total for each in bars) == 10
    assert [(each.succeeded, each.failed) for each in bars[-1:]] == [(1, 1)]
    assert bars[-1].start == now - HOUR


def test_the_backlog_tells_what_waits_and_what_is_next(subscription):
    now = timezone.now()
    deliver(subscription, status="pending", next_attempt_at=now + HOUR, created_at=now - HOUR)
    deliver(subscription, status="pending", next_attempt_at=now + 2 * HOUR)
    in_flight = {"lease_token": "4f2c8a52-0000-4000-8000-000000000000"}
    deliver(subscription, status="pending", next_attempt_at=now, **in_flight)
    deliver(subscription, (HOUR, 1, ""))
    backlog = backlog_of(subscription)
    assert backlog.count == 3
    assert abs(backlog.next_attempt_at - (now + HOUR)) < timedelta(seconds=1)
    assert abs(backlog.oldest_at - (now - HOUR)) < timedelta(seconds=1)


def test_no_backlog_is_no_moment(subscription):
    backlog = backlog_of(subscription)
    assert (backlog.count, backlog.oldest_at, backlog.next_attempt_at) == (0, None, None)


def test_a_long_backlog_is_not_counted_to_its_end(subscription, monkeypatch):
    monkeypatch.setattr(figures, "MOST_WAITING", 2)
    for _ in range(3):
        deliver(subscription, status="pending", next_attempt_at=timezone.now())
    assert backlog_of(subscription).count == 2
