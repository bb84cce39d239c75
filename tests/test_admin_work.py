"""Working webhooks in the admin: what it says of endpoints and attempts, and what staff may do."""

import html
import re
import shlex
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_webhooks import worker
from django_webhooks.admin import base, deliveries, display, mends, overview, subscriptions
from django_webhooks.models import Attempt, Delivery, Event, Subscription, Watch
from django_webhooks.outbox import publish_challenge, publish_test
from tests.shop.models import Order
from tests.test_admin import act, messages_of, page, text_of, user_with

URL = "https://receiver.example.com/hook"
HOUR = timedelta(hours=1)

pytestmark = pytest.mark.django_db


@pytest.fixture
def subscription() -> Subscription:
    return Subscription.objects.create(name="Shop", url=URL)


@pytest.fixture
def deliver(subscription):
    """Makes a delivery with one attempt: `deliver("failed", ago=HOUR, error="timeout")`."""

    def make(status="failed", *, ago=HOUR, attempt=True, to=subscription, **fields) -> Delivery:
        at = timezone.now() - ago
        event = Event.objects.create(
            type="shop.order.updated",
            subject_type="shop.order",
            subject_id="7",
            body='{"a":"it\'s"}',
            occurred_at=at,
            fanned_out_at=at,
        )
        pending = status == "pending"
        made = Delivery.objects.create(
            event=event,
            subscription=to,
            status=status,
            attempt_count=int(attempt),
            completed_at=None if pending else at,
            next_attempt_at=timezone.now() + HOUR if pending else None,
            reason="HTTP 503" if status != "succeeded" else "",
            **{name: fields.pop(name) for name in ("lease_token",) if name in fields},
        )
        if attempt:
            wrong = {"status_code": 503, "error": "status"} if status != "succeeded" else {}
            values = {"number": 1, "started_at": at, "duration_ms": 31, "url": URL}
            Attempt.objects.create(delivery=made, **values | wrong | fields)
        return made

    return make


# A dead endpoint is seen


def test_a_failing_endpoint_does_not_look_calm_in_the_list(admin_client, subscription):
    Subscription.objects.update(failing_since=timezone.now() - 3 * HOUR, failure_count=7)
    Subscription.objects.create(name="Well", url=URL)
    shown = text_of(admin_client.get(page("subscription_changelist")))
    assert "failing</span>" in shown
    assert re.search(r"for 3\shours", shown)
    found = admin_client.get(page("subscription_changelist") + "?endpoint=failing")
    assert [str(each) for each in found.context["cl"].result_list] == ["Shop"]
    found = admin_client.get(page("subscription_changelist") + "?endpoint=well")
    assert [str(each) for each in found.context["cl"].result_list] == ["Well"]


def test_the_list_tells_of_the_last_delivery(admin_client, deliver):
    deliver("succeeded", ago=2 * HOUR)
    deliver("failed")
    shown = text_of(admin_client.get(page("subscription_changelist")))
    assert re.search(r"given up 1\shour ago<br>succeeded 2\shours ago", shown)


def test_the_page_tells_why_an_endpoint_is_held_back_and_how_it_does(
    admin_client, subscription, deliver
):
    deliver("failed")
    deliver("succeeded")
    deliver("pending")
    now = timezone.now()
    Subscription.objects.update(
        failing_since=now - HOUR, failure_count=7, held_until=now + timedelta(minutes=9)
    )
    shown = text_of(admin_client.get(page("subscription_change", subscription.pk)))
    assert re.search(r"Its requests have failed since [-:\d ]+ \w+\.", shown)
    assert "in a row" not in shown  # of different deliveries: no figure beside it would agree
    assert "held back until" in shown
    assert "<b>33.3 %</b>" in shown
    assert "<b>31 ms</b>" in shown
    assert re.search(r"Waiting</dt>\s*<dd><b>1</b>", shown)
    assert 'aria-label="Last 24 hours: 3 attempts, 2 of them failed' in shown
    assert page("delivery_changelist") + f"?subscription__id__exact={subscription.pk}" in shown


@pytest.mark.parametrize(
    ("seconds", "held", "shown"),
    [(-30, None, "due now"), (30, None, "in 30 seconds"), (-30, 40, "in 40 seconds")],
)
def test_the_next_attempt_is_never_in_the_past(
    admin_client, subscription, deliver, monkeypatch, seconds, held, shown
):
    deliver("pending")
    now = timezone.now()
    monkeypatch.setattr("django.utils.timezone.now", lambda: now)
    Delivery.objects.update(next_attempt_at=now + timedelta(seconds=seconds))
    Subscription.objects.update(held_until=held and now + timedelta(seconds=held))
    found = text_of(admin_client.get(page("subscription_change", subscription.pk)))
    assert re.search(rf"Next attempt</dt>\s*<dd><b>{shown}</b>", found)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "now"),
        (0.4, "now"),
        (-0.4, "now"),
        (1, "in 1 second"),
        (-2, "2 seconds ago"),
    ],
)
def test_an_age_of_no_seconds_is_now(monkeypatch, seconds, words):
    now = timezone.now()
    monkeypatch.setattr("django.utils.timezone.now", lambda: now)
    assert display.age(now + timedelta(seconds=seconds)) == words


@pytest.mark.parametrize("status", ["active", "paused", "disabled", "completed"])
def test_a_status_is_changed_only_to_another(admin_client, subscription, status):
    Subscription.objects.update(status=status)
    shown = text_of(admin_client.get(page("subscription_change", subscription.pk)))
    offered = {word for word in ("Pause", "Resume", "Disable") if f">{word}</button>" in shown}
    assert (
        offered
        == {
            "active": {"Pause", "Disable"},
            "paused": {"Resume", "Disable"},
            "disabled": {"Resume"},
            "completed": {"Disable"},
        }[status]
    )
    assert ("Next attempt</dt>" in shown) == (status in ("active", "completed"))


def test_the_advice_for_a_disabled_subscription_fits_the_reason(admin_client, subscription):
    def shown() -> str:
        return text_of(admin_client.get(page("subscription_change", subscription.pk)))

    subscription.disable("No more orders.", lock=True)
    assert "Staff disabled it" in shown()
    subscription.disable("The endpoint answered 410 Gone.")
    assert "asks for no more requests" in shown()
    assert "Mend the endpoint" not in shown()
    publish_challenge(subscription)
    assert "answers the signed challenge" in shown()
    assert "Next attempt</dt>" in shown()
    subscription.disable("A script did so.")
    assert "has to ask for another" in shown()
    subscription.disable("Abuse.", lock=True)
    assert "lifts the lock alone" in shown()
    subscription.resume(unlock=True)
    subscription.resume()
    subscription.disable("A script did so.")
    assert "Resume it when the reason is gone." in shown()
    Subscription.objects.update(failing_since=timezone.now() - HOUR)
    assert "Mend the endpoint, resume the subscription" in shown()


def test_to_resume_what_was_never_verified_takes_two_steps(admin_client, subscription):
    publish_challenge(subscription)
    subscription.disable("Abuse.", lock=True)
    told = text_of(act(admin_client, "subscription", "resume", subscription))
    assert "has not answered a challenge: resume it once more" in told
    subscription.refresh_from_db()
    assert (subscription.status, subscription.locked) == ("disabled", False)
    act(admin_client, "subscription", "resume", subscription)
    subscription.refresh_from_db()
    assert subscription.status == "active"


def test_a_disabled_subscription_says_why_and_is_resumed(admin_client, subscription):
    subscription.disable("The endpoint answered 410 Gone.")
    shown = text_of(admin_client.get(page("subscription_change", subscription.pk)))
    assert "The endpoint answered 410 Gone." in shown
    act(admin_client, "subscription", "resume", subscription)
    subscription.refresh_from_db()
    assert subscription.status == "active"


# Recover, cancel


def test_recovery_tells_how_many_before_it_is_confirmed(admin_client, subscription, deliver):
    recent, old = deliver("failed"), deliver("failed", ago=100 * HOUR)
    since = (timezone.localtime() - 3 * HOUR).strftime("%Y-%m-%dT%H:%M")
    response = act(admin_client, "subscription", "recover", subscription, since=since)
    assert "1 delivery has failed" in text_of(response)
    assert not Delivery.objects.filter(status="pending").exists()
    assert not LogEntry.objects.exists()

    [kept] = re.findall(r'type="hidden" name="since" value="([^"]+)"', text_of(response))
    response = act(admin_client, "subscription", "recover", subscription, since=kept, confirmed="1")
    assert messages_of(response) == ["1 delivery is sent again."]
    recent.refresh_from_db()
    old.refresh_from_db()
    assert (recent.status, old.status) == ("pending", "failed")
    assert "Recovered 1 delivery that" in LogEntry.objects.get().change_message


def test_recovery_tells_what_has_failed_and_waits_for_its_next_attempt(
    admin_client, subscription, deliver
):
    def shown() -> str:
        return text_of(act(admin_client, "subscription", "recover", subscription))

    deliver("pending", attempt=False)
    deliver("pending", lease_token=uuid4())
    assert "next attempt" not in shown()
    deliver("pending")
    found = shown()
    assert "Nothing has failed of the events since" in found
    assert "1 delivery that has failed so far waits for its next attempt:\nit comes by" in found
    deliver("pending")
    assert "2 deliveries that have failed so far wait for their next attempt:" in shown()
    Subscription.objects.update(status="disabled")
    assert "it comes once the subscription is resumed." in shown()


def test_recovery_begins_before_the_endpoint_failed(admin_client, subscription, deliver):
    Subscription.objects.update(failing_since=timezone.now() - 30 * HOUR)
    deliver("failed", ago=40 * HOUR)
    assert "1 delivery has failed" in text_of(
        act(admin_client, "subscription", "recover", subscription)
    )


@pytest.mark.parametrize(
    "typed", ["", "yesterday", "0000-00-00T00:00", "0001-01-01T00:00", "9999-12-31T23:59"]
)
def test_no_moment_recovers_nothing(admin_client, subscription, deliver, typed):
    deliver("failed")
    more = {"since": typed, "confirmed": "1"}
    response = act(admin_client, "subscription", "recover", subscription, **more)
    assert response.status_code == 200
    assert "errorlist" in text_of(response)
    assert 'value="Recover what has failed"' not in text_of(response)
    assert not Delivery.objects.filter(status="pending").exists()


def test_very_many_are_recovered_in_parts_and_that_is_said(
    admin_client, subscription, deliver, monkeypatch
):
    monkeypatch.setattr(subscriptions, "MOST_AT_ONCE", 2)
    for _ in range(3):
        deliver("failed")
    shown = text_of(act(admin_client, "subscription", "recover", subscription))
    assert "2+ deliveries have failed" in shown
    assert "repeat it for the rest" in shown
    since = (timezone.now() - 5 * HOUR).isoformat()
    act(admin_client, "subscription", "recover", subscription, since=since, confirmed="1")
    assert Delivery.objects.filter(status="pending").count() == 2


def test_what_waits_is_cancelled_once_that_is_confirmed(admin_client, subscription, deliver):
    waiting = deliver("pending")
    flying = deliver("pending", lease_token=uuid4())
    other = deliver("pending", to=Subscription.objects.create(url=URL))
    response = act(admin_client, "subscription", "cancel_waiting", subscription)
    assert "1 delivery waits to be sent." in text_of(response)
    assert "It is not sent any more." in text_of(response)
    assert not Delivery.objects.filter(status="cancelled").exists()
    response = act(admin_client, "subscription", "cancel_waiting", subscription, confirmed="1")
    assert messages_of(response) == ["1 delivery is cancelled."]
    for each in (waiting, flying, other):
        each.refresh_from_db()
    assert (waiting.status, waiting.reason) == ("cancelled", "Cancelled by staff.")
    assert (flying.status, other.status) == ("pending", "pending")
    assert LogEntry.objects.get().change_message == "Cancelled 1 delivery."


@pytest.mark.parametrize("action", ["recover", "cancel_waiting"])
def test_one_subscription_at_a_time(admin_client, subscription, deliver, action):
    deliver("failed")
    deliver("pending")
    other = Subscription.objects.create(url=URL)
    before = list(Delivery.objects.order_by("pk").values())
    more = {"confirmed": "1", "reason": "Why.", "since": "2020-01-01T00:00"}
    response = act(admin_client, "subscription", action, subscription, other, **more)
    assert messages_of(response) == ["Choose one subscription."]
    assert list(Delivery.objects.order_by("pk").values()) == before


def deleted_by(client: Client, *rows: Subscription):
    """The page that asks whether to delete one, or several."""
    if len(rows) == 1:
        return client.get(page("subscription_delete", rows[0].pk))
    return act(client, "subscription", "delete_selected", *rows)


def test_deletion_tells_what_becomes_of_the_deliveries(admin_client, subscription, deliver):
    assert "Nothing waits to be sent." in text_of(deleted_by(admin_client, subscription))
    other = Subscription.objects.create(url=URL)
    made = [deliver("succeeded"), deliver("pending"), deliver("pending", lease_token=uuid4())]
    shown = text_of(deleted_by(admin_client, subscription))
    for told in ("1 delivery waits", "1 is in flight", "3 deliveries stay in the list"):
        assert told in shown
    made.append(deliver("pending", to=other))
    shown = text_of(deleted_by(admin_client, subscription, other))
    for told in ("2 deliveries wait", "1 is in flight", "4 deliveries stay in the list"):
        assert told in shown
    assert Subscription.objects.count() == 2

    act(admin_client, "subscription", "delete_selected", subscription, other, post="yes")
    assert not Subscription.objects.exists()  # and it is as was told
    rows = Delivery.objects.order_by("pk").values_list("status", "subscription")
    assert list(rows) == [("succeeded", None), *[("cancelled", None)] * 3]
    assert Event.objects.count() == Attempt.objects.count() == 4


# The page of a delivery


def test_each_error_of_the_reference_is_explained():
    told = (Path(__file__).parent.parent / "docs/reference/errors.md").read_text()
    attempts = told.partition("## Exceptions")[0]
    errors = set(re.findall(r"^\| `(\w+)` \|", attempts, re.MULTILINE))
    assert errors - {"status"} == mends.ERRORS.keys()


@pytest.mark.parametrize(
    ("fields", "what", "mend"),
    [
        ({"status_code": 503, "error": "status"}, "itself failed", "tried again"),
        ({"status_code": 401, "error": "status"}, "who we are", "current secret"),
        ({"status_code": 418, "error": "status"}, "refused the request", "its log"),
        ({"status_code": None, "error": "timeout"}, "in time", "answer first"),
        ({"status_code": None, "error": "dns"}, "resolved", "typing error"),
        ({"status_code": None, "error": "something new"}, "failed", "detail"),
        (
            {
                "status_code": 301,
                "error": "redirect",
                "response_headers": {"location": "https://new.example.com/<b>"},
            },
            "never followed",
            "https://new.example.com/<b>",
        ),
    ],
)
def test_an_error_is_explained_in_words_with_its_mend(admin_client, deliver, fields, what, mend):
    delivery = deliver("failed", **fields)
    response = admin_client.get(page("delivery_change", delivery.pk))
    [explained] = re.findall(
        r'<div class="webhooks-explanation">(.*?)</div>', response.content.decode(), re.DOTALL
    )
    assert what in html.unescape(explained)
    assert mend in html.unescape(explained)
    assert "<b>\n" not in explained
    assert "example.com/<b>" not in explained


@pytest.mark.parametrize(
    ("publish", "what"), [(publish_test, "a test event"), (publish_challenge, "a challenge")]
)
def test_what_goes_past_the_rules_says_so_in_place_of_a_rule(
    admin_client, subscription, publish, what
):
    publish(subscription)
    delivery = Delivery.objects.get()
    for url in (page("delivery_change", delivery.pk), page("event_change", delivery.event_id)):
        shown = text_of(admin_client.get(url))
        assert f"none: it is {what}, which goes past the rules" in shown
        assert 'webhooks-step">Compared with' not in shown
        assert "How it matched" not in shown


def test_of_an_owner_is_spoken_only_where_there_is_one(admin_client, subscription, admin_user):
    def shown() -> str:
        asked = act(admin_client, "subscription", "disable", subscription)
        subscription.refresh_from_db()
        subscription.disable("No more orders.", lock=True)
        change = admin_client.get(page("subscription_change", subscription.pk))
        subscription.resume(unlock=True)
        return re.sub("<label.*?</label>", "", text_of(asked)) + str(change.context["health"])

    assert "owner can" not in shown()
    assert "The owner" not in shown()
    Subscription.objects.update(owner=admin_user)
    assert "Its owner can read why, but can't resume it." in shown()
    assert "its owner can't resume it" in shown()


def test_a_success_needs_no_explanation(admin_client, deliver):
    delivery = deliver("succeeded", status_code=204)
    shown = text_of(admin_client.get(page("delivery_change", delivery.pk)))
    assert "HTTP 204" in shown
    assert "webhooks-explanation" not in shown


def test_the_timeline_goes_from_the_event_to_what_is_next(admin_client, deliver, subscription):
    delivery = deliver("pending")
    response = admin_client.get(page("delivery_change", delivery.pk))
    titles = [step.title for step in response.context["timeline"]]
    assert titles == ["Event", "Compared with the rules", "Attempt 1: HTTP 503", "Next attempt"]
    subscription.pause()
    shown = text_of(admin_client.get(page("delivery_change", delivery.pk)))
    assert "waits until the subscription, which is paused, is resumed" in shown
    assert "when its subscription is resumed" in shown
    assert "Next attempt</span>" not in shown


def test_attempts_come_newest_first_and_only_so_many(admin_client, deliver, monkeypatch):
    monkeypatch.setattr(deliveries, "SHOWN_ATTEMPTS", 2)
    delivery = deliver("failed")
    for number in (2, 3):
        Attempt.objects.create(delivery=delivery, number=number, started_at=timezone.now(), url=URL)
    response = admin_client.get(page("delivery_change", delivery.pk))
    assert [each.attempt.number for each in response.context["attempts"]] == [3, 2]
    assert "Only the newest attempts are shown." in text_of(response)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ('{"a":[1,2]}', '{\n  "a": [\n    1,\n    2\n  ]\n}'),
        ("<html><script>alert(1)</script>", "<html><script>alert(1)</script>"),
        ("\x1b[31mred\u202egpj.exe", "\\u001b[31mred\\u202egpj.exe"),
        ("[" * 100_000, "[" * 1000),
    ],
)
def test_a_response_is_text_whatever_it_holds(admin_client, deliver, body, shown):
    delivery = deliver("failed", response_body=body)
    response = admin_client.get(page("delivery_change", delivery.pk))
    assert shown in text_of(response)
    assert "<script>alert" not in response.content.decode()


@pytest.mark.django_db(transaction=True)
def test_the_request_is_copied_as_curl_without_the_secret_and_works(
    admin_client, subscribe, receiver, tmp_path
):
    header = "Bearer tr0ub4dor"
    made = subscribe("shop.order.created", headers={"Authorization": header})
    Order.objects.create(number="it's $HOME `id`")
    worker.drain()
    [request] = receiver.requests
    delivery = Delivery.objects.get()
    response = admin_client.get(page("delivery_change", delivery.pk))
    command = response.context["attempts"][0].curl
    assert html.escape(command) in response.content.decode()
    assert header not in command
    assert made.secret.removeprefix("whsec_") not in command
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:5] == ["curl", "--globoff", "--request", "POST", receiver.url]
    assert words[-2:] == ["--data-raw", request.body.decode()]
    sent = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "--header")
    assert sent["webhook-id"] == request.id
    assert sent["webhook-signature"] == request.headers["webhook-signature"]


def test_the_subject_leads_to_its_page_for_those_who_may_see_it(deliver, admin_user):
    delivery = deliver("failed")
    Event.objects.update(subject_type="auth.user", subject_id=str(admin_user.pk))
    url = f"/admin/auth/user/{admin_user.pk}/change/"
    client = user_with("view_delivery", "view_event")
    pages = page("delivery_change", delivery.pk), page("event_change", delivery.event_id)
    assert all(url not in text_of(client.get(each)) for each in pages)
    clerk = User.objects.get(username="clerk")
    clerk.user_permissions.add(Permission.objects.get(codename="view_user"))
    assert all(url in text_of(client.get(each)) for each in pages)


@pytest.mark.parametrize(
    ("kind", "pk"), [("", ""), ("gone.model", "1"), ("nonsense", "1"), ("shop.order", "7")]
)
def test_a_subject_without_a_page_is_text(admin_client, deliver, kind, pk):
    delivery = deliver("failed")
    Event.objects.update(subject_type=kind, subject_id=pk)
    assert admin_client.get(page("delivery_change", delivery.pk)).status_code == 200
    assert admin_client.get(page("event_change", delivery.event_id)).status_code == 200


def test_a_page_calls_its_subject_by_name_for_those_who_may_see_it(deliver, admin_client):
    delivery = deliver("failed")
    named = User.objects.create_user("Ada")
    Event.objects.update(subject_type="auth.user", subject_id=str(named.pk))
    pages = page("delivery_change", delivery.pk), page("event_change", delivery.event_id)
    for each in pages:
        assert f"user {named.pk}: Ada" in text_of(admin_client.get(each))
        clerk = user_with("view_delivery", "view_event")
        assert f"user {named.pk}" in text_of(clerk.get(each))
        assert "Ada" not in text_of(clerk.get(each))
        User.objects.get(username="clerk").delete()
    key = named.pk
    named.delete()
    for each in pages:
        shown = text_of(admin_client.get(each))
        assert f"user {key} (deleted)" in shown
        assert f"/auth/user/{key}/change/" not in shown  # which would lead nowhere


def test_a_subject_whose_name_fails_breaks_no_page(deliver, admin_client, monkeypatch):
    delivery = deliver("failed")
    Event.objects.update(subject_type="auth.group", subject_id=str(Group.objects.create().pk))
    monkeypatch.setattr(Group, "__str__", lambda group: Group.objects.get(pk="no number").name)
    for each in (page("delivery_change", delivery.pk), page("event_change", delivery.event_id)):
        assert ">group " in text_of(admin_client.get(each))


# The lists


def found(client: Client, query: str, name: str = "delivery") -> list[int]:
    response = client.get(page(f"{name}_changelist") + query)
    assert response.status_code == 200
    return [each.pk for each in response.context["cl"].result_list]


def test_deliveries_are_found_by_event_object_and_url(admin_client, deliver):
    one = deliver("failed")
    other = deliver("failed", to=Subscription.objects.create(name="Two", url="https://b.example/"))
    Event.objects.filter(pk=other.event_id).update(subject_type="shop.item")
    assert found(admin_client, f"?q={one.event_id}") == [one.pk]
    assert found(admin_client, "?q=shop.order:7") == [one.pk]
    assert found(admin_client, "?q=shop.order+7") == [one.pk]
    assert found(admin_client, "?q=7") == [other.pk, one.pk]
    assert found(admin_client, "?q=b.example") == [other.pk]
    assert found(admin_client, "?q=two") == [other.pk]
    assert found(admin_client, "?q=shop.order:8") == []
    assert found(admin_client, "?q=shop.order:7", "event") == [one.event_id]
    assert found(admin_client, "?q=order+7") == [one.pk]  # as the list shows it
    assert found(admin_client, "?q=Item+7", "event") == [other.event_id]
    assert found(admin_client, "?q=order+8") == found(admin_client, "?q=order+") == []


def test_a_url_of_very_many_deliveries_is_searched_without_sorting_them(
    admin_client, deliver, monkeypatch
):
    made = [deliver("failed").pk for _ in range(3)]
    deliver("failed", to=Subscription.objects.create(url="https://b.example/"))
    monkeypatch.setattr(deliveries, "MOST_ROWS", 2)
    assert found(admin_client, "?q=receiver.example") == made[::-1]


def test_deliveries_are_filtered_by_their_last_error(admin_client, deliver):
    deliver("succeeded")
    wrong = deliver("failed")
    late = deliver("pending", status_code=None, error="timeout")
    Delivery.objects.filter(pk=late.pk).update(reason="timeout: No complete answer in time.")
    shown = text_of(admin_client.get(page("delivery_changelist")))
    assert "?error=HTTP+503" in shown
    assert "?error=timeout" in shown
    assert "By error of the last attempt" in shown
    assert found(admin_client, "?error=HTTP+503") == [wrong.pk]
    assert found(admin_client, "?error=timeout") == [late.pk]
    assert found(admin_client, "?error=dns") == []
    Delivery.objects.filter(pk=wrong.pk).update(status_code=503)
    assert "?http=503" in shown
    assert found(admin_client, "?http=503") == [wrong.pk]
    assert found(admin_client, "?http=204") == []
    assert found(admin_client, "?http=no") == []


@pytest.mark.parametrize("is_misled", [False, True])
def test_deliveries_are_filtered_by_type_and_status_on_each_database(
    admin_client, deliver, monkeypatch, is_misled
):
    monkeypatch.setattr(deliveries, "MISLED", {connection.vendor} if is_misled else set())
    deliver("succeeded")
    wrong = deliver("failed")
    Event.objects.filter(deliveries=deliver("failed")).update(type="shop.order.created")
    query = "?event_type=shop.order.updated&status__exact="
    with CaptureQueriesContext(connection) as asked:
        assert found(admin_client, f"{query}failed") == [wrong.pk]
    assert any("COALESCE" in each["sql"] for each in asked) == is_misled
    assert found(admin_client, f"{query}pending") == []
    assert found(admin_client, "?event_type=shop.order.updated&error=HTTP+503") == [wrong.pk]


def test_of_a_very_common_type_the_newest_count_and_time_moves_them(
    admin_client, deliver, monkeypatch
):
    monkeypatch.setattr(deliveries, "MOST_ROWS", 2)
    oldest, old, newer, newest = (deliver("failed", ago=hours * HOUR) for hours in (9, 8, 3, 1))
    query = "?event_type=shop.order.updated"
    assert found(admin_client, query) == [newest.pk, newer.pk]
    before = (timezone.now() - 5 * HOUR).isoformat().replace("+", "%2B")
    assert found(admin_client, f"{query}&event__occurred_at__lt={before}") == [old.pk, oldest.pk]


@pytest.mark.parametrize(
    "query",
    [
        "?error=%00",
        "?event_type=%00",
        "?event_type=shop.order.updated&event__occurred_at__gte=nonsense",
        "?q=%00",
        "?q=shop.order:%F0%9F%98%80",
        "?status__exact=nonsense",
        "?subscription__id__exact=nonsense",
        "?p=-1",
    ],
)
def test_an_address_typed_by_hand_breaks_no_list(admin_client, deliver, query):
    deliver("failed")
    assert admin_client.get(page("delivery_changelist") + query, follow=True).status_code == 200


def test_all_of_a_long_list_are_as_many_as_it_can_show(admin_client, deliver, monkeypatch):
    monkeypatch.setattr(deliveries, "MOST_ROWS", 2)
    made = [deliver("failed") for _ in range(3)]
    response = act(admin_client, "delivery", "redeliver", made[0], select_across="1")
    assert messages_of(response) == ["2 deliveries are sent again."]


def test_the_past_hour_ends_whenever_its_list_is_asked_for(admin_client, deliver, monkeypatch):
    ages = (timedelta(minutes=5), timedelta(minutes=50), 3 * HOUR)
    new, recent, _old = (deliver("failed", ago=ago) for ago in ages)
    for name, field in (("delivery", "event__occurred_at"), ("event", "occurred_at")):
        key = "pk" if name == "delivery" else "event_id"
        rows = [getattr(each, key) for each in (recent, new)][::-1]
        hour = f"?{field}__within=1h"
        assert sorted(found(admin_client, hour, name)) == sorted(rows)
        assert found(admin_client, f"?{field}__within=15m", name) == [getattr(new, key)]
        typed = f"{hour}&event_type=shop.order.updated"
        assert sorted(found(admin_client, typed, name)) == sorted(rows)
        shown = text_of(admin_client.get(page(f"{name}_changelist") + hour))
        assert re.search(r'<li class="selected">\s*<a href="[^"]*">Past hour', shown)
        odd = admin_client.get(page(f"{name}_changelist") + f"?{field}__within=1y")
        assert odd.url.endswith("?e=1")
    later = timezone.now() + HOUR
    monkeypatch.setattr("django.utils.timezone.now", lambda: later)
    assert found(admin_client, "?event__occurred_at__within=1h") == []


def test_what_has_succeeded_is_sent_again_only_after_a_question(admin_client, deliver):
    rows = [deliver(status) for status in ("succeeded", "failed", "cancelled", "pending")]
    rows.append(deliver("pending", lease_token=uuid4()))
    response = act(admin_client, "delivery", "redeliver", *rows)
    shown = text_of(response)
    for told in ("1 has succeeded", "1 has failed", "1 was cancelled", "1 waits", "1 is skipped"):
        assert told in shown
    assert Delivery.objects.filter(status="succeeded").exists()
    assert not LogEntry.objects.exists()

    response = posted_again(admin_client, response)
    assert "4 deliveries are sent again." in messages_of(response)
    assert set(Delivery.objects.values_list("status", flat=True)) == {"pending"}


def test_without_a_success_among_them_they_are_sent_again_at_once(admin_client, deliver):
    rows = [deliver("failed"), deliver("cancelled")]
    response = act(admin_client, "delivery", "redeliver", *rows)
    assert messages_of(response) == ["2 deliveries are sent again."]


def test_all_rows_of_a_filtered_list_are_asked_about_and_no_others_sent(admin_client, deliver):
    made, other = [deliver("succeeded") for _ in range(3)], deliver("cancelled")
    url = page("delivery_changelist") + "?status__exact=succeeded"
    data = {"action": "redeliver", "_selected_action": made[0].pk, "select_across": "1"}
    response = admin_client.post(url, data)
    assert "3 have succeeded" in text_of(response)
    assert "3 deliveries are sent again." in messages_of(posted_again(admin_client, response, url))
    assert Delivery.objects.exclude(status="pending").get() == other


def test_a_question_on_one_deliverys_page_leads_back_to_it(admin_client, deliver):
    delivery = deliver("succeeded")
    response = act(admin_client, "delivery", "redeliver", delivery, _from_page="1")
    assert "1 has succeeded" in text_of(response)
    response = posted_again(admin_client, response)
    assert response.redirect_chain[-1][0] == page("delivery_change", delivery.pk)


def posted_again(client: Client, response, url: str = ""):
    """What a browser posts from a page that asks."""
    fields = re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', text_of(response))
    data: dict[str, list[str]] = {}
    for name, value in fields:
        data.setdefault(name, []).append(value)
    return client.post(url or page("delivery_changelist"), data, follow=True)


def test_a_row_of_the_list_tells_its_subject_event_and_second(admin_client, deliver):
    delivery = deliver("failed")
    shown = text_of(admin_client.get(page("delivery_changelist")))
    at = timezone.localtime(delivery.completed_at)
    for expected in ("order 7", delivery.event_id, f"{at:%Y-%m-%d %H:%M:%S} CET"):
        assert expected in shown


@pytest.mark.parametrize("name", ["delivery", "event", "subscription"])
def test_lists_ask_as_much_for_60_as_for_3(admin_client, deliver, name):
    def grow(count: int) -> None:
        for number in range(count):
            deliver("failed", to=Subscription.objects.create(name=f"s{number}", url=URL))

    grow(3)
    url = page(f"{name}_changelist")
    queries_of(admin_client, url)
    before = queries_of(admin_client, url)
    grow(57)
    assert queries_of(admin_client, url) == before


def queries_of(client: Client, url: str) -> int:
    with CaptureQueriesContext(connection) as asked:
        assert client.get(url).status_code == 200
    return len(asked)


# The overview


def overview_of(client: Client) -> str:
    return text_of(client.get("/admin/django_webhooks/overview/"))


def test_the_overview_misses_no_worker_where_none_is_needed(
    admin_client, subscription, deliver, configure
):
    configure(TASK_BACKEND="django_webhooks.backends.immediate.ImmediateBackend")
    shown = text_of(admin_client.get(page("overview_changelist")))
    assert "no worker needed" in shown
    assert "Start the workers" not in shown
    assert "Something waits" not in shown
    deliver("pending", ago=HOUR)
    Delivery.objects.update(next_attempt_at=timezone.now() - HOUR)
    shown = text_of(admin_client.get(page("overview_changelist")))
    assert "Something waits to be sent." in shown
    assert "webhooks_drain</code>" in shown


def test_the_overview_tells_whether_a_worker_is_alive_and_what_to_do_if_none_is(
    admin_client, deliver
):
    shown = overview_of(admin_client)
    assert "no worker" in shown
    assert "None was ever seen." in shown
    assert "python manage.py webhooks_drain --loop" in shown
    Watch.objects.create(seen_at=timezone.now())
    shown = overview_of(admin_client)
    assert "worker alive" in shown
    assert "webhooks_drain" not in shown
    Watch.objects.update(seen_at=timezone.now() - HOUR)
    assert "Nothing waits to be sent." in overview_of(admin_client)
    delivery = deliver("pending", attempt=False)
    Delivery.objects.filter(pk=delivery.pk).update(next_attempt_at=timezone.now() - 2 * HOUR)
    shown = overview_of(admin_client)
    assert "Something waits to be sent." in shown
    assert re.search(r"the oldest for 2\shours", shown)


def test_a_worker_that_was_seen_just_now_is_not_well_while_something_is_late(admin_client, deliver):
    Watch.objects.create(seen_at=timezone.now() - timedelta(minutes=2))
    delivery = deliver("pending", attempt=False)
    for seconds, late in ((30, False), (90, True)):
        at = timezone.now() - timedelta(seconds=seconds)
        Delivery.objects.filter(pk=delivery.pk).update(next_attempt_at=at)
        shown = overview_of(admin_client)
        assert ("worker alive</span>" in shown) == (not late)
        assert ('webhooks-paused">worker alive, but late</span>' in shown) == late
        assert ("start more workers" in shown) == late


def test_the_overview_tells_throughput_failures_and_whom_to_look_after(
    admin_client, deliver, subscription
):
    slow = Subscription.objects.create(name="Slow", url=URL)
    gone = Subscription.objects.create(name="Gone", url=URL)
    gone.disable("The endpoint answered 410 Gone.")
    for _ in range(3):
        deliver("succeeded")
    deliver("failed", to=slow, duration_ms=9000)
    response = admin_client.get("/admin/django_webhooks/overview/")
    shown = text_of(response)
    assert "<b>25 %</b>" in shown or "<b>25.0 %</b>" in shown
    assert "4 attempts in the last 24 hours" in shown
    assert [row.name for row in response.context["slowest"]] == ["Slow", "Shop"]
    assert [row.name for row in response.context["failing"]] == ["Gone"]
    assert "410 Gone" in shown


def test_the_overview_asks_as_much_for_60_as_for_3(admin_client, deliver):
    url = "/admin/django_webhooks/overview/"
    for number in range(3):
        deliver("failed", to=Subscription.objects.create(name=f"s{number}", url=URL))
    queries_of(admin_client, url)
    before = queries_of(admin_client, url)
    for number in range(57):
        deliver("failed", to=Subscription.objects.create(name=f"t{number}", url=URL))
    assert queries_of(admin_client, url) == before


def test_of_very_many_attempts_the_overview_says_since_when_it_counts(
    admin_client, deliver, monkeypatch
):
    monkeypatch.setattr("django_webhooks.figures.MOST_ATTEMPTS", 2)
    for minutes in (50, 20, 5):
        deliver("succeeded", ago=timedelta(minutes=minutes))
    shown = overview_of(admin_client)
    assert "2 attempts since " in shown
    assert "Last 10 minutes" in shown


def test_the_lists_and_the_index_lead_to_the_overview(admin_client, subscription):
    url = "/admin/django_webhooks/overview/"
    for shown in (page("subscription_changelist"), page("delivery_changelist")):
        assert url in text_of(admin_client.get(shown))
    for index in ("/admin/", "/admin/django_webhooks/"):
        assert f'<a href="{url}"' in text_of(admin_client.get(index))


def test_the_overview_in_the_index_leaves_nothing_in_the_database(admin_client):
    admin_client.get("/admin/")
    assert not ContentType.objects.filter(model="overview").exists()
    assert not Permission.objects.filter(codename__endswith="overview").exists()
    assert "overview" not in apps.all_models["django_webhooks"]
    assert not any("overview" in name for name in connection.introspection.table_names())


def test_a_site_that_registers_no_overview_works_without(admin_client, subscription, monkeypatch):
    monkeypatch.setattr(base, "OVERVIEW", "not_registered")
    assert admin_client.get(page("subscription_changelist")).status_code == 200


# Who may do what


@pytest.mark.parametrize(
    "permissions",
    [(), ("view_subscription",), ("view_delivery",), ("change_subscription", "view_event")],
)
def test_the_overview_is_for_those_who_may_see_all_of_it(permissions):
    client = user_with(*permissions)
    url = "/admin/django_webhooks/overview/"
    assert client.get(url).status_code == 403
    for shown in (page("subscription_changelist"), "/admin/", "/admin/django_webhooks/"):
        response = client.get(shown)
        assert response.status_code in (403, 404) or url not in text_of(response)


def test_strangers_to_the_admin_are_sent_to_its_login(client):
    response = client.get("/admin/django_webhooks/overview/")
    assert response.status_code == 302
    assert "/login/" in response.url


ACTIONS = {
    "subscription": [
        "send_test",
        "pause",
        "resume",
        "disable",
        "rotate_secret",
        "recover",
        "cancel_waiting",
    ],
    "delivery": ["redeliver"],
}


def test_this_file_knows_all_actions():
    assert list(subscriptions.SubscriptionAdmin.page_actions) == ACTIONS["subscription"]
    assert subscriptions.SubscriptionAdmin.actions[-1] == "delete_selected"  # tested with the page
    assert list(deliveries.DeliveryAdmin.page_actions) == ACTIONS["delivery"]


@pytest.mark.parametrize("from_page", [{}, {"_from_page": "1"}])
@pytest.mark.parametrize(("name", "action"), [(n, a) for n in ACTIONS for a in ACTIONS[n]])
def test_a_viewer_runs_no_action_even_by_a_hand_made_post(
    subscription, deliver, name, action, from_page
):
    client = user_with("view_subscription", "view_delivery", "view_event")
    failed, _ = deliver("failed"), deliver("pending")
    if action == "resume":
        subscription.pause()
    before = state()
    row = subscription if name == "subscription" else failed
    more = {
        "confirmed": "1",
        "reason": "Why.",
        "since": "2020-01-01T00:00",
        "select_across": "1",
        **from_page,
    }
    act(client, name, action, row, **more)
    assert state() == before
    assert not LogEntry.objects.exists()
    url = page(f"{name}_change", row.pk)
    assert f'value="{action}"' not in text_of(client.get(url))


@pytest.mark.parametrize(
    ("permission", "forbidden"),
    [
        ("change_subscription", ["recover", "cancel_waiting"]),
        ("change_delivery", ["send_test", "pause", "disable", "rotate_secret"]),
    ],
)
def test_subscriptions_and_their_deliveries_are_changed_by_permissions_of_their_own(
    subscription, deliver, permission, forbidden
):
    client = user_with("view_subscription", "view_delivery", permission)
    deliver("failed")
    deliver("pending")
    before = state()
    for action in forbidden:
        more = {"confirmed": "1", "reason": "Why.", "since": "2020-01-01T00:00"}
        act(client, "subscription", action, subscription, **more)
        assert state() == before, action
    shown = text_of(client.get(page("subscription_change", subscription.pk)))
    for action in ACTIONS["subscription"]:
        if action != "resume":  # it is active
            assert (f'value="{action}"' in shown) == (action not in forbidden)


@pytest.mark.parametrize("action", ACTIONS["subscription"])
def test_each_action_on_a_subscription_is_in_its_log(admin_client, subscription, deliver, action):
    deliver("failed")
    deliver("pending")
    if action == "resume":
        subscription.pause()
    more = {"confirmed": "1", "reason": "Why.", "since": "2020-01-01T00:00"}
    act(admin_client, "subscription", action, subscription, **more)
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.user.username) == (str(subscription.pk), "admin")
    assert entry.change_message in text_of(
        admin_client.get(page("subscription_history", subscription.pk))
    )


def state() -> list[dict]:
    return [
        row
        for model in (Subscription, Delivery, Event)
        for row in model.objects.order_by("pk").values()
    ]


def test_the_owner_is_chosen_by_name_where_users_can_be_searched(admin_client, subscription):
    url = page("subscription_change", subscription.pk)
    assert "admin-autocomplete" in text_of(admin_client.get(url))
    User.objects.create_user("x")
    blind = user_with("change_subscription", "view_subscription")
    assert "admin-autocomplete" not in text_of(blind.get(url))
    assert blind.get(url).status_code == 200


def test_a_bad_secret_is_told_in_words_for_those_who_write_no_code(admin_client):
    response = admin_client.post(page("subscription_add"), {"secret": "hunter2", "url": URL})
    assert "generate_secret" not in text_of(response)


def test_lists_of_millions_offer_no_count_and_no_slow_order(admin_client, deliver):
    deliver("failed")
    for name in ("delivery", "event"):
        shown = text_of(admin_client.get(page(f"{name}_changelist")))
        assert "_facets" not in shown
    assert "?o=" not in text_of(admin_client.get(page("delivery_changelist")))


def test_more_rows_than_can_be_paged_through_are_not_counted(admin_client, deliver, monkeypatch):
    monkeypatch.setattr(base, "MOST_ROWS", 2)
    for _ in range(3):
        deliver("failed")
    assert admin_client.get(page("delivery_changelist")).context["cl"].result_count == 2


def test_a_count_that_was_broken_off_says_so(admin_client, deliver, monkeypatch):
    monkeypatch.setattr("django_webhooks.health.MOST", 2)
    monkeypatch.setattr(overview, "MOST", 2)
    for _ in range(3):
        deliver("pending")
    assert re.search(r"Pending</dt>\s*<dd><b>2\+</b>", overview_of(admin_client))


@pytest.mark.parametrize("name", ["delivery", "event"])
@pytest.mark.parametrize("limit", ["gte=0001-01-01", "lt=9999-12-31 23:59:59"])
def test_a_date_that_no_zone_can_hold_breaks_no_list(admin_client, name, limit):
    field = "event__occurred_at" if name == "delivery" else "occurred_at"
    response = admin_client.get(page(f"{name}_changelist") + f"?{field}__{limit}", follow=True)
    assert response.status_code == 200
