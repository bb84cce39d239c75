"""What the benchmarks share: a database to fill, runs that take turns, and a report."""

import json
import os
import platform
import signal
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import django
from django.db import connection
from django.test.utils import setup_databases, teardown_databases

from django_webhooks.models import Attempt, Delivery, Event, Rule, Subscription
from tests.processes import database_url

RUNS = int(os.environ.get("RUNS", "5"))
RESULTS = Path(__file__).parent.parent.parent / "build" / "benchmarks"


# The database


@contextmanager
def database() -> Iterator[None]:
    """A test database, which is removed also when the benchmark is told to stop."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
    databases = setup_databases(verbosity=0, interactive=False)
    try:
        yield
    finally:
        teardown_databases(databases, verbosity=0)


def environment() -> dict[str, str]:
    """For another process that works on the same database."""
    return {
        "DATABASE_URL": database_url(),
        "DJANGO_SETTINGS_MODULE": os.environ["DJANGO_SETTINGS_MODULE"],
    }


def empty(*models: Any) -> None:
    """Without a trace, so that each run finds the same tables."""
    models = models or (Attempt, Delivery, Event, Rule, Subscription)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            tables = ", ".join(each._meta.db_table for each in models)
            cursor.execute(f"TRUNCATE {tables} CASCADE")
            return
    for each in models:
        each.objects.all()._raw_delete("default")


def tidy() -> None:
    """What autovacuum does in the background, and `PRAGMA optimize` on SQLite."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE" if connection.vendor == "postgresql" else "ANALYZE")


# Runs


def take_turns(arms: Mapping[str, Callable[[], float]], runs: int = RUNS) -> dict[str, list[float]]:
    """What each arm gave in each run. All go through a run before any begins the next."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for run in range(runs):
        for name, arm in arms.items():
            found[name].append(arm())
            print(f"  run {run + 1}  {name:<44} {found[name][-1]:>12,.4g}", flush=True)
    return found


def ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """The median of the ratios within each run, for what disturbs a run disturbs both."""
    return statistics.median(one / other for one, other in zip(of, to, strict=True))


# The report


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    against: str
    """What it is compared with; empty if with nothing."""
    value: float
    """The ratio, or the figure, that has to be as `must` says."""
    must: float | None = None
    """None if it is told for information alone."""
    wish: float | None = None
    less: bool = False
    """Whether less is better."""

    @property
    def is_reached(self) -> bool:
        return self.must is None or (
            self.value <= self.must if self.less else self.value >= self.must
        )

    @property
    def required(self) -> str:
        if self.must is None:
            return ""
        sign = "≤" if self.less else "≥"
        return f"{sign} {self.must:g}" + (f" (wish {self.wish:g})" if self.wish else "")


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], unit: str = "/s") -> str:
    """The median, and how far the runs lie apart."""
    return f"{_short(median(values))}{unit} ({_short(min(values))}–{_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def report(name: str, rows: Sequence[Row], note: str = "") -> None:
    """Print the table, and keep it for the page that `tests.benchmarks` writes."""
    print()
    print(table(rows))
    print(f"\n{machine()}" + (f"\n{note}" if note else ""), flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept = {"rows": [asdict(each) for each in rows], "machine": machine(), "note": note}
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False))


def table(rows: Sequence[Row]) -> str:
    lines = ["| what | measured | against | value | required | |", "|---|---|---|---|---|---|"]
    for each in rows:
        verdict = "" if each.must is None else "reached" if each.is_reached else "**missed**"
        cells = [each.what, each.measured, each.against, f"{each.value:.3g}", each.required]
        lines.append(f"| {' | '.join([*cells, verdict])} |")
    return "\n".join(lines)


def machine() -> str:
    return (
        f"{os.cpu_count()} × {_processor()}, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, Django {django.__version__}, {_database()}; "
        f"requests {version('requests')}, urllib3 {version('urllib3')}, "
        f"django-q2 {version('django-q2')}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _database() -> str:
    if connection.vendor != "postgresql":
        found = ".".join(map(str, connection.Database.sqlite_version_info))
        return f"SQLite {found}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version'), current_setting('autovacuum')")
        number, autovacuum = cursor.fetchone()
    return f"PostgreSQL {number.split()[0]} (autovacuum {autovacuum})"


if sys.platform != "linux":
    raise SystemExit("The benchmarks read /proc: they need Linux.")
