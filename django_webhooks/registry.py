"""What is published: which models, with which fields, under which event types.

Written by projects in `<app>/webhooks.py`, which is found by itself, as `admin.py` is.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from django_webhooks import payloads
from django_webhooks.exceptions import RegistrationError, UnknownEventType
from django_webhooks.payloads import Path

APP_LABEL = "django_webhooks"
CREATED, UPDATED, DELETED = ACTIONS = ("created", "updated", "deleted")
ALL_FIELDS = "__all__"
TEST_EVENT = "webhooks.test"
"""The type of test events: known without being registered, matched by no rule."""
CHALLENGE_EVENT = "webhooks.challenge"
"""The type of what an endpoint has to answer first; known and matched as test events are."""
OWN_TYPES = TEST_EVENT, CHALLENGE_EVENT
"""What the app sends itself, past all rules."""

EVENT_TYPE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
"""Standard Webhooks: full-stop delimited, `[a-zA-Z0-9_]` between."""

MAX_EVENT_TYPE_LENGTH = 150


class ModelWebhook:
    """How one model is published. Subclass it, set the attributes, `@register(Model)` it."""

    fields: Sequence[str] | str | None = None
    """Names and dotted paths, or "__all__" for every column that does not look sensitive."""
    serializer_class: type[Any] | None = None
    """A DRF serializer, instead of `fields`."""
    actions: Sequence[str] = ACTIONS
    event_prefix: str = ""
    """What event types begin with; `app_label.model_name` if empty."""
    public: bool = False
    """True: every owner may subscribe. False: the object's owner, and unowned subscriptions."""
    keep_events: bool = False
    """True: record events even while nobody listens, so that new rules can be tried on them."""

    def __init__(self, model: type[models.Model]) -> None:
        self.model = model
        self.prefix = self.event_prefix or model._meta.label_lower

    def get_owner(self, instance: Any) -> Any:
        """Who `instance` belongs to: an instance of `OWNER_MODEL`, or None."""
        return None

    def get_data(self, instance: Any) -> Any:
        """What is published: any JSON-able value, best a dict. Override for full control."""
        if self.serializer_class is not None:
            return self.serializer_class(instance, context={}).data
        values = {path: payloads.read(instance, path) for path in self.paths}
        return payloads.nest(values)

    def should_publish(self, instance: Any, action: str, changed: frozenset[str]) -> bool:
        """Whether this change is an event.

        `changed` holds the published paths whose values differ ("customer.email"); it is empty
        for created and deleted.
        """
        return True

    # For the app itself

    def type_of(self, action: str) -> str:
        return f"{self.prefix}.{action}"

    @property
    def paths(self) -> list[Path]:
        names = payloads.all_fields(self.model) if self.fields == ALL_FIELDS else self.fields
        return payloads.parse_paths(self.model, names or [])

    @property
    def renders_fields(self) -> bool:
        """Whether `fields` alone say what is published, so that each path is known."""
        overridden = type(self).get_data is not ModelWebhook.get_data
        return not overridden and self.serializer_class is None

    @property
    def relations(self) -> list[str]:
        """What `select_related` needs, so that rendering a row costs no further query."""
        return payloads.relations(self.model, self.paths) if self.renders_fields else []

    def render(self, instance: models.Model, before: models.Model | None = None) -> dict[Path, Any]:
        """The JSON values of `instance` by path; by top-level key where `fields` do not rule.

        What is no dict at all is the one value at the empty path.

        `before` is the row as it was, whose related objects save queries. Raises whatever the
        project's code raises, and `PayloadError`.
        """
        if self.renders_fields:
            paths = self.paths
            values = [payloads.read(instance, path, before) for path in paths]
            return dict(zip(paths, payloads.to_json(values), strict=True))
        data = payloads.to_json(self.get_data(instance))
        return {(key,): data[key] for key in data} if isinstance(data, dict) else {(): data}

    def kinds(self) -> dict[str, str]:
        """The kind of the values at each path, where it is known; for `conditions.Facts`."""
        return {path: name for path, (name, _schema) in self._described().items()}

    def schema(self) -> dict[str, Any]:
        """JSON Schema of `get_data()`, as far as it is known."""
        return _nest_schema(self._described())

    def example(self) -> dict[str, Any]:
        """`get_data()` as it might be, made from what `schema()` knows."""
        made: dict[str, Any] = sample(self.schema())
        return made

    def _described(self) -> dict[str, tuple[str, dict[str, Any]]]:
        if self.serializer_class is not None:
            return _describe_serializer(self.serializer_class)
        found = {}
        for path in self.paths if self.renders_fields else []:
            try:
                model_field = payloads.find_field(self.model, path)
            except FieldDoesNotExist:
                continue  # a check has said so
            nullable = payloads.is_nullable(self.model, path)
            schema = payloads.field_schema(model_field, nullable=nullable)
            found[".".join(path)] = payloads.kind(model_field), schema
        return found


@dataclass(frozen=True)
class EventType:
    """A type of event that the project publishes itself, by `outbox.publish()`.

    Making one registers it. The model's types are made from its `ModelWebhook`.
    """

    type: str
    description: str = ""
    example: Any = None
    public: bool = False
    schema: Mapping[str, Any] = field(default_factory=dict)
    webhook: ModelWebhook | None = field(default=None, repr=False)
    action: str = ""

    def __post_init__(self) -> None:
        if len(self.type) > MAX_EVENT_TYPE_LENGTH or not EVENT_TYPE.fullmatch(self.type):
            raise RegistrationError(
                f"{self.type!r} can't be an event type: use letters, digits and _ between full "
                f"stops, at most {MAX_EVENT_TYPE_LENGTH} characters (as in 'billing.invoice_paid')."
            )
        if self.webhook is None:
            registry.add_type(self)

    @property
    def reaches_owners(self) -> bool:
        """Whether a subscription with an owner can receive any: nobody knows otherwise whose a
        model's events are."""
        if self.public or self.webhook is None:
            return True
        return type(self.webhook).get_owner is not ModelWebhook.get_owner

    @property
    def label(self) -> str:
        """In words: "order updated". Of what is published by hand its name is all that is known:
        "shop.stock_low" is "stock low"."""
        if self.webhook is None:
            _first, _dot, rest = self.type.partition(".")
            return (rest or self.type).replace(".", " ").replace("_", " ")
        return f"{self.webhook.model._meta.verbose_name} {_ACTION_WORDS[self.action]()}"


_SAMPLES: Mapping[str, Any] = {
    "date-time": "2026-11-24T10:00:00Z",
    "date": "2026-11-24",
    "time": "10:00:00",
    "decimal": "9.50",
    "uuid": "0b7e1a52-6c0f-4b0e-9f3e-0d7a0c6f1a11",
    "boolean": True,
    "integer": 1,
    "number": 9.5,
    "array": [],
    "object": {},
    "string": "text",
}
"""A value for each format and type of JSON Schema."""


def sample(schema: Mapping[str, Any]) -> Any:
    """A value that a simple JSON Schema allows: of its first type, with all of its properties."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if "properties" in schema:
        return {name: sample(each) for name, each in schema["properties"].items()}
    types = schema.get("type", [])
    first = types if isinstance(types, str) else next(iter(types), None)
    return _SAMPLES.get(schema.get("format") or "", _SAMPLES.get(str(first)))


def _nest_schema(described: Mapping[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The schema of an object, from those at its dotted paths; an object's own comes before."""
    root: dict[str, Any] = {"type": "object", "properties": {}}
    for path, (_kind, schema) in described.items():
        *parents, name = path.split(".")
        branch = root
        for parent in parents:
            branch = branch["properties"].setdefault(parent, {"type": "object", "properties": {}})
        branch["properties"][name] = schema
    return root


_ACTION_WORDS: Mapping[str, Callable[[], str]] = {
    CREATED: lambda: _("created"),
    UPDATED: lambda: _("updated"),
    DELETED: lambda: _("deleted"),
}


class Registry:
    """All that is published by this project; `registry` is the one there is."""

    def __init__(self) -> None:
        self._webhooks: dict[type[models.Model], ModelWebhook] = {}
        self._types: dict[str, EventType] = {}
        self._listeners: list[Callable[[ModelWebhook], None]] = []

    def on_register(self, listener: Callable[[ModelWebhook], None]) -> None:
        """Calls `listener` with each webhook that is registered, now and later."""
        self._listeners.append(listener)
        for webhook in self._webhooks.values():
            listener(webhook)

    def add(self, model: type[models.Model], webhook_class: type[ModelWebhook]) -> None:
        """`RegistrationError` for a model or class that can't be published."""
        _refuse_unfit(model, webhook_class)
        if model in self._webhooks:
            raise RegistrationError(
                f"{model._meta.label} is registered twice: keep one @register for it."
            )
        webhook = webhook_class(model)
        types = [self._model_type(webhook, action) for action in webhook.actions]
        for taken in types:
            if taken.type in self._types:
                raise RegistrationError(
                    f"The event type {taken.type!r} is taken: set another event_prefix on "
                    f"{webhook_class.__name__}."
                )
        self._webhooks[model] = webhook
        self._types.update({each.type: each for each in types})
        for listener in self._listeners:
            listener(webhook)

    def remove(self, model: type[models.Model]) -> None:
        """Publish `model` no longer (for tests). `KeyError` if it is not registered."""
        webhook = self._webhooks.pop(model)
        self._types = {
            name: each for name, each in self._types.items() if each.webhook is not webhook
        }

    def add_type(self, event_type: EventType) -> None:
        if self._types.get(event_type.type, event_type) != event_type:
            raise RegistrationError(
                f"The event type {event_type.type!r} is registered twice: rename one."
            )
        self._types[event_type.type] = event_type

    def remove_type(self, name: str) -> None:
        """Forget an `EventType` (for tests). `KeyError` if it is not registered."""
        del self._types[name]

    @property
    def webhooks(self) -> Sequence[ModelWebhook]:
        return list(self._webhooks.values())

    @property
    def types(self) -> Sequence[EventType]:
        """Every known event type, sorted by its name."""
        return [self._types[name] for name in sorted(self._types)]

    def offered(self, *, for_owner: bool) -> Sequence[EventType]:
        """What a subscription can be told of: every type, or with an owner those that reach one."""
        return [each for each in self.types if each.reaches_owners or not for_owner]

    def get_type(self, name: str) -> EventType | None:
        return self._types.get(name)

    def require_type(self, name: str) -> EventType:
        """The type called `name`; `UnknownEventType` names the nearest that exist."""
        found = self._types.get(name)
        if found is None:
            hint = self._suggest(name, list(self._types))
            raise UnknownEventType(f"Nothing publishes {name!r}. {hint}")
        return found

    def matching(self, pattern: str, *, for_owner: bool = False) -> Sequence[EventType]:
        """The known types that a rule's `pattern` names: an exact type, `….*` or `*`.

        `for_owner`: of those that reach owners.
        """
        known = self.offered(for_owner=for_owner)
        return [each for each in known if pattern in patterns_of(each.type)]

    def require_pattern(self, pattern: str, *, for_owner: bool = False) -> None:
        """`UnknownEventType` for a pattern that no known type matches.

        `for_owner`: that none of those matches which reach owners. No other is named, either.
        """
        if pattern != "*" and not self.matching(pattern, for_owner=for_owner):
            known = self.offered(for_owner=for_owner)
            hint = self._suggest(pattern, [each.type for each in known])
            raise UnknownEventType(f"Nothing publishes {pattern!r}. {hint}")

    def describe(self, pattern: str) -> str:
        """A pattern in words: "order updated", "any change of order", "any event"."""
        if pattern == "*":
            return _("any event")
        known = self.get_type(pattern)
        if known is not None:
            return known.label
        for webhook in self._webhooks.values():
            if pattern == f"{webhook.prefix}.*":
                return _("any change of %(model)s") % {"model": webhook.model._meta.verbose_name}
        if pattern.endswith(".*"):
            return _("any %(prefix)s event") % {"prefix": pattern.removesuffix(".*")}
        return pattern

    def lineage(self, sender: type[models.Model]) -> Sequence[ModelWebhook]:
        """The webhooks that a change of a `sender` is a change for.

        One for each concrete model in its ancestry: the nearest registration, so a proxy's own
        goes before its model's.
        """
        found: dict[type[models.Model], ModelWebhook] = {}
        for cls in sender.__mro__:
            webhook = self._webhooks.get(cls)
            if webhook is not None:
                found.setdefault(webhook.model._meta.concrete_model or cls, webhook)
        return list(found.values())

    def _model_type(self, webhook: ModelWebhook, action: str) -> EventType:
        name = webhook.model._meta.verbose_name
        return EventType(
            webhook.type_of(action),
            description=_("%(model)s was %(action)s.")
            % {"model": capfirst(name), "action": _ACTION_WORDS[action]()},
            public=webhook.public,
            webhook=webhook,
            action=action,
        )

    def _suggest(self, name: str, known: Sequence[str]) -> str:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[:3]
        if not near:
            return "No event type is registered yet: write a webhooks.py in one of your apps."
        return "Did you mean " + " or ".join(repr(each) for each in near) + "?"


registry = Registry()

WebhookClass = TypeVar("WebhookClass", bound=type[ModelWebhook])


def register(*publish: type[models.Model]) -> Callable[[WebhookClass], WebhookClass]:
    """Class decorator: publish these models as the decorated `ModelWebhook` says.

    Raises `RegistrationError` for a model that can't be published or is registered already.
    """
    if not publish:
        raise RegistrationError("register() needs at least one model: @register(Order).")

    def decorate(webhook_class: WebhookClass) -> WebhookClass:
        for model in publish:
            registry.add(model, webhook_class)
        return webhook_class

    return decorate


def patterns_of(event_type: str) -> list[str]:
    """Every pattern that matches `event_type`: itself, `shop.order.*`, `shop.*`, `*`."""
    parts = event_type.split(".")
    prefixes = [".".join(parts[:count]) + ".*" for count in range(len(parts) - 1, 0, -1)]
    return [event_type, *prefixes, "*"]


def _refuse_unfit(model: Any, webhook_class: Any) -> None:
    if not (isinstance(webhook_class, type) and issubclass(webhook_class, ModelWebhook)):
        raise RegistrationError(f"{webhook_class!r} must be a subclass of ModelWebhook.")
    name = webhook_class.__name__
    if not (isinstance(model, type) and issubclass(model, models.Model)):
        raise RegistrationError(f"@register on {name} needs model classes, not {model!r}.")
    if model._meta.abstract or model._meta.swapped:
        raise RegistrationError(
            f"{model.__name__} has no table of its own: register the concrete model instead."
        )
    if model._meta.app_label == APP_LABEL:
        raise RegistrationError(
            f"{model._meta.label} can't be published: a webhook about a webhook never ends."
        )
    unknown = [action for action in webhook_class.actions if action not in ACTIONS]
    if unknown or isinstance(webhook_class.actions, str):
        raise RegistrationError(
            f"{name}.actions must be a list out of {', '.join(ACTIONS)}; "
            f"it is {webhook_class.actions!r}."
        )
    prefix = webhook_class.event_prefix
    if prefix and not EVENT_TYPE.fullmatch(prefix):
        raise RegistrationError(
            f"{name}.event_prefix {prefix!r} must be letters, digits and _ between full stops."
        )


# Serializers are described by the names of their field classes, so that DRF is not imported here.
_SERIALIZER_KINDS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "BooleanField": ("boolean", {"type": "boolean"}),
    "IntegerField": ("number", {"type": "integer"}),
    "FloatField": ("number", {"type": "number"}),
    "DecimalField": ("number", {"type": ["string", "number"], "format": "decimal"}),
    "DateTimeField": ("datetime", {"type": "string", "format": "date-time"}),
    "DateField": ("date", {"type": "string", "format": "date"}),
    "TimeField": ("time", {"type": "string", "format": "time"}),
    "DurationField": ("duration", {"type": "string"}),
    "UUIDField": ("uuid", {"type": "string", "format": "uuid"}),
    "MultipleChoiceField": ("list", {"type": "array"}),
    "ManyRelatedField": ("list", {"type": "array"}),
    "ListField": ("list", {"type": "array"}),
    "ListSerializer": ("list", {"type": "array"}),
    "CharField": ("text", {"type": "string"}),
    "ChoiceField": ("text", {}),
}


def _describe_serializer(
    serializer_class: type[Any], prefix: str = ""
) -> dict[str, tuple[str, dict[str, Any]]]:
    return _describe_fields(serializer_class().fields, prefix)


def _describe_fields(
    fields: Mapping[str, Any], prefix: str
) -> dict[str, tuple[str, dict[str, Any]]]:
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, serializer_field in fields.items():
        if getattr(serializer_field, "write_only", False):
            continue
        path = f"{prefix}{name}"
        found[path] = _describe_field(serializer_field)
        nested = getattr(serializer_field, "fields", None)
        if nested is not None:
            found.update(_describe_fields(nested, f"{path}."))
    return found


def _describe_field(serializer_field: Any) -> tuple[str, dict[str, Any]]:
    kind, schema = _serializer_kind(type(serializer_field))
    schema = dict(schema)
    if hasattr(serializer_field, "fields"):
        kind, schema = "object", {"type": "object", "properties": {}}
    elif kind == "list":
        schema["items"] = _schema_of_items(serializer_field)
    elif kind == "text" and (choices := getattr(serializer_field, "choices", None)):
        schema["enum"] = payloads.to_json([*choices])
        schema["enum"] += [""] if getattr(serializer_field, "allow_blank", False) else []
    # A nested object that is only read is null where its relation is, whatever it allows.
    is_read = hasattr(serializer_field, "fields") and serializer_field.read_only
    if getattr(serializer_field, "allow_null", False) or is_read:
        types = schema.get("type", [])
        if types:
            schema["type"] = [*([types] if isinstance(types, str) else types), "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
    if title := payloads.telling(serializer_field.field_name, serializer_field.label or ""):
        schema["title"] = title
    return kind, schema


def _schema_of_items(serializer_field: Any) -> dict[str, Any]:
    child = getattr(serializer_field, "child", None)
    if child is None:
        return {}
    if hasattr(child, "fields"):
        return _nest_schema(_describe_fields(child.fields, ""))
    return _describe_field(child)[1]


def _serializer_kind(cls: type[Any]) -> tuple[str, dict[str, Any]]:
    names: Iterable[str] = (base.__name__ for base in cls.__mro__)
    return next(
        (_SERIALIZER_KINDS[name] for name in names if name in _SERIALIZER_KINDS), ("unknown", {})
    )
