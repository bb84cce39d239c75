"""Say why an event reached a subscription, or did not."""

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from django_webhooks.conditions import Verdict
from django_webhooks.fanout import Explanation, explain
from django_webhooks.models import Event, Subscription, outbox_aliases

SIGNS = {True: "yes", False: "no", None: "unknown"}


class Command(BaseCommand):
    help = "For each rule, say whether it fired on an event, and why or why not."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("event", help="the event's id (evt_…)")
        parser.add_argument("subscription", nargs="?", help="only this subscription's rules")

    def handle(self, *args: Any, event: str, subscription: str | None, **options: Any) -> None:
        found = _find(Event, event, "event")
        only = _find(Subscription, subscription, "subscription") if subscription else None
        self.stdout.write(f"{found.type}, {found.occurred_at:%Y-%m-%d %H:%M:%S %Z}")
        if found.error:
            self.stdout.write(f"It could not be rendered: {found.error}")
        if found.fanned_out_at is None:
            self.stdout.write("It has not been fanned out yet: no worker has come by.")
        explanations = explain(found, only)
        for each in explanations:
            self._show(each)
        subscriptions = Subscription.objects.using(found._state.db).filter(rules=None)
        without = subscriptions.filter(pk=only.pk) if only else subscriptions
        for bare in without.order_by("created_at"):
            self.stdout.write(f"\n{bare} ({bare.pk})\n  has no rules")

    def _show(self, each: Explanation) -> None:
        self.stdout.write(f"\n{each.rule.subscription} ({each.rule.subscription_id})")
        self.stdout.write(f"  {each.outcome}: {each.rule}")
        is_said_below = each.verdict is not None and each.reason in (
            each.verdict.reason,
            each.verdict.sentence,
        )
        if not is_said_below:
            self.stdout.write(f"  {each.reason}")
        if each.verdict is not None:
            self._show_verdict(each.verdict, "  ")

    def _show_verdict(self, verdict: Verdict, indent: str) -> None:
        text = verdict.reason if not verdict.children else verdict.sentence
        if text:
            self.stdout.write(f"{indent}[{SIGNS[verdict.value]}] {text}")
        for child in verdict.children:
            self._show_verdict(child, indent + "  ")


def _find(model: Any, key: str, name: str) -> Any:
    for using in outbox_aliases():
        try:
            row = model.objects.using(using).filter(pk=key).first()
        except ValidationError as error:
            raise CommandError(f"{key!r} is not the id of a {name}.") from error
        if row is not None:
            return row
    raise CommandError(f"There is no {name} with the id {key!r}.")
