"""What a delivery costs, and what follows at any rate: python -m tests.benchmarks.scaling

Measures what each step costs (`tests.benchmarks.costs`), checks the model of `tests.queueing`
against real drains, reckons by it 100, 10,000 and 1,000,000 deliveries a second, and writes the
tables of docs/explanation/scaling.md. ONLY="drains rows" measures these alone, and takes the other
figures from the last time; with ONLY="" nothing is measured.

On PostgreSQL 15 or newer, as a superuser, on the database's own host. Makes and removes a test
database.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db import connection

from django_webhooks.fanout import BATCH, LOTS
from tests.benchmarks.costs import (
    BATCHES,
    CLAIMERS,
    DEAD,
    DRAINED,
    FANNERS,
    FEW_DEAD,
    PARTS,
    QUEUE,
    ROWS,
    SETTLED,
    SIZES,
    STEPS,
    TABLES,
)
from tests.benchmarks.drain import DELAY
from tests.benchmarks.lab import RESULTS, database, machine
from tests.queueing import Costs, Line, Receivers, Result, Site, Step, contend
from tests.queueing import drain as simulated_drain
from tests.queueing import serve as simulated_service

KEPT = RESULTS / "scaling.json"
PAGE = Path(__file__).parent.parent.parent / "docs" / "explanation" / "scaling.md"


def main() -> None:
    if connection.vendor != "postgresql":
        raise SystemExit("scaling: on PostgreSQL only.")
    wanted = os.environ.get("ONLY", " ".join(PARTS)).split()
    found = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if wanted:
        with database():
            with connection.cursor() as cursor:
                cursor.execute("CREATE EXTENSION pg_walinspect")
            for name in wanted:
                print(name, flush=True)
                found[name] = PARTS[name]()
                found.setdefault("machine", {})[name] = machine()
                RESULTS.mkdir(parents=True, exist_ok=True)
                KEPT.write_text(json.dumps(found, indent=1, ensure_ascii=False))
    for name, text in tables(found).items():
        print(f"\n{text}")
        write(name, text)


LEVELS = (100, 10_000, 1_000_000)
"""Deliveries a second."""

# Assumed, not measured:
RECEIVERS = Receivers(median=0.1, sigma=1.0, dead=0.001, timeout=15.0)
ROUND_TRIP = 0.0005
BUSY = 0.6
"""Share of its time for which a processor may be busy, so that queues stay short."""
CORES = 16
"""Of one database's machine."""
WAL_MOST = 200e6
"""Bytes a second that its disk and its replicas take in."""
PLACES = 64
"""CONCURRENCY."""
SHARE = 150
"""Deliveries a second that one worker process is given."""
DAYS = 30
"""RETENTION of what has succeeded; all is taken to succeed."""
RATES = (100, 500, 1000, 1500, 2000, 3000, 5000, 10_000)
RATES_OF_ONE = range(50, 550, 50)
SIMULATED = 10.0
"""Seconds."""
FREEZE = 200e6
"""PostgreSQL's autovacuum_freeze_max_age: transactions until all tables are vacuumed."""
SCALE_FACTOR = 0.2
"""PostgreSQL's autovacuum_vacuum_scale_factor."""


# What follows


def costs_of(found: dict[str, Any], *, send: str) -> Costs:
    def step(name: str) -> Step:
        def line(who: str) -> Line:
            return Line.through(
                {n: found["steps"][f"500 bytes, {n}"][name][who] * n / 1e6 for n in BATCHES}
            )

        statements = round(found["steps"]["500 bytes, 100"][name]["statements"])
        return Step(line("worker"), line("database"), statements)

    return Costs(
        step("fan-out"),
        step("claim"),
        step("settle"),
        send=found["sending"][send] / 1e6,
        receive=found["sending"]["receiver"] / 1e6,
    )


@dataclass(frozen=True)
class Check:
    """A real run beside the model's of the same."""

    what: str
    measured: float
    model: float
    unit: str

    @property
    def error(self) -> float:
        return self.model / self.measured - 1


def checks(found: dict[str, Any]) -> Iterator[Check]:
    """Against the fastest run, for what else the machine does can only slow one down."""
    costs = costs_of(found, send="plain")
    for name, processes, latency, count in (
        ("1", 1, 0.0, DRAINED),
        ("2", 2, 0.0, DRAINED),
        ("1, 100 ms", 1, DELAY, DRAINED // 2),
    ):
        site = Site(processes, cores=2, database_cores=0)
        model = simulated_drain(costs, site, Receivers(latency), count)
        runs = found["drains"][name]
        who = f"drain, {processes} process{'es' * (processes > 1)}"
        who += ", the receiver answers after 100 ms" * bool(latency)
        yield Check(who, max(run["rate"] for run in runs), model.rate, "/s")
        least = min(run["worker"] for run in runs)
        yield Check(f"{who}: worker", least, model.worker / count * 1e6, " µs")
    for name, run in found["claimers"].items():
        if int(name) > 1:
            site = Site(int(name), cores=2, database_cores=0)
            model = contend(costs, site, QUEUE, 16)
            what = f"{name} processes that only claim: chosen, but taken by another"
            yield Check(what, run["lost"] * 100, model.lost * 100, "%")


def served(costs: Costs, rate: float, places: int = PLACES) -> Result:
    """By one database; events that go to one subscription each."""
    processes = math.ceil(rate / SHARE)
    site = Site(processes, places, database_cores=CORES, round_trip=ROUND_TRIP)
    return simulated_service(costs, site, RECEIVERS, rate, SIMULATED)


def database_time(found: dict[str, Any], costs: Costs) -> float:
    """Seconds of the database's processor for a delivery, its event included."""
    many = served(costs, 2000)
    return many.database / many.done + event_time(found)


def event_time(found: dict[str, Any]) -> float:
    """Seconds of the database's processor for an event, which whoever saves writes alone."""
    return float(found["steps"]["500 bytes, 1"]["event"]["database"]) / 1e6


def alone(costs: Costs, rate: float) -> Result:
    """By one process."""
    site = Site(1, PLACES, database_cores=CORES, round_trip=ROUND_TRIP)
    return simulated_service(costs, site, RECEIVERS, rate, SIMULATED)


def keeps_up(run: Result, rate: float) -> bool:
    """Not more is left than comes within half a second."""
    return run.left < rate / 2


@dataclass(frozen=True)
class Need:
    """Of one rate; all computed."""

    rate: float
    databases: int
    processes: int
    worker_cores: float
    database_cores: float
    connections: int
    commits: float
    wal: float
    """Bytes a second."""
    rows: float
    """A day, in all three tables."""
    growth: float
    """Bytes a day."""
    kept: float
    """Bytes after `DAYS`."""
    dead: float
    """Rows a second."""
    vacuumed: float
    """Bytes of the indexes that each VACUUM of the deliveries reads, in one database."""
    in_flight: float
    """Requests at a time."""


def need(found: dict[str, Any], rate: float, most: float) -> Need:
    """`most` is what one database takes."""
    costs = costs_of(found, send="TLS, new connection")
    databases = math.ceil(rate / most)
    run = served(costs, rate / databases)
    processes = math.ceil(rate / databases / SHARE) * databases
    steps, rows = found["steps"]["500 bytes, 10"], found["rows"]["500 bytes"]
    row = sum(sum(each.values()) for each in rows["compact"].values())
    return Need(
        rate=rate,
        databases=databases,
        processes=processes,
        worker_cores=rate * run.worker / run.done / BUSY,
        database_cores=rate * (run.database / run.done + event_time(found)) / BUSY,
        connections=2 * processes,
        commits=rate * (1 + 4 / run.batch),
        wal=rate * sum(steps[name]["wal"] for name in STEPS),
        rows=rate * 86400 * 3,
        growth=rate * 86400 * row,
        kept=rate * 86400 * row * DAYS,
        dead=rate * sum(each["dead"] for each in rows["updates"].values()),
        vacuumed=rate / databases * 86400 * DAYS * rows["compact"]["delivery"]["indexes"],
        in_flight=rate * RECEIVERS.mean,
    )


@dataclass(frozen=True)
class Limit:
    """Where something bends, if it is left as it is."""

    what: str
    rate: float
    """Deliveries a second."""
    how: str


def limits(found: dict[str, Any]) -> list[Limit]:
    costs = costs_of(found, send="TLS, new connection")
    one = served(costs, SHARE)
    steps, rows = found["steps"]["500 bytes, 100"], found["rows"]["500 bytes"]
    event, sent = event_time(found) * 1e6, costs.send * 1e6
    fan_out = costs.fan_out.worker.of(100) + costs.fan_out.database.of(100)
    fan_out += costs.fan_out.round_trips * ROUND_TRIP
    to_ten = found["steps"]["fan-out to 10"]
    to_ten = (to_ten["worker"] + to_ten["database"]) / 1e6
    prune = rows["prune"]["worker"] + rows["prune"]["database"]
    database = database_time(found, costs)
    wal = sum(steps[name]["wal"] for name in STEPS)
    alike = [rate for rate in RATES if served(costs, rate).lost < 0.5]
    slow = 0.1 / dead_entry(found)  # deliveries whose remains make a look take 100 ms
    return sorted(
        [
            Limit(
                f"VACUUM by PostgreSQL's defaults, {DAYS} days kept",
                slow / (SCALE_FACTOR * DAYS * 86400 / 2),
                f"a look is slower by {dead_entry(found) * 1e9:.0f} ns for each delivery since the"
                " last VACUUM, which comes when a fifth of the rows are dead; then it takes 100 ms",
            ),
            Limit(
                "one process, `CONCURRENCY` 16",
                16 / RECEIVERS.mean,
                f"a request takes {RECEIVERS.mean * 1000:.0f} ms on average (assumed)",
            ),
            Limit(
                f"one process, `CONCURRENCY` {PLACES}: its processor",
                max(rate for rate in RATES_OF_ONE if keeps_up(alone(costs, rate), rate)),
                f"{sent:,.0f} µs for a request over a new TLS connection (simulated)",
            ),
            Limit(
                "workers on one table: half of the rows they choose are taken by others",
                max(alike),
                "simulated; it costs looks, and hardly any time",
            ),
            Limit(
                "fan-out, one subscription per event",
                LOTS * BATCH / fan_out,
                f"{fan_out * 1000:.0f} ms for {BATCH} events, {LOTS} workers at a time",
            ),
            Limit(
                "fan-out, ten subscriptions per event",
                LOTS / to_ten,
                f"{to_ten * 1e6:.0f} µs per delivery, {LOTS} workers at a time",
            ),
            Limit(
                "`max_connections` 100, a worker's loop with NOTIFY",
                100 / 2 * SHARE,
                f"2 connections for {SHARE} deliveries a second",
            ),
            Limit(
                f"the database's processor, {CORES} cores",
                CORES * BUSY / database,
                f"{database * 1e6:,.0f} µs of database per delivery, {event:.0f} of them for the"
                " event",
            ),
            Limit(
                f"WAL, {WAL_MOST / 1e6:.0f} MB/s",
                WAL_MOST / wal,
                f"{wal:,.0f} bytes per delivery",
            ),
            Limit(
                "transaction ids: a VACUUM of all tables within each day",
                FREEZE / 86400 / (1 + 3 / one.batch),
                f"one transaction per event, three per batch of {one.batch:.0f}",
            ),
            Limit(
                "deletion by `webhooks_prune`, one process without pause",
                1e6 / prune,
                f"{prune:.0f} µs per delivery with its event and attempt",
            ),
        ],
        key=lambda each: each.rate,
    )


def dead_entry(found: dict[str, Any]) -> float:
    """Seconds by which a look is slower for each delivery that was settled since VACUUM."""
    few, *_, many = DEAD
    held = found["dead"]["held"]
    return (held[str(many)] - held[str(few)]) / (many - few) / 1e6


# The page


def tables(found: dict[str, Any]) -> dict[str, str]:
    costs = costs_of(found, send="TLS, new connection")
    return {
        "steps": steps_table(found),
        "rows": rows_table(found),
        "others": others_table(found),
        "checks": grid(
            ["what", "measured", "the model", "error"],
            (
                [
                    each.what,
                    f"{each.measured:,.0f}{each.unit}",
                    f"{each.model:,.0f}{each.unit}",
                    f"{each.error:+.0%}",
                ]
                for each in checks(found)
            ),
        ),
        "served": served_table(costs),
        "needs": needs_table(found),
        "limits": chart(limits(found))
        + "\n\n"
        + grid(
            ["what bends", "deliveries a second", "because of"],
            ([each.what, number(each.rate), each.how] for each in limits(found)),
        ),
        "machine": f"{found['machine']['steps']}.",
    }


def steps_table(found: dict[str, Any]) -> str:
    lines = []
    for title in SIZES:
        for name in STEPS:
            runs = [found["steps"][f"{title}, {batch}"][name] for batch in BATCHES]
            each = [run["statements"] / batch for run, batch in zip(runs, BATCHES, strict=True)]
            last = runs[-1]
            lines.append(
                [
                    name,
                    title,
                    " · ".join(f"{value:.3g}" for value in each),
                    " · ".join(f"{run['worker']:,.0f}" for run in runs),
                    " · ".join(f"{run['database']:,.0f}" for run in runs),
                    f"{last['wal']:,.0f} ({last['indexes']:,.0f})",
                ]
            )
    sent = found["sending"]
    for name in (name for name in sent if name != "receiver"):
        lines.append([f"send: {name}", "500 bytes", "0", f"{sent[name]:,.0f}", "0", "0"])
    head = ["step", "body", "round trips", "worker, µs", "database, µs", "WAL, bytes (indexes)"]
    return grid(head, lines)


def rows_table(found: dict[str, Any]) -> str:
    lines = []
    for title in SIZES:
        rows = found["rows"][title]
        for name in TABLES:
            compact, lived, updates = (rows[k][name] for k in ("compact", "lived", "updates"))
            lines.append(
                [
                    name,
                    title,
                    f"{compact['table']:,.0f} + {compact['indexes']:,.0f}",
                    f"{lived['table']:,.0f} + {lived['indexes']:,.0f}",
                    f"{updates['dead']:.2g}",
                    f"{updates['hot']:.0%}",
                ]
            )
    head = ["row", "body", "bytes, row + indexes", "… before VACUUM", "dead rows", "HOT"]
    return grid(head, lines)


def others_table(found: dict[str, Any]) -> str:
    rows, dead, parts = found["rows"]["500 bytes"], found["dead"], found["partitions"]
    prune, bypass = rows["prune"], dead["bypassed"]
    few, some, many = map(str, DEAD)
    commit, held = found["commit"], found["connections"]
    lines = [
        [
            "VACUUM of what a delivery leaves behind",
            f"{rows['vacuum']['database']:.1f} µs, {rows['vacuum']['wal']:,.0f} bytes of WAL",
        ],
        [
            "`webhooks_prune`: an event, its delivery, its attempt",
            f"{prune['worker']:.0f} µs of worker, {prune['database']:.0f} µs of database, "
            f"{prune['wal']:,.0f} bytes of WAL; then VACUUM: {prune['vacuum database']:.1f} µs, "
            f"{prune['vacuum wal']:,.0f} bytes",
        ],
        [
            f"dropping a partition of {ROWS:,} attempts, of {ROWS:,} events",
            f"{parts['attempts']['wall'] * 1000:.1f} ms, {parts['events']['wall'] * 1000:.1f} ms",
        ],
        [
            f"a look at what is due: {few}, {int(some):,}, {int(many):,} settled since VACUUM",
            " · ".join(f"{dead['held'][each]:,.0f}" for each in (few, some, many)) + " µs",
        ],
        [
            "… after VACUUM",
            " · ".join(f"{dead['vacuumed'][n]:,.0f}" for n in (few, some, many)) + " µs",
        ],
        [
            f"… {FEW_DEAD:,} settled beside {SETTLED:,} older: VACUUM, with INDEX_CLEANUP ON",
            " · ".join(f"{each:,.0f}" for each in bypass.values()) + " µs",
        ],
        [
            "writing one event, `synchronous_commit` on and off",
            f"{commit['on']:.2f} ms, {commit['off']:.2f} ms",
        ],
        [
            f"{_list(CLAIMERS)} processes that only claim: chosen, but taken by another",
            " · ".join(f"{each['lost']:.0%}" for each in found["claimers"].values()),
        ],
        [
            f"{_list(FANNERS)} processes that only fan out: tries that found all locked",
            " · ".join(f"{each['empty']:.0%}" for each in found["fanners"].values()),
        ],
        *(
            [
                f"connections of {name}",
                f"{each['connections']:.0f}, {each['megabytes']:.1f} MB each",
            ]
            for name, each in held.items()
        ),
    ]
    return grid(["what", "measured"], lines)


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def served_table(costs: Costs) -> str:
    lines = []
    for rate in RATES:
        run = served(costs, rate)
        lines.append(
            [
                f"{rate:,}",
                str(math.ceil(rate / SHARE)),
                f"{run.rate:,.0f}" + ("" if keeps_up(run, rate) else ", **falls behind**"),
                f"{run.wait(0.5) * 1000:,.0f} · {run.wait(0.99) * 1000:,.0f} ms",
                f"{run.batch:.0f}",
                f"{run.lost:.0%}",
                f"{run.database / run.seconds:.1f}",
            ]
        )
    head = ["deliveries a second", "processes", "done", "wait: median · p99", "claim", "lost"]
    return grid([*head, "database cores busy"], lines)


def needs_table(found: dict[str, Any]) -> str:
    costs = costs_of(found, send="TLS, new connection")
    # Half of what one takes in, so that there is room for a burst.
    room = CORES * BUSY / database_time(found, costs) / 2
    rates = [rate for rate in RATES if rate <= room]
    most = max(rate for rate in rates if keeps_up(served(costs, 2 * rate), 2 * rate))
    needs = [need(found, rate, most) for rate in LEVELS]
    lines = {
        f"databases, each of at most {most:,}/s": [f"{each.databases:,}" for each in needs],
        "worker processes": [f"{each.processes:,}" for each in needs],
        "cores for workers": [number(each.worker_cores) for each in needs],
        "cores for databases": [number(each.database_cores) for each in needs],
        "connections to databases": [f"{each.connections:,}" for each in needs],
        "requests in flight": [number(each.in_flight) for each in needs],
        "transactions a second": [number(each.commits) for each in needs],
        "WAL": [f"{size(each.wal)}/s" for each in needs],
        "dead rows a second": [number(each.dead) for each in needs],
        "indexes that each VACUUM reads": [size(each.vacuumed) for each in needs],
        "rows a day": [number(each.rows) for each in needs],
        "growth a day": [size(each.growth) for each in needs],
        f"kept for {DAYS} days": [size(each.kept) for each in needs],
    }
    return grid(
        ["at", *(f"{rate:,}/s" for rate in LEVELS)], ([name, *row] for name, row in lines.items())
    )


def grid(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def number(value: float) -> str:
    """With two digits that count."""
    digits = 1 - math.floor(math.log10(value))
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def size(bytes_: float) -> str:
    power = min(int(math.log10(bytes_) / 3), 5)
    return f"{number(bytes_ / 1000**power)} {['B', 'kB', 'MB', 'GB', 'TB', 'PB'][power]}"


WIDTH, LABEL, LINE = 860, 440, 20
FROM, TO = 1, 1_000_000


def chart(found: Sequence[Limit]) -> str:
    """A bar for each limit, as long as it holds, on a logarithmic scale."""

    def place(rate: float) -> float:
        share = math.log(min(max(rate, FROM), TO) / FROM) / math.log(TO / FROM)
        return LABEL + (WIDTH - LABEL) * share

    height = LINE * (len(found) + 2)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="11" fill="currentColor">',
        "<title>Up to how many deliveries a second each part holds</title>",
    ]
    for rate in (FROM, *LEVELS):
        x, anchor = place(rate), "end" if rate == TO else "middle"
        lines += [
            f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{LINE}" y2="{height - LINE / 2:.0f}" '
            'stroke="currentColor" stroke-opacity="0.3"/>',
            f'<text x="{x:.0f}" y="{LINE - 6}" text-anchor="{anchor}">{rate:,}/s</text>',
        ]
    for row, each in enumerate(found, 1):
        y, text = LINE * row, each.what.replace("`", "")
        lines += [
            f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end">{text}</text>',
            f'<rect x="{LABEL}" y="{y + 4}" width="{max(place(each.rate) - LABEL, 2):.1f}" '
            f'height="{LINE - 8}" fill="#2f6db3"><title>{number(each.rate)}/s</title></rect>',
        ]
    return "\n".join([*lines, "</svg>"])


def write(name: str, text: str) -> None:
    """Between the page's marks of that name; what stands elsewhere is written by hand."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = PAGE.read_text().partition(begin)
    _, _, after = rest.partition(end)
    if rest:
        PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


if __name__ == "__main__":
    main()
