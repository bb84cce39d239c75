"""The docs can't rot: what is named is documented, what is documented is so, and examples run.

How a block of a page is run is said by what stands before it or in its first line:

* A comment in its first line that names a file, `# shop/webhooks.py`: the tutorial's are written,
  those of receivers are started.
* `<!-- run -->` on the line above: executed with the models of `tests.shop` as `shop.models`.
"""

import ast
import inspect
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
import types
import unittest
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import get_commands
from django.dispatch import Signal

import django_webhooks
from django_webhooks import checks, exceptions, signals
from django_webhooks.conditions import OPERATORS
from django_webhooks.conf import OPTIONS
from django_webhooks.models import Attempt, Delivery, Event, Rule, Subscription
from django_webhooks.registry import ModelWebhook, registry
from django_webhooks.testing import BEHAVIOURS
from tests.shop import models as shop_models
from tests.shop.models import Customer, Order

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = Path(django_webhooks.__file__).parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]

FENCE = re.compile(
    r"^(?P<marks>(<!--[^\n]*-->\n)*)(?P<indent> *)```(?P<language>\w+)\n"
    r"(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: Path
    line: int
    language: str
    title: str
    code: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def compile(self) -> types.CodeType:
        return compile("\n" * self.line + self.code, str(self.page), "exec")


def read(path: str) -> str:
    return (DOCS / path).read_text()


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in FENCE.finditer(text):
        title = re.match(r"(?:#|//) (.*)\n", found["code"])
        yield Block(
            page,
            text[: found.start("code")].count("\n"),
            found["language"],
            title[1] if title else "",
            found["code"],
            "<!-- run -->" in found["marks"],
        )


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def each_block(language: str) -> pytest.MarkDecorator:
    found = [block for block in BLOCKS if block.language == language]
    return pytest.mark.parametrize("block", found, ids=map(str, found))


# Every name is documented


def sections(page: str) -> dict[str, str]:
    """The text under each heading that is a name: `### TIMEOUT` or ``### `TIMEOUT` ``."""
    parts = re.split(r"^#{2,4} `?([\w.]+)`?$", read(page), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("key", OPTIONS)
def test_setting_is_documented_with_its_default(key):
    text = sections("reference/settings.md")[key]
    default = re.search(r"^Default: `(.+?)`", text, re.MULTILINE)
    assert default, f"write a line that begins with: Default: `{OPTIONS[key].default!r}`"
    assert ast.literal_eval(default[1]) == OPTIONS[key].default


def test_no_setting_is_documented_that_does_not_exist():
    assert set(filter(str.isupper, sections("reference/settings.md"))) == set(OPTIONS)


def check_ids() -> set[str]:
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        found |= set(re.findall(r"django_webhooks\.([EWI]\d{3})\b", path.read_text()))
    return found


def test_check_ids_are_documented():
    documented = set(re.findall(r"^\| `([EWI]\d{3})`", read("reference/checks.md"), re.MULTILINE))
    assert documented == check_ids()


def test_operators_are_documented():
    documented = re.findall(r"^\| `(\w+)` \|", read("reference/operators.md"), re.MULTILINE)
    assert sorted(documented) == sorted(OPERATORS)


def test_behaviours_of_receivers_are_documented():
    documented = re.findall(r"^\| `(\w+)` \|", read("how-to/test-your-webhooks.md"), re.MULTILINE)
    assert documented == list(BEHAVIOURS)


def own_commands() -> list[str]:
    return [name for name, app in get_commands().items() if app == "django_webhooks"]


@pytest.mark.parametrize("name", own_commands())
def test_command_is_documented_with_its_options(name):
    text = sections("reference/commands.md")[name]
    source = (PACKAGE / "management" / "commands" / f"{name}.py").read_text()
    for option in re.findall(r'"(--[\w-]+)"', source):
        assert f"`{option}" in text, f"{name} has an option {option}"


def test_signals_are_documented():
    names = {name for name, value in vars(signals).items() if isinstance(value, Signal)}
    assert set(sections("reference/signals.md")) == names


def public_exceptions() -> set[str]:
    return {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, exceptions.WebhookError)
    }


def attempt_errors() -> set[str]:
    """What the source can write into `Attempt.error`: the texts given to what becomes one."""
    found: set[str] = set()
    for module in ("transport", "claim", "delivery"):
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
            found |= set(_error_texts(node))
    return found - {""}


def _error_texts(node: ast.AST) -> Iterator[str]:
    for value in _becomes_an_error(node):
        for part in ast.walk(value):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value


def _becomes_an_error(node: ast.AST) -> list[ast.expr]:
    names = {"error", "problem", "stage"}
    if isinstance(node, ast.keyword) and node.arg in names:
        return [node.value]
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_unsent":
        return node.args[:1]
    if isinstance(node, ast.Assign):
        targets = [each for target in node.targets for each in ast.walk(target)]
        if any(getattr(each, "id", getattr(each, "attr", "")) in names for each in targets):
            return [node.value]
    return []


def test_exceptions_are_documented():
    documented = set(re.findall(r"^\| `(\w+)`", read("reference/errors.md"), re.MULTILINE))
    assert public_exceptions() <= documented


def test_errors_of_attempts_are_documented():
    documented = set(re.findall(r"^\| `(\w+)`", read("reference/errors.md"), re.MULTILINE))
    assert {"timeout", "abandoned", "secret_unavailable", "dns"} <= attempt_errors()
    assert documented - public_exceptions() == attempt_errors()


@pytest.mark.parametrize("model", [Subscription, Rule, Event, Delivery, Attempt])
def test_fields_of_models_are_documented(model):
    text = sections("reference/models.md")[model.__name__]
    documented = set(re.findall(r"`(\w+)`", text))
    fields = {
        field.name
        for field in model._meta.concrete_fields
        if field.editable or field.primary_key  # what is not editable is the app's own business
    } - {"id"}
    assert fields <= documented
    statuses = getattr(model, "Status", None)
    assert {each.value for each in statuses or ()} <= documented


def overridable() -> list[str]:
    """What stands above the comment that begins the app's own part of `ModelWebhook`."""
    source = inspect.getsource(ModelWebhook).partition("# For the app itself")[0]
    names = re.findall(r"^    (?:def )?([a-z]\w*)[:(]", source, re.MULTILINE)
    return [name for name in names if name in vars(ModelWebhook)]


@pytest.mark.parametrize("name", overridable())
def test_what_a_model_webhook_may_override_is_documented(name):
    assert re.search(rf"^\| `{name}\b", read("reference/python.md"), re.MULTILINE)


# Links


def links_of(page: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#{1,6} (.+)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in links_of(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target), f"{page.name} links to {link}"


def test_every_page_can_be_reached_from_the_index():
    reached, ahead = set(), [DOCS / "index.md"]
    while ahead:
        page = ahead.pop().resolve()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        local = (link.partition("#")[0] for link in links_of(page) if ":" not in link)
        ahead += [page.parent / link for link in local if link]
    assert {page.resolve() for page in DOCS.rglob("*.md")} <= reached


# Blocks


@each_block("python")
def test_python_compiles(block):
    block.compile()


@each_block("json")
def test_json_parses(block):
    json.loads(block.code)


@pytest.fixture
def shop(monkeypatch) -> Iterator[types.ModuleType]:
    """`shop.models`, as the examples call it, and a registry in which nothing is published yet."""
    package = types.ModuleType("shop")
    package.models = shop_models  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop", package)
    monkeypatch.setitem(sys.modules, "shop.models", shop_models)
    kept = registry._webhooks, registry._types
    registry._webhooks, registry._types = dict(kept[0]), dict(kept[1])
    yield package
    registry._webhooks, registry._types = kept


def run(block: Block, namespace: dict[str, Any]) -> None:
    """In the page's namespace. What registers models takes the place of what was registered."""
    if "@register(" in block.code:
        registry._webhooks, registry._types = {}, {}
    exec(block.compile(), namespace)
    if "@register(" in block.code:
        assert checks.check_webhooks() == []
        for webhook in registry.webhooks:
            webhook.model.objects.first().save()
    for name, value in list(namespace.items()):
        if getattr(value, "__module__", "") == "example" and hasattr(value, "setUpClass"):
            run_test_case(namespace.pop(name))


def run_test_case(case: type[unittest.TestCase]) -> None:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert result.testsRun
    assert result.wasSuccessful(), [text for _, text in result.failures + result.errors]


PAGES_THAT_RUN = sorted({block.page for block in BLOCKS if block.runs})


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("page", PAGES_THAT_RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run(page, shop, subscribe):
    """All the blocks of a page, one after the other, as a reader would paste them."""
    blocks = [block for block in blocks_of(page) if block.runs]
    if not any("TestCase" in block.code for block in blocks):  # those make their own
        subscribe("*")
        customer = Customer.objects.create(name="Ada", user=User.objects.create(username="ada"))
        Order.objects.create(customer=customer, total=1).items.create(sku="TEA")
    namespace: dict[str, Any] = {"__name__": "example"}
    for block in blocks:
        run(block, namespace)
        assert [each.error for each in Event.objects.all() if each.error] == []


# Receivers


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], object], what: str, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def is_open(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[None]:
    """A process that is ended with the block; only itself is signalled, never its group."""
    process = subprocess.Popen(command, **options)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# The tutorial


class Reader:
    """Someone who follows the tutorial: writes its files, runs its commands, watches terminals."""

    SKIPPED = re.compile(r"mkdir |pip |python3 -m venv|.*(createsuperuser|runserver)")
    LEFT_RUNNING = ("webhooks_listen", "qcluster")

    def __init__(self, directory: Path, terminals: ExitStack) -> None:
        self.directory = directory
        self.terminals = terminals
        self.port = free_port()
        self.printed: list[str] = []
        self.received = directory / "received.txt"
        self.env = {
            **{name: value for name, value in os.environ.items() if "DJANGO" not in name},
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }

    def read(self, block: Block) -> None:
        code = block.code.replace("8900", str(self.port))
        if block.language == "console":
            for line in re.findall(r"^\$ (.+)$", code, re.MULTILINE):
                if not self.SKIPPED.match(line):
                    self.type(line)
        elif block.title == "python manage.py shell":
            self.run(["manage.py", "shell", "--verbosity", "0", "-c", code])
        elif block.language == "python":
            self.write(block.title, code)

    def write(self, title: str, code: str) -> None:
        name, _, where = title.partition(", ")
        path = self.directory / name
        path.write_text(path.read_text() + "\n" + code if where else code)

    def type(self, line: str) -> None:
        program, *words = line.split()
        if "evt_…" in words:  # "the id that was printed"
            words[words.index("evt_…")] = self.printed[-1].strip()
        if program == "django-admin":
            self.run(["-m", "django", *words])
        elif words[1] in self.LEFT_RUNNING:
            with self.received.open("ab") as output:
                options = {"cwd": self.directory, "env": self.env}
                terminal = running(
                    [sys.executable, *words], stdout=output, stderr=output, **options
                )
                self.terminals.enter_context(terminal)
        else:
            self.run(words)

    def run(self, arguments: list[str]) -> None:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.directory,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        self.printed.append(done.stdout)


def test_tutorial_leads_to_a_verified_request(tmp_path):
    with ExitStack() as terminals:
        reader = Reader(tmp_path, terminals)
        for block in blocks_of(DOCS / "tutorial.md"):
            reader.read(block)
            if 'status = "paid"' in block.code:
                until(lambda: "signature holds" in reader.received.read_text(), "the request", 60)
                until(lambda: succeeded(tmp_path), "its result", 60)
    arrived, printed = reader.received.read_text(), "".join(reader.printed)
    assert arrived.count("webhook-id") == 1
    assert '"status": "paid"' in arrived
    assert '"previous": {\n      "status": "pending"' in arrived
    assert "System check identified no issues (0 silenced)." in printed
    assert "order updated, when status changes to “paid”" in printed
    assert "did not fire: order updated" in printed
    assert "[no] status changed from “paid” to “shipped”" in printed
    assert "succeeded order updated" in printed
    assert re.search(r"^1 204 \d+ ms$", printed, re.MULTILINE)


def succeeded(directory: Path) -> bool:
    """Whether the worker has written its result; the receiver answers a moment before."""
    with closing(sqlite3.connect(directory / "db.sqlite3", timeout=20)) as database:
        found = database.execute("SELECT status FROM django_webhooks_delivery").fetchall()
    return found == [("succeeded",)]
