"""How values are shown: as text, whatever a receiver or a project has put into them."""

import json
import re
from datetime import datetime, timedelta
from typing import Any

from django.apps import apps
from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince, timeuntil
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from django_webhooks import payloads
from django_webhooks.models import Delivery, Event
from django_webhooks.registry import CHALLENGE_EVENT, TEST_EVENT

OWN_TYPE_TEXTS = {TEST_EVENT: _("a test event"), CHALLENGE_EVENT: _("a challenge")}

MAX_LEVELS, MOST_TIMES = 32, 10
"""JSON that is nested deeper, or that indenting makes so many times as long, is shown as it is."""


def pretty(value: Any) -> SafeString:
    """A JSON value, indented; an empty one as a dash."""
    if value in ({}, [], None):
        return SafeString("-")
    return code(json.dumps(value, indent=2, ensure_ascii=False))


def pretty_text(text: str) -> SafeString:
    """JSON text, indented; any other text as it is, and what would become far longer by that."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return code(text) if text else SafeString("-")
    if payloads.is_deeper(value, MAX_LEVELS):
        return code(text)
    shown = json.dumps(value, indent=2, ensure_ascii=False)
    return code(shown if len(shown) <= MOST_TIMES * len(text) else text)


def headers(values: dict[str, Any]) -> SafeString:
    """One header to a line, as they were on the wire."""
    if not values:
        return SafeString("-")
    return code("\n".join(f"{name}: {value}" for name, value in values.items()))


def moment(value: datetime | None) -> SafeString | str:
    """A point in time, to the second, with the zone of the page; a dash for none."""
    if value is None:
        return "-"
    return format_html(
        '<time class="webhooks-moment" datetime="{}">{}</time>',
        value.isoformat(timespec="seconds"),
        plain_moment(value),
    )


def plain_moment(value: datetime) -> str:
    """The same as mere text."""
    try:
        local = timezone.localtime(value) if timezone.is_aware(value) else value
    except OverflowError:  # at the end of time another zone is beyond it
        local = value
    return date_format(local, "Y-m-d H:i:s T")


def moment_and_age(value: datetime | None) -> SafeString | str:
    """The same, and below it how long ago that was, or in how long it will be."""
    return "-" if value is None else two_lines(moment(value), age(value))


def age(value: datetime) -> str:
    """ "3 minutes ago", "in 2 hours", "now": the largest unit alone."""
    now = timezone.now()
    if abs(now - value) < timedelta(minutes=1):
        seconds = round((now - value).total_seconds())
        if seconds == 0:
            return gettext("now")
        if seconds > 0:
            return ngettext("%d second ago", "%d seconds ago", seconds) % seconds
        return ngettext("in %d second", "in %d seconds", -seconds) % -seconds
    text = timesince(value, depth=1) if value < now else timeuntil(value, depth=1)
    return (gettext("%s ago") if value < now else gettext("in %s")) % text


def duration(milliseconds: int | None) -> str:
    """ "31 ms", "2.5 s"; a dash for none."""
    if milliseconds is None:
        return "-"
    if milliseconds < 1000:
        return gettext("%d ms") % milliseconds
    return gettext("%s s") % number_format(milliseconds / 1000, 1)


def span(value: timedelta) -> str:
    """ "3 minutes", "2 hours": a length of time by its largest unit."""
    seconds = round(value.total_seconds())
    if seconds < 60:
        return ngettext("%d second", "%d seconds", seconds) % seconds
    now = timezone.now()
    return timesince(now - value, now, depth=1)


def decimal(number: float) -> str:
    """With as many places as tell something."""
    return number_format(number, 0 if number >= 100 else 1 if number >= 1 else 2)


def rate(share: float | None) -> str:
    """ "99.8 %": never rounded up to all, nor down to none; a dash for None."""
    if share is None:
        return "-"
    percent = round(share * 100, 1)
    if 0 < share < 1:
        percent = min(max(percent, 0.1), 99.9)
    return gettext("%s %%") % number_format(percent, 0 if percent in (0, 100) else 1)


def count(number: int, most: int) -> str:
    """A count that stops at `most`: "10,000+" is that many or more."""
    text = number_format(number, use_l10n=True, force_grouping=True)
    return f"{text}+" if number >= most else text


def code(text: str) -> SafeString:
    """Text as it is, every character of it to be seen."""
    # Half a surrogate pair is legal in JSON, but no page can hold it.
    printable = text.encode(errors="backslashreplace").decode()
    return format_html(
        '<pre class="webhooks-code" tabindex="0">{}</pre>', INVISIBLE.sub(_escaped, printable)
    )


def copy_button(element_id: str) -> SafeString:
    """Copies the text of another element; hidden until `copy.js` has found that it can."""
    return format_html(
        '<button type="button" class="button webhooks-copy" data-copy="{}" data-copied="{}" hidden>'
        "{}</button>",
        element_id,
        gettext("Copied"),
        gettext("Copy"),
    )


INVISIBLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
"""Control characters, and those that turn the direction in which text is read."""


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def two_lines(text: Any, quiet: Any) -> SafeString:
    """Two values in one cell of a list; the second only if there is one."""
    second = format_html('<span class="webhooks-quiet">{}</span>', quiet) if quiet else ""
    return format_html("{} {}", text, second)


def subject(event: Event) -> str:
    """The object that an event is about: "order 7", or "shop.order:7" of a model that is gone.

    Nothing is looked up: the object may be gone, too. The search takes both.
    """
    if not event.subject_id:
        return ""
    try:
        model = apps.get_model(event.subject_type)
    except (LookupError, ValueError):
        return f"{event.subject_type}:{event.subject_id}"
    return f"{model._meta.verbose_name} {event.subject_id}"


def matched(delivery: Delivery) -> str:
    """The rule that made it, as it read; of what the app sends itself, what that is."""
    own = OWN_TYPE_TEXTS.get(delivery.event.type)
    return gettext("none: it is %s, which goes past the rules") % own if own else delivery.matched


def badge(kind: str, label: Any) -> SafeString:
    """A status as a small label; `kind` decides its colour."""
    return format_html('<span class="webhooks-badge webhooks-{}">{}</span>', kind, label)
