"""`webhooks_drain --loop` woken by PostgreSQL's NOTIFY."""

import io
import signal
import threading
import time

import pytest
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from django_webhooks.backends import get_backend
from django_webhooks.backends.postgres_notify import CHANNEL
from django_webhooks.management.commands import webhooks_drain
from django_webhooks.models import Delivery
from tests.processes import Process, running, wait_until
from tests.shop.models import Order

NOTIFY = "django_webhooks.backends.postgres_notify.NotifyBackend"

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture(autouse=True)
def notify(settings):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "TASK_BACKEND": NOTIFY}
    yield
    get_backend()._close()


@pytest.fixture
def postgres():
    if connection.vendor != "postgresql":
        pytest.skip("NOTIFY is PostgreSQL's")


def listeners() -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE query = %s AND datname = current_database()",
            [f"LISTEN {CHANNEL}"],
        )
        return [pid for (pid,) in cursor.fetchall()]


def arrives(receiver, number: int) -> float:
    """Seconds from a save to its arrival, once the loop is idle again."""
    time.sleep(0.5)
    saved = time.monotonic()
    Order.objects.create(number=number)
    assert wait_until(lambda: len(receiver.requests) == number, 10)
    return time.monotonic() - saved


def test_idle_loop_is_woken_by_a_commit(subscribe, receiver, postgres):
    subscribe("*")
    with running(Process("webhooks_drain", "--loop", TASK_BACKEND=NOTIFY)):
        assert wait_until(listeners)
        took = sorted(arrives(receiver, number) for number in range(1, 4))
    assert took[1] < webhooks_drain.LISTEN_FOR / 5, took


def test_lost_connection_listens_again(subscribe, receiver, postgres):
    subscribe("*")
    with running(Process("webhooks_drain", "--loop", TASK_BACKEND=NOTIFY)):
        assert wait_until(listeners)
        before = listeners()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [before[0]])
        assert wait_until(lambda: listeners() and before[0] not in listeners(), 10)
        assert arrives(receiver, 1) < webhooks_drain.LISTEN_FOR / 2


def test_sigterm_ends_an_idle_loop_at_once(postgres):
    process = Process("webhooks_drain", "--loop", TASK_BACKEND=NOTIFY)
    with running(process):
        assert wait_until(listeners)
        time.sleep(0.5)
        began = time.monotonic()
        process.send(signal.SIGTERM)
        assert process.popen.wait(10) == 0
        assert time.monotonic() - began < 2


def test_idle_loop_asks_less_than_once_a_second(postgres, monkeypatch):
    monkeypatch.setattr(webhooks_drain, "TELL_EVERY", 60)
    with CaptureQueriesContext(connection) as queries:
        call_command("webhooks_drain", "--loop", "--max-seconds", "6", stdout=io.StringIO())
    asked = [each["sql"] for each in queries if each["sql"].startswith("SELECT")]
    # A look is four; there are two at the start, for it begins to listen, and one after 5 seconds.
    assert len(asked) <= 3 * 4 + 1, asked


def test_rolled_back_save_wakes_nobody(subscribe, postgres):
    subscribe("*")
    backend = get_backend()
    backend.listen(["default"], 0.1, threading.Event())  # begins to listen
    with transaction.atomic():
        Order.objects.create(number=1)
        transaction.set_rollback(True)
    assert not backend._heard(["default"], 0.3)
    Order.objects.create(number=2)
    assert backend._heard(["default"], 1)


def test_retry_is_sent_when_it_is_due(subscribe, receiver, postgres):
    receiver.answer = lambda request: 500 if len(receiver.requests) == 1 else 200
    subscribe("*")
    with running(Process("webhooks_drain", "--loop", TASK_BACKEND=NOTIFY, RETRY_SCHEDULE="1.5")):
        assert wait_until(listeners)
        Order.objects.create(number=1)
        assert wait_until(lambda: receiver.requests)
        began = time.monotonic()
        assert wait_until(lambda: Delivery.objects.filter(status="succeeded").exists())
        assert 1.4 < time.monotonic() - began < 3.5


def test_other_databases_are_polled(subscribe, receiver):
    if connection.vendor == "postgresql":
        pytest.skip("PostgreSQL is listened to")
    subscribe("*")
    thread = threading.Timer(0.5, lambda: (Order.objects.create(number=1), connections.close_all()))
    thread.start()
    call_command("webhooks_drain", "--loop", "--max-seconds", "2", stdout=io.StringIO())
    thread.join()
    assert len(receiver.requests) == 1
