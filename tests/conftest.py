from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import connection
from hypothesis import settings as hypothesis_settings
from rest_framework.test import APIClient

from django_webhooks import models
from django_webhooks.api.throttling import CallerThrottle, CostlyThrottle
from django_webhooks.backends import get_backend
from django_webhooks.backends.dummy import DummyBackend
from django_webhooks.models import Subscription
from tests.api import client_of
from tests.receiver import Receiver

# A busy machine is no defect: how long an example takes is for the benchmarks.
hypothesis_settings.register_profile("tests", deadline=None)
hypothesis_settings.load_profile("tests")


@pytest.hookimpl(trylast=True)  # when all are marked
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out, on other databases, what needs to be run once only."""
    if connection.vendor == "sqlite":
        return
    once = [each for each in items if each.get_closest_marker("once")]
    config.hook.pytest_deselected(items=once)
    items[:] = [each for each in items if each not in once]


@pytest.fixture(autouse=True)
def looks_for_the_outbox_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that may not touch `other` leaves behind that there is no outbox."""
    monkeypatch.setattr(models, "_looked_at", {})


@pytest.fixture
def configure(settings: Any) -> Callable[..., None]:
    """Sets keys of the setting beside those of the tests."""

    def update(**values: Any) -> None:
        settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, **values}

    return update


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture
def subscribe(receiver: Receiver) -> Callable[..., Subscription]:
    """Makes a subscription with one rule: `subscribe("shop.order.*", {...}, name="…")`."""

    def make(event_type: str = "*", conditions: Any = None, **fields: Any) -> Subscription:
        using = fields.pop("using", "default")
        subscription = Subscription(**{"url": receiver.url, **fields})
        subscription.full_clean(exclude=["owner"])
        subscription.save(using=using)
        subscription.rules.create(event_type=event_type, conditions=conditions or {})
        return subscription

    return make


@pytest.fixture
def wakes() -> Iterator[list[str]]:
    """The aliases that the dummy backend was woken for."""
    backend = get_backend()
    assert isinstance(backend, DummyBackend)
    backend.clear()
    yield backend.wakes
    backend.clear()


# Of the API


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch, configure: Callable[..., None]) -> None:
    """No quota, and no rate that a test could meet."""
    cache.clear()
    configure(MAX_SUBSCRIPTIONS_PER_OWNER=None)
    monkeypatch.setattr(CallerThrottle, "rate", "100000/min", raising=False)
    monkeypatch.setattr(CostlyThrottle, "rate", "100000/min", raising=False)


@pytest.fixture
def me() -> User:
    return User.objects.create_user("me")


@pytest.fixture
def stranger() -> User:
    return User.objects.create_user("stranger")


@pytest.fixture
def api(me: User) -> APIClient:
    return client_of(me)
