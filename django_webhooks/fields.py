"""What is known of the fields that events have, and what conditions ask of them.

`find_misfits` says which values are none of their field's kind, `doubts` why a rule that may be
saved will hardly ever fire.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from django_webhooks import conditions
from django_webhooks.conditions import Kind
from django_webhooks.exceptions import ConditionError
from django_webhooks.payloads import LABELS
from django_webhooks.registry import UPDATED, EventType

logger = logging.getLogger("django_webhooks")

OPEN_KINDS = frozenset({"list", "object", "unknown"})
"""Paths may lead into values of these kinds, further than is described."""

KINDS_OF_FORMATS: Mapping[str, Kind] = {
    "date-time": "datetime",
    "date": "date",
    "time": "time",
    "duration": "duration",
    "uuid": "uuid",
    "decimal": "number",
}
KINDS_OF_TYPES: Mapping[str, Kind] = {
    "boolean": "boolean",
    "integer": "number",
    "number": "number",
    "array": "list",
    "object": "object",
    "string": "text",
}

WHOLE = "whole"
"""Beside the kinds, in `ENTER`: a number without a fraction."""

ENTER: Mapping[str, Any] = {
    "number": gettext_lazy("Enter a number, such as 12.50."),
    WHOLE: gettext_lazy("Enter a whole number."),
    "boolean": gettext_lazy("Choose true or false."),
    "date": gettext_lazy("Enter a date, such as 2026-12-24."),
    "datetime": gettext_lazy("Enter a date and a time, such as 2026-12-24T10:00Z."),
    "time": gettext_lazy("Enter a time, such as 10:00."),
    "duration": gettext_lazy("Enter a duration, such as 01:30:00."),
    "uuid": gettext_lazy("Enter a UUID."),
}
"""What is said of a value that is none of its field's kind."""


@dataclass(frozen=True)
class Field:
    """A value that conditions can ask for."""

    path: str
    kind: Kind
    label: str = ""
    """What people call it; empty where that is not known, or says no more than its name."""
    choices: Sequence[Any] = ()
    labels: Sequence[str] = ()
    """What the choices are called, in their order; empty where that is not known."""
    help: str = ""
    whole: bool = False
    """Of numbers: there are no fractions."""


Described = dict[str, list[Field]]


@dataclass(frozen=True)
class Doubt:
    """Why a rule that may be saved will hardly ever fire."""

    path: str
    """Of the condition in the tree; empty for the whole rule."""
    message: str


def fields_of(event_type: EventType, described: Described | None = None) -> list[Field]:
    """The fields of an event type as far as they are known: by its model, schema or example.

    `described` remembers them for as long as a page is made.
    """
    described = {} if described is None else described
    # What is created and what is updated has the same fields.
    key = event_type.webhook.prefix if event_type.webhook else event_type.type
    if key not in described:
        described[key] = _fields_of(event_type)
    return described[key]


def _fields_of(event_type: EventType) -> list[Field]:
    try:
        if event_type.webhook is not None:
            kinds: Mapping[str, Kind] = event_type.webhook.kinds()
            return list(_walk(event_type.webhook.schema(), kinds))
    except Exception:  # a serializer is the project's code
        logger.exception("The fields of %s can't be described.", event_type.type)
        return []
    return list(_walk(event_type.schema or _schema_of(event_type.example), {}))


def labels_of(
    types: Iterable[EventType], described: Described | None = None
) -> Callable[[str], str]:
    """Gives a path what its field is called; the path itself where that is not known, or where
    another field is called the same.
    """
    fields = {field.path: field for each in types for field in fields_of(each, described)}
    called = Counter(field.label or field.path for field in fields.values())

    def label(path: str) -> str:
        found = fields[path].label if path in fields else ""
        return found if called[found] == 1 else path

    return label


def find_misfits(
    tree: Any, types: Sequence[EventType], described: Described | None = None
) -> Iterator[ConditionError]:
    """The values in a valid tree that are none of their field's kind, as far as that is known."""
    described = {} if described is None else described
    for path, leaf in conditions.leaves(tree):
        if not conditions.OPERATORS[leaf["op"]].compares:
            continue
        known = _fields_at(leaf["field"], [fields_of(each, described) for each in types])
        value = leaf["value"]
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, item in items if known else []:
            if not any(_fits(item, field) for field in known):
                place = f"{path}.value" if path else "value"
                place += "" if index is None else f"[{index}]"
                wanted = ENTER[WHOLE if known[0].whole else known[0].kind]
                yield ConditionError(place, str(wanted))


def _fits(value: Any, field: Field) -> bool:
    is_whole = not field.whole or value is None or conditions.is_whole(value)
    return is_whole and conditions.is_comparable(value, field.kind)


def _fields_at(path: str, described: Iterable[Iterable[Field]]) -> list[Field]:
    """The fields of that path, of each type that has one."""
    return [field for each in described for field in each if field.path == path]


def doubts(
    pattern: str, tree: Any, types: Sequence[EventType], described: Described | None = None
) -> Iterator[Doubt]:
    """What in a valid tree can never be true of the `types`, those that the pattern names."""
    described = {} if described is None else described
    fields = [fields_of(each, described) for each in types]
    for path, leaf in conditions.leaves(tree):
        if message := _doubt(leaf, pattern, types, fields):
            yield Doubt(path, message)


def _doubt(
    leaf: dict[str, Any],
    pattern: str,
    types: Sequence[EventType],
    fields: Sequence[Sequence[Field]],
) -> str:
    operator = conditions.OPERATORS[leaf["op"]]
    if all(fields) and not any(_leads_to(leaf["field"], each) for each in fields):
        message = _("%(pattern)s publishes no field “%(field)s”: this is never known.")
        return message % {"pattern": pattern, "field": leaf["field"]}
    if operator.looks_back and not any(each.action == UPDATED for each in types):
        message = _("“%(op)s” is never known here: %(pattern)s has no value before the change.")
        return message % {"op": operator.phrase, "pattern": pattern}
    if operator.compares:
        return next(_never(leaf, _fields_at(leaf["field"], fields)), "")
    return ""


def _never(leaf: dict[str, Any], known: Sequence[Field]) -> Iterator[str]:
    """What is said of values that none of the fields can have."""
    choices: dict[str, Any] = {}
    if all(field.choices for field in known):
        choices = {str(choice): choice for field in known for choice in field.choices}
    value = leaf["value"]
    for each in (value if isinstance(value, list) else [value]) if known else []:
        words = {"field": leaf["field"], "value": conditions.show_value(each)}
        if not any(conditions.is_comparable(each, field.kind) for field in known):
            yield _("%(field)s can't be compared with %(value)s: this is never known.") % words
        elif each is not None and choices and str(each) not in choices:
            words["choices"] = conditions.show_value([*choices.values()])
            yield _("%(field)s is never %(value)s, only one of %(choices)s.") % words


def _walk(schema: Any, kinds: Mapping[str, Kind], prefix: str = "") -> Iterator[Field]:
    """The fields of a JSON Schema, those of nested objects by their dotted paths."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    for name, each in properties.items() if isinstance(properties, Mapping) else ():
        path = f"{prefix}{name}"
        if not isinstance(each, Mapping):
            continue
        if each.get("properties"):
            yield from _walk(each, kinds, f"{path}.")
            continue
        values = each.get("enum") or ()
        choices = [value for value in values if value is not None]
        called = dict(zip(map(str, values), each.get(LABELS) or (), strict=False))
        labels = [called.get(str(value), "") for value in choices] if called else []
        kind = kinds.get(path) or _kind_of(each)
        whole = kind == "number" and _type_of(each) == "integer"
        label, told = (str(each.get(key, "")) for key in ("title", "description"))
        yield Field(path, kind, label, choices, labels, told, whole)


def _type_of(schema: Mapping[str, Any]) -> str:
    """The type that is named, beside null; empty for none."""
    types = schema.get("type", [])
    names: Iterable[str] = [types] if isinstance(types, str) else types
    return next((str(name) for name in names if name != "null"), "")


def _kind_of(schema: Mapping[str, Any]) -> Kind:
    named = _type_of(schema)
    by_format = KINDS_OF_FORMATS.get(str(schema.get("format")))
    return by_format or KINDS_OF_TYPES.get(named, "unknown")


def _schema_of(example: Any) -> dict[str, Any]:
    """As much of a JSON Schema as an example tells."""
    if isinstance(example, Mapping):
        properties = {str(name): _schema_of(value) for name, value in example.items()}
        return {"type": "object", "properties": properties}
    if isinstance(example, bool):
        return {"type": "boolean"}
    if isinstance(example, int | float):
        return {"type": "number"}
    if isinstance(example, str):
        return {"type": "string", "format": _format_of(example)}
    return {"type": "array"} if isinstance(example, list) else {}


def _format_of(example: str) -> str:
    """What a text stands for, where it can hardly be anything else: "29.80", "2026-11-24"."""
    if conditions.is_comparable(example, "number"):
        return "decimal"
    if conditions.is_comparable(example, "datetime"):
        return "date-time" if "T" in example else "date"
    return ""


def _leads_to(path: str, fields: Iterable[Field]) -> bool:
    """Whether something is published at `path`: a field, what holds one, or the inside of one."""
    return any(
        path == each.path
        or each.path.startswith(f"{path}.")
        or (path.startswith(f"{each.path}.") and each.kind in OPEN_KINDS)
        for each in fields
    )
