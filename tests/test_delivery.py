"""A due Delivery becomes one request, and its result is written down."""

import base64
import json
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.core import serializers
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone
from django.views.debug import ExceptionReporter
from standardwebhooks import Webhook

from django_webhooks import __version__, delivery, signals
from django_webhooks.encryption import Unreadable, encrypt
from django_webhooks.exceptions import SignatureError
from django_webhooks.models import Attempt, Delivery, Event, Subscription
from django_webhooks.outbox import publish_test
from django_webhooks.retries import OPEN_AFTER
from django_webhooks.signing import generate_secret, generate_signing_key, public_key_of
from django_webhooks.transport import Request
from django_webhooks.worker import drain
from tests.shop.models import Order

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture
def heard():
    """(signal, delivery status) of each signal that is sent."""
    found = []
    receivers = {}
    for name in ("delivery_succeeded", "delivery_failed", "subscription_disabled"):

        def listen(name=name, **kwargs):
            about = kwargs.get("delivery") or kwargs.get("subscription")
            found.append((name, about.status))

        receivers[name] = listen
        getattr(signals, name).connect(listen)
    yield found
    for name, listen in receivers.items():
        getattr(signals, name).disconnect(listen)


def order(**fields) -> Order:
    return Order.objects.create(**{"number": "1", **fields})


def only() -> Delivery:
    return Delivery.objects.get()


# What arrives


def test_request_is_a_standard_webhook(subscribe, receiver):
    subscription = subscribe("shop.order.created", headers={"X-Tenant": "7"})
    order(total=12)
    drain()
    (request,) = receiver.requests
    event = Event.objects.get()
    now = time.time()
    assert request.path == "/hook"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == f"django-webhooks/{__version__}"
    assert request.headers["webhook-id"] == event.id
    assert event.id.startswith("evt_")
    assert abs(int(request.headers["webhook-timestamp"]) - now) < 10
    assert request.headers["x-tenant"] == "7"
    assert json.loads(request.body) == {
        "type": "shop.order.created",
        "timestamp": event.occurred_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "data": {"object": event.data, "previous": {}},
    }
    # An independent implementation agrees.
    Webhook(subscription.secret).verify(request.body, request.headers)


def test_both_secrets_sign_while_they_overlap(subscribe, receiver):
    subscription = subscribe("*")
    old = subscription.secret
    new = subscription.rotate_secret()
    order()
    drain()
    (request,) = receiver.requests
    assert len(request.headers["webhook-signature"].split()) == 2
    for secret in (old, new):
        Webhook(secret).verify(request.body, request.headers)


def test_old_secret_signs_no_longer_after_the_overlap(subscribe, receiver):
    subscription = subscribe("*")
    subscription.rotate_secret(overlap=timedelta(seconds=-1))
    order()
    drain()
    assert len(receiver.requests[0].headers["webhook-signature"].split()) == 1


def test_leaked_secret_is_dropped_at_once(subscribe):
    subscription = subscribe("*")
    old = subscription.secret
    subscription.rotate_secret(overlap=timedelta(0))
    assert old not in Subscription.objects.get().signing_secrets


def test_rename_in_code_does_not_undo_a_rotation(subscribe):
    subscription = subscribe("*")
    read_before = Subscription.objects.get()
    new = subscription.rotate_secret()
    read_before.name = "renamed"
    read_before.save()
    assert Subscription.objects.get().secret == new
    assert Subscription.objects.get().name == "renamed"


def test_own_secret_may_be_brought_along(subscribe, receiver):
    secret = "whsec_" + base64.b64encode(b"x" * 24).decode()
    subscribe("*", secret=secret)
    order()
    drain()
    receiver.requests[0].verify(secret)


def test_each_request_is_an_attempt_with_what_was_sent_and_what_came_back(subscribe, receiver):
    receiver.answer = lambda request: (202, {"x-trace": "abc", "set-cookie": "a=b"}, b"got\x00 it")
    subscribe("*", headers={"Authorization": "Bearer hunter2"})
    order()
    drain()
    attempt = Attempt.objects.get()
    assert attempt.number == 1
    assert attempt.url == receiver.url
    assert attempt.status_code == 202
    assert attempt.error == ""
    assert "got" in attempt.response_body
    assert "\x00" not in attempt.response_body
    headers = {name.lower(): value for name, value in attempt.response_headers.items()}
    assert headers["x-trace"] == "abc"
    assert "set-cookie" not in headers
    assert attempt.request_headers["webhook-id"] == Event.objects.get().id
    assert "hunter2" not in json.dumps(attempt.request_headers)
    assert attempt.duration_ms < 5000
    assert abs(timezone.now() - attempt.started_at) < timedelta(seconds=10)


# Outcomes


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_success(subscribe, receiver, heard, status):
    receiver.answer = lambda request: status
    subscribe("*")
    order()
    result = drain()
    assert (result.attempts, result.succeeded) == (1, 1)
    assert only().status == "succeeded"
    assert only().completed_at is not None
    assert only().next_attempt_at is None
    assert heard == [("delivery_succeeded", "succeeded")]


@pytest.mark.parametrize(
    ("status", "error"), [(302, "redirect"), (307, "redirect"), (304, "redirect"), (400, "status"),
                          (404, "status"), (429, "status"), (500, "status"), (503, "status")]
)  # fmt: skip
def test_everything_else_is_a_failure_and_retried(subscribe, receiver, heard, status, error):
    receiver.answer = lambda request: (status, {"location": receiver.url + "/elsewhere"}, b"")
    subscribe("*")
    order()
    result = drain()
    assert (result.attempts, result.retried) == (1, 1)
    assert len(receiver.requests) == 1, "redirects are not followed"
    assert Attempt.objects.get().error == error
    found = only()
    assert found.status == "pending"
    assert found.reason == f"HTTP {status}"
    assert heard == []
    wait = (found.next_attempt_at - timezone.now()).total_seconds()
    assert 3 < wait <= 6.1


def test_a_delivery_remembers_the_http_status_of_its_last_answer(subscribe, receiver, configure):
    configure(RETRY_SCHEDULE=[100, 100, 100])
    answers = iter([503, None, 404, 202])
    receiver.answer = lambda request: next(answers) or time.sleep(2) or 204
    subscribe("*", timeout=0.5)
    order()
    seen = []
    for _ in range(4):
        drain()
        seen.append(only().status_code)
        Delivery.objects.pending().update(next_attempt_at=timezone.now())
        Subscription.objects.update(held_until=None)
    assert seen == [503, None, 404, 202]


def test_schedule_is_followed_and_then_the_delivery_has_failed(
    subscribe, receiver, heard, configure
):
    configure(RETRY_SCHEDULE=[0, 100, 1000])
    receiver.answer = lambda request: 500
    subscribe("*")
    order()
    assert drain().attempts == 2
    waits = []
    for _ in range(2):
        waits.append((only().next_attempt_at - timezone.now()).total_seconds())
        Delivery.objects.update(next_attempt_at=timezone.now())
        drain()
    assert 99 < waits[0] <= 121
    assert 999 < waits[1] <= 1201
    found = only()
    assert (found.status, found.attempt_count, found.reason) == ("failed", 4, "HTTP 500")
    assert found.completed_at is not None
    assert found.next_attempt_at is None
    assert [attempt.number for attempt in found.attempts.all()] == [1, 2, 3, 4]
    assert heard == [("delivery_failed", "failed")]
    bodies = {(request.id, request.body) for request in receiver.requests}
    assert len(bodies) == 1, "each attempt has the same id and the same bytes"


def test_retry_after_is_honoured_without_time_zones(subscribe, receiver, settings):
    settings.USE_TZ = False
    receiver.answer = lambda request: (503, {"retry-after": "Wed, 25 Nov 2099 02:35:20 GMT"}, b"")
    subscribe("shop.order.*")
    order()
    drain()
    assert only().lease_token is None
    assert only().next_attempt_at > datetime.now() + timedelta(hours=23)  # noqa: DTZ005


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(subscribe, receiver, form):
    until = timezone.now() + timedelta(seconds=600)
    value = "600" if form == "seconds" else until.strftime("%a, %d %b %Y %H:%M:%S GMT")
    receiver.answer = lambda request: (503, {"retry-after": value}, b"")
    subscribe("*")
    order()
    drain()
    wait = (only().next_attempt_at - timezone.now()).total_seconds()
    assert 590 < wait < 602


def test_410_disables_the_subscription_and_cancels_what_waits(
    subscribe, receiver, heard, configure
):
    receiver.answer = lambda request: 500
    subscribe("*")
    order(number="waits")
    drain()
    receiver.answer = lambda request: 410
    order(number="gone")
    drain()
    subscription = Subscription.objects.get()
    assert subscription.status == "disabled"
    assert "410" in subscription.disabled_reason
    waits, gone = Delivery.objects.order_by("id")
    assert (waits.status, gone.status) == ("cancelled", "failed")
    assert ("subscription_disabled", "disabled") in heard
    order(number="unheard")
    drain()
    assert len(receiver.requests) == 2


def test_nothing_but_failure_disables_the_subscription(subscribe, receiver, heard, configure):
    receiver.answer = lambda request: 500
    subscribe("*")
    order()
    drain()
    Subscription.objects.update(failing_since=timezone.now() - timedelta(days=6))
    Delivery.objects.update(next_attempt_at=timezone.now())
    drain()
    subscription = Subscription.objects.get()
    assert subscription.status == "disabled"
    assert "Nothing but failures" in subscription.disabled_reason
    assert heard == [("subscription_disabled", "disabled")]
    receiver.answer = lambda request: 200
    subscription.resume()
    Delivery.objects.update(next_attempt_at=timezone.now())
    drain()
    assert only().status == "succeeded", "what waited is sent after a resume"


def test_success_ends_the_failing(subscribe, receiver):
    receiver.answer = lambda request: 500 if len(receiver.requests) == 1 else 200
    subscribe("*")
    order()
    drain()
    assert Subscription.objects.get().failing_since is not None
    Delivery.objects.update(next_attempt_at=timezone.now())
    drain()
    assert Subscription.objects.get().failing_since is None


# What can't be sent


def test_endpoint_in_a_private_network_is_never_called(subscribe, receiver, configure, heard):
    subscribe("*")
    order()
    configure(ALLOWED_NETWORKS=[])
    drain()
    assert receiver.requests == []
    assert Attempt.objects.get().error == "blocked"
    assert only().status == "failed"
    assert heard == [("delivery_failed", "failed")]


def test_nobody_answering_is_a_connection_error(subscribe, receiver):
    subscribe("*", url="http://127.0.0.1:1999/")
    order()
    drain()
    assert Attempt.objects.get().error == "connection"
    assert only().status == "pending"


def test_slow_receiver_is_cut_off_at_the_subscriptions_timeout(subscribe, receiver):
    receiver.answer = lambda request: time.sleep(2) or 200
    subscribe("*", timeout=0.3)
    order()
    started = time.monotonic()
    drain()
    assert time.monotonic() - started < 1.5
    assert Attempt.objects.get().error == "timeout"


def test_lost_key_fails_the_attempt_and_never_sends_unsigned(subscribe, receiver, settings):
    subscribe("*")
    order()
    settings.SECRET_KEY = "another key, and the old one is gone"
    drain()
    assert receiver.requests == []
    assert Attempt.objects.get().error == "secret_unavailable"
    assert only().status == "pending"


# Signed with v1a


@pytest.fixture
def signing_keys(settings):
    """Sets the setting; without an argument to a new key."""

    def update(*keys):
        keys = keys or (generate_signing_key(),)
        settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "SIGNING_KEYS": list(keys)}
        return keys

    return update


def test_v1a_is_verified_by_the_public_key_alone(subscribe, receiver, signing_keys):
    signing_keys()
    subscription = subscribe("*", signature="v1a")
    order()
    drain()
    [request] = receiver.requests
    [public_key] = subscription.public_keys
    assert request.verify(public_key).type == "shop.order.created"
    [token] = request.headers["webhook-signature"].split(" ")
    assert token.startswith("v1a,")
    with pytest.raises(SignatureError):
        request.verify(subscription.secret)


def test_what_was_sent_to_one_receiver_does_not_pass_at_another(subscribe, receiver, signing_keys):
    [key] = signing_keys()
    one, other = (subscribe("*", signature="v1a", name=name) for name in ("one", "other"))
    assert set(one.public_keys).isdisjoint([*other.public_keys, public_key_of(key)])
    order()
    drain()
    for request in receiver.requests:
        fits = [each for each in (one, other) if passes(request, each.public_keys)]
        assert len(fits) == 1


def passes(request, secrets):
    try:
        return bool(request.verify(secrets))
    except SignatureError:
        return False


def test_through_a_rotation_of_signing_keys_old_and_new_receivers_verify(
    subscribe, receiver, signing_keys
):
    [old] = signing_keys()
    subscription = subscribe("*", signature="v1a")
    [before] = subscription.public_keys
    [new, _] = signing_keys(generate_signing_key(), old)
    assert subscription.public_keys[1] == before
    order()
    drain()
    for public_key in subscription.public_keys:
        assert receiver.requests[0].verify(public_key)
    signing_keys(new)
    order()
    drain()
    assert not passes(receiver.requests[1], before)


def test_public_keys_are_there_before_the_change_to_v1a(subscribe, receiver, signing_keys):
    signing_keys()
    subscription = subscribe("*")
    both = [subscription.secret, *subscription.public_keys]
    order()
    drain()
    subscription.signature = "v1a"
    subscription.save()
    order()
    drain()
    assert [bool(request.verify(both)) for request in receiver.requests] == [True, True]
    assert [passes(each, both[0]) for each in receiver.requests] == [True, False]


@pytest.mark.parametrize("keys", [None, [], ["whsk_no"]])
def test_v1a_without_signing_keys_sends_nothing_and_never_falls_back(
    subscribe, receiver, signing_keys, settings, keys
):
    signing_keys()
    subscribe("*", signature="v1a")
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "SIGNING_KEYS": keys}
    order()
    drain()
    assert receiver.requests == []
    assert Attempt.objects.get().error == "secret_unavailable"
    assert only().status == "pending"


def test_v1a_needs_no_secret(subscribe, receiver, signing_keys):
    """Its column may be unreadable: it is not what signs."""
    signing_keys()
    subscription = subscribe("*", signature="v1a")
    Subscription.objects.update(secrets=Unreadable("gAAAAno"))
    order()
    drain()
    assert receiver.requests[0].verify(subscription.public_keys)


@pytest.mark.parametrize("keys", [None, ["whsk_no"]])
def test_v1a_without_signing_keys_is_an_error_at_its_field(settings, keys):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "SIGNING_KEYS": keys}
    subscription = Subscription(url="https://example.com/hook", signature="v1a")
    with pytest.raises(ValidationError, match="SIGNING_KEYS") as caught:
        subscription.full_clean(exclude=["owner"])
    assert caught.value.message_dict.keys() == {"signature"}
    assert subscription.public_keys == []


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        (public_key_of(generate_signing_key()), "Port"),  # as far as the port, which is taken
        (generate_secret(), "Port"),
        ("whpk_no", "--secret"),
        ("whsk_" + "A" * 43 + "=", "--secret"),
    ],
    ids=["public key", "secret", "no public key", "signing key"],
)
def test_listen_takes_secrets_and_public_keys(receiver, secret, problem):
    port = int(receiver.url.rpartition(":")[2].partition("/")[0])
    with pytest.raises(CommandError, match=problem):
        call_command("webhooks_listen", port, secret=[secret])


def test_signing_keys_are_in_no_row_and_no_log(subscribe, receiver, signing_keys, caplog):
    keys = signing_keys()
    subscription = subscribe("*", signature="v1a")
    order()
    with caplog.at_level("DEBUG"):
        drain()
    dumped = serializers.serialize("json", [*Subscription.objects.all(), *Attempt.objects.all()])
    for key in (*keys, *subscription.signing_secrets):
        assert key.removeprefix("whsk_") not in dumped + caplog.text + repr(subscription)


def test_broken_row_fails_its_own_attempt_and_stops_no_other(subscribe, receiver, caplog):
    broken = subscribe("shop.order.*", name="broken")
    subscribe("shop.order.*", url=f"{receiver.url}/healthy")
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE django_webhooks_subscription SET secrets = %s WHERE name = 'broken'",
            [encrypt("no list of secrets")],
        )
    order()
    drain()
    assert [request.path for request in receiver.requests] == ["/hook/healthy"]
    assert Attempt.objects.get(delivery__subscription=broken).error == "internal"
    assert not Delivery.objects.filter(lease_token__isnull=False).exists()


def test_result_that_cannot_be_written_holds_up_no_other(subscribe, receiver, configure):
    configure(RETRY_SCHEDULE=[1e300])  # a check refuses it
    receiver.answer = lambda request: 200 if "healthy" in request.path else 500
    subscribe("shop.order.*", name="failing")
    subscribe("shop.order.*", name="healthy", url=f"{receiver.url}/healthy")
    order()
    drain()
    assert Delivery.objects.get(subscription__name="healthy").status == "succeeded"


BIG = {"any": [{"field": "number", "op": "eq", "value": "🫖" * 9000 + str(n)} for n in range(9)]}


def test_dumped_subscription_is_loaded_whole(subscribe, tmp_path):
    subscription = subscribe("*", headers={"X-Shop": "tea"})
    secret = subscription.secret
    subscription.rules.update(conditions=BIG)
    dump = str(tmp_path / "dump.json")
    call_command("dumpdata", "django_webhooks", output=dump)
    assert secret not in Path(dump).read_text()
    assert "conditions_text" not in Path(dump).read_text()  # the database makes it anew
    Subscription.objects.all().delete()
    call_command("loaddata", dump, verbosity=0)
    loaded = Subscription.objects.get()
    assert (loaded.secret, loaded.headers) == (secret, {"X-Shop": "tea"})
    assert json.loads(loaded.rules.get().conditions_text) == BIG


def test_subscriptions_made_in_bulk_have_secrets_of_their_own():
    Subscription.objects.bulk_create(Subscription(url="https://example.com/") for _ in range(2))
    assert len({each.secret for each in Subscription.objects.all()}) == 2


@pytest.mark.parametrize("field", ["timeout", "max_per_second"])
def test_limit_that_is_no_number_is_refused_under_its_name(field):
    subscription = Subscription(url="https://example.com/", **{field: "abc"})
    with pytest.raises(ValidationError) as caught:
        subscription.full_clean()
    assert list(caught.value.message_dict) == [field]


def test_rotated_django_key_still_reads_the_secret(subscribe, receiver, settings):
    subscription = subscribe("*", headers={"X-A": "1"})
    secret = subscription.secret
    order()
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another key, and the old one is a fallback"
    drain()
    receiver.requests[0].verify(secret)


def test_forbidden_header_in_an_old_row_is_not_sent(subscribe, receiver):
    subscription = subscribe("*")
    subscription.headers = {"Host": "evil.example"}
    subscription.save()
    order()
    drain()
    assert receiver.requests == []
    assert Attempt.objects.get().error == "headers"


def test_one_broken_delivery_does_not_stop_the_others(subscribe, receiver, monkeypatch):
    subscribe("*", name="broken", url="http://127.0.0.1:1999/")
    subscribe("*", name="fine")
    order()
    drain()
    assert len(receiver.requests) == 1


# Status of the subscription


@pytest.mark.parametrize("verb", ["pause", "disable"])
def test_what_waits_is_held_back_and_sent_after_resume(subscribe, receiver, verb):
    subscription = subscribe("*")
    order()
    subscription.pause() if verb == "pause" else subscription.disable("by hand")
    Event.objects.update(fanned_out_at=None)
    drain()
    assert receiver.requests == []
    subscription.resume()
    Event.objects.update(fanned_out_at=None)
    drain()
    assert len(receiver.requests) == 1


def test_deleted_subscription_cancels_and_its_deliveries_survive(subscribe, receiver):
    receiver.answer = lambda request: 500
    subscription = subscribe("*", name="Warehouse")
    order()
    drain()
    subscription.delete()
    found = only()
    assert (found.status, found.subscription) == ("cancelled", None)
    assert "Warehouse" in found.reason
    assert found.attempts.count() == 1
    drain()
    assert len(receiver.requests) == 1


def test_url_changed_since_the_failure_is_used(subscribe, receiver):
    subscription = subscribe("*", url="http://127.0.0.1:1999/")
    order()
    drain()
    subscription.url = receiver.url
    subscription.save()
    Delivery.objects.update(next_attempt_at=timezone.now())
    drain()
    assert only().status == "succeeded"


def test_test_event_goes_to_its_subscription_alone(subscribe, receiver):
    subscribe("*", name="other")
    subscription = subscribe("shop.order.*", name="mine")
    made = publish_test(subscription)
    drain()
    (request,) = receiver.requests
    assert request.verify(subscription.secret).type == "webhooks.test"
    made.refresh_from_db()
    assert made.status == "succeeded"


def test_rate_of_a_subscription_is_kept(subscribe, receiver):
    subscribe("*", max_per_second=10)
    for number in range(12):
        order(number=number)
    started = time.monotonic()
    while Delivery.objects.filter(status="pending").exists() or Event.objects.waiting().exists():
        drain()
        time.sleep(0.01)
    took = time.monotonic() - started
    assert len(receiver.requests) == 12
    assert 1.0 <= took < 4
    assert set(Delivery.objects.values_list("attempt_count", flat=True)) == {1}


def test_what_was_deleted_while_it_was_sent_holds_up_no_other(subscribe, receiver):
    def answer(request):
        if b'"erased"' in request.body:
            Event.objects.filter(pk=request.id).delete()
            connection.close()  # this thread's
        return 200

    receiver.answer = answer
    subscribe("*")
    order(number="kept")
    order(number="erased")
    assert drain().stale == 1
    assert only().status == "succeeded"
    assert Attempt.objects.count() == 1


@pytest.mark.parametrize("headers", [7, [{}], "x", {"a": 1}])
def test_headers_that_are_none_fail_their_own_attempt(subscribe, receiver, headers):
    broken = subscribe("*")
    subscribe("*", url=f"{receiver.url}/healthy")
    Subscription.objects.filter(pk=broken.pk).update(headers=headers)
    order()
    drain()
    assert [request.path for request in receiver.requests] == ["/hook/healthy"]
    assert Attempt.objects.get(delivery__subscription=broken).error == "headers"


def test_credential_that_a_receiver_sends_back_is_masked(subscribe, receiver):
    credential = "Bearer hunter2hunter2"
    receiver.answer = lambda request: (500, {"x-echo": credential}, f"got {credential}".encode())
    subscribe("*", headers={"Authorization": credential})
    order()
    drain()
    attempt = Attempt.objects.get()
    assert "hunter2" not in attempt.response_body + str(attempt.response_headers)
    assert attempt.response_body.startswith("got ")


def test_nothing_secret_is_in_the_texts_of_what_is_sent(subscribe):
    subscription = subscribe("*", headers={"Authorization": "Bearer hunter2"})
    parcel = delivery.pack(Delivery(event=Event(body="{}"), subscription=subscription))
    for text in (repr(parcel), repr(Request("https://e.example/", parcel.headers, b"x", 1))):
        assert "hunter2" not in text
        assert subscription.secret not in text


def test_nothing_secret_is_in_an_error_report_of_a_send(subscribe, caplog):
    value = generate_secret()  # not in this source, which a report quotes
    subscription = subscribe("*", headers={"Authorization": value})

    class Broken:
        def send(self, request):
            raise RuntimeError("boom")

    parcel = delivery.pack(Delivery(event=Event(body="{}"), subscription=subscription))
    delivery.send(parcel, Broken())
    [record] = caplog.records
    report = ExceptionReporter(None, *record.exc_info)
    for text in (report.get_traceback_html(), report.get_traceback_text()):
        assert "boom" in text
        assert value not in text
        assert subscription.secret not in text


@pytest.mark.parametrize("name", ["a\rb", "\x1b]0;owned\x07"])
def test_name_with_a_control_character_is_refused(name):
    with pytest.raises(ValidationError) as caught:
        Subscription(url="https://example.com/", name=name).full_clean()
    assert list(caught.value.message_dict) == ["name"]


# How an endpoint does


def fail_all(receiver, status=500, headers=None):
    receiver.answer = lambda request: (status, headers or {}, b"")


def test_endpoint_that_keeps_failing_is_held_back_without_using_up_attempts(subscribe, receiver):
    fail_all(receiver)
    subscription = subscribe("*")
    for number in range(30):
        order(number=number)
    drain()
    assert OPEN_AFTER <= len(receiver.requests) < 10
    waiting = Delivery.objects.filter(attempt_count=0)
    assert waiting.count() == 30 - len(receiver.requests)
    assert set(waiting.values_list("status", flat=True)) == {"pending"}
    subscription.refresh_from_db()
    assert subscription.is_open
    assert subscription.held_until > timezone.now()


def test_endpoint_that_is_held_back_gets_one_probe_and_all_the_rest_once_it_answers(
    subscribe, receiver
):
    fail_all(receiver)
    subscription = subscribe("*")
    for number in range(20):
        order(number=number)
    drain()
    sent = len(receiver.requests)
    hold = Subscription.objects.get().held_until
    Subscription.objects.update(held_until=timezone.now())
    drain()
    assert len(receiver.requests) == sent + 1, "one probe"
    subscription.refresh_from_db()
    assert subscription.held_until - timezone.now() > hold - timezone.now(), "held for longer"
    receiver.answer = lambda request: 200
    Subscription.objects.update(held_until=timezone.now())
    drain()
    subscription.refresh_from_db()
    assert not subscription.is_open
    assert subscription.held_until is None
    assert not Delivery.objects.filter(attempt_count=0).exists()


def test_retries_of_one_delivery_keep_to_its_schedule(subscribe, receiver, configure):
    configure(RETRY_SCHEDULE=[0] * 9)
    fail_all(receiver)
    subscribe("*")
    order()
    drain()
    assert (only().status, only().attempt_count) == ("failed", 10)


@pytest.mark.parametrize(("status", "holds"), [(429, True), (503, True), (500, False)])
def test_endpoint_that_asks_for_time_is_left_alone(subscribe, receiver, status, holds):
    fail_all(receiver, status, {"retry-after": "500"})
    subscription = subscribe("*")
    order()
    drain()
    subscription.refresh_from_db()
    if holds:
        assert 490 < (subscription.held_until - timezone.now()).total_seconds() <= 500
    else:
        assert subscription.held_until is None
    order(number="next")
    drain()
    assert len(receiver.requests) == (1 if holds else 2)


# Nothing secret


def test_secret_is_encrypted_at_rest_and_not_in_any_text(subscribe, receiver, caplog, db):
    secret = generate_secret()
    subscription = subscribe("*", secret=secret, headers={"Authorization": "Bearer hunter2"})
    order()
    with caplog.at_level("DEBUG"):
        drain()
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM django_webhooks_subscription")
        stored = repr(cursor.fetchall())
    dumped = serializers.serialize("json", Subscription.objects.all())
    for text in (stored, dumped, repr(subscription), str(subscription), caplog.text):
        assert secret not in text
        assert secret.removeprefix("whsec_") not in text
        assert "hunter2" not in text
