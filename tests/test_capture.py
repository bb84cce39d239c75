"""Which change is this: each way to save and delete, and what its Event says."""

from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.core import serializers
from django.core.management import call_command
from django.db import DatabaseError, OperationalError, connection, connections, transaction
from django.db.models import F, Value
from django.db.models.functions import Lower
from django.db.models.signals import post_save, pre_save
from django.test.utils import CaptureQueriesContext

from django_webhooks.exceptions import RegistrationError
from django_webhooks.models import Event, Rule, Subscription
from django_webhooks.payloads import MAX_DEPTH
from django_webhooks.registry import ModelWebhook, register, registry
from tests.shop.models import (
    Country,
    Customer,
    Gadget,
    Item,
    Order,
    Page,
    Place,
    Restaurant,
    RushOrder,
    Unheard,
    UnheardChild,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def listener(db) -> Subscription:
    """Somebody who listens to everything."""
    subscription = Subscription.objects.create(url="https://example.com/hook")
    subscription.rules.create(event_type="*")
    return subscription


@pytest.fixture
def customer() -> Customer:
    made = Customer.objects.create(name="Ada", email="ada@example.com")
    Event.objects.all().delete()
    return made


@pytest.fixture
def order(customer: Customer) -> Order:
    made = Order.objects.create(number="A1", total=10, customer=customer)
    Event.objects.all().delete()
    return made


def only_event() -> Event:
    return Event.objects.get()


# Saves


def test_create_tells_the_object(customer):
    order = Order.objects.create(number="A1", total=10, customer=customer)
    event = only_event()
    assert event.type == "shop.order.created"
    assert event.data == {
        "id": order.pk,
        "number": "A1",
        "status": "pending",
        "total": "10.00",
        "customer": {"name": "Ada", "email": "ada@example.com"},
    }
    assert event.previous == {}
    assert event.subject == order
    assert event.error == ""


def test_update_tells_the_old_values_of_what_changed(order):
    order.status = Order.Status.PAID
    order.total = Decimal("12.50")
    order.save()
    event = only_event()
    assert event.type == "shop.order.updated"
    assert event.data["status"] == "paid"
    assert event.previous == {"status": "pending", "total": "10.00"}


def test_value_that_only_looks_different_has_not_changed(order):
    order.total = 10  # an int, where the database gives Decimal("10.00")
    order.save()
    assert only_event().previous == {}


def test_change_of_relation_tells_the_old_related_values(order):
    order.customer = Customer.objects.create(name="Bob", email="bob@example.com")
    Event.objects.all().delete()
    order.save()
    event = only_event()
    assert event.data["customer"] == {"name": "Bob", "email": "bob@example.com"}
    assert event.previous == {"customer": {"name": "Ada", "email": "ada@example.com"}}


def test_null_relation_is_rendered_as_nulls():
    Order.objects.create(number="A2")
    assert only_event().data["customer"] == {"name": None, "email": None}


def test_update_fields_publishes_what_was_written_and_not_what_was_only_assigned(order):
    order.status, order.number = "paid", "never saved"
    order.save(update_fields=["status"])
    event = only_event()
    assert event.data["status"] == "paid"
    assert event.data["number"] == "A1"
    assert event.previous == {"status": "pending"}
    assert order.number == "never saved", "the caller's object is left alone"


def test_expression_is_published_as_the_number_that_the_database_made(order):
    order.total = F("total") + Decimal("2.50")
    order.save()
    event = only_event()
    assert event.data["total"] == "12.50"
    assert event.previous == {"total": "10.00"}


def test_expression_of_another_receiver_is_published_as_its_value(order):
    def count_up(instance, **kwargs):
        instance.total = F("total") + 1

    pre_save.connect(count_up, sender=Order)
    try:
        order.save()
    finally:
        pre_save.disconnect(count_up, sender=Order)
    event = Event.objects.latest("id")
    assert event.error == ""
    assert event.data["total"] == str(Order.objects.get().total)


def test_expression_on_create_is_published_as_its_value():
    Order.objects.create(number=Lower(Value("A9")))
    assert only_event().data["number"] == "a9"


def test_deferred_fields_are_published_and_stay_deferred(order):
    partial = Order.objects.only("status").get(pk=order.pk)
    partial.status = "paid"
    partial.save()
    event = only_event()
    assert event.data["number"] == "A1"
    assert event.data["total"] == "10.00"
    assert event.previous == {"status": "pending"}
    assert "number" in partial.get_deferred_fields()


def test_get_or_create_publishes_only_when_it_creates():
    Order.objects.get_or_create(number="G1")
    Order.objects.get_or_create(number="G1")
    assert only_event().type == "shop.order.created"


def test_update_or_create_tells_the_update(order):
    Order.objects.update_or_create(number="A1", defaults={"status": "paid"})
    event = only_event()
    assert event.type == "shop.order.updated"
    assert event.previous == {"status": "pending"}


def test_given_primary_key_is_an_update_if_the_row_exists(listener):
    Country(code="de", name="Germany").save()
    Country(code="de", name="Deutschland").save()
    created, updated = Event.objects.order_by("id")
    assert created.type == "shop.country.created"
    assert updated.type == "shop.country.updated"
    assert updated.previous == {"name": "Germany"}


def test_forced_update_of_an_object_with_a_generated_key_is_an_update(listener):
    gadget = Gadget.objects.create(count=1)
    Event.objects.all().delete()
    Gadget(id=gadget.pk, count=2).save(force_update=True)
    event = only_event()
    assert event.type == "shop.gadget.updated"
    assert event.previous == {"count": 1}


def test_save_that_says_what_it_does_needs_no_look_at_the_row(listener):
    Rule.objects.update(event_type="shop.country.deleted")  # nobody listens to saves
    with CaptureQueriesContext(connection) as queries:
        Country(code="de", name="Germany").save(force_insert=True)
        Country(code="de", name="Deutschland").save(force_update=True)
        Country(code="de", name="Allemagne").save(update_fields=["name"])
    looks = [each["sql"] for each in queries if "webhooks_rule" in each["sql"]]
    assert len(looks) == 3
    assert not any("shop_country" in sql for sql in looks)


def test_update_fields_of_a_new_object_follow_django():
    Country.objects.create(code="de", name="Germany")
    Event.objects.all().delete()
    Country(code="de", name="Deutschland").save(update_fields=["name"])
    assert only_event().type == "shop.country.updated"
    with pytest.raises(DatabaseError), transaction.atomic():
        Country(code="fr", name="France").save(update_fields=["name"])
    assert Event.objects.count() == 1
    Gadget(count=1).save(update_fields=["count"])  # inserts, for its key has a default
    assert Event.objects.latest("id").type == "shop.gadget.created"


def test_loaded_object_inserted_by_force_under_another_key_is_created(listener):
    country = Country.objects.create(code="de", name="Germany")
    country.code = "fr"
    country.save(force_insert=True)
    assert Event.objects.latest("id").type == "shop.country.created"


def test_object_copied_by_clearing_its_key_is_created(order):
    order.pk = None
    order._state.adding = True
    order.save()
    assert only_event().type == "shop.order.created"


def test_row_that_vanished_is_created_again(order):
    Order.objects.filter(pk=order.pk)._raw_delete("default")
    order.save()
    assert only_event().type == "shop.order.created"


def test_proxy_publishes_its_models_event_once(customer):
    rush = RushOrder.objects.create(number="R1", customer=customer)
    event = only_event()
    assert event.type == "shop.order.created"
    assert event.subject == Order.objects.get(pk=rush.pk)
    rush.delete()
    assert Event.objects.filter(type="shop.order.deleted").count() == 1


def test_multi_table_child_publishes_its_parents_event_once():
    restaurant = Restaurant.objects.create(name="Noma", stars=3)
    restaurant.name = "Noma 2"
    restaurant.save()
    restaurant.delete()
    types = list(Event.objects.order_by("id").values_list("type", "data"))
    data = {"id": types[0][1]["id"]}
    assert types == [
        ("shop.place.created", {**data, "name": "Noma"}),
        ("shop.place.updated", {**data, "name": "Noma 2"}),
        ("shop.place.deleted", {**data, "name": "Noma 2"}),
    ]


def test_child_added_to_an_existing_parent_updates_the_parent():
    place = Place.objects.create(name="Noma")
    Event.objects.all().delete()
    Restaurant(place_ptr=place, name="Noma", stars=3).save()
    assert only_event().type == "shop.place.updated"


@pytest.mark.parametrize("tell", ["updated", "created"])
def test_child_inserted_by_force_inserts_only_the_parent_that_is_named(tell):
    place = Place(pk=7, name="Noma")
    if tell == "updated":
        place.save()
    Event.objects.all().delete()
    forced = True if tell == "updated" else (Place,)
    Restaurant(place_ptr=place, id=7, name="Noma", stars=3).save(force_insert=forced)
    assert only_event().type == f"shop.place.{tell}"


def test_child_deleted_without_its_parent_deletes_no_parent():
    restaurant = Restaurant.objects.create(name="Noma", stars=3)
    Event.objects.all().delete()
    restaurant.delete(keep_parents=True)
    assert not Event.objects.exists()


def test_save_inside_a_receiver_of_the_save_publishes_both(order):
    def ship(instance, **kwargs):
        if instance.status == "paid":
            instance.status = "shipped"
            instance.save()

    post_save.connect(ship, sender=Order)
    try:
        order.status = "paid"
        order.save()
    finally:
        post_save.disconnect(ship, sender=Order)
    assert Event.objects.count() == 2


def test_failed_save_leaves_nothing_behind_for_the_next(order):
    broken = Order.objects.get(pk=order.pk)
    broken.total = "not a number"
    with pytest.raises(Exception, match="decimal"), transaction.atomic():
        broken.save()
    broken.total = 11
    broken.save()
    assert only_event().previous == {"total": "10.00"}


# Deletes


def test_delete_tells_the_object_as_the_database_had_it(order):
    pk = order.pk
    order.status = "never saved"
    order.delete()
    event = only_event()
    assert event.type == "shop.order.deleted"
    assert event.data["id"] == pk
    assert event.data["status"] == "pending"
    assert event.data["customer"]["email"] == "ada@example.com"
    assert event.subject_id == str(pk)
    assert event.subject is None


def test_cascade_tells_each_registered_object_with_its_relations(order):
    Item.objects.create(order=order, sku="S1")
    Event.objects.all().delete()
    order_pk = order.pk
    order.customer.delete()
    events = {event.type: event.data for event in Event.objects.all()}
    assert set(events) == {"crm.customer.deleted", "shop.order.deleted", "shop.item.deleted"}
    assert events["shop.item.deleted"]["sku"] == "S1"
    assert events["shop.item.deleted"]["order"] == {"id": order_pk, "number": "A1"}
    assert events["shop.order.deleted"]["customer"]["name"] == "Ada"


def test_queryset_delete_tells_each_object(customer):
    for number in "123":
        Order.objects.create(number=number)
    Event.objects.all().delete()
    Order.objects.all().delete()
    assert Event.objects.filter(type="shop.order.deleted").count() == 3


@pytest.mark.django_db(transaction=True)
def test_owner_deleted_with_the_object_does_not_break_the_delete(listener):
    user = User.objects.create(username="u")
    customer = Customer.objects.create(name="Ada", user=user)
    Order.objects.create(number="A1", customer=customer)
    Event.objects.all().delete()
    owner_id = user.pk
    with transaction.atomic():
        customer.delete()
        user.delete()
    assert Event.objects.get(type="shop.order.deleted").owner_id == owner_id
    assert not User.objects.filter(username="u").exists()


# Saves at the same time


needs_row_locks = pytest.mark.skipif(
    not connection.features.has_select_for_update,
    reason="SQLite has no row locks, and needs none: it has one writer at a time.",
)
needs_locks_of_one_table = pytest.mark.usefixtures("locks_of_one_table")
committed = pytest.mark.django_db(transaction=True)


@pytest.fixture
def locks_of_one_table(db):
    if not connection.features.has_select_for_update_of:  # MariaDB has to be asked
        pytest.skip("A row is not locked where that would lock the rows joined to it, too.")


@pytest.fixture
def elsewhere():
    """Runs a function in another thread, with a connection of its own."""

    def run(action, *args, **kwargs):
        try:
            return action(*args, **kwargs)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        yield lambda *args, **kwargs: pool.submit(run, *args, **kwargs)


def wait_behind(held: Future) -> None:
    """Until the other thread is held up by a lock of ours."""
    with pytest.raises(TimeoutError):
        held.result(timeout=0.5)


def copies(row):
    """The row as two requests have loaded it."""
    return [type(row).objects.get(pk=row.pk) for _ in range(2)]


@pytest.fixture
def plain_order(other_webhook, listener):
    """An order that is published without related objects: its row is locked on any database."""

    class OrderWebhook(ModelWebhook):
        fields = ["id", "number", "status"]

    other_webhook(OrderWebhook)
    order = Order.objects.create(number="A1")
    Event.objects.all().delete()
    return order


@committed
@needs_row_locks
def test_two_saves_at_once_tell_the_change_once(plain_order, elsewhere):
    first, second = copies(plain_order)
    first.status = second.status = "paid"
    with transaction.atomic():
        first.save()
        other = elsewhere(second.save)
        wait_behind(other)
    other.result()
    told = list(Event.objects.order_by("id").values_list("previous", flat=True))
    assert told == [{"status": "pending"}, {}]


@committed
@needs_row_locks
def test_save_of_one_field_tells_what_was_saved_at_once_in_another(plain_order, elsewhere):
    first, second = copies(plain_order)
    first.status, second.number = "paid", "A2"
    with transaction.atomic():
        first.save(update_fields=["status"])
        other = elsewhere(second.save, update_fields=["number"])
        wait_behind(other)
    other.result()
    event = Event.objects.latest("id")
    assert event.data == {"id": plain_order.pk, "number": "A2", "status": "paid"}
    assert event.previous == {"number": "A1"}


@committed
@needs_row_locks
def test_delete_tells_what_was_saved_at_once(plain_order, elsewhere):
    first, second = copies(plain_order)
    first.status = "paid"
    with transaction.atomic():
        first.save()
        other = elsewhere(second.delete)
        wait_behind(other)
    other.result()
    event = Event.objects.get(type="shop.order.deleted")
    assert event.data["status"] == "paid"


@pytest.fixture
def restaurants():
    @register(Restaurant)
    class RestaurantWebhook(ModelWebhook):
        fields = ["name", "stars"]

    yield
    registry.remove(Restaurant)


@committed
@needs_row_locks
@pytest.mark.parametrize("saved", [Place, Restaurant])
def test_multi_table_child_tells_what_was_saved_at_once_in_its_parent(
    restaurants, elsewhere, saved
):
    second = Restaurant.objects.create(name="Noma", stars=2)
    first = saved.objects.get(pk=second.pk)
    Event.objects.all().delete()
    first.name = second.name = "Noma 2"
    second.stars = 3
    with transaction.atomic():
        first.save()
        other = elsewhere(second.save)
        wait_behind(other)
    other.result()
    child = Event.objects.filter(type="shop.restaurant.updated").latest("id")
    parent = Event.objects.filter(type="shop.place.updated").latest("id")
    assert (child.data, child.previous) == ({"name": "Noma 2", "stars": 3}, {"stars": 2})
    assert parent.previous == {}


@committed
@needs_locks_of_one_table
def test_relation_changed_at_once_is_told_with_its_own_values(order, elsewhere):
    first, second = copies(order)
    first.customer = Customer.objects.create(name="Bob", email="bob@example.com")
    second.status = "paid"
    with transaction.atomic():
        first.save(update_fields=["customer"])
        other = elsewhere(second.save, update_fields=["status"])
        wait_behind(other)
    other.result()
    event = Event.objects.filter(type="shop.order.updated").latest("id")
    assert event.data["customer"] == {"name": "Bob", "email": "bob@example.com"}
    assert event.previous == {"status": "pending"}


@committed
@needs_locks_of_one_table
def test_relation_that_is_not_null_changed_at_once_is_no_creation(order, elsewhere):
    first, second = copies(Item.objects.create(order=order, sku="S1"))
    first.order = Order.objects.create(number="A2")
    second.sku = "S2"
    with transaction.atomic():
        first.save(update_fields=["order"])
        other = elsewhere(second.save, update_fields=["sku"])
        wait_behind(other)
    other.result()
    event = Event.objects.latest("id")
    assert event.type == "shop.item.updated"
    assert event.data["order"] == {"id": first.order_id, "number": "A2"}
    assert event.previous == {"sku": "S1"}


@committed
@needs_row_locks
def test_related_rows_are_not_locked(order, elsewhere):
    with transaction.atomic():
        order.save()
        rows = Customer.objects.filter(pk=order.customer_id)
        assert elsewhere(rows.update, name="Ada L.").result(timeout=10) == 1


@committed
@needs_row_locks
def test_lock_that_is_not_got_in_time_is_heard_of(plain_order, elsewhere):
    """The database has then undone more than our query: the Event's `error` would hide it."""

    def save_in_a_hurry():
        with transaction.atomic():
            with connection.cursor() as cursor:
                wait = {
                    "postgresql": "SET LOCAL lock_timeout = '200ms'",
                    "mysql": "SET innodb_lock_wait_timeout = 1",
                }
                cursor.execute(wait[connection.vendor])
            plain_order.save()

    with transaction.atomic():
        Order.objects.select_for_update().get(pk=plain_order.pk)
        with pytest.raises(OperationalError):
            elsewhere(save_in_a_hurry).result(timeout=10)
    assert not Event.objects.exists()


# What is not published


def test_actions_that_are_not_declared_publish_nothing(customer):
    customer.name = "Ada L."
    customer.save()
    assert not Event.objects.exists()


def test_fixtures_publish_nothing(order, tmp_path):
    path = tmp_path / "orders.json"
    path.write_text(serializers.serialize("json", Order.objects.all()))
    order.delete()
    Event.objects.all().delete()
    call_command("loaddata", str(path), verbosity=0)
    assert Order.objects.count() == 1
    assert not Event.objects.exists()


def test_unregistered_models_keep_their_fast_deletes(django_assert_num_queries):
    parent = Unheard.objects.create(name="x")
    UnheardChild.objects.create(parent=parent)
    with django_assert_num_queries(2):  # the children in one statement, then the parent
        parent.delete()
    assert not post_save.has_listeners(Unheard)


def test_own_models_cannot_be_registered():
    with pytest.raises(RegistrationError, match="never ends"):

        @register(Event)
        class EventWebhook(ModelWebhook):
            fields = ["id"]


# Other ways to render


def publish_orders_by(webhook_class):
    """Registers Order anew for one test; the fixture below puts the old one back."""
    registry.remove(Order)
    register(Order)(webhook_class)


@pytest.fixture
def other_webhook():
    before = type(next(each for each in registry.webhooks if each.model is Order))
    yield publish_orders_by
    registry.remove(Order)
    register(Order)(before)


def test_serializer_renders_the_object(other_webhook, customer):
    from rest_framework import serializers as drf

    class ItemSerializer(drf.ModelSerializer):
        class Meta:
            model = Item
            fields = ["sku"]

    class OrderSerializer(drf.ModelSerializer):
        items = ItemSerializer(many=True, read_only=True)

        class Meta:
            model = Order
            fields = ["id", "number", "total", "customer", "items"]

    class OrderWebhook(ModelWebhook):
        serializer_class = OrderSerializer

    other_webhook(OrderWebhook)
    order = Order.objects.create(number="S1", total=10, customer=customer)
    Item.objects.create(order=order, sku="K1")
    Event.objects.all().delete()
    order.number = "S2"
    order.save()
    event = only_event()
    assert event.data == {
        "id": order.pk,
        "number": "S2",
        "total": "10.00",
        "customer": customer.pk,
        "items": [{"sku": "K1"}],
    }
    assert event.previous == {"number": "S1"}


def test_get_data_renders_the_object(other_webhook):
    class OrderWebhook(ModelWebhook):
        def get_data(self, instance):
            return {"a.b": instance.number, "tags": {instance.status}.__len__()}

    other_webhook(OrderWebhook)
    order = Order.objects.create(number="D1")
    order.number = "D2"
    order.save()
    event = Event.objects.get(type="shop.order.updated")
    assert event.data == {"a.b": "D2", "tags": 1}
    assert event.previous == {"a.b": "D1"}


def test_get_data_may_return_any_json(other_webhook, wakes):
    class OrderWebhook(ModelWebhook):
        def get_data(self, instance):
            return [instance.number, instance.status]

    other_webhook(OrderWebhook)
    order = Order.objects.create(number="1")
    order.status = "paid"
    order.save()
    created, updated = Event.objects.order_by("id")
    assert created.data == ["1", "pending"]
    assert (updated.data, updated.previous) == (["1", "paid"], {})
    assert '"data":{"object":["1","paid"],"previous":{}}' in updated.body


def test_should_publish_is_asked_with_what_changed(other_webhook):
    asked = []

    class OrderWebhook(ModelWebhook):
        fields = ["id", "number", "customer.email"]

        def should_publish(self, instance, action, changed):
            asked.append((action, changed))
            return action != "updated" or bool(changed)

    other_webhook(OrderWebhook)
    order = Order.objects.create(number="P1")
    order.save()
    order.number = "P2"
    order.customer = Customer.objects.create(name="A", email="a@example.com")
    order.save()
    assert asked == [
        ("created", frozenset()),
        ("updated", frozenset()),
        ("updated", frozenset({"number", "customer.email"})),
    ]
    assert Event.objects.filter(type__startswith="shop.order").count() == 2


def test_owner_is_kept_as_it_was_at_the_change(listener):
    first, second = (User.objects.create(username=name) for name in "ab")
    customer = Customer.objects.create(name="Ada", user=first)
    order = Order.objects.create(number="O1", customer=customer)
    customer.user = second
    customer.save()
    order.refresh_from_db()
    order.save()
    owners = Event.objects.filter(type__startswith="shop.order").order_by("id")
    assert [event.owner for event in owners] == [first, second]


def break_rendering(error):
    class OrderWebhook(ModelWebhook):
        fields = ["id"]

        def get_data(self, instance):
            raise error

    return OrderWebhook


def test_payload_that_cannot_be_rendered_never_breaks_the_save(other_webhook, caplog):
    other_webhook(break_rendering(ZeroDivisionError("no luck")))
    order = Order.objects.create(number="E1")
    event = only_event()
    assert event.error == "ZeroDivisionError: no luck"
    assert event.data == {}
    assert event.subject == order
    assert "could not be rendered" in caplog.text


@pytest.mark.parametrize("character", ["\x00", "\ud800"])
def test_error_that_no_database_can_store_never_breaks_the_save(other_webhook, character):
    other_webhook(break_rendering(ValueError(f"bad {character} in old data")))
    Order.objects.create(number="E1")
    assert only_event().error in ("ValueError: bad  in old data", "ValueError: bad ? in old data")


@pytest.mark.parametrize("fields", [["url"], ["nothing"]], ids=["rendered", "failed"])
def test_key_longer_than_an_event_can_hold_never_breaks_the_save(fields):
    register(Page)(type("PageWebhook", (ModelWebhook,), {"fields": fields}))
    try:
        Page.objects.create(url="https://example.com/" + "x" * 300)
    finally:
        registry.remove(Page)
    assert only_event().subject_id == "https://example.com/" + "x" * 235


def test_field_that_does_not_exist_makes_an_update_no_creation(other_webhook):
    class OrderWebhook(ModelWebhook):
        fields = ["id", "nothing.name"]

    order = Order.objects.create(number="E1")
    Event.objects.all().delete()
    other_webhook(OrderWebhook)
    order.save()
    event = only_event()
    assert event.type == "shop.order.updated"
    assert "nothing" in event.error


@pytest.mark.django_db(transaction=True)
def test_database_error_while_rendering_does_not_poison_the_transaction(other_webhook):
    class OrderWebhook(ModelWebhook):
        def get_data(self, instance):
            with connections["default"].cursor() as cursor:
                cursor.execute("SELECT nothing FROM nowhere")

    other_webhook(OrderWebhook)
    with transaction.atomic():
        Order.objects.create(number="E1")
        Order.objects.create(number="E2")
    assert Order.objects.count() == 2
    assert Event.objects.exclude(error="").count() == 2


def nested(levels: int) -> dict:
    """An object around that many lists, one inside the other."""
    lists: list = []
    for _ in range(levels - 1):
        lists = [lists]
    return {"x": lists}


def test_deepest_payload_is_kept(other_webhook):
    class OrderWebhook(ModelWebhook):
        def get_data(self, instance):
            return nested(MAX_DEPTH - 1)

    other_webhook(OrderWebhook)
    Order.objects.create(number="E1")
    assert only_event().error == ""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"x": float("nan")}, "JSON"),
        ({"x": object()}, "JSON"),
        ({"x": "\x00"}, "NUL"),
        ({"x": "\ud800"}, "JSON"),
        (nested(MAX_DEPTH), "nested deeper than 31 levels"),
        ({"x": "y" * 300_000}, "MAX_PAYLOAD_BYTES"),
    ],
)
def test_unsendable_payload_is_kept_with_its_reason(other_webhook, data, reason):
    class OrderWebhook(ModelWebhook):
        def get_data(self, instance):
            return data

    other_webhook(OrderWebhook)
    Order.objects.create(number="E1")
    assert reason in only_event().error


def test_owner_of_the_wrong_model_is_an_error_and_reaches_nobody(other_webhook):
    class OrderWebhook(ModelWebhook):
        fields = ["id"]

        def get_owner(self, instance):
            return instance

    other_webhook(OrderWebhook)
    Order.objects.create(number="E1")
    assert "OWNER_MODEL" in only_event().error


# Values


def test_values_are_rendered_by_djangos_rules():
    gadget = Gadget.objects.create(
        at=datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=timezone(timedelta(hours=2))),
        on=date(2026, 1, 2),
        time=time(3, 4, 5),
        took=timedelta(days=1, seconds=2),
        price="9.5",
        ratio=0.5,
        count=3,
        good=True,
        meta={"b": [1, None]},
        file="a/b.txt",
        blob=b"x",
        ref=UUID(int=7),
    )
    data = only_event().data
    assert data == {
        "id": str(gadget.pk),
        "at": "2026-01-02T01:04:05.678Z",
        "on": "2026-01-02",
        "time": "03:04:05",
        "took": "P1DT00H00M02S",
        "price": "9.500",
        "ratio": 0.5,
        "count": 3,
        "good": True,
        "meta": {"b": [1, None]},
        "file": "a/b.txt",
        "ref": "00000000-0000-0000-0000-000000000007",
    }
    assert Gadget.objects.get().at.astimezone(UTC) == datetime(
        2026, 1, 2, 1, 4, 5, 678000, tzinfo=UTC
    )


def test_all_nulls_are_nulls():
    Gadget.objects.create()
    data = only_event().data
    assert {name for name, value in data.items() if value is not None} == {"id", "file"}
    assert data["file"] == ""


def test_all_fields_leave_out_what_looks_sensitive():
    Gadget.objects.create(api_key="hunter2")
    event = only_event()
    assert "api_key" not in event.data
    assert "blob" not in event.data
    assert "hunter2" not in event.body


# Nobody listens


def test_keep_events_records_while_nobody_listens(wakes):
    Rule.objects.all().delete()
    Gadget.objects.create()
    event = only_event()
    assert event.fanned_out_at is not None
    assert wakes == []


def test_nobody_listening_builds_no_payload(other_webhook):
    Rule.objects.all().delete()
    other_webhook(break_rendering(AssertionError("built")))
    Order.objects.create(number="N1").delete()
    assert not Event.objects.exists()


@pytest.mark.parametrize("status", ["paused", "disabled", "completed"])
def test_inactive_subscription_does_not_listen(listener, status):
    Subscription.objects.update(status=status)
    Order.objects.create(number="N1")
    assert not Event.objects.exists()


@pytest.mark.django_db(databases=["default", "other"])
def test_change_on_another_database_is_kept_there(listener):
    other = Subscription.objects.using("other").create(url="https://example.com/other")
    other.rules.create(event_type="shop.order.created")
    Order.objects.using("other").create(number="X1")
    Order(number="X2").save(using="other")
    assert not Event.objects.exists()
    assert [e.data["number"] for e in Event.objects.using("other").order_by("id")] == ["X1", "X2"]


@pytest.mark.django_db(databases=["default", "other"])
def test_change_on_a_database_without_the_outbox_is_left_alone(monkeypatch):
    monkeypatch.setattr(connections["other"].introspection, "table_names", list)
    order = Order(number="X1")
    order.save(using="other")
    with CaptureQueriesContext(connections["other"]) as queries:
        order.save(using="other")
        Country(code="de").save(using="other", force_insert=True)
        Country.objects.using("other").get().delete()
    assert not any("webhooks" in each["sql"] for each in queries)
