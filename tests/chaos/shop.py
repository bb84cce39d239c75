"""Saves orders as a busy project would, and knows by itself who has to be told of what."""

import random
import time
from dataclasses import dataclass, field
from decimal import Decimal

from django.contrib.auth.models import User
from django.db import connection, transaction

from django_webhooks.models import Subscription
from tests.chaos.injector import spare_this_thread
from tests.shop.models import Customer, Order

OWNERS = ("ada", "bob")


@dataclass(frozen=True)
class Change:
    """A committed change, as the one who made it knows it."""

    number: str
    action: str
    status: str
    total: int
    owner: str | None


WANTED = {
    "all": lambda change: True,
    "paid": lambda change: (
        change.action == "updated" and change.status == "paid" and change.total >= 500
    ),
    "ada": lambda change: change.owner == "ada",
    "bob": lambda change: change.owner == "bob" and change.action == "created",
    "dead": lambda change: change.number == "dead" and change.action == "created",
    "denied": lambda change: change.number == "denied" and change.action == "created",
}
"""Which changes a subscription wants, in plain Python. `once` wants any one."""

DENIED = "http://169.254.169.254/latest/meta-data"


def subscribe(url: str) -> None:
    """The subscriptions that WANTED speaks of, and the one-time one."""
    owners = {name: User.objects.create(username=name) for name in OWNERS}
    changed_to_paid = {"field": "status", "op": "changed_to", "value": "paid"}
    dear = {"field": "total", "op": "gte", "value": 500}
    rules: dict[str, tuple[str, dict]] = {
        "all": ("shop.order.*", {}),
        "paid": ("shop.order.updated", {"all": [changed_to_paid, dear]}),
        "ada": ("shop.order.*", {}),
        "bob": ("shop.order.created", {}),
        "once": ("shop.order.created", {}),
        "dead": ("shop.order.created", {"field": "number", "op": "eq", "value": "dead"}),
        "denied": ("shop.order.created", {"field": "number", "op": "eq", "value": "denied"}),
    }
    for name, (event_type, conditions) in rules.items():
        subscription = Subscription.objects.create(
            name=name,
            owner=owners.get(name),
            url=DENIED if name == "denied" else f"{url}/{name}",
            mode="one_time" if name == "once" else "recurring",
        )
        subscription.rules.create(event_type=event_type, conditions=conditions)


@dataclass
class Shop:
    """`run()` saves until `wanted` deliveries are due, evenly over `seconds`."""

    rng: random.Random
    changes: list[Change] = field(default_factory=list)
    rolled_back: int = 0
    deliveries: int = 1  # the one-time one
    failed: BaseException | None = None
    _numbers: int = 0

    def run(self, wanted: int, seconds: float) -> None:
        try:
            spare_this_thread()
            self._run(wanted, seconds)
        except BaseException as error:
            self.failed = error
            raise
        finally:
            connection.close()

    def _run(self, wanted: int, seconds: float) -> None:
        customers = {
            name: name and Customer.objects.create(user=User.objects.get(username=name), name=name)
            for name in (None, *OWNERS)
        }
        for number in ("dead", "denied"):
            self._save(number, None, None)
        began = time.monotonic()
        while self.deliveries < wanted:
            ahead = self.deliveries / wanted * seconds - (time.monotonic() - began)
            time.sleep(max(ahead, 0))
            owner = self.rng.choice([None, *OWNERS])
            self._numbers += 1
            self._step(str(self._numbers), owner, customers[owner])

    def _step(self, number: str, owner: str | None, customer: Customer | None) -> None:
        luck = self.rng.random()
        if luck < 0.1:
            self._roll_back(number, customer)
        elif luck < 0.2:
            self._roll_back_savepoint(number, owner, customer)
        else:
            order = self._save(number, owner, customer)
            if luck < 0.6:
                self._pay(order, owner)

    def _save(self, number: str, owner: str | None, customer: Customer | None) -> Order:
        order = Order.objects.create(
            number=number, customer=customer, total=Decimal(self.rng.randrange(1000))
        )
        self._note(order, "created", owner)
        return order

    def _pay(self, order: Order, owner: str | None) -> None:
        order.status = "paid"
        order.save()
        self._note(order, "updated", owner)

    def _roll_back(self, number: str, customer: Customer | None) -> None:
        with transaction.atomic():
            Order.objects.create(number=f"never-{number}", customer=customer)
            transaction.set_rollback(True)
        self.rolled_back += 1

    def _roll_back_savepoint(
        self, number: str, owner: str | None, customer: Customer | None
    ) -> None:
        with transaction.atomic():
            order = Order.objects.create(number=number, customer=customer, total=7)
            with transaction.atomic():
                Order.objects.create(number=f"never-{number}", customer=customer)
                transaction.set_rollback(True)
        self.rolled_back += 1
        self._note(order, "created", owner)

    def _note(self, order: Order, action: str, owner: str | None) -> None:
        change = Change(order.number, action, order.status, int(order.total), owner)
        self.changes.append(change)
        self.deliveries += sum(wants(change) for wants in WANTED.values())
