"""What a worker is: the command that runs one, and how it is known that it has begun to work.

A new engine is one more row of ENGINES.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.processes import DJANGO_Q, Process

REDIS = os.environ.get("CHAOS_REDIS_URL", "redis://127.0.0.1:6379/7")
SETTINGS = "tests.chaos.settings"


@dataclass(frozen=True)
class Engine:
    command: tuple[str, ...]
    ready: str
    """What its output says once it works."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """For whoever saves, too: it says whom a commit wakes."""
    workers: int = 3
    """How many processes (each may have children) run at once."""
    kills_per_minute: float = 60
    """How often one may be killed and still get something done in between."""

    def start(self, **environment: str) -> Process:
        """A worker in a process group of its own, on the test database."""
        variables = {"DJANGO_SETTINGS_MODULE": SETTINGS, **self.environment, **environment}
        return Process(*self.command, **variables)


ENGINES: Mapping[str, Engine] = {
    "loop": Engine(("webhooks_drain", "--loop"), ready="Delivering webhooks"),
    "qcluster": Engine(
        ("qcluster",),
        ready="ready for work",
        environment={"TASK_BACKEND": DJANGO_Q},
        workers=2,
        kills_per_minute=12,
    ),
    "qcluster-redis": Engine(
        ("qcluster",),
        ready="ready for work",
        environment={
            "TASK_BACKEND": DJANGO_Q,
            "REDIS_URL": REDIS,
            "QUEUE": f"chaos-{os.getpid()}",
        },
        workers=2,
        kills_per_minute=12,
    ),
}
