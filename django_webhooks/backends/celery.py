"""Celery as the doorbell. It carries no data, and nothing is lost if it loses a task."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from celery import current_app, shared_task
from django.core.checks import CheckMessage, Warning
from django.utils import timezone
from django.utils.module_loading import import_string

from django_webhooks.backends.base import SLOW, TASK_SECONDS, QueueBackend

TASK = "django_webhooks.attend"

SWEEP = {"django_webhooks.sweep": {"task": TASK, "schedule": 60.0}}
"""For `CELERY_BEAT_SCHEDULE`: drains once a minute. To import it also registers the task."""

# How long a save may wait for a broker that is down, or says nothing. Names of Redis, then AMQP.
BOUNDS = {
    "max_retries": 0,
    "socket_timeout": SLOW,
    "read_timeout": SLOW,
    "write_timeout": SLOW,
}


# Late, so that a killed worker's wake goes to another; to run a drain twice does no harm.
@shared_task(name=TASK, bind=True, ignore_result=True, acks_late=True)  # type: ignore[untyped-decorator]
def attend(self: Any) -> None:
    """The task behind a wake and the sweep."""
    # An eager task runs in the caller, who must not wait for a drain that lingers.
    name = "drain" if self.request.is_eager else "attend"
    import_string(f"django_webhooks.worker.{name}")()


class CeleryBackend(QueueBackend):
    """Wakes by `apply_async`; Celery's beat sweeps, by the entry `SWEEP`."""

    def enqueue(self, using: str) -> None:
        self._send()

    def enqueue_at(self, using: str, when: datetime) -> bool:
        self._send(countdown=max((when - timezone.now()).total_seconds(), 0))
        return True

    def _send(self, **options: Any) -> None:
        # Its own connection: the pool's waits for as long as the project has set, and may have
        # been closed by the broker long ago.
        with current_app.connection_for_write(
            connect_timeout=SLOW, transport_options=BOUNDS
        ) as connection:
            attend.apply_async(connection=connection, retry=False, **options)

    def check(self) -> Sequence[CheckMessage]:
        return [*_check_limits(), *_check_eager(), *_check_sweep()]


def _check_limits() -> Sequence[CheckMessage]:
    limits = {
        "task_time_limit": attend.time_limit or current_app.conf.task_time_limit,
        "task_soft_time_limit": attend.soft_time_limit or current_app.conf.task_soft_time_limit,
    }
    return [
        Warning(
            f"Celery's {name} is {limit} s; a drain may take {TASK_SECONDS:g} s.",
            hint=f"Set CELERY_{name.upper()} above {TASK_SECONDS:g}, or for this task alone: "
            f'CELERY_TASK_ANNOTATIONS = {{"{TASK}": {{"{name.removeprefix("task_")}": 60}}}}.',
            id="django_webhooks.W025",
        )
        for name, limit in limits.items()
        if limit and limit <= TASK_SECONDS
    ]


def _check_eager() -> Sequence[CheckMessage]:
    if not current_app.conf.task_always_eager:
        return []
    return [
        Warning(
            "Celery's task_always_eager is on: webhooks are sent by whoever saves, while they "
            "wait.",
            hint="Set CELERY_TASK_ALWAYS_EAGER = False outside of tests.",
            id="django_webhooks.W026",
        )
    ]


def _check_sweep() -> Sequence[CheckMessage]:
    if any(entry["task"] == TASK for entry in current_app.conf.beat_schedule.values()):
        return []
    return [
        Warning(
            "Celery's beat_schedule has no sweep: retries wait for the next wake, and a lost "
            "wake for the one after it.",
            hint="Add SWEEP of django_webhooks.backends.celery to CELERY_BEAT_SCHEDULE and run "
            "`celery beat`; or run `manage.py webhooks_drain` from cron and silence this.",
            id="django_webhooks.W027",
        )
    ]
