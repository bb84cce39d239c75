"""How values are shown: as text, whatever a receiver or a project has put into them."""

import json
from datetime import datetime
from typing import Any

from django.contrib.admin.utils import display_for_value
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString


def pretty(value: Any) -> SafeString:
    """A JSON value, indented; an empty one as a dash."""
    if value in ({}, [], None):
        return SafeString("-")
    return code(json.dumps(value, indent=2, ensure_ascii=False))


def pretty_text(text: str) -> SafeString:
    """JSON text, indented; any other text as it is."""
    try:
        return pretty(json.loads(text))
    except (ValueError, RecursionError):
        return code(text) if text else SafeString("-")


def headers(values: dict[str, Any]) -> SafeString:
    """One header to a line, as they were on the wire."""
    if not values:
        return SafeString("-")
    return code("\n".join(f"{name}: {value}" for name, value in values.items()))


def moment(value: Any) -> str:
    """A point in time, in the time zone of the page."""
    return str(display_for_value(value, "-"))


def short_moment(value: datetime | None) -> str:
    """The same for a narrow column."""
    if value is None:
        return "-"
    local = timezone.localtime(value) if timezone.is_aware(value) else value
    return date_format(local, "SHORT_DATETIME_FORMAT")


def code(text: str) -> SafeString:
    # Half a surrogate pair is legal in JSON, but no page can hold it.
    printable = text.encode(errors="backslashreplace").decode()
    return format_html('<pre class="webhooks-code">{}</pre>', printable)


def two_lines(text: Any, quiet: str) -> SafeString:
    """Two values in one cell of a list; the second only if there is one."""
    second = format_html('<span class="webhooks-quiet">{}</span>', quiet) if quiet else ""
    return format_html("{} {}", text, second)


def badge(kind: str, label: Any) -> SafeString:
    """A status as a small label; `kind` decides its colour."""
    return format_html('<span class="webhooks-badge webhooks-{}">{}</span>', kind, label)
