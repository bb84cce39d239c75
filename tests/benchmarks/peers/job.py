"""What is done in a peer's own environment: python job.py (setup URL HOOKS | save COUNT | log)."""

import json
import os
import sys
import time
from collections.abc import Callable

import django
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
if os.environ["PEER"] in ("django-webhook", "django-webhook2"):
    import celery_app  # noqa: F401  (so that `delay()` finds the broker)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import transaction  # noqa: E402
from shop.models import Order  # noqa: E402

WARM_UP = 20
SENT_BY_CELERY = ("django-webhook", "django-webhook2")


def setup(url: str, hooks: str) -> None:
    """Tables that are empty but for so many subscriptions."""
    call_command("migrate", run_syncdb=True, verbosity=0)
    call_command("flush", interactive=False, verbosity=0)
    for number in range(int(hooks)):
        subscribe(f"{url}/{number}")


def subscribe(url: str) -> None:
    if settings.PEER == "django-webhooks":
        from django_webhooks.models import Subscription

        Subscription.objects.create(url=url).rules.create(event_type="shop.order.created")
    elif settings.PEER in SENT_BY_CELERY:
        from django_webhook.models import Webhook, WebhookSecret, WebhookTopic

        webhook = Webhook.objects.create(url=url)
        webhook.topics.add(WebhookTopic.objects.get_or_create(name="shop.Order/create")[0])
        WebhookSecret.objects.create(webhook=webhook, token="a secret of some length")
    else:
        from django_outbound_webhooks.endpoints.register_endpoint import register_endpoint

        register_endpoint(
            name=url,
            url=url,
            secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            event_names=["shop.OrderPlaced"],
        )


def make(number: int) -> Order:
    return Order.objects.create(
        number=f"2026-{number:06}",
        status="paid",
        total="129.90",
        customer="Ada Lovelace",
        email="ada@example.com",
    )


def make_and_fire(number: int) -> None:
    """As its README has it: the event is fired in the transaction of the change."""
    from django_domain_events import fire
    from shop.events import OrderPlaced

    with transaction.atomic():
        order = make(number)
        fire(
            OrderPlaced(
                id=order.pk,
                number=order.number,
                status=order.status,
                total=order.total,
                customer=order.customer,
                email=order.email,
            )
        )


def save(count: str) -> None:
    """Some to get warm, then on the word so many, one after the other."""
    fires = settings.PEER == "django-outbound-webhooks"
    one: Callable[[int], object] = make_and_fire if fires else make
    for number in range(WARM_UP):
        one(number)
    print(json.dumps({"warm_up": WARM_UP}), flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    for number in range(int(count)):
        one(number)
    print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


def log() -> None:
    """How many deliveries are written down as arrived."""
    if settings.PEER == "django-webhooks":
        from django_webhooks.models import Attempt

        found = Attempt.objects.filter(delivery__status="succeeded").count()
    elif settings.PEER in SENT_BY_CELERY:
        from django_webhook.models import WebhookEvent

        found = WebhookEvent.objects.filter(status="SUCCESS").count()
    else:
        from django_outbound_webhooks.models.delivery_attempt import DeliveryAttempt

        found = DeliveryAttempt.objects.count()
    print(json.dumps({"logged": found}), flush=True)


if __name__ == "__main__":
    {"setup": setup, "save": save, "log": log}[sys.argv[1]](*sys.argv[2:])
