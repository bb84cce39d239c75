"""How much memory a worker takes, and whether it grows: python -m tests.benchmarks.memory [ROWS]

`webhooks_drain` before a backlog of ROWS (1,000,000) due deliveries, in runs of rising length, each
a new process: what it holds at the end of each, the most it ever held, and the slope over the
second half of each. On PostgreSQL; makes and removes a test database.

An hour in the table: LENGTHS=8,16,32,3600 (seconds), and as many ROWS as that takes.
"""

import os
import re
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from django.db import connection

from django_webhooks.models import Delivery, Subscription
from tests.benchmarks.growth import without_indexes
from tests.benchmarks.lab import Row, database, environment, report, tidy
from tests.benchmarks.receiver import FastReceiver
from tests.processes import Process, running
from tests.tables import Tables

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
ENDPOINTS = 10
LENGTHS = [float(each) for each in os.environ.get("LENGTHS", "8,16,32").split(",")]


@dataclass(frozen=True)
class Run:
    seconds: float
    sent: int
    at_end: float
    """In MB, like the others."""
    peak: float
    per_hour: float
    """By how much it grows, by a line through what was seen in the second half."""


def memory(pid: int, what: str) -> float:
    """In MB, from /proc: VmRSS, or VmHWM for the most there ever was; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    found = re.search(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0


def measure(seconds: float) -> Run:
    before = Delivery.objects.filter(status=Delivery.Status.SUCCEEDED).count()
    chosen = environment()
    seen: list[tuple[float, float]] = []
    peak = 0.0
    with running(Process("webhooks_drain", "--max-seconds", str(seconds), **chosen)) as [worker]:
        started = time.monotonic()
        while worker.popen.poll() is None:
            if rss := memory(worker.pid, "VmRSS"):
                seen.append((time.monotonic() - started, rss))
                peak = max(peak, memory(worker.pid, "VmHWM"))
            time.sleep(0.25)
    half = seen[len(seen) // 2 :]
    slope = statistics.linear_regression(*zip(*half, strict=True)).slope
    sent = Delivery.objects.filter(status=Delivery.Status.SUCCEEDED).count() - before
    return Run(seconds, sent, seen[-1][1], peak, slope * 3600)


def main() -> None:
    if connection.vendor != "postgresql":
        print("memory: on PostgreSQL only.")
        return
    with database(), FastReceiver() as receiver:
        made = [Subscription(url=f"{receiver.url}/{number}") for number in range(ENDPOINTS)]
        with without_indexes("default"):
            Tables().due(ROWS, Subscription.objects.bulk_create(made))
        tidy()
        runs = []
        for seconds in LENGTHS:
            runs.append(measure(seconds))
            print(f"  {runs[-1]}", flush=True)
        first, last = runs[0], runs[-1]
        rows = [
            Row(
                f"memory of a worker with a backlog of {ROWS:,}, at the most: MB",
                f"{max(each.peak for each in runs):.1f} MB",
                "",
                max(each.peak for each in runs),
                120,
                less=True,
            ),
            Row(
                f"…, at the end of {last.seconds:g} s ({last.sent:,} deliveries)",
                f"{last.at_end:.1f} MB",
                f"of {first.seconds:g} s ({first.sent:,}) {first.at_end:.1f} MB",
                last.at_end / first.at_end,
                1.05,
                less=True,
            ),
            Row(
                f"…, how it grows in the second half of {last.seconds:g} s: MB per hour",
                f"{last.per_hour:.1f} MB",
                " · ".join(f"{each.per_hour:.1f} in {each.seconds:g} s" for each in runs[:-1]),
                last.per_hour,
            ),
        ]
        report("memory", rows)


if __name__ == "__main__":
    main()
