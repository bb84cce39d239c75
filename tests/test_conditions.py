"""Conditions need no database: each test is a tree, an event's data and a verdict."""

import itertools
import json
import re
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_webhooks import conditions
from django_webhooks.conditions import (
    KINDS,
    MAX_DEPTH,
    OPERATORS,
    Facts,
    describe,
    evaluate,
    explain,
    problems,
    validate,
)
from django_webhooks.exceptions import ConditionError

thorough = settings(max_examples=300, deadline=None)

YES, NO, UNKNOWN = True, False, None


def leaf(op, *value, field="x"):
    return {"field": field, "op": op, **({"value": value[0]} if value else {})}


def judge(op, now, *value, kind="unknown"):
    tree = leaf(op, *value)
    validate(tree)
    return evaluate(tree, Facts({"x": now}, kinds={"x": kind}))


# Comparing


@pytest.mark.parametrize(
    ("now", "op", "value", "kind", "expected"),
    [
        # text
        ("paid", "eq", "paid", "text", YES),
        ("paid", "eq", "Paid", "unknown", NO),
        ("paid", "ne", "sent", "unknown", YES),
        ("paid", "ne", "paid", "text", NO),
        ("", "eq", "", "unknown", YES),
        ("10.00", "eq", "10", "unknown", NO),
        ("10.00", "eq", 10, "unknown", YES),
        ("007", "eq", "7", "text", NO),
        ("b", "gt", "a", "unknown", YES),
        ("9.50", "lt", "10.00", "text", NO),
        # numbers
        (1, "eq", 1.0, "unknown", YES),
        (0.1, "eq", "0.10", "number", YES),
        ("0.30", "eq", 0.3, "unknown", YES),
        ("10.00", "eq", "10", "number", YES),
        ("9.50", "lt", "10.00", "unknown", YES),
        ("9.50", "lt", "10.00", "number", YES),
        (1000, "gte", 1000, "number", YES),
        (1000, "gt", 1000, "number", NO),
        (1000, "lte", "1e3", "number", YES),
        (999.99, "gte", 1000, "number", NO),
        (9007199254740993, "eq", 9007199254740992, "number", NO),
        (int("9" * 400), "gt", "1e399", "number", YES),
        ("9" * 50_000, "gt", 1, "unknown", YES),
        ("1e999999999", "gt", 1, "number", YES),
        ("1e999999999", "eq", "1e999999998", "number", NO),
        ("1e99999999999999999999", "gt", 1, "number", UNKNOWN),
        (float("nan"), "eq", 1, "number", UNKNOWN),
        (float("inf"), "gt", 1, "number", UNKNOWN),
        ("NaN", "gt", "1", "number", UNKNOWN),
        ("NaN", "gt", "1", "unknown", UNKNOWN),
        ("-Infinity", "lt", 1, "unknown", UNKNOWN),
        ("abc", "gt", 1, "unknown", UNKNOWN),
        ("abc", "eq", "abc", "number", UNKNOWN),
        ("1_000", "eq", 1000, "number", UNKNOWN),
        ("٣", "eq", 3, "number", UNKNOWN),
        # booleans
        (True, "eq", True, "unknown", YES),
        (True, "eq", False, "boolean", NO),
        (True, "eq", "true", "boolean", YES),
        ("false", "eq", False, "boolean", YES),
        (True, "eq", "true", "unknown", UNKNOWN),
        (True, "eq", 1, "unknown", UNKNOWN),
        (1, "eq", True, "unknown", UNKNOWN),
        (True, "ne", 1, "boolean", UNKNOWN),
        (True, "gt", 0, "unknown", UNKNOWN),
        ("true", "gt", "false", "boolean", UNKNOWN),
        # dates and times
        ("2026-03-01", "gt", "2026-02-28", "date", YES),
        ("2026-03-01", "eq", "2026-03-01T00:00:00Z", "date", YES),
        ("2026-03-01", "lt", "2026-03-01T00:00:01", "unknown", YES),
        ("2026-03-01T12:00:00+02:00", "eq", "2026-03-01T10:00:00Z", "datetime", YES),
        ("2026-03-01T12:00:00+02:00", "eq", "2026-03-01T10:00:00Z", "unknown", YES),
        ("2026-03-01T12:00:00+02:00", "lt", "2026-03-01T11:00:00", "unknown", YES),
        ("2026-03-01T12:00:00+02:00", "lt", "2026-03-01T11:00:00", "text", NO),
        ("0001-01-01T00:00:00+14:00", "lt", "9999-12-31T23:59:59-14:00", "datetime", YES),
        ("2026-02-30", "gt", "2026-01-01", "date", UNKNOWN),
        ("2026-02-30", "eq", "2026-02-30", "unknown", YES),
        ("20260301", "eq", "2026-03-01", "unknown", NO),
        ("soon", "gt", "2026-01-01", "date", UNKNOWN),
        (20260301, "eq", "2026-03-01", "date", UNKNOWN),
        ("09:30", "lt", "10:00:00", "time", YES),
        ("09:30:00", "eq", "9:30", "time", YES),
        ("25:00", "lt", "10:00", "time", UNKNOWN),
        ("P1DT00H00M00S", "gt", "PT23H", "duration", YES),
        ("P1D", "eq", "1 00:00:00", "duration", YES),
        ("", "eq", "P0D", "duration", UNKNOWN),
        ("P99999999999999D", "gt", "P1D", "duration", UNKNOWN),
        # uuids
        (
            "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
            "eq",
            "6BA7B8109DAD11D180B400C04FD430C8",
            "uuid",
            YES,
        ),
        ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", "eq", "other", "uuid", UNKNOWN),
        # what has no scalar value
        ([1], "eq", 1, "list", UNKNOWN),
        ({"a": 1}, "ne", 1, "object", UNKNOWN),
    ],
)
def test_values_compare_by_their_type(now, op, value, kind, expected):
    assert judge(op, now, value, kind=kind) is expected


@pytest.mark.parametrize(
    ("now", "value", "expected"),
    [
        ("paid", ["sent", "paid"], YES),
        ("paid", ["sent"], NO),
        (5, ["5", 6], YES),
        (5, ["a", 5], YES),
        (5, ["a", 6], UNKNOWN),
        (None, ["a"], UNKNOWN),
        (True, [True], YES),
        (1, [True], UNKNOWN),
    ],
)
def test_in_is_an_any_over_eq_and_not_in_its_opposite(now, value, expected):
    assert judge("in", now, value) is expected
    assert judge("not_in", now, value) is {YES: NO, NO: YES, UNKNOWN: UNKNOWN}[expected]


@pytest.mark.parametrize(
    ("op", "now", "value", "expected"),
    [
        ("contains", "hello world", "lo w", YES),
        ("contains", "hello", "L", NO),
        ("contains", 1234, 23, YES),
        ("contains", ["a", "b"], "a", YES),
        ("contains", ["a", "b"], "c", NO),
        ("contains", [], "c", NO),
        ("contains", [1, 2.0], 2, YES),
        ("contains", [True], 1, UNKNOWN),
        ("contains", [None, "a"], "a", YES),
        ("contains", [None, "a"], "b", UNKNOWN),
        ("contains", {"a": 1}, "a", UNKNOWN),
        ("contains", True, "r", UNKNOWN),
        ("icontains", "STRASSE", "straße", YES),
        ("icontains", "street", "straße", NO),
        ("icontains", ["a"], "a", UNKNOWN),
        ("startswith", "A-17", "A-", YES),
        ("startswith", "A-17", "17", NO),
        ("startswith", 2026, 20, YES),
        ("endswith", "me@example.com", "@example.com", YES),
        ("endswith", "me@example.org", "@example.com", NO),
        ("matches", "A-17", r"\d+$", YES),
        ("matches", "A-x", r"\d+$", NO),
        ("matches", 17, "^17$", YES),
        ("matches", "a" * 4000, "(a*)*b", NO),
        ("matches", "half a pair: \ud800", "x", UNKNOWN),
        ("matches", [], "x", UNKNOWN),
    ],
)
def test_texts_and_lists_are_searched(op, now, value, expected):
    assert judge(op, now, value) is expected


@pytest.mark.parametrize("op", sorted(OPERATORS.keys() - {"exists", "is_null"}))
@pytest.mark.parametrize("data", [{}, {"x": None}, [], None, "x"])
def test_missing_and_null_are_unknown(op, data):
    assert evaluate(leaf_for(op), Facts(data, {})) in (UNKNOWN, NO)
    if op not in ("changed", "changed_to", "changed_from", "increased", "decreased"):
        assert evaluate(leaf_for(op), Facts(data, {})) is UNKNOWN


def leaf_for(op):
    takes = OPERATORS[op].takes
    value = {"list": [["a"]], "flag": [], "nothing": []}.get(takes, ["a"])
    return leaf(op, *value)


@pytest.mark.parametrize(
    ("data", "exists", "is_null"),
    [({"x": 1}, YES, NO), ({"x": None}, YES, YES), ({}, NO, UNKNOWN), (None, NO, UNKNOWN)],
)
def test_exists_is_about_presence_and_is_null_about_value(data, exists, is_null):
    facts = Facts(data)
    flip = {YES: NO, NO: YES, UNKNOWN: UNKNOWN}
    assert evaluate(leaf("exists"), facts) is exists
    assert evaluate(leaf("exists", True), facts) is exists
    assert evaluate(leaf("exists", False), facts) is flip[exists]
    assert evaluate(leaf("is_null"), facts) is is_null
    assert evaluate(leaf("is_null", False), facts) is flip[is_null]


# Paths


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("customer.email", "a@b.c"),
        ("items.0.sku", "S1"),
        ("items.01.sku", "S2"),
        ("items.2.sku", None),
        ("items.-1.sku", None),
        ("items.sku", None),
        ("items.².sku", None),
        ("a.b", "dotted"),
        ("a.b.c", None),
        ("a.d", "nested"),
        ("m.x.y.z", "deep"),
        ("status.paid", None),
    ],
)
def test_a_path_follows_keys_and_list_positions(path, expected):
    data = {
        "customer": {"email": "a@b.c"},
        "items": [{"sku": "S1"}, {"sku": "S2"}],
        "a.b": "dotted",
        "a": {"b": {"c": 1}, "d": "nested"},
        "m": {"x.y": {"z": "deep"}},
        "status": "paid",
    }
    assert evaluate(leaf("exists", field=path), Facts(data)) is (expected is not None)
    if expected is not None:
        assert evaluate(leaf("eq", expected, field=path), Facts(data)) is YES


# Before and after


def after(op, *value, field="x", now=None, before=None, kinds=None):
    tree = leaf(op, *value, field=field)
    validate(tree)
    return evaluate(tree, Facts(now, before, kinds or {}))


@pytest.mark.parametrize(
    "tree",
    [leaf(op) for op in ("changed", "increased", "decreased")]
    + [leaf(op, value) for op in ("changed_to", "changed_from") for value in (1, None)],
)
def test_without_a_before_a_change_is_unknown(tree):
    assert evaluate(tree, Facts({"x": 1}, None)) is UNKNOWN


@pytest.mark.parametrize(
    ("path", "now", "before", "expected"),
    [
        ("x", {"x": 1}, {"x": 2}, YES),
        ("x", {"x": 1}, {"x": None}, YES),
        ("x", {"x": None}, {"x": 1}, YES),
        ("x", {}, {"x": 1}, YES),
        ("x", {"x": 1}, {"y": 2}, NO),
        ("x", {"x": 1}, {}, NO),
        ("x", {"x": None}, {}, NO),
        ("x", {}, {}, UNKNOWN),
        # a path below or above what changed
        ("c", {"c": {"a": 1, "b": 2}}, {"c": {"a": 0}}, YES),
        ("c.a", {"c": {"a": 1, "b": 2}}, {"c": {"a": 0}}, YES),
        ("c.b", {"c": {"a": 1, "b": 2}}, {"c": {"a": 0}}, NO),
        ("c.a", {"c": {"a": 1}}, {"c": None}, YES),
        ("c.a", {"c": None}, {"c": {"a": 1}}, YES),
        # of a JSON field, `previous` holds the old value in full
        ("c.a", {"c": {"a": 1, "b": 2}}, {"c": {"a": 1, "b": 3}}, NO),
        ("c.b", {"c": {"a": 1, "b": 2}}, {"c": {"a": 1}}, YES),
        ("c.b", {"c": {"b": 2}}, {"c": {}}, YES),
        ("c.a", {"c": {"a": True}}, {"c": {"a": 1}}, YES),
        ("c.1", {"c": [1, 2]}, {"c": [1]}, YES),
        ("c.0", {"c": [1, 2]}, {"c": [1]}, NO),
    ],
)
def test_changed_tells_what_is_in_previous(path, now, before, expected):
    assert after("changed", field=path, now=now, before=before) is expected
    flipped = None if expected is None else not expected
    assert after("changed", False, field=path, now=now, before=before) is flipped


@pytest.mark.parametrize(
    ("op", "value", "now", "before", "expected"),
    [
        ("changed_to", "paid", {"x": "paid"}, {"x": "new"}, YES),
        ("changed_to", "paid", {"x": "sent"}, {"x": "new"}, NO),
        ("changed_to", "paid", {"x": "paid"}, {"y": 1}, NO),
        ("changed_to", "paid", {"x": None}, {"x": "new"}, UNKNOWN),
        ("changed_to", 10, {"x": "10.00"}, {"x": "9.00"}, YES),
        ("changed_to", None, {"x": None}, {"x": "new"}, YES),
        ("changed_to", None, {"x": "a"}, {"x": "new"}, NO),
        ("changed_to", None, {}, {"x": "new"}, UNKNOWN),
        ("changed_to", None, {"x": None}, {}, NO),
        ("changed_to", None, {}, {}, UNKNOWN),
        ("changed_from", "new", {"x": "paid"}, {"x": "new"}, YES),
        ("changed_from", "old", {"x": "paid"}, {"x": "new"}, NO),
        ("changed_from", "new", {"x": "new"}, {}, NO),
        ("changed_from", "new", {"x": "paid"}, {"x": None}, UNKNOWN),
        ("changed_from", None, {"x": "paid"}, {"x": None}, YES),
        ("changed_from", None, {"x": None}, {"x": "new"}, NO),
    ],
)
def test_changed_to_and_from_compare_the_two_ends(op, value, now, before, expected):
    assert after(op, value, now=now, before=before) is expected


@pytest.mark.parametrize(
    ("old", "now", "kind", "increased", "decreased"),
    [
        (1, 2, "number", YES, NO),
        (2, 1, "unknown", NO, YES),
        ("9.50", "10.00", "unknown", YES, NO),
        ("9.50", "10.00", "text", NO, YES),
        ("10", "10.00", "number", NO, NO),
        ("2026-01-31", "2026-02-01", "date", YES, NO),
        ("PT2H", "PT1H30M", "duration", NO, YES),
        (None, 2, "number", UNKNOWN, UNKNOWN),
        (1, None, "number", UNKNOWN, UNKNOWN),
        ("a", 2, "unknown", UNKNOWN, UNKNOWN),
        (False, True, "boolean", UNKNOWN, UNKNOWN),
        ([1], [1, 2], "list", UNKNOWN, UNKNOWN),
    ],
)
def test_increased_and_decreased_compare_by_type(old, now, kind, increased, decreased):
    facts = {"now": {"x": now}, "before": {"x": old}, "kinds": {"x": kind}}
    assert after("increased", **facts) is increased
    assert after("decreased", **facts) is decreased


def test_what_did_not_change_neither_increased_nor_decreased():
    assert after("increased", now={"x": 1}, before={}) is NO
    assert after("decreased", now={"x": 1}, before={}) is NO
    assert after("increased", now={}, before={}) is UNKNOWN


# The logic, against an oracle that is a table of numbers: false 0, unknown 1, true 2

TRUTH = {
    YES: leaf("eq", 1, field="one"),
    NO: leaf("eq", 2, field="one"),
    UNKNOWN: leaf("eq", 1, field="nowhere"),
}
ONE = Facts({"one": 1})
RANK = {NO: 0, UNKNOWN: 1, YES: 2}
VALUE = {rank: value for value, rank in RANK.items()}


def oracle(tree):
    if "all" in tree:
        return VALUE[min(RANK[oracle(node)] for node in tree["all"])]
    if "any" in tree:
        return VALUE[max(RANK[oracle(node)] for node in tree["any"])]
    if "not" in tree:
        return VALUE[2 - RANK[oracle(tree["not"])]]
    return next(value for value, node in TRUTH.items() if node == tree)


def trees(leaves):
    return st.recursive(
        leaves,
        lambda nodes: st.one_of(
            st.fixed_dictionaries({"all": st.lists(nodes, min_size=1, max_size=4)}),
            st.fixed_dictionaries({"any": st.lists(nodes, min_size=1, max_size=4)}),
            st.fixed_dictionaries({"not": nodes}),
        ),
        max_leaves=12,
    )


truth_trees = trees(st.sampled_from(list(TRUTH.values())))


@thorough
@given(truth_trees)
def test_the_logic_is_kleenes(tree):
    validate(tree)
    assert evaluate(tree, ONE) is oracle(tree)


@thorough
@given(truth_trees)
def test_not_not_changes_nothing(tree):
    assert evaluate({"not": {"not": tree}}, ONE) is evaluate(tree, ONE)


@thorough
@given(st.lists(truth_trees, min_size=1, max_size=4))
def test_de_morgan(nodes):
    negated = [{"not": node} for node in nodes]
    assert evaluate({"not": {"all": nodes}}, ONE) is evaluate({"any": negated}, ONE)
    assert evaluate({"not": {"any": nodes}}, ONE) is evaluate({"all": negated}, ONE)


def test_unknown_neither_fires_nor_blocks_an_alternative():
    assert evaluate({"all": [TRUTH[YES], TRUTH[UNKNOWN]]}, ONE) is UNKNOWN
    assert evaluate({"any": [TRUTH[UNKNOWN], TRUTH[YES]]}, ONE) is YES
    assert evaluate({"all": [TRUTH[UNKNOWN], TRUTH[NO]]}, ONE) is NO
    assert evaluate({"not": TRUTH[UNKNOWN]}, ONE) is UNKNOWN


def test_no_conditions_are_always_true():
    validate({})
    assert evaluate({}, Facts(None)) is YES
    assert explain({}, Facts(None)).value is YES
    assert describe({}) == ""


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_judging_a_well_formed_condition_translates_nothing(op):
    with patch.object(conditions, "_", side_effect=AssertionError):
        assert evaluate(leaf_for(op), Facts({"x": "a"}, {"x": "b"})) is not UNKNOWN


# One bad leaf, and hostile input


class Explosive(dict):
    def __contains__(self, key):
        raise LookupError("boom")


MALFORMED = [
    None,
    "always",
    [],
    {"all": []},
    {"any": "x"},
    {"not": {}},
    {"all": [TRUTH[YES]], "any": [TRUTH[YES]]},
    {"field": "one", "op": "eq", "value": 1, "note": "x"},
    {"field": "one", "op": "equals", "value": 1},
    {"field": "one", "op": ["eq"], "value": 1},
    {"field": 1, "op": "eq", "value": 1},
    {"field": "one", "op": "eq"},
    {"field": "one", "op": "eq", "value": None},
    {"field": "one", "op": "in", "value": 1},
    {"field": "one", "op": "exists", "value": "yes"},
    {"field": "one", "op": "matches", "value": "("},
]


@pytest.mark.parametrize("bad", [*MALFORMED, leaf("eq", 1, field="explosive.x")])
def test_a_bad_leaf_is_unknown_and_silences_no_neighbour(bad):
    facts = Facts({"one": 1, "explosive": Explosive(x=1)}, {})
    assert evaluate(bad, facts) is UNKNOWN
    assert evaluate({"any": [bad, TRUTH[YES]]}, facts) is YES
    assert evaluate({"all": [bad, TRUTH[NO]]}, facts) is NO
    assert evaluate({"not": bad}, facts) is UNKNOWN
    assert conditions.distance(bad, facts) == 1
    verdict = explain({"any": [bad, TRUTH[YES]]}, facts)
    assert verdict.value is YES
    assert verdict.children[0].value is UNKNOWN
    assert walk(verdict.children[0])[-1].reason.startswith("unknown: ")
    assert isinstance(describe(bad), str)


def test_text_that_is_no_json_is_malformed():
    for text in ("{", '{"not":' * 100_000):
        tree = conditions.loads(text)
        assert evaluate(tree, ONE) is UNKNOWN
        assert "malformed" in describe(tree)


def nest(depth, tree=TRUTH[YES]):
    for _ in range(depth):
        tree = {"not": tree}
    return tree


def test_bottomless_nesting_is_unknown_and_refused():
    tree = nest(5000)
    assert evaluate(tree, ONE) is UNKNOWN
    assert explain(tree, ONE).value is UNKNOWN
    assert "malformed" in describe(tree)
    with pytest.raises(ConditionError, match=f"nested deeper than {MAX_DEPTH}"):
        validate(tree)


def test_fifteen_levels_are_fine_and_sixteen_are_not():
    validate(nest(14))
    assert evaluate(nest(14), ONE) is YES
    with pytest.raises(ConditionError):
        validate(nest(15))
    assert evaluate(nest(32), ONE) is UNKNOWN


json_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["1", "9.50", "NaN", "2026-01-01", "2026-01-01T10:00:00Z", "P1D", "10:00"]),
)
json_like = st.recursive(
    json_scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["all", "any", "not", "field", "op", "value", "a", "b", "0"])
            | st.text(max_size=3)
            | st.integers(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
paths = st.sampled_from(["a", "b", "a.b", "a.0", "b.a.0", "all", "value"])
loose_leaves = st.fixed_dictionaries(
    {
        "field": paths,
        "op": st.sampled_from(sorted(OPERATORS)),
        "value": json_scalars | st.lists(json_scalars, max_size=3),
    }
)
all_facts = st.builds(
    Facts,
    data=json_like,
    previous=st.none() | st.dictionaries(st.sampled_from(["a", "b"]), json_like, max_size=2),
    kinds=st.dictionaries(paths, st.sampled_from(KINDS)),
)
objects = st.builds(
    Facts,
    data=st.dictionaries(st.sampled_from(["a", "b"]), json_scalars | json_like, min_size=1),
    previous=st.none() | st.dictionaries(st.sampled_from(["a", "b"]), json_scalars, max_size=2),
    kinds=st.dictionaries(paths, st.sampled_from(KINDS)),
)


@thorough
@given(json_like | trees(loose_leaves | json_like))
def test_validate_raises_nothing_but_condition_errors(tree):
    with suppress(ConditionError):
        validate(tree)


@thorough
@given(json_like | trees(loose_leaves | json_like), all_facts | objects)
def test_evaluate_never_raises_and_explain_agrees(tree, facts):
    value = evaluate(tree, facts)
    assert value in (YES, NO, UNKNOWN)
    assert explain(tree, facts).value is value
    assert isinstance(describe(tree), str)


@thorough
@given(loose_leaves, objects)
def test_operators_and_their_opposites_agree(node, facts):
    opposites = [("eq", "ne"), ("in", "not_in"), ("gt", "lte"), ("lt", "gte")]
    for one, other in opposites:
        verdict = evaluate({**node, "op": one}, facts)
        assert evaluate({"not": {**node, "op": other}}, facts) is verdict


# Validating


@pytest.mark.parametrize(
    ("tree", "path", "hint"),
    [
        (None, "", "must be an object"),
        ([], "", "must be an object"),
        ("x", "", "must be an object"),
        ({"all": []}, "all", "is empty"),
        ({"any": []}, "any", "is empty"),
        ({"all": {}}, "all", "must be a list"),
        ({"all": [{}]}, "all[0]", "is empty"),
        ({"not": {}}, "not", "is empty"),
        ({"not": []}, "not", "must be an object"),
        ({"all": [TRUTH[YES]], "any": [TRUTH[YES]]}, "", "exactly one"),
        ({"all": [TRUTH[YES]], "field": "x"}, "", "exactly one"),
        ({"nope": 1}, "", "unknown key 'nope'"),
        ({7: 1}, "", "unknown key int"),
        ({"all": [TRUTH[YES], {**TRUTH[YES], "extra": 1}]}, "all[1]", "unknown key 'extra'"),
        ({"op": "eq", "value": 1}, "field", "name a field"),
        (leaf("eq", 1, field=""), "field", "name a field"),
        (leaf("eq", 1, field="a..b"), "field", "single dots"),
        (leaf("eq", 1, field=["a"]), "field", "name a field"),
        (leaf("eq", 1, field="a" * 256), "field", "longer than 255"),
        (leaf("eq", 1, field="a\x00"), "field", "NUL"),
        ({"field": "x", "value": 1}, "op", "is missing: use one of eq, ne"),
        ({"field": "x", "op": {}, "value": 1}, "op", "not an operator"),
        (
            {"all": [TRUTH[YES], {"any": [leaf("equals", 1)]}]},
            "all[1].any[0].op",
            "'equals' is not an operator: use one of eq, ne",
        ),
        ({"not": {"any": [leaf("eq")]}}, "not.any[0].value", "is missing"),
        (leaf("eq", None), "value", "is_null"),
        (leaf("ne", None), "value", "is_null"),
        (leaf("gt", None), "value", "is_null"),
        (leaf("eq", [1]), "value", "must be a text, a number, true or false"),
        (leaf("eq", object()), "value", "must be a text"),
        (leaf("eq", float("nan")), "value", "finite"),
        (leaf("eq", float("inf")), "value", "finite"),
        (leaf("eq", 10**5000), "value", "too large"),
        (leaf("eq", "x" * 10_001), "value", "longer than 10000"),
        (leaf("eq", "\ud800"), "value", "surrogate"),
        (leaf("gt", True), "value", "must be a number or a text"),
        (leaf("startswith", ["a"]), "value", "must be a number or a text"),
        (leaf("in", "abc"), "value", "must be a list"),
        (leaf("in", []), "value", "is empty: name at least one value"),
        (leaf("not_in", [1, None]), "value[1]", "is_null"),
        (leaf("in", [[1]]), "value[0]", "must be a text"),
        (leaf("in", [1] * 1001), "value", "more than 1000"),
        (leaf("exists", "yes"), "value", "true or false"),
        (leaf("is_null", None), "value", "true or false"),
        (leaf("changed", 1), "value", "true or false"),
        (leaf("increased", 1), "value", "takes no value"),
        (leaf("decreased", None), "value", "takes no value"),
        (leaf("changed_to", [1]), "value", "must be a text"),
        (leaf("matches", 1), "value", "regular expression"),
        (leaf("matches", "("), "value", "missing )"),
        (leaf("matches", "(?=a)"), "value", "invalid perl operator"),
        (leaf("matches", "((a{100}){100}){100}"), "value", "not a regular expression"),
        (leaf("matches", "\ud800"), "value", "surrogate"),
    ],
)
def test_a_malformed_tree_is_refused_with_its_place(tree, path, hint):
    with pytest.raises(ConditionError) as caught:
        validate(tree)
    assert caught.value.path == path
    assert hint in caught.value.message


def test_all_that_is_wrong_with_a_tree_is_told_each_with_its_place():
    tree = {"all": [{"op": "eqq", "value": 1}, {"any": []}, {"not": 1}, TRUTH[YES]]}
    found = [each.path for each in problems(tree)]
    assert found == ["all[0].field", "all[0].op", "all[1].any", "all[2].not"]
    assert problems(TRUTH[YES]) == []


def test_of_very_many_problems_the_first_are_told():
    assert len(problems({"all": [{}] * 400})) == 20
    assert len(problems({"all": [TRUTH[YES]] * 400 + [{}] * 100_000})) == 20


def test_a_text_too_long_for_a_regular_expression_is_unknown():
    tree = leaf("matches", "a$")
    assert evaluate(tree, Facts({"x": "a" * 4000})) is YES
    assert evaluate(tree, Facts({"x": "a" * 4001})) is UNKNOWN
    assert "more than 4000 characters" in explain(tree, Facts({"x": "a" * 4001})).reason


@pytest.mark.parametrize("odd", ["\x1b]0;pwned\x07", "\u202e", "\r\nfired: yes"])
def test_a_value_in_words_moves_no_cursor_and_turns_no_line_around(odd):
    """It is printed by `webhooks_explain`, and stands in the admin's lists."""
    assert describe(leaf("eq", odd)).isprintable()
    assert explain(leaf("eq", "x"), Facts({"x": odd})).reason.isprintable()


def test_a_tree_of_more_than_500_nodes_is_refused():
    validate({"all": [TRUTH[YES]] * 499})
    with pytest.raises(ConditionError, match="more than 500") as caught:
        validate({"all": [TRUTH[YES]] * 100_000})
    assert caught.value.path == "all[499]"


@pytest.mark.parametrize(
    "tree",
    [
        leaf("eq", "x" * 10_000),
        leaf("exists"),
        leaf("changed", False),
        leaf("changed_to", None),
        leaf("changed_from", None),
        leaf("increased"),
        leaf("gt", "2026-01-01"),
        leaf("in", [1, "a", True]),
    ],
)
def test_a_leaf_may_be_the_whole_tree(tree):
    validate(tree)


def test_without_re2_matches_is_refused_with_the_way_to_install_it():
    with patch.object(conditions, "re2", None):
        with pytest.raises(ConditionError, match=r"needs django-webhooks\[re2\]"):
            validate(leaf("matches", "a"))
        assert evaluate(leaf("matches", "a"), Facts({"x": "a"})) is UNKNOWN


def test_re2_writes_nothing_to_stderr(capfd):
    with pytest.raises(ConditionError):
        validate(leaf("matches", "[z-a]"))
    assert capfd.readouterr() == ("", "")


# In words


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (
            {"all": [leaf("changed_to", "paid", field="status"), leaf("gte", 1000, field="total")]},
            "status changes to “paid” and total is at least 1000",
        ),
        (
            {"all": [TRUTH[YES], {"any": [TRUTH[NO], leaf("lt", 3)]}]},
            "one is 1 and (one is 2 or x is less than 3)",
        ),
        ({"not": leaf("endswith", "@example.com")}, "x does not end with “@example.com”"),
        (
            {"not": {"all": [leaf("gt", 1), leaf("lt", 3)]}},
            "not (x is greater than 1 and x is less than 3)",
        ),
        ({"not": {"not": leaf("eq", True)}}, "not (x is not true)"),
        ({"any": [leaf("exists")]}, "x exists"),
        (leaf("exists", False), "x does not exist"),
        ({"not": leaf("exists", False)}, "x exists"),
        (leaf("is_null", False), "x is not null"),
        (leaf("changed"), "x changes"),
        (leaf("changed_from", None), "x changes from null"),
        (leaf("increased"), "x increases"),
        (leaf("in", ["a", 1]), "x is one of “a”, 1"),
        (leaf("in", list(range(12))), "x is one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"),
        (leaf("gt", "2026-01-01"), "x is after 2026-01-01"),
        (leaf("lte", "2026-01-01T10:00:00Z"), "x is at or before 2026-01-01T10:00:00Z"),
        ({"not": leaf("lt", "2026-01-01")}, "x is not before 2026-01-01"),
        (leaf("lt", "10:00"), "x is less than “10:00”"),
        (leaf("eq", "y" * 500), "x is “" + "y" * 99 + "…”"),
        (leaf("icontains", "a"), "x contains (in any case) “a”"),
        (leaf("nope", 1), "malformed condition"),
    ],
)
def test_conditions_read_as_a_sentence(tree, expected):
    assert describe(tree) == expected


def test_fields_can_be_given_labels():
    assert describe(leaf("gte", 5), {"x": "Total amount"}.get) == "Total amount is at least 5"


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_each_operator_has_words_for_both_outcomes(op):
    assert describe(leaf_for(op)).startswith(f"x {OPERATORS[op].phrase}")
    assert describe({"not": leaf_for(op)}).startswith(f"x {OPERATORS[op].negation}")


@pytest.mark.parametrize(
    ("tree", "facts", "reason"),
    [
        (leaf("gte", 1000), Facts({"x": 740}), "x 740 is not at least 1000"),
        (leaf("gte", 100), Facts({"x": "740.00"}), "x 740.00 is at least 100"),
        (leaf("ne", "a"), Facts({"x": "a"}), "x “a” is “a”"),
        (leaf("gte", 100), Facts({}), "unknown: x is missing"),
        (leaf("gte", 100), Facts({"x": None}), "unknown: x is null"),
        (leaf("gte", 100), Facts({"x": "a"}), "unknown: x “a” can't be compared with 100"),
        (leaf("gte", 1), Facts({"x": {}}), "unknown: x an object can't be compared with 1"),
        (leaf("gte", 1), Facts({"x": []}), "unknown: x an empty list can't be compared with 1"),
        (leaf("gt", 1), Facts({"x": 10**6000}), "x a very large number is greater than 1"),
        (leaf("exists"), Facts({}), "x does not exist"),
        (leaf("exists", False), Facts({}), "x does not exist"),
        (leaf("exists", False), Facts({"x": 1}), "x exists"),
        (leaf("is_null", False), Facts({"x": None}), "x is null"),
        (leaf("is_null"), Facts({}), "unknown: x is missing"),
        (leaf("changed"), Facts({"x": 1}), "unknown: there is no value before the change"),
        (leaf("changed"), Facts({}, {}), "unknown: x is missing"),
        (leaf("changed"), Facts({"x": 1}, {}), "x did not change"),
        (
            leaf("changed_to", 3),
            Facts({"x": 2}, {"x": 1}),
            "x changed from 1 to 2: it does not change to 3",
        ),
        (leaf("changed"), Facts({}, {"x": 1}), "x changed from 1 to nothing"),
        (
            leaf("increased"),
            Facts({"x": 2}, {"x": None}),
            "unknown: x changed from null to 2, which can't be compared",
        ),
        (
            leaf("nope"),
            Facts({}),
            "unknown: the condition is malformed (op: 'nope' is not an operator: use one of "
            + ", ".join(OPERATORS)
            + ")",
        ),
    ],
)
def test_a_verdict_says_why(tree, facts, reason):
    assert explain(tree, facts).reason == reason


def test_a_verdict_mirrors_the_tree():
    tree = {"all": [TRUTH[YES], {"any": [{"not": TRUTH[NO]}, TRUTH[UNKNOWN]]}]}
    verdict = explain(tree, ONE)
    assert [(v.path, v.sentence, v.value) for v in walk(verdict)] == [
        ("", "all of", YES),
        ("all[0]", "one is 1", YES),
        ("all[1]", "any of", YES),
        ("all[1].any[0]", "not", YES),
        ("all[1].any[0].not", "one is 2", NO),
        ("all[1].any[1]", "nowhere is 1", UNKNOWN),
    ]


@pytest.mark.parametrize(
    ("tree", "distance"),
    [
        ({}, 0),
        (TRUTH[YES], 0),
        (TRUTH[NO], 1),
        (TRUTH[UNKNOWN], 1),
        ({"not": TRUTH[UNKNOWN]}, 1),
        ({"not": TRUTH[NO]}, 0),
        ({"all": [TRUTH[YES], TRUTH[NO], TRUTH[UNKNOWN]]}, 2),
        ({"any": [TRUTH[NO], {"all": [TRUTH[NO], TRUTH[NO]]}]}, 1),
        ({"not": {"all": [TRUTH[YES], TRUTH[YES]]}}, 1),
        ({"not": {"any": [TRUTH[YES], TRUTH[YES]]}}, 2),
    ],
)
def test_the_distance_is_how_few_conditions_stand_in_the_way(tree, distance):
    assert conditions.distance(tree, ONE) == distance
    assert (distance == 0) == (evaluate(tree, ONE) is True)


def test_leaves_are_found_with_their_paths():
    tree = {"all": [TRUTH[YES], {"not": {"any": [TRUTH[NO]]}}]}
    found = [("all[0]", TRUTH[YES]), ("all[1].not.any[0]", TRUTH[NO])]
    assert list(conditions.leaves(tree)) == found
    assert list(conditions.leaves(TRUTH[NO])) == [("", TRUTH[NO])]
    assert list(conditions.leaves({})) == []


def walk(verdict):
    return [verdict, *itertools.chain.from_iterable(map(walk, verdict.children))]


def test_the_reference_lists_each_operator():
    page = Path(__file__).parents[1] / "docs" / "reference" / "operators.md"
    listed = re.findall(r"^\| `(\w+)` \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(OPERATORS)


# What a rule may cost, for customers write them, too


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [("a?" * 251, "longer than 500"), (r"\pL" * 60, "not a regular expression")],
)
def test_expensive_pattern_is_refused(pattern, hint):
    with pytest.raises(ConditionError, match=hint):
        validate(leaf("matches", pattern))


def test_what_is_wrong_with_a_regular_expression_is_said_in_text():
    with pytest.raises(ConditionError) as caught:
        validate(leaf("matches", "é("))
    assert caught.value.message == "not a regular expression of RE2: missing ): é("


def test_regular_expressions_are_bounded_together():
    validate({"any": [leaf("matches", f"(a?){{100}}{number}") for number in range(5)]})
    with pytest.raises(ConditionError, match="too large together"):
        validate({"any": [{"not": leaf("matches", f"(a?){{100}}{n}")} for n in range(8)]})


def test_path_with_a_control_character_is_refused():
    with pytest.raises(ConditionError, match="control character"):
        validate({"field": "a\x1b[2J", "op": "exists"})


# What is remembered, for one tree is judged on many events, and many trees on one


@pytest.fixture
def kept(monkeypatch):
    """Nothing is remembered of the tests before."""
    fresh = conditions._Kept()
    monkeypatch.setattr(conditions, "_kept", fresh)
    return fresh


def number_is(value):
    return json.dumps(leaf("eq", value))


def test_the_same_text_is_read_once_and_another_anew(kept):
    first = conditions.loads(number_is(1))
    assert conditions.loads(number_is(1)) is first
    assert conditions.loads(number_is(2)) is not first


def test_what_was_read_is_judged_and_told_as_the_tree_itself(kept):
    for tree in (TRUTH[YES], {"not": TRUTH[NO]}, {"any": [TRUTH[UNKNOWN], {"bad": 1}]}, {}):
        read = conditions.loads(json.dumps(tree))
        assert evaluate(read, ONE) == evaluate(tree, ONE)
        assert describe(read) == describe(tree)


def test_what_is_kept_is_bounded_and_what_finds_no_room_is_judged_all_the_same(kept, monkeypatch):
    monkeypatch.setattr(conditions, "KEPT_BYTES", 10_000)
    kept._clear()
    for number in range(200):
        assert evaluate(conditions.loads(number_is(number)), Facts({"x": number})) is True
        assert len(kept._trees) <= 10_000 / conditions.BYTES_PER_NODE
    wide = json.dumps(leaf("in", list(range(1000))))
    assert evaluate(conditions.loads(wide), Facts({"x": 999})) is True
    assert wide not in kept._trees


def test_a_full_memory_begins_anew_once_as_many_found_no_room(kept, monkeypatch):
    monkeypatch.setattr(conditions, "KEPT_BYTES", 10_000)
    kept._clear()
    texts = [number_is(number) for number in range(100, 200)]
    while not kept._refused:  # how many there is room for differs from Python to Python
        conditions.loads(texts[len(kept._trees)])
    room = len(kept._trees)
    for text in texts[room + 1 : 2 * room]:
        conditions.loads(text)
    assert list(kept._trees) == texts[:room], "what is there stays"
    conditions.loads(texts[-1])
    assert list(kept._trees) == [texts[-1]]


def test_one_tree_is_judged_on_events_of_other_kinds_and_types(kept):
    """What a condition's value was last read as is not taken for what it is now."""
    read = conditions.loads(json.dumps(leaf("gte", "10")))
    cases = [
        (Facts({"x": "9"}, kinds={"x": "number"}), False),
        (Facts({"x": "9"}, kinds={"x": "text"}), True),
        (Facts({"x": 11}), True),
        (Facts({"x": "9"}), False),
        (Facts({"x": None}), None),
        (Facts({"x": True}), None),
        (Facts({}), None),
    ]
    for facts, verdict in [*cases, *reversed(cases)]:
        assert evaluate(read, facts) is verdict


def test_conditions_on_one_path_each_compare_by_their_own_value():
    facts = Facts({"x": "10", "l": ["1", 2, True]})
    verdicts = {"10": YES, 10: YES, 10.5: NO, True: UNKNOWN, "1": NO, "2026-01-01": NO}
    for value, verdict in [*verdicts.items(), *reversed(verdicts.items())]:
        assert evaluate(leaf("eq", value), facts) is verdict
    assert evaluate(leaf("contains", 2, field="l"), facts) is True
    assert evaluate(leaf("contains", "1", field="l"), facts) is True
    assert evaluate(leaf("contains", False, field="l"), facts) is None


def test_more_paths_than_are_remembered_are_judged_all_the_same(monkeypatch):
    monkeypatch.setattr(conditions, "MAX_SEEN", 2)
    facts = Facts({str(number): number for number in range(5)})
    tree = {"all": [leaf("eq", number, field=str(number)) for number in range(5)]}
    assert evaluate(tree, facts) is True
    assert len(facts.seen) == 2
    assert explain(tree, facts).value is True
