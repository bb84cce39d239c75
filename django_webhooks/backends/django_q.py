"""django-q2 as the doorbell. It carries no data, and nothing is lost if it loses a task."""

from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Warning
from django.db import connections, router, transaction
from django.utils.module_loading import import_string
from django_q.conf import Conf
from django_q.models import Schedule
from django_q.tasks import async_task

from django_webhooks.backends.base import TASK_SECONDS, QueueBackend

SWEEP = "django_webhooks.sweep"
PRUNE = "django_webhooks.prune"

TASK = "django_webhooks.worker.attend"
TASK_WITHOUT_LINGERING = "django_webhooks.worker.drain"
PRUNE_TASK = "django_webhooks.backends.django_q.prune"

# A drain reports through rows of its own; and it must not be run again because it failed,
# for the next wake or sweep does the same work.
OPTIONS = {"save": False, "ack_failure": True, "task_name": "django_webhooks.drain"}

PRUNE_OPTIONS = {**OPTIONS, "task_name": PRUNE}

SCHEDULES: dict[str, dict[str, Any]] = {
    SWEEP: {
        "func": TASK,
        "kwargs": repr({"q_options": OPTIONS}),
        "schedule_type": Schedule.MINUTES,
        "minutes": 1,
    },
    PRUNE: {
        "func": PRUNE_TASK,
        "kwargs": repr({"q_options": PRUNE_OPTIONS}),
        "schedule_type": Schedule.DAILY,
    },
}
"""By name: what `migrate` installs."""

PRUNE_SECONDS = 20
"""After which a task ends, and leaves the rest to another: django-q2 cuts off those that last."""


class DjangoQBackend(QueueBackend):
    """Wakes by `async_task`; sweeps once a minute and prunes once a day, by a `Schedule` each."""

    def enqueue(self, using: str) -> None:
        # With `sync` the task runs in the caller, who must not wait for a drain that lingers.
        async_task(TASK_WITHOUT_LINGERING if Conf.SYNC else TASK, q_options=dict(OPTIONS))

    def ensure_sweep(self, using: str) -> None:
        """Each of `SCHEDULES`: made if missing, never doubled, a changed interval is kept."""
        if _has_schedules(using):
            for name, wanted in SCHEDULES.items():
                with transaction.atomic(using=using):
                    _ensure(name, wanted, using)

    def check(self) -> Sequence[CheckMessage]:
        found: list[CheckMessage] = []
        if not apps.is_installed("django_q"):
            found.append(
                Warning(
                    "django_q is not in INSTALLED_APPS, but TASK_BACKEND is DjangoQBackend.",
                    hint="Add 'django_q' to INSTALLED_APPS, or choose another TASK_BACKEND in "
                    "DJANGO_WEBHOOKS and run `manage.py webhooks_drain --loop`.",
                    id="django_webhooks.W020",
                )
            )
        if not Conf.TIMEOUT:
            found.append(
                Warning(
                    "Q_CLUSTER['timeout'] is not set: a worker that hangs is never ended.",
                    hint=f"Set Q_CLUSTER['timeout'] above {TASK_SECONDS:g}, 'retry' above that.",
                    id="django_webhooks.W017",
                )
            )
        elif TASK_SECONDS >= Conf.TIMEOUT:
            found.append(
                Warning(
                    f"Q_CLUSTER['timeout'] is {Conf.TIMEOUT} s; a drain may take "
                    f"{TASK_SECONDS:g} s.",
                    hint=f"Set Q_CLUSTER['timeout'] above {TASK_SECONDS:g}.",
                    id="django_webhooks.W021",
                )
            )
        longest = max(TASK_SECONDS, Conf.TIMEOUT or 0)
        if longest >= Conf.RETRY:
            found.append(
                Warning(
                    f"Q_CLUSTER['retry'] is {Conf.RETRY} s; a task may take {longest:g} s and "
                    "would be started a second time.",
                    hint=f"Set Q_CLUSTER['retry'] above {TASK_SECONDS:g} and above 'timeout'.",
                    id="django_webhooks.W022",
                )
            )
        if Conf.SYNC:
            found.append(
                Warning(
                    "Q_CLUSTER['sync'] is on: webhooks are sent by whoever saves, while they wait.",
                    hint="Remove 'sync' from Q_CLUSTER outside of tests.",
                    id="django_webhooks.W023",
                )
            )
        return found


def prune() -> None:
    """The daily task: prunes for a while, and goes on in another task if there is more."""
    if import_string("django_webhooks.retention.prune_for")(PRUNE_SECONDS):
        async_task(PRUNE_TASK, q_options=dict(PRUNE_OPTIONS))


def _ensure(name: str, wanted: dict[str, Any], using: str) -> None:
    schedules = Schedule.objects.using(using)
    rows = list(schedules.filter(name=name).order_by("pk"))
    if not rows:
        schedules.create(name=name, **wanted)
        return
    kept, *doubles = rows
    schedules.filter(pk__in=[row.pk for row in doubles]).delete()
    if kept.func != wanted["func"]:
        schedules.filter(pk=kept.pk).update(func=wanted["func"])


def _has_schedules(using: str) -> bool:
    """Whether django-q2 keeps its schedules in this database, and has made its tables there."""
    if not apps.is_installed("django_q") or router.db_for_write(Schedule) != using:
        return False
    return Schedule._meta.db_table in connections[using].introspection.table_names()
