"""How an object becomes JSON: field paths, Django's rules, what changed, and the exact body."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, cast

from django.core.exceptions import FieldDoesNotExist
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models.fields.files import FieldFile
from django.utils import timezone

from django_webhooks.exceptions import PayloadError, PayloadTooLarge

Path = tuple[str, ...]
"""Where a value stands in the object's data: ("customer", "email")."""

SENSITIVE = re.compile(
    r"passw(or)?d|passphrase|secret|token|credential|private|salt|otp|ssn|api_?key|(^|_)key($|_)"
    r"|session|signature|hash|iban|card_number|cvv|cvc",
    re.IGNORECASE,
)
"""Names of fields that `fields = "__all__"` leaves out."""

PERSONAL = re.compile(
    r"(e_?mail|phone|mobile|fax|(first|last|middle|given|family|full|sur|maiden|legal|user)_?name"
    r"|(customer|person|user|member|employee|patient|client|contact|guest|author|owner|recipient"
    r"|subscriber)s?[._]name|address|street|post(al)?_?code|birth|latitude|longitude|passport"
    r"|national_?id|social_?security|(tax|vat)_?(id|no|number|code)|account_?(no|number|holder)"
    r"|(^|[._])(tel|zip|dob|age|gender|sex|ip)(_|$))[^.]*$",
    re.IGNORECASE,
)
"""Dotted paths, with the model's name in front, that are likely to tell of a person."""

KINDS: Sequence[tuple[type[models.Field[Any, Any]], str]] = [
    (models.BooleanField, "boolean"),
    (models.DateTimeField, "datetime"),  # before DateField, its base
    (models.DateField, "date"),
    (models.TimeField, "time"),
    (models.DurationField, "duration"),
    (models.DecimalField, "number"),
    (models.FloatField, "number"),
    (models.IntegerField, "number"),
    (models.UUIDField, "uuid"),
    (models.JSONField, "unknown"),
    (models.Field, "text"),
]

MAX_DEPTH = 31
"""Levels of nesting; MariaDB stores no more, and what is sent must not depend on the database."""

FORMATS = {"datetime": "date-time", "date": "date", "time": "time", "uuid": "uuid"}


class PayloadEncoder(DjangoJSONEncoder):
    """Django's rules for dates, decimals, UUIDs and lazy texts, and ours for the rest.

    A model instance becomes its primary key, a file its name, bytes base64.
    """

    def default(self, o: Any) -> Any:
        if isinstance(o, models.Model):
            return o.pk
        if isinstance(o, FieldFile):
            return o.name or ""
        if isinstance(o, bytes | bytearray | memoryview):
            return base64.b64encode(bytes(o)).decode("ascii")
        return super().default(o)


def dump(value: Any) -> str:
    """`value` as compact JSON text; `PayloadError` when it is not JSON, or can't be stored."""
    try:
        text = json.dumps(
            value,
            cls=PayloadEncoder,
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        )
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"The payload can't be written as JSON: {error}") from error
    if "\\u0000" in text and "\x00" in _strings(json.loads(text)):
        raise PayloadError(
            "The payload holds a NUL character, which PostgreSQL can't store: remove it."
        )
    return text


def to_json(value: Any) -> Any:
    """`value` as what a receiver reads: dict, list, str, int, float, bool or None."""
    text = dump(value)
    found = json.loads(text)
    # Most payloads have fewer brackets than that, and need no walk.
    if text.count("{") + text.count("[") > MAX_DEPTH and is_deeper(found, MAX_DEPTH):
        raise PayloadError(
            f"The payload is nested deeper than {MAX_DEPTH} levels, which MariaDB can't store: "
            "flatten it."
        )
    return found


def storable(text: str) -> str:
    """`text` as every database takes it: without NUL, "?" for half a surrogate pair."""
    return text.encode(errors="replace").decode().replace("\x00", "")


def is_deeper(value: Any, levels: int) -> bool:
    """Whether the JSON `value` has more than that many lists and objects inside one another."""
    level = [value]
    for _ in range(levels + 1):
        level = [node for node in level if isinstance(node, dict | list)]
        if not level:
            return False
        level = [
            child for node in level for child in (node.values() if isinstance(node, dict) else node)
        ]
    return True


def make_body(event_type: str, occurred_at: datetime, data: Any, max_bytes: int) -> str:
    """The body of each request for an event, to the byte (Standard Webhooks, payload structure).

    `PayloadTooLarge` above `max_bytes`.
    """
    timestamp = occurred_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    body = dump({"type": event_type, "timestamp": timestamp, "data": data})
    size = len(body.encode())
    if size > max_bytes:
        raise PayloadTooLarge(
            f"The body of {event_type} is {size:,} bytes; MAX_PAYLOAD_BYTES is {max_bytes:,}. "
            "Publish fewer fields, or raise the setting."
        )
    return body


# Field paths


def parse_paths(model: type[models.Model], names: Iterable[str]) -> list[Path]:
    """`["id", "customer.email"]` as paths.

    Beside "customer.email" a plain "customer" stands for the key of it, `{"customer": {"id": 3,
    "email": …}}`, for one name can't be both a number and an object.
    """
    paths = [tuple(name.split(".")) for name in names]
    parents = {path[:length] for path in paths for length in range(1, len(path))}
    return [(*path, _key_name(model, path)) if path in parents else path for path in paths]


def _key_name(model: type[models.Model], path: Path) -> str:
    try:
        for name in path:
            model = cast("type[models.Model]", model._meta.get_field(name).related_model)
        return model._meta.pk.name
    except (FieldDoesNotExist, AttributeError):  # a check says so
        return "pk"


def read(instance: models.Model, path: Path, before: models.Model | None = None) -> Any:
    """The JSON-able value at `path` of `instance`; None where a relation on the way is null.

    A related object that `instance` has not loaded is taken from `before`, its row as it was,
    if both point to the same one. That saves the query.
    """
    *relations, name = path
    value: Any = instance
    for relation in relations:
        value, before = _follow(value, relation, before)
        if value is None:
            return None
    return _value(value, name)


def nest(values: Mapping[Path, Any]) -> Any:
    """`{("customer", "email"): 1}` as `{"customer": {"email": 1}}`; `{(): 1}` as 1."""
    if () in values:
        return values[()]
    tree: dict[str, Any] = {}
    for path, value in values.items():
        branch = tree
        for name in path[:-1]:
            branch = branch.setdefault(name, {})
        branch[path[-1]] = value
    return tree


def changed_paths(before: Mapping[Path, Any], after: Mapping[Path, Any]) -> list[Path]:
    """The paths whose values differ, in the order of `after`."""
    missing = object()
    paths = [*after, *(path for path in before if path not in after)]
    return [path for path in paths if before.get(path, missing) != after.get(path, missing)]


def relations(model: type[models.Model], paths: Iterable[Path]) -> list[str]:
    """What `select_related` needs so that reading `paths` costs no further query."""
    return sorted({"__".join(path[:-1]) for path in paths if len(path) > 1})


def find_field(model: type[models.Model], path: Path) -> models.Field[Any, Any] | None:
    """The field at the end of `path`; None for a plain attribute. `FieldDoesNotExist` if neither.

    Also raised when `path` goes through something that leads to many objects.
    """
    *names, last = path
    for name in names:
        relation = model._meta.get_field(name)
        if not relation.is_relation or relation.many_to_many or relation.one_to_many:
            raise FieldDoesNotExist(f"{name!r} does not lead to one object")
        if relation.related_model is None:  # a GenericForeignKey
            raise FieldDoesNotExist(f"{name!r} leads to objects of any model")
        model = relation.related_model
    try:
        field = model._meta.get_field(last)
    except FieldDoesNotExist:
        if last == "pk":
            return model._meta.pk
        if callable(getattr(model, last, None)) or not hasattr(model, last):
            raise
        return None
    return cast("models.Field[Any, Any]", field)


def kind(field: Any) -> str:
    """The kind of `conditions` that a model field's JSON values are of."""
    if field is None:
        return "unknown"
    if getattr(field, "many_to_many", False) or getattr(field, "one_to_many", False):
        return "list"
    if getattr(field, "remote_field", None) and not field.concrete:
        return "unknown"
    target = getattr(field, "target_field", None)
    if target is not None:
        return kind(target)
    return next((name for cls, name in KINDS if isinstance(field, cls)), "unknown")


def is_nullable(model: type[models.Model], path: Path) -> bool:
    """Whether the value at `path` may be null: the field itself, or a relation on the way to it."""
    for length in range(1, len(path) + 1):
        field = find_field(model, path[:length])
        # The other end of a one-to-one may not be there, and of an attribute nothing is known.
        if field is None or getattr(field, "null", False) or not field.concrete:
            return not getattr(field, "many_to_many", False)
    return False


LABELS = "x-enum-descriptions"
"""Beside `enum`: what its values are called where they don't say so themselves, in their order;
generators know the name."""


def field_schema(field: Any, *, nullable: bool = False) -> dict[str, Any]:
    """JSON Schema (2020-12) of the values of a model field, as they are published."""
    name = kind(field)
    schema: dict[str, Any] = {}
    if name == "list":
        schema["type"] = "array"
    elif name == "boolean":
        schema["type"] = "boolean"
    elif name == "number" and not isinstance(_target(field), models.DecimalField):
        whole = isinstance(_target(field), models.IntegerField)
        schema["type"] = "integer" if whole else "number"
    elif name != "unknown":
        schema["type"] = "string"
    if name == "number" and schema["type"] == "string":
        schema["format"] = "decimal"  # as in OpenAPI's registry of formats
    if name in FORMATS:
        schema["format"] = FORMATS[name]
    choices = getattr(field, "flatchoices", None)
    # Decimals are published with the digits that the database gives them.
    if choices and "type" in schema and schema.get("format") != "decimal":
        schema["enum"] = to_json([value for value, _ in choices])
        labels = [telling(value, label) for value, label in choices]
        if any(labels):
            schema[LABELS] = labels
        schema["enum"] += [""] if getattr(field, "blank", False) and name == "text" else []
        schema["enum"] += [None] if nullable else []
    if nullable and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    if title := telling(getattr(field, "name", ""), getattr(field, "verbose_name", "")):
        schema["title"] = title
    if help_text := str(getattr(field, "help_text", "") or ""):
        schema["description"] = help_text
    return schema


def telling(value: Any, label: Any) -> str:
    """What a choice or a field is called; empty where that says no more than its value or name."""
    called = str(label)
    return "" if called.lower() == str(value).replace("_", " ").lower() else called


def all_fields(model: type[models.Model]) -> list[str]:
    """What `fields = "__all__"` stands for: the columns whose names do not look sensitive."""
    return [
        field.name
        for field in model._meta.concrete_fields
        if field.primary_key
        or not (SENSITIVE.search(field.name) or isinstance(field, models.BinaryField))
    ]


def _target(field: Any) -> Any:
    while getattr(field, "target_field", None) is not None:
        field = field.target_field
    return field


def _follow(instance: Any, name: str, before: Any) -> tuple[Any, Any]:
    field = instance._meta.get_field(name)
    shared = None
    if before is not None and field.concrete:
        same = getattr(before, field.attname) == getattr(instance, field.attname)
        shared = getattr(before, name) if same else None
    if shared is not None and not field.is_cached(instance):
        return shared, shared
    try:
        return getattr(instance, name), shared
    except models.ObjectDoesNotExist:  # the other end of a one-to-one
        return None, None


def _value(instance: models.Model, name: str) -> Any:
    if name == "pk":
        name = instance._meta.pk.name
    try:
        field: Any = instance._meta.get_field(name)
    except FieldDoesNotExist:
        return getattr(instance, name)
    if field.many_to_many or field.one_to_many:
        accessor = field.name if field.concrete else field.get_accessor_name()
        return list(getattr(instance, accessor).order_by("pk").values_list("pk", flat=True))
    if not field.concrete:  # the other end of a one-to-one
        other, _ = _follow(instance, name, None)
        return other.pk if other is not None else None
    return _as_stored(field, getattr(instance, field.attname))


def _as_stored(field: Any, value: Any) -> Any:
    """What the database will give back for `value`: `Decimal("10.00")` for the 10 just assigned.

    Without it, the object just saved and the same object read again would differ.
    """
    target = _target(field)
    if value is None or isinstance(target, models.FileField | models.JSONField):
        return value
    value = target.to_python(value)
    if isinstance(value, Decimal) and isinstance(target, models.DecimalField):
        return _quantize(value, target.decimal_places)
    if isinstance(value, datetime) and timezone.is_aware(value):
        return value.astimezone(UTC)
    return value


def _quantize(value: Decimal, places: int | None) -> Decimal:
    try:
        return value.quantize(Decimal(1).scaleb(-(places or 0)))
    except InvalidOperation:  # NaN, or more digits than the context holds
        return value


def _strings(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(str(key) + _strings(item) for key, item in value.items())
    if isinstance(value, list):
        return "".join(map(_strings, value))
    return value if isinstance(value, str) else ""
