"""Events: what happened, to whom it was delivered, and for each rule why it fired or did not."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_webhooks.admin import display
from django_webhooks.admin.base import (
    FOUND_EVENTS,
    SEARCH_HELP,
    EventTypeFilter,
    MomentFilter,
    ReadOnlyAdmin,
    find_events,
    has_any,
)
from django_webhooks.admin.why import SHOWN_RULES, why
from django_webhooks.models import Event
from django_webhooks.registry import OWN_TYPES

SHOWN_DELIVERIES = 50

HELP_TEXTS = {
    "compared": _("When a worker found out to which subscriptions it goes."),
    "chain_length": _(
        "1, and one more for each webhook that led to this event: by it a loop is found and ended."
    ),
    "pretty_previous": _("The old values of what changed."),
}


class EventAdmin(ReadOnlyAdmin):
    list_display = ["type_and_id", "about", "whose", "occurred", "problem"]
    list_filter = [
        EventTypeFilter,
        ("occurred_at", MomentFilter),
        ("error", admin.EmptyFieldListFilter),
    ]
    sortable_by = ("occurred",)  # no index would help with the others
    search_fields = ["id__exact"]
    search_help_text = SEARCH_HELP
    actions = None
    readonly_fields = [
        "about",
        "whose",
        "occurred",
        "compared",
        "chain_length",
        "pretty_data",
        "pretty_previous",
    ]

    class Media:
        css = {"all": ["django_webhooks/rules.css"]}

    def event_of(self, obj: Event) -> Event:
        return obj

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        # The join answers None for an owner who is gone, where a lookup would raise.
        rows = super().get_queryset(request).select_related("owner")
        return rows.defer("body", "data", "previous")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        found = find_events(term).values_list("pk", flat=True)[:FOUND_EVENTS]
        return queryset.filter(pk__in=list(found)), False

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        trouble = ["error"] if obj and obj.error else []
        told = ["id", "type", *trouble, "about", "whose", "occurred", "compared", "chain_length"]
        return [(None, {"fields": [*told, "pretty_data", "pretty_previous"]})]

    def get_form(
        self, request: HttpRequest, obj: Any | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        return super().get_form(request, obj, change, help_texts=HELP_TEXTS, **kwargs)

    @admin.display(description=_("type"))
    def type_and_id(self, event: Event) -> SafeString:
        return display.two_lines(event.type, event.pk)

    @admin.display(description=_("subject"))
    def about(self, event: Event) -> str:
        """On its own page with the object's name."""
        return getattr(event, "subject_text", display.subject(event)) or "-"

    @admin.display(description=_("occurred"), ordering="occurred_at")
    def occurred(self, event: Event) -> str:
        return display.moment(event.occurred_at)

    @admin.display(description=_("compared with the rules"))
    def compared(self, event: Event) -> str:
        return display.moment(event.fanned_out_at)

    @admin.display(description=_("webhooks in a row"))
    def chain_length(self, event: Event) -> int:
        return event.hops

    @admin.display(description=_("owner"))
    def whose(self, event: Event) -> str:
        if event.owner_id is None:
            return "-"
        gone = gettext("%s (deleted)") % event.owner_id
        return str(event.owner) if event.owner else gone

    @admin.display(description=_("error"))
    def problem(self, event: Event) -> str:
        return Truncator(event.error).chars(120)

    @admin.display(description=_("data"))
    def pretty_data(self, event: Event) -> SafeString:
        return display.pretty(event.data)

    @admin.display(description=_("data before the change"))
    def pretty_previous(self, event: Event) -> SafeString:
        return display.pretty(event.previous)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        event = context["original"]
        deliveries = event.deliveries.select_related("subscription")
        found = list(deliveries[: SHOWN_DELIVERIES + 1])
        # Subscriptions are not for everyone who may see what happened.
        may_see_rules = has_any(request, "subscription", "view", "change")
        reasons = why(event) if may_see_rules else []
        context |= {
            "may_see_rules": may_see_rules,
            "is_past_rules": event.type in OWN_TYPES,
            "deliveries": [
                (each, display.badge(each.status, each.get_status_display()), display.matched(each))
                for each in found[:SHOWN_DELIVERIES]
            ],
            "more_deliveries": len(found) > SHOWN_DELIVERIES,
            "reasons": reasons[:SHOWN_RULES],
            "shown_rules": SHOWN_RULES,
            "more_rules": len(reasons) > SHOWN_RULES,
        }
        return super().render_change_form(request, context, *args, **kwargs)
