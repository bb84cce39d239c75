"""Run workers, save orders, do harm, wait until all is quiet, and judge.

    python -m tests.chaos --seconds 120 --seed 7 --engine loop

Exits with 1 when an invariant is broken. The seed decides what is saved, which faults come when
and whom they hit; what the machine does in between, it can't decide.
"""

import argparse
import logging
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

LEASE = 6.0
TIMEOUT = 2.0
SCHEDULE = ",".join(["0.2", "0.5", *["1"] * 10])
QUIET = 180.0
"""Seconds after the last fault within which all must have ended."""


def main() -> int:
    options = parse()
    from tests.chaos.engines import ENGINES, SETTINGS

    os.environ |= {
        "DJANGO_SETTINGS_MODULE": SETTINGS,
        "RETRY_SCHEDULE": SCHEDULE,
        "CHAOS_TIMEOUT": str(TIMEOUT),
        "CHAOS_CONCURRENCY": str(options.concurrency),
        **ENGINES[options.engine].environment,
    }
    import django

    django.setup()
    logging.getLogger("django-q").setLevel(logging.WARNING)  # it tells of each wake
    from django.test.utils import setup_databases, teardown_databases

    databases = setup_databases(verbosity=0, interactive=False)
    try:
        return run(options)
    finally:
        teardown_databases(databases, verbosity=0)


def parse() -> argparse.Namespace:
    from tests.chaos.engines import ENGINES

    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--engine", choices=ENGINES, default="loop")
    parser.add_argument("--deliveries", type=int, help="default: 40 a second")
    parser.add_argument("--kills", type=int, help="default: as many as the engine can bear")
    parser.add_argument("--others", type=int, help="other faults; default: one in 15 seconds")
    parser.add_argument("--concurrency", type=int, default=16, help="requests in flight per worker")
    options = parser.parse_args()
    per_second = ENGINES[options.engine].kills_per_minute / 60
    if options.deliveries is None:
        options.deliveries = int(40 * options.seconds)
    if options.kills is None:
        options.kills = int(per_second * options.seconds)
    if options.others is None:
        options.others = int(options.seconds / 15)
    return options


def run(options: argparse.Namespace) -> int:
    from django.db import connection

    from tests.chaos import judge
    from tests.chaos.engines import ENGINES
    from tests.chaos.injector import Crew, Injector, spare_this_thread
    from tests.chaos.ledger import Ledger
    from tests.chaos.shop import Shop, subscribe

    engine, seed = ENGINES[options.engine], options.seed
    print(
        f"seed {seed}: {engine.workers} × {options.engine} with {options.concurrency} requests "
        f"in flight each, on {connection.vendor}; lease {LEASE:g} s",
        flush=True,
    )
    spare_this_thread()
    directory = tempfile.TemporaryDirectory(prefix="chaos-")
    connects = Path(directory.name) / "connects"
    ledger = Ledger(random.Random(f"{seed} answers"))
    shop = Shop(random.Random(f"{seed} shop"))
    witness = judge.Witness(LEASE)
    crew = Crew(engine, {"CHAOS_LEASE": str(LEASE), "CHAOS_CONNECTS": str(connects)})
    injector = Injector(crew, random.Random(f"{seed} faults"), LEASE)
    with directory, ledger.receiver() as receiver, crew.at_work():
        subscribe(receiver.url)
        watching = threading.Thread(target=witness.watch)
        saving = threading.Thread(target=shop.run, args=(options.deliveries, options.seconds))
        watching.start()
        saving.start()
        began = time.monotonic()
        try:
            injector.run(options.kills, options.others, options.seconds)
            took = time.monotonic() - began
            saving.join()
            ledger.is_calm = True
            quiet = judge.wait_for_quiet(QUIET)
        finally:
            witness.stop()
            watching.join()
        evidence = judge.Evidence(
            changes=shop.changes,
            records=list(ledger.records),
            witness=witness,
            faults=sum(injector.done.values()),
            connects=connects,
            in_flight=2 * options.concurrency,
        )
        tell(evidence, shop, injector, took, quiet)
        broken = verdict(evidence)
    return 1 if broken or shop.failed or quiet is None else 0


def tell(evidence, shop, injector, took, quiet) -> None:
    faults = ", ".join(f"{count} × {name}" for name, count in sorted(injector.done.items()))
    statuses = [row.status for row in evidence.deliveries.values()]
    doubled = evidence.doubled
    timed_out = sum(map(evidence.is_timed_out, doubled))
    print(f"faults in {took:.0f} s: {faults or 'none'}")
    print(f"saved: {len(shop.changes)} changes; {shop.rolled_back} more were rolled back")
    print(
        f"{len(statuses)} deliveries: "
        + ", ".join(f"{statuses.count(name)} {name}" for name in sorted(set(statuses)))
        + f"; {len(evidence.records)} requests arrived"
    )
    print(
        f"attempts whose worker never wrote a result: {sum(evidence.abandoned.values())} "
        f"of {len(evidence.abandoned)} deliveries"
    )
    print(
        f"duplicates (a 2xx more than once): {sum(doubled.values())} of {len(doubled)} deliveries, "
        f"of which at most {timed_out} because the answer came after the time-out"
    )
    print(f"longest wait of a lease that had run out: {evidence.witness.overdue:.1f} s")
    print(f"quiet {quiet:.0f} s after the last save" if quiet is not None else "it never got quiet")


def verdict(evidence) -> bool:
    """Print the table of the invariants. Whether one is broken."""
    from tests.chaos.judge import INVARIANTS

    is_any_broken = False
    for invariant in INVARIANTS:
        problems = list(invariant(evidence))
        is_any_broken |= bool(problems)
        name = invariant.__name__.replace("_", " ")
        print(f"  {invariant.__doc__}  {'BROKEN' if problems else 'holds ':6}  {name}")
        for problem in problems[:5]:
            print(f"        {problem}")
        if len(problems) > 5:
            print(f"        … and {len(problems) - 5} more")
    return is_any_broken


if __name__ == "__main__":
    sys.exit(main())
