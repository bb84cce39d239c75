"""Conditions: a JSON tree that says when a rule fires.

    {"all": [{"field": "status", "op": "changed_to", "value": "paid"},
             {"not": {"field": "total", "op": "lt", "value": 1000}}]}

The tree is checked when it is saved (`validate`), judged for each event (`evaluate`) and put into
words for people (`describe`, `explain`). The logic is Kleene's: a leaf is true, false or unknown
(`None`), and what is unknown does not fire. Nothing here reads a database or a setting.

Many rules are judged on one event, and one rule on many events. So a tree is read once, into nodes
(`loads`), and what the event holds at a path is looked up and read as a number, a date, … once.
"""

import json
import operator
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property, lru_cache
from itertools import count, islice
from math import isfinite
from sys import getsizeof, intern
from typing import Any, TypeVar
from uuid import UUID

from django.utils.dateparse import parse_date, parse_datetime, parse_duration, parse_time
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from django_webhooks.exceptions import DATA_ERRORS, ConditionError

try:
    import re2
except ImportError:  # an extra: django-webhooks[re2]
    re2 = None

T = TypeVar("T")

Kind = str
KINDS: tuple[Kind, ...] = (
    "text",
    "number",
    "boolean",
    "date",
    "datetime",
    "time",
    "duration",
    "uuid",
    "list",
    "object",
    "unknown",
)

MAX_DEPTH = 15
"""MariaDB stores JSON of up to 31 levels; a group takes two of them, and a list of values one."""
MAX_NODES = 500
MAX_PROBLEMS = 20
"""That are told of one tree: whoever mends those is told of the next."""
MAX_FIELD_LENGTH = 255
MAX_TEXT_LENGTH = 10_000
MAX_LIST_LENGTH = 1_000
MAX_INTEGER_BITS = 14_000
"""Python refuses to write integers of more than 4300 digits; this is a little less."""

SHOWN_CHARACTERS = 100
SHOWN_ITEMS = 10
MAX_PATTERN_LENGTH, MAX_PATTERN_SIZE = 500, 3000
"""Characters of a regular expression, and RE2's instructions of all those in a tree.

Time goes by instructions times characters: this and the next bound it to a tenth of a second.
"""
MAX_MATCHED_LENGTH = 4000
"""Characters of a text that a regular expression is tried on; a longer one is unknown."""

RE2_MEMORY = 128 << 10
"""Bytes per compiled pattern: what needs more, as `\\pL` sixty times over, is refused."""

KEPT_BYTES = 13 << 20
"""What the trees that `loads` keeps may take. Ten thousand of two conditions take seven megabytes,
and are counted as twelve."""
BYTES_PER_NODE = 300
"""Of a condition, and of a value in a list: at their largest, as they were measured."""

MAX_SEEN = 200
"""Paths that are remembered per event: whose rules name more has them looked up again."""


class Meter:
    """What judging may cost, in steps of two to five microseconds: so that nobody's rules, however
    many and whatever they look into, hold up all others. The same rules and event cost the same.
    """

    def __init__(self, steps: float) -> None:
        self.left = steps


@dataclass(frozen=True)
class Facts:
    """What conditions are judged by: one event, in JSON values."""

    data: Any
    """The object's data."""
    previous: Mapping[str, Any] | None = None
    """Old values of the fields that changed, nested like `data`; None: there is no "before"."""
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    """Dotted path → kind, where it is known."""
    meter: Meter | None = None
    """What is left for these and other conditions; what comes after that is unknown."""
    seen: dict[str, "_Seen"] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Path → what was seen there, for the next condition that looks."""

    @property
    def is_spent(self) -> bool:
        return self.meter is not None and self.meter.left < 0


@dataclass(frozen=True)
class Verdict:
    """The outcome of one node, in a tree that mirrors the conditions."""

    value: bool | None
    """None: unknown."""
    path: str
    """`all[1].any[0]`; empty for the root."""
    sentence: str
    """A leaf in words ("total is at least 1000"); for a group "all of", "any of" or "not"."""
    reason: str
    """Why a leaf came out so ("total 740 is not at least 1000"); empty for a group."""
    children: tuple["Verdict", ...] = ()


def validate(tree: Any) -> None:
    """Raises `ConditionError`, which names the place, unless `tree` is a well-formed condition.

    However hostile the JSON is, nothing else is raised.
    """
    for problem in problems(tree):
        raise problem


def problems(tree: Any) -> list[ConditionError]:
    """What is wrong with a tree, in its order: up to `MAX_PROBLEMS`; none if it is well-formed."""
    if _is_always(tree):
        return []
    found = list(islice(_problems(tree, "", 1, count(1)), MAX_PROBLEMS))
    if not found and pattern_size(tree) > MAX_PATTERN_SIZE:
        message = _("its regular expressions are too large together: use fewer or simpler ones")
        found.append(ConditionError("", message))
    return found


def pattern_size(tree: Any) -> int:
    """RE2's instructions of all regular expressions of a valid tree: what they cost."""
    patterns = (leaf["value"] for _path, leaf in leaves(tree) if leaf["op"] == "matches")
    return sum(int(_compile(pattern).programsize) for pattern in patterns)


def loads(text: str) -> "Condition":
    """A tree in JSON, read, for `evaluate` and `describe`; the same text is read once.

    It is known by its text alone: a rule that was changed is another. Text that is no JSON is a
    malformed condition.
    """
    return _kept.get(text)


def evaluate(tree: Any, facts: Facts) -> bool | None:
    """Whether the conditions hold; None is unknown. Never raises: what is malformed is unknown."""
    try:
        return (tree if isinstance(tree, Condition) else _read(tree)).judge(facts)
    except DATA_ERRORS:
        return None


def explain(tree: Any, facts: Facts) -> Verdict:
    """The verdict of `evaluate` with a reason for each condition, short-circuiting nothing."""
    if _is_always(tree):
        return Verdict(True, "", _("always"), _("there are no conditions"))
    return _explain(_read(tree), facts, "")


def distance(tree: Any, facts: Facts) -> int:
    """How few conditions would have to come out otherwise for the tree to hold; 0: it holds."""
    return _distance(_read(tree), facts, True)


def leaves(tree: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The conditions of a tree that is valid, each with its path."""
    if not _is_always(tree):
        yield from _leaves(tree, "")


def is_comparable(value: Any, kind: Kind) -> bool:
    """Whether a condition's value can be compared with a field of this kind at all."""
    return value is None or kind not in _PARSERS or _PARSERS[kind](value) is not None


def is_whole(value: Any) -> bool:
    """Whether it is a number without a fraction, or is written as one."""
    number = _number(value)
    return number is not None and number == number.to_integral_value()


def show_value(value: Any) -> str:
    """A JSON value as sentences write it."""
    return _show(value)


def operators_for(kind: Kind) -> dict[str, "Operator"]:
    """The operators that make sense for a field of this kind."""
    return {name: each for name, each in OPERATORS.items() if kind in each.suits}


def describe(tree: Any, label: Callable[[str], str] | None = None) -> str:
    """The conditions as one sentence; `label` gives a field path its name. Empty for `{}`."""
    return _describe(_read(tree), label or str)


# Walking the tree


def _is_always(tree: Any) -> bool:
    return isinstance(tree, dict) and not tree


def _group(node: Any) -> tuple[str, list[Any]] | None:
    """A well-formed group's connective and its nodes; None for a leaf and all else."""
    if not isinstance(node, dict) or len(node) != 1:
        return None
    [(connective, inner)] = node.items()
    if connective == "not":
        return "not", [inner]
    if connective in ("all", "any") and isinstance(inner, list) and inner:
        return connective, inner
    return None


def _distance(node: "Condition", facts: Facts, wanted: bool) -> int:
    if not isinstance(node, _Group):
        return int(evaluate(node, facts) is not wanted)
    if node.connective == "not":
        return _distance(node.nodes[0], facts, not wanted)
    each = (_distance(child, facts, wanted) for child in node.nodes)
    return sum(each) if wanted == (node.connective == "all") else min(each)


def _explain(node: "Condition", facts: Facts, path: str) -> Verdict:
    if not isinstance(node, _Group):
        return _explain_leaf(node, facts, path)
    children = tuple(
        _explain(child, facts, _child_path(path, node.connective, index))
        for index, child in enumerate(node.nodes)
    )
    judged = tuple(_Judged(child.value) for child in children)
    value = _Group(node.connective, judged).judge(facts)
    sentence = {"all": _("all of"), "any": _("any of"), "not": _("not")}[node.connective]
    return Verdict(value, path, sentence, "", children)


def _describe(node: "Condition", label: Callable[[str], str], *, nested: bool = False) -> str:
    if not isinstance(node, _Group):
        return _describe_leaf(node, label)
    if node.connective == "not":
        return _describe_not(node.nodes[0], label)
    if len(node.nodes) == 1:
        return _describe(node.nodes[0], label, nested=nested)
    glue = _(" and ") if node.connective == "all" else _(" or ")
    sentence = glue.join(_describe(child, label, nested=True) for child in node.nodes)
    return f"({sentence})" if nested else sentence


def _describe_not(node: "Condition", label: Callable[[str], str]) -> str:
    if not isinstance(node, _Group):
        return _describe_leaf(node, label, negated=True)
    return _("not (%(sentence)s)") % {"sentence": _describe(node, label)}


def _any(values: Iterable[bool | None]) -> bool | None:
    verdict: bool | None = False
    for value in values:
        if value is True:
            return True
        if value is None:
            verdict = None
    return verdict


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


_CONNECTIVES = frozenset({"all", "any", "not"})


class Condition:
    """A node of a tree that was read; threads share it."""

    __slots__ = ()

    def judge(self, facts: Facts) -> bool | None:
        """As `evaluate`, but may raise one of `DATA_ERRORS`, which tells why it is unknown."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _Group(Condition):
    connective: str
    nodes: tuple[Condition, ...]

    def judge(self, facts: Facts) -> bool | None:
        if self.connective == "not":
            return _not(self.nodes[0].judge(facts))
        decisive = self.connective == "any"
        verdict: bool | None = not decisive
        for node in self.nodes:
            try:
                value = node.judge(facts)
            except DATA_ERRORS:  # one bad leaf must not silence its neighbours
                value = None
            if value is decisive:
                return decisive
            if value is None:
                verdict = None
        return verdict


@dataclass(frozen=True, slots=True)
class _Judged(Condition):
    """What has a verdict already."""

    verdict: bool | None

    def judge(self, facts: Facts) -> bool | None:
        return self.verdict


@dataclass(frozen=True, slots=True)
class _Malformed(Condition):
    """In place of a leaf that is none: what it says is unknown."""

    why: str

    def judge(self, facts: Facts) -> bool | None:
        return None


_ALWAYS = _Group("all", ())


def _read(tree: Any) -> Condition:
    if isinstance(tree, Condition):
        return tree
    return _ALWAYS if _is_always(tree) else _read_node(tree, 1)


def _read_node(node: Any, depth: int) -> Condition:
    if depth <= MAX_DEPTH and (group := _group(node)) is not None:
        connective, nodes = group
        return _Group(connective, tuple(_read_node(child, depth + 1) for child in nodes))
    try:
        return _read_leaf(node, "", depth)
    except DATA_ERRORS as error:  # one bad leaf must not silence its neighbours
        return _Malformed(str(error))


class _Kept:
    """Trees by their text, as long as there is room.

    When it is full, what is there stays, for all rules of a type are asked for in turn: whichever
    went would be the next to be missed. Once as many found no room as have it, it begins anew.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._trees: dict[str, Condition] = {}
        self._left = KEPT_BYTES
        self._refused = 0

    def get(self, text: str) -> Condition:
        found = self._trees.get(text)
        if found is None:
            found = _read_text(text)
            with self._lock:
                self._keep(text, found)
        return found

    def _keep(self, text: str, tree: Condition) -> None:
        size = 2 * getsizeof(text) + BYTES_PER_NODE * _count(tree)  # its values are in both
        if size > self._left:
            self._refused += 1
            if self._refused > len(self._trees):
                self._clear()
        if size <= self._left and text not in self._trees:
            self._left -= size
            self._trees[text] = tree


_kept = _Kept()


def _read_text(text: str) -> Condition:
    try:
        return _read(json.loads(text))
    except DATA_ERRORS as error:
        return _Malformed(str(error))


def _count(node: Condition) -> int:
    """Its nodes and the values in their lists."""
    if isinstance(node, _Group):
        return 1 + sum(map(_count, node.nodes))
    return 1 + len(node.value.items) if isinstance(node, _Leaf) else 1


# Validating


def _problems(node: Any, path: str, depth: int, numbers: Iterator[int]) -> Iterator[ConditionError]:
    """What is wrong with a node and all below it; `numbers` counts the nodes of the tree."""
    number = next(numbers)
    if number > MAX_NODES:  # said once; below it nothing is looked at
        if number == MAX_NODES + 1:
            message = _("more than %d conditions: split the rule") % MAX_NODES
            yield ConditionError(path, message)
        return
    try:
        _check_node(node, path, depth)
        children = _children(node, path) if node.keys() & _CONNECTIVES else None
    except ConditionError as error:
        yield error
        return
    if children is None:
        yield from _problems_of_leaf(node, path)
        return
    for child, child_path in islice(children, MAX_NODES):
        yield from _problems(child, child_path, depth + 1, numbers)


def _check_node(node: Any, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ConditionError(path, _("nested deeper than %d levels: flatten it") % MAX_DEPTH)
    if not isinstance(node, dict):
        raise ConditionError(
            path, _('must be an object such as {"field": "status", "op": "eq", "value": "paid"}')
        )
    if not node:
        raise ConditionError(path, _("is empty: write a condition here, or leave it out"))


def _problems_of_leaf(node: dict[Any, Any], path: str) -> Iterator[ConditionError]:
    parts: Sequence[Callable[[], Any]] = (
        lambda: _check_keys(node, path),
        lambda: _read_field(node.get("field"), _join(path, "field")),
        lambda: _read_value(
            node, _read_operator(node.get("op"), _join(path, "op")), _join(path, "value")
        ),
    )
    for part in parts:
        try:
            part()
        except ConditionError as error:
            yield error


def _leaves(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    group = _group(node)
    if group is None:
        yield path, node
        return
    connective, nodes = group
    for index, child in enumerate(nodes):
        yield from _leaves(child, _child_path(path, connective, index))


def _children(node: dict[Any, Any], path: str) -> Iterable[tuple[Any, str]]:
    """A group's nodes with their paths."""
    if len(node) != 1:
        raise ConditionError(
            path, _("a group has exactly one key, `all`, `any` or `not`: nest the others in it")
        )
    [(connective, inner)] = node.items()
    if connective == "not":
        inner = [inner]
    elif not isinstance(inner, list):
        raise ConditionError(_join(path, connective), _("must be a list of conditions"))
    elif not inner:
        raise ConditionError(
            _join(path, connective),
            _("is empty: list a condition, or write {} as the whole tree to match always"),
        )
    return ((child, _child_path(path, connective, index)) for index, child in enumerate(inner))


def _child_path(path: str, connective: str, index: int) -> str:
    return _join(path, "not" if connective == "not" else f"{connective}[{index}]")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


# Leaves


@dataclass(frozen=True)
class Operator:
    """An operator: its words, what its `value` may be, and its test.

    The test is made of what is seen, for all values of the same type as the one given.
    """

    phrase: Promise
    """Between field and value when it holds: "is at least"."""
    negation: Promise
    """The same when it does not: "is not at least"."""
    takes: str
    """What `value` may be: a key of `_VALUE_CHECKS`, "flag" (an optional boolean) or "nothing"."""
    test: Callable[["_Seen", Any], "Test"]
    suits: frozenset[Kind]
    """The kinds of fields that it makes sense for."""
    looks_back: bool = False
    """Needs the value before the change."""
    of_moments: tuple[Promise, Promise] | None = None
    """Phrase and negation between dates, where they differ: "is before"."""

    @property
    def compares(self) -> bool:
        """Whether it compares the field's whole value with what it takes."""
        return self.takes not in ("flag", "nothing") and "number" in self.suits

    def words(self, *, negated: bool = False, moments: bool = False) -> str:
        phrases = (moments and self.of_moments) or (self.phrase, self.negation)
        return str(phrases[negated])


class _Value:
    """What a condition compares with. It remembers how it was read last, for mostly it is read as
    one kind only."""

    __slots__ = ("items", "last", "raw")

    def __init__(self, raw: Any, items: "tuple[_Value, ...]" = ()) -> None:
        self.raw = raw
        self.items = items
        self.last: tuple[Parser | None, Any] = _NOT_READ
        """By what, and what it gave: both at once, for threads share it."""

    def read(self, parse: "Parser") -> Any:
        """Reads anew; whoever asks has looked at `last` before."""
        value = parse(self.raw)
        self.last = parse, value
        return value


@dataclass(frozen=True, slots=True)
class _Leaf(Condition):
    field: str
    operator: Operator
    value: _Value
    is_negated: bool
    """`{"op": "exists", "value": false}`: the flag turns the operator around."""
    steps: float
    """What judging it costs at least."""
    key: str
    """The operator and the type of the value."""

    def cost(self, seen: "_Seen") -> float:
        """The steps of judging the leaf, and no fewer: as they were measured at their worst."""
        steps, now = self.steps, seen.now.raw
        if self.operator.looks_back:  # a whole object may be compared with what it was
            steps += 100 if "." in self.field or isinstance(now, list | dict) else 0
        if self.operator.takes == "pattern":
            size = len(now) if isinstance(now, str) and len(now) <= MAX_MATCHED_LENGTH else 0
            return steps + 25 + size * float(_compile(self.value.raw).programsize) / 150
        return steps + seen.size * max(len(self.value.items), 1)

    def judge(self, facts: Facts) -> bool | None:
        seen = facts.seen.get(self.field) or _see(self.field, facts)
        if facts.meter is not None:
            facts.meter.left -= self.cost(seen)
            if facts.meter.left < 0:
                return None
        test = seen.tests.get(self.key)
        if test is None:
            test = seen.tests[self.key] = self.operator.test(seen, self.value.raw)
        verdict = test(self.value)
        return _not(verdict) if self.is_negated else verdict


def _size(now: Any) -> float:
    """The steps of comparing a value with another."""
    if isinstance(now, str):
        return len(now) / 500
    if isinstance(now, list):
        return len(now) + sum(len(each) for each in now if isinstance(each, str)) / 500
    return len(now) / 10 if isinstance(now, dict) else 0


Test = Callable[[_Value], bool | None]
"""What an operator says of a condition's value, of one event: true, false or None for unknown."""


class _Missing:
    """The value of a path that leads nowhere."""


_MISSING = _Missing()


class _Actual:
    """A value of the event. It remembers how it compares with values of a type."""

    __slots__ = ("_tests", "kind", "raw")

    def __init__(self, raw: Any, kind: Kind) -> None:
        self.raw = raw
        self.kind = kind
        self._tests: dict[Any, Test] = {}

    def test(
        self, compare: Callable[[Any, Any], Any], parsers_for: "ParsersFor", like: Any
    ) -> Test:
        """How it compares with values of the type of `like`."""
        key = compare, parsers_for, type(like)
        found = self._tests.get(key)
        if found is None:
            found = self._tests[key] = _test(
                compare, self.raw, parsers_for(self.raw, like, self.kind)
            )
        return found


@dataclass(frozen=True)
class _Seen:
    """What a leaf looks at."""

    path: str
    data: Any
    previous: Mapping[str, Any] | None
    now: _Actual
    size: float
    tests: dict[str, Test] = field(default_factory=dict)
    """`_Leaf.key` → the test of its operator."""

    @cached_property
    def change(self) -> tuple[bool | None, _Actual]:
        """Whether the field changed (None: unknown), and what it was before if that is known."""
        changed, old = _change(self)
        return changed, _Actual(old, self.now.kind)


def _see(path: str, facts: Facts) -> _Seen:
    now = _lookup(facts.data, path)
    actual = _Actual(now, facts.kinds.get(path, "unknown"))
    seen = _Seen(path, facts.data, facts.previous, actual, _size(now))
    if len(facts.seen) < MAX_SEEN:
        facts.seen[path] = seen
    return seen


def _explain_leaf(leaf: Condition, facts: Facts, path: str) -> Verdict:
    if not isinstance(leaf, _Leaf):
        assert isinstance(leaf, _Malformed)
        reason = _("unknown: the condition is malformed (%s)") % leaf.why
        return Verdict(None, path, _("malformed condition"), reason)
    sentence = _in_words(leaf, leaf.field, leaf.is_negated)
    try:
        value = leaf.judge(facts)
        seen = facts.seen.get(leaf.field) or _see(leaf.field, facts)
    except DATA_ERRORS as error:
        reason = _("unknown: it could not be judged (%s)") % type(error).__name__
        return Verdict(None, path, sentence, reason)
    return Verdict(value, path, sentence, _reason(leaf, seen, value, facts.is_spent))


def _describe_leaf(leaf: Condition, label: Callable[[str], str], *, negated: bool = False) -> str:
    if not isinstance(leaf, _Leaf):
        return _("malformed condition")
    return _in_words(leaf, label(leaf.field), negated != leaf.is_negated)


def _read_leaf(node: Any, path: str, depth: int = 1) -> _Leaf:
    """The leaf in a node; raises `ConditionError` if the node is no well-formed leaf."""
    if not isinstance(node, dict) or depth > MAX_DEPTH:
        raise ConditionError(path, _("not a condition, or nested too deeply"))
    _check_keys(node, path)
    name = _read_field(node.get("field"), _join(path, "field"))
    chosen = _read_operator(node.get("op"), _join(path, "op"))
    value = _read_value(node, chosen, _join(path, "value"))
    items = tuple(map(_Value, value)) if chosen.takes == "list" else ()
    return _Leaf(
        field=intern(name),
        operator=chosen,
        value=_Value(value, items),
        is_negated=chosen.takes == "flag" and value is False,
        steps=1 + name.count(".") ** 2 / 30,
        key=intern(f"{node['op']} {type(value).__name__}"),
    )


def _check_keys(node: dict[Any, Any], path: str) -> None:
    if unknown := node.keys() - {"field", "op", "value"}:
        raise ConditionError(
            path,
            _("unknown key %s: keys are `field`, `op`, `value`, or else `all`, `any` or `not`")
            % _name(unknown.pop()),
        )


def _read_field(name: Any, path: str) -> str:
    if not isinstance(name, str) or not name:
        raise ConditionError(path, _("name a field by its path, such as `customer.email`"))
    if len(name) > MAX_FIELD_LENGTH:
        raise ConditionError(path, _("longer than %d characters") % MAX_FIELD_LENGTH)
    if not all(name.split(".")):
        raise ConditionError(path, _("a path is names with single dots between them"))
    _check_text(name, path)
    if not name.isprintable():
        raise ConditionError(path, _("holds a control character: remove it"))
    return name


def _read_operator(name: Any, path: str) -> Operator:
    if isinstance(name, str) and name in OPERATORS:
        return OPERATORS[name]
    known = ", ".join(OPERATORS)
    if name is None:
        raise ConditionError(path, _("is missing: use one of %s") % known)
    raise ConditionError(
        path,
        _("%(name)s is not an operator: use one of %(known)s")
        % {"name": _name(name), "known": known},
    )


def _read_value(node: dict[Any, Any], chosen: Operator, path: str) -> Any:
    if chosen.takes == "nothing":
        if "value" in node:
            raise ConditionError(path, _("this operator takes no value: leave `value` out"))
        return None
    if chosen.takes == "flag":
        if not isinstance(value := node.get("value", True), bool):
            raise ConditionError(path, _("must be true or false, or left out for true"))
        return value
    if "value" not in node:
        raise ConditionError(path, _("is missing: what is the field compared with?"))
    _VALUE_CHECKS[chosen.takes](node["value"], path)
    return node["value"]


def _name(value: Any) -> str:
    """Something of any type and size, named in a message; a `repr` might raise or be endless."""
    return repr(value[:40]) if isinstance(value, str) else type(value).__name__


# What `value` may be: each check raises ConditionError or passes


def _check_scalar(value: Any, path: str) -> None:
    if value is None:
        raise ConditionError(path, _("null is not a value to compare with: use `is_null`"))
    if not isinstance(value, bool | str | int | float):
        raise ConditionError(path, _("must be a text, a number, true or false"))
    if not isinstance(value, bool):
        _check_number_or_text(value, path)


def _check_scalar_or_null(value: Any, path: str) -> None:
    if value is not None:
        _check_scalar(value, path)


def _check_number_or_text(value: Any, path: str) -> None:
    if value is None:
        raise ConditionError(path, _("null has no order and no text: use `is_null`"))
    if isinstance(value, str):
        _check_text(value, path)
    elif _is_json_number(value):
        _check_number(value, path)
    else:
        raise ConditionError(path, _("must be a number or a text"))


def _check_number(value: int | float, path: str) -> None:
    if isinstance(value, float) and not isfinite(value):
        raise ConditionError(path, _("must be a finite number"))
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise ConditionError(path, _("the number is too large"))


def _check_text(value: str, path: str) -> None:
    if len(value) > MAX_TEXT_LENGTH:
        raise ConditionError(path, _("longer than %d characters") % MAX_TEXT_LENGTH)
    if re.search("[\x00\ud800-\udfff]", value):  # databases can't store these
        raise ConditionError(path, _("holds a NUL or half a surrogate pair: remove it"))


def _check_list(value: Any, path: str) -> None:
    if not isinstance(value, list):
        raise ConditionError(path, _('must be a list such as ["paid", "sent"]'))
    if not value:
        raise ConditionError(path, _("is empty: name at least one value"))
    if len(value) > MAX_LIST_LENGTH:
        raise ConditionError(path, _("more than %d values") % MAX_LIST_LENGTH)
    for index, item in enumerate(value):
        _check_scalar(item, f"{path}[{index}]")


def _check_pattern(value: Any, path: str) -> None:
    if re2 is None:
        raise ConditionError(
            path, _("`matches` is not offered here: it needs django-webhooks[re2]")
        )
    if not isinstance(value, str):
        raise ConditionError(path, _("must be a text: a regular expression in RE2's syntax"))
    if len(value) > MAX_PATTERN_LENGTH:
        raise ConditionError(path, _("longer than %d characters") % MAX_PATTERN_LENGTH)
    _check_text(value, path)
    try:
        _compile(value)
    except ValueError as error:
        raise ConditionError(path, _("not a regular expression of RE2: %s") % error) from error


_VALUE_CHECKS: Mapping[str, Callable[[Any, str], None]] = {
    "scalar": _check_scalar,
    "scalar_or_null": _check_scalar_or_null,
    "number_or_text": _check_number_or_text,
    "list": _check_list,
    "pattern": _check_pattern,
}


# What the operators do


def _eq(seen: _Seen, like: Any) -> Test:
    return seen.now.test(operator.eq, _parsers_for_equality, like)


def _ne(seen: _Seen, like: Any) -> Test:
    equal = _eq(seen, like)
    return lambda value: _not(equal(value))


def _in(seen: _Seen, _like: Any) -> Test:
    now = seen.now
    return lambda value: _any(_equal(now, item) for item in value.items)


def _not_in(seen: _Seen, like: Any) -> Test:
    is_in = _in(seen, like)
    return lambda value: _not(is_in(value))


def _contains(seen: _Seen, like: Any) -> Test:
    items = seen.now.raw
    if not isinstance(items, list):
        return seen.now.test(operator.contains, _parsers_for_texts, like)

    def contains(value: _Value) -> bool | None:
        wanted = _Actual(value.raw, "unknown")  # this way round it is read once for all items
        return _any(_equal(wanted, _Value(item)) for item in items)

    return contains


def _exists(seen: _Seen, _like: Any) -> Test:
    return _constant(seen.now.raw is not _MISSING)


def _is_null(seen: _Seen, _like: Any) -> Test:
    return _constant(_null(seen.now))


def _changed(seen: _Seen, _like: Any) -> Test:
    return _constant(seen.change[0])


def _changed_to(seen: _Seen, like: Any) -> Test:
    changed, _old = seen.change
    return _equal_or_null(seen.now, like) if changed else _constant(changed)


def _changed_from(seen: _Seen, like: Any) -> Test:
    changed, old = seen.change
    return _equal_or_null(old, like) if changed else _constant(changed)


def _equal_or_null(actual: _Actual, like: Any) -> Test:
    if like is not None:
        return actual.test(operator.eq, _parsers_for_equality, like)
    return _constant(_null(actual))


def _null(actual: _Actual) -> bool | None:
    return None if actual.raw is _MISSING else actual.raw is None


def _move(compare: Callable[[Any, Any], Any]) -> Callable[[_Seen, Any], Test]:
    def moved(seen: _Seen, _like: Any) -> Test:
        changed, old = seen.change
        if not changed:
            return _constant(changed)
        ordered = seen.now.test(compare, _parsers_for_order, old.raw)
        return _constant(ordered(_Value(old.raw)))

    return moved


def _order(compare: Callable[[Any, Any], Any]) -> Callable[[_Seen, Any], Test]:
    return lambda seen, like: seen.now.test(compare, _parsers_for_order, like)


def _text_test(compare: Callable[[str, str], bool]) -> Callable[[_Seen, Any], Test]:
    return lambda seen, like: seen.now.test(compare, _parsers_for_texts, like)


def _matches(seen: _Seen, like: Any) -> Test:
    if len(_written(seen.now.raw) or "") > MAX_MATCHED_LENGTH:
        return _constant(None)
    return seen.now.test(_search, _parsers_for_texts, like)


def _search(text: str, pattern: str) -> bool:
    return bool(_compile(pattern).search(text))


def _constant(verdict: bool | None) -> Test:
    return lambda _value: verdict


@lru_cache(maxsize=16)
def _folded(text: str) -> str:
    """Kept, for many rules may look into one long text."""
    return text.casefold()


@lru_cache(maxsize=128)
def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = RE2_MEMORY
    try:
        return re2.compile(pattern, options)
    except Exception as error:  # re2.error, which is not public in all versions
        said = error.args[0] if error.args else ""
        text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        raise ValueError(text) from error


_p = gettext_lazy

_ANY = frozenset(KINDS)
_TEXTS = frozenset({"text", "unknown"})
_MOMENTS = frozenset({"date", "datetime"})
_ORDERED = _MOMENTS | {"number", "time", "duration", "unknown"}
_SINGLE = _ANY - {"list", "object"}

OPERATORS: Mapping[str, Operator] = {
    "eq": Operator(_p("is"), _p("is not"), "scalar", _eq, _SINGLE),
    "ne": Operator(_p("is not"), _p("is"), "scalar", _ne, _SINGLE),
    "gt": Operator(
        _p("is greater than"),
        _p("is not greater than"),
        "number_or_text",
        _order(operator.gt),
        _ORDERED,
        of_moments=(_p("is after"), _p("is not after")),
    ),
    "gte": Operator(
        _p("is at least"),
        _p("is not at least"),
        "number_or_text",
        _order(operator.ge),
        _ORDERED,
        of_moments=(_p("is at or after"), _p("is not at or after")),
    ),
    "lt": Operator(
        _p("is less than"),
        _p("is not less than"),
        "number_or_text",
        _order(operator.lt),
        _ORDERED,
        of_moments=(_p("is before"), _p("is not before")),
    ),
    "lte": Operator(
        _p("is at most"),
        _p("is not at most"),
        "number_or_text",
        _order(operator.le),
        _ORDERED,
        of_moments=(_p("is at or before"), _p("is not at or before")),
    ),
    "in": Operator(_p("is one of"), _p("is not one of"), "list", _in, _SINGLE - {"boolean"}),
    "not_in": Operator(
        _p("is not one of"), _p("is one of"), "list", _not_in, _SINGLE - {"boolean"}
    ),
    "contains": Operator(
        _p("contains"), _p("does not contain"), "scalar", _contains, _TEXTS | {"list"}
    ),
    "icontains": Operator(
        _p("contains (in any case)"),
        _p("does not contain (in any case)"),
        "number_or_text",
        _text_test(lambda text, part: _folded(part) in _folded(text)),
        _TEXTS,
    ),
    "startswith": Operator(
        _p("starts with"),
        _p("does not start with"),
        "number_or_text",
        _text_test(str.startswith),
        _TEXTS,
    ),
    "endswith": Operator(
        _p("ends with"),
        _p("does not end with"),
        "number_or_text",
        _text_test(str.endswith),
        _TEXTS,
    ),
    "matches": Operator(
        _p("matches"),
        _p("does not match"),
        "pattern",
        _matches,
        _TEXTS if re2 is not None else frozenset(),
    ),
    "exists": Operator(_p("exists"), _p("does not exist"), "flag", _exists, _ANY),
    "is_null": Operator(_p("is null"), _p("is not null"), "flag", _is_null, _ANY),
    "changed": Operator(
        _p("changes"), _p("does not change"), "flag", _changed, _ANY, looks_back=True
    ),
    "changed_to": Operator(
        _p("changes to"),
        _p("does not change to"),
        "scalar_or_null",
        _changed_to,
        _SINGLE,
        looks_back=True,
    ),
    "changed_from": Operator(
        _p("changes from"),
        _p("does not change from"),
        "scalar_or_null",
        _changed_from,
        _SINGLE,
        looks_back=True,
    ),
    "increased": Operator(
        _p("increases"),
        _p("does not increase"),
        "nothing",
        _move(operator.gt),
        _ORDERED,
        looks_back=True,
    ),
    "decreased": Operator(
        _p("decreases"),
        _p("does not decrease"),
        "nothing",
        _move(operator.lt),
        _ORDERED,
        looks_back=True,
    ),
}


# Looking into the data


def _lookup(data: Any, path: str) -> Any:
    """The value at a dotted path, or `_MISSING`; digits index lists, keys may hold dots."""
    rest = path
    while rest:
        if isinstance(data, Mapping):
            key = _longest_key(data, rest)
            if key is None:
                return _MISSING
            data = data[key]
        elif isinstance(data, list):
            key = rest.partition(".")[0]
            if not (key.isascii() and key.isdigit() and int(key) < len(data)):
                return _MISSING
            data = data[int(key)]
        else:
            return _MISSING
        rest = rest[len(key) + 1 :]
    return data


def _longest_key(data: Mapping[str, Any], path: str) -> str | None:
    """The longest beginning of the path, cut at a dot, that is a key."""
    while path:
        if path in data:
            return path
        path = path.rpartition(".")[0]
    return None


def _change(seen: _Seen) -> tuple[bool | None, Any]:
    """Whether the field changed (None: unknown), and what it was before where that is known."""
    previous, path, now = seen.previous, seen.path, seen.now.raw
    if previous is None:
        return None, _MISSING
    old = _lookup(previous, path)
    if old is not _MISSING:
        # A field in `previous` changed; of a JSON field's insides, only some may have.
        return path in previous or not _same(old, now), old
    if now is _MISSING:
        return None, _MISSING
    return _appeared(seen.data, previous, path), _MISSING


def _appeared(data: Any, previous: Mapping[str, Any], path: str) -> bool:
    """Whether `previous` tells that a path, which it does not hold, was not there before."""
    parent = path.rpartition(".")[0]
    while parent:
        old = _lookup(previous, parent)
        if old is not _MISSING:
            return not isinstance(old, Mapping) or _is_whole(old, _lookup(data, parent))
        parent = parent.rpartition(".")[0]
    return False


def _is_whole(old: Mapping[str, Any], now: Any) -> bool:
    """Whether an object in `previous` is a value in full rather than the fields that changed.

    The changed fields of a relation never come empty nor with an unchanged one among them.
    """
    if not old or not isinstance(now, Mapping):
        return True
    return any(key in now and _same(value, now[key]) for key, value in old.items())


def _same(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


# Comparing

Parser = Callable[[Any], Any]
"""Gives a value that compares with others of its kind, or None."""
ParsersFor = Callable[[Any, Any, Kind], Sequence[Parser]]
"""Those to try on two values, the first of that kind; of the second only the type counts."""

_NOT_READ: tuple[None, None] = (None, None)


def _equal(left: _Actual, right: _Value) -> bool | None:
    return left.test(operator.eq, _parsers_for_equality, right.raw)(right)


def _test(compare: Callable[[Any, Any], bool], left: Any, parsers: Sequence[Parser]) -> Test:
    """Compares by the first parser that reads both; None: they can't be compared."""
    readings = [(parse, first) for parse in parsers if (first := parse(left)) is not None]

    def test(right: _Value) -> bool | None:
        for parse, first in readings:
            by, second = right.last  # looked at here: a call less for each of many conditions
            if by is not parse:
                second = right.read(parse)
            if second is not None:
                return compare(first, second)
        return None

    return test


def _parsers_for_texts(_left: Any, _right: Any, _kind: Kind) -> Sequence[Parser]:
    return [_written]


def _parsers_for_equality(left: Any, right: Any, kind: Kind) -> Sequence[Parser]:
    if kind in _PARSERS:
        return [_PARSERS[kind]]
    if isinstance(left, bool) or isinstance(right, bool):
        return [_true_or_false]
    if _is_json_number(left) or _is_json_number(right):
        return [_number]
    return [_text] if kind == "text" else [_iso_moment, _text]


def _parsers_for_order(left: Any, right: Any, kind: Kind) -> Sequence[Parser]:
    if kind == "boolean" or isinstance(left, bool) or isinstance(right, bool):
        return []
    if kind in _PARSERS:
        return [_PARSERS[kind]]
    if _is_json_number(left) or _is_json_number(right):
        return [_number]
    return [_text] if kind == "text" else [_number, _iso_moment, _text_unless_nan]


def _is_json_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _text_unless_nan(value: Any) -> str | None:
    """Of texts of unknown kind: "NaN" among numbers must not be ordered by its letters."""
    return None if not isinstance(value, str) or _NOT_FINITE.fullmatch(value) else value


def _written(value: Any) -> str | None:
    """A text, or a number as it is written."""
    return str(value) if _is_json_number(value) else _text(value)


def _number(value: Any) -> Decimal | None:
    if isinstance(value, float):
        return Decimal(str(value)) if isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return _or_none(Decimal, value)  # exponents beyond the machine's raise
    return None


def _true_or_false(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _boolean(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return _true_or_false(value)


def _moment(value: Any) -> datetime | None:
    """A date is its midnight, and what has no time zone is in UTC."""
    if not isinstance(value, str):
        return None
    moment = _or_none(parse_datetime, value)
    if moment is None and (day := _or_none(parse_date, value)) is not None:
        moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment


def _iso_moment(value: Any) -> datetime | None:
    """Of texts of unknown kind, only those that can hardly be anything but dates."""
    return _moment(value) if isinstance(value, str) and _ISO_DATE.match(value) else None


def _time(value: Any) -> time | None:
    return _or_none(parse_time, value) if isinstance(value, str) else None


def _duration(value: Any) -> timedelta | None:
    has_digits = isinstance(value, str) and any(map(str.isdigit, value))  # Django reads "" as 0
    return _or_none(parse_duration, value) if has_digits else None


def _uuid(value: Any) -> UUID | None:
    return _or_none(UUID, value) if isinstance(value, str) else None


def _or_none(parse: Callable[[Any], T | None], value: Any) -> T | None:
    try:
        return parse(value)
    except (ValueError, ArithmeticError):
        return None


_PARSERS: Mapping[Kind, Parser] = {
    "number": _number,
    "boolean": _boolean,
    "date": _moment,
    "datetime": _moment,
    "time": _time,
    "duration": _duration,
    "uuid": _uuid,
}

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}|\Z)", re.ASCII)


# In words


def _in_words(leaf: _Leaf, subject: str, negated: bool) -> str:
    value = leaf.value.raw
    words = leaf.operator.words(negated=negated, moments=_iso_moment(value) is not None)
    if leaf.operator.takes in ("flag", "nothing"):
        return f"{subject} {words}"
    return f"{subject} {words} {_show(value)}"


def _reason(leaf: _Leaf, seen: _Seen, verdict: bool | None, is_spent: bool) -> str:
    if verdict is None:
        return _("unknown: %s") % _why_unknown(leaf, seen, is_spent)
    if leaf.operator.looks_back:
        history = _history(seen)
        if verdict or leaf.operator.takes != "scalar_or_null" or not seen.change[0]:
            return history
        return f"{history}: {_in_words(leaf, _('it'), True)}"
    subject = seen.path if leaf.operator.takes == "flag" else f"{seen.path} {_show(seen.now.raw)}"
    return _in_words(leaf, subject, verdict == leaf.is_negated)


def _why_unknown(leaf: _Leaf, seen: _Seen, is_spent: bool) -> str:
    now = seen.now.raw
    if is_spent:
        return _("it was not judged, for the rules before it have cost too much")
    if leaf.operator.looks_back and seen.previous is None:
        return _("there is no value before the change")
    if leaf.operator.looks_back and seen.change[0]:
        return _("%s, which can't be compared") % _history(seen)
    if now is _MISSING:
        return _("%s is missing") % seen.path
    if now is None:
        return _("%s is null") % seen.path
    if leaf.operator.takes == "pattern" and isinstance(now, str):
        words = _("%(field)s has more than %(most)d characters: too many for a regular expression")
        return words % {"field": seen.path, "most": MAX_MATCHED_LENGTH}
    return _("%(field)s %(now)s can't be compared with %(value)s") % {
        "field": seen.path,
        "now": _show(now),
        "value": _show(leaf.value.raw),
    }


def _history(seen: _Seen) -> str:
    changed, old = seen.change
    if not changed:
        return _("%s did not change") % seen.path
    return _("%(field)s changed from %(old)s to %(now)s") % {
        "field": seen.path,
        "old": _show(old.raw),
        "now": _show(seen.now.raw),
    }


def _show(value: Any) -> str:
    """A value as people read it, at a bearable length."""
    if value is _MISSING:
        return _("nothing")
    if value is None or isinstance(value, bool):
        return {None: _("null"), True: _("true"), False: _("false")}[value]
    if isinstance(value, str):
        shown = _shorten(value)
        bare = _iso_moment(value) is not None or _number(value) is not None
        return shown if bare else f"“{shown}”"
    if isinstance(value, list):
        return _show_list(value)
    if isinstance(value, Mapping):
        return _("an object")
    return _shorten(_or_none(str, value) or _("a very large number"))


def _show_list(values: list[Any]) -> str:
    shown = ", ".join(
        _("a list") if isinstance(item, list) else _show(item) for item in values[:SHOWN_ITEMS]
    )
    if (more := len(values) - SHOWN_ITEMS) > 0:
        shown += ngettext(" and %d more", " and %d more", more) % more
    return shown or _("an empty list")


def _shorten(text: str) -> str:
    """At a bearable length, and without what moves a terminal's cursor or turns a line around."""
    short = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
    return "".join(each if each.isprintable() else _escaped(each) for each in short)


def _escaped(character: str) -> str:
    return f"\\u{ord(character):04x}"
