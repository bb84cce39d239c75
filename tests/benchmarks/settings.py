"""Settings of the benchmarks: those of the tests, but stored and worked off as a site would.

`BENCH_DATABASE` names the test database, so that benchmarks and tests never share one;
`CONCURRENCY` is that of the worker.
"""

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, DJANGO_WEBHOOKS, Q_CLUSTER

DATABASES = {"default": DATABASES["default"]}
_database = DATABASES["default"]

if str(_database["ENGINE"]).endswith("sqlite3"):
    # What a crash of the machine may lose must not make us faster than a site may be.
    _database["OPTIONS"] |= {"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"}
else:
    _database["TEST"]["NAME"] = os.environ.get("BENCH_DATABASE", "test_webhooks_bench")
    _database["CONN_MAX_AGE"] = None

if concurrency := os.environ.get("CONCURRENCY"):
    DJANGO_WEBHOOKS = {**DJANGO_WEBHOOKS, "CONCURRENCY": int(concurrency)}

Q_CLUSTER = {**Q_CLUSTER, "poll": 0.2}  # what django-q2 does unless told otherwise
