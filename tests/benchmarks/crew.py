"""Processes that begin at the same moment, so that no start of Python is measured.

Each is `python -m tests.benchmarks.crew JOB`: it gets ready, says so, waits for the word, works,
and tells what it took. `Crew` is the other end.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Work:
    """What one run took."""

    seconds: float
    """From the word until the last process was done."""
    cpu: float
    """Seconds of processor, of all the processes."""
    told: list[dict[str, Any]]
    """What each process told."""


class Crew:
    """`size` processes that do the same job; if they are `pinned`, each on a core of its own."""

    def __init__(
        self,
        job: str,
        size: int,
        environment: dict[str, str],
        *,
        pinned: bool = False,
        **options: Any,
    ) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self._processes = [
            subprocess.Popen(
                [
                    *(["taskset", "--cpu-list", str(cores[n % len(cores)])] if pinned else []),
                    *PREFIX,
                    *(sys.executable, "-m", "tests.benchmarks.crew", job, json.dumps(options)),
                ],
                env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(size)
        ]

    def run(self) -> Work:
        try:
            for each in self._processes:
                self._hear(each)
            started = time.perf_counter()
            for each in self._processes:
                self._tell(each)
            told = [self._hear(each) for each in self._processes]
            seconds = time.perf_counter() - started
            return Work(seconds, sum(each["cpu"] for each in told), told)
        finally:
            for each in self._processes:
                each.communicate(timeout=30)

    def _tell(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()

    def _hear(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("{"):
                told: dict[str, Any] = json.loads(line)
                return told
        raise SystemExit(f"A process ended with {process.wait()} before it was done.")


PREFIX = os.environ.get("BENCH_PREFIX", "").split()
"""What is put before each command: a profiler, say."""


# The jobs: each gets ready, and gives the work that is then timed


def bare(url: str, count: int, body: str, headers: dict[str, str], ca_bundle: str = "") -> Any:
    """What anybody would write: `requests.Session.post`, one after the other."""
    import requests

    session = requests.Session()
    session.verify = ca_bundle or True
    data = body.encode()

    def work() -> None:
        for _ in range(count):
            session.post(url, data=data, headers=headers, timeout=15).raise_for_status()

    return work


def drain(ca_bundle: str = "") -> Any:
    """`manage.py webhooks_drain`, with one more certificate to trust."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection

    if ca_bundle:
        import certifi

        certifi.where = lambda: ca_bundle
    connection.ensure_connection()

    def work() -> None:
        with open(os.devnull, "w") as nowhere:
            call_command("webhooks_drain", stdout=nowhere)

    return work


def save(rate: float, count: int) -> Any:
    """Orders, so many per second, however long each takes; tells when each save() began."""
    import django

    django.setup()
    from tests.shop.models import Customer, Order

    customer = Customer.objects.create(name="Ada Lovelace", email="ada@example.com")

    def work() -> dict[str, Any]:
        began: dict[int, float] = {}
        started = time.monotonic()
        for number in range(count):
            time.sleep(max(started + number / rate - time.monotonic(), 0))
            moment = time.monotonic()
            order = Order.objects.create(status="paid", total=number, customer=customer)
            began[order.pk] = moment
        return {"began": began, "seconds": time.monotonic() - started}

    return work


JOBS: dict[str, Callable[..., Any]] = {"bare": bare, "drain": drain, "save": save}


def main() -> None:
    job, options = sys.argv[1:]
    work = JOBS[job](**json.loads(options))
    print("{}", flush=True)
    sys.stdin.readline()
    began = time.process_time()
    told = work() or {}
    took = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu": took, "megabytes": peak, **told}), flush=True)


if __name__ == "__main__":
    main()
