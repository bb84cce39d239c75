"""Settings of worker processes under test: those of the tests, and what `inside` does."""

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, DJANGO_WEBHOOKS, INSTALLED_APPS, Q_CLUSTER

INSTALLED_APPS = [*INSTALLED_APPS, "tests.chaos"]
# Kept open, or the broker of django-q2 would close it, and who is spared could not be told.
DATABASES = {"default": {**DATABASES["default"], "CONN_MAX_AGE": None}}
DJANGO_WEBHOOKS = {
    **DJANGO_WEBHOOKS,
    "CONCURRENCY": int(os.environ.get("CHAOS_CONCURRENCY", "16")),
    "TIMEOUT": float(os.environ.get("CHAOS_TIMEOUT", "15")),
}
if port := os.environ.get("CHAOS_REDIS_PORT"):  # as docs/how-to/run-workers.md has it
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    Q_CLUSTER.pop("orm", None)
    Q_CLUSTER["redis"] = {
        "host": "127.0.0.1",
        "port": int(port),
        "socket_connect_timeout": 1,
        "socket_timeout": 1.5,
        "retry": Retry(NoBackoff(), 0),
    }
