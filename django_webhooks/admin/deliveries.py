"""Deliveries: what was sent, what came back, what that means; and to send it again.

There may be millions: each filter and search goes along an index, or looks at no more than the
newest `MOST_ROWS`.
"""

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import ValidationError
from django.db import connections, models
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.text import Truncator, format_lazy
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from django_webhooks.admin import display
from django_webhooks.admin.base import (
    FOUND_EVENTS,
    MOST_ROWS,
    SEARCH_HELP,
    EventTypeFilter,
    MomentFilter,
    ReadOnlyAdmin,
    asked_since,
    find_events,
    has_any,
    printable,
)
from django_webhooks.admin.endpoints import STOPPED
from django_webhooks.admin.mends import Explanation, explain
from django_webhooks.admin.why import how_it_matched
from django_webhooks.models import Attempt, Delivery, Event, Subscription
from django_webhooks.outbox import redeliver
from django_webhooks.registry import OWN_TYPES

SEARCHED = 1000
"""Subscriptions whose deliveries are searched for."""

RECENT = 1000
"""The newest attempts, whose errors the filter offers."""

MISLED = {"mysql"}
"""Databases that begin with the status where they had better begin with the type."""

SHOWN_SUBSCRIPTIONS = 100
SHOWN_REASON = 80
SHOWN_ATTEMPTS = 20

Status = Delivery.Status


class DeliveryEventTypeFilter(EventTypeFilter):
    """Of a type with more events than can be paged through, the newest count."""

    def queryset(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> models.QuerySet[Any]:
        value = self.value()
        if not value:
            return queryset
        events = Event.objects.using(queryset.db).filter(type=printable(value))
        for limit in ("gte", "lt"):  # as the filter by time has them
            if moment := request.GET.get(f"event__occurred_at__{limit}"):
                try:
                    events = events.filter(**{f"occurred_at__{limit}": moment})
                except (ValueError, ValidationError) as error:
                    raise IncorrectLookupParameters(error) from error
        if since := asked_since(request, "event__occurred_at"):
            events = events.filter(occurred_at__gte=since)
        moments = events.order_by("-occurred_at").values_list("occurred_at", flat=True)
        found = queryset.filter(event__type=printable(value))
        oldest = list(moments[MOST_ROWS : MOST_ROWS + 1])
        return found.filter(event__occurred_at__gt=oldest[0]) if oldest else found


class StatusFilter(admin.ChoicesFieldListFilter):
    """Along an index, but not beside a type."""

    def queryset(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> models.QuerySet[Any] | None:
        chosen: Any = self.used_parameters.get(self.lookup_kwarg)
        return (
            in_status(request, queryset, chosen) if chosen else super().queryset(request, queryset)
        )


def in_status(
    request: HttpRequest, queryset: models.QuerySet[Any], statuses: Sequence[str]
) -> models.QuerySet[Any]:
    """Those in one of the statuses.

    Beside a type the newest events of it had better come first: they are few and lie together.
    MariaDB would rather look up an event for each delivery that has failed, anywhere in the
    table, and is kept from it by an expression that no index knows.
    """
    beside_type = DeliveryEventTypeFilter.parameter_name in request.GET
    if not beside_type or connections[queryset.db].vendor not in MISLED:
        return queryset.filter(status__in=statuses)
    hidden: Any = queryset.alias(own_status=Coalesce("status", "status"))
    found: models.QuerySet[Any] = hidden.filter(own_status__in=statuses)
    return found


class SubscriptionFilter(admin.RelatedFieldListFilter):
    """Those that have deliveries: one look into an index each, not a scan of all deliveries."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.empty_value_display: Any = gettext("(deleted)")

    def field_choices(self, field: Any, request: HttpRequest, model_admin: Any) -> Any:
        own = Delivery.objects.filter(subscription=models.OuterRef("pk"))
        rows = Subscription.objects.filter(models.Exists(own)).only("name", "url")
        return [(row.pk, str(row)) for row in rows.order_by("name", "url")[:SHOWN_SUBSCRIPTIONS]]


class RecentAttemptsFilter(admin.SimpleListFilter):
    """Offers what the newest attempts came to; they are read once for all filters of a page."""

    def name_of(self, status_code: int | None, error: str) -> str:
        """What an attempt is found by; empty for one that is not offered."""
        raise NotImplementedError

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        known = {self.name_of(*each) for each in _newest_attempts(request)}
        known.add(request.GET.get(str(self.parameter_name), ""))
        return [(each, each) for each in sorted(known - {""})]


def _newest_attempts(request: Any) -> list[tuple[int | None, str]]:
    if not hasattr(request, "_webhooks_newest_attempts"):
        newest = Attempt.objects.order_by("-pk").values_list("status_code", "error")[:RECENT]
        request._webhooks_newest_attempts = list(newest)
    found: list[tuple[int | None, str]] = request._webhooks_newest_attempts
    return found


class ErrorFilter(RecentAttemptsFilter):
    """By what the last attempt of those that have not succeeded came to: "HTTP 503", "timeout".

    The attempts before it are not looked at: the delivery itself remembers the last one only.
    """

    title = _("error of the last attempt")
    parameter_name = "error"

    def name_of(self, status_code: int | None, error: str) -> str:
        return f"HTTP {status_code}" if status_code and error else error

    def queryset(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> models.QuerySet[Any]:
        value = printable(self.value() or "")
        if not value:
            return queryset
        same = models.Q(reason=value) | models.Q(reason__startswith=f"{value}: ")
        return in_status(request, queryset.filter(same), [Status.PENDING, Status.FAILED])


class HttpStatusFilter(RecentAttemptsFilter):
    """By the HTTP status that the last attempt was answered with, a success as well."""

    title = _("HTTP status of the last answer")
    parameter_name = "http"

    def name_of(self, status_code: int | None, error: str) -> str:
        return str(status_code or "")

    def queryset(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> models.QuerySet[Any]:
        value = self.value()
        if not value:
            return queryset
        if not re.fullmatch("[1-5][0-9]{2}", value):
            return queryset.none()
        same = queryset.filter(status_code=value)
        if value.startswith("2"):
            return same
        # They are few; the database is to look for them among few.
        return in_status(request, same, [Status.PENDING, Status.FAILED, Status.CANCELLED])


class DeliveryAdmin(ReadOnlyAdmin):
    list_display = [
        "event_text",
        "status_and_reason",
        "subscription_text",
        "occurred",
        "next_or_completed",
    ]
    list_filter = [
        ("status", StatusFilter),
        HttpStatusFilter,
        ErrorFilter,
        ("subscription", SubscriptionFilter),
        DeliveryEventTypeFilter,
        ("event__occurred_at", MomentFilter),
    ]
    sortable_by = ()  # no index would help: the newest come first
    search_fields = ["event__id__exact"]
    search_help_text = format_lazy(
        "{} {}", SEARCH_HELP, _("Or a part of the subscription's URL or name.")
    )
    list_select_related = ["event", "subscription"]
    page_actions = ("redeliver",)
    actions = page_actions
    readonly_fields = [
        "status_badge",
        "why_so",
        "subject",
        "matched_rule",
        "how_it_matched",
        "next_attempt",
    ]

    class Media:
        css = {"all": ["django_webhooks/rules.css"]}
        js = ["django_webhooks/copy.js"]

    def event_of(self, obj: Delivery) -> Event:
        return obj.event

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        rows = super().get_queryset(request).select_related("event", "subscription")
        return rows.defer(
            "event__body",
            "event__data",
            "event__previous",
            # To decrypt them for each row takes longer than all the rest.
            "subscription__secrets",
            "subscription__headers",
        )

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Any], search_term: str
    ) -> tuple[models.QuerySet[Any], bool]:
        """By what the term is: Django's OR over three tables can use no index."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if ids := list(find_events(term).values_list("pk", flat=True)[:FOUND_EVENTS]):
            return queryset.filter(event__in=ids), False
        named = models.Q(url__icontains=term) | models.Q(name__icontains=term)
        hooks = list(Subscription.objects.filter(named).values_list("pk", flat=True)[:SEARCHED])
        few = Delivery.objects.filter(subscription__in=hooks).order_by()[:MOST_ROWS]
        if few.count() < MOST_ROWS:
            return queryset.filter(subscription__in=hooks), False
        # Most rows are meant, so the newest are soon found; MariaDB would rather sort them all,
        # and is kept from it by an expression that no index knows.
        same = Coalesce("subscription_id", "subscription_id")
        return queryset.alias(hook=same).filter(hook__in=hooks), False

    # The list

    @admin.display(description=_("event"))
    def event_text(self, delivery: Delivery) -> SafeString:
        event = delivery.event
        about = display.two_lines(event.type, display.subject(event))
        return display.two_lines(about, event.pk)

    @admin.display(description=_("subscription"))
    def subscription_text(self, delivery: Delivery) -> str:
        return str(delivery.subscription or gettext("(deleted)"))

    @admin.display(description=_("status"))
    def status_and_reason(self, delivery: Delivery) -> SafeString:
        reason = Truncator(delivery.reason).chars(SHOWN_REASON)
        count = delivery.attempt_count
        attempts = ngettext("%d attempt", "%d attempts", count) % count if count != 1 else ""
        quiet = ", ".join(filter(None, [reason, attempts]))
        return display.two_lines(self.status_badge(delivery), quiet)

    @admin.display(description=_("occurred"))
    def occurred(self, delivery: Delivery) -> str:
        return display.moment(delivery.event.occurred_at)

    @admin.display(description=_("next attempt, or completed"))
    def next_or_completed(self, delivery: Delivery) -> str:
        return _next(delivery) or display.moment_and_age(delivery.completed_at)

    # The page

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        how = ["how_it_matched"] if obj and obj.matched else []
        about = ["status_badge", "why_so", "event", "subject", "subscription", "matched_rule", *how]
        return [(None, {"fields": [*about, "attempt_count", "next_attempt"]})]

    @admin.display(description=_("status"))
    def status_badge(self, delivery: Delivery) -> SafeString:
        return display.badge(delivery.status, delivery.get_status_display())

    @admin.display(description=_("reason"))
    def why_so(self, delivery: Delivery) -> str:
        return delivery.reason or "-"

    @admin.display(description=_("subject"))
    def subject(self, delivery: Any) -> str:
        return delivery.event.subject_text or "-"

    @admin.display(description=_("matched rule"))
    def matched_rule(self, delivery: Delivery) -> str:
        return display.matched(delivery) or "-"

    @admin.display(description=_("next attempt"))
    def next_attempt(self, delivery: Delivery) -> str:
        return _next(delivery) or "-"

    def get_page_actions(self, request: HttpRequest, obj: Delivery) -> Sequence[str]:
        return self.page_actions if obj.subscription_id and not obj.lease_token else []

    @admin.display(description=_("how it matched"))
    def how_it_matched(self, delivery: Delivery) -> SafeString:
        return how_it_matched(delivery)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        delivery = context["original"]
        newest = delivery.attempts.order_by("-number", "-id")[: SHOWN_ATTEMPTS + 1]
        attempts = list(newest)
        shown = attempts[:SHOWN_ATTEMPTS]
        body = delivery.event.body
        context |= {
            "subtitle": f"{delivery.event.type} → {self.subscription_text(delivery)}",
            "timeline": timeline(delivery, shown),
            "attempts": [ShownAttempt.of(each, body) for each in shown],
            "more_attempts": len(attempts) > SHOWN_ATTEMPTS,
            "payload": display.pretty_text(body),
        }
        return super().render_change_form(request, context, *args, **kwargs)

    # Redeliver

    def has_redeliver_permission(self, request: HttpRequest) -> bool:
        """Django's own permission to change; the rows themselves nobody changes by hand."""
        return has_any(request, "delivery", "change")

    @admin.action(description=_("Redeliver"), permissions=["redeliver"])
    def redeliver(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> HttpResponse | None:
        """Asks first if some have arrived already: their receivers may act on them twice."""
        chosen = list(queryset[:MOST_ROWS])  # as many as the list can show
        free = [each for each in chosen if each.subscription_id and not each.lease_token]
        counts = Counter(each.status for each in free)
        if counts[Status.SUCCEEDED] and "confirmed" not in request.POST:
            subtitle = str(chosen[0]) if len(chosen) == 1 else ""
            more = {"counts": counts, "skipped": len(chosen) - len(free), "total": len(free)}
            return self.ask(request, "redeliver", gettext("Redeliver"), subtitle, **more)
        sent = redeliver(free)
        assert request.user.pk is not None
        LogEntry.objects.log_actions(request.user.pk, free, CHANGE, gettext("Redelivered."))
        if sent:
            text = ngettext(
                "%(count)d delivery is sent again.", "%(count)d deliveries are sent again.", sent
            )
            self.message_user(request, text % {"count": sent}, messages.SUCCESS)
        if waiting := sum(map(_is_stopped, free)):
            text = ngettext(
                "%(count)d of them waits until its subscription is resumed.",
                "%(count)d of them wait until their subscriptions are resumed.",
                waiting,
            )
            self.message_user(request, text % {"count": waiting}, messages.WARNING)
        if skipped := len(chosen) - sent:
            text = ngettext(
                "%(count)d was skipped: it is in flight, or its subscription was deleted.",
                "%(count)d were skipped: they are in flight, or their subscription was deleted.",
                skipped,
            )
            self.message_user(request, text % {"count": skipped}, messages.WARNING)
        return None


# What the page shows of a delivery


@dataclass(frozen=True)
class Step:
    """A line of the timeline. `kind` decides its colour; `anchor` is where to read more."""

    at: Any
    kind: str
    title: str
    text: str = ""
    anchor: str = ""


def timeline(delivery: Delivery, attempts: Sequence[Attempt]) -> list[Step]:
    """From the event to what is next, oldest first; `attempts` are those shown, newest first."""
    event = delivery.event
    steps = [Step(_moment(event.occurred_at), "", gettext("Event"), event.type)]
    if event.type not in OWN_TYPES:
        matched = delivery.matched and gettext("Matched: %s") % delivery.matched
        compared = gettext("Compared with the rules")
        steps.append(Step(_moment(delivery.created_at), "", compared, matched))
    for attempt in reversed(attempts):
        if attempt.is_first and attempt.number > 1:
            steps.append(Step("", "", gettext("Redelivered"), gettext("A new round begins.")))
        steps.append(
            Step(
                _moment(attempt.started_at),
                "failed" if attempt.error else "succeeded",
                gettext("Attempt %(number)d: %(result)s")
                % {"number": attempt.number, "result": result_of(attempt)},
                display.duration(attempt.duration_ms),
                f"attempt-{attempt.pk}",
            )
        )
    return [*steps, _last_step(delivery)]


def _last_step(delivery: Delivery) -> Step:
    if delivery.status != Status.PENDING:
        label = str(delivery.get_status_display()).capitalize()
        return Step(_moment(delivery.completed_at), delivery.status, label, delivery.reason)
    if delivery.lease_token:
        return Step("", Status.PENDING, gettext("In flight"), gettext("A worker is sending it."))
    subscription = delivery.subscription
    if subscription and _is_stopped(delivery):
        text = gettext("It waits until the subscription, which is %s, is resumed.")
        status = subscription.get_status_display()
        return Step("", Status.PENDING, gettext("Waiting"), text % status)
    text = gettext("The endpoint keeps failing: it gets one request at a time until one succeeds.")
    held_back = text if subscription and subscription.is_open else ""
    return Step(_next(delivery), Status.PENDING, gettext("Next attempt"), held_back)


def _next(delivery: Delivery) -> str:
    """When the next attempt is; empty if there is none.

    A lease keeps its end in the same column: that is no moment to wait for.
    """
    if delivery.lease_token:
        return gettext("in flight")
    if delivery.next_attempt_at is None:
        return ""
    if _is_stopped(delivery):
        return gettext("when its subscription is resumed")
    if delivery.next_attempt_at <= timezone.now():
        return gettext("due now")
    return display.moment_and_age(delivery.next_attempt_at)


def _is_stopped(delivery: Delivery) -> bool:
    """Whether its subscription is; a challenge is sent all the same."""
    subscription = delivery.subscription
    if subscription is None or subscription.status not in STOPPED:
        return False
    return subscription.challenge != delivery.event_id


def _moment(value: datetime | None) -> Any:
    return display.moment(value)


def result_of(attempt: Attempt) -> str:
    """ "HTTP 503", "timeout", "HTTP 301 redirect"."""
    code = f"HTTP {attempt.status_code}" if attempt.status_code else ""
    error = "" if attempt.error == "status" else attempt.error
    return " ".join(filter(None, [code, error]))


@dataclass(frozen=True)
class ShownAttempt:
    """What the page shows of an attempt; all of it text, whatever a receiver has put there."""

    attempt: Attempt
    badge: SafeString
    started: str
    duration: str
    explanation: Explanation | None
    request_headers: SafeString
    response_headers: SafeString
    response_body: SafeString
    curl: str
    copy_curl: SafeString

    @classmethod
    def of(cls, attempt: Attempt, body: str) -> "ShownAttempt":
        kind = Status.FAILED if attempt.error else Status.SUCCEEDED
        return cls(
            attempt=attempt,
            badge=display.badge(kind, result_of(attempt)),
            started=display.moment(attempt.started_at),
            duration=display.duration(attempt.duration_ms),
            explanation=explain(attempt),
            request_headers=display.headers(attempt.request_headers),
            response_headers=display.headers(attempt.response_headers),
            response_body=display.pretty_text(attempt.response_body),
            curl=curl(attempt, body),
            copy_curl=display.copy_button(f"curl-{attempt.pk}"),
        )


def curl(attempt: Attempt, body: str) -> str:
    """The request as a command of a shell. Credentials are masked in it, as in its headers."""
    words = ["curl", "--globoff", "--request", "POST", attempt.url]
    lines = [shlex.join(words)]
    for name, value in attempt.request_headers.items():
        lines.append(f"  --header {shlex.quote(f'{name}: {value}')}")
    lines.append(f"  --data-raw {shlex.quote(body)}")
    return " \\\n".join(lines)
