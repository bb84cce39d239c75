"""What the rule builder asks the server, by hand: who may, what is said, and what never is."""

import json
import re

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models.signals import post_save, pre_delete, pre_save
from django.test import Client
from django.urls import reverse

from django_webhooks import fields, outbox, worker
from django_webhooks.admin import catalogue
from django_webhooks.admin.display import plain_moment
from django_webhooks.capture import UID
from django_webhooks.models import Delivery, Event, Rule, Subscription
from django_webhooks.registry import EventType, ModelWebhook, registry
from django_webhooks.signing import generate_signing_key
from tests.shop.models import Customer, Order, Unheard
from tests.test_admin import messages_of, page, text_of, typed, user_with

URL = "https://receiver.example.com/hook"
PAID = {"field": "status", "op": "changed_to", "value": "paid"}
BIG = {"field": "total", "op": "gte", "value": 1000}
VIEWS = ["check", "try", "object", "objects"]
EVERYTHING = ("change_subscription", "view_event", "view_order")


def ask(client: Client, view: str, tree: object = None, **fields: object):
    data = {"event_type": "shop.order.updated", "conditions": json.dumps(tree or {}), **fields}
    return client.post(reverse(f"admin:django_webhooks_rule_{view}"), data)


@pytest.fixture
def subscription(db) -> Subscription:
    return Subscription.objects.create(
        name="Shop", url=URL, headers={"Authorization": "Bearer tr0ub4dor"}
    )


@pytest.fixture
def order(subscription) -> Order:
    """One that was paid, and whose events were kept."""
    subscription.rules.create(event_type="shop.order.*")
    made = Order.objects.create(number="A-1", total=740)
    made.status = "paid"
    made.save()
    return made


@pytest.fixture
def signing_keys(settings) -> list[str]:
    keys = [generate_signing_key()]
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "SIGNING_KEYS": keys}
    return keys


# What is said of a rule


def test_a_rule_is_read_back_as_a_sentence(admin_client):
    answer = ask(admin_client, "check", {"all": [PAID, BIG]}).json()
    assert answer == {
        "sentence": "order updated, when status changes to “paid” and total is at least 1000",
        "problems": [],
    }


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"tree": {"all": [BIG, {"any": [{"field": "x", "op": "above"}]}]}}, "all[1].any[0].op"),
        ({"tree": {"field": "", "op": "eq", "value": 1}}, "field"),
        ({"tree": {"all": []}}, "all"),
        ({"conditions": "{"}, ""),
    ],
)
def test_what_is_wrong_is_told_with_its_place(admin_client, fields, problem):
    answer = ask(admin_client, "check", **fields).json()
    [found] = answer["problems"]
    assert (found["field"], found["path"], found["level"]) == ("conditions", problem, "error")
    assert not found["message"].startswith(problem + ":") or not problem
    assert answer["sentence"] == ""


def test_a_type_that_nothing_publishes_is_wrong_at_its_field(admin_client):
    [found] = ask(admin_client, "check", event_type="shop.ordr.*").json()["problems"]
    assert found["field"] == "event_type"
    assert "Did you mean" in found["message"]


@pytest.mark.parametrize(
    ("pattern", "tree", "path", "words"),
    [
        ("shop.order.created", PAID, "", "no value before the change"),
        ("shop.order.created", {"all": [BIG, PAID]}, "all[1]", "no value before the change"),
        ("billing.notice", PAID, "", "no value before the change"),
        ("shop.order.*", {"not": {"field": "x", "op": "exists"}}, "not", "no field “x”"),
        ("shop.order.*", {"field": "total.cents", "op": "exists"}, "", "no field"),
        ("billing.invoice_paid", {"field": "bill", "op": "exists"}, "", "no field “bill”"),
        ("shop.order.*", {"field": "status", "op": "eq", "value": "payed"}, "", "“payed”"),
    ],
)
def test_what_can_never_be_is_doubted_and_not_refused(admin_client, pattern, tree, path, words):
    answer = ask(admin_client, "check", tree, event_type=pattern).json()
    [found] = answer["problems"]
    assert (found["path"], found["level"]) == (path, "warning")
    assert words in found["message"]
    assert answer["sentence"]


@pytest.mark.parametrize(
    ("pattern", "field", "op", "value", "path", "words"),
    [
        ("shop.order.*", "total", "gt", "", "value", "Enter a number"),
        ("shop.order.*", "total", "gt", "12,50", "value", "Enter a number"),
        ("shop.order.*", "total", "in", [1, "x"], "value[1]", "Enter a number"),
        ("shop.gadget.*", "count", "eq", "", "value", "Enter a whole number"),
        ("shop.gadget.*", "count", "changed_to", 1.5, "value", "Enter a whole number"),
        ("shop.gadget.*", "on", "lt", "", "value", "Enter a date"),
        ("shop.gadget.*", "at", "lt", "soon", "value", "Enter a date and a time"),
        ("shop.gadget.*", "time", "eq", "noon", "value", "Enter a time"),
        ("shop.gadget.*", "took", "gt", "", "value", "Enter a duration"),
        ("shop.gadget.*", "ref", "eq", "7", "value", "Enter a UUID"),
        ("shop.gadget.*", "good", "eq", "yes", "value", "Choose true or false"),
        ("billing.invoice_paid", "invoice", "eq", "7 a", "value", "Enter a number"),
    ],
)
def test_a_value_that_is_none_of_its_fields_kind_is_refused_at_its_place(
    admin_client, subscription, pattern, field, op, value, path, words
):
    tree = {"all": [{"not": {"field": field, "op": op, "value": value}}]}
    [found] = ask(admin_client, "check", tree, event_type=pattern).json()["problems"]
    assert (found["path"], found["level"]) == (f"all[0].not.{path}", "error")
    assert words in found["message"]
    written = {"event_type": pattern, "conditions": json.dumps(tree)}
    response = admin_client.post(page("subscription_change", subscription.pk), typed([written]))
    assert words in text_of(response)
    assert not subscription.rules.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [("count", "7.0"), ("count", -7), ("price", "+.5"), ("price", "1e3"), ("at", "2026-12-24")],
)
def test_a_value_of_its_fields_kind_may_be_written_in_any_way(admin_client, field, value):
    tree = {"field": field, "op": "gt", "value": value}
    assert ask(admin_client, "check", tree, event_type="shop.gadget.*").json()["problems"] == []


def test_a_rule_that_is_there_with_a_value_of_another_kind_is_warned_of_and_kept(
    admin_client, subscription
):
    many = {"field": "total", "op": "gt", "value": "many"}
    rule = subscription.rules.create(event_type="shop.order.*", conditions=many)
    written = {"id": rule.pk, "event_type": rule.event_type, "conditions": json.dumps(many)}
    where = page("subscription_change", subscription.pk)
    response = admin_client.post(where, typed([written], initial=1), follow=True)
    assert any("“many”" in each for each in messages_of(response))


def test_choices_are_called_what_people_call_them(monkeypatch):
    status = Order._meta.get_field("status")
    monkeypatch.setattr(status, "choices", [("P", "Paid"), ("in_transit", "In transit")])
    found = {
        each.path: each for each in fields.fields_of(registry.require_type("shop.order.created"))
    }
    assert [*found["status"].choices] == ["P", "in_transit"]
    assert [*found["status"].labels] == ["Paid", ""]


def test_fields_are_called_what_people_call_them(admin_client, subscription, monkeypatch):
    options = Order._meta
    monkeypatch.setattr(options.get_field("total"), "verbose_name", "sum with tax")
    monkeypatch.setattr(options.get_field("number"), "verbose_name", "the same")
    monkeypatch.setattr(options.get_field("status"), "verbose_name", "the same")
    tree = {"all": [BIG, {"field": "number", "op": "eq", "value": "A-1"}]}
    subscription.rules.create(event_type="shop.order.updated", conditions=tree)
    sentence = "order updated, when sum with tax is at least 1000 and number is “A-1”"
    for name in ("subscription_changelist", "subscription_change"):
        arguments = [subscription.pk] if name == "subscription_change" else []
        assert sentence in text_of(admin_client.get(page(name, *arguments)))
    assert ask(admin_client, "check", tree).json()["sentence"] == sentence
    assert "total is at least 1000" in str(Rule.objects.get())  # as it is kept on deliveries
    item = fields.fields_of(registry.require_type("shop.item.created"))
    assert {each.path: each.label for each in item} == {
        "id": "",
        "sku": "",
        "order.id": "",
        "order.number": "the same",
    }


def test_of_a_rule_with_many_doubts_a_few_are_told(admin_client, subscription):
    """Messages are kept in the session, and shown on one page."""
    tree = {"all": [{"field": f"{number}{'x' * 200}", "op": "exists"} for number in range(400)]}
    rule = subscription.rules.create(event_type="shop.order.created", conditions=tree)
    written = {"id": rule.pk, "event_type": rule.event_type, "conditions": json.dumps(tree)}
    where = page("subscription_change", subscription.pk)
    response = admin_client.post(where, typed([written], initial=1), follow=True)
    [told] = [each for each in messages_of(response) if "xxx" in each]
    assert "And 397 more." in told
    assert len(told) < 2000


NEVER, EVER = {"field": "totl", "op": "eq", "value": 1}, {"field": "total", "op": "eq", "value": 1}


@pytest.mark.parametrize(("before", "after"), [(EVER, NEVER), (NEVER, EVER)])
def test_what_is_saved_is_doubted_and_not_what_was(admin_client, subscription, before, after):
    rule = subscription.rules.create(event_type="shop.order.created", conditions=before)
    written = {"id": rule.pk, "event_type": rule.event_type, "conditions": json.dumps(after)}
    where = page("subscription_change", subscription.pk)
    response = admin_client.post(where, typed([written], initial=1), follow=True)
    rule.refresh_from_db()
    assert rule.conditions == after
    assert any("totl" in each for each in messages_of(response)) == (after is NEVER)


@pytest.mark.parametrize(
    ("pattern", "tree"),
    [
        ("shop.order.*", PAID),
        ("*", {"field": "sku", "op": "eq", "value": "x"}),
        ("shop.order.*", {"field": "customer", "op": "is_null"}),
        ("shop.gadget.*", {"field": "meta.any.thing", "op": "exists"}),
        ("shop.gadget.*", {"field": "at", "op": "gt", "value": "2026-01-01"}),
        ("billing.notice", {"field": "whatever", "op": "exists"}),
        ("shop.order.*", {"field": "status", "op": "startswith", "value": "pa"}),
        ("shop.order.*", {}),
    ],
)
def test_what_may_be_is_not_doubted(admin_client, pattern, tree):
    assert ask(admin_client, "check", tree, event_type=pattern).json()["problems"] == []


# The catalogue


def test_patterns_are_grouped_by_app_with_a_pattern_before_its_types(db):
    choices = dict(catalogue.pattern_choices())
    assert list(choices)[:2] == ["", "*"]
    shop = [pattern for pattern, _label in choices["Shop"]]
    assert shop.index("shop.order.*") + 1 == shop.index("shop.order.created")
    assert dict(choices["Shop"])["shop.order.*"] == "Any change of order (shop.order.*)"
    assert "crm.customer.created" in shop  # by its model's app
    billing = dict(choices["Billing"])
    assert billing["billing.invoice_paid"] == "Invoice paid (billing.invoice_paid)"
    assert not any("webhooks." in pattern for pattern in billing | dict(choices["Shop"]))


def test_a_pattern_that_is_not_published_any_more_is_kept_on_the_page(admin_client, subscription):
    subscription.rules.create(event_type="*")
    subscription.rules.update(event_type="gone.type")
    url = reverse("admin:django_webhooks_subscription_change", args=[subscription.pk])
    shown = text_of(admin_client.get(url))
    assert '<option value="gone.type" selected>gone.type (nothing publishes it)</option>' in shown


def test_fields_of_a_type_come_from_its_model_its_schema_or_its_example(db):
    order = {
        each.path: each for each in fields.fields_of(registry.require_type("shop.order.created"))
    }
    assert order["total"].kind == "number"
    assert order["status"].choices == ["pending", "paid", "shipped"]
    assert order["customer.email"].kind == "text"
    [invoice] = fields.fields_of(registry.require_type("billing.invoice_paid"))
    assert (invoice.path, invoice.kind) == ("invoice", "number")
    example = {"total": "9.80", "on": "2026-11-24", "at": "2026-11-24T10:00:00Z", "sku": "TEA"}
    EventType("billing.sent", example=example)
    try:
        kinds = [each.kind for each in fields.fields_of(registry.require_type("billing.sent"))]
        assert kinds == ["number", "date", "datetime", "text"]
    finally:
        registry.remove_type("billing.sent")
    schema = {"properties": {"at": {"type": ["string", "null"], "format": "date-time"}}}
    EventType("billing.dunned", schema=schema)
    try:
        [at] = fields.fields_of(registry.require_type("billing.dunned"))
        assert (at.path, at.kind) == ("at", "datetime")
    finally:
        registry.remove_type("billing.dunned")


def test_a_serializer_that_breaks_takes_only_its_fields_from_the_builder(admin_client):
    class Broken:
        def __init__(self) -> None:
            raise RuntimeError

    registry.add(Unheard, type("UnheardWebhook", (ModelWebhook,), {"serializer_class": Broken}))
    try:
        described = catalogue.describe_catalogue()
        assert described["shapes"][described["patterns"]["shop.unheard.created"]["shapes"][0]] == []
        assert ask(admin_client, "check", BIG, event_type="shop.unheard.*").json()["sentence"]
    finally:
        registry.remove(Unheard)
        for signal in (pre_save, post_save, pre_delete):
            signal.disconnect(sender=Unheard, dispatch_uid=UID)


# Trying


def test_trying_counts_what_would_have_matched_and_says_what_each_condition_said(
    admin_client, order
):
    other = Order.objects.create(number="A-2", total=1540)
    other.status = "paid"
    other.save()
    response = ask(admin_client, "try", {"all": [PAID, BIG]})
    shown = text_of(response)
    assert "1 of the last 2 events would have matched." in shown
    assert "Nearly matching" in shown
    for event in Event.objects.filter(type="shop.order.updated"):
        assert plain_moment(event.occurred_at) in shown  # with its zone
    assert "total 740.00 is not at least 1000" in shown
    assert "total 1540.00 is at least 1000" in shown


def test_what_is_unknown_is_shown_as_unknown_with_its_reason(admin_client, order):
    Event.objects.filter(type="shop.order.updated").update(data={"status": "paid"})
    shown = text_of(ask(admin_client, "try", BIG))
    assert "unknown: total is missing" in shown
    assert "webhooks-is-unknown" in shown


def test_without_events_it_says_how_to_get_some(admin_client):
    assert "keep_events = True" in text_of(ask(admin_client, "try"))


@pytest.mark.parametrize("view", ["try", "object"])
def test_a_malformed_rule_can_not_be_tried_and_says_why(admin_client, order, view):
    tree = {"all": [{"field": "x", "op": "<b>"}]}
    response = ask(admin_client, view, tree, type="shop.order.updated", object=order.pk)
    assert "all[0].op" in text_of(response)
    assert "<b>" not in response.content.decode()


def test_trying_writes_nothing_and_sends_nothing(admin_client, order, subscription):
    before = (Event.objects.count(), Delivery.objects.count(), subscription.rules.count())
    ask(admin_client, "try", BIG)
    ask(admin_client, "object", BIG, type="shop.order.updated", object=order.pk)
    after = (Event.objects.count(), Delivery.objects.count(), subscription.rules.count())
    assert after == before


@pytest.mark.django_db(transaction=True)
def test_what_is_shown_for_an_object_is_what_is_sent(admin_client, subscribe, receiver):
    subscription = subscribe("shop.order.created", headers={"X-Shop": "7"})
    order = Order.objects.create(number="A-1", total=740)
    worker.drain()
    [request] = receiver.requests
    response = ask(
        admin_client,
        "object",
        event_type="shop.order.created",
        type="shop.order.created",
        object=order.pk,
        subscription=subscription.pk,
    )
    found = response.context["rehearsal"]
    assert found.fires
    sent = json.loads(request.body)
    shown = json.loads(found.body)
    assert (shown["type"], shown["data"]) == (sent["type"], sent["data"])
    names = {name.lower() for name in found.headers}
    assert names <= {name.lower() for name in request.headers}
    assert {"webhook-id", "webhook-signature", "x-shop", "content-type"} <= names


def test_neither_secret_nor_header_value_nor_a_signature_is_shown(
    admin_client, order, subscription
):
    response = ask(
        admin_client,
        "object",
        type="shop.order.updated",
        object=order.pk,
        subscription=subscription.pk,
    )
    shown = text_of(response)
    assert "Authorization: ••••••" in shown
    assert "webhook-signature: v1,••••••" in shown
    assert re.search(r"webhook-hops: 1:\w+:••••••", shown)
    for hidden in ("tr0ub4dor", subscription.secret, subscription.secret.removeprefix("whsec_")):
        assert hidden not in shown


@pytest.mark.parametrize("key", ["", "0", "x", "9" * 40, "\x00"])
def test_an_object_that_is_not_there_is_an_answer(admin_client, order, key):
    response = ask(admin_client, "object", type="shop.order.updated", object=key)
    assert response.status_code == 200
    assert "There is no order with this key. By name none can be found." in text_of(response)


def test_an_object_that_can_not_be_rendered_says_why(admin_client, order, monkeypatch):
    def fail(self, instance):
        raise ValueError("<i>no</i>")

    monkeypatch.setattr("tests.shop.webhooks.OrderWebhook.get_owner", fail)
    response = ask(admin_client, "object", type="shop.order.updated", object=order.pk)
    assert "ValueError: <i>no</i>" in text_of(response)
    assert "<i>" not in response.content.decode()


def test_a_trial_on_events_is_on_those_of_the_owner_in_the_form(admin_client, order, subscription):
    mine, other = User.objects.create_user("mine"), User.objects.create_user("other")
    Event.objects.update(owner=mine)
    none = "No event of this type"

    def shown(**fields) -> str:
        return text_of(ask(admin_client, "try", PAID, **fields))

    one = "1 of the last 1 event would have matched."
    assert one in shown(owner="", subscription="")
    assert one in shown(owner=mine.pk, subscription="")
    assert none in shown(owner=other.pk, subscription="")
    Subscription.objects.update(owner=other)
    assert none in shown(subscription=subscription.pk)  # as it is saved, where none is posted
    assert one in shown(subscription=subscription.pk, owner=mine.pk)


def test_what_would_be_sent_is_by_the_form_and_not_by_what_is_saved(
    admin_client, order, subscription, signing_keys
):
    def tried(**fields):
        fields = {"type": "shop.order.updated", "object": order.pk, **fields}
        return ask(admin_client, "object", subscription=fields.pop("subscription", ""), **fields)

    new = {"url": "https://new.example.com/in", "signature": "v1a", "headers": '{"X-New": "x"}'}
    for pk in (subscription.pk, ""):
        shown = text_of(tried(subscription=pk, owner="", **new))
        assert "POST https://new.example.com/in\n" in shown
        assert "webhook-signature: v1a,••••••" in shown
        assert "X-New: ••••••" in shown
        assert "Authorization" not in shown
        assert "can’t be saved" not in shown
    kept = text_of(tried(subscription=subscription.pk, **{**new, "headers": ""}))
    assert "Authorization: ••••••" in kept
    before = Subscription.objects.values().get()
    assert (before["url"], before["signature"]) == (URL, "v1")


@pytest.mark.parametrize(
    ("fields", "problem", "posted"),
    [
        ({"url": ""}, "URL: This field is required.", "POST https://…\n"),
        ({"url": "ftp://x.example"}, "URL: ", "POST ftp://x.example\n"),
        ({"url": URL, "headers": "{"}, "Headers: This is not valid JSON.", f"POST {URL}\n"),
        ({"url": URL, "headers": '{"host": "x"}'}, "Headers: ", f"POST {URL}\n"),
        ({"url": URL, "signature": "v1a"}, "v1a is not offered here.", f"POST {URL}\n"),
    ],
)
def test_what_would_be_sent_says_what_is_wrong_with_the_form(
    admin_client, order, subscription, fields, problem, posted
):
    Subscription.objects.update(name="a\nb")  # of what is not posted nothing is said
    for pk in (subscription.pk, ""):
        fields = {"type": "shop.order.updated", "object": order.pk, "subscription": pk, **fields}
        shown = text_of(ask(admin_client, "object", **fields))
        assert "can’t be saved as it stands" in shown
        assert problem in shown
        assert posted in shown
        assert "line break" not in shown


@pytest.mark.parametrize(
    ("tree", "headline"),
    [
        ({}, "this would be sent:"),
        (BIG, "nothing would be sent, for the conditions do not hold:"),
        (PAID, "it can’t be told whether this would be sent, for nothing has changed here"),
        ({"all": [PAID, BIG]}, "nothing would be sent, for the conditions do not hold:"),
    ],
)
def test_what_is_unknown_of_an_object_is_not_said_not_to_hold(admin_client, order, tree, headline):
    fields = {"type": "shop.order.updated", "object": order.pk}
    shown = text_of(ask(admin_client, "object", tree, **fields))
    assert f"For “A-1” {headline}" in shown
    assert shown.count("For “A-1”") == 1


def test_an_object_of_another_owner_would_not_be_sent(admin_client, order, subscription):
    subscription.owner = User.objects.create_user("someone")
    subscription.save()
    fields = {"type": "shop.order.updated", "object": order.pk, "subscription": subscription.pk}
    assert "belongs to another owner" in text_of(ask(admin_client, "object", **fields))


def test_the_newest_objects_are_offered(admin_client, order):
    Customer.objects.create(name="x")
    newer = Order.objects.create(number="A-2")
    answer = ask(admin_client, "objects", type="shop.order.updated").json()
    assert answer == {"objects": [[str(newer.pk), "A-2"], [str(order.pk), "A-1"]]}


class OrderAdmin(admin.ModelAdmin):
    search_fields = ("number", "customer__name", "items__sku")

    def get_queryset(self, request):
        return super().get_queryset(request).exclude(note="hidden")


@pytest.fixture
def order_admin():
    admin.site.register(Order, OrderAdmin)
    yield OrderAdmin
    admin.site.unregister(Order)


def test_an_object_is_found_by_what_its_own_admin_searches(admin_client, order, order_admin):
    for sku in "xy":
        order.items.create(sku=f"TEA-{sku}")
    other = Order.objects.create(number="B-2")
    fields = {"type": "shop.order.updated"}
    for words in (" a-1 ", "tea", str(order.pk)):
        answer = ask(admin_client, "objects", object=words, **fields).json()
        assert answer == {"objects": [[str(order.pk), "A-1"]]}
        assert "For “A-1”" in text_of(ask(admin_client, "object", object=words, **fields))
    shown = text_of(ask(admin_client, "object", object="-", **fields))
    assert f"Several orders are meant: B-2 ({other.pk}), A-1 ({order.pk})." in shown
    shown = text_of(ask(admin_client, "object", object="nobody", **fields))
    assert "There is no order with this key or name." in shown
    Order.objects.update(note="hidden")
    assert ask(admin_client, "objects", object="a-1", **fields).json() == {"objects": []}


@pytest.mark.parametrize("words", ["x", "9" * 40, "\x00", "'\"", "a" * 9999])
def test_no_search_for_an_object_breaks(admin_client, order, order_admin, words):
    shown = text_of(ask(admin_client, "object", type="shop.order.updated", object=words))
    assert "There is no order" in shown


@pytest.mark.parametrize("view", ["object", "objects"])
def test_whom_the_objects_own_admin_refuses_finds_none(order, order_admin, monkeypatch, view):
    fields = {"type": "shop.order.updated", "object": "A-1"}
    client = user_with(*EVERYTHING)
    assert ask(client, view, **fields).status_code == 200
    monkeypatch.setattr(OrderAdmin, "has_view_permission", lambda *args: False)
    assert ask(client, view, **fields).status_code == 403


# Who may


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    "codenames",
    [
        (),
        ("view_subscription", "view_event", "view_order"),
        ("change_delivery", "view_event", "view_order"),
    ],
)
def test_who_may_not_write_rules_may_not_ask_even_by_hand(order, view, codenames):
    fields = {"type": "shop.order.updated", "object": order.pk}
    assert ask(user_with(*codenames), view, BIG, **fields).status_code == 403


@pytest.mark.parametrize("view", ["try", "object", "objects"])
def test_who_may_not_see_events_may_not_try(order, view):
    client = user_with("change_subscription", "view_order")
    fields = {"type": "shop.order.updated", "object": order.pk}
    assert ask(client, view, BIG, **fields).status_code == 403
    assert ask(client, "check", BIG).status_code == 200


@pytest.mark.parametrize("view", ["object", "objects"])
def test_who_may_not_see_the_objects_may_not_try_them(order, view):
    client = user_with("change_subscription", "view_event")
    fields = {"type": "shop.order.updated", "object": order.pk}
    assert ask(client, view, BIG, **fields).status_code == 403
    assert ask(client, "try", BIG).status_code == 200


@pytest.mark.parametrize("view", VIEWS)
def test_who_may_everything_it_needs_may_ask(order, view):
    fields = {"type": "shop.order.updated", "object": order.pk}
    assert ask(user_with(*EVERYTHING), view, BIG, **fields).status_code == 200


@pytest.mark.parametrize("name", ["", "billing.notice", "nothing.at_all"])
def test_only_a_type_with_objects_has_objects(admin_client, order, name):
    assert ask(admin_client, "objects", type=name).status_code == 403


@pytest.mark.parametrize("view", VIEWS)
def test_the_builder_is_answered_only_to_posts_of_our_own_pages(db, view):
    user = User.objects.create_superuser("boss")
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    assert ask(client, view, BIG).status_code == 403
    assert client.get(reverse(f"admin:django_webhooks_rule_{view}")).status_code == 405
    response = ask(Client(), view, BIG)
    assert response.status_code == 302
    assert "/login/" in response.url


# Who may only look


def test_who_may_only_look_reads_conditions_in_words_with_the_json_below(subscription):
    tree = {"all": [PAID, {"not": {"any": [BIG, {"field": "<b>", "op": "exists"}]}}]}
    subscription.rules.create(event_type="shop.order.*", conditions=tree)
    subscription.rules.create(event_type="shop.item.*")
    Rule.objects.bulk_create(  # from elsewhere
        [Rule(subscription=subscription, event_type="x", conditions={"all": 3})]
    )
    shown = text_of(
        user_with("view_subscription").get(page("subscription_change", subscription.pk))
    )
    words = "all of", "status changes to “paid”", "not", "any of", "total is at least 1000"
    place = 0
    for each in words:
        place = shown.index(f"<span>{each}</span>", place)
    assert shown.index("The same as JSON") > place
    assert shown.index('"op": "changed_to"') > place
    assert "No conditions: each event of this type is sent." in shown
    assert "malformed condition" in shown
    assert "Empty: always" not in shown
    assert '"all": 3' in shown


# Why, and why not


def test_the_event_page_names_subscriptions_only_to_those_who_may_see_them(order, subscription):
    Delivery.objects.create(
        event=Event.objects.latest("pk"), subscription=subscription, matched="order updated"
    )
    url = reverse("admin:django_webhooks_event_change", args=[Event.objects.latest("pk").pk])
    shown = text_of(user_with("view_event").get(url))
    assert "Shop" not in shown.partition('id="content"')[2].replace("shop.order", "")
    assert "Why, and why not" not in shown
    assert "order updated" not in shown


def test_the_event_page_speaks_plainly(admin_client, order):
    Event.objects.update(fanned_out_at=None, hops=3)
    shown = text_of(admin_client.get(page("event_change", Event.objects.latest("pk").pk)))
    assert "Compared with the rules:" in shown
    assert "It has not been compared with the rules yet" in shown
    assert "will fire</span>" in shown
    assert "did not fire" not in shown
    assert "by it a loop is found and ended" in shown
    visible = re.sub(r"<[^>]*>", " ", shown).lower()
    assert not re.search(r"fan(ned)?[ -]out|\bhops\b", visible)


def test_the_event_page_shows_groups_within_groups(admin_client, order, subscription):
    subscription.rules.update(conditions={"all": [PAID, {"any": [BIG, {"not": BIG}]}]})
    event = Event.objects.filter(type="shop.order.updated").get()
    shown = text_of(
        admin_client.get(reverse("admin:django_webhooks_event_change", args=[event.pk]))
    )
    for words in ("all of", "any of", "status changed from “pending” to “paid”"):
        assert words in shown
    assert shown.count("total 740.00 is not at least 1000") == 2


def test_the_event_page_names_subscriptions_without_rules(admin_client, order, subscription):
    bare = Subscription.objects.create(name="Bare", url=URL)
    event = Event.objects.latest("pk")
    whys = admin_client.get(page("event_change", event.pk)).context["reasons"]
    assert [each.subscription for each in whys] == [subscription, bare]
    shown = text_of(admin_client.get(page("event_change", event.pk)))
    assert shown.count("has no rules") == 1
    assert "Only what goes past the rules" in shown


@pytest.mark.django_db(transaction=True)
def test_the_delivery_page_says_how_its_rule_matched(admin_client, subscribe, receiver):
    subscription = subscribe("shop.order.updated", {"any": [PAID, BIG]})
    order = Order.objects.create(number="A-1", total=740)
    order.status = "paid"
    order.save()
    worker.drain()
    url = reverse("admin:django_webhooks_delivery_change", args=[Delivery.objects.get().pk])
    shown = text_of(admin_client.get(url))
    assert "status changed from “pending” to “paid”" in shown
    assert "total 740.00 is not at least 1000" in shown
    assert "The rule reads now" not in shown
    subscription.rules.update(conditions={"not": BIG})
    assert "The rule reads now: order updated, when total is not at least 1000" in text_of(
        admin_client.get(url)
    )
    subscription.rules.all().delete()
    assert "they were changed since" in text_of(admin_client.get(url))


@pytest.mark.parametrize("publish", [outbox.publish_test, outbox.publish_challenge])
def test_what_the_app_sends_itself_is_told_to_go_past_the_rules(admin_client, order, publish):
    delivery = publish(Subscription.objects.get())
    shown = text_of(admin_client.get(page("event_change", delivery.event_id)))
    assert "past the rules" in shown
    assert "did not fire" not in shown
    listed = text_of(admin_client.get(page("event_changelist")))
    assert f"event_type={delivery.event.type}" in listed
    assert f"s ({delivery.event.type})</a>" in listed
