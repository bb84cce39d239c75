"""What may go wrong, one thing at a time, and what is promised all the same.

The faults are numbered F1 to F20, as in the design. Some are tested where they belong: a
receiver's and a resolver's in `test_transport`, keys and deleted subscriptions in `test_delivery`,
endpoints that hang in `test_claim`, rollbacks in `test_outbox`. `make chaos` mixes them at random.
"""

import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.exceptions import TimeoutException
from django_q.models import Schedule

from django_webhooks.backends.django_q import SCHEDULES, SWEEP
from django_webhooks.fanout import BATCH, fan_out
from django_webhooks.models import Delivery, Event
from django_webhooks.outbox import publish
from django_webhooks.worker import drain
from tests.processes import DJANGO_Q, Process, running, wait_until
from tests.shop.models import Order
from tests.threads import at_once

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def order(**fields) -> Order:
    return Order.objects.create(**{"number": "1", **fields})


def worker(*command: str, **environment: str) -> Process:
    """A process with faults inside: see `tests.chaos.inside`."""
    return Process(*command, DJANGO_SETTINGS_MODULE="tests.chaos.settings", **environment)


def loop(**environment: str) -> Process:
    return worker("webhooks_drain", "--loop", **environment)


def pending() -> int:
    return Event.objects.waiting().count() + Delivery.objects.pending().count()


def drain_until_all_has_ended(seconds: float = 10) -> bool:
    def is_all_done() -> bool:
        drain()
        return pending() == 0

    return wait_until(is_all_done, seconds)


def let_leases_run_out() -> None:
    Delivery.objects.in_flight().update(next_attempt_at=timezone.now())


def times_received(receiver) -> Counter[str]:
    return Counter(request.id for request in receiver.requests)


# F1, F3, F13: workers that die, are told to stop, or come back


@pytest.mark.parametrize(
    ("point", "requests"),
    [
        ("before the fan-out commits", 1),
        pytest.param("before claim", 1, marks=pytest.mark.slow),
        ("after claim", 1),
        ("before the result is written", 2),
        ("before the result commits", 2),
    ],
)
def test_worker_killed_at_any_point_delays_by_its_lease_and_loses_nothing(
    subscribe, receiver, point, requests
):
    subscribe("*")
    order()
    with running(worker("webhooks_drain", CHAOS_DIE=point, CHAOS_LEASE="1")) as (dying,):
        assert dying.popen.wait(20) == -signal.SIGKILL
    assert pending() == 1
    assert drain_until_all_has_ended()
    assert Delivery.objects.get().status == "succeeded"
    assert list(times_received(receiver).values()) == [requests], "one again at the most"


@pytest.mark.parametrize("whom", [pytest.param("master", marks=pytest.mark.slow), "group"])
def test_cluster_told_to_stop_in_the_middle_loses_nothing(subscribe, receiver, whom):
    in_time = threading.Event()
    receiver.answer = lambda request: in_time.wait(3) and 200
    for number in range(4):
        subscribe("*", name=str(number))
    cluster = worker("qcluster", TASK_BACKEND=DJANGO_Q, CHAOS_LEASE="2")
    with running(cluster):
        assert wait_until(lambda: "ready for work" in cluster.output(), 30)
        with running(worker("shell", "-c", SAVE, TASK_BACKEND=DJANGO_Q)):
            assert wait_until(lambda: len(receiver.requests) == 4, 20)
        in_flight = len(receiver.requests)
        if whom == "master":
            cluster.send(signal.SIGTERM)
            in_time.set()
            cluster.popen.wait(20)
        else:
            cluster.send_to_group(signal.SIGTERM)
            time.sleep(1)
            cluster.kill()
            in_time.set()
    assert drain_until_all_has_ended()
    assert set(Delivery.objects.values_list("status", flat=True)) == {"succeeded"}
    assert len(receiver.requests) <= (4 if whom == "master" else 4 + in_flight)


SAVE = "from tests.shop.models import Order; Order.objects.create(number='1')"


def test_worker_that_was_stopped_for_longer_than_its_lease_changes_nothing(subscribe, receiver):
    release = threading.Event()
    receiver.answer = lambda request: (
        200 if len(receiver.requests) > 1 else release.wait(20) and 500
    )
    subscribe("*")
    order()
    with running(loop(CHAOS_LEASE="1")) as (slow,):
        assert wait_until(lambda: receiver.requests)
        slow.send_to_group(signal.SIGSTOP)
        assert drain_until_all_has_ended(), "another takes over"
        release.set()
        slow.send_to_group(signal.SIGCONT)
        found = Delivery.objects.get().attempts
        assert wait_until(lambda: found.filter(stale=True).exists())
    delivery = Delivery.objects.get()
    assert (delivery.status, delivery.attempt_count) == ("succeeded", 2)
    assert len(receiver.requests) == 2


@pytest.mark.slow
def test_cluster_that_lost_a_worker_is_made_up_for_by_a_loop(subscribe, receiver):
    """F2: an idle worker of django-q2 that is killed may take the lock of the queue with it."""
    subscribe("*")
    with running(worker("qcluster", TASK_BACKEND=DJANGO_Q)) as (cluster,):
        assert wait_until(lambda: "ready for work" in cluster.output(), 30)
        children = re.findall(r"ready for work at (\d+)", cluster.output())
        assert children
        os.kill(int(children[0]), signal.SIGKILL)  # a child of ours
        order()
        with running(loop()):
            assert wait_until(lambda: pending() == 0, 20)
        cluster.kill()
    assert len(receiver.requests) == 1


# F4, F5: the broker


@contextmanager
def silent_server():
    """Accepts connections and says nothing; gives its port."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        yield server.getsockname()[1]


@contextmanager
def nobody():
    """A port at which nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        yield server.getsockname()[1]


SAVE_AND_TELL_THE_TIME = """
import time
from tests.shop.models import Order
for number in range(5):
    began = time.monotonic()
    Order.objects.create(number=number)
    print("took", time.monotonic() - began)
"""


@pytest.mark.parametrize("broker", [silent_server, pytest.param(nobody, marks=pytest.mark.slow)])
def test_broker_that_is_down_or_silent_holds_up_one_save_for_less_than_two_seconds(
    subscribe, receiver, broker
):
    """With the options that docs/how-to/run-workers.md gives for Redis."""
    pytest.importorskip("redis")
    subscribe("*")
    with broker() as port:
        saving = worker(
            "shell", "-c", SAVE_AND_TELL_THE_TIME, TASK_BACKEND=DJANGO_Q, CHAOS_REDIS_PORT=str(port)
        )
        with running(saving):
            assert saving.popen.wait(30) == 0
            took = [float(each) for each in re.findall(r"took (\S+)", saving.output())]
            errors = saving.output().count("No worker could be woken")
    assert len(took) == 5
    assert took[0] < 2
    assert max(took[1:]) < 0.5, "left alone after that"
    assert errors == 1
    drain()  # as the sweep does
    assert len(receiver.requests) == 5


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_wakes_that_redis_lost_are_made_up_for_by_the_sweep(subscribe, receiver):
    redis = pytest.importorskip("redis")
    url, prefix = "redis://127.0.0.1:6379/7", f"faults-{uuid4().hex[:8]}"
    broker = {"TASK_BACKEND": DJANGO_Q, "REDIS_URL": url, "QUEUE": prefix}
    client = redis.Redis.from_url(url, socket_connect_timeout=1)
    try:
        client.ping()
    except redis.exceptions.RedisError:
        pytest.skip("no Redis on 127.0.0.1:6379")
    subscribe("*")
    Schedule.objects.all().delete()
    with running(worker("migrate", **broker)) as (migrating,):
        assert migrating.popen.wait(60) == 0
    with running(worker("shell", "-c", SAVE, **broker)) as (saving,):
        assert saving.popen.wait(30) == 0
    assert client.delete(f"django_q:{prefix}:q") == 1, "a wake was queued"
    with running(worker("qcluster", **broker)):
        assert wait_until(lambda: receiver.requests, 120)


# F7, F8: the database


class Cause(Exception):
    sqlstate = "40P01"


def deadlock() -> OperationalError:
    error = OperationalError("deadlock detected")
    error.__cause__ = Cause()
    return error


NOT_NOW = {
    "SQLite is locked": OperationalError("database is locked"),
    "MySQL's deadlock": OperationalError(1213, "Deadlock found when trying to get lock"),
    "MySQL's lock wait": OperationalError(1205, "Lock wait timeout exceeded"),
    "PostgreSQL's deadlock": deadlock(),
}
GONE = OperationalError("server closed the connection unexpectedly")

STATEMENTS = {
    "fan-out": r"INSERT (\w+ )*INTO .django_webhooks_delivery",
    "claim": r"UPDATE .django_webhooks_delivery. SET .*attempt_count",
    "result": r"INSERT INTO .django_webhooks_attempt",
}


@contextmanager
def failing(step: str, error: Exception, times: int):
    """The statement of that step fails so many times."""
    left = [times]

    def execute_or_fail(execute, sql, params, many, context):
        if left[0] and re.match(STATEMENTS[step], sql):
            left[0] -= 1
            raise error
        return execute(sql, params, many, context)

    with connection.execute_wrapper(execute_or_fail):
        yield
    assert left[0] == 0, "the fault has happened"


@pytest.mark.parametrize("step", STATEMENTS)
@pytest.mark.parametrize("error", NOT_NOW)
def test_database_that_says_not_now_is_asked_again_and_nothing_is_sent_twice(
    subscribe, receiver, step, error
):
    subscribe("*")
    order()
    with failing(step, NOT_NOW[error], times=3):
        assert not drain().broken
    assert Delivery.objects.get().status == "succeeded"
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(("step", "requests"), [("fan-out", 1), ("claim", 1), ("result", 2)])
def test_database_that_goes_away_ends_the_drain_quietly_and_loses_nothing(
    subscribe, receiver, step, requests, caplog
):
    subscribe("*")
    order()
    with failing(step, GONE, times=1):
        assert drain().broken == 1
    assert caplog.text.count("could not be drained") == 1
    let_leases_run_out()
    drain()
    assert Delivery.objects.get().status == "succeeded"
    assert len(receiver.requests) == requests, "sent again once at the most"


@contextmanager
def full_disk(pages: int):
    """SQLite may grow by so many pages and no more."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA page_count")
        cursor.execute(f"PRAGMA max_page_count = {cursor.fetchone()[0] + pages}")
        try:
            yield
        finally:
            cursor.execute("PRAGMA max_page_count = 1073741823")


def test_full_disk_fails_the_save_whole_and_leaves_no_change_without_its_event(subscribe, receiver):
    if connection.vendor != "sqlite":
        pytest.skip("only SQLite can be told that the disk is full")
    subscribe("*")
    saved = 0
    with full_disk(pages=5), pytest.raises(OperationalError, match="full"):
        while True:
            order(number=saved)
            saved += 1
    assert Order.objects.count() == Event.objects.count() == saved
    drain()
    assert len(receiver.requests) == saved


# F11, F17: clocks and keys


def test_hosts_whose_clocks_are_an_hour_off_neither_double_nor_strand_a_delivery(
    subscribe, receiver
):
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has no clock and no second host")
    lock, seen = threading.Lock(), []

    def answer(request):
        with lock:
            seen.append(request.id)
            is_first = len(seen) == 1
        time.sleep(0.2)
        return 500 if is_first else 200

    receiver.answer = answer
    for number in range(3):
        subscribe("*", name=str(number))
    clocks = ("3600", "-3600", "0")
    with running(*[loop(CHAOS_CLOCK=clock, RETRY_SCHEDULE="0.5") for clock in clocks]):
        for number in range(20):
            order(number=number)
            time.sleep(0.05)
        assert wait_until(lambda: pending() == 0, 20), pending()
    assert set(Delivery.objects.values_list("status", flat=True)) == {"succeeded"}
    assert len(receiver.requests) == 61, "one was to be repeated"


def test_key_that_is_put_back_delivers_what_waited(subscribe, receiver, settings):
    secret, key = subscribe("*").secret, settings.SECRET_KEY
    order()
    settings.SECRET_KEY = "another key, and the old one is gone"
    drain()
    settings.SECRET_KEY = key
    Delivery.objects.update(next_attempt_at=timezone.now())
    drain()
    receiver.requests[0].verify(secret)
    assert Delivery.objects.get().status == "succeeded"


# F12, F14: drains


def test_fifty_drains_at_once_send_each_delivery_once(subscribe, receiver, settings):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "CONCURRENCY": 2}
    subscribe("*")
    for number in range(100):
        publish("billing.invoice_paid", {"number": number})
    at_once(50, lambda _: drain(using="default"))
    assert drain_until_all_has_ended()
    assert len(receiver.requests) == len(times_received(receiver)) == 100
    assert set(Delivery.objects.values_list("status", "attempt_count")) == {("succeeded", 1)}


DRAIN_UNTIL_THE_TIME_OUT = """
import time
from django_q.exceptions import TimeoutException
from django_q.timeout import TimeoutHandler
from django_webhooks.worker import attend
began = time.monotonic()
try:
    with TimeoutHandler(1):
        attend()
except TimeoutException:
    print("cut short after", time.monotonic() - began)
"""


def test_task_cut_short_by_django_q_ends_within_a_second_and_gives_back_its_leases(
    subscribe, receiver
):
    release, slots = threading.Event(), 2

    def answer(request):
        if len(receiver.requests) > 8:
            release.wait(15)
        else:
            time.sleep(0.15)
        return 200

    receiver.answer = answer
    for number in range(20):
        subscribe("*", name=str(number))
    order()
    task = worker("shell", "-c", DRAIN_UNTIL_THE_TIME_OUT, CHAOS_CONCURRENCY=str(slots))
    with running(task):
        assert wait_until(lambda: "cut short" in task.output(), 20)
        cut_at = time.monotonic()
        task.popen.wait(20)
        assert time.monotonic() - cut_at < 1, "no thread is waited for"
        took = float(re.findall(r"cut short after (\S+)", task.output())[0])
    assert took < 2
    assert Delivery.objects.in_flight().count() <= slots, "only what is being sent"
    begun = len(receiver.requests)
    release.set()
    let_leases_run_out()
    assert drain_until_all_has_ended()
    assert len(receiver.requests) <= 20 + slots, "sent again is only what was being sent"
    assert begun < 20


SLEEP = {"postgresql": "SELECT pg_sleep(1)", "mysql": "SELECT SLEEP(1)"}


@pytest.mark.skipif(connection.vendor == "sqlite", reason="no query of SQLite waits for an answer")
def test_time_out_in_the_middle_of_a_query_is_not_lost_and_what_is_done_is_settled(
    subscribe, receiver, monkeypatch
):
    """MariaDB's connection can't be used after it: what was not read is in the way."""

    def cut_in_two(using: str) -> int:
        found = fan_out(using)
        if receiver.requests:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with connection.cursor() as cursor:
                cursor.execute(SLEEP[connection.vendor])
        return found

    def cut_short(*args: object) -> None:
        raise TimeoutException

    monkeypatch.setattr("django_webhooks.worker.fan_out", cut_in_two)
    receiver.answer = lambda request: time.sleep(0.2) or 200
    subscribe("*")
    order()
    before = signal.signal(signal.SIGALRM, cut_short)
    try:
        with pytest.raises(TimeoutException):
            drain()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert Delivery.objects.get().status == "succeeded"


def test_time_out_is_not_lost_when_the_database_fails_as_well(subscribe, receiver, monkeypatch):
    def cut_short(using: str) -> int:
        if receiver.requests:
            raise TimeoutException
        return fan_out(using)

    def fail(*args: object) -> None:
        raise OperationalError("The server has gone away.")

    monkeypatch.setattr("django_webhooks.worker.fan_out", cut_short)
    monkeypatch.setattr("django_webhooks.delivery.settle", fail)
    receiver.answer = lambda request: time.sleep(0.2) or 200
    subscribe("*")
    order()
    with pytest.raises(TimeoutException):
        drain()
    monkeypatch.undo()
    let_leases_run_out()
    drain()
    assert Delivery.objects.get().status == "succeeded"


# F18, F19: large transactions, migrations


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_transaction_of_ten_thousand_saves_wakes_once_and_costs_the_same_for_each(
    subscribe, receiver, wakes
):
    subscribe("shop.order.*")
    costs = []

    def cost(number: int) -> int:
        with CaptureQueriesContext(connection) as queries:
            order(number=number)
        return len(queries)

    with transaction.atomic():
        costs.append(cost(0))
        for number in range(1, 9_999):
            order(number=number)
        costs.append(cost(9_999))
    assert costs[0] == costs[1]
    assert wakes == ["default"]
    with CaptureQueriesContext(connection) as queries:
        while fan_out("default"):
            pass
    assert Delivery.objects.count() == 10_000
    assert len(queries) < 10_000 / BATCH * 15


MIGRATE = """
from django.core.management import call_command
from django.db import connection
from django_q.models import Schedule

def sweeps():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM django_q_schedule WHERE name LIKE '%.sweep'")
        return cursor.fetchone()[0]

call_command("migrate", "django_webhooks", verbosity=0)
call_command("migrate", "django_webhooks", verbosity=0)
print("tables of django-q2:", "django_q_schedule" in connection.introspection.table_names())
call_command("migrate", verbosity=0)
print("sweeps:", sweeps())
call_command("migrate", verbosity=0)
print("sweeps:", sweeps())
call_command("flush", verbosity=0, interactive=False)
print("sweeps:", sweeps())
"""


def test_migrate_of_this_app_alone_then_of_all_then_flush_leaves_one_sweep(tmp_path):
    process = worker(
        "shell", "-c", MIGRATE, DATABASE_URL=f"sqlite:///{tmp_path}/new", TASK_BACKEND=DJANGO_Q
    )
    with running(process):
        assert process.popen.wait(60) == 0, process.output()
        output = process.output()
    assert "could not be installed" not in output
    assert re.findall(r"sweeps: (\d)", output) == ["1", "1", "1"]
    assert "tables of django-q2: False" in output


def test_migrate_twice_at_once_fails_neither_and_the_next_leaves_one_sweep(settings):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "TASK_BACKEND": DJANGO_Q}
    Schedule.objects.all().delete()
    migrations = [worker("migrate", TASK_BACKEND=DJANGO_Q) for _ in range(2)]
    with running(*migrations):
        for each in migrations:
            assert each.popen.wait(60) == 0, each.output()
            assert "could not be installed" not in each.output()
    sweeps = Schedule.objects.filter(name=SWEEP)
    assert sweeps.count() in (1, 2)
    if sweeps.count() == 1:  # they did not meet: as if they had
        Schedule.objects.create(name=SWEEP, **SCHEDULES[SWEEP])
    call_command("migrate", verbosity=0)
    assert sweeps.count() == 1
