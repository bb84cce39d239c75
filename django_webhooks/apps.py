"""Starts the app: finds the project's `webhooks.py`, listens to models, installs the sweep."""

import logging
from importlib import import_module
from typing import Any

from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate
from django.utils.module_loading import autodiscover_modules
from django.utils.translation import gettext_lazy as _

from django_webhooks.backends import get_backend
from django_webhooks.registry import registry

logger = logging.getLogger("django_webhooks")


class DjangoWebhooksConfig(AppConfig):
    name = "django_webhooks"
    verbose_name = _("Webhooks")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # By name, because these need the models, which are loaded after this module.
        import_module("django_webhooks.checks")
        capture = import_module("django_webhooks.capture")
        autodiscover_modules("webhooks")
        registry.on_register(capture.connect)
        import_module("django_webhooks.notices").connect()
        if apps.is_installed("drf_spectacular"):
            import_module("django_webhooks.api.openapi")
        post_migrate.connect(ensure_sweep, sender=self, dispatch_uid="django_webhooks.sweep")


def ensure_sweep(using: str, **kwargs: Any) -> None:
    """After `migrate`. A migration never fails because of it: the next one makes up for it."""
    try:
        get_backend().ensure_sweep(using)
    except Exception:
        logger.exception("The recurring sweep could not be installed; run `migrate` again.")
