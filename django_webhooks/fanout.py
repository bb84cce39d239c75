"""Who is to be told: each Event meets the rules, and what matches becomes a Delivery.

Runs in the worker. The same judgement answers "why not" and "what if", without writing a row.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import models, transaction
from django.utils.translation import gettext as _

from django_webhooks import conditions
from django_webhooks.models import Delivery, Event, Rule, Subscription, owner_matches
from django_webhooks.registry import UPDATED, patterns_of, registry
from django_webhooks.retries import on_contention

logger = logging.getLogger("django_webhooks")

BATCH = 100
"""Events that are fanned out in one transaction."""

ROWS = 500
"""Deliveries that are inserted with one statement."""


@dataclass(frozen=True)
class Match:
    """A rule that fired on an event."""

    event: Event
    rule: Rule


@dataclass(frozen=True)
class Explanation:
    """Why a rule fired on an event, or did not."""

    rule: Rule
    fired: bool
    reason: str
    """Why the conditions were not even asked, or the reason of the verdict."""
    verdict: conditions.Verdict | None = None


@dataclass(frozen=True)
class Preview:
    """Which of the recent events a rule would have fired on."""

    checked: int
    events: Sequence[Event]

    @property
    def matched(self) -> int:
        return len(self.events)


def fan_out(using: str, limit: int = BATCH) -> int:
    """Make the Deliveries of up to `limit` Events that wait. Returns how many Events were done.

    Any number of workers may do so at once: an Event is locked while it is fanned out.
    """
    waiting = Event.objects.using(using).waiting().order_by("id")
    ids = list(waiting.values_list("pk", flat=True)[:limit])
    return on_contention(partial(_fan_out, ids, using), using) if ids else 0


def match(events: Sequence[Event], using: str) -> Iterator[Match]:
    """The rules that fire, one per event and subscription, in the order of the events.

    Conditions are judged here; whether a one-time subscription is still to be had is not.
    """
    rules = _rules_for(events, using)
    for event in events:
        facts = facts_of(event)
        told: set[Any] = set()
        for pattern in patterns_of(event.type):
            for rule in rules.get(pattern, ()):
                if rule.subscription_id in told or not _may_receive(rule.subscription, event):
                    continue
                if fires(rule.conditions, facts):
                    told.add(rule.subscription_id)
                    yield Match(event, rule)


def fires(tree: Any, facts: conditions.Facts) -> bool:
    """Whether conditions hold; a tree that can't be judged does not, and silences no other."""
    try:
        return conditions.evaluate(tree, facts) is True
    except Exception:
        logger.exception("A condition tree could not be judged; its rule does not fire.")
        return False


def facts_of(event: Event) -> conditions.Facts:
    """What the conditions of a rule are judged on."""
    known = registry.get_type(event.type)
    kinds = known.webhook.kinds() if known and known.webhook else {}
    return conditions.Facts(
        data=event.data,
        previous=event.previous if event.action == UPDATED else None,
        kinds=kinds,
    )


def explain(event: Event, subscription: Subscription | None = None) -> list[Explanation]:
    """For each rule of the subscription (or of all): did it fire on this event, and why (not)?"""
    rules = Rule.objects.using(event._state.db).select_related("subscription")
    if subscription is not None:
        rules = rules.filter(subscription=subscription)
    facts = facts_of(event)
    return [_explain(rule, event, facts) for rule in rules.order_by("subscription_id", "pk")]


def preview(
    event_type: str,
    tree: Any,
    *,
    owner: Any = None,
    using: str = "default",
    limit: int = 1000,
) -> Preview:
    """Which of the last `limit` events of this type or pattern the conditions would fire on.

    With an `owner`, only among the events that this owner may receive. Raises `UnknownEventType`
    and `ConditionError`.
    """
    registry.require_pattern(event_type)
    conditions.validate(tree)
    types = [each.type for each in registry.matching(event_type)]
    events = Event.objects.using(using).filter(type__in=types, error="")
    if owner is not None:
        public = [each.type for each in registry.matching(event_type) if each.public]
        events = events.filter(models.Q(owner=owner) | models.Q(type__in=public))
    recent = list(events.order_by("-occurred_at", "-id")[:limit])
    return Preview(len(recent), [each for each in recent if fires(tree, facts_of(each))])


def _fan_out(ids: Sequence[str], using: str) -> int:
    with transaction.atomic(using=using):
        events = Event.objects.using(using)
        mine = events.lock(ids, skip_locked=True).filter(fanned_out_at__isnull=True)
        locked = list(mine.with_now().order_by("id"))
        if not locked:
            return 0
        now = locked[0].now
        matches = match([event for event in locked if not event.error], using)
        _insert(_one_time_once(list(matches), using), now, using)
        events.filter(pk__in=[event.pk for event in locked]).update(fanned_out_at=now)
    return len(locked)


def _one_time_once(matches: Sequence[Match], using: str) -> list[Match]:
    """Without what a one-time subscription has had already; those that fire now are completed.

    The lock is what makes it exactly one: whoever comes second reads `completed`.
    """
    once = {
        each.rule.subscription_id
        for each in matches
        if each.rule.subscription.mode == Subscription.Mode.ONE_TIME
    }
    if not once:
        return list(matches)
    subscriptions = Subscription.objects.using(using).active()
    free = set(
        subscriptions.filter(pk__in=once)
        .order_by("pk")  # always in one order, so that two workers never wait for each other
        .select_for_update()
        .values_list("pk", flat=True)
    )
    subscriptions.filter(pk__in=free).update(status=Subscription.Status.COMPLETED)
    kept = []
    for each in matches:
        if each.rule.subscription_id in once:
            if each.rule.subscription_id not in free:
                continue
            free.remove(each.rule.subscription_id)
        kept.append(each)
    return kept


def _insert(matches: Iterable[Match], now: Any, using: str) -> None:
    sentences: dict[int, str] = {}
    rows = [
        Delivery(
            event=each.event,
            subscription=each.rule.subscription,
            matched=sentences.setdefault(each.rule.pk, str(each.rule)),
            next_attempt_at=now,
            created_at=now,
        )
        for each in matches
    ]
    # An Event is fanned out once; the constraint stands behind that, not the other way round.
    Delivery.objects.using(using).bulk_create(rows, batch_size=ROWS, ignore_conflicts=True)


def _rules_for(events: Sequence[Event], using: str) -> dict[str, list[Rule]]:
    """The active rules by pattern that may fire on any of the events: one query."""
    patterns = {pattern for event in events for pattern in patterns_of(event.type)}
    rules = Rule.objects.using(using).active().filter(event_type__in=patterns)
    if not any(_is_public(event) for event in events):
        owners = {event.owner_id for event in events} - {None}
        wanted = owner_matches("subscription__owner", None)
        if owners:
            wanted |= models.Q(subscription__owner__in=owners)
        rules = rules.filter(wanted)
    found: dict[str, list[Rule]] = {}
    for rule in rules.select_related("subscription").order_by("pk"):
        found.setdefault(rule.event_type, []).append(rule)
    return found


def _may_receive(subscription: Subscription, event: Event) -> bool:
    """Unowned subscriptions receive all; owned ones their own events and public types."""
    if subscription.owner_id is None or _is_public(event):
        return True
    return event.owner_id is not None and subscription.owner_id == event.owner_id


def _is_public(event: Event) -> bool:
    known = registry.get_type(event.type)
    return known is not None and known.public


def _explain(rule: Rule, event: Event, facts: conditions.Facts) -> Explanation:
    subscription = rule.subscription
    if rule.event_type not in patterns_of(event.type):
        reason = _("It listens to %(pattern)s, and this is %(type)s.") % {
            "pattern": rule.event_type,
            "type": event.type,
        }
        return Explanation(rule, False, reason)
    if event.error:
        return Explanation(rule, False, _("The event could not be rendered: ") + event.error)
    if not _may_receive(subscription, event):
        return Explanation(rule, False, _("The event belongs to another owner."))
    verdict = conditions.explain(rule.conditions, facts)
    fired = verdict.value is True
    if fired and not event.deliveries.filter(subscription=subscription).exists():
        return Explanation(rule, False, _why_undelivered(subscription, event), verdict)
    return Explanation(rule, fired, verdict.reason or verdict.sentence, verdict)


def _why_undelivered(subscription: Subscription, event: Event) -> str:
    """Why there is no delivery, although the conditions of a rule hold now."""
    if event.fanned_out_at is None:
        return _("The conditions hold: a worker will make the delivery.")
    if subscription.created_at > event.fanned_out_at:
        return _("The conditions hold, but the subscription was made after this event.")
    if subscription.status != Subscription.Status.ACTIVE:
        reason = _("The conditions hold, but there is no delivery: the subscription is %s now.")
        return reason % subscription.get_status_display()
    return _("The conditions hold now; the rule was changed, or not active, when it happened.")
