"""The contract of a task backend, which each engine keeps with its real worker process.

An engine whose broker does not answer on this machine is skipped.
"""

import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import kombu
import pytest
import redis
from django.core.management import call_command
from django.db import connection
from django_q.models import OrmQ, Schedule
from django_tasks_db.models import DBTaskResult

from django_webhooks import worker
from django_webhooks.backends.base import TASK_SECONDS
from django_webhooks.conf import MAX_TIMEOUT
from django_webhooks.models import Delivery, Event
from tests.processes import CELERY, DJANGO_Q, DJANGO_TASKS, Process, running, wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "other"]),
    pytest.mark.engines,
]

DUMMY = "django_webhooks.backends.dummy.DummyBackend"

REDIS = "redis://127.0.0.1:6379/0"
RABBITMQ = "amqp://guest:guest@127.0.0.1:5672//"

SAVE = """
import time
from tests.shop.models import Order
started = time.monotonic()
for number in range({saves}):
    Order.objects.create(number=number)
print("took", time.monotonic() - started)
"""


@dataclass(frozen=True)
class Engine:
    """How the processes of one engine are started, and what they print."""

    backend: str
    worker: tuple[str, ...]
    ready: str
    """What a worker prints when it waits for tasks."""
    count_tasks: Callable[[Process], int]
    """How many tasks of ours the worker has begun."""
    sweep: tuple[str, ...]
    """The command of the engine's clock, or what stands in for it."""
    module: str = "django"
    broker: str = ""
    """The URL of the broker; empty where the database is the queue."""
    broker_variable: str = ""
    table: str = ""
    """The queue, where the database is the broker."""
    environment: dict[str, str] = field(default_factory=lambda: {"QUEUE": f"test-{uuid4().hex}"})
    """The queue has a name of its own: brokers are shared with other runs."""

    def process(self, *command: str, module: str = "", **environment: str) -> Process:
        broker = {self.broker_variable: self.broker} if self.broker else {}
        mine = {"TASK_BACKEND": self.backend, **broker, **self.environment, **environment}
        return Process(*command, module=module or "django", **mine)

    @contextmanager
    def working(self, **environment: str) -> Iterator[Process]:
        """A worker that is ready."""
        with running(self.process(*self.worker, module=self.module, **environment)) as (process,):
            assert wait_until(lambda: self.ready in process.output(), 40), (
                "the worker did not start"
            )
            yield process

    def save(self, saves: int = 1, **environment: str) -> float:
        """Save in a process of its own; the seconds that it took."""
        script = SAVE.format(saves=saves)
        with running(self.process("shell", "-c", script, **environment)) as (process,):
            assert process.popen.wait(60) == 0
            return float(process.output().rpartition("took ")[2])

    def one_sweep(self) -> Process:
        return self.process(*self.sweep, module=self.module)


def told(pattern: str) -> Callable[[Process], int]:
    return lambda process: len(re.findall(pattern, process.output()))


def django_q(**broker: str) -> Engine:
    return Engine(
        DJANGO_Q,
        ("qcluster",),
        "ready for work",
        told(r"processing .*django_webhooks"),
        ("shell", "-c", "from django_q.scheduler import scheduler; scheduler()"),
        **broker,
    )


def celery(broker: str) -> Engine:
    return Engine(
        CELERY,
        (
            "-A",
            "tests",
            "worker",
            "-c",
            "2",
            "-l",
            "INFO",
            "--without-heartbeat",
            "--without-gossip",
            "--without-mingle",
        ),
        "ready.",
        told(r"Task django_webhooks\.attend\[.*received"),
        ("-A", "tests", "beat", "-S", "celery.beat.Scheduler"),  # one that keeps no file
        module="celery",
        broker=broker,
        broker_variable="CELERY_BROKER_URL",
    )


ENGINES = {
    "django-q-orm": django_q(table=OrmQ._meta.db_table),
    "django-q-redis": django_q(broker=REDIS, broker_variable="REDIS_URL"),
    "celery-redis": celery(REDIS),
    "celery-rabbitmq": celery(RABBITMQ),
    "django-tasks-db": Engine(
        DJANGO_TASKS,
        ("db_worker", "--no-startup-delay", "--interval", "0.2"),
        "Starting worker",
        lambda process: DBTaskResult.objects.count(),
        ("webhooks_drain",),
        table=DBTaskResult._meta.db_table,
    ),
}


@pytest.fixture(params=ENGINES)
def engine(request, subscribe) -> Iterator[Engine]:
    engine = ENGINES[request.param]
    if engine.broker and not answers(engine.broker):
        pytest.skip(f"no broker answers at {engine.broker}")
    subscribe("*")
    Schedule.objects.all().delete()  # without a sweep the wakes are on their own
    yield engine
    if engine.broker:
        remove_queues(engine.broker, engine.environment["QUEUE"])


def answers(url: str) -> bool:
    try:
        with kombu.Connection(url, connect_timeout=1) as broker:
            broker.ensure_connection(max_retries=1, timeout=2)
    except Exception:
        return False
    return True


def remove_queues(url: str, name: str) -> None:
    if url.startswith("redis"):
        client = redis.Redis.from_url(url)
        for key in client.scan_iter(f"*{name}*"):
            client.delete(key)
        return
    with kombu.Connection(url) as broker:
        broker.default_channel.queue_delete(name)
        broker.default_channel.exchange_delete(name)


@contextmanager
def dead_broker(engine: Engine, *, silent: bool) -> Iterator[dict[str, str]]:
    """The environment in which the broker refuses, or accepts and says nothing."""
    with ExitStack() as stack:
        if engine.table:
            stack.enter_context(renamed(engine.table))
            yield {}
            return
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = server.getsockname()[1]
        if not silent:
            server.close()
        yield {engine.broker_variable: re.sub(r":\d+/", f":{port}/", engine.broker)}


@contextmanager
def renamed(table: str) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO {table}_gone")
        try:
            yield
        finally:
            cursor.execute(f"ALTER TABLE {table}_gone RENAME TO {table}")


# The contract


def test_save_is_delivered_at_once_and_a_burst_with_a_handful_of_tasks(engine, receiver):
    with engine.working() as process:
        engine.save()
        assert wait_until(lambda: len(receiver.requests) == 1, 10)
        took = engine.save(300)
        assert wait_until(lambda: len(receiver.requests) == 301, 30), len(receiver.requests)
        assert 1 <= engine.count_tasks(process) <= took + 4, "one wake a second at most"


def test_retry_is_sent_when_it_is_due(engine, receiver):
    times: list[float] = []

    def answer(request):
        times.append(time.monotonic())
        return 500 if len(times) == 1 else 200

    receiver.answer = answer
    with engine.working(RETRY_SCHEDULE="5"):
        engine.save(RETRY_SCHEDULE="5")
        assert wait_until(lambda: len(times) == 2, 20)
    assert 4.9 < times[1] - times[0] < 7.5


def test_queues_with_timers_come_back_for_a_retry_that_is_not_near(engine, receiver):
    """Without a sweep; for the others a retry waits for one."""
    if engine.backend == DJANGO_Q:
        pytest.skip("django-q2's schedules are looked at each half minute: the sweep does as well")
    times: list[float] = []

    def answer(request):
        times.append(time.monotonic())
        return 500 if len(times) == 1 else 200

    receiver.answer = answer
    delay = worker.NEAR.total_seconds() + 4
    with engine.working(RETRY_SCHEDULE=str(delay)) as process:
        engine.save(RETRY_SCHEDULE=str(delay))
        assert wait_until(lambda: len(times) == 2, delay + 15)
        assert delay - 0.1 < times[1] - times[0] < delay * 1.2 + 3
        assert wait_until(lambda: Delivery.objects.get().status == "succeeded", 5)
        assert engine.count_tasks(process) == 2


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "silent"])
def test_save_outlives_a_dead_broker_and_the_next_drain_delivers(engine, receiver, silent):
    if silent and engine.table:
        pytest.skip("a database that is silent takes the save with it")
    with dead_broker(engine, silent=silent) as environment:
        assert engine.save(3, **environment) < 3.5
    assert Event.objects.waiting().count() == 3
    assert receiver.requests == []
    call_command("webhooks_drain", verbosity=0)
    assert len(receiver.requests) == 3


def test_lost_wake_is_made_up_for_by_the_sweep(engine, receiver):
    with running(engine.process("migrate")) as (migration,):  # which installs a sweep, if any
        assert migration.popen.wait(60) == 0
    with engine.working():
        engine.save(TASK_BACKEND=DUMMY)
        time.sleep(1)
        assert receiver.requests == [], "nobody was woken"
        with running(engine.one_sweep()):
            assert wait_until(lambda: len(receiver.requests) == 1, 20)


def test_worker_ends_on_sigterm_with_what_it_had_begun(engine, receiver):
    receiver.answer = lambda request: time.sleep(1) or 200
    with engine.working() as process:
        engine.save()
        assert wait_until(lambda: receiver.requests, 10)
        process.send(signal.SIGTERM)
        assert process.popen.wait(30) == 0
    assert Delivery.objects.get().status == "succeeded"
    assert len(receiver.requests) == 1


def test_backends_know_how_long_a_task_may_take():
    assert worker.BUDGET + MAX_TIMEOUT == TASK_SECONDS
