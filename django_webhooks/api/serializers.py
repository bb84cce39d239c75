"""What the API takes and shows: the models in JSON, without what is not for customers.

The models judge what is written; their errors arrive under the field that they are about. What
came back from an endpoint is told in codes only: bodies and details of the network are for staff.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime, timedelta
from itertools import islice
from math import isfinite
from operator import attrgetter
from typing import Any

from django.core.exceptions import ValidationError as ModelValidationError
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from rest_framework import ISO_8601, serializers
from rest_framework.settings import api_settings

from django_webhooks.conditions import MAX_PATTERN_SIZE, pattern_size, problems
from django_webhooks.conf import MAX_TIMEOUT, settings
from django_webhooks.delivery import MASKED
from django_webhooks.encryption import Unreadable
from django_webhooks.exceptions import UnknownEventType
from django_webhooks.fanout import SENTENCE
from django_webhooks.fields import Described, Doubt, doubts
from django_webhooks.models import (
    FOR_OPERATORS,
    MAX_PER_SECOND,
    MIN_PER_SECOND,
    Attempt,
    Delivery,
    Event,
    Rule,
    Subscription,
)
from django_webhooks.registry import EventType, registry, sample

logger = logging.getLogger("django_webhooks")

MAX_RULES = 100
DEFAULT_OVERLAP, MAX_OVERLAP = 24 * 60 * 60, 30 * 24 * 60 * 60  # seconds


MALFORMED = {"malformed": True}
"""Shown in the place of conditions that are none; refused, if it is written back."""

MAX_RULES_BYTES = 64 << 10
"""Of all rules of a subscription, as JSON: lists show them whole, and each event meets them."""

MAX_WARNINGS = 20

SHOWN_ATTEMPTS = 100
"""The newest; redelivering makes ever more."""

PREVIEW_BYTES = 1 << 20
"""After which a preview shows no further event."""


class RawObjectField(serializers.DictField):
    """An object that the model's validation reads as it came: nothing coerced, nothing trimmed."""

    def to_internal_value(self, data: Any) -> Any:
        return data


class ConditionsField(RawObjectField):
    """A tree, checked by `Rule.clean()`."""

    def to_representation(self, value: Any) -> Any:
        """As it is; a row that was not written by us must not take the whole list with it."""
        return value if isinstance(value, dict) and _is_json(value) else MALFORMED


class HeadersField(RawObjectField):
    """Written with their values, shown without: they hold credentials."""

    def to_representation(self, value: Any) -> dict[str, str]:
        return {} if isinstance(value, Unreadable) else dict.fromkeys(value, MASKED)


class FlagField(serializers.BooleanField):
    """True or false, and nothing that may have been meant so."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class NumberField(serializers.FloatField):
    """Finite, so that it can be shown in JSON and reckoned with."""

    def to_internal_value(self, data: Any) -> float:
        try:
            value = super().to_internal_value(data)
        except OverflowError:  # of older versions of DRF
            self.fail("invalid")
        if isinstance(data, bool) or not isfinite(value):
            self.fail("invalid")
        return value


class MomentField(serializers.DateTimeField):
    """A time that is written: one without an offset could be meant in any zone, and is refused."""

    default_error_messages = {
        "naive": _("Write the offset from UTC, too, as in 2026-11-24T10:00:00Z."),
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(input_formats=[ISO_8601], **kwargs)

    def enforce_timezone(self, value: datetime) -> datetime:
        if timezone.is_naive(value):
            self.fail("naive")
        try:
            value = value.astimezone(UTC)
            return value if settings.USE_TZ else timezone.make_naive(value)
        except (OverflowError, ValueError):
            self.fail("overflow")


class RuleListSerializer(serializers.ListSerializer[Any]):
    """Errors lie where the rules do, in a list; DRF's own shape differs by version and setting."""

    def to_internal_value(self, data: Any) -> Any:
        try:
            return super().to_internal_value(data)
        except serializers.ValidationError as error:
            found: Any = error.detail
            key = api_settings.NON_FIELD_ERRORS_KEY
            if isinstance(found, dict) and key in found:  # no list, or too long
                found = found[key]
            if isinstance(found, dict) and all(isinstance(key, int) for key in found):
                found = [found.get(index, {}) for index in range(len(data))]
            raise serializers.ValidationError(found) from None


class RuleSerializer(serializers.ModelSerializer[Rule]):
    conditions = ConditionsField(default=dict)
    sentence = serializers.SerializerMethodField()

    class Meta:
        model = Rule
        list_serializer_class = RuleListSerializer
        fields = ["id", "event_type", "conditions", "sentence"]

    def get_sentence(self, rule: Rule) -> str:
        """The rule in words, cut where it is very long."""
        return str(rule)[:SENTENCE]

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if self.context["view"].for_owner:
            _require_offered(attrs.get("event_type", ""))
        Rule(**attrs).clean()
        return attrs


def _require_offered(pattern: str) -> None:
    try:
        registry.require_pattern(pattern, for_owner=True)
    except UnknownEventType as error:
        raise serializers.ValidationError({"event_type": [str(error)]}) from error


class SubscriptionSerializer(serializers.ModelSerializer[Subscription]):
    """A subscription with its rules; rules that are written replace those there were."""

    headers = HeadersField(
        required=False, help_text=_("Sent with each request. Shown without their values.")
    )
    ordered = FlagField(
        required=False, help_text=_("The events of one object in their order, one at a time.")
    )
    timeout = NumberField(
        required=False,
        allow_null=True,
        max_value=MAX_TIMEOUT,
        help_text=_("Seconds for a whole exchange; null: as the site has it."),
    )
    max_per_second = NumberField(
        required=False,
        allow_null=True,
        min_value=MIN_PER_SECOND,
        max_value=MAX_PER_SECOND,
        help_text=_("Requests; null: no limit."),
    )
    public_keys = serializers.ListField(
        child=serializers.CharField(),
        read_only=True,
        help_text=_("What verifies requests with the signature v1a, newest first."),
    )
    rules = RuleSerializer(many=True, required=False, max_length=MAX_RULES)  # type: ignore[call-arg]
    warnings = serializers.SerializerMethodField(
        help_text=_("Why what is saved will hardly ever fire: no rules, or a field that is not.")
    )

    class Meta:
        model = Subscription
        fields = [
            "id",
            "name",
            "url",
            "mode",
            "ordered",
            "status",
            "disabled_reason",
            "headers",
            "timeout",
            "max_per_second",
            "signature",
            "public_keys",
            "rules",
            "warnings",
            "created_at",
            "updated_at",
        ]
        read_only_fields = ["status", "disabled_reason"]

    def get_warnings(self, subscription: Subscription) -> list[str]:
        """Why rules that may be saved will hardly ever fire, each with its place."""
        rules = list(subscription.rules.all())
        if not rules:
            return [gettext("It has no rules: it is sent test events only. Write some.")]
        found = [*islice(self._warnings(rules), MAX_WARNINGS + 1)]
        if len(found) > MAX_WARNINGS:
            found[-1] = gettext("And more: mend these first.")
        return found

    def _warnings(self, rules: Sequence[Rule]) -> Iterator[str]:
        for index, rule in enumerate(rules):
            for doubt in self._doubts(rule):
                path = ".".join(filter(None, ["conditions", doubt.path]))
                yield f"rules[{index}].{path}: {doubt.message}"

    @cached_property
    def described(self) -> Described:
        """The fields of event types, remembered for as long as an answer is made."""
        return {}

    def _doubts(self, rule: Rule) -> Iterable[Doubt]:
        if problems(rule.conditions):  # a row from elsewhere
            return [Doubt("", gettext("They are malformed, and never known: write them anew."))]
        types = registry.matching(rule.event_type, for_owner=self.context["view"].for_owner)
        return doubts(rule.event_type, rule.conditions, types, self.described)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        subscription = copy(self.instance) if self.instance else Subscription()
        for name, value in attrs.items():
            if name != "rules":
                setattr(subscription, name, value)
        with self._told():
            subscription.full_clean(exclude=["id", "owner"])
        return {**attrs, "url": subscription.url}  # normalised

    # Each by itself, too, so that all that is wrong is told at once.

    def validate_name(self, name: str) -> str:
        return self._judged(name=name).name

    def validate_url(self, url: str) -> str:
        return self._judged(url=url).url

    def validate_headers(self, headers: Any) -> Any:
        return self._judged(headers=headers).headers

    def validate_rules(self, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Bounded all together: what they cost is paid by each event, and by all who wait."""
        if len(json.dumps(rules)) > MAX_RULES_BYTES:
            raise serializers.ValidationError(
                gettext("Larger than %d kB together: use fewer or shorter ones.")
                % (MAX_RULES_BYTES >> 10)
            )
        if sum(pattern_size(each.get("conditions", {})) for each in rules) > MAX_PATTERN_SIZE:
            raise serializers.ValidationError(
                gettext("Their regular expressions are too large together: use fewer or simpler.")
            )
        return rules

    def validate_signature(self, signature: str) -> str:
        return self._judged(signature=signature).signature

    def _judged(self, **written: Any) -> Subscription:
        """A subscription with the one field; `ValidationError` if the model refuses that one."""
        try:
            with self._told():
                subscription = Subscription(**written)
                subscription.clean()
        except ModelValidationError as error:
            for name, found in error.error_dict.items():
                if name in written:
                    raise ModelValidationError(found) from None
        return subscription

    @contextmanager
    def _told(self) -> Iterator[None]:
        """An owner is not told what only those who run the site can do."""
        try:
            yield
        except ModelValidationError as error:
            if not self.context["view"].for_owner:
                raise
            kept = {
                name: [each for each in found if each.code != FOR_OPERATORS]
                for name, found in error.error_dict.items()
            }
            raise ModelValidationError(kept) from None

    def create(self, validated_data: dict[str, Any]) -> Subscription:
        rules = validated_data.pop("rules", [])
        subscription = Subscription(**validated_data)
        subscription.save(force_insert=True)
        _add_rules(subscription, rules)
        return subscription

    def update(self, instance: Subscription, validated_data: dict[str, Any]) -> Subscription:
        rules = validated_data.pop("rules", None)
        for name, value in validated_data.items():
            setattr(instance, name, value)
        # Not the other columns: the worker writes them at any time.
        instance.save(update_fields=[*validated_data, "updated_at"])
        if rules is not None:
            instance.rules.all().delete()
            _add_rules(instance, rules)
        return instance


class NewSubscriptionSerializer(SubscriptionSerializer):
    """With the secret, given or generated, in the answer to create.

    Whoever repeats that request for lack of an answer gets it, too, for a day. With the signature
    v1a it signs nothing, and whoever has none can't mistake it for the key.
    """

    secret = serializers.CharField(
        required=False,
        help_text=_("What signs: whsec_ and base64 of 24 to 64 bytes. Made, if none is given."),
    )

    class Meta(SubscriptionSerializer.Meta):
        fields = [*SubscriptionSerializer.Meta.fields, "secret"]

    def validate_secret(self, secret: str) -> str:
        return self._judged(secret=secret).secret

    def get_initial(self) -> Any:
        """What the page for browsers begins with: a body that lacks a host only."""
        rule = {"event_type": "*", "conditions": {}}
        return {"name": "", "url": "https://", "mode": Subscription.Mode.RECURRING, "rules": [rule]}

    def to_representation(self, instance: Subscription) -> dict[str, Any]:
        if instance.signature == Subscription.Signature.V1 and _is_new(instance):
            return super().to_representation(instance)
        return SubscriptionSerializer(instance, context=self.context).data


def _is_new(subscription: Subscription) -> bool:
    """Whether its secret is still the first, and not older than a day."""
    if isinstance(subscription.secrets, Unreadable) or "rotated" in subscription.secrets[0]:
        return False
    return timezone.now() - subscription.created_at < timedelta(days=1)


class SubscriptionFilterSerializer(serializers.Serializer[Any]):
    """The query parameters of the list of subscriptions."""

    status = serializers.ChoiceField(choices=Subscription.Status.choices, required=False)


def _add_rules(subscription: Subscription, rules: list[dict[str, Any]]) -> None:
    for rule in rules:
        subscription.rules.create(**rule)


class RefusalSerializer(serializers.Serializer[Any]):
    """Why a request is refused, in words."""

    detail = serializers.CharField(read_only=True)


class RotateSecretSerializer(serializers.Serializer[Any]):
    overlap = serializers.IntegerField(
        min_value=0,
        max_value=MAX_OVERLAP,
        default=DEFAULT_OVERLAP,
        write_only=True,
        help_text=_("Seconds that the secret before still signs, too."),
    )
    secret = serializers.CharField(read_only=True, help_text=_("The new one, shown this once."))
    previous_expires_at = serializers.DateTimeField(
        read_only=True, allow_null=True, help_text=_("Until when the secret before still signs.")
    )


class RecoverSerializer(serializers.Serializer[Any]):
    since = MomentField(write_only=True, help_text=_("Of the events that occurred then or later."))
    until = MomentField(
        required=False, write_only=True, help_text=_("Only of those that occurred before.")
    )
    dry_run = FlagField(default=False, write_only=True, help_text=_("Only count them."))
    count = serializers.IntegerField(
        read_only=True, help_text=_("How many are sent again, or would be.")
    )


class AttemptListSerializer(serializers.ListSerializer[Any]):
    """In their order; of very many the newest."""

    def to_representation(self, data: Any) -> list[Any]:
        shown = data.only(*AttemptSerializer.Meta.fields, "delivery")
        newest = shown.order_by("-number")[:SHOWN_ATTEMPTS]
        return super().to_representation(sorted(newest, key=attrgetter("number")))


class AttemptSerializer(serializers.ModelSerializer[Attempt]):
    class Meta:
        model = Attempt
        list_serializer_class = AttemptListSerializer
        fields = ["number", "started_at", "duration_ms", "status_code", "error"]


class DeliverySerializer(serializers.ModelSerializer[Delivery]):
    event_type = serializers.CharField(source="event.type", read_only=True)
    reason = serializers.SerializerMethodField()

    class Meta:
        model = Delivery
        fields = [
            "id",
            "event",
            "event_type",
            "subscription",
            "status",
            "attempt_count",
            "next_attempt_at",
            "completed_at",
            "reason",
            "matched",
            "created_at",
        ]

    def get_reason(self, delivery: Delivery) -> str:
        """`timeout`, `HTTP 503`: what comes after a colon tells of the network."""
        return delivery.reason.partition(": ")[0]


class DeliveryDetailSerializer(DeliverySerializer):
    """With its attempts, and the payload as it is sent."""

    attempts = AttemptSerializer(many=True, read_only=True)
    payload = serializers.SerializerMethodField()

    class Meta(DeliverySerializer.Meta):
        fields = [*DeliverySerializer.Meta.fields, "attempts", "payload"]

    def get_payload(self, delivery: Delivery) -> Any:
        try:
            payload = json.loads(delivery.event.body or "null")
        except (ValueError, RecursionError):  # a row that was not written by us
            return None
        return payload if _is_json(payload) else None


class DeliveryFilterSerializer(serializers.Serializer[Any]):
    """The query parameters of the list of deliveries; each `source` is a lookup."""

    status = serializers.ChoiceField(choices=Delivery.Status.choices, required=False)
    subscription = serializers.UUIDField(required=False, help_text=_("To this subscription."))
    event_type = serializers.CharField(
        source="event__type", required=False, help_text=_("Of events of exactly this type.")
    )
    since = MomentField(
        source="event__occurred_at__gte",
        required=False,
        help_text=_("Of events that occurred then or later."),
    )
    until = MomentField(
        source="event__occurred_at__lt",
        required=False,
        help_text=_("Of events that occurred before."),
    )
    status_code = serializers.IntegerField(
        min_value=100,
        max_value=599,
        required=False,
        help_text=_("Of which an attempt was answered with this HTTP status."),
    )


class EventTypeSerializer(serializers.Serializer[Any]):
    type = serializers.CharField(help_text=_("For the `event_type` of a rule."))
    description = serializers.CharField()
    schema = serializers.SerializerMethodField()
    example = serializers.SerializerMethodField()
    public = serializers.BooleanField(
        help_text=_("Whether everybody's events are received, and not the own ones alone.")
    )

    def get_example(self, event_type: EventType) -> Any:
        """What is published, as it might be."""
        if event_type.example is not None:
            return event_type.example
        if event_type.webhook:
            return described(event_type.webhook.example)
        return sample(event_type.schema) if event_type.schema else None

    def get_schema(self, event_type: EventType) -> dict[str, Any]:
        """JSON Schema of the object, or of what is published."""
        webhook = event_type.webhook
        return described(webhook.schema) if webhook else dict(event_type.schema)


def described(describe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is known; the project's serializer may fail where there is no object."""
    try:
        return describe()
    except Exception:
        logger.exception("A published model can't be described in the catalogue.")
        return {}


class EventListSerializer(serializers.ListSerializer[Any]):
    """Up to a megabyte of them, and at least one."""

    def to_representation(self, data: Any) -> list[Any]:
        shown: list[Any] = []
        size = 0
        for event in data:
            size += len(json.dumps([event.data, event.previous]))
            if shown and size > PREVIEW_BYTES:
                break
            shown += super().to_representation([event])
        return shown


class EventSerializer(serializers.ModelSerializer[Event]):
    class Meta:
        model = Event
        list_serializer_class = EventListSerializer
        fields = ["id", "type", "occurred_at", "data", "previous"]


class PreviewSerializer(serializers.Serializer[Any]):
    checked = serializers.IntegerField(help_text=_("How many recent events were looked at."))
    matched = serializers.IntegerField(help_text=_("On how many of them it would have fired."))
    events = EventSerializer(many=True, help_text=_("The newest of those."))


def _is_json(value: Any) -> bool:
    """Whether it can be rendered: finite numbers, whole surrogate pairs, no endless depth."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True
