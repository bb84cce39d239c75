"""A bar chart of attempts as an inline SVG: where its bars go; a template draws them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils.translation import gettext

from django_webhooks.admin import display
from django_webhooks.figures import Bar, Sample

HEIGHT, STEP, GAP = 100, 12, 2
"""Units of the drawing, which is stretched to the width of the page."""

LEAST = 3
"""However few in comparison: a bar that can't be seen would tell that there was nothing."""


@dataclass(frozen=True)
class Column:
    """One bar: its failures at the bottom, its successes on top of them."""

    bar: Bar
    x: int
    failed_height: int
    succeeded_height: int

    @property
    def start(self) -> str:
        return display.plain_moment(self.bar.start)

    @property
    def failed_y(self) -> int:
        return HEIGHT - self.failed_height

    @property
    def succeeded_y(self) -> int:
        return self.failed_y - self.succeeded_height


@dataclass(frozen=True)
class Chart:
    """What the template `chart.html` needs."""

    title: str
    columns: Sequence[Column]
    end: datetime
    since_text: str
    """When the bars begin, if there were too many attempts before; else empty."""
    succeeded: int
    failed: int

    height, column_width = HEIGHT, STEP - GAP

    @property
    def width(self) -> int:
        return len(self.columns) * STEP - GAP

    @property
    def start(self) -> datetime:
        return self.columns[0].bar.start

    @property
    def peak(self) -> int:
        return max(each.bar.total for each in self.columns)

    @property
    def total(self) -> int:
        return self.succeeded + self.failed

    @property
    def text(self) -> str:
        """What the picture shows, for those who do not see it."""
        return gettext(
            "%(title)s: %(total)d attempts, %(failed)d of them failed; "
            "at most %(peak)d of them in one bar."
        ) % {"title": self.title, "total": self.total, "failed": self.failed, "peak": self.peak}


def draw(title: str, sample: Sample, end: datetime, width: timedelta, count: int) -> Chart:
    """`count` bars, each of so much time, the last one up to `end`."""
    bars = sample.bars(end, width, count)
    is_cut = sample.is_cut and sample.since > bars[0].start
    peak = max(max(bar.total for bar in bars), 1)
    columns = [
        Column(bar, place * STEP, _height(bar.failed, peak), _height(bar.succeeded, peak))
        for place, bar in enumerate(bars)
    ]
    return Chart(
        title=title,
        columns=columns,
        end=end,
        since_text=display.plain_moment(sample.since) if is_cut else "",
        succeeded=sum(bar.succeeded for bar in bars),
        failed=sum(bar.failed for bar in bars),
    )


def last_day(sample: Sample, end: datetime) -> Chart:
    """The last 24 hours, by the hour."""
    return draw(gettext("Last 24 hours"), sample, end, timedelta(hours=1), 24)


def last_week(sample: Sample, end: datetime) -> Chart:
    """The last 7 days, by the quarter of a day."""
    return draw(gettext("Last 7 days"), sample, end, timedelta(hours=6), 28)


STRETCHES: Any = (
    (timedelta(hours=1), 24, lambda: gettext("Last 24 hours")),
    (timedelta(minutes=10), 36, lambda: gettext("Last 6 hours")),
    (timedelta(minutes=2), 30, lambda: gettext("Last hour")),
    (timedelta(seconds=20), 30, lambda: gettext("Last 10 minutes")),
)


def longest(sample: Sample, end: datetime) -> Chart:
    """The longest stretch of time, up to 24 hours, of which the sample has all attempts."""
    whole = [
        (width, count, title)
        for width, count, title in STRETCHES
        if not sample.is_cut or sample.since <= end - width * count
    ]
    width, count, title = whole[0] if whole else STRETCHES[-1]
    return draw(title(), sample, end, width, count)


def _height(number: int, peak: int) -> int:
    return max(round(HEIGHT * number / peak * (1 - LEAST / HEIGHT)), LEAST) if number else 0
