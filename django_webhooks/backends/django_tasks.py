"""Django's tasks as the doorbell: `django.tasks`, or its backport `django_tasks` on Django 5.2."""

from collections.abc import Sequence
from datetime import datetime

from django import VERSION
from django.apps import apps
from django.core.checks import CheckMessage, Warning
from django.utils.module_loading import import_string

from django_webhooks.backends.base import QueueBackend

if VERSION >= (6, 0):
    from django.tasks import task
    from django.tasks.backends.dummy import DummyBackend
    from django.tasks.backends.immediate import ImmediateBackend
else:
    from django_tasks import task  # type: ignore[no-redef]
    from django_tasks.backends.dummy import DummyBackend  # type: ignore[assignment]
    from django_tasks.backends.immediate import ImmediateBackend  # type: ignore[assignment]


@task
def attend() -> dict[str, int]:
    """The task behind a wake; its result is what was done, in numbers."""
    counts: dict[str, int] = import_string("django_webhooks.worker.attend")()
    return counts


class DjangoTasksBackend(QueueBackend):
    """Wakes by `enqueue`. It has no scheduler: the sweep is `webhooks_drain`, by cron or in a loop.

    To use another queue or backend of `TASKS`, set `task` in a subclass: `attend.using(…)`.
    """

    task = attend

    def enqueue(self, using: str) -> None:
        self.task.enqueue()

    def enqueue_at(self, using: str, when: datetime) -> bool:
        if not self.task.get_backend().supports_defer:
            return False
        self.task.using(run_after=when).enqueue()
        return True

    def check(self) -> Sequence[CheckMessage]:
        found: list[CheckMessage] = []
        engine = self.task.get_backend()
        if isinstance(engine, ImmediateBackend | DummyBackend):
            found.append(
                Warning(
                    f"TASKS[{engine.alias!r}] is {type(engine).__name__}, which has no worker: "
                    "webhooks are sent by whoever saves, or not at all.",
                    hint="Set a BACKEND with workers in TASKS, such as "
                    "'django_tasks_db.DatabaseBackend'.",
                    id="django_webhooks.W028",
                )
            )
        if VERSION < (6, 0) and not apps.is_installed("django_tasks"):
            found.append(
                Warning(
                    "django_tasks is not in INSTALLED_APPS, but TASK_BACKEND is "
                    "DjangoTasksBackend.",
                    hint="Add 'django_tasks' to INSTALLED_APPS: it checks TASKS and logs tasks.",
                    id="django_webhooks.W029",
                )
            )
        return found
