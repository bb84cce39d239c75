"""The layers hold: imports go down, and what is said to have one home has one.

Read from the source, so that a shortcut fails here before it becomes a habit.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import django_webhooks

PACKAGE = "django_webhooks"
ROOT = Path(django_webhooks.__file__).parent

LEVELS = {
    # What everything may know of.
    "": 0,  # the package itself: its version
    "exceptions": 0,
    "signals": 0,
    "conf": 0,
    "backends": 0,
    # Values and rules: no rows, no network.
    "retries": 1,
    "inserts": 1,
    "lanes": 1,
    "signing": 1,
    "conditions": 1,
    "addresses": 1,
    "payloads": 1,
    "encryption": 1,
    "registry": 1,
    "hops": 1,
    # Rows and requests, and what is known of the fields.
    "fields": 2,
    "models": 2,
    "transport": 2,
    # The verbs.
    "outbox": 3,
    "fanout": 3,
    "claim": 3,
    "incidents": 3,
    "delivery": 3,
    "health": 3,
    "figures": 3,
    "retention": 3,
    "rotation": 3,
    # Whoever uses them.
    "capture": 4,
    "notices": 4,
    "middleware": 4,
    "worker": 4,
    "admin": 4,
    "api": 4,
    "jwks": 4,
    "management": 4,
    "checks": 4,
    "testing": 4,
    # What starts it all.
    "apps": 5,
}

# Between two of one level, in this direction only.
NEIGHBOURS = {
    ("backends", "conf"),
    ("registry", "payloads"),
    ("models", "transport"),  # check_headers: one rule for what is saved and what is sent
    ("delivery", "incidents"),  # settle writes the results and what they mean, at once
    ("management", "worker"),
    ("health", "claim"),  # how long a lease is
}

# Who alone may import what. `tests` and `example_project` are not the package.
HOMES = {
    "django.conf": {"conf"},
    "django_q": {"backends.django_q"},
    "celery": {"backends.celery"},
    "django.tasks": {"backends.django_tasks"},
    "django_tasks": {"backends.django_tasks"},
    "rest_framework": {"api"},
    "drf_spectacular": {"api"},
    "requests": {"transport"},
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Each module of the package by its name below it (`backends.dummy`), without migrations."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if "migrations" in parts:
            continue
        name = ".".join(parts).removesuffix("__init__").removesuffix(".")
        yield name, ast.parse(path.read_text(), str(path))


SOURCES = list(sources())
each_module = pytest.mark.parametrize(
    ("name", "tree"), SOURCES, ids=[name or PACKAGE for name, _ in SOURCES]
)


def imports(name: str, tree: ast.AST) -> Iterator[tuple[str, int]]:
    """What a module imports, as full dotted names with their lines."""
    is_package = (ROOT / name.replace(".", "/") / "__init__.py").exists()
    here = [PACKAGE, *filter(None, name.split("."))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + is_package] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            yield from ((f"{source}.{alias.name}", node.lineno) for alias in node.names)


def layer(name: str) -> str:
    return name.partition(".")[0]


def layer_of_import(dotted: str) -> str | None:
    """The layer that an import reaches into; None for what is not ours."""
    first, _, rest = dotted.partition(".")
    if first != PACKAGE:
        return None
    found = layer(rest)
    is_module = (ROOT / f"{found}.py").exists() or (ROOT / found).is_dir()
    return found if found and is_module else ""  # `from django_webhooks import __version__`


@each_module
def test_module_has_a_level(name, tree):
    assert layer(name) in LEVELS, "give the new module a level in this file"


@each_module
def test_imports_go_down(name, tree):
    mine = layer(name)
    for dotted, line in imports(name, tree):
        other = layer_of_import(dotted)
        if other is None or other == mine or (mine, other) in NEIGHBOURS:
            continue
        if not other:  # the package itself
            continue
        assert LEVELS[other] < LEVELS[mine], (
            f"{name}:{line} imports {dotted}: level {LEVELS[mine]} may not know of {LEVELS[other]}"
        )


@each_module
def test_nothing_is_imported_inside_a_function(name, tree):
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    inside = [line for each in functions for _, line in imports(name, each)]
    assert not inside, f"{name}: imports inside a function, line {inside}"


@each_module
def test_what_has_one_home_is_imported_there_alone(name, tree):
    for dotted, line in imports(name, tree):
        for what, homes in HOMES.items():
            if dotted == what or dotted.startswith(f"{what}."):
                at_home = any(name == home or name.startswith(f"{home}.") for home in homes)
                assert at_home, f"{name}:{line} imports {dotted}; only {', '.join(homes)} may"


def test_there_is_no_drawer_for_odds_and_ends():
    drawers = {"utils", "util", "helpers", "common", "misc"}
    assert not {name for name, _ in SOURCES if drawers & set(name.split("."))}


@pytest.mark.parametrize("home", sorted(set().union(*HOMES.values())))
def test_homes_exist(home):
    """A home that was renamed would leave its rule without effect."""
    assert any(name == home or name.startswith(f"{home}.") for name, _ in SOURCES)


@pytest.mark.parametrize("name", sorted(filter(None, LEVELS)))
def test_levels_name_modules_that_exist(name):
    assert name in {layer(each) for each, _ in SOURCES}
