"""Who is to be told: each Event meets the rules, and what matches becomes a Delivery.

Runs in the worker. The same judgement answers "why not" and "what if", without writing a row.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

from django.db import connections, models, transaction
from django.utils.translation import gettext as _

from django_webhooks import conditions
from django_webhooks.exceptions import DATA_ERRORS
from django_webhooks.inserts import insert_alike
from django_webhooks.models import Delivery, Event, Rule, Subscription, database_now, owner_matches
from django_webhooks.registry import UPDATED, patterns_of, registry
from django_webhooks.retries import on_contention

logger = logging.getLogger("django_webhooks")

BATCH = 100
"""Events that are fanned out in one transaction, at most."""

LOTS = 8
"""So many workers find something to fan out at the same time."""

MATCHES = 2000
"""Matches after which a transaction takes no further Event. Meanwhile nothing is claimed or
settled, and on SQLite nobody else can save: it must take less than a second."""

SECONDS = 0.5
"""The same for the time it takes to judge, for many rules may yield few matches."""

PREVIEW_SECONDS = 2.0
"""Whoever tries a rule waits for no longer."""

SHOWN, NEAR = 100, 10
"""Events of a preview that matched, and that nearly did: each may be large."""

READ = 50
"""Events that a preview reads at once."""

STEPS = 500_000
"""What the rules of one owner may cost per event, of `conditions.Meter`: one to three seconds.
A hundred rules as people write them cost less than a thousandth of it."""

SENTENCE = 2000
"""Characters of a rule's sentence that are kept with each Delivery."""

VALUES = 10_000
"""Ids that are named in one statement; SQLite takes 32,766."""

ACTIVE = Subscription.Status.ACTIVE
Mode = Subscription.Mode

Kinds = Mapping[str, Mapping[str, str]]
"""For `conditions.Facts`: event type → path → kind."""


class RuleRow(NamedTuple):
    """A rule as matching reads it.

    Not a `Rule`: making ten thousand of them, with their subscriptions, takes longer than all
    else; and nothing here needs secrets and headers, which would have to be decrypted.
    """

    event_type: str
    conditions: str
    """JSON: rules with the same text have the same verdict and the same words."""
    subscription_id: Any
    owner_id: Any
    ordered: bool
    mode: str


Match = tuple[Event, RuleRow]
"""A rule that fired on an event."""


@dataclass(frozen=True)
class Explanation:
    """Why a rule fired on an event, or did not."""

    rule: Rule
    fired: bool
    reason: str
    """Why the conditions were not even asked, or the reason of the verdict."""
    verdict: conditions.Verdict | None = None
    waits: bool = False
    """No worker has compared the event with the rules yet."""
    will_fire: bool = False
    """It waits, and would fire as both are now."""

    @property
    def outcome(self) -> str:
        """In two or three words."""
        if self.fired:
            return _("fired")
        if self.will_fire:
            return _("will fire")
        return _("not compared yet") if self.waits else _("did not fire")


@dataclass(frozen=True)
class Preview:
    """Which of the recent events a rule would have fired on."""

    checked: int
    matched: int
    events: Sequence[Event]
    """The newest of those that matched."""
    near: Sequence[Event]
    """Of the others those that came nearest: the fewest conditions said no."""


def fan_out(using: str, limit: int = BATCH) -> int:
    """Make the Deliveries of up to `limit` Events that wait. Returns how many Events were done.

    Any number of workers may do so at once: an Event is locked while it is fanned out, and who
    finds the oldest locked goes on to those behind them.
    """
    waiting = Event.objects.using(using).waiting().order_by("id").values_list("pk", "type")
    for start in range(0, LOTS * limit, limit):
        types = dict(waiting[start : start + limit])
        if not types:
            break
        if done := _fan_out_readable(list(types), kinds_of(types.values()), using):
            return done
    return 0


def match(events: Sequence[Event], using: str) -> Iterator[Match]:
    """The rules that fire, one per event and subscription, in the order of the events.

    Conditions are judged here; whether a one-time subscription is still to be had is not.
    """
    rules = _rules_for(events, using)
    kinds = kinds_of(event.type for event in events)
    for event in events:
        yield from _match(event, rules, kinds)


def facts_of(event: Event, kinds: Kinds, steps: float | None = STEPS) -> conditions.Facts:
    """What conditions are judged on, and what that may cost; None: whatever it costs."""
    return conditions.Facts(
        data=event.data,
        previous=event.previous if event.action == UPDATED else None,
        kinds=kinds.get(event.type, {}),
        meter=None if steps is None else conditions.Meter(steps),
    )


def kinds_of(types: Iterable[str]) -> Kinds:
    """The kinds of the fields of each type.

    A serializer is the project's code, which may be slow, query, or raise: so it is asked once
    per type, and by `fan_out()` before anything is locked.
    """
    return {each: _kinds_of(each) for each in set(types)}


def _steps_of(owner_id: Any) -> float | None:
    """Whoever runs the site is trusted: whose rules belong to nobody."""
    return None if owner_id is None else STEPS


def may_receive(owner_id: Any, event: Event) -> bool:
    """Unowned subscriptions receive all; owned ones their own events and public types."""
    if owner_id is None or _is_public(event):
        return True
    return event.owner_id is not None and owner_id == event.owner_id


def why_deaf(rule: Rule, event: Event) -> str:
    """That the rule listens to something else."""
    return _("It listens to %(pattern)s, and this is %(type)s.") % {
        "pattern": rule.event_type,
        "type": event.type,
    }


def explain(event: Event, subscription: Subscription | None = None) -> list[Explanation]:
    """For each rule of the subscription (or of all): did it fire on this event, and why (not)?"""
    rules = Rule.objects.using(event._state.db).select_related("subscription")
    if subscription is not None:
        rules = rules.filter(subscription=subscription)
    kinds = kinds_of([event.type])
    found = list(rules.order_by("subscription_id", "pk"))
    facts = {
        owner_id: facts_of(event, kinds, _steps_of(owner_id))
        for owner_id in {rule.subscription.owner_id for rule in found}
    }
    return [_explain(rule, event, facts[rule.subscription.owner_id]) for rule in found]


def preview(
    event_type: str,
    tree: Any,
    *,
    owner: Any = None,
    using: str = "default",
    limit: int = 1000,
) -> Preview:
    """Which of the last `limit` events of this type or pattern the conditions would fire on.

    As many of them as can be judged within `PREVIEW_SECONDS`. With an `owner`, only among the
    events that this owner may receive. Raises `UnknownEventType` and `ConditionError`.
    """
    registry.require_pattern(event_type)
    conditions.validate(tree)
    types = [each.type for each in registry.matching(event_type)]
    events = Event.objects.using(using).filter(type__in=types, error="")
    if owner is not None:
        public = [each.type for each in registry.matching(event_type) if each.public]
        events = events.filter(models.Q(owner=owner) | models.Q(type__in=public))
    recent = list(events.order_by("-occurred_at", "-id").values_list("pk", flat=True)[:limit])
    until, kinds = time.monotonic() + PREVIEW_SECONDS, kinds_of(types)
    checked = matched = 0
    shown: list[Event] = []
    near: list[tuple[int, Event]] = []
    for event in _read(recent, using):
        distance = conditions.distance(tree, facts_of(event, kinds))
        checked += 1
        matched += not distance
        if not distance and len(shown) < SHOWN:
            shown.append(event)
        elif distance:
            near = sorted([*near, (distance, event)], key=itemgetter(0))[:NEAR]  # newest first
        if time.monotonic() >= until:
            break
    return Preview(checked, matched, shown, [event for _distance, event in near])


def _read(ids: Sequence[str], using: str) -> Iterator[Event]:
    """The Events in the order of the ids, a few at a time: a thousand may fill the memory."""
    rows = Event.objects.using(using).defer("body")
    for start in range(0, len(ids), READ):
        lot = ids[start : start + READ]
        found = rows.in_bulk(lot)
        yield from (found[each] for each in lot if each in found)


def explain_delivery(delivery: Delivery) -> Explanation | None:
    """The rule that made a delivery and how it matched, by the rules as they are now.

    None if none of the subscription fires on the event any more.
    """
    if delivery.subscription is None:
        return None
    order = patterns_of(delivery.event.type)  # as in `match()`
    fired = [each for each in explain(delivery.event, delivery.subscription) if each.fired]
    return min(fired, key=lambda each: order.index(each.rule.event_type), default=None)


def judge(tree: Any, events: Sequence[Event]) -> list[conditions.Verdict]:
    """What each condition says of each of the events, as they were recorded."""
    kinds = kinds_of(event.type for event in events)
    return [conditions.explain(tree, facts_of(event, kinds)) for event in events]


def _fan_out_readable(ids: Sequence[str], kinds: Kinds, using: str) -> int:
    """Of a lot with Events that can't be read, those are set aside first: they go to nobody."""
    try:
        return on_contention(partial(_fan_out, ids, kinds, using), using)
    except (ValueError, RecursionError):  # as JSON raises them
        found = {pk: error for pk in ids if (error := _why_unreadable(pk, using)) is not None}
        if not found:
            raise
    for pk, error in found.items():
        logger.error("Event %s can't be read; it is sent to nobody: %r", pk, error)
        waiting = Event.objects.using(using).waiting().filter(pk=pk)
        reason = f"It can't be read: {error!r}"
        waiting.update(error=reason, fanned_out_at=database_now(using))
    return len(found)


def _why_unreadable(pk: str, using: str) -> Exception | None:
    try:
        Event.objects.using(using).defer("body").filter(pk=pk).first()
    except (ValueError, RecursionError) as error:
        return error
    return None


def _fan_out(ids: Sequence[str], kinds: Kinds, using: str) -> int:
    with transaction.atomic(using=using):
        events = Event.objects.using(using)
        mine = events.lock(ids, skip_locked=True).filter(fanned_out_at__isnull=True)
        locked = list(mine.with_now().defer("body").order_by("id"))
        if not locked:
            return 0
        now = locked[0].now
        taken, matches = _in_order(*_take(locked, kinds, using), using)
        _insert(_still_to_be_had(matches, using), now, using)
        events.filter(pk__in=[event.pk for event in taken]).update(fanned_out_at=now)
    return len(taken)


def _take(
    waiting: Sequence[Event], kinds: Kinds, using: str
) -> tuple[Sequence[Event], Sequence[Match]]:
    """The Events for one transaction, at least one, and their matches. The others wait on."""
    rules = _rules_for([event for event in waiting if not event.error], using)
    taken: list[Event] = []
    matches: list[Match] = []
    until = time.monotonic() + SECONDS
    for event in waiting:
        taken.append(event)
        matches += _judge(event, rules, kinds, using)
        if len(matches) >= MATCHES or time.monotonic() >= until:
            break
    return taken, matches


def _in_order(
    taken: Sequence[Event], matches: Sequence[Match], using: str
) -> tuple[Sequence[Event], Sequence[Match]]:
    """Without the Events that come after one which another worker fans out now, where that
    matters: after one of the same object, for who wants them in order; after any, for who wants
    the first only. They wait for the next time."""
    ordered = [event for event, rule in matches if rule.ordered and event.subject_id]
    once = [event for event, rule in matches if rule.mode == Mode.ONE_TIME]
    if not (ordered or once):
        return taken, matches
    waiting = Event.objects.using(using).waiting().exclude(pk__in=[event.pk for event in taken])
    late: set[str] = set()
    if once:
        oldest = waiting.order_by("pk").values_list("pk", flat=True).first()
        late |= {event.pk for event in once if oldest and event.pk > oldest}
    if ordered:
        earlier = waiting.filter(subject_id__in={event.subject_id for event in ordered})
        first: dict[str, str] = {}
        for other in earlier.only("subject_type", "subject_id").order_by("pk"):
            first.setdefault(other.order_key, other.pk)
        late |= {event.pk for event in ordered if event.pk > first.get(event.order_key, event.pk)}
    return (
        [event for event in taken if event.pk not in late],
        [(event, rule) for event, rule in matches if event.pk not in late],
    )


def _judge(
    event: Event, rules: Mapping[str, Sequence[RuleRow]], kinds: Kinds, using: str
) -> list[Match]:
    """The matches of one Event. One that can't be judged keeps the reason, and stops no other."""
    if event.error:
        return []
    try:
        return list(_match(event, rules, kinds))
    except DATA_ERRORS as error:
        logger.exception("Event %s could not be judged; it is sent to nobody.", event.pk)
        reason = f"It could not be judged: {error!r}"
        Event.objects.using(using).filter(pk=event.pk).update(error=reason)
        return []


def _match(event: Event, rules: Mapping[str, Sequence[RuleRow]], kinds: Kinds) -> Iterator[Match]:
    facts: dict[Any, conditions.Facts | None] = {}
    """By owner; None: it may not have the event, or its rules have cost too much."""
    verdicts: dict[str, bool] = {}
    told: set[int] = set()
    """Subscriptions, by the number of their id: a UUID's own hash takes as long as a condition."""
    for pattern in patterns_of(event.type):
        for rule in rules.get(pattern, ()):
            _pattern, tree, subscription_id, owner_id, _ordered, _mode = rule
            if owner_id not in facts:
                may = may_receive(owner_id, event)
                facts[owner_id] = facts_of(event, kinds, _steps_of(owner_id)) if may else None
            mine = facts[owner_id]
            if mine is None or subscription_id.int in told:
                continue
            holds = verdicts.get(tree)
            if holds is None:
                holds = conditions.evaluate(conditions.loads(tree), mine) is True
                if not holds and mine.is_spent:
                    logger.error(
                        "Event %s: the rules of owner %s cost too much; some are not judged.",
                        event.pk,
                        owner_id,
                    )
                    facts[owner_id] = None
                    continue
                verdicts[tree] = holds
            if holds:
                told.add(subscription_id.int)
                yield event, rule


def _still_to_be_had(matches: Sequence[Match], using: str) -> list[Match]:
    """Without what a one-time subscription has had already; those that fire now are completed.

    The lock is what makes it exactly one: whoever comes second reads `completed`. Recurring ones
    need none, so that any number of workers make deliveries for them at once.
    """
    one_time = {rule.subscription_id for _event, rule in matches if rule.mode == Mode.ONE_TIME}
    if not one_time:
        return list(matches)
    modes = {
        pk: mode
        for pk, mode, status in _lock(one_time, using)
        if mode != Mode.ONE_TIME or status == ACTIVE
    }
    kept, completed = [], []
    for event, rule in matches:
        pk = rule.subscription_id
        if pk in one_time:
            if pk not in modes:
                continue
            if modes[pk] == Mode.ONE_TIME:
                if event.why_cut(pk, rule.owner_id):  # its one delivery is still to come
                    continue
                del modes[pk]
                completed.append(pk)
        kept.append((event, rule))
    for lot in _lots(completed):
        rows = Subscription.objects.using(using).filter(pk__in=lot)
        rows.update(status=Subscription.Status.COMPLETED)
    return kept


def _lock(ids: Iterable[Any], using: str) -> Iterator[tuple[Any, str, str]]:
    """Id, mode and status of those subscriptions that are there, locked."""
    # Their keys stay, so that whoever inserts what points to them need not wait.
    no_key = connections[using].features.has_select_for_no_key_update
    rows = Subscription.objects.using(using).select_for_update(no_key=no_key)
    # Always in one order, so that two workers never wait for each other.
    for lot in _lots(sorted(ids)):
        yield from rows.filter(pk__in=lot).order_by("pk").values_list("pk", "mode", "status")


def _lots(ids: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (ids[start : start + VALUES] for start in range(0, len(ids), VALUES))


def _insert(matches: Sequence[Match], now: Any, using: str) -> None:
    """A Delivery of each: due at once; or, where a loop is cut, cancelled, and there to be seen.

    Without those whose subscription was deleted meanwhile. Whoever deletes one from now on waits
    for the deliveries that are made here, and cancels them, too.
    """
    sentences = _sentences({(rule.event_type, rule.conditions) for _event, rule in matches})
    due: list[tuple[str, Any, str, str]] = []
    cut: list[tuple[str, Any, str, str]] = []
    for event, rule in matches:
        row = event.pk, rule.subscription_id, sentences[rule.event_type, rule.conditions]
        if reason := event.why_cut(rule.subscription_id, rule.owner_id):
            logger.warning("Event %s isn't sent to %s. %s", event.pk, rule.subscription_id, reason)
            cut.append((*row, reason))
        else:
            due.append((*row, event.order_key if rule.ordered else ""))
    # An Event is fanned out once; the constraint stands behind that, not the other way round.
    add = partial(insert_alike, parent="subscription", using=using)
    names = ("event", "subscription", "matched")
    add(Delivery(created_at=now, next_attempt_at=now), (*names, "order_key"), due)
    cancelled = Delivery(created_at=now, completed_at=now, status=Delivery.Status.CANCELLED)
    add(cancelled, (*names, "reason"), cut)


def _sentences(wordings: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Each pattern and tree in words."""
    rule, found = Rule(), {}
    for pattern, tree in wordings:
        rule.event_type, rule.conditions = pattern, conditions.loads(tree)
        found[pattern, tree] = str(rule)[:SENTENCE]
    return found


def _rules_for(events: Sequence[Event], using: str) -> dict[str, list[RuleRow]]:
    """The active rules by pattern that may fire on any of the events: one query."""
    patterns = {pattern for event in events for pattern in patterns_of(event.type)}
    rules = Rule.objects.using(using).active().filter(event_type__in=patterns)
    if not any(_is_public(event) for event in events):
        owners = {event.owner_id for event in events} - {None}
        wanted = owner_matches("subscription__owner", None)
        if owners:
            wanted |= models.Q(subscription__owner__in=owners)
        rules = rules.filter(wanted)
    own = ("event_type", "conditions_text", "subscription_id")
    joined = [f"subscription__{each}" for each in ("owner_id", "ordered", "mode")]
    rows = rules.order_by("pk").values_list(*own, *joined)
    found: dict[str, list[RuleRow]] = {}
    make = partial(tuple.__new__, RuleRow)  # `_make` counts the columns of each row
    for rule in map(make, rows):
        found.setdefault(rule.event_type, []).append(rule)
    return found


def _kinds_of(event_type: str) -> Mapping[str, str]:
    known = registry.get_type(event_type)
    try:
        return known.webhook.kinds() if known and known.webhook else {}
    except Exception:
        logger.exception(
            "The fields of %s can't be described; conditions are judged without their kinds.",
            event_type,
        )
        return {}


def _is_public(event: Event) -> bool:
    known = registry.get_type(event.type)
    return known is not None and known.public


def _explain(rule: Rule, event: Event, facts: conditions.Facts) -> Explanation:
    subscription = rule.subscription
    found = partial(Explanation, rule, waits=event.fanned_out_at is None)
    if rule.event_type not in patterns_of(event.type):
        return found(False, why_deaf(rule, event))
    if event.error:
        return found(False, _("The event is sent to nobody: ") + event.error)
    if not may_receive(subscription.owner_id, event):
        return found(False, _("The event belongs to another owner."))
    verdict = conditions.explain(rule.conditions, facts)
    holds = verdict.value is True
    if holds and (cut := event.why_cut(subscription.pk, subscription.owner_id)):
        return found(False, cut, verdict)
    if holds and not event.deliveries.filter(subscription=subscription).exists():
        will_fire = event.fanned_out_at is None and subscription.status == ACTIVE
        reason = _why_undelivered(subscription, event)
        return found(False, reason, verdict, will_fire=will_fire)
    return found(holds, verdict.reason or verdict.sentence, verdict)


def _why_undelivered(subscription: Subscription, event: Event) -> str:
    """Why there is no delivery, although the conditions of a rule hold now."""
    if event.fanned_out_at is None and subscription.status == ACTIVE:
        return _("The conditions hold: a worker will make the delivery.")
    if event.fanned_out_at is not None and subscription.created_at > event.fanned_out_at:
        return _("The conditions hold, but the subscription was made after this event.")
    if subscription.status != ACTIVE:
        reason = _("The conditions hold, but there is no delivery: the subscription is %s now.")
        return reason % subscription.get_status_display()
    return _(
        "The conditions hold now; when it happened the rule was another, or not active, or the "
        "rules of its owner had cost too much."
    )
