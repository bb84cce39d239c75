"""A real Chromium before the real admin. All that lies here is marked `browser` and `once`.

`CHROMIUM=…` names another executable; where there is none, the tests are skipped and say so.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT = 10_000
WIDE, NARROW, HEIGHT = 1280, 375, 900

DJANGOS_OWN = [".breadcrumbs", "#changelist-search", "#changelist-filter", ".paginator"]
"""What axe finds in these, every page of Django's admin has; it is not ours to mend."""

expect.set_options(timeout=TIMEOUT)


def chromium() -> str | None:
    """The executable; None if there is none."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = pytest.mark.skip(reason="no Chromium: install `chromium`, or set CHROMIUM")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("browser")
            item.add_marker("once")
            if not chromium():
                item.add_marker(missing)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One for all tests here, and ended with the last of them.

    Playwright keeps an event loop running in this thread, by which Django would take the tests
    for asynchronous code and refuse the database.
    """
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        running = playwright.chromium.launch(executable_path=chromium())
        yield running
        running.close()


@pytest.fixture
def staff(transactional_db: None) -> User:
    return User.objects.create_superuser("staff")


@pytest.fixture
def open_page(browser: Browser, live_server: Any) -> Iterator[Callable[..., Page]]:
    """Opens a window: `open_page(user, width=375, theme="dark")`.

    At the end, none may have had an error of a script, nor broken the strict policy of contents.
    """
    contexts, complaints = [], []

    def opened(
        user: User, *, width: int = WIDE, theme: Any = "light", java_script_enabled: bool = True
    ) -> Page:
        context = browser.new_context(
            base_url=live_server.url,
            viewport={"width": width, "height": HEIGHT},
            java_script_enabled=java_script_enabled,
            color_scheme=theme,
            locale="en-GB",
            reduced_motion="reduce",
        )
        contexts.append(context)
        context.set_default_timeout(TIMEOUT)
        client = Client()
        client.force_login(user)
        name = django_settings.SESSION_COOKIE_NAME
        value = client.cookies[name].value
        context.add_cookies([{"name": name, "value": value, "url": live_server.url}])
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.extend(_broken_policy(message)))
        return page

    yield opened
    for each in contexts:
        each.close()
    assert not complaints


@pytest.fixture
def page(open_page: Callable[..., Page], staff: User) -> Page:
    """A wide, light window of a superuser."""
    return open_page(staff)


@pytest.fixture
def accessible() -> Callable[[Page], None]:
    """Asserts that axe-core finds nothing serious on a page."""
    axe = Axe()

    def check(page: Page) -> None:
        found = axe.run(page, {"exclude": DJANGOS_OWN}).response["violations"]
        serious = [each for each in found if each["impact"] in ("serious", "critical")]
        assert not serious, "\n".join(map(_as_text, serious))

    return check


def fits(page: Page) -> bool:
    """Whether nothing has to be scrolled sideways."""
    return bool(
        page.evaluate(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )
    )


def _broken_policy(message: ConsoleMessage) -> list[str]:
    """What axe tries by itself, to measure, has no address."""
    broken = "Content Security Policy" in message.text and message.location["url"]
    return [message.text] if broken else []


def _as_text(violation: dict[str, Any]) -> str:
    nodes = "".join(f"\n  {node['html']}: {node['failureSummary']}" for node in violation["nodes"])
    return f"{violation['id']}: {violation['help']}{nodes}"
