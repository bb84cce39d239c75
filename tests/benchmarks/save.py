"""What capture adds to save(), in time and in queries: python -m tests.benchmarks.save [SAVES]

A registered model is created and updated with nobody listening, then with 1, 1,000 and 10,000
subscriptions, against the same save() without capture, and against the look-up and such a save()
in turns: the look-up is the query by which capture finds out that nobody listens, and takes longer
between other queries than in a loop of its own. On SQLite or DATABASE_URL; makes and removes a test
database.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.db import connection
from django.db.models.signals import post_save, pre_save
from django.test.utils import CaptureQueriesContext

from django_webhooks import capture, outbox
from django_webhooks.models import Event, Rule, Subscription
from tests.benchmarks.lab import Row, database, empty, ratio, report, spread, take_turns, tidy
from tests.shop.models import Customer, Order

SAVES = int(sys.argv[1]) if len(sys.argv) > 1 else 100
MOST = 10_000
ELSEWHERE = "shop.item.created"
LISTENERS = (0, 1, 1000, MOST)


@contextmanager
def no_capture() -> Iterator[None]:
    """`Order` as it is in a project that does not know us."""
    captured: Any = Order.save_base
    Order.save_base = captured.__wrapped__
    for each in (pre_save, post_save):
        each.disconnect(sender=Order, dispatch_uid=capture.UID)
    try:
        yield
    finally:
        Order.save_base = captured
        pre_save.connect(capture.before_save, sender=Order, dispatch_uid=capture.UID)
        post_save.connect(capture.after_save, sender=Order, dispatch_uid=capture.UID)


def subscribe_all() -> None:
    made = [Subscription(url=f"https://{n}.example.com/") for n in range(MOST)]
    Subscription.objects.bulk_create(made, batch_size=1000)
    Rule.objects.bulk_create(
        [Rule(subscription=each, event_type=ELSEWHERE) for each in made], batch_size=1000
    )


def let_listen(count: int, action: str) -> None:
    """So many of the subscriptions listen; the others listen to something else."""
    Rule.objects.exclude(event_type=ELSEWHERE).update(event_type=ELSEWHERE)
    ids = list(Rule.objects.order_by("pk").values_list("pk", flat=True)[:count])
    Rule.objects.filter(pk__in=ids).update(event_type=f"shop.order.{action}")
    empty(Order, Event)
    tidy()


def create(customer: Customer) -> None:
    Order.objects.create(number="2026-1", status="paid", total=10, customer=customer)


def update(order: Order) -> None:
    order.total += 1
    order.save()


def look_up() -> None:
    """As cheaply as it can be asked: without the ORM, which capture has to go through."""
    with connection.cursor() as cursor:
        cursor.execute(LOOK_UP, PARAMETERS)
        cursor.fetchall()


LOOK_UP, PARAMETERS = (
    Rule.objects.listening_to("shop.order.created").values("pk")[:1].query.sql_with_params()
)


class Bench:
    def __init__(self) -> None:
        self.customer = Customer.objects.create(name="Ada", email="ada@example.com")
        self.queries: dict[str, int] = {}

    def time(self, name: str, action: Callable[[], None]) -> float:
        """Microseconds of one, once it is warm."""
        with CaptureQueriesContext(connection) as asked:
            action()
        framing = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE")
        self.queries[name] = sum(not each["sql"].startswith(framing) for each in asked)
        started = time.perf_counter()
        for _ in range(SAVES):
            action()
        return (time.perf_counter() - started) / SAVES * 1e6

    def created(self, name: str, listeners: int | None, *, looking: bool = False) -> float:
        def make() -> Callable[[], None]:
            return partial(create, self.customer)

        return self._saved(name, "created", listeners, make, looking)

    def updated(self, name: str, listeners: int | None, *, looking: bool = False) -> float:
        def make() -> Callable[[], None]:
            order = Order.objects.create(number="2026-1", total=10, customer=self.customer)
            return partial(update, order)

        return self._saved(name, "updated", listeners, make, looking)

    def _saved(
        self,
        name: str,
        action: str,
        listeners: int | None,
        make: Callable[[], Callable[[], None]],
        looking: bool,
    ) -> float:
        """With capture unless `listeners` is None; then with the look-up, if it shall be."""
        let_listen(listeners or 0, action)
        if listeners is not None:
            return self.time(name, make())
        with no_capture():
            save = make()
            return self.time(name, partial(_both, look_up, save) if looking else save)

    def looked_up(self) -> float:
        let_listen(0, "created")
        return self.time("look-up", look_up)

    def asked(self) -> float:
        let_listen(0, "created")
        return self.time("is_listened_to()", self._ask)

    def _ask(self) -> None:
        outbox.is_listened_to("shop.order.created", "default")


def _both(first: Callable[[], None], second: Callable[[], None]) -> None:
    first()
    second()


def main() -> None:
    with database():
        subscribe_all()
        bench = Bench()
        arms: dict[str, Callable[[], float]] = {
            "look-up": bench.looked_up,
            "is_listened_to()": bench.asked,
        }
        for what, saved in {"create": bench.created, "update": bench.updated}.items():
            arms[f"{what}, bare"] = partial(saved, f"{what}, bare", None)
            name = f"{what}, look-up and bare"
            arms[name] = partial(saved, name, None, looking=True)
            for count in LISTENERS:
                arms[f"{what}, {count:,}"] = partial(saved, f"{what}, {count:,}", count)
        found = take_turns(arms)
        rows = [*rows_of("create", found, bench), *rows_of("update", found, bench)]
        asked, looked = found["is_listened_to()"], found["look-up"]
        rows.append(
            Row(
                "the look-up through the ORM",
                spread(asked, " µs"),
                f"by raw SQL {spread(looked, ' µs')}",
                ratio(asked, looked),
            )
        )
        report(f"save-{connection.vendor}", rows)


def rows_of(what: str, found: dict[str, list[float]], bench: Bench) -> Iterator[Row]:
    where = f", {connection.vendor}"
    bare, both = found[f"{what}, bare"], found[f"{what}, look-up and bare"]
    nobody, one = found[f"{what}, 0"], found[f"{what}, 1"]
    yield Row(
        f"save() that {what}s, nobody listens{where}",
        spread(nobody, " µs"),
        f"the look-up and a bare save {spread(both, ' µs')}",
        ratio(nobody, both),
        1.25,
        less=True,
    )
    extra = bench.queries[f"{what}, 1"] - bench.queries[f"{what}, 0"]
    yield Row(
        f"save() that {what}s, one listens: queries more than with nobody{where}",
        f"{bench.queries[f'{what}, 1']} queries",
        f"nobody {bench.queries[f'{what}, 0']}, bare {bench.queries[f'{what}, bare']}",
        extra,
        1 if what == "create" else 2,  # an update reads the row as it was, too
        less=True,
    )
    yield Row(
        f"save() that {what}s, one listens{where}",
        spread(one, " µs"),
        f"bare save {spread(bare, ' µs')}",
        ratio(one, bare),
    )
    for count in LISTENERS[2:]:
        many = found[f"{what}, {count:,}"]
        yield Row(
            f"save() that {what}s, {count:,} listen{where}",
            f"{spread(many, ' µs')}, {bench.queries[f'{what}, {count:,}']} queries",
            f"one listens {spread(one, ' µs')}",
            ratio(many, one),
            1.25,
            less=True,
        )


if __name__ == "__main__":
    main()
