"""django-q2 as the doorbell. It carries no data, and nothing is lost if it loses a task."""

from collections.abc import Sequence

from django.apps import apps
from django.core.checks import CheckMessage, Warning
from django.db import connections, router, transaction
from django_q.conf import Conf
from django_q.models import Schedule
from django_q.tasks import async_task

from django_webhooks.backends.base import TASK_SECONDS, QueueBackend

SWEEP = "django_webhooks.sweep"
TASK = "django_webhooks.worker.attend"
TASK_WITHOUT_LINGERING = "django_webhooks.worker.drain"

# A drain reports through rows of its own; and it must not be run again because it failed,
# for the next wake or sweep does the same work.
OPTIONS = {"save": False, "ack_failure": True, "task_name": "django_webhooks.drain"}


class DjangoQBackend(QueueBackend):
    """Wakes by `async_task`; sweeps by a `Schedule` once a minute."""

    def enqueue(self, using: str) -> None:
        # With `sync` the task runs in the caller, who must not wait for a drain that lingers.
        async_task(TASK_WITHOUT_LINGERING if Conf.SYNC else TASK, q_options=dict(OPTIONS))

    def ensure_sweep(self, using: str) -> None:
        """One `Schedule`: made if missing, never doubled, an interval that was changed is kept."""
        if not _has_schedules(using):
            return
        with transaction.atomic(using=using):
            rows = list(Schedule.objects.using(using).filter(name=SWEEP).order_by("pk"))
            if not rows:
                Schedule.objects.using(using).create(
                    name=SWEEP,
                    func=TASK,
                    kwargs=repr({"q_options": OPTIONS}),
                    schedule_type=Schedule.MINUTES,
                    minutes=1,
                )
                return
            kept, *doubles = rows
            Schedule.objects.using(using).filter(pk__in=[row.pk for row in doubles]).delete()
            if kept.func != TASK:
                Schedule.objects.using(using).filter(pk=kept.pk).update(func=TASK)

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


def _has_schedules(using: str) -> bool:
    """Whether django-q2 keeps its schedules in this database, and has made its tables there."""
    if not apps.is_installed("django_q") or router.db_for_write(Schedule) != using:
        return False
    return Schedule._meta.db_table in connections[using].introspection.table_names()
