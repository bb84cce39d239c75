"""The admin through its real pages: what it shows, whom it lets do what, what it never shows."""

import html
import json
import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from django_webhooks import worker
from django_webhooks.admin import SubscriptionAdmin
from django_webhooks.models import Attempt, Delivery, Event, Rule, Subscription
from django_webhooks.signing import generate_signing_key
from tests.shop.models import Customer, Order

LAST_MOMENT = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
URL = "https://receiver.example.com/hook"
HEADER_VALUE = "Bearer tr0ub4dor"
PAID = {"field": "status", "op": "changed_to", "value": "paid"}


def page(name: str, *args: object) -> str:
    return reverse(f"admin:django_webhooks_{name}", args=args)


def text_of(response) -> str:
    return html.unescape(response.content.decode())


def messages_of(response) -> list[str]:
    return [str(message) for message in response.context["messages"]]


def typed(rules: list[dict] | None = None, initial: int = 0, **fields: object) -> dict:
    """What a browser posts from the subscription page."""
    data = {
        "name": "Shop",
        "url": URL,
        "owner": "",
        "mode": "recurring",
        "signature": "v1",
        "headers": "",
        "timeout": "",
        "max_per_second": "",
        "rules-TOTAL_FORMS": len(rules or []),
        "rules-INITIAL_FORMS": initial,
        "rules-MIN_NUM_FORMS": 0,
        "rules-MAX_NUM_FORMS": 1000,
        **fields,
    }
    for index, rule in enumerate(rules or []):
        data |= {f"rules-{index}-{name}": value for name, value in rule.items()}
    return data


def act(client: Client, name: str, action: str, *rows: object, **extra: object):
    data = {"action": action, "_selected_action": [row.pk for row in rows], **extra}
    return client.post(page(f"{name}_changelist"), data, follow=True)


def user_with(*codenames: str) -> Client:
    user = User.objects.create_user("clerk", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def viewer(db) -> Client:
    """May see everything and change nothing."""
    names = ("subscription", "rule", "event", "delivery", "attempt")
    return user_with(*(f"view_{name}" for name in names))


@pytest.fixture
def subscription(db) -> Subscription:
    made = Subscription.objects.create(
        name="Shop", url=URL, headers={"Authorization": HEADER_VALUE}
    )
    made.rules.create(event_type="shop.order.updated", conditions=PAID)
    return made


@pytest.fixture
def delivery(subscription) -> Delivery:
    """One that failed for now, of an order that was paid."""
    event = Event.objects.create(
        type="shop.order.updated",
        action="updated",
        subject_type="shop.order",
        subject_id="7",
        data={"id": 7, "status": "paid"},
        previous={"status": "pending"},
        body='{"type":"shop.order.updated","data":{"object":{"status":"paid"}}}',
        fanned_out_at=timezone.now(),
    )
    made = Delivery.objects.create(
        event=event,
        subscription=subscription,
        matched="order updated, when status changes to “paid”",
        attempt_count=1,
        next_attempt_at=timezone.now() + timedelta(minutes=5),
        reason="HTTP 503",
    )
    Attempt.objects.create(
        delivery=made,
        number=1,
        started_at=timezone.now(),
        duration_ms=31,
        url=URL,
        request_headers={"webhook-id": event.pk, "Authorization": "••••••"},
        status_code=503,
        response_headers={"retry-after": "60"},
        response_body="<script>alert(1)</script>",
        error="status",
    )
    return made


def all_pages(subscription: Subscription, delivery: Delivery) -> list[str]:
    return [
        page("subscription_changelist"),
        page("subscription_add"),
        page("subscription_change", subscription.pk),
        page("subscription_history", subscription.pk),
        page("subscription_delete", subscription.pk),
        page("delivery_changelist"),
        page("delivery_change", delivery.pk),
        page("delivery_history", delivery.pk),
        page("event_changelist"),
        page("event_change", delivery.event_id),
    ]


# Subscriptions: the page


def test_a_subscription_is_added_with_its_rules_on_one_page(admin_client):
    rule = {"event_type": "shop.order.*", "conditions": json.dumps(PAID)}
    admin_client.post(page("subscription_add"), typed([rule], headers='{"X-Key": "k"}'))
    made = Subscription.objects.get()
    assert (made.name, made.url, made.headers) == ("Shop", URL, {"X-Key": "k"})
    assert [(each.event_type, each.conditions) for each in made.rules.all()] == [
        ("shop.order.*", PAID)
    ]


def test_a_generated_secret_is_shown_exactly_once(admin_client):
    response = admin_client.post(page("subscription_add"), typed(), follow=True)
    secret = Subscription.objects.get().secret
    assert text_of(response).count(secret) == 1
    for again in (page("subscription_changelist"), page("subscription_change", _pk())):
        assert secret not in text_of(admin_client.get(again))


def test_the_new_secret_lies_in_no_store_on_its_way_to_the_page(admin_client):
    response = admin_client.post(page("subscription_add"), typed())
    secret = Subscription.objects.get().secret
    assert secret not in str(dict(admin_client.session))
    assert secret not in str(response.cookies)
    assert secret not in str(admin_client.get(response.url).cookies)


def test_a_given_secret_is_taken(admin_client):
    secret = "whsec_" + "QUJD" * 10
    response = admin_client.post(page("subscription_add"), typed(secret=secret), follow=True)
    assert Subscription.objects.get().secret == secret
    assert secret in text_of(response)


def test_a_bad_secret_is_an_error_at_its_field(admin_client):
    response = admin_client.post(page("subscription_add"), typed(secret="hunter2"))
    assert "A secret starts with whsec_" in response.context["errors"].as_text()
    assert response.context["adminform"].form.errors.keys() == {"secret"}
    assert not Subscription.objects.exists()


@pytest.fixture
def signing_keys(settings) -> list[str]:
    keys = [generate_signing_key()]
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "SIGNING_KEYS": keys}
    return keys


def test_v1a_is_chosen_on_the_page_and_shows_the_public_key_not_the_secret(
    admin_client, signing_keys
):
    response = admin_client.post(page("subscription_add"), typed(signature="v1a"), follow=True)
    made = Subscription.objects.get()
    assert made.signature == "v1a"
    for shown in (text_of(response), text_of(admin_client.get(page("subscription_change", _pk())))):
        assert made.public_keys[0] in shown
        assert made.secret not in shown
        assert "whsk_" not in shown


def test_v1a_without_signing_keys_is_an_error_at_its_field(admin_client):
    response = admin_client.post(page("subscription_add"), typed(signature="v1a"))
    assert response.context["adminform"].form.errors.keys() == {"signature"}
    assert not Subscription.objects.exists()


def test_rotation_of_a_secret_that_signs_nothing_says_so(admin_client, subscription, signing_keys):
    subscription.signature = "v1a"
    subscription.save()
    shown = text_of(act(admin_client, "subscription", "rotate_secret", subscription))
    assert "signs once the signature is v1" in shown
    assert "signed with both" not in shown
    assert "Not used" in text_of(admin_client.get(page("subscription_change", subscription.pk)))


def test_the_signature_is_changed(admin_client, subscription, signing_keys):
    admin_client.post(page("subscription_change", subscription.pk), typed(signature="v1a"))
    subscription.refresh_from_db()
    assert subscription.signature == "v1a"


def test_the_secret_can_not_be_set_on_the_change_page(admin_client, subscription):
    secret = "whsec_" + "QUJD" * 10
    admin_client.post(page("subscription_change", subscription.pk), typed(secret=secret))
    subscription.refresh_from_db()
    assert subscription.secret != secret


def test_a_refused_url_is_an_error_at_its_field_and_kept(admin_client):
    response = admin_client.post(page("subscription_add"), typed(url="ftp://example.com/x"))
    form = response.context["adminform"].form
    assert form.errors.keys() == {"url"}
    assert len(form.errors["url"]) == 1
    assert 'value="ftp://example.com/x"' in response.content.decode()


def test_an_empty_url_has_one_error(admin_client):
    response = admin_client.post(page("subscription_add"), typed(url=""))
    assert len(response.context["adminform"].form.errors["url"]) == 1


@pytest.mark.parametrize(
    ("rule", "field", "error"),
    [
        ({"event_type": "shop.ordr.created"}, "event_type", "Did you mean"),
        ({"event_type": ""}, "event_type", "Choose an event type."),
        ({"conditions": "{"}, "conditions", "not valid JSON"),
        ({"conditions": "[1]"}, "conditions", "must be a JSON object"),
        ({"conditions": "null"}, "conditions", "must be a JSON object"),
        ({"conditions": '{"all": [{"field": "a", "op": "like"}]}'}, "conditions", "all[0].op"),
        ({"conditions": '{"all":' + "[" * 50_000}, "conditions", "not valid JSON"),
        ({"conditions": '{"not":' * 900 + "{}" + "}" * 900}, "conditions", ""),
        (
            {"conditions": '{"field": "a", "op": "eq", "value": %s}' % ("9" * 5000)},
            "conditions",
            "",
        ),
        ({"conditions": '{"field": "a", "op": "gt", "value": NaN}'}, "conditions", ""),
        ({"conditions": '{"field": "a\\u0000", "op": "changed"}'}, "conditions", ""),
        ({"conditions": '{"field": "\\ud800", "op": "changed"}'}, "conditions", ""),
    ],
)
def test_a_bad_rule_is_one_error_at_its_field_and_what_was_typed_is_kept(
    admin_client, rule, field, error
):
    rule = {"event_type": "shop.order.created", "conditions": json.dumps(PAID), **rule}
    response = admin_client.post(page("subscription_add"), typed([rule]))
    assert response.status_code == 200
    [form] = response.context["inline_admin_formsets"][0].formset.forms
    assert form.errors.keys() == {field}
    assert len(form.errors[field]) == 1
    assert error in form.errors[field][0]
    shown = text_of(response)
    assert all(value in shown for value in rule.values())
    assert not Subscription.objects.exists()


def test_a_rule_is_changed_and_another_removed(admin_client, subscription):
    first = subscription.rules.get()
    second = subscription.rules.create(event_type="*")
    kept = {"id": first.pk, "event_type": "shop.order.created", "conditions": ""}
    gone = {"id": second.pk, "event_type": "*", "conditions": "", "DELETE": "on"}
    admin_client.post(page("subscription_change", subscription.pk), typed([kept, gone], initial=2))
    assert [(rule.pk, rule.event_type, rule.conditions) for rule in Rule.objects.all()] == [
        (first.pk, "shop.order.created", {})
    ]


def test_a_malformed_rule_from_elsewhere_is_still_shown(admin_client, subscription):
    subscription.rules.update(event_type="gone.type", conditions={"all": "nonsense"})
    for url in (page("subscription_changelist"), page("subscription_change", subscription.pk)):
        assert "gone.type" in text_of(admin_client.get(url))


def test_empty_headers_keep_those_that_are_there(admin_client, subscription):
    admin_client.post(page("subscription_change", subscription.pk), typed(name="New"))
    subscription.refresh_from_db()
    assert (subscription.name, subscription.headers) == ("New", {"Authorization": HEADER_VALUE})


@pytest.mark.parametrize(("text", "headers"), [("{}", {}), ('{"X-Key": "k"}', {"X-Key": "k"})])
def test_headers_are_replaced(admin_client, subscription, text, headers):
    admin_client.post(page("subscription_change", subscription.pk), typed(headers=text))
    subscription.refresh_from_db()
    assert subscription.headers == headers


def test_a_masked_header_keeps_its_value_and_others_are_changed_beside_it(
    admin_client, subscription
):
    change = page("subscription_change", subscription.pk)
    shown = admin_client.get(change).context["adminform"].form["headers"].value()
    assert json.loads(shown) == {"Authorization": "••••••"}
    admin_client.post(change, typed(headers='{"Authorization": "••••••", "X-Key": "k"}'))
    subscription.refresh_from_db()
    assert subscription.headers == {"Authorization": HEADER_VALUE, "X-Key": "k"}
    admin_client.post(change, typed(headers='{"X-Key": "••••••"}'))
    subscription.refresh_from_db()
    assert subscription.headers == {"X-Key": "k"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"X-New": "••••••"}', "Enter the value of X-New: there is none yet."),
        ('{"X-New": "a", "X-New": "b"}', "“X-New” is there twice: keep one."),
    ],
)
def test_no_header_is_lost_or_masked_for_good(admin_client, subscription, text, told):
    for url in (page("subscription_change", subscription.pk), page("subscription_add")):
        assert told in text_of(admin_client.post(url, typed(headers=text)))
    assert Subscription.objects.get().headers == {"Authorization": HEADER_VALUE}


@pytest.mark.parametrize("text", ['{"Host": "x"}', "[]", "{", '{"X": 1}', "null"])
def test_bad_headers_are_an_error_at_their_field(admin_client, subscription, text):
    response = admin_client.post(page("subscription_change", subscription.pk), typed(headers=text))
    assert response.context["adminform"].form.errors.keys() == {"headers"}
    subscription.refresh_from_db()
    assert subscription.headers == {"Authorization": HEADER_VALUE}


def test_saving_does_not_undo_what_a_worker_wrote_meanwhile(
    admin_client, subscription, monkeypatch
):
    get_object = SubscriptionAdmin.get_object

    def and_then_it_is_disabled(self, *args):
        found = get_object(self, *args)
        Subscription.objects.get(pk=found.pk).disable("gone")
        return found

    monkeypatch.setattr(SubscriptionAdmin, "get_object", and_then_it_is_disabled)
    admin_client.post(page("subscription_change", subscription.pk), typed(name="New"))
    subscription.refresh_from_db()
    assert (subscription.name, subscription.status) == ("New", "disabled")


def test_status_can_not_be_posted(admin_client, subscription):
    admin_client.post(page("subscription_change", subscription.pk), typed(status="disabled"))
    subscription.refresh_from_db()
    assert subscription.status == "active"


def test_unreadable_secrets_and_headers_break_no_page(admin_client, subscription, settings):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "SECRET_KEYS": ["another key, lost"]}
    change = page("subscription_change", subscription.pk)
    assert admin_client.get(page("subscription_changelist")).status_code == 200
    assert "none of SECRET_KEYS fits" in text_of(admin_client.get(change))
    assert admin_client.post(change, typed(name="New")).status_code == 302
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "SECRET_KEYS": None}
    subscription.refresh_from_db()
    assert (subscription.name, subscription.headers) == ("New", {"Authorization": HEADER_VALUE})


# Subscriptions: the list


def test_the_list_shows_rules_as_sentences_and_the_url_as_text(admin_client, subscription):
    shown = text_of(admin_client.get(page("subscription_changelist")))
    assert "order updated, when status changes to “paid”" in shown
    assert URL in shown
    assert f'href="{URL}' not in shown


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("?q=receiver", 1),
        ("?q=Shop", 1),
        ("?q=nothing", 0),
        ("?status__exact=paused", 0),
        ("?mode__exact=recurring", 1),
    ],
)
def test_the_list_is_searched_and_filtered(admin_client, subscription, query, count):
    response = admin_client.get(page("subscription_changelist") + query)
    assert response.context["cl"].result_count == count


def test_the_subscription_list_costs_the_same_for_3_and_60(admin_client, django_assert_num_queries):
    def grow(count: int) -> None:
        for number in range(count):
            owner = User.objects.create_user(f"u{Subscription.objects.count()}")
            made = Subscription.objects.create(name=f"s{number}", url=URL, owner=owner)
            made.rules.create(event_type="shop.order.*", conditions=PAID)
            made.rules.create(event_type="*")

    grow(3)
    _warm_up(admin_client)
    queries = _queries(admin_client, page("subscription_changelist"))
    grow(57)
    with django_assert_num_queries(queries):
        admin_client.get(page("subscription_changelist"))


# Subscriptions: actions


def test_pause_and_resume(admin_client, subscription):
    response = act(admin_client, "subscription", "pause", subscription)
    subscription.refresh_from_db()
    assert subscription.status == "paused"
    assert "1 subscription is paused" in messages_of(response)[0]
    act(admin_client, "subscription", "resume", subscription)
    subscription.refresh_from_db()
    assert subscription.status == "active"
    assert [entry.change_message for entry in LogEntry.objects.order_by("pk")] == [
        "Paused.",
        "Resumed.",
    ]


def test_pausing_what_is_not_active_says_so_and_logs_nothing(admin_client, subscription):
    subscription.disable("gone")
    response = act(admin_client, "subscription", "pause", subscription)
    subscription.refresh_from_db()
    assert subscription.status == "disabled"
    assert messages_of(response) == ["No active subscription was chosen."]
    assert not LogEntry.objects.exists()


def test_a_button_of_the_page_leads_back_to_the_page(admin_client, subscription):
    shown = text_of(admin_client.get(page("subscription_change", subscription.pk)))
    assert 'name="action" value="pause"' in shown
    assert 'name="action" value="resume"' not in shown
    response = act(admin_client, "subscription", "pause", subscription, _from_page="1")
    assert response.redirect_chain == [(page("subscription_change", subscription.pk), 302)]
    assert 'name="action" value="resume"' in text_of(response)


@pytest.mark.django_db(transaction=True)
def test_a_test_event_is_sent(admin_client, subscribe, receiver):
    subscription = subscribe("shop.order.*")
    response = act(admin_client, "subscription", "send_test", subscription)
    assert messages_of(response) == ["A test event is on its way."]
    worker.drain()
    [request] = receiver.requests
    assert request.verify(subscription.secret).type == "webhooks.test"
    assert LogEntry.objects.get().change_message == "Sent a test event."
    event = Event.objects.get()
    assert "past the rules" in text_of(admin_client.get(page("event_change", event.pk)))


def test_disable_asks_why_and_only_staff_resume(admin_client, subscription):
    asked = act(admin_client, "subscription", "disable", subscription)
    assert "until staff resume it" in asked.content.decode()
    empty = act(admin_client, "subscription", "disable", subscription, confirmed="1", reason=" ")
    assert "This field is required" in empty.content.decode()
    subscription.refresh_from_db()
    assert subscription.status == "active"
    act(admin_client, "subscription", "disable", subscription, confirmed="1", reason="Complaints.")
    subscription.refresh_from_db()
    assert (subscription.status, subscription.disabled_reason) == ("disabled", "Complaints.")
    assert subscription.resume() is False
    assert LogEntry.objects.latest("id").change_message == "Disabled: Complaints."
    act(admin_client, "subscription", "resume", subscription)
    subscription.refresh_from_db()
    assert (subscription.status, subscription.locked) == ("active", False)


def test_a_test_event_to_a_paused_subscription_says_that_it_waits(admin_client, subscription):
    subscription.pause()
    response = act(admin_client, "subscription", "send_test", subscription)
    assert any("waits until" in message for message in messages_of(response))


def test_rotation_asks_first_and_then_shows_the_new_secret_once(admin_client, subscription):
    old = subscription.secret
    response = act(admin_client, "subscription", "rotate_secret", subscription)
    subscription.refresh_from_db()
    assert subscription.secret == old
    assert "For 24 hours" in text_of(response)

    response = act(
        admin_client, "subscription", "rotate_secret", subscription, confirmed="1", _from_page="1"
    )
    subscription.refresh_from_db()
    new = subscription.secret
    assert new != old
    assert subscription.signing_secrets == [new, old]
    assert text_of(response).count(new) == 1
    assert "the old one signs, too" in text_of(response)
    assert LogEntry.objects.get().change_message == "Rotated the secret."

    again = text_of(admin_client.get(page("subscription_change", subscription.pk)))
    assert new not in again
    assert old not in again
    assert "the old one signs, too" in again
    response = act(admin_client, "subscription", "rotate_secret", subscription)
    assert "The last rotation is not over" in text_of(response)


def test_a_leaked_secret_stops_signing_at_once(admin_client, subscription):
    old = subscription.secret
    extra = {"confirmed": "1", "leaked": "on"}
    act(admin_client, "subscription", "rotate_secret", subscription, **extra)
    subscription.refresh_from_db()
    assert len(subscription.signing_secrets) == 1
    assert old not in subscription.signing_secrets


def test_rotation_takes_one_subscription_at_a_time(admin_client, subscription):
    other = Subscription.objects.create(url=URL)
    before = other.secret
    response = act(
        admin_client, "subscription", "rotate_secret", subscription, other, confirmed="1"
    )
    other.refresh_from_db()
    assert other.secret == before
    assert "Choose one subscription" in messages_of(response)[0]


# Deliveries


@pytest.mark.django_db(transaction=True)
def test_the_delivery_page_tells_what_was_sent_and_what_came_back(
    admin_client, subscribe, receiver
):
    receiver.answer = lambda request: (500, {"x-trace": "abc"}, b"<b>broken</b>")
    subscribe("shop.order.updated", PAID, headers={"Authorization": HEADER_VALUE})
    order = Order.objects.create(number="A-1")
    order.status = "paid"
    order.save()
    worker.drain()
    delivery = Delivery.objects.get()
    response = admin_client.get(page("delivery_change", delivery.pk))
    shown = text_of(response)
    assert "order updated, when status changes to “paid”" in shown
    assert '"number": "A-1"' in shown
    assert f"webhook-id: {delivery.event_id}" in shown
    assert "x-trace: abc" in shown
    assert HEADER_VALUE not in shown
    assert "&lt;b&gt;broken&lt;/b&gt;" in response.content.decode()
    assert "<b>broken" not in response.content.decode()


def test_a_delivery_whose_subscription_is_gone_is_shown(admin_client, delivery):
    delivery.subscription.delete()
    assert "(deleted)" in text_of(admin_client.get(page("delivery_changelist")))
    response = admin_client.get(page("delivery_change", delivery.pk))
    assert response.status_code == 200
    assert 'value="redeliver"' not in text_of(response)


def test_the_delivery_list_costs_the_same_for_3_and_60(
    admin_client, subscription, django_assert_num_queries
):
    def grow(count: int) -> None:
        for _ in range(count):
            event = Event.objects.create(type="shop.order.created")
            Delivery.objects.create(event=event, subscription=subscription)

    grow(3)
    _warm_up(admin_client)
    queries = _queries(admin_client, page("delivery_changelist"))
    grow(57)
    with django_assert_num_queries(queries):
        response = admin_client.get(page("delivery_changelist"))
    assert response.context["cl"].result_count == 60


def test_the_delivery_list_is_searched_and_filtered(admin_client, delivery, subscription):
    def count(query: str) -> int:
        response = admin_client.get(page("delivery_changelist") + query)
        assert response.status_code == 200
        return response.context["cl"].result_count

    assert count("?q=" + delivery.event_id) == 1
    assert count("?q=7") == 1
    assert count("?q=receiver.example") == 1
    assert count("?q=nothing") == 0
    assert count(f"?subscription__id__exact={subscription.pk}") == 1
    assert count("?status__exact=failed") == 0
    assert count("?event_type=shop.order.updated") == 1
    assert count("?event_type=webhooks.test") == 0
    changelist = admin_client.get(page("delivery_changelist")).context["cl"]
    _any_date, today, *_ = changelist.filter_specs[-1].choices(changelist)
    assert count(today["query_string"]) == 1
    Event.objects.update(occurred_at=timezone.now() - timedelta(days=2))
    assert count(today["query_string"]) == 0


def test_the_filter_offers_only_subscriptions_with_deliveries(admin_client, delivery):
    Subscription.objects.create(name="Idle", url=URL)
    assert "Idle" not in text_of(admin_client.get(page("delivery_changelist")))


def test_redeliver_sends_again_skips_what_is_in_flight_and_says_so(
    admin_client, delivery, subscription
):
    delivery.status, delivery.next_attempt_at = "failed", None
    delivery.save()
    event = Event.objects.create(type="shop.order.created")
    flying = Delivery.objects.create(
        event=event,
        subscription=subscription,
        lease_token=uuid4(),
        next_attempt_at=timezone.now(),
    )
    assert "in flight" in text_of(admin_client.get(page("delivery_changelist")))
    response = act(admin_client, "delivery", "redeliver", delivery, flying)
    delivery.refresh_from_db()
    assert delivery.status == "pending"
    first, second = messages_of(response)
    assert first == "1 delivery is sent again."
    assert second.startswith("1 was skipped")
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.change_message) == (str(delivery.pk), "Redelivered.")


@pytest.mark.parametrize("name", ["delivery", "event"])
def test_deliveries_and_events_can_not_be_added_changed_or_deleted(admin_client, delivery, name):
    pk = delivery.pk if name == "delivery" else delivery.event_id
    assert admin_client.get(page(f"{name}_add")).status_code == 403
    assert admin_client.post(page(f"{name}_change", pk), {"status": "x"}).status_code == 403
    assert admin_client.post(page(f"{name}_delete", pk), {"post": "yes"}).status_code == 403
    act(admin_client, name, "delete_selected", delivery, post="yes")
    assert Delivery.objects.count() == 1


# Events


def test_the_event_page_tells_for_each_rule_why_or_why_not(admin_client, delivery, subscription):
    tree = {"all": [PAID, {"field": "id", "op": "gt", "value": 100}]}
    rich = Subscription.objects.create(name="Rich", url=URL)
    rich.rules.create(event_type="shop.order.*", conditions=tree)
    deaf = Subscription.objects.create(name="Deaf", url=URL)
    deaf.rules.create(event_type="shop.item.created")
    response = admin_client.get(page("event_change", delivery.event_id))
    shown = text_of(response)
    fired = {str(e.explanation.rule.subscription): e for e in response.context["reasons"]}
    assert fired["Shop"].explanation.fired
    assert not fired["Rich"].explanation.fired
    assert "id 7 is not greater than 100" in shown
    assert "It listens to shop.item.created" in shown
    assert list(fired)[-1] == "Deaf"
    assert page("delivery_change", delivery.pk) in shown


def test_the_event_page_shows_at_most_50_rules(admin_client, delivery, subscription):
    for _ in range(60):
        subscription.rules.create(event_type="shop.order.*")
    response = admin_client.get(page("event_change", delivery.event_id))
    assert len(response.context["reasons"]) == 50
    assert "Only the first 50 rules are shown." in text_of(response)


@pytest.mark.django_db(transaction=True)
def test_an_event_whose_owner_is_gone_is_shown(admin_client, subscribe):
    subscribe("shop.order.*")
    user = User.objects.create_user("leaver")
    order = Order.objects.create(number="A-1", customer=Customer.objects.create(user=user))
    event = Event.objects.get(subject_id=str(order.pk))
    gone = f"{user.pk} (deleted)"
    assert "leaver" in text_of(admin_client.get(page("event_changelist")))
    user.delete()
    for url in (page("event_changelist"), page("event_change", event.pk)):
        assert gone in text_of(admin_client.get(url))
    worker.drain()
    delivery = Delivery.objects.get()
    assert admin_client.get(page("delivery_change", delivery.pk)).status_code == 200


def test_an_event_that_could_not_be_rendered_shows_why(admin_client, subscription):
    event = Event.objects.create(type="shop.order.updated", error="KeyError: 'x'")
    for url in (page("event_changelist"), page("event_change", event.pk)):
        assert "KeyError: 'x'" in text_of(admin_client.get(url))


def test_half_a_surrogate_pair_breaks_no_page(admin_client, delivery):
    Event.objects.filter(pk=delivery.event_id).update(body='{"a": "\\ud800"}')
    Attempt.objects.update(response_headers={"x": "\x1b"})
    assert admin_client.get(page("delivery_change", delivery.pk)).status_code == 200


# Permissions and secrets


@pytest.mark.parametrize("action", ["send_test", "pause", "resume", "rotate_secret"])
def test_a_viewer_can_not_act_on_a_subscription_even_by_hand(viewer, subscription, action):
    if action == "resume":
        subscription.pause()
    before = Subscription.objects.values().get()
    act(viewer, "subscription", action, subscription, confirmed="1", _from_page="1")
    assert Subscription.objects.values().get() == before
    assert not Delivery.objects.exists()
    assert not LogEntry.objects.exists()
    url = page("subscription_change", subscription.pk)
    assert viewer.post(url, typed(name="x")).status_code == 403
    assert 'name="action"' not in text_of(viewer.get(url))


def test_redeliver_says_what_waits_until_its_subscription_is_resumed(admin_client, delivery):
    delivery.subscription.pause()
    told = messages_of(act(admin_client, "delivery", "redeliver", delivery))
    assert "1 of them waits until its subscription is resumed." in told


def test_a_viewer_can_not_redeliver_even_by_hand(viewer, delivery):
    before = Delivery.objects.values().get()
    act(viewer, "delivery", "redeliver", delivery, _from_page="1")
    assert Delivery.objects.values().get() == before
    assert not LogEntry.objects.exists()
    assert 'name="action"' not in text_of(viewer.get(page("delivery_change", delivery.pk)))


def test_who_may_change_deliveries_may_redeliver(delivery):
    client = user_with("change_delivery")
    assert "Attempt" in text_of(client.get(page("delivery_change", delivery.pk)))
    act(client, "delivery", "redeliver", delivery)
    assert LogEntry.objects.get().change_message == "Redelivered."


def test_who_may_change_subscriptions_may_change_their_rules(subscription):
    client = user_with("change_subscription")
    rule = {"id": subscription.rules.get().pk, "event_type": "*", "conditions": ""}
    client.post(page("subscription_change", subscription.pk), typed([rule], initial=1))
    assert subscription.rules.get().event_type == "*"


def test_who_may_only_add_is_shown_the_new_secret_once(db):
    client = user_with("add_subscription")
    response = client.post(page("subscription_add"), typed(name="Mine"), follow=True)
    secret = Subscription.objects.get().secret
    assert text_of(response).count(f">{secret}</code>") == 1
    assert any("was added" in each for each in messages_of(response))
    for name in ("subscription_add", "subscription_changelist"):
        assert secret not in text_of(client.get(page(name)))


def test_who_may_only_add_gets_no_further(db, subscription):
    client = user_with("add_subscription")
    rule = {"event_type": "*", "conditions": ""}
    client.post(page("subscription_add"), typed([rule], name="Mine"))
    assert Subscription.objects.get(name="Mine").rules.get().event_type == "*"
    act(client, "subscription", "pause", subscription)
    subscription.refresh_from_db()
    assert subscription.status == "active"


def test_strangers_see_nothing(db, subscription, delivery):
    client = user_with()
    for url in all_pages(subscription, delivery):
        assert client.get(url).status_code == 403


@pytest.mark.parametrize("who", ["admin_client", "viewer"])
def test_no_page_shows_a_secret_or_a_header_value(request, subscription, delivery, who):
    client = request.getfixturevalue(who)
    older = subscription.secret
    newer = subscription.rotate_secret()
    if who == "admin_client":
        typed_in = typed(name="Other", headers=json.dumps({"Authorization": HEADER_VALUE}))
        client.post(page("subscription_change", subscription.pk), typed_in)
    for url in all_pages(subscription, delivery):
        shown = text_of(client.get(url))
        for hidden in (older, newer, HEADER_VALUE):
            assert hidden not in shown
            assert hidden.removeprefix("whsec_") not in shown
    assert "Authorization" in text_of(client.get(page("subscription_change", subscription.pk)))


def test_no_page_has_inline_scripts_or_styles(admin_client, subscription, delivery):
    rotate = act(admin_client, "subscription", "rotate_secret", subscription)
    pages = [admin_client.get(url) for url in all_pages(subscription, delivery)]
    for response in (*pages, rotate):
        shown = response.content.decode()
        assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=", shown)


def test_a_url_is_text_however_it_reads(admin_client, delivery):
    odd = 'javascript:alert("1")'
    Subscription.objects.update(url=odd)
    Attempt.objects.update(url=odd)
    for url in all_pages(delivery.subscription, delivery):
        assert 'href="javascript:' not in text_of(admin_client.get(url))


def test_a_new_secret_of_a_subscription_that_is_gone_is_dropped(admin_client, subscription):
    session = admin_client.session
    session["django_webhooks_new_secret_of"] = ["4f2c8a52-0000-4000-8000-000000000000", ""]
    session.save()
    assert admin_client.get(page("subscription_changelist")).status_code == 200


def test_a_secret_that_another_has_made_meanwhile_is_not_shown(admin_client, subscription):
    rotate = {"action": "rotate_secret", "_selected_action": [subscription.pk], "confirmed": "1"}
    admin_client.post(page("subscription_changelist"), rotate)  # and the page is not opened
    subscription.refresh_from_db()
    newest = subscription.rotate_secret()
    assert newest not in text_of(admin_client.get(page("subscription_changelist")))


def test_an_answer_that_indenting_would_make_huge_is_shown_as_it_came(admin_client, delivery):
    deep = "[" * 700 + "1," * 30_000 + "1" + "]" * 700
    wide = "[" * 30 + "1," * 30_000 + "1" + "]" * 30
    for body in (deep, wide):
        Attempt.objects.update(response_body=body)
        response = admin_client.get(page("delivery_change", delivery.pk))
        assert len(response.content) < 500_000


@pytest.mark.parametrize(
    ("model", "odd"),
    [
        (Subscription, {"status": "odd"}),
        (Event, {"occurred_at": LAST_MOMENT, "through": 1}),
        (Delivery, {"completed_at": LAST_MOMENT, "next_attempt_at": LAST_MOMENT}),
        (Attempt, {"started_at": LAST_MOMENT}),
    ],
)
def test_a_row_that_was_not_written_by_us_takes_no_page_with_it(admin_client, delivery, model, odd):
    model.objects.update(**odd)
    with timezone.override("Pacific/Kiritimati"):
        for url in all_pages(delivery.subscription, delivery):
            assert admin_client.get(url).status_code == 200, url


def _pk() -> object:
    return Subscription.objects.get().pk


def _warm_up(client: Client) -> None:
    """Content types and the like are read once per process."""
    client.get(page("subscription_changelist"))
    client.get(page("delivery_changelist"))


def _queries(client: Client, url: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        client.get(url)
    return len(captured)
