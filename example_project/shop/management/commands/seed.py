"""Fills an empty shop: people, products, and four subscriptions of four kinds."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from django_webhooks.models import Subscription
from django_webhooks.signing import generate_secret
from shop.models import Customer, Product

PRODUCTS = [
    ("TEA-GREEN", "Green tea, 250 g", "14.90", 40),
    ("TEAPOT", "Teapot, cast iron", "89.00", 7),
    ("CUP", "Cup, porcelain", "12.50", 60),
]

Rules = list[tuple[str, dict[str, Any]]]

# Each order, whatever happens to it.
DASHBOARD: Rules = [("shop.order.*", {})]

# Two types of event, published by hand.
WAREHOUSE: Rules = [("shop.order_placed", {}), ("shop.stock_low", {})]

# Conditional: only orders that have just been paid, of 100 and more.
ACCOUNTING: Rules = [
    (
        "shop.order.updated",
        {
            "all": [
                {"field": "status", "op": "changed_to", "value": "paid"},
                {"field": "total", "op": "gte", "value": 100},
            ]
        },
    )
]

# One-time: the first shipment, and never again.
CHAMPAGNE: Rules = [
    ("shop.order.updated", {"field": "status", "op": "changed_to", "value": "shipped"})
]


class Command(BaseCommand):
    help = "Fill the example's shop and subscribe its receiver."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--hook", default=f"{settings.RECEIVER_PAGE}hook/", help="the receiver's URL"
        )

    @transaction.atomic
    def handle(self, *args: Any, hook: str, **options: Any) -> None:
        if User.objects.exists():
            raise CommandError("The shop is filled already: delete its database to begin anew.")
        secret = generate_secret()
        self._add_people()
        for sku, name, price, stock in PRODUCTS:
            Product.objects.create(sku=sku, name=name, price=price, stock=stock)
        recurring, one_time = Subscription.Mode.RECURRING, Subscription.Mode.ONE_TIME
        for name, mode, rules in [
            ("Dashboard", recurring, DASHBOARD),
            ("Warehouse", recurring, WAREHOUSE),
            ("Accounting", recurring, ACCOUNTING),
            ("Champagne", one_time, CHAMPAGNE),
        ]:
            self._subscribe(name, mode, rules, hook, secret)
        self.stdout.write(f"The secret of all four subscriptions: {secret}")

    def _add_people(self) -> None:
        # For a demonstration on this machine alone.
        User.objects.create_superuser("admin", "admin@example.com", "admin")
        ada = User.objects.create_user("ada", "ada@example.com", "ada")
        Customer.objects.create(name="Ada Lovelace", email="ada@example.com", user=ada)
        Customer.objects.create(name="Charles Babbage", email="charles@example.com")

    def _subscribe(self, name: str, mode: str, rules: Rules, hook: str, secret: str) -> None:
        # The receiver tells its subscriptions apart by the URL; a real one has one secret each.
        mark = "&" if "?" in hook else "?"
        subscription = Subscription(name=name, mode=mode, url=f"{hook}{mark}to={name.lower()}")
        subscription.secret = secret
        try:
            subscription.full_clean()
        except ValidationError as error:
            raise CommandError(f"{hook} can't be subscribed: {' '.join(error.messages)}") from error
        subscription.save()
        for event_type, conditions in rules:
            subscription.rules.create(event_type=event_type, conditions=conditions)
