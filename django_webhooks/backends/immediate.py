"""Drains on commit, in the thread that committed: for tests, and sites without a cluster."""

from django.utils.module_loading import import_string

from django_webhooks.backends.base import BaseTaskBackend


class ImmediateBackend(BaseTaskBackend):
    """Whoever saves waits for the requests; retries need `webhooks_drain`, too."""

    needs_worker = False

    def wake(self, using: str) -> None:
        import_string("django_webhooks.worker.drain")(using=using)
