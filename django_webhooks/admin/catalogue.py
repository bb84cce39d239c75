"""What a rule can be made of: patterns by app, the fields of each, and what is asked of them.

Read from the registry, in words of the reader's language.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from django.apps import apps
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from django_webhooks import conditions
from django_webhooks.conditions import Operator
from django_webhooks.fields import Described, fields_of
from django_webhooks.registry import UPDATED, EventType, patterns_of, registry

CHOICE = "choice"
"""To the builder, a field with choices is of a kind of its own."""


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
            "looksBack": any(each.action == UPDATED for each in types),
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
    return f"{capfirst(registry.describe(pattern))} ({pattern})"


def _describe_pattern(pattern: str, types: Sequence[EventType]) -> str:
    known = registry.get_type(pattern)
    if known is not None:
        return known.description
    names = ", ".join(each.type for each in types[:6])
    return _("%s and all that will match") % (names + ("…" if len(types) > 6 else ""))


def _ways(kind: str, operators: Mapping[str, Operator]) -> list[dict[str, Any]]:
    """Each operator in the ways that it can be chosen; a `value` that is given is its whole."""
    moments = kind in ("date", "datetime")
    ways: list[dict[str, Any]] = []
    for name, each in operators.items():
        words = each.words(moments=moments)
        way = {"op": name, "words": words, "takes": each.takes, "looksBack": each.looks_back}
        if each.takes == "flag":
            no = each.words(negated=True, moments=moments)
            ways.append({**way, "takes": "nothing"})
            ways.append({**way, "words": no, "takes": "nothing", "value": False})
            continue
        ways.append(way)
        if each.takes == "scalar_or_null":
            null = {"words": f"{words} {_('null')}", "takes": "nothing", "value": None}
            ways.append({**way, **null})
    return ways
