"""What would be sent for an object, to the byte, and is not."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from django.db import models, router, transaction
from django.utils.translation import gettext as _

from django_webhooks import delivery, fanout, hops, outbox, payloads
from django_webhooks.conditions import Facts, Verdict, explain
from django_webhooks.delivery import MASKED
from django_webhooks.models import Delivery, Event, Rule, Subscription, label_of
from django_webhooks.registry import EventType, ModelWebhook, patterns_of
from django_webhooks.signing import generate_secret


@dataclass(frozen=True)
class Rehearsal:
    """A request that is not made, or why there would be none."""

    reason: str = ""
    """Why nothing would be sent, whatever the conditions say; empty if they decide."""
    verdict: Verdict | None = None
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""

    @property
    def fires(self) -> bool:
        return not self.reason and self.verdict is not None and self.verdict.value is True


def rehearse(
    event_type: EventType, instance: models.Model, rule: Rule, subscription: Subscription
) -> Rehearsal:
    """What `rule` would send if `instance`, as it is now, were the subject of such an event.

    There is no value before the change, for nothing changes. Never raises: rendering is the
    project's code, and what it raises is the reason.
    """
    webhook = event_type.webhook
    assert webhook is not None
    try:
        # Should a query fail, it must not take the transaction of the page with it.
        with transaction.atomic(using=router.db_for_read(type(instance), instance=instance)):
            if not webhook.should_publish(instance, event_type.action, frozenset()):
                return Rehearsal(_("Its should_publish() says no: there would be no event."))
            event = _compose(webhook, event_type, instance)
    except Exception as error:
        return Rehearsal(_("It can't be rendered: %s") % f"{type(error).__name__}: {error}")
    kinds = fanout.kinds_of([event.type])[event.type]
    verdict = explain(rule.conditions, Facts(event.data, None, kinds))
    return Rehearsal(
        reason=_why_not(event, rule, subscription),
        verdict=verdict,
        url=subscription.url,
        headers=_headers(event, subscription),
        body=event.body,
    )


def _compose(webhook: ModelWebhook, event_type: EventType, instance: models.Model) -> Event:
    event = outbox.compose(
        event_type.type,
        payloads.nest(webhook.render(instance)),
        action=event_type.action,
        owner=webhook.get_owner(instance),
    )
    event.subject_type, event.subject_id = label_of(webhook.model), str(instance.pk)
    return event


def _why_not(event: Event, rule: Rule, subscription: Subscription) -> str:
    if rule.event_type not in patterns_of(event.type):
        return fanout.why_deaf(rule, event)
    if not fanout.may_receive(subscription.owner_id, event):
        return _("The object belongs to another owner.")
    return ""


def _headers(event: Event, subscription: Subscription) -> dict[str, str]:
    """As they would be, but for what is secret: nobody may learn to sign from a rehearsal."""
    parcel = delivery.pack(Delivery(event=event, subscription=subscription))
    unsigned = replace(parcel, secrets=[generate_secret()])
    headers = delivery.standard_headers(unsigned, int(event.occurred_at.timestamp()))
    headers["webhook-signature"] = f"{subscription.signature},{MASKED}"
    signed, _colon, _signature = headers[hops.HEADER].rpartition(":")
    headers[hops.HEADER] = f"{signed}:{MASKED}"
    return {**dict.fromkeys(parcel.headers, MASKED), **headers}
