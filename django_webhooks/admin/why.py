"""Why, and why not: the verdict on each condition, as the pages show it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Exists, OuterRef
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from django_webhooks import fanout
from django_webhooks.conditions import Facts, Verdict, explain
from django_webhooks.models import Delivery, Event, Rule, Subscription
from django_webhooks.registry import OWN_TYPES, patterns_of

SHOWN_RULES = 50


@dataclass(frozen=True)
class Why:
    """A row of the table: a rule, and the verdict on each of its conditions."""

    subscription: Subscription
    explanation: fanout.Explanation | None
    """None: the subscription has no rules."""

    @property
    def outcome(self) -> str:
        return self.explanation.outcome if self.explanation else _("has no rules")

    @property
    def kind(self) -> str:
        """The colour of the badge."""
        if self.explanation is None:
            return "cancelled"
        if self.explanation.fired:
            return "succeeded"
        return "pending" if self.explanation.waits else "cancelled"

    @property
    def rule(self) -> Rule | None:
        return self.explanation.rule if self.explanation else None

    @property
    def verdict(self) -> Verdict | None:
        return self.explanation.verdict if self.explanation else None

    @property
    def verdicts(self) -> Sequence[Verdict]:
        return [self.verdict] if self.verdict else []

    @property
    def reason(self) -> str:
        """What the verdicts do not say already."""
        verdict = self.verdict
        if self.explanation is None:
            return _("Only what goes past the rules is sent to it, such as a test event.")
        told = verdict is not None and self.explanation.reason in (verdict.sentence, verdict.reason)
        return "" if told else self.explanation.reason


def why(event: Event) -> list[Why]:
    """For each rule of each subscription, those that listen to this type first and those without
    rules last; at most a few more than are shown.
    """
    if event.type in OWN_TYPES:
        return []
    rules = Rule.objects.using(event._state.db).filter(subscription=OuterRef("pk"))
    listening = rules.filter(event_type__in=patterns_of(event.type))
    subscriptions: Any = (
        Subscription.objects.using(event._state.db)
        .annotate(listens=Exists(listening), has_rules=Exists(rules))
        .order_by("-listens", "-has_rules", "-created_at")[: SHOWN_RULES + 1]
    )
    found: list[Why] = []
    for subscription in subscriptions:
        explanations = fanout.explain(event, subscription) if subscription.has_rules else [None]
        found += [Why(subscription, each) for each in explanations]
        if len(found) > SHOWN_RULES:
            break
    return found


def how_it_matched(delivery: Delivery) -> SafeString:
    """The verdicts of the rule that made a delivery, as it reads now."""
    found = fanout.explain_delivery(delivery)
    if found is None or found.verdict is None:
        text = _("By the rules as they are now it would not be made: they were changed since.")
        return format_html("<p>{}</p>", text)
    sentence = str(found.rule)
    changed = not delivery.matched.startswith(sentence[: len(delivery.matched)])
    text = _("The rule reads now: %s") % sentence if changed else ""
    return format_html(
        "{}{}", format_html("<p>{}</p>", text) if text else "", show([found.verdict])
    )


def show_conditions(tree: Any) -> SafeString:
    """The same list of a rule alone, without a verdict."""
    found = explain(tree, Facts({}, None, {}))
    context: dict[str, Any] = {"conditions": [found]}
    return render_to_string("admin/django_webhooks/conditions.html", context)


def show(verdicts: Sequence[Verdict]) -> SafeString:
    """A list of the conditions, groups within groups, each with its verdict and reason."""
    context: dict[str, Any] = {"verdicts": verdicts}
    return render_to_string("admin/django_webhooks/verdicts.html", context)
