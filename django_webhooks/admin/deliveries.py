"""Deliveries: what was sent, what came back, which rule matched; and to send it again."""

from collections.abc import Callable, Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from django_webhooks.admin import display
from django_webhooks.admin.base import EventTypeFilter, ReadOnlyAdmin
from django_webhooks.admin.why import how_it_matched
from django_webhooks.models import Attempt, Delivery, Event, Subscription
from django_webhooks.outbox import redeliver

BATCH = 500
"""Deliveries that are redelivered in one transaction."""

SEARCHED = 1000
"""Events or subscriptions whose deliveries are searched for."""

SHOWN_SUBSCRIPTIONS = 100
SHOWN_REASON = 80


class DeliveryEventTypeFilter(EventTypeFilter):
    lookup = "event__type"


class SubscriptionFilter(admin.RelatedFieldListFilter):
    """Those that have deliveries: one look into an index each, not a scan of all deliveries."""

    def field_choices(self, field: Any, request: HttpRequest, model_admin: Any) -> Any:
        own = Delivery.objects.filter(subscription=models.OuterRef("pk"))
        rows = Subscription.objects.filter(models.Exists(own)).only("name", "url")
        return [(row.pk, str(row)) for row in rows.order_by("name", "url")[:SHOWN_SUBSCRIPTIONS]]


class AttemptInline(admin.StackedInline):  # type: ignore[type-arg]
    """A part of the delivery's page: who sees the one sees the other."""

    model = Attempt
    extra = 0
    readonly_fields = (
        "result",
        "when",
        "url",
        "headers_sent",
        "headers_received",
        "body_received",
    )
    fields = readonly_fields

    @admin.display(description=_("result"))
    def result(self, attempt: Attempt) -> SafeString:
        """Error and detail in one line; whether it counted."""
        code = f"HTTP {attempt.status_code}" if attempt.status_code else ""
        error = "" if attempt.error == "status" else attempt.error
        label = " ".join(filter(None, [code, error]))
        kind = "failed" if attempt.error else "succeeded"
        notes = [attempt.detail, gettext("It came too late to count.") if attempt.stale else ""]
        return format_html("{} {}", display.badge(kind, label), " ".join(filter(None, notes)))

    @admin.display(description=_("started"))
    def when(self, attempt: Attempt) -> str:
        return gettext("%(moment)s, took %(duration)d ms") % {
            "moment": display.moment(attempt.started_at),
            "duration": attempt.duration_ms,
        }

    @admin.display(description=_("request headers"))
    def headers_sent(self, attempt: Attempt) -> SafeString:
        return display.headers(attempt.request_headers)

    @admin.display(description=_("response headers"))
    def headers_received(self, attempt: Attempt) -> SafeString:
        return display.headers(attempt.response_headers)

    @admin.display(description=_("response body"))
    def body_received(self, attempt: Attempt) -> SafeString:
        return display.code(attempt.response_body) if attempt.response_body else SafeString("-")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class DeliveryAdmin(ReadOnlyAdmin):
    class Media:
        css = {"all": ["django_webhooks/rules.css"]}

    list_display = [
        "event_type",
        "subscription_text",
        "status_and_reason",
        "attempt_count",
        "next_attempt_short",
        "completed_short",
    ]
    list_filter = [
        "status",
        ("subscription", SubscriptionFilter),
        DeliveryEventTypeFilter,
        "event__occurred_at",
    ]
    search_fields = ["event__id__exact", "event__subject_id__exact", "subscription__url"]
    search_help_text = _("The id of an event or of an object, or a part of the URL.")
    list_select_related = ["event", "subscription"]
    inlines = [AttemptInline]
    page_actions = ("redeliver",)
    actions = page_actions
    fieldsets = [
        (
            None,
            {
                "fields": [
                    "status_badge",
                    "reason",
                    "event",
                    "subscription",
                    "matched",
                    "how_it_matched",
                    "attempt_count",
                    "next_attempt",
                    "completed_at",
                    "created_at",
                    "payload",
                ]
            },
        ),
    ]
    readonly_fields = ["status_badge", "how_it_matched", "next_attempt", "payload"]

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        rows = super().get_queryset(request).select_related("event", "subscription")
        return rows.defer("event__body", "event__data", "event__previous")

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Any], search_term: str
    ) -> tuple[models.QuerySet[Any], bool]:
        """By what the term is: Django's OR over three tables can use no index."""
        term = search_term.strip()
        if not term:
            return queryset, False
        events = Event.objects.filter(models.Q(pk=term) | models.Q(subject_id=term))
        if ids := list(events.values_list("pk", flat=True)[:SEARCHED]):
            return queryset.filter(event__in=ids), False
        hooks = Subscription.objects.filter(url__icontains=term).values_list("pk", flat=True)
        return queryset.filter(subscription__in=list(hooks[:SEARCHED])), False

    @admin.display(description=_("event type"), ordering="event__type")
    def event_type(self, delivery: Delivery) -> str:
        return delivery.event.type

    @admin.display(description=_("subscription"))
    def subscription_text(self, delivery: Delivery) -> str:
        return str(delivery.subscription or gettext("(deleted)"))

    @admin.display(description=_("status"), ordering="status")
    def status_and_reason(self, delivery: Delivery) -> SafeString:
        reason = Truncator(delivery.reason).chars(SHOWN_REASON)
        return display.two_lines(self.status_badge(delivery), reason)

    @admin.display(description=_("status"), ordering="status")
    def status_badge(self, delivery: Delivery) -> SafeString:
        return display.badge(delivery.status, delivery.get_status_display())

    @admin.display(description=_("next attempt"), ordering="next_attempt_at")
    def next_attempt_short(self, delivery: Delivery) -> str:
        return _next_attempt(delivery, display.short_moment)

    @admin.display(description=_("next attempt"))
    def next_attempt(self, delivery: Delivery) -> str:
        return _next_attempt(delivery, display.moment)

    @admin.display(description=_("completed"), ordering="completed_at")
    def completed_short(self, delivery: Delivery) -> str:
        return display.short_moment(delivery.completed_at)

    @admin.display(description=_("how it matched"))
    def how_it_matched(self, delivery: Delivery) -> str:
        return how_it_matched(delivery) if delivery.matched else "-"

    @admin.display(description=_("payload"))
    def payload(self, delivery: Delivery) -> SafeString:
        return display.pretty_text(delivery.event.body)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        delivery = context["original"]
        context["subtitle"] = f"{delivery.event.type} → {self.subscription_text(delivery)}"
        return super().render_change_form(request, context, *args, **kwargs)

    # Redeliver

    def has_redeliver_permission(self, request: HttpRequest) -> bool:
        """Django's own permission to change; the rows themselves nobody changes by hand."""
        return request.user.has_perm("django_webhooks.change_delivery")

    def get_page_actions(self, request: HttpRequest, obj: Delivery) -> Sequence[str]:
        return self.page_actions if obj.subscription_id and not obj.lease_token else []

    @admin.action(description=_("Redeliver"), permissions=["redeliver"])
    def redeliver(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        chosen = list(queryset.select_related(None).defer(None))
        free = [each for each in chosen if each.subscription_id and not each.lease_token]
        sent = sum(redeliver(free[at : at + BATCH]) for at in range(0, len(free), BATCH))
        assert request.user.pk is not None
        LogEntry.objects.log_actions(request.user.pk, free, CHANGE, gettext("Redelivered."))
        if sent:
            text = ngettext(
                "%(count)d delivery is sent again.", "%(count)d deliveries are sent again.", sent
            )
            self.message_user(request, text % {"count": sent}, messages.SUCCESS)
        if skipped := len(chosen) - sent:
            text = ngettext(
                "%(count)d was skipped: it is in flight, or its subscription was deleted.",
                "%(count)d were skipped: they are in flight, or their subscription was deleted.",
                skipped,
            )
            self.message_user(request, text % {"count": skipped}, messages.WARNING)


def _next_attempt(delivery: Delivery, written: Callable[[Any], str]) -> str:
    """A lease keeps its end in the same column: that is no moment to wait for."""
    return gettext("in flight") if delivery.lease_token else written(delivery.next_attempt_at)
