"""End to end against its peers from PyPI: python -m tests.benchmarks.end_to_end [SAVES]

From the first of SAVES saves until the last webhook has been received, with one subscription and
with ten, each sender with two workers: django-webhooks through a django-q2 cluster, django-webhook
and django-webhook2 by Celery with Redis, django-outbound-webhooks by its relay. All save the same
model in PostgreSQL, write their log of deliveries, and send to the same receiver, in turns. How
each is set up is in `peers/`; `python -m pip` installs it from PyPI into an environment of its own
below build/, or PEERS=… names the folder of those that are there.

Needs redis-server. Makes and removes a database for each.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from django.db import connection

from tests.benchmarks.crew import ROOT
from tests.benchmarks.lab import RESULTS, Row, median, ratio, report, spread, take_turns
from tests.benchmarks.receiver import FastReceiver

SAVES = int(sys.argv[1]) if len(sys.argv) > 1 else 400
HOOKS = (1, 10)
SITE = Path(__file__).parent / "peers"
ENVIRONMENTS = Path(os.environ.get("PEERS", RESULTS / "peers"))
BESIDE = ("celery[redis]", "psycopg[binary]", "dj-database-url")
"""What is installed beside each peer."""

CELERY = ("celery", "-A", "celery_app", "worker", "-c", "2", "--without-gossip")
CELERY += ("--without-mingle", "--without-heartbeat", "-l", "WARNING")
RELAY = ("python", "-m", "django", "deliver_events")
CLUSTER = ("python", "-m", "django", "qcluster")
OURS = "django-webhooks"


@dataclass
class Peer:
    """A sender, with the commands that are its two workers."""

    name: str
    workers: Sequence[Sequence[str]]
    slow: int = 1
    """So many times fewer saves, or it would take too long."""
    variables: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def folder(self) -> Path:
        return ENVIRONMENTS / self.name

    def install(self) -> None:
        if self.name == OURS or (self.folder / "bin" / "celery").exists():
            return
        subprocess.run([sys.executable, "-m", "venv", self.folder], check=True)
        pip = [self.folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, self.name, *BESIDE], check=True)

    def version(self) -> str:
        code = f"from importlib.metadata import version; print(version({self.name!r}))"
        return self.run("python", "-c", code).strip()

    def start(self, *command: str, **options: Any) -> "subprocess.Popen[str]":
        """A command of its environment; ours are those of this process."""
        program, *rest = command
        folder = Path(sys.executable).parent if self.name == OURS else self.folder / "bin"
        variables = {
            **{name: value for name, value in os.environ.items() if "DJANGO" not in name},
            **self.variables,
            "PEER": self.name,
            "DJANGO_SETTINGS_MODULE": "settings",
            "PYTHONPATH": f"{SITE}:{ROOT}" if self.name == OURS else str(SITE),
        }
        return subprocess.Popen(
            [folder / program, *rest], cwd=SITE, env=variables, text=True, **options
        )

    def run(self, *command: str) -> str:
        process = self.start(*command, stdout=subprocess.PIPE)
        output, _ = process.communicate(timeout=120)
        if process.returncode:
            raise SystemExit(f"{self.name}: {' '.join(command)} ended with {process.returncode}.")
        return output

    def saves(self, hooks: int) -> int:
        return max(SAVES // self.slow // (1 if hooks == 1 else 2), 10)


PEERS = (
    Peer(OURS, [CLUSTER]),
    Peer("django-webhook", [CELERY], slow=2),
    Peer("django-webhook2", [CELERY], slow=2),
    Peer("django-outbound-webhooks", [RELAY, RELAY], slow=10),
)


class Bench:
    def __init__(self, receiver: FastReceiver, hooks: int) -> None:
        self.receiver = receiver
        self.hooks = hooks
        self.saving: dict[str, list[float]] = {}
        self.logged: dict[str, int] = {}
        """How many are in the log of each, after its last run."""

    def run(self, peer: Peer) -> float:
        """Deliveries per second, saves included."""
        saves = peer.saves(self.hooks)
        if peer.name not in self.logged:
            self.logged[peer.name] = self._logged(peer)
        self.receiver.ask()
        saver = peer.start(
            *("python", "job.py", "save", str(saves)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert saver.stdin
        assert saver.stdout
        warm_up = json.loads(saver.stdout.readline())["warm_up"]
        self._receive(peer, warm_up * self.hooks)
        started = time.perf_counter()
        saver.stdin.write("go\n")
        saver.stdin.flush()
        self._receive(peer, saves * self.hooks)
        seconds = time.perf_counter() - started
        told = json.loads(saver.stdout.readline())
        saver.communicate(timeout=30)
        self.saving.setdefault(peer.name, []).append(told["seconds"] / saves * 1000)
        self.logged[peer.name] += (warm_up + saves) * self.hooks
        until = time.monotonic() + 10
        while self._logged(peer) != self.logged[peer.name]:
            if time.monotonic() > until:
                raise SystemExit(f"{peer.name}: not all is in its log.")
            time.sleep(0.2)
        return saves * self.hooks / seconds

    def _receive(self, peer: Peer, count: int) -> None:
        until = time.monotonic() + 120
        while count > 0:
            if time.monotonic() > until:
                raise SystemExit(f"{peer.name}: {count} have not come.")
            time.sleep(0.01)
            count -= self.receiver.ask().count
        if count < 0:
            raise SystemExit(f"{peer.name}: {-count} came twice.")

    def _logged(self, peer: Peer) -> int:
        logged: int = json.loads(peer.run("python", "job.py", "log"))["logged"]
        return logged


@contextmanager
def databases() -> Iterator[None]:
    """One for each peer."""
    config = connection.settings_dict
    names = {
        each.name: f"{os.environ.get('BENCH_DATABASE', 'bench')}_{each.name}" for each in PEERS
    }
    host = f"{config['HOST'] or 'localhost'}:{config['PORT'] or 5432}"
    login = config["USER"] + (f":{config['PASSWORD']}" if config["PASSWORD"] else "")
    with connection._nodb_cursor() as cursor:
        for each in PEERS:
            name = names[each.name]
            cursor.execute(f'DROP DATABASE IF EXISTS "{name}"')
            cursor.execute(f'CREATE DATABASE "{name}"')
            each.variables["DATABASE_URL"] = f"postgres://{login}@{host}/{name}"
    try:
        yield
    finally:
        with connection._nodb_cursor() as cursor:
            for name in names.values():
                cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def redis() -> Iterator[None]:
    """A Redis of its own, with a database for each peer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--save", "", "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for number, each in enumerate(PEERS):
            each.variables["REDIS_URL"] = f"redis://127.0.0.1:{port}/{number}"
        time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def working(peer: Peer) -> Iterator[None]:
    """Its workers, until the block ends."""
    logs = [open(RESULTS / f"{peer.name}-{n}.log", "w") for n in range(len(peer.workers))]  # noqa: SIM115
    processes = [
        peer.start(*command, stdout=log, stderr=subprocess.STDOUT)
        for command, log in zip(peer.workers, logs, strict=True)
    ]
    try:
        yield
    finally:
        for each in processes:
            each.terminate()
        for each, log in zip(processes, logs, strict=True):
            try:
                each.wait(30)
            except subprocess.TimeoutExpired:
                each.kill()
            log.close()


def compare(hooks: int) -> Iterator[Row]:
    with ExitStack() as stack:
        receiver = stack.enter_context(FastReceiver())
        bench = Bench(receiver, hooks)
        for each in PEERS:
            each.run("python", "job.py", "setup", receiver.url, str(hooks))
            stack.enter_context(working(each))
        # Those who wait for their turn do nothing: all workers run all the time.
        found = take_turns({f"{each.name}, {hooks}": partial(bench.run, each) for each in PEERS})
    rates = {each.name: found[f"{each.name}, {hooks}"] for each in PEERS}
    peers = {name: rate for name, rate in rates.items() if name != OURS}
    best = max(peers, key=lambda name: median(peers[name]))
    s = "" if hooks == 1 else "s"
    yield Row(
        f"end to end, {hooks} subscription{s}, django-q2 with two workers",
        spread(rates[OURS]),
        f"the best peer, {best} {spread(rates[best])}",
        ratio(rates[OURS], rates[best]),
        2 if hooks == 1 else 6,
        3 if hooks == 1 else 10,
    )
    for name, rate in peers.items():
        yield Row(f"…, against {name}", spread(rates[OURS]), spread(rate), ratio(rates[OURS], rate))
    for name, each in bench.saving.items():
        yield Row(f"…, one save() with {name}, in ms", spread(each, " ms"), "", median(each))


def main() -> None:
    if connection.vendor != "postgresql" or not shutil.which("redis-server"):
        print("end_to_end: with PostgreSQL and redis-server only.")
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))  # so that all workers end
    with ExitStack() as stack:
        for each in PEERS:
            each.install()
        stack.enter_context(databases())
        stack.enter_context(redis())
        rows = [row for hooks in HOOKS for row in compare(hooks)]
        versions = ", ".join(f"{each.name} {each.version()}" for each in PEERS)
    report("end_to_end", rows, f"Compared: {versions}.")


if __name__ == "__main__":
    main()
