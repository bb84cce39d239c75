"""What each step of a delivery costs, on PostgreSQL: the parts of `tests.benchmarks.scaling`.

Processor is read from /proc and WAL by the extension pg_walinspect, both for our own work alone,
whoever else works there.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.db import DatabaseError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_webhooks import claim as claiming
from django_webhooks import delivery as delivering
from django_webhooks import outbox
from django_webhooks.claim import Claimer, pace
from django_webhooks.conf import settings
from django_webhooks.delivery import Outcome, settle
from django_webhooks.fanout import fan_out
from django_webhooks.models import Attempt, Delivery, Event, Subscription
from django_webhooks.retention import prune
from django_webhooks.transport import Exchange, Transport
from tests.benchmarks.crew import Crew
from tests.benchmarks.drain import DELAY, ENDPOINTS, fill
from tests.benchmarks.lab import empty, environment, tidy
from tests.benchmarks.receiver import FastReceiver
from tests.certificates import certificate
from tests.processes import Process, running
from tests.tables import Tables

BATCHES = {1: 200, 10: 600, 100: 3000}
"""Rows of a batch: how many deliveries are measured by such batches."""
SIZES = {"500 bytes": 500, "8 kB": 8000}
STEPS = ("event", "fan-out", "claim", "settle")
ROWS = 4000
DEAD = (0, 50_000, 500_000)
SETTLED, FEW_DEAD = 200_000, 2000
CLAIMERS, QUEUE = (1, 2, 4, 8), 4000
FANNERS, EVENTS = (1, 2, 4), 4000
MANY = 256
"""Requests at a time, to an endpoint that is slow."""
DRAINED = 3000
RUNS = 5

HEADERS = {
    "content-type": "application/json",
    "date": "Tue, 24 Nov 2026 10:00:00 GMT",
    "server": "nginx",
    "content-length": "2",
    "connection": "keep-alive",
    "x-request-id": "7b0d0a5c0c7e4f0e9b7c1d2e3f405162",
}
"""What a receiver answers with."""
WORDS = [
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "flint",
    "grove",
    "haven",
    "inlet",
    "jasper",
    "kelp",
    "larch",
    "maple",
    "north",
]

TABLES = {"event": Event, "delivery": Delivery, "attempt": Attempt}


# What a piece of work takes


@dataclass
class Taken:
    """Of one piece of work, or of many; processor in seconds, WAL in bytes."""

    count: int = 0
    """Deliveries."""
    wall: float = 0.0
    worker: float = 0.0
    database: float = 0.0
    wal: float = 0.0
    """Without whole pages."""
    pages: float = 0.0
    """Whole pages in the WAL, each the first change of a page after a checkpoint."""
    indexes: float = 0.0
    """Of `wal`: by indexes."""
    statements: int = 0
    """Of one piece, with BEGIN and COMMIT."""

    def each(self) -> dict[str, float]:
        """Per delivery; microseconds and bytes."""
        times = {"wall": self.wall, "worker": self.worker, "database": self.database}
        bytes_ = {"wal": self.wal, "pages": self.pages, "indexes": self.indexes}
        return {
            **{name: value / self.count * 1e6 for name, value in times.items()},
            **{name: value / self.count for name, value in bytes_.items()},
            "statements": self.statements,
        }

    @contextmanager
    def measuring(self, count: int) -> Iterator[None]:
        before = value("SELECT pg_current_wal_insert_lsn()")
        database, wall, worker = processor_of_backend(), time.perf_counter(), time.process_time()
        yield
        self.worker += time.process_time() - worker
        self.wall += time.perf_counter() - wall
        self.database += processor_of_backend() - database
        self.count += count
        after = value("SELECT pg_current_wal_insert_lsn()")
        execute("SELECT pg_logical_emit_message(true, '', '')")  # its commit flushes all before
        with connection.cursor() as cursor:
            cursor.execute(WAL, [before, after])
            wal, pages, indexes = cursor.fetchone()
        self.wal += wal
        self.pages += pages
        self.indexes += indexes


WAL = """
    WITH records AS (SELECT *, block_ref LIKE '%%/' || (
            SELECT oid FROM pg_database WHERE datname = current_database()
        ) || '/%%' AS here FROM pg_get_wal_records_info(%s, %s)),
    mine AS (SELECT DISTINCT xid FROM records WHERE here AND xid <> '0')
    SELECT coalesce(sum(bytes), 0)::float8, coalesce(sum(fpi_length), 0)::float8,
        coalesce(sum(bytes) FILTER (WHERE resource_manager = 'Btree'), 0)::float8
    FROM (SELECT *, record_length - fpi_length AS bytes FROM records) AS each
    WHERE here OR xid IN (SELECT xid FROM mine)
"""


def processor_of_backend() -> float:
    """Seconds that the process of our connection has run."""
    pid = connection.connection.info.backend_pid
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def value(sql: str, parameters: Sequence[Any] = ()) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchone()[0]


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


# The steps


def payload(size: int, number: int = 0) -> dict[str, Any]:
    """An order whose body has about that many bytes, and is no easier to compress than text."""
    order = {"id": number, "number": f"2026-{number:06}", "status": "paid", "total": "129.90"}
    note, seed = [], number
    while len(" ".join(note)) < size - 220:
        seed = (seed * 1103515245 + 12345) % 2**31
        note.append(f"{WORDS[seed % len(WORDS)]}{seed % 997}")
    return {**order, "customer": {"email": "ada@example.com"}, "note": " ".join(note)}


class Way:
    """Deliveries by batches, from the event to the result; each step measured by itself."""

    def __init__(self, size: int, batch: int) -> None:
        self.size, self.batch, self.made = size, batch, 0
        self.taken = {step: Taken() for step in STEPS}
        self.claimer = Claimer("default", places=2 * batch)
        self._events: list[Event] = []
        self._claimed: list[Delivery] = []

    def step(self, name: str) -> None:
        {
            "event": self.publish,
            "fan-out": lambda: fan_out("default", self.batch),
            "claim": self.claim,
            "settle": self.settle,
        }[name]()

    def prepare(self, name: str) -> None:
        """What the step needs, and is not of the step."""
        if name == "event":
            self._data = [payload(self.size, self.made + number) for number in range(self.batch)]
            self.made += self.batch
        if name == "settle":
            self._outcomes = [outcome(each) for each in self._claimed]

    def publish(self) -> None:
        """Each in a transaction of its own, as by a save()."""
        for data in self._data:
            with transaction.atomic():
                outbox.is_listened_to("shop.order.created", "default")
                event = outbox.compose("shop.order.created", data, action="created")
                outbox.write(event, "default", listening=True)

    def claim(self) -> None:
        self._claimed = self.claimer.claim(self.batch).deliveries
        assert len(self._claimed) == self.batch, len(self._claimed)

    def settle(self) -> None:
        assert settle("default", self._outcomes).succeeded == self.batch

    def run(self, count: int) -> "Way":
        for _ in range(count // self.batch):
            for name in STEPS:
                self.prepare(name)
                with self.taken[name].measuring(self.batch):
                    self.step(name)
        return self

    def warm_up(self) -> "Way":
        for name in STEPS:
            self.prepare(name)
            with CaptureQueriesContext(connection) as captured:
                self.step(name)
            self.taken[name].statements = len(captured)
        return self


def outcome(delivery: Delivery) -> Outcome:
    parcel = delivering.pack(delivery)
    headers = delivering.standard_headers(parcel, int(time.time()))
    exchange = Exchange(status_code=200, headers=HEADERS, body="ok", duration_ms=100)
    return Outcome(delivery, exchange, timezone.now(), headers, parcel.url)


def subscribe(count: int, url: str = "https://example.com/hook") -> list[Subscription]:
    """All listen to the same events, and have been doing well."""
    made = []
    for _ in range(count):
        each = Subscription.objects.create(url=url)
        each.rules.create(event_type="shop.order.created")
        pace._earned[each.pk] = 10_000
        made.append(each)
    return made


def steps() -> dict[str, Any]:
    """Per delivery, by size of the body and of the batch; one subscription listens."""
    found: dict[str, Any] = {}
    for title, size in SIZES.items():
        for batch, count in BATCHES.items():
            empty()
            subscribe(1)
            way = Way(size, batch).warm_up()
            tidy()
            way.run(count)
            found[f"{title}, {batch}"] = {name: way.taken[name].each() for name in STEPS}
    empty()
    subscribe(10)
    taken, data = Taken(), payload(500)
    for _ in range(5):
        outbox_of(100, data)
        with taken.measuring(1000):
            fan_out("default")
    assert Delivery.objects.count() == 5000
    return {**found, "fan-out to 10": taken.each()}


def outbox_of(count: int, data: Any) -> None:
    """Events that wait."""
    events = [outbox.compose("shop.order.created", data, action="created") for _ in range(count)]
    Event.objects.bulk_create(events, batch_size=1000)


# Sending


def sending() -> dict[str, float]:
    """Microseconds of processor in the worker, per request: the least of several runs, for what
    else the machine does can only add to it."""
    found = {}
    with ExitStack() as stack:
        cert = stack.enter_context(certificate("127.0.0.1"))
        fast = stack.enter_context(FastReceiver())
        slow = stack.enter_context(FastReceiver(delay=DELAY))
        tls = stack.enter_context(FastReceiver(certificate=(cert.path, cert.key_path)))
        found["plain"] = send_all(fast.url, 16, 1000)
        seen = fast.ask()
        found["receiver"] = seen.cpu / seen.count * 1e6
        found[f"{MANY} at a time, 100 ms"] = send_all(slow.url, MANY, 1000)
        found["TLS, connection kept"] = send_all(tls.url, 16, 1000, ca_bundle=cert.path)
        found["TLS, new connection"] = send_all(tls.url, 1, 300, ca_bundle=cert.path)
    return found


def send_all(url: str, threads: int, count: int, ca_bundle: str | None = None) -> float:
    """One thread alone opens a new connection for each request."""
    subscription = Subscription(url=url)
    event = outbox.compose("shop.order.created", payload(500), action="created")
    parcels = [
        delivering.pack(Delivery(event=event, subscription=subscription, attempt_count=1))
        for _ in range(count)
    ]
    transport = Transport(
        allow_http=True, allowed_networks=settings.ALLOWED_NETWORKS, ca_bundle=ca_bundle
    )

    def send(parcel: Any) -> str:
        if threads == 1:
            transport._adapter.close()
        return delivering.send(parcel, transport).exchange.error

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(send, parcels[:threads]))
        taken = []
        for _ in range(RUNS):
            began = time.process_time()
            errors = [error for error in pool.map(send, parcels) if error]
            taken.append(time.process_time() - began)
            assert not errors, errors[:3]
    transport.close()
    return min(taken) / count * 1e6


# Rows: how large, how many of them dead, and what it takes to be rid of them


def rows() -> dict[str, Any]:
    found = {}
    for title, size in SIZES.items():
        empty()
        subscribe(1)
        execute("SELECT pg_stat_reset()")
        Way(size, 100).run(ROWS)
        lived = {name: sizes_of(model) for name, model in TABLES.items()}
        updates = {name: updates_of(model) for name, model in TABLES.items()}
        vacuumed = Taken()
        with vacuumed.measuring(ROWS):
            execute("VACUUM")
        execute("VACUUM FULL")
        compact = {name: sizes_of(model) for name, model in TABLES.items()}
        found[title] = {
            "lived": lived,
            "compact": compact,
            "updates": updates,
            "vacuum": vacuumed.each(),
            "prune": pruned(),
        }
    return found


def sizes_of(model: Any) -> dict[str, float]:
    """Bytes per row."""
    name = model._meta.db_table
    total = value("SELECT pg_total_relation_size(%s)", [name])
    indexes = value("SELECT pg_indexes_size(%s)", [name])
    return {"table": (total - indexes) / ROWS, "indexes": indexes / ROWS}


def updates_of(model: Any) -> dict[str, float]:
    """Per row, since the statistics were reset."""
    execute("SELECT pg_stat_force_next_flush()")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT n_tup_upd, n_tup_hot_upd, n_dead_tup FROM pg_stat_user_tables"
            " WHERE relname = %s",
            [model._meta.db_table],
        )
        updated, hot, dead = cursor.fetchone()
    return {"updated": updated / ROWS, "hot": hot / ROWS, "dead": dead / ROWS}


def pruned() -> dict[str, float]:
    """All rows, which have become old, by `webhooks_prune`."""
    old = timedelta(days=400)
    Delivery.objects.update(completed_at=timezone.now() - old)
    Event.objects.update(occurred_at=timezone.now() - old)
    tidy()
    taken = Taken()
    with taken.measuring(ROWS):
        for _ in prune():
            pass
    assert not Event.objects.exists()
    vacuum = Taken()
    with vacuum.measuring(ROWS):
        execute("VACUUM")
    return {
        **taken.each(),
        **{f"vacuum {name}": each for name, each in vacuum.each().items()},
    }


def dead_rows() -> dict[str, dict[str, float]]:
    """Microseconds of the database for one look at what is due, with so many that have been
    settled before: while an older transaction is open, after it, and after VACUUM."""
    found: dict[str, dict[str, float]] = {"held": {}, "free": {}, "vacuumed": {}}
    for dead in DEAD:
        empty()
        table = Tables()
        [endpoint] = table.subscribe(1)
        tidy()
        reader = connections.create_connection("default")
        with reader.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT count(*) FROM django_webhooks_delivery")
        if dead:
            table.due(dead, [endpoint])
            Delivery.objects.all().complete(Delivery.Status.SUCCEEDED, timezone.now())
        table.due(100, [endpoint])
        execute("ANALYZE")
        found["held"][str(dead)] = look()
        with reader.cursor() as cursor:
            cursor.execute("ROLLBACK")
        reader.close()
        look()  # by which entries may be marked as dead
        found["free"][str(dead)] = look()
        execute("VACUUM")
        found["vacuumed"][str(dead)] = look()
    found["bypassed"] = bypassed()
    return found


def bypassed() -> dict[str, float]:
    """The same with few dead rows beside many that live: below one page in fifty VACUUM leaves
    the indexes alone, unless it is told not to."""
    empty()
    table = Tables()
    [endpoint] = table.subscribe(1)
    table.settled(SETTLED, [endpoint], days=1)
    tidy()
    table.due(FEW_DEAD, [endpoint])
    Delivery.objects.pending().complete(Delivery.Status.SUCCEEDED, timezone.now())
    table.due(100, [endpoint])
    found = {}
    for options in ("ANALYZE", "ANALYZE, INDEX_CLEANUP ON"):
        execute(f"VACUUM ({options}) django_webhooks_delivery")
        found[options] = look()
    return found


def look() -> float:
    due = Delivery.objects.due()
    taken = []
    for _ in range(RUNS):
        before = processor_of_backend()
        assert len(claiming._candidates(due, 64)) == 64
        taken.append(processor_of_backend() - before)
    return statistics.median(taken) * 1e6


def partitions() -> dict[str, Any]:
    """Whether events and attempts may lie in partitions by their id, made by SQL alone; what one
    costs to drop; and what PostgreSQL says of the same for deliveries."""
    empty()
    cut = outbox.compose("shop.order.created", {}, action="created").pk
    execute(PARTITION.format(cut=cut))
    subscribe(1)
    Way(500, 100).run(ROWS)
    refused = ""
    try:
        with transaction.atomic():
            execute(
                "CREATE TABLE by_id (LIKE django_webhooks_delivery INCLUDING ALL)"
                " PARTITION BY RANGE (event_id)"
            )
    except DatabaseError as error:
        refused = str(error).splitlines()[0]
    Delivery.objects.update(completed_at=timezone.now() - timedelta(days=400))
    taken = Taken()
    with taken.measuring(ROWS):
        execute("DROP TABLE attempts_new")
    deliveries = Taken()
    with deliveries.measuring(ROWS):
        for _ in prune():
            pass
    events = Taken()
    with events.measuring(ROWS):
        execute("ALTER TABLE django_webhooks_event DETACH PARTITION events_new")
        execute("DROP TABLE events_new")
    return {
        "refused": refused,
        "attempts": {"wall": taken.wall, "wal": taken.wal},
        "deliveries": deliveries.each(),
        "events": {"wall": events.wall, "wal": events.wal},
    }


PARTITION = """
    ALTER TABLE django_webhooks_attempt RENAME TO attempts_before;
    CREATE TABLE django_webhooks_attempt
        (LIKE attempts_before INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING IDENTITY)
        PARTITION BY RANGE (id);
    CREATE TABLE attempts_old PARTITION OF django_webhooks_attempt
        FOR VALUES FROM (MINVALUE) TO (1);
    CREATE TABLE attempts_new PARTITION OF django_webhooks_attempt
        FOR VALUES FROM (1) TO (MAXVALUE);
    ALTER TABLE django_webhooks_attempt ADD FOREIGN KEY (delivery_id)
        REFERENCES django_webhooks_delivery DEFERRABLE INITIALLY DEFERRED;
    DROP TABLE attempts_before;
    ALTER TABLE django_webhooks_event RENAME TO events_before;
    CREATE TABLE django_webhooks_event
        (LIKE events_before INCLUDING DEFAULTS INCLUDING INDEXES) PARTITION BY RANGE (id);
    CREATE TABLE events_old PARTITION OF django_webhooks_event
        FOR VALUES FROM (MINVALUE) TO ('{cut}');
    CREATE TABLE events_new PARTITION OF django_webhooks_event
        FOR VALUES FROM ('{cut}') TO (MAXVALUE);
    DROP TABLE events_before CASCADE;
    ALTER TABLE django_webhooks_delivery ADD FOREIGN KEY (event_id)
        REFERENCES django_webhooks_event DEFERRABLE INITIALLY DEFERRED;
"""


# Commits


def commits() -> dict[str, float]:
    """Milliseconds of one transaction that writes an Event, by `synchronous_commit`."""
    found = {}
    for setting in ("on", "off"):
        empty()
        subscribe(1)
        execute(f"SET synchronous_commit = {setting}")
        way, walls = Way(500, 1), []
        for _ in range(300):
            way.prepare("event")
            began = time.perf_counter()
            way.publish()
            walls.append(time.perf_counter() - began)
        found[setting] = statistics.median(walls) * 1000
    execute("RESET synchronous_commit")
    return found


# Workers against each other


def claimers() -> dict[str, dict[str, float]]:
    """Processes that do nothing but claim from one queue, 16 at a time."""
    return {str(count): _contend_often(count, _claim_all, _fill_queue) for count in CLAIMERS}


def fanners() -> dict[str, dict[str, float]]:
    """Processes that do nothing but fan out."""
    return {str(count): _contend_often(count, _fan_out_all, _fill_outbox) for count in FANNERS}


def _fill_queue() -> int:
    table = Tables()
    table.due(QUEUE, table.subscribe(ENDPOINTS))
    return QUEUE


def _fill_outbox() -> int:
    subscribe(1)
    outbox_of(EVENTS, payload(500))
    return EVENTS


def _contend_often(count: int, work: Any, prepare: Any) -> dict[str, float]:
    """The median of three runs."""
    found = [_contend(count, work, prepare) for _ in range(3)]
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def _contend(count: int, work: Callable[[], Any], prepare: Callable[[], int]) -> dict[str, float]:
    empty()
    rows = prepare()
    tidy()
    os.environ.update(environment())
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(count + 1), spawn.Queue()
    crew = [spawn.Process(target=_work, args=(work, barrier, results)) for _ in range(count)]
    for each in crew:
        each.start()
    barrier.wait()
    began = time.perf_counter()
    told = [results.get() for _ in crew]
    seconds = time.perf_counter() - began
    for each in crew:
        each.join()
    tally = {name: sum(each[name] for each in told) for name in told[0]}
    assert tally["taken"] == rows, tally
    return {
        "rate": rows / seconds,
        "lost": 1 - tally["taken"] / tally["chosen"],
        "empty": tally["empty"] / tally["tries"],
        "tries": tally["tries"] / rows * 100,
        "processor": tally["processor"] / rows * 1e6,
    }


def _work(work: Callable[[], dict[str, float]], barrier: Any, results: Any) -> None:
    connection.ensure_connection()
    barrier.wait()
    began = time.process_time()
    tally = work()
    results.put({**tally, "processor": time.process_time() - began})


def _claim_all() -> dict[str, float]:
    """Tells how many rows were chosen by a look, and how many of them were had."""
    tally = {"tries": 0, "empty": 0, "chosen": 0, "taken": 0}
    choose = claiming._Choice.of

    def counted(self: Any, *candidates_and_limits: Any) -> Any:
        chosen = choose(self, *candidates_and_limits)
        tally["tries"] += 1
        tally["chosen"] += len(chosen)
        return chosen

    claiming._Choice.of = counted  # type: ignore[method-assign]
    for pk in Subscription.objects.values_list("pk", flat=True):
        pace._earned[pk] = 10_000
    claimer = Claimer("default", places=64)
    while Delivery.objects.due().exists():
        taken = claimer.claim(16).taken
        tally["taken"] += taken
        tally["empty"] += not taken
    return tally


def _fan_out_all() -> dict[str, float]:
    tally = {"tries": 0, "empty": 0, "chosen": 0, "taken": 0}
    while Event.objects.waiting().exists():
        events = fan_out("default")
        tally["tries"] += 1
        tally["empty"] += not events
        tally["taken"] += events
        tally["chosen"] += events
    return tally


# Connections


def connections_held() -> dict[str, dict[str, float]]:
    """Connections to the database, and megabytes of its own that each backend has."""
    empty()
    subscribe(1, "http://127.0.0.1:9/hook")  # where nobody listens
    way, found = Way(500, 1), {}
    notify = "django_webhooks.backends.postgres_notify.NotifyBackend"
    dummy = "django_webhooks.backends.dummy.DummyBackend"
    for title, backend, *command in (
        ("webhooks_drain --loop, polling", dummy, "webhooks_drain", "--loop"),
        ("webhooks_drain --loop, NOTIFY", notify, "webhooks_drain", "--loop"),
    ):
        with running(Process(*command, **environment(), TASK_BACKEND=backend)):
            most, megabytes = 0, 0.0
            for _ in range(60):
                time.sleep(0.25)
                way.prepare("event")
                way.publish()
                with connection.cursor() as cursor:
                    cursor.execute(
                        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
                    )
                    pids = [pid for (pid,) in cursor.fetchall()]
                if len(pids) > most:
                    most, megabytes = len(pids), max(map(private_megabytes, pids))
            found[title] = {"connections": most, "megabytes": megabytes}
    return found


def private_megabytes(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    pairs = (line.split() for line in text.splitlines() if line.startswith("Private_"))
    return sum(int(size) for _, size, _ in pairs) / 1024


# The model against real drains


def drains() -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {}
    with FastReceiver() as fast, FastReceiver(delay=DELAY) as slow:
        for _ in range(RUNS):
            for name, receiver, processes, count in (
                ("1", fast, 1, DRAINED),
                ("2", fast, 2, DRAINED),
                ("1, 100 ms", slow, 1, DRAINED // 2),
            ):
                fill(count, receiver.url)
                crew = Crew("drain", processes, environment())
                receiver.ask()
                work = crew.run()
                assert Delivery.objects.filter(status="succeeded").count() == count
                found.setdefault(name, []).append(
                    {
                        "rate": count / work.seconds,
                        "worker": work.cpu / count * 1e6,
                        "load": os.getloadavg()[0],
                    }
                )
                print(f"  {name}: {found[name][-1]}", flush=True)
    return found


PARTS: Mapping[str, Callable[[], Any]] = {
    "drains": drains,
    "steps": steps,
    "sending": sending,
    "rows": rows,
    "dead": dead_rows,
    "commit": commits,
    "claimers": claimers,
    "fanners": fanners,
    "connections": connections_held,
    "partitions": partitions,
}
"""Partitions come last, for they leave other tables behind."""
