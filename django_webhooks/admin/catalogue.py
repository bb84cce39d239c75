"""What a rule can be made of: patterns by app, the fields of each, and what is asked of them.

Read from the registry, in words of the reader's language. `find_misfits` says which values are none
of their field's kind, `doubts` of a rule that may be saved why it will hardly ever fire.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from django_webhooks import conditions
from django_webhooks.conditions import Kind, Operator
from django_webhooks.exceptions import ConditionError
from django_webhooks.registry import UPDATED, EventType, patterns_of, registry

logger = logging.getLogger("django_webhooks")

CHOICE = "choice"
"""To the builder, a field with choices is of a kind of its own."""

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
    choices: Sequence[Any] = ()
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


def pattern_choices(current: str = "") -> list[Any]:
    """All patterns that a rule may have now, as choices grouped by app; `current` among them."""
    groups: dict[str, list[tuple[str, str]]] = {}
    patterns = _patterns()
    for pattern, types in patterns.items():
        app = "" if pattern == "*" else _app_of(types[0])
        groups.setdefault(app, []).append((pattern, _label(pattern)))
    everything = groups.pop("", [])
    choices: list[Any] = [("", _("Choose what to listen to")), *everything, *groups.items()]
    if current and current not in patterns:
        choices.append((current, _("%s (nothing publishes it)") % current))
    return choices


def describe_catalogue(described: Described | None = None) -> dict[str, Any]:
    """The catalogue as the rule builder reads it, in JSON values."""
    shapes: list[list[dict[str, Any]]] = []
    numbers = {}
    for each in registry.types:
        shape = [vars(field) for field in fields_of(each, described)]
        if shape not in shapes:
            shapes.append(shape)
        numbers[each.type] = shapes.index(shape)
    patterns = {}
    for pattern, types in _patterns().items():
        patterns[pattern] = {
            "description": _describe_pattern(pattern, types),
            "shapes": sorted({numbers[each.type] for each in types}),
            "objects": [(each.type, capfirst(each.label)) for each in types if each.webhook],
        }
    return {
        "patterns": patterns,
        "shapes": shapes,
        "operators": {
            **{kind: _ways(kind, conditions.operators_for(kind)) for kind in conditions.KINDS},
            # What compares whole values, as of UUIDs: a choice has no beginning and no order.
            CHOICE: _ways("text", conditions.operators_for("uuid")),
            "any": _ways("unknown", conditions.OPERATORS),
        },
        "maxDepth": conditions.MAX_DEPTH,
    }


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


def find_misfits(
    pattern: str, tree: Any, described: Described | None = None
) -> Iterator[ConditionError]:
    """The values in a valid tree that are none of their field's kind, as far as that is known."""
    described = {} if described is None else described
    types = registry.matching(pattern)
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


def doubts(pattern: str, tree: Any, described: Described | None = None) -> list[Doubt]:
    """What in a valid tree can never be true of the events that the pattern names."""
    leaves = list(conditions.leaves(tree))
    types = registry.matching(pattern) if leaves else []
    described = {} if described is None else described
    fields = [fields_of(each, described) for each in types]
    found = []
    for path, leaf in leaves:
        operator = conditions.OPERATORS[leaf["op"]]
        if all(fields) and not any(_leads_to(leaf["field"], each) for each in fields):
            message = _("%(pattern)s publishes no field “%(field)s”: this is never known.")
            found.append(Doubt(path, message % {"pattern": pattern, "field": leaf["field"]}))
        elif operator.looks_back and not any(each.action == UPDATED for each in types):
            message = _("“%(op)s” is never known here: %(pattern)s has no value before the change.")
            found.append(Doubt(path, message % {"op": operator.phrase, "pattern": pattern}))
        elif operator.compares:
            known = _fields_at(leaf["field"], fields)
            found += [Doubt(path, message) for message in _never(leaf, known)]
    return found


def _never(leaf: dict[str, Any], known: Sequence[Field]) -> Iterator[str]:
    """What is said of values that none of the fields can have."""
    value = leaf["value"]
    for each in (value if isinstance(value, list) else [value]) if known else []:
        words = {"field": leaf["field"], "value": conditions.show_value(each)}
        if not any(conditions.is_comparable(each, field.kind) for field in known):
            yield _("%(field)s can't be compared with %(value)s: this is never known.") % words
        elif each is not None and all(field.choices for field in known):
            choices = {str(choice): choice for field in known for choice in field.choices}
            if str(each) not in choices:
                words["choices"] = ", ".join(map(conditions.show_value, choices.values()))
                yield _("%(field)s is never %(value)s, only one of %(choices)s.") % words


def _patterns() -> dict[str, list[EventType]]:
    """Each pattern with the types that it names; "shop.order.*" before "shop.order.created"."""
    found: dict[str, list[EventType]] = {"*": []}
    for each in registry.types:
        for pattern in patterns_of(each.type):
            found.setdefault(pattern, []).append(each)
    return dict(sorted(found.items(), key=lambda item: item[0].replace("*", "").split(".")))


def _app_of(event_type: EventType) -> str:
    """The name of the app that publishes a type; of those by hand, that of their first part."""
    first = event_type.type.partition(".")[0]
    label = event_type.webhook.model._meta.app_label if event_type.webhook else first
    try:
        return capfirst(str(apps.get_app_config(label).verbose_name))
    except LookupError:
        return capfirst(first)


def _label(pattern: str) -> str:
    words = registry.describe(pattern)
    if words == pattern:  # published by hand: its name is all that is known
        _first, _dot, rest = pattern.partition(".")
        words = (rest or pattern).replace(".", " ").replace("_", " ")
    return f"{capfirst(words)} ({pattern})"


def _describe_pattern(pattern: str, types: Sequence[EventType]) -> str:
    known = registry.get_type(pattern)
    if known is not None:
        return known.description
    names = ", ".join(each.type for each in types[:6])
    return _("%s and all that will match") % (names + ("…" if len(types) > 6 else ""))


def _ways(kind: Kind, operators: Mapping[str, Operator]) -> list[dict[str, Any]]:
    """Each operator in the ways that it can be chosen; a `value` that is given is its whole."""
    moments = kind in ("date", "datetime")
    ways: list[dict[str, Any]] = []
    for name, each in operators.items():
        words = each.words(moments=moments)
        if each.takes == "flag":
            ways.append({"op": name, "words": words, "takes": "nothing"})
            no = each.words(negated=True, moments=moments)
            ways.append({"op": name, "words": no, "takes": "nothing", "value": False})
            continue
        ways.append({"op": name, "words": words, "takes": each.takes})
        if each.takes == "scalar_or_null":
            nothing = {"op": name, "words": f"{words} {_('null')}", "takes": "nothing"}
            ways.append({**nothing, "value": None})
    return ways


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
        choices = [value for value in each.get("enum") or () if value is not None]
        kind = kinds.get(path) or _kind_of(each)
        whole = kind == "number" and _type_of(each) == "integer"
        yield Field(path, kind, choices, str(each.get("description", "")), whole)


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
