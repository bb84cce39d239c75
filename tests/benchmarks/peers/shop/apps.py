from importlib import import_module

from django.apps import AppConfig
from django.conf import settings


class ShopConfig(AppConfig):
    name = "shop"

    def ready(self) -> None:
        if settings.PEER == "django-outbound-webhooks":
            import_module("shop.events")
