"""Who is told: rules, owners, the three kinds of webhooks, and the answer to "why not"."""

import io
import threading

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, transaction
from django.db.models import F
from django.db.models.signals import pre_delete
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rest_framework import serializers

from django_webhooks import conditions, fanout
from django_webhooks.exceptions import ConditionError, UnknownEventType
from django_webhooks.fanout import BATCH, explain, fan_out, preview
from django_webhooks.models import Delivery, Event, Rule, Subscription
from django_webhooks.outbox import publish
from django_webhooks.registry import ModelWebhook, registry
from django_webhooks.worker import drain
from tests.shop.models import Country, Customer, Gadget, Item, Order, Unheard

pytestmark = pytest.mark.django_db(databases=["default", "other"])

PAID = {"field": "status", "op": "changed_to", "value": "paid"}
NUMBER_1 = {"field": "number", "op": "eq", "value": "1"}


def listen(event_type="*", tree=None, **fields) -> Subscription:
    subscription = Subscription.objects.create(url="https://example.com/", **fields)
    subscription.rules.create(event_type=event_type, conditions=tree or {})
    return subscription


def told() -> list[tuple[str, str]]:
    """(subscription, event type) of each delivery."""
    rows = Delivery.objects.order_by("subscription__name", "event_id")
    return list(rows.values_list("subscription__name", "event__type"))


class TimeLimit(Exception):
    """As Celery's `SoftTimeLimitExceeded`: raised wherever the code is just then."""


@pytest.mark.parametrize(
    ("module", "name"),
    [(fanout, "_rules_for"), (fanout, "_match"), (fanout, "_insert"), (conditions, "evaluate")],
)
def test_a_time_limit_is_not_taken_for_bad_data(monkeypatch, module, name):
    listen(tree=NUMBER_1)
    Order.objects.create(number="1")

    def cut_short(*args, **kwargs):
        raise TimeLimit

    with monkeypatch.context() as patched:
        patched.setattr(module, name, cut_short)
        with pytest.raises(TimeLimit):
            fan_out("default")
    assert Event.objects.waiting().count() == 1
    assert fan_out("default") == 1


@pytest.mark.parametrize("tree", [PAID, {"all": [PAID]}, {"any": [PAID]}, {"not": PAID}])
def test_a_time_limit_in_a_condition_is_not_taken_for_unknown(monkeypatch, tree):
    def cut_short(*args):
        raise TimeLimit

    monkeypatch.setattr(conditions, "_lookup", cut_short)
    with pytest.raises(TimeLimit):
        conditions.evaluate(tree, conditions.Facts({"status": "paid"}, {"status": "new"}))


def unreadable(event: Event, column: str) -> None:
    """Python reads no number of so many digits; databases keep it."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {Event._meta.db_table} SET {column} = %s WHERE id = %s",
            [f"[{'9' * 4400}]", event.pk],
        )


def pay(order: Order) -> None:
    order.status = "paid"
    order.save()


# Patterns


@pytest.mark.parametrize(
    ("pattern", "fires"),
    [
        ("shop.order.created", True),
        ("shop.order.*", True),
        ("shop.*", True),
        ("*", True),
        ("shop.order.updated", False),
        ("shop.item.*", False),
        ("crm.*", False),
    ],
)
def test_pattern_matches_exactly_or_by_its_prefix(pattern, fires):
    listen("*", name="all")
    Subscription.objects.all().delete()
    listen(pattern, name="s")
    listen("billing.*", name="keeps the event")
    Order.objects.create(number="1")
    fan_out("default")
    assert told() == ([("s", "shop.order.created")] if fires else [])


@pytest.mark.parametrize(
    "pattern", ["shop.ordr.created", "shop.ord*", "*.created", "", "shop", "nothing.*", "**"]
)
def test_pattern_that_names_nothing_is_refused(pattern):
    subscription = Subscription.objects.create(url="https://example.com/")
    with pytest.raises(ValidationError) as caught:
        subscription.rules.create(event_type=pattern)
    assert "event_type" in caught.value.message_dict


def test_malformed_conditions_are_refused_with_their_path():
    subscription = Subscription.objects.create(url="https://example.com/")
    tree = {"all": [PAID, {"any": [{"field": "total", "op": "gtt", "value": 1}]}]}
    with pytest.raises(ValidationError) as caught:
        subscription.rules.create(event_type="shop.order.*", conditions=tree)
    assert caught.value.message_dict["conditions"][0].startswith("all[1].any[0].op")


def test_two_rules_of_one_subscription_make_one_delivery():
    subscription = listen("shop.order.*")
    subscription.rules.create(event_type="*")
    Order.objects.create(number="1")
    fan_out("default")
    assert Delivery.objects.count() == 1


def test_fanning_out_twice_makes_nothing_twice():
    listen()
    Order.objects.create(number="1")
    assert fan_out("default") == 1
    assert fan_out("default") == 0
    Event.objects.update(fanned_out_at=None)
    fan_out("default")
    assert Delivery.objects.count() == 1


# The three kinds


def test_recurring_fires_on_each_match():
    listen("shop.order.created", name="s")
    for number in "123":
        Order.objects.create(number=number)
    fan_out("default")
    assert len(told()) == 3


def test_one_time_fires_on_the_first_match_only_and_is_completed():
    subscription = listen("shop.order.updated", PAID, name="s", mode="one_time")
    first, second = (Order.objects.create(number=number) for number in "12")
    first.save()
    fan_out("default")
    assert told() == [], "no match yet, so it still waits"
    pay(first)
    pay(second)
    fan_out("default")
    assert Delivery.objects.get().event.data["number"] == "1"
    subscription.refresh_from_db()
    assert subscription.status == "completed"


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_one_time_that_is_renamed_in_code_stays_completed():
    subscription = listen("shop.order.created", mode="one_time")
    read_before = Subscription.objects.get()
    Order.objects.create(number="1")
    fan_out("default")
    for stale in (subscription, read_before):
        stale.name = "renamed"
        stale.save()
        assert Subscription.objects.get().status == "completed"
    assert Subscription.objects.get().name == "renamed"


def test_one_time_that_is_resumed_is_not_delivered_twice():
    subscription = listen("shop.order.created", mode="one_time")
    Order.objects.create(number="1")
    fan_out("default")
    subscription.refresh_from_db()
    assert not subscription.resume(), "it is neither paused nor disabled"
    subscription.disable("it was broken")
    assert subscription.resume()
    assert Subscription.objects.get().status == "completed"


def test_one_time_is_delivered_although_it_is_completed(subscribe, receiver):
    subscribe("shop.order.created", mode="one_time")
    Order.objects.create(number="1")
    Order.objects.create(number="2")
    drain()
    drain()
    assert len(receiver.requests) == 1
    assert Delivery.objects.get().status == "succeeded"


def test_conditional_fires_when_its_conditions_hold():
    tree = {"all": [PAID, {"field": "total", "op": "gte", "value": 1000}]}
    listen("shop.order.updated", tree, name="s")
    for number, total in (("small", "999.99"), ("large", "1000.00")):
        pay(Order.objects.create(number=number, total=total))
    fan_out("default")
    assert Delivery.objects.get().event.data["number"] == "large"
    assert (
        Delivery.objects.get().matched
        == "order updated, when status changes to “paid” and total is at least 1000"
    )


def test_values_are_compared_by_the_fields_type():
    listen(tree={"field": "price", "op": "lt", "value": "10.00"}, name="s")
    Gadget.objects.create(price="9.50")
    Gadget.objects.create(price="11")
    fan_out("default")
    assert Delivery.objects.get().event.data["price"] == "9.500"


def test_changed_is_unknown_where_there_is_no_before():
    listen(tree={"field": "status", "op": "changed"}, name="plain")
    listen(tree={"not": {"field": "status", "op": "changed"}}, name="negated")
    Order.objects.create(number="1").delete()
    fan_out("default")
    assert told() == []


def test_a_rule_that_was_changed_counts_from_the_next_event_on():
    """Whoever changed it, in whichever process: rules that were read are known by their text."""
    subscription = listen(tree=NUMBER_1, name="s")
    other = {"field": "number", "op": "eq", "value": "2"}
    for tree in (None, other, None):
        if tree is not None:
            Rule.objects.filter(subscription=subscription).update(conditions=tree)
        for number in "12":
            Order.objects.create(number=number)
        fan_out("default")
    found = Delivery.objects.order_by("event_id")
    assert [each.event.data["number"] for each in found] == ["1", "2", "2"]


def test_broken_rule_does_not_silence_its_neighbours():
    broken = listen(name="broken")
    Rule.objects.filter(subscription=broken).update(conditions={"all": "nonsense"})
    listen(name="fine")
    Order.objects.create(number="1")
    fan_out("default")
    assert [name for name, _ in told()] == ["fine"]


def test_rule_that_cannot_be_judged_does_not_silence_its_neighbours(monkeypatch):
    listen(tree={"field": "bad", "op": "exists"}, name="bad")
    listen(tree={"any": [{"field": "bad", "op": "exists"}, NUMBER_1]}, name="half bad")
    listen(tree=NUMBER_1, name="fine")
    Order.objects.create(number="1")
    look_up = conditions._lookup

    def fail(data, path):
        if path == "bad":
            raise LookupError("Bad.")
        return look_up(data, path)

    monkeypatch.setattr(conditions, "_lookup", fail)
    fan_out("default")
    assert [name for name, _ in told()] == ["fine", "half bad"]
    assert not Event.objects.exclude(error="").exists()


def test_event_that_could_not_be_rendered_is_sent_to_nobody():
    listen()
    Event.objects.create(type="shop.order.created", error="no luck")
    fan_out("default")
    assert told() == []
    assert not Event.objects.waiting().exists()


# One project's mistake is nobody else's


class MoodySerializer(serializers.Serializer):
    """It can't be described without an instance."""

    def get_fields(self):
        return {"name": serializers.CharField()} if self.instance.name else {}


@pytest.fixture
def publish_unheard():
    """Publishes `Unheard` for the time of a test, with these attributes of its webhook."""

    def add(**attributes) -> None:
        registry.add(Unheard, type("UnheardWebhook", (ModelWebhook,), attributes))

    yield add
    registry.remove(Unheard)


def test_serializer_that_cannot_be_described_keeps_nobody_from_being_told(publish_unheard):
    publish_unheard(serializer_class=MoodySerializer)
    listen(tree={"field": "name", "op": "eq", "value": "1"}, name="conditional")
    listen(name="all")
    Order.objects.create(number="1")
    Unheard.objects.create(name="1")
    fan_out("default")
    assert told() == [
        ("all", "shop.order.created"),
        ("all", "shop.unheard.created"),
        ("conditional", "shop.unheard.created"),
    ]


def test_serializer_is_asked_before_anything_is_locked(publish_unheard):
    """A query of its own that fails would end the transaction of the fan-out, on PostgreSQL."""
    depths = []

    class CuriousSerializer(serializers.Serializer):
        def get_fields(self):
            depths.append(len(connection.savepoint_ids))
            return {}

    publish_unheard(serializer_class=CuriousSerializer)
    listen()
    Unheard.objects.create(name="1")
    depths.clear()
    fan_out("default")
    assert depths == [len(connection.savepoint_ids)]


def test_event_that_cannot_be_judged_keeps_the_reason_and_holds_up_no_other(monkeypatch):
    listen()
    for number in "123":
        Order.objects.create(number=number)
    facts_of = fanout.facts_of

    def fussy(event, *args):
        if event.data["number"] == "2":
            raise ValueError("not this one\0")
        return facts_of(event, *args)

    monkeypatch.setattr(fanout, "facts_of", fussy)
    assert fan_out("default") == 3
    sent = Event.objects.filter(deliveries__isnull=False).order_by("id")
    assert [event.data["number"] for event in sent] == ["1", "3"]
    assert "not this one" in Event.objects.exclude(error="").get().error
    assert not Event.objects.waiting().exists()


def test_an_event_that_cannot_be_read_is_set_aside_and_holds_up_no_other():
    """As a row that was written by hand, or with another limit of digits."""
    listen()
    for number in "123":
        Order.objects.create(number=number)
    middle = Event.objects.order_by("id")[1]
    text = f'{{"number": {"9" * 4400}}}'
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {Event._meta.db_table} SET data = %s WHERE id = %s",
            [text, middle.pk],
        )
    while fan_out("default"):
        pass
    assert Event.objects.filter(deliveries__isnull=False).count() == 2
    middle = Event.objects.defer("data").get(pk=middle.pk)
    assert "can't be read" in middle.error
    assert not Event.objects.waiting().exists()


def test_rules_that_cost_too_much_hold_up_nobody_elses(monkeypatch, caplog):
    """Nor is what was left unjudged of one owner taken for the verdict of another."""
    me, other = (User.objects.create_user(name) for name in ("me", "other"))
    trees = [
        {"any": [{"field": "x", "op": "eq", "value": n} for n in (1, place)]} for place in "abcd"
    ]
    monkeypatch.setattr(fanout, "STEPS", 2.5)
    for tree in trees:
        listen("billing.invoice_paid", tree, name="mine", owner=me)
    listen("billing.invoice_paid", trees[3], name="other", owner=other)
    for owner in (me, other):
        publish("billing.invoice_paid", {"x": 1}, owner=owner)
    assert fan_out("default") == 2
    assert [name for name, _ in told()] == ["mine", "mine", "other"]
    [logged] = [each for each in caplog.messages if "cost too much" in each]
    assert f"owner {me.pk}" in logged


def test_what_was_not_judged_for_its_cost_is_told_so():
    event = Event(type="billing.invoice_paid", data={"tags": list(range(5000))})
    tree = {"any": [{"field": "tags", "op": "contains", "value": -1}] * 400}
    [verdict] = fanout.judge(tree, [event])
    assert verdict.value is None
    assert verdict.children[0].value is False
    assert "cost too much" in verdict.children[-1].reason


# Subscriptions that are deleted meanwhile

committed = pytest.mark.django_db(transaction=True, databases=["default", "other"])
has_row_locks = pytest.mark.skipif(
    not connection.features.has_select_for_update,
    reason="on SQLite one transaction writes at a time",
)


def elsewhere(action):
    """Begins `action` in another connection, where it may have to wait; gives what awaits it."""
    errors = []

    def run() -> None:
        try:
            action()
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(0.5)

    def finish() -> None:
        thread.join(20)
        assert not thread.is_alive()
        assert errors == []

    return finish


@committed
@has_row_locks
@pytest.mark.parametrize("step", ["_still_to_be_had", "_insert"])
def test_deletion_during_fan_out_harms_neither(step, monkeypatch):
    goes, stays = listen(name="goes"), listen(name="stays")
    Order.objects.create(number="1")
    then, begun = getattr(fanout, step), []

    def delete_first(*args):
        begun.append(elsewhere(goes.delete))
        return then(*args)

    monkeypatch.setattr(fanout, step, delete_first)
    assert fan_out("default") == 1
    begun[0]()
    assert Delivery.objects.pending().get().subscription == stays
    assert not Subscription.objects.filter(name="goes").exists()


@pytest.fixture
def once_inserted(monkeypatch):
    """Does something when the deliveries have been inserted and before that is committed."""

    def then(action) -> None:
        insert, done = fanout.insert_alike, []

        def insert_first(*args, **kwargs):
            insert(*args, **kwargs)
            if not done:
                done.append(True)
                action()

        monkeypatch.setattr(fanout, "insert_alike", insert_first)

    return then


@committed
@has_row_locks
def test_deletion_waits_for_deliveries_that_are_being_made_and_cancels_them(once_inserted):
    goes, stays = listen(name="goes"), listen(name="stays")
    Order.objects.create(number="1")
    begun = []
    once_inserted(lambda: begun.append(elsewhere(goes.delete)))
    assert fan_out("default") == 1
    begun[0]()
    assert Delivery.objects.pending().get().subscription == stays
    assert "was deleted" in Delivery.objects.get(status="cancelled").reason


@pytest.fixture
def two_workers(once_inserted):
    """One worker fans out the first of two events; before it commits, another, who looks at
    `limit` at a time, does what it can. Gives how many events that other did."""

    def fan_out_both(limit: int) -> int:
        for number in "12":
            Order.objects.create(number=number)
        others: list[int] = []
        once_inserted(lambda: elsewhere(lambda: others.append(fan_out("default", limit)))())
        assert fan_out("default", 1) == 1
        return others[0]

    return fan_out_both


@committed
@has_row_locks
def test_two_workers_make_deliveries_for_one_subscription_at_once(two_workers):
    listen()
    assert two_workers(BATCH) == 1, "the other did not wait for the commit"
    assert Delivery.objects.count() == 2


@committed
@has_row_locks
def test_who_finds_the_oldest_events_locked_fans_out_those_behind_them(two_workers):
    listen()
    assert two_workers(1) == 1
    assert Delivery.objects.count() == 2


@committed
@has_row_locks
def test_two_workers_deliver_a_one_time_subscription_once(once_inserted):
    """Here the older event is committed while the younger is fanned out already."""
    listen(mode="one_time", name="once")
    listen(name="always")
    for number in "12":
        Order.objects.create(number=number)
    oldest = Event.objects.filter(pk=Event.objects.order_by("pk")[0].pk)
    oldest.update(fanned_out_at=timezone.now())

    def come_late() -> None:
        oldest.update(fanned_out_at=None)
        fan_out("default")

    begun = []
    once_inserted(lambda: begun.append(elsewhere(come_late)))
    assert fan_out("default") == 1
    begun[0]()
    assert fanned_out() == [("1", "always"), ("2", "always"), ("2", "once")]


@committed
@has_row_locks
def test_one_time_subscription_gets_the_first_event_though_others_fan_out_what_is_behind_it(
    two_workers,
):
    listen(mode="one_time", name="once")
    listen(name="always")
    assert two_workers(1) == 0, "it waits for what is before it"
    assert fan_out("default") == 1
    assert fanned_out() == [("1", "always"), ("1", "once"), ("2", "always")]


def fanned_out() -> list[tuple[str, str]]:
    """Each Delivery by the number of its order and the name of its subscription."""
    found = Delivery.objects.order_by("event_id", "subscription__name")
    return [(each.event.data["number"], each.subscription.name) for each in found]


@committed
@has_row_locks
def test_fan_out_during_a_deletion_leaves_nothing_pending():
    subscription = listen()
    Order.objects.create(number="1")
    begun = []

    def fan_out_now(**kwargs) -> None:
        begun.append(elsewhere(lambda: fan_out("default")))

    pre_delete.connect(fan_out_now, sender=Subscription)
    try:
        subscription.delete()
    finally:
        pre_delete.disconnect(fan_out_now, sender=Subscription)
    begun[0]()
    assert not Delivery.objects.pending().exists()
    assert not Event.objects.waiting().exists()


@committed
@has_row_locks
def test_deletion_and_settling_never_wait_for_each_other():
    subscription = listen()
    Order.objects.create(number="1")
    fan_out("default")
    with transaction.atomic():  # in the order of `delivery.settle()`
        assert list(Delivery.objects.lock([Delivery.objects.get().pk]))
        finish = elsewhere(Subscription.objects.get().delete)
        Subscription.objects.filter(pk=subscription.pk).update(failing_since=timezone.now())
    finish()
    assert Delivery.objects.get().status == "cancelled"


# Owners


@pytest.fixture
def users() -> list[User]:
    return [User.objects.create(username=name) for name in "ab"]


def test_event_goes_to_its_owner_and_to_unowned_subscriptions(users):
    for name, owner in (("a", users[0]), ("b", users[1]), ("staff", None)):
        listen("shop.order.created", name=name, owner=owner)
    Order.objects.create(number="1", customer=Customer.objects.create(name="Ada", user=users[0]))
    fan_out("default")
    assert [name for name, _ in told()] == ["a", "staff"]


def test_event_without_an_owner_goes_to_no_owner(users):
    listen("shop.order.created", name="a", owner=users[0])
    Order.objects.create(number="1")
    fan_out("default")
    assert told() == []


def test_public_type_goes_to_every_owner(users):
    for name, owner in zip("ab", users, strict=True):
        listen("*", name=name, owner=owner)
    Item.objects.create(order=Order.objects.create(number="1"), sku="S")
    publish("billing.notice", {})
    fan_out("default")
    assert told() == [
        ("a", "shop.item.created"),
        ("a", "billing.notice"),
        ("b", "shop.item.created"),
        ("b", "billing.notice"),
    ]


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    owners=st.lists(st.sampled_from([None, 0, 1]), min_size=1, max_size=4),
    events=st.lists(
        st.tuples(st.sampled_from([None, 0, 1]), st.sampled_from(["paid", "notice"])),
        min_size=1,
        max_size=4,
    ),
)
def test_event_of_one_owner_never_makes_a_delivery_for_another(users, owners, events):
    Subscription.objects.all().delete()
    Event.objects.all().delete()
    pick = {None: None, 0: users[0], 1: users[1]}
    for owner in owners:
        listen("*", owner=pick[owner])
    types = {"paid": "billing.invoice_paid", "notice": "billing.notice"}
    for owner, name in events:
        publish(types[name], {}, owner=pick[owner])
    while fan_out("default"):
        pass
    for delivery in Delivery.objects.select_related("event", "subscription"):
        owner_id = delivery.subscription.owner_id
        assert (
            owner_id is None
            or owner_id == delivery.event.owner_id
            or delivery.event.type == "billing.notice"
        )
    expected = sum(
        owner is None or owner == event_owner or name == "notice"
        for owner in owners
        for event_owner, name in events
    )
    assert Delivery.objects.count() == expected


# Cost


@pytest.mark.parametrize("count", [1, 50])
def test_fan_out_costs_the_same_number_of_queries_for_many_rules(
    count, django_assert_max_num_queries
):
    for number in range(count):
        listen(name=str(number))
    for number in range(5):
        Order.objects.create(number=number)
    with django_assert_max_num_queries(12):  # SQLite takes more statements for many values
        fan_out("default")
    assert Delivery.objects.count() == count * 5


def test_fan_out_takes_one_event_at_least_and_leaves_what_would_take_long(monkeypatch):
    for name in "ab":
        listen(name=name)
    for number in range(6):
        Order.objects.create(number=number)
    monkeypatch.setattr(fanout, "MATCHES", 3)
    assert fan_out("default") == 2
    assert Event.objects.waiting().count() == 4
    monkeypatch.setattr(fanout, "MATCHES", 1)
    assert fan_out("default") == 1
    monkeypatch.setattr(fanout, "MATCHES", 2000)
    monkeypatch.setattr(fanout, "SECONDS", 0)
    assert fan_out("default") == 1
    monkeypatch.undo()
    assert fan_out("default") == 2
    assert len(told()) == 12


def test_more_subscriptions_than_one_statement_can_name_are_told(monkeypatch):
    monkeypatch.setattr(fanout, "VALUES", 2)
    for number in range(5):
        listen(name=str(number), mode="one_time" if number % 2 else "recurring")
    Order.objects.create(number="1")
    Order.objects.create(number="2")
    fan_out("default")
    assert [name for name, _ in told()] == ["0", "0", "1", "2", "2", "3", "4", "4"]
    assert Subscription.objects.filter(status="completed").count() == 2


def test_rule_is_put_into_words_once_for_all_its_events(monkeypatch):
    described = []
    describe = registry.describe
    monkeypatch.setattr(registry, "describe", lambda name: described.append(name) or describe(name))
    listen("shop.order.*")
    for number in "123":
        Order.objects.create(number=number)
    described.clear()
    fan_out("default")
    assert described == ["shop.order.*"]


def test_equal_conditions_are_judged_once_for_all_their_rules(monkeypatch):
    for name in "abc":
        listen(tree=NUMBER_1, name=name)
    Order.objects.create(number="1")
    judged = []
    evaluate = conditions.evaluate
    monkeypatch.setattr(
        conditions, "evaluate", lambda tree, facts: judged.append(tree) or evaluate(tree, facts)
    )
    fan_out("default")
    assert [name for name, _ in told()] == ["a", "b", "c"]
    assert len(judged) == 1


def test_fan_out_decrypts_no_secret(monkeypatch):
    listen(headers={"Authorization": "Bearer x"})
    Order.objects.create(number="1")
    decrypted = []
    monkeypatch.setattr("django_webhooks.encryption.decrypt", decrypted.append)
    fan_out("default")
    assert len(told()) == 1
    assert decrypted == []


# Why, why not, what if


def test_explain_tells_which_condition_said_no():
    tree = {"all": [PAID, {"field": "total", "op": "gte", "value": 1000}]}
    subscription = listen("shop.order.updated", tree, name="s")
    pay(Order.objects.create(number="1", total=740))
    fan_out("default")
    (found,) = explain(Event.objects.get(), subscription)
    assert not found.fired
    assert [child.value for child in found.verdict.children] == [True, False]
    assert found.verdict.children[1].reason == "total 740.00 is not at least 1000"


def test_explain_tells_of_other_owners_and_other_types(users):
    listen("shop.order.created", name="theirs", owner=users[1])
    listen("shop.item.created", name="items")
    listen("shop.order.created", name="fires")
    Order.objects.create(number="1")
    fan_out("default")
    found = {each.rule.subscription.name: each for each in explain(Event.objects.get())}
    assert "another owner" in found["theirs"].reason
    assert "shop.item.created" in found["items"].reason
    assert found["fires"].fired


def test_explain_tells_why_what_fits_was_not_delivered():
    listen("shop.order.created", name="fired")
    Order.objects.create(number="1")
    later = listen("shop.order.created", name="later")
    assert "a worker will make the delivery" in explain(Event.objects.get())[0].reason
    fan_out("default")
    Subscription.objects.filter(pk=later.pk).update(created_at=timezone.now())
    listen("shop.order.created", name="changed")
    Subscription.objects.filter(name="changed").update(created_at=Event.objects.get().occurred_at)
    Subscription.objects.create(
        name="paused", url="https://example.com/", status="paused"
    ).rules.create(event_type="shop.order.created")
    Subscription.objects.filter(name="paused").update(created_at=Event.objects.get().occurred_at)
    Event.objects.update(fanned_out_at=F("occurred_at"))
    found = {each.rule.subscription.name: each for each in explain(Event.objects.get())}
    assert found["fired"].fired
    Delivery.objects.filter(subscription=later).delete()
    found = {each.rule.subscription.name: each for each in explain(Event.objects.get())}
    assert "was made after this event" in found["later"].reason
    assert "is paused now" in found["paused"].reason
    assert "the rule was another" in found["changed"].reason
    assert not found["later"].fired


def test_explain_command_says_the_same():
    tree = {"field": "total", "op": "gte", "value": 1000}
    subscription = listen("shop.order.created", tree, name="Big orders")
    Order.objects.create(number="1", total=740)
    fan_out("default")
    out = io.StringIO()
    call_command("webhooks_explain", Event.objects.get().pk, str(subscription.pk), stdout=out)
    assert "Big orders" in out.getvalue()
    assert "did not fire" in out.getvalue()
    assert "total 740.00 is not at least 1000" in out.getvalue()


def test_what_no_worker_has_compared_yet_is_not_said_not_to_have_fired():
    big = {"field": "total", "op": "gte", "value": 1000}
    for name, tree, status in (
        ("fits", {}, "active"),
        ("big", big, "active"),
        ("paused", {}, "paused"),
    ):
        made = Subscription.objects.create(name=name, url="https://example.com/", status=status)
        made.rules.create(event_type="shop.order.created", conditions=tree)
    listen("shop.item.created", name="items")
    Order.objects.create(number="1", total=740)

    def outcomes() -> dict[str, str]:
        found = {each.rule.subscription.name: each for each in explain(Event.objects.get())}
        out = io.StringIO()
        call_command("webhooks_explain", Event.objects.get().pk, stdout=out)
        for each in found.values():
            assert f"  {each.outcome}: {each.rule}" in out.getvalue()
        assert "paused now" in found["paused"].reason
        return {name: each.outcome for name, each in found.items()}

    waits = "not compared yet"
    assert outcomes() == {"fits": "will fire", "big": waits, "paused": waits, "items": waits}
    fan_out("default")
    no = "did not fire"
    assert outcomes() == {"fits": "fired", "big": no, "paused": no, "items": no}


def test_explain_command_names_subscriptions_without_rules():
    listen("shop.order.created", name="Orders")
    bare = Subscription.objects.create(name="Bare", url="https://example.com/")
    Order.objects.create(number="1")
    event = Event.objects.get()
    for arguments, others in (([], True), ([str(bare.pk)], False)):
        out = io.StringIO()
        call_command("webhooks_explain", event.pk, *arguments, stdout=out)
        assert f"Bare ({bare.pk})\n  has no rules" in out.getvalue()
        assert ("Orders" in out.getvalue()) == others


@pytest.mark.parametrize("arguments", [["evt_nothing"], ["evt_nothing", "not-a-uuid"]])
def test_explain_command_refuses_what_is_not_there(arguments):
    with pytest.raises(CommandError, match=r"evt_nothing"):
        call_command("webhooks_explain", *arguments)


def test_preview_tells_which_recent_events_would_match(users):
    listen()
    for total in (10, 20, 30):
        Order.objects.create(number=total, total=total)
    found = preview("shop.order.*", {"field": "total", "op": "gt", "value": 15})
    assert (found.checked, found.matched) == (3, 2)
    assert [event.data["number"] for event in found.events] == ["30", "20"]


def test_preview_names_those_that_nearly_matched_the_nearest_first():
    listen()
    for number, total in (("A", 5), ("B", 5), ("C", 50)):
        Order.objects.create(number=number, total=total)
    big = {"field": "total", "op": "gt", "value": 15}
    tree = {"all": [big, {"field": "number", "op": "in", "value": ["B"]}]}
    found = preview("shop.order.created", tree)
    assert found.events == []
    assert [event.data["number"] for event in found.near] == ["C", "B", "A"]
    [verdict] = fanout.judge(tree, found.near[:1])
    assert [child.value for child in verdict.children] == [True, False]


def test_preview_counts_all_and_keeps_the_newest(monkeypatch):
    listen("shop.order.created")
    for number in range(5):
        Order.objects.create(number=number)
    monkeypatch.setattr(fanout, "SHOWN", 2)
    monkeypatch.setattr(fanout, "READ", 2)
    found = preview("shop.order.created", {})
    assert (found.checked, found.matched) == (5, 5)
    assert [event.data["number"] for event in found.events] == ["4", "3"]
    monkeypatch.setattr(fanout, "NEAR", 2)
    found = preview("shop.order.created", {"field": "number", "op": "eq", "value": "x"})
    assert (found.checked, found.matched) == (5, 0)
    assert [event.data["number"] for event in found.near] == ["4", "3"]


def test_a_delivery_is_explained_by_the_rule_that_made_it():
    subscription = listen("shop.order.*", {"field": "total", "op": "gt", "value": 100}, name="s")
    subscription.rules.create(event_type="shop.order.created")
    Order.objects.create(number="1", total=740)
    fan_out("default")
    delivery = Delivery.objects.get()
    found = fanout.explain_delivery(delivery)
    assert str(found.rule) == delivery.matched == "order created"
    subscription.rules.filter(event_type="shop.order.created").delete()
    found = fanout.explain_delivery(delivery)
    assert found.verdict.reason == "total 740.00 is greater than 100"
    subscription.rules.all().delete()
    assert fanout.explain_delivery(delivery) is None


def test_preview_shows_an_owner_only_their_own(users):
    listen()
    for user in users:
        customer = Customer.objects.create(name="x", user=user)
        Order.objects.create(number=user.username, customer=customer)
    Country.objects.create(code="de", name="x")
    found = preview("*", {}, owner=users[0])
    assert [event.data["number"] for event in found.events] == ["a"]


def test_preview_ends_in_time_and_says_how_many_it_judged(monkeypatch):
    listen("shop.order.created")
    for number in range(5):
        Order.objects.create(number=number)
    monkeypatch.setattr(fanout, "PREVIEW_SECONDS", 0)
    assert preview("shop.order.created", {}).checked == 1


def test_sentence_of_a_huge_rule_is_kept_shortened():
    wide = {"field": "f" * 255, "op": "in", "value": ["x" * 100] * 10}
    listen("shop.order.created", {"any": [wide] * 100 + [{"field": "id", "op": "exists"}]})
    Order.objects.create(number="1")
    fan_out("default")
    assert len(Delivery.objects.get().matched) == fanout.SENTENCE


def test_preview_refuses_bad_input():
    with pytest.raises(UnknownEventType):
        preview("nothing.*", {})
    with pytest.raises(ConditionError):
        preview("shop.order.*", {"all": []})


@pytest.mark.parametrize(
    ("column", "ends"),
    [("data", "succeeded"), ("previous", "succeeded"), ("through", "failed")],
)
def test_a_delivery_whose_event_cannot_be_read_has_failed_and_holds_up_no_other(
    subscribe, receiver, column, ends
):
    """As after an edit by SQL; each event was fanned out before. What is sent is the body, so
    only a chain that can't be read keeps it from being sent."""
    subscribe("*")
    for number in "123":
        Order.objects.create(number=number)
    fan_out("default")
    middle = Event.objects.order_by("id")[1]
    unreadable(middle, column)
    drain()
    statuses = Delivery.objects.order_by("pk").values_list("status", "attempt_count")
    sent = int(ends == "succeeded")
    assert list(statuses) == [("succeeded", 1), (ends, sent), ("succeeded", 1)]
    assert len(receiver.requests) == 2 + sent
    if not sent:
        assert "can't be read" in Delivery.objects.get(status="failed").reason


def test_facts_of_published_events_have_no_before():
    listen(tree={"field": "x", "op": "changed"}, name="s")
    publish("billing.invoice_paid", {"x": 1})
    fan_out("default")
    assert told() == []
    assert conditions.evaluate({"field": "x", "op": "changed"}, conditions.Facts({"x": 1})) is None
