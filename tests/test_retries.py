"""When to try again, as tables."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_webhooks.retries import MAX_RETRY_AFTER, next_delay, parse_retry_after

NOW = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("attempt", "retry_after", "jitter", "delay"),
    [
        (1, None, 0, 5),
        (2, None, 0, 300),
        (3, None, 0, None),
        (1, None, 1, 6),
        (1, 3, 0, 5),
        (1, 60, 0, 60),
        (1, 10**12, 0, 86400),
        (3, 60, 0, None),
    ],
)
def test_delay_follows_the_schedule(attempt, retry_after, jitter, delay):
    assert next_delay(attempt, [5, 300], retry_after=retry_after, jitter=jitter) == delay


@given(
    attempt=st.integers(1, 9),
    schedule=st.lists(st.floats(0, 1e6), min_size=9, max_size=9),
    retry_after=st.none() | st.floats(0, 1e12),
    jitter=st.floats(0, 1),
)
def test_jitter_and_retry_after_only_ever_add(attempt, schedule, retry_after, jitter):
    delay = next_delay(attempt, schedule, retry_after=retry_after, jitter=jitter)
    scheduled = schedule[attempt - 1]
    assert scheduled <= delay <= max(scheduled * 1.2, MAX_RETRY_AFTER)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        (" 1.5 ", 1.5),
        ("Tue, 24 Nov 2026 10:02:00 GMT", 120),
        ("Tue, 24 Nov 2026 10:02:00 -0000", 120),
        ("Tue, 24 Nov 2026 09:00:00 GMT", None),
        ("-5", None),
        ("0", None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("Tue, 99 Nov 2026 10:02:00 GMT", None),
        ("1" * 5000, None),
    ],
)
def test_retry_after_is_read_in_both_forms(header, seconds):
    assert parse_retry_after(header, NOW) == seconds


@given(st.text())
def test_retry_after_never_raises(header):
    parse_retry_after(header, NOW)
