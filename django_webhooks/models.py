"""The rows, how they are found, and the only legal changes of status.

The rows are the queue: an Event waits for its fan-out while `fanned_out_at` is null, and a
Delivery for its next request while `next_attempt_at` is not. A lease is a `next_attempt_at` in
the future with a token beside it: whoever holds the token may write the result, and if nobody
does, the row is simply due again.
"""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar, TypeVar

from django.apps import apps
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator
from django.db import connections, models, router
from django.db.models.functions import Cast, Now
from django.dispatch import receiver
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from django_webhooks import addresses, conditions, signing, transport
from django_webhooks.conf import MAX_TIMEOUT, settings
from django_webhooks.encryption import EncryptedJSONField, Unreadable
from django_webhooks.exceptions import (
    SecretError,
    UnknownEventType,
    UnreadableSecret,
    UnsafeURL,
)
from django_webhooks.hops import Chain, mark_of
from django_webhooks.registry import MAX_EVENT_TYPE_LENGTH, patterns_of, registry
from django_webhooks.retries import OPEN_AFTER, on_contention

logger = logging.getLogger("django_webhooks")

LOOK_AGAIN = 60.0
"""Seconds after which a database without the outbox is looked at again."""

Row = TypeVar("Row", bound=models.Model)


def outbox_aliases() -> list[str]:
    """The databases that hold the outbox: the routers allow it, and its tables have been made."""
    return [alias for alias in connections if holds_outbox(alias)]


def holds_outbox(alias: str) -> bool:
    """Found out once per database; where there is nothing, it is looked again after a while."""
    if not router.allow_migrate_model(alias, Event):
        return False
    if alias == router.db_for_write(Event):
        return True  # without its tables there, something is wrong, and should be heard of
    key = alias, str(connections[alias].settings_dict["NAME"])
    if _looked_at.get(key, 0.0) < time.monotonic():
        try:
            tables = connections[alias].introspection.table_names()
        except Exception:  # it is down, or a test forbids it: that is no answer to remember
            logger.info("Database %r could not be asked whether it holds the outbox.", alias)
            return False
        found = Event._meta.db_table in tables
        _looked_at[key] = math.inf if found else time.monotonic() + LOOK_AGAIN
    return _looked_at[key] == math.inf


_looked_at: dict[tuple[str, str], float] = {}


class DatabaseNow(Now):
    """The database's own clock, in the zone of all that Django stores."""

    def as_mysql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        # MySQL's CURRENT_TIMESTAMP is in the zone of the session, which Django leaves alone.
        template = "UTC_TIMESTAMP(6)"
        if not settings.USE_TZ:
            local = datetime.now(timezone.get_default_timezone()).utcoffset() or timedelta(0)
            template += f" + INTERVAL {local.total_seconds():.0f} SECOND"
        return self.as_sql(compiler, connection, template=f"({template})", **extra)


def database_now(using: str, plus: timedelta = timedelta(0)) -> Any:
    """An expression for this moment by the database's clock; SQLite's clock is the host's."""
    if connections[using].vendor == "sqlite":
        # SQLite's own has milliseconds only: what was just written would not be due yet.
        return models.Value(timezone.now() + plus, output_field=models.DateTimeField())
    return DatabaseNow() + plus if plus else DatabaseNow()


class OutboxQuerySet(models.QuerySet[Row]):
    """What the tables that work as queues share."""

    def with_now(self) -> Any:
        """Each row with `now`, the moment of the query by the database's clock."""
        return self.annotate(now=database_now(self.db))

    def lock(self, ids: Sequence[Any], *, skip_locked: bool = False) -> Any:
        """The rows of `ids`, locked until the transaction ends.

        Rows that another holds are waited for, or left out with `skip_locked`.
        SQLite has one lock for all, taken at the first write: a transaction that reads first
        and writes later fails when another wrote in between.
        """
        rows = self.filter(pk__in=ids)
        features = connections[self.db].features
        if features.has_select_for_update:
            skip = skip_locked and features.has_select_for_update_skip_locked
            return rows.order_by("pk").select_for_update(skip_locked=skip)
        rows.filter(pk__in=list(ids)[:1]).update(**{self.untouched: models.F(self.untouched)})
        return rows

    untouched: ClassVar[str] = "created_at"


def owner_matches(owner_field: str, owner_id: Any) -> models.Q:
    """Subscriptions of nobody (made by staff) or of this very owner. Fails closed on None."""
    unowned = models.Q(**{f"{owner_field}__isnull": True})
    return unowned if owner_id is None else unowned | models.Q(**{owner_field: owner_id})


# Subscription


def modes() -> list[tuple[str, Any]]:
    return Subscription.Mode.choices


def signatures() -> list[tuple[str, Any]]:
    return Subscription.Signature.choices


def subscription_statuses() -> list[tuple[str, Any]]:
    return Subscription.Status.choices


SHARED_FIELDS = (
    "secrets",
    "status",
    "disabled_reason",
    "next_slot_at",
    "failing_since",
    "failure_count",
    "held_until",
    "challenge",
    "locked",
)
"""Columns that a worker or a verb may have written since a row was read."""


MIN_PER_SECOND, MAX_PER_SECOND = 0.001, 1000

FOR_OPERATORS = "operator"
"""The code of messages that are for those who run the site: customers can't follow them."""


UNANSWERED = "Its endpoint has not answered the challenge yet."
VOID = "void"
"""In the place of a challenge that no answer counts for any more."""


def make_secrets(secret: str = "") -> list[dict[str, Any]]:
    """The one secret of a new subscription, generated if none is given."""
    return [{"secret": secret or signing.generate_secret(), "expires_at": None}]


class SubscriptionQuerySet(OutboxQuerySet["Subscription"]):
    def active(self) -> SubscriptionQuerySet:
        return self.filter(status=Subscription.Status.ACTIVE)

    def with_something_due(self) -> SubscriptionQuerySet:
        """Those that have a Delivery that may be sent now, as far as it itself is concerned."""
        due = Delivery.objects.using(self.db).due().filter(subscription=models.OuterRef("pk"))
        # Not Exists(): PostgreSQL would plan for all that is due of each, and take a third of a
        # second to compile (JIT) what then reads a few rows. In the order of an index that begins
        # with the subscription: in another, all that is due of others is read on the way.
        first = models.Subquery(due.order_by("completed_at").values("pk")[:1])
        return self.alias(first_due=first).filter(first_due__isnull=False)

    def held_back(self) -> SubscriptionQuerySet:
        """Those that may have no request right now, by their rate or their failures."""
        now = database_now(self.db)
        return self.filter(models.Q(held_until__gt=now) | models.Q(next_slot_at__gt=now))

    def let_through(self) -> int:
        """A person wants a request made now: no endpoint of these is held back until later."""
        return self.filter(held_until__isnull=False).update(held_until=None)

    def owned_by(self, owner: Any) -> SubscriptionQuerySet:
        """Only this owner's. `None` is nobody: an empty set."""
        return self.none() if owner is None else self.filter(owner=owner)


class Subscription(models.Model):
    """Someone's wish to be told: an endpoint, its secret, and rules that say what of."""

    class Mode(models.TextChoices):
        RECURRING = "recurring", _("recurring: each match")
        ONE_TIME = "one_time", _("one-time: the first match only")

    class Signature(models.TextChoices):
        V1 = signing.VERSION, _("v1: by a secret that the receiver has, too")
        V1A = (
            signing.ASYMMETRIC_VERSION,
            _("v1a: by a key of which the receiver has the public one"),
        )

    class Status(models.TextChoices):
        ACTIVE = "active", _("active")
        PAUSED = "paused", _("paused")
        DISABLED = "disabled", _("disabled")
        COMPLETED = "completed", _("completed")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(
        settings.OWNER_MODEL,
        verbose_name=_("owner"),
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        help_text=_("Receives only this owner's events, and public ones. Empty: all events."),
    )
    name = models.CharField(_("name"), max_length=200, blank=True)
    url = models.CharField(
        _("URL"), max_length=2048, help_text=_("The endpoint that the requests are sent to.")
    )
    mode = models.CharField(_("mode"), max_length=16, choices=modes, default=Mode.RECURRING)
    status = models.CharField(
        _("status"), max_length=16, choices=subscription_statuses, default=Status.ACTIVE
    )
    headers = EncryptedJSONField(
        _("headers"),
        default=dict,
        blank=True,
        help_text=_('Sent with each request, as in {"Authorization": "Bearer …"}.'),
    )
    signature = models.CharField(
        _("signature"), max_length=8, choices=signatures, default=Signature.V1
    )
    secrets = EncryptedJSONField(default=make_secrets, editable=False)
    timeout = models.FloatField(
        _("timeout"),
        null=True,
        blank=True,
        validators=[MaxValueValidator(MAX_TIMEOUT)],
        help_text=_("Seconds for a whole exchange. Empty: the TIMEOUT setting."),
    )
    max_per_second = models.FloatField(
        _("requests per second"), null=True, blank=True, help_text=_("Empty: no limit.")
    )
    ordered = models.BooleanField(
        _("in order"),
        default=False,
        help_text=_(
            "The events of one object arrive in their order, one at a time: each waits until the "
            "one before has succeeded or been given up."
        ),
    )
    next_slot_at = models.DateTimeField(null=True, editable=False)
    disabled_reason = models.CharField(_("disabled because"), max_length=500, blank=True)
    failing_since = models.DateTimeField(_("failing since"), null=True, editable=False)
    failure_count = models.PositiveIntegerField(_("failures in a row"), default=0, editable=False)
    held_until = models.DateTimeField(_("held back until"), null=True, editable=False)
    challenge = models.CharField(max_length=40, blank=True, default="", editable=False)
    """The id of the Event that its endpoint has to answer before it is active; mostly empty."""
    locked = models.BooleanField(default=False, editable=False)
    """Disabled by staff, who alone resume it."""
    request_digest = models.CharField(max_length=64, blank=True, default="", editable=False)
    """What it was made from, where its id was made from an `Idempotency-Key`."""
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("changed"), auto_now=True)

    _remembered: Mapping[str, Any] = {}

    objects = SubscriptionQuerySet.as_manager()

    class Meta:
        verbose_name = _("subscription")
        verbose_name_plural = _("subscriptions")
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["status"], name="webhooks_subscription_status")]

    def __str__(self) -> str:
        return self.name or self.url

    def __repr__(self) -> str:
        return f"<Subscription {self.pk}>"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Columns that others write, too, are left alone unless they were changed here.

        Or whoever renames a subscription would undo its completion, or the rotation of its secret.
        """
        if not args and not self._state.adding and not set(kwargs) - {"using"}:
            known = self._remembered.items()
            untouched = {name for name, value in known if getattr(self, name) == value}
            names = {field.name for field in self._meta.concrete_fields if not field.primary_key}
            kwargs["update_fields"] = names - untouched - self.get_deferred_fields()
        super().save(*args, **kwargs)
        self._remember()

    def clean(self) -> None:
        """`ValidationError` keyed by field; the URL is normalised (an IDN to its A-label)."""
        problems: dict[str, list[Any]] = {}
        try:
            self.url = addresses.check_url(
                self.url,
                allow_http=settings.ALLOW_HTTP,
                allowed_networks=settings.ALLOWED_NETWORKS,
            )
        except UnsafeURL as error:
            problems["url"] = [error.problem, *_for_operators(error.hint)]
        try:
            if not isinstance(self.headers, Unreadable):
                transport.check_headers(self.headers)
        except ValueError as error:
            problems["headers"] = [str(error)]
        if self.signature == self.Signature.V1A and not settings.SIGNING_KEYS:
            problems["signature"] = [
                str(_("v1a is not offered here.")),
                *_for_operators(str(_("It needs the setting SIGNING_KEYS, which is not set."))),
            ]
        if not self.name.isprintable():
            problems["name"] = [str(_("Has a line break or a control character: remove it."))]
        if isinstance(self.timeout, int | float) and not self.timeout > 0:
            problems["timeout"] = [str(_("Must be above 0, or empty."))]
        rate = self.max_per_second
        if isinstance(rate, int | float) and not MIN_PER_SECOND <= rate <= MAX_PER_SECOND:
            problems["max_per_second"] = [
                str(_("Must be from %(least)g to %(most)g, or empty."))
                % {"least": MIN_PER_SECOND, "most": MAX_PER_SECOND}
            ]
        if problems:
            raise ValidationError(problems)

    @classmethod
    def from_db(cls, *args: Any, **kwargs: Any) -> Subscription:
        subscription = super().from_db(*args, **kwargs)
        subscription._remember()
        return subscription

    def refresh_from_db(self, *args: Any, **kwargs: Any) -> None:
        super().refresh_from_db(*args, **kwargs)
        self._remember()

    def _remember(self) -> None:
        """What the shared columns hold, as far as is known here."""
        known = self.__dict__
        self._remembered = {name: known[name] for name in SHARED_FIELDS if name in known}

    @property
    def secret(self) -> str:
        """The newest secret of `v1`. `UnreadableSecret` when its key is lost."""
        return self._shared_secrets()[0]

    @secret.setter
    def secret(self, value: str) -> None:
        try:
            signing.decode_secret(value)
        except SecretError as error:
            problem = [error.problem, *_for_operators(error.hint)]
            raise ValidationError({"secret": problem}) from error
        self.secrets = make_secrets(value)

    @property
    def signing_secrets(self) -> list[str]:
        """What signs now, newest first: the secrets of `v1`, or the signing keys of `v1a`.

        Never the one in place of the other: `UnreadableSecret` when they are not to be had.
        """
        if self.signature == self.Signature.V1:
            return self._shared_secrets()
        if keys := self._signing_keys():
            return keys
        raise UnreadableSecret("v1a needs keys: set DJANGO_WEBHOOKS['SIGNING_KEYS'].")

    @property
    def public_keys(self) -> list[str]:
        """What verifies `v1a`, newest first; empty without `SIGNING_KEYS`.

        They are there before `signature` is changed, so that the receiver can be prepared.
        """
        return [signing.public_key_of(key) for key in self._signing_keys()]

    def _signing_keys(self) -> list[str]:
        """One per subscription: what was sent to one receiver must not pass at another."""
        pk = self._meta.pk.to_python(self.pk)
        return [signing.derive_signing_key(key, str(pk)) for key in settings.SIGNING_KEYS]

    def _shared_secrets(self) -> list[str]:
        if isinstance(self.secrets, Unreadable):
            raise UnreadableSecret(
                "The subscription's secret can't be read: put the key it was written with back "
                "into DJANGO_WEBHOOKS['SECRET_KEYS'], or rotate the secret."
            )
        now = timezone.now().timestamp()
        return [
            each["secret"]
            for each in self.secrets
            if each["expires_at"] is None or each["expires_at"] > now
        ]

    def rotate_secret(self, overlap: timedelta = timedelta(hours=24)) -> str:
        """A new secret, saved at once; the one before still signs, too, for `overlap`.

        An overlap of zero is for a secret that has leaked.
        """
        expires_at = timezone.now().timestamp() + overlap.total_seconds()
        old = [] if isinstance(self.secrets, Unreadable) else self._shared_secrets()[:1]
        new = signing.generate_secret()
        self.secrets = [
            {"secret": new, "expires_at": None, "rotated": True},
            *({"secret": each, "expires_at": expires_at} for each in old if overlap),
        ]
        self.save(update_fields=["secrets", "updated_at"])
        return new

    def old_secret_expires_at(self) -> datetime | None:
        """When the secret before the newest stops signing; None if there is none."""
        if isinstance(self.secrets, Unreadable) or len(self.secrets) < 2:
            return None
        return datetime.fromtimestamp(
            self.secrets[1]["expires_at"], tz=timezone.get_default_timezone()
        )

    @property
    def is_open(self) -> bool:
        """Whether its endpoint has failed so often that it gets one probe at a time."""
        return self.failure_count >= OPEN_AFTER

    # Changes of status: each says whether there was one

    def pause(self) -> bool:
        """Nothing is sent, and no new Event is matched, until `resume()`. What is due waits."""
        return self._change_status(self.Status.PAUSED, models.Q(status=self.Status.ACTIVE))

    def resume(self, *, unlock: bool = False) -> bool:
        """Active again after a pause, or once what disabled it is mended; what waited is due.

        A one-time subscription that has had its delivery is completed again. A challenge that
        its endpoint has not answered is waived. What is locked is resumed with `unlock` only; if
        a challenge is unanswered, too, that lifts the lock alone, and False is returned.
        """
        unverified = models.Q(locked=True) & ~models.Q(challenge="")
        still = {"disabled_reason": UNANSWERED, "challenge": models.F("challenge")}
        if unlock and self._change_status(self.Status.DISABLED, unverified, **still):
            return False
        stopped = models.Q(status__in=[self.Status.PAUSED, self.Status.DISABLED])
        return self._reactivate(stopped if unlock else stopped & models.Q(locked=False))

    def verify(self, event: Event) -> bool:
        """Its endpoint has answered the challenge `event`: active, unless that was long ago."""
        return self._reactivate(models.Q(status=self.Status.DISABLED, challenge=event.pk))

    def disable(
        self,
        reason: str,
        only_from: Sequence[str] = (),
        *,
        challenge: Event | None = None,
        lock: bool = False,
    ) -> bool:
        """Stopped because of `reason`; what is due waits for a person to resume or cancel it.

        With a `challenge` it is only until its endpoint has answered this Event. If it had one to
        answer already, that is void, and another has to be sent. With `lock` its owner can't
        resume it.
        """
        # By what stands in the row now: it may have got one since it was read.
        none = models.When(challenge="", then=models.Value(""))
        void = models.Case(none, default=models.Value(VOID))
        return self._change_status(
            self.Status.DISABLED,
            models.Q(status__in=only_from) if only_from else models.Q(),
            disabled_reason=reason[:500],
            challenge=challenge.pk if challenge else void,
            locked=lock,
        )

    def _reactivate(self, only: models.Q) -> bool:
        using = router.db_for_write(Subscription, instance=self)
        had = Delivery.objects.using(using).filter(subscription=self).exclude(matched="")
        fired = self.mode == self.Mode.ONE_TIME and had.exists()
        # After a pause alone its endpoint is as it was: whoever pauses and resumes resets nothing.
        forgiven = {"failing_since": None, "failure_count": 0, "held_until": None}
        return self._change_status(
            self.Status.COMPLETED if fired else self.Status.ACTIVE,
            only,
            **(forgiven if self.status == self.Status.DISABLED else {}),
        )

    def _change_status(self, status: str, only: models.Q, **changes: Any) -> bool:
        changes = {"disabled_reason": "", "challenge": "", "locked": False, **changes}
        changes |= {"status": status, "updated_at": timezone.now()}
        using = router.db_for_write(Subscription, instance=self)
        rows = Subscription.objects.using(using).filter(only, pk=self.pk)
        if not on_contention(partial(rows.update, **changes), using):
            return False
        computed = [name for name, value in changes.items() if hasattr(value, "resolve_expression")]
        for name, value in changes.items():
            if name not in computed:
                setattr(self, name, value)
        if computed:
            self.refresh_from_db(using=using, fields=computed)
        self._remember()
        return True


def _for_operators(hint: str) -> list[ValidationError]:
    return [ValidationError(hint, code=FOR_OPERATORS)] if hint else []


@receiver(models.signals.pre_delete, sender=Subscription)
def cancel_deliveries_of_deleted(instance: Subscription, using: str, **kwargs: Any) -> None:
    """Also those that a fan-out makes meanwhile: it holds a lock on the subscription."""
    deliveries = Delivery.objects.using(using).filter(subscription=instance)
    reason = f"The subscription {instance} was deleted."
    # Deliveries before their subscription: that is the order in which `settle()` locks them.
    deliveries.cancel(reason)
    row = Subscription.objects.using(using).filter(pk=instance.pk)
    list(row.select_for_update().values_list("pk"))
    deliveries.cancel(reason)


# Rule


class RuleQuerySet(models.QuerySet["Rule"]):
    def active(self) -> RuleQuerySet:
        return self.filter(subscription__status=Subscription.Status.ACTIVE)

    def listening_to(self, event_type: str) -> RuleQuerySet:
        """The active rules whose pattern matches `event_type`."""
        return self.active().filter(event_type__in=patterns_of(event_type))


class Rule(models.Model):
    """Which events a subscription wants: a pattern of types and conditions on the data."""

    subscription = models.ForeignKey(
        Subscription, verbose_name=_("subscription"), on_delete=models.CASCADE, related_name="rules"
    )
    event_type = models.CharField(
        _("event type"),
        max_length=MAX_EVENT_TYPE_LENGTH + 2,
        help_text=_("An event type, or a pattern: “shop.order.*”, “*”."),
    )
    conditions = models.JSONField(
        _("conditions"),
        default=dict,
        blank=True,
        help_text=_("A tree of conditions as JSON; {} is always true."),
    )
    conditions_text = models.GeneratedField(
        verbose_name=_("conditions as text"),
        expression=Cast("conditions", models.TextField()),
        output_field=models.TextField(),
        db_persist=True,
        serialize=False,
    )
    """What matching reads: PostgreSQL takes as long to write JSON as text as for all the rest."""

    label: Callable[[str], str] | None = None
    """Gives a field's path its name in the sentence; without, it is the path."""

    objects = RuleQuerySet.as_manager()

    class Meta:
        verbose_name = _("rule")
        verbose_name_plural = _("rules")
        indexes = [
            models.Index(fields=["event_type", "subscription"], name="webhooks_rule_event_type")
        ]

    def __str__(self) -> str:
        """The rule as a sentence: "order updated, when status changes to “paid”"."""
        event = registry.describe(self.event_type)
        when = conditions.describe(self.conditions, self.label)
        words = {"event": event, "conditions": when}
        return str(_("%(event)s, when %(conditions)s")) % words if when else event

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.clean()
        super().save(*args, **kwargs)

    def clean(self) -> None:
        """`ValidationError` keyed by field; those of conditions begin with a path in the tree."""
        problems: dict[str, list[str]] = {}
        try:
            registry.require_pattern(str(self.event_type))
        except UnknownEventType as error:
            problems["event_type"] = [str(error)]
        if found := conditions.problems(self.conditions):
            problems["conditions"] = [str(each) for each in found]
        if problems:
            raise ValidationError(problems)


# Event


def make_event_id() -> str:
    """`evt_` and 32 hex digits that begin with the time, so that new rows lie side by side."""
    return f"evt_{time.time_ns():016x}{secrets.token_hex(8)}"


class EventQuerySet(OutboxQuerySet["Event"]):
    untouched = "occurred_at"

    def waiting(self) -> EventQuerySet:
        """Those not fanned out yet."""
        return self.filter(fanned_out_at__isnull=True)

    def about(self, subject: models.Model) -> EventQuerySet:
        """The events of one object."""
        return self.filter(subject_type=label_of(subject), subject_id=str(subject.pk))


def label_of(model: models.Model | type[models.Model]) -> str:
    """`shop.order` of an order, of its model, and of any proxy of it."""
    return (model._meta.concrete_model or model)._meta.label_lower


class Event(models.Model):
    """Something happened. Written in the transaction of the change, and never changed."""

    id = models.CharField(primary_key=True, max_length=40, default=make_event_id, editable=False)
    type = models.CharField(_("type"), max_length=MAX_EVENT_TYPE_LENGTH)
    action = models.CharField(_("action"), max_length=16, blank=True)
    data = models.JSONField(_("data"), default=dict)
    previous = models.JSONField(_("previous"), default=dict)
    body = models.TextField(_("body"), blank=True)
    subject_type = models.CharField(_("model"), max_length=201, blank=True)
    subject_id = models.CharField(_("object"), max_length=255, blank=True)
    # Not a constraint: the owner may be deleted by the very transaction that writes the Event.
    owner = models.ForeignKey(
        settings.OWNER_MODEL,
        verbose_name=_("owner"),
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        blank=True,
        related_name="+",
    )
    occurred_at = models.DateTimeField(_("occurred"), default=timezone.now)
    fanned_out_at = models.DateTimeField(_("fanned out"), null=True, editable=False)
    hops = models.PositiveSmallIntegerField(_("hops"), default=1, editable=False)
    """1, and one more for each webhook in the chain that caused it."""
    through = models.JSONField(default=list, editable=False)
    """Whom the chain has been through since `MAX_HOPS`, as marks: to them it is not sent."""
    error = models.TextField(_("error"), blank=True, help_text=_("Why it is sent to nobody."))

    objects = EventQuerySet.as_manager()

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        ordering = ["-occurred_at", "-id"]
        indexes = [
            models.Index(fields=["fanned_out_at", "id"], name="webhooks_event_waiting"),
            models.Index(fields=["type", "occurred_at"], name="webhooks_event_type"),
            models.Index(fields=["subject_id", "subject_type"], name="webhooks_event_subject"),
            models.Index(fields=["occurred_at"], name="webhooks_event_occurred"),
        ]

    def __str__(self) -> str:
        return f"{self.type} ({self.id})"

    @property
    def subject(self) -> models.Model | None:
        """The object that it is about, as it is now; None if it is gone or there is none."""
        if not self.subject_type:
            return None
        try:
            model = apps.get_model(self.subject_type)
            found: models.Model | None = (
                model._base_manager.using(self._state.db).filter(pk=self.subject_id).first()
            )
        except (LookupError, ValueError, ValidationError):
            return None
        return found

    @subject.setter
    def subject(self, value: models.Model | None) -> None:
        self.subject_type, self.subject_id = "", ""
        if value is not None:  # an object may be false
            self.subject_type, self.subject_id = label_of(value), str(value.pk)

    @property
    def chain(self) -> Chain:
        """The webhooks that led to it."""
        return Chain(self.hops, tuple(self.through))

    @chain.setter
    def chain(self, value: Chain) -> None:
        self.hops, self.through = value.hops, list(value.through)

    def why_cut(self, subscription_id: Any, owner_id: Any) -> str:
        """Why it is not sent to a subscription that is in a loop; empty if it is not."""
        through = self.through if isinstance(self.through, list) else []
        if not through or mark_of(subscription_id, owner_id) not in through:
            return ""
        return (
            f"A loop, cut after MAX_HOPS: {self.hops} hops. Each event of the chain was caused "
            "by a webhook of the one before, the last of them by one to this subscription, or to "
            "another of its owner."
        )

    @property
    def order_key(self) -> str:
        """The same for all events of one object; empty without an object."""
        if not self.subject_id:
            return ""
        text = f"{self.subject_type}:{self.subject_id}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


# Delivery


def delivery_statuses() -> list[tuple[str, Any]]:
    return Delivery.Status.choices


class DeliveryQuerySet(OutboxQuerySet["Delivery"]):
    def pending(self) -> DeliveryQuerySet:
        return self.filter(status=Delivery.Status.PENDING)

    def sendable(self) -> DeliveryQuerySet:
        """Pending, and nothing about the subscription holds them back."""
        status = models.Q(
            subscription__status__in=(
                Subscription.Status.ACTIVE,
                Subscription.Status.COMPLETED,  # its one delivery is still to be made
            )
        )
        # Until the endpoint has answered it, this is all that is sent.
        challenge = models.Q(subscription__challenge=models.F("event_id"))
        return self.pending().filter(status | challenge)

    def due(self) -> DeliveryQuerySet:
        """Those that may be sent now, as far as they themselves are concerned."""
        due = self.sendable().filter(next_attempt_at__lte=database_now(self.db))
        earlier = Delivery.objects.using(self.db).filter(
            subscription=models.OuterRef("subscription"),
            order_key=models.OuterRef("order_key"),
            # PostgreSQL takes all keys for equal, and would read the whole table without this.
            order_key__gt="",
            event_id__lt=models.OuterRef("event_id"),
        )
        return due.filter(models.Q(order_key="") | ~models.Exists(earlier))

    def in_flight(self) -> DeliveryQuerySet:
        return self.pending().filter(lease_token__isnull=False)

    def held_by(self, token: uuid.UUID) -> DeliveryQuerySet:
        return self.filter(lease_token=token)

    def lease(self, token: uuid.UUID, time: timedelta) -> int:
        """Take what is due, for that long: counts the attempt. Returns how many rows were taken."""
        return self.filter(
            status=Delivery.Status.PENDING, next_attempt_at__lte=database_now(self.db)
        ).update(
            lease_token=token,
            next_attempt_at=database_now(self.db, plus=time),
            attempt_count=models.F("attempt_count") + 1,
        )

    def release(self, tokens: Iterable[uuid.UUID | None], wait: timedelta = timedelta(0)) -> int:
        """Give back what was leased with one of `tokens` and not started: due after `wait`, the
        attempt not counted."""
        held = [token for token in tokens if token is not None]
        return (
            self.in_flight()
            .filter(lease_token__in=held)
            .update(
                lease_token=None,
                next_attempt_at=database_now(self.db, plus=wait),
                attempt_count=models.F("attempt_count") - 1,
            )
        )

    def complete(self, status: str, now: datetime, reason: str = "", **more: Any) -> int:
        return self.update(
            status=status,
            completed_at=now,
            next_attempt_at=None,
            lease_token=None,
            order_key="",
            reason=reason[:500],
            **more,
        )

    def retry_at(self, when: datetime, reason: str = "", **more: Any) -> int:
        return self.update(next_attempt_at=when, lease_token=None, reason=reason[:500], **more)

    def cancel(self, reason: str) -> int:
        """End what is still pending without sending it. Returns how many were."""
        return self.pending().complete(Delivery.Status.CANCELLED, timezone.now(), reason)

    def reopen(self) -> int:
        """Send again what has ended: the whole schedule from its start, the history kept."""
        return self.exclude(status=Delivery.Status.PENDING).update(
            status=Delivery.Status.PENDING,
            next_attempt_at=database_now(self.db),
            first_attempt=models.F("attempt_count") + 1,
            completed_at=None,
            reason="",
        )


class Delivery(models.Model):
    """One Event for one Subscription, until it has arrived or has been given up."""

    class Status(models.TextChoices):
        PENDING = "pending", _("pending")
        SUCCEEDED = "succeeded", _("succeeded")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")

    # Neither has an index of its own: each begins one of those below.
    event = models.ForeignKey(
        Event,
        verbose_name=_("event"),
        on_delete=models.CASCADE,
        related_name="deliveries",
        db_index=False,
    )
    subscription = models.ForeignKey(
        Subscription,
        verbose_name=_("subscription"),
        on_delete=models.SET_NULL,
        null=True,
        related_name="deliveries",
        db_index=False,
    )
    matched = models.TextField(
        _("matched rule"), blank=True, help_text=_("The rule as it read when it matched.")
    )
    status = models.CharField(
        _("status"), max_length=16, choices=delivery_statuses, default=Status.PENDING
    )
    attempt_count = models.PositiveIntegerField(_("attempts"), default=0)
    first_attempt = models.PositiveIntegerField(default=1, editable=False)
    next_attempt_at = models.DateTimeField(_("next attempt"), null=True, blank=True)
    lease_token = models.UUIDField(null=True, editable=False)
    order_key = models.CharField(max_length=32, blank=True, default="", editable=False)
    """Of an object's event that is still to be delivered in order; empty for all others."""
    completed_at = models.DateTimeField(_("completed"), null=True, blank=True)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    status_code = models.PositiveSmallIntegerField(null=True, editable=False)
    """The HTTP status of the last attempt's answer; None if there was none."""
    created_at = models.DateTimeField(_("created"), default=timezone.now)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["event", "subscription"], name="webhooks_delivery_once")
        ]
        indexes = [
            models.Index(fields=["next_attempt_at", "id"], name="webhooks_delivery_due"),
            models.Index(
                fields=["subscription", "status", "completed_at"], name="webhooks_delivery_status"
            ),
            models.Index(fields=["status", "completed_at"], name="webhooks_delivery_completed"),
            models.Index(fields=["order_key", "subscription"], name="webhooks_delivery_order"),
        ]

    def __str__(self) -> str:
        return f"{self.event.type} → {self.subscription or _('(deleted)')}"

    @property
    def round(self) -> int:
        """The number of this attempt in the schedule, which a redelivery begins anew."""
        return self.attempt_count - self.first_attempt + 1


class Attempt(models.Model):
    """One request, and what came of it."""

    delivery = models.ForeignKey(
        Delivery, verbose_name=_("delivery"), on_delete=models.CASCADE, related_name="attempts"
    )
    number = models.PositiveIntegerField(_("number"))
    is_first = models.BooleanField(default=False, editable=False)
    """Of its round: the first of all, and the first after each redelivery."""
    started_at = models.DateTimeField(_("started"))
    duration_ms = models.PositiveIntegerField(_("duration (ms)"), default=0)
    url = models.CharField(_("URL"), max_length=2048)
    request_headers = models.JSONField(_("request headers"), default=dict)
    status_code = models.PositiveIntegerField(_("HTTP status"), null=True, blank=True)
    response_headers = models.JSONField(_("response headers"), default=dict)
    response_body = models.TextField(_("response body"), blank=True)
    error = models.CharField(_("error"), max_length=32, blank=True)
    detail = models.CharField(_("detail"), max_length=500, blank=True)
    stale = models.BooleanField(
        _("stale"),
        default=False,
        help_text=_("The result came after another worker had taken over, and was not counted."),
    )

    class Meta:
        verbose_name = _("attempt")
        verbose_name_plural = _("attempts")
        ordering = ["number", "id"]

    def __str__(self) -> str:
        return f"#{self.number}: {self.status_code or self.error}"


# The drain that lingers


class WatchQuerySet(models.QuerySet["Watch"]):
    """Changes of the one row, each a single conditional UPDATE, so that no two drains agree
    to differ about who holds it."""

    def take(self, token: uuid.UUID, held: timedelta, linger: timedelta) -> bool:
        """Become the drain that lingers, unless another is alive."""
        self.get_or_create(name=Watch.DRAIN)
        free = models.Q(holder__isnull=True) | models.Q(held_until__lt=self._in())
        return bool(
            self.filter(free, name=Watch.DRAIN).update(
                holder=token,
                held_until=self._in(held),
                linger_until=self._in(linger),
                seen_at=self._in(),
            )
        )

    def prolong(self, linger: timedelta) -> bool:
        """Ask the drain that lingers to do so for longer. False if there is none."""
        alive = self.filter(name=Watch.DRAIN, holder__isnull=False, held_until__gte=self._in())
        return bool(alive.update(linger_until=self._in(linger), seen_at=self._in()))

    def keep(self, token: uuid.UUID, held: timedelta) -> bool:
        """Still alive. False if another has taken over."""
        mine = self.filter(name=Watch.DRAIN, holder=token)
        return bool(mine.update(held_until=self._in(held), seen_at=self._in()))

    def sign(self) -> None:
        """A worker that does not linger has been here."""
        if not self.filter(name=Watch.DRAIN).update(seen_at=self._in()):
            self.get_or_create(name=Watch.DRAIN)

    def leave(self, token: uuid.UUID, *, anyway: bool = False) -> bool:
        """Stop lingering, unless someone has prolonged it."""
        rows = self.filter(name=Watch.DRAIN, holder=token)
        if not anyway:
            rows = rows.filter(linger_until__lte=self._in())
        return bool(rows.update(holder=None))

    def call(self, time: timedelta) -> bool:
        """Ask for one more task. False if the one that was asked for last has not begun yet; it is
        thought lost after that time."""
        self.get_or_create(name=Watch.DRAIN)
        free = models.Q(called_until__isnull=True) | models.Q(called_until__lt=self._in())
        mine = self.filter(free, name=Watch.DRAIN)
        return bool(mine.update(called_until=self._in(time)))

    def answer(self) -> None:
        """A task has begun: if one was asked for, the next one may be."""
        self.filter(name=Watch.DRAIN, called_until__isnull=False).update(called_until=None)

    def _in(self, time: timedelta = timedelta(0)) -> Any:
        """By the database's clock, for those who meet here may be of different hosts."""
        return database_now(self.db, plus=time)


class Watch(models.Model):
    """When a worker was last seen, which drain lingers for what may come, and whether one more
    has been asked for."""

    DRAIN = "drain"

    name = models.CharField(max_length=32, primary_key=True, default=DRAIN)
    seen_at = models.DateTimeField(default=timezone.now)
    holder = models.UUIDField(null=True)
    held_until = models.DateTimeField(null=True)
    linger_until = models.DateTimeField(null=True)
    called_until = models.DateTimeField(null=True)

    objects = WatchQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.name}: seen {self.seen_at:%Y-%m-%d %H:%M:%S}"
