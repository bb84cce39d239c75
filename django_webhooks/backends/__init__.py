"""How a worker is woken. A wake carries no data and may be lost or doubled."""

from functools import lru_cache

from django.utils.module_loading import import_string

from django_webhooks.backends.base import BaseTaskBackend
from django_webhooks.conf import settings

__all__ = ["BaseTaskBackend", "get_backend"]


def get_backend() -> BaseTaskBackend:
    """The backend of `TASK_BACKEND`, one instance per process."""
    return _load(settings.TASK_BACKEND)


@lru_cache
def _load(path: str) -> BaseTaskBackend:
    backend: BaseTaskBackend = import_string(path)()
    return backend
