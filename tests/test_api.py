"""The API for customers: what they may do, and that they see nothing but their own."""

import html
import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from rest_framework.test import APIClient, APIRequestFactory, force_authenticate

from django_webhooks import conditions, outbox, signing
from django_webhooks.api import urls, views
from django_webhooks.api.base import OwnedView
from django_webhooks.api.throttling import CostlyThrottle
from django_webhooks.models import Delivery, Event, Rule, Subscription
from django_webhooks.registry import registry
from django_webhooks.worker import drain
from tests.api import DELIVERIES, PAID, PREVIEW, SUBSCRIPTIONS, URL, at, client_of, deliver, make
from tests.receiver import Receiver
from tests.shop.models import Customer, Item, Order

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited")]


# Whose it is


def methods_of(route: Any) -> list[str]:
    actions = getattr(route.callback, "actions", ["get"])  # the root has none
    return [method for method in actions if method != "head"]  # added by the first request


def endpoints(*, detail: bool) -> list[Any]:
    """Every URL and verb that the router has, so that a new one can't be forgotten."""
    return [
        pytest.param(route.name, method, id=f"{method}-{route.name}")
        for route in urls.router.urls
        for method in methods_of(route)
        if ("pk" in route.pattern.regex.groupindex) == detail
    ]


BODIES = {"subscription-recover": {"since": "2020-01-01T00:00:00Z"}}


def test_the_endpoints_are_those_of_the_contract() -> None:
    found = {
        (method, re.sub(r"\(\?P<pk>[^)]*\)", "<id>", route.pattern.regex.pattern).strip("^$\\Z"))
        for route in urls.router.urls
        for method in methods_of(route)
    }
    assert found == {
        ("get", ""),
        ("get", "subscriptions/"),
        ("post", "subscriptions/"),
        ("get", "subscriptions/<id>/"),
        ("patch", "subscriptions/<id>/"),
        ("delete", "subscriptions/<id>/"),
        ("post", "subscriptions/<id>/rotate-secret/"),
        ("post", "subscriptions/<id>/test/"),
        ("post", "subscriptions/<id>/pause/"),
        ("post", "subscriptions/<id>/resume/"),
        ("post", "subscriptions/<id>/verify/"),
        ("post", "subscriptions/<id>/recover/"),
        ("get", "deliveries/"),
        ("get", "deliveries/<id>/"),
        ("post", "deliveries/<id>/redeliver/"),
        ("get", "event-types/"),
        ("post", "rules/preview/"),
    }


@pytest.mark.parametrize("whose", ["a stranger's", "nobody's", "missing", "garbage", "NUL", "huge"])
@pytest.mark.parametrize(("name", "method"), endpoints(detail=True))
def test_what_is_not_mine_is_not_there(
    api: APIClient, stranger: User, name: str, method: str, whose: str
) -> None:
    subscription = make(stranger if whose == "a stranger's" else None)
    delivery = deliver(subscription)
    is_delivery = name.startswith("delivery")
    foreign: Any = delivery.pk if is_delivery else subscription.pk
    missing: Any = delivery.pk + 1 if is_delivery else uuid.uuid4()
    pk = {"missing": missing, "garbage": "x", "NUL": "\0", "huge": "9" * 5000}.get(whose, foreign)
    before = table_rows()
    answer = getattr(api, method)(
        reverse(f"django_webhooks:{name}", args=[pk]), BODIES.get(name, {})
    )
    assert answer.status_code == 404
    assert table_rows() == before


def table_rows() -> list[Any]:
    return [list(model.objects.order_by("pk").values()) for model in (Subscription, Rule, Delivery)]


def test_lists_hold_only_what_is_mine(api: APIClient, me: User, stranger: User) -> None:
    mine = make(me)
    delivery = deliver(mine)
    for other in (stranger, None):
        deliver(make(other))
    assert [row["id"] for row in api.get(SUBSCRIPTIONS).data["results"]] == [str(mine.pk)]
    assert [row["id"] for row in api.get(DELIVERIES).data["results"]] == [delivery.pk]


def test_a_strangers_subscription_can_not_be_filtered_by(api: APIClient, stranger: User) -> None:
    other = make(stranger)
    assert api.get(DELIVERIES, {"subscription": str(other.pk)}).status_code == 404


@pytest.mark.parametrize(("name", "method"), [*endpoints(detail=True), *endpoints(detail=False)])
def test_the_anonymous_see_nothing(me: User, name: str, method: str) -> None:
    mine = deliver(make(me))
    pk: Any = mine.pk if name.startswith("delivery") else mine.subscription_id
    args = [pk] if name.split("-")[-1] not in ("list", "preview", "root") else []
    answer = getattr(APIClient(), method)(reverse(f"django_webhooks:{name}", args=args))
    assert answer.status_code in (401, 403)


@pytest.mark.parametrize("owner", [None, "text", Customer(pk=1)])
def test_who_is_no_owner_is_refused(me: User, monkeypatch: pytest.MonkeyPatch, owner: Any) -> None:
    monkeypatch.setattr(OwnedView, "get_owner_for_request", lambda view, request: owner)
    api = client_of(me)
    for path in (SUBSCRIPTIONS, DELIVERIES, "/webhooks/event-types/"):
        assert api.get(path).status_code == 403
    assert api.post(SUBSCRIPTIONS, {"url": URL}).status_code == 403
    assert api.post(PREVIEW, {"event_type": "*"}).status_code == 403


def test_a_project_says_whom_a_request_acts_for(me: User, stranger: User) -> None:
    class ForAnother(views.SubscriptionViewSet):
        def get_owner_for_request(self, request: Any) -> Any:
            return stranger

    theirs = make(stranger)
    make(me)
    request = APIRequestFactory().get("/")
    force_authenticate(request, me)
    answer = ForAnother.as_view({"get": "list"})(request)
    assert [row["id"] for row in answer.data["results"]] == [str(theirs.pk)]


def test_the_anonymous_have_no_owner(monkeypatch: pytest.MonkeyPatch, me: User) -> None:
    monkeypatch.setattr(OwnedView, "get_owner_for_request", lambda view, request: me)
    for path in (SUBSCRIPTIONS, DELIVERIES, "/webhooks/event-types/"):
        assert APIClient().get(path).status_code in (401, 403)


def test_nothing_but_what_may_be_written_is_written(
    api: APIClient, me: User, stranger: User
) -> None:
    theirs = make(stranger)
    sneaky = {
        "id": str(theirs.pk),
        "owner": stranger.pk,
        "owner_id": stranger.pk,
        "status": "completed",
        "disabled_reason": "sneaky",
        "created_at": "2001-01-01T00:00:00Z",
        "failing_since": "2001-01-01T00:00:00Z",
        "secrets": [],
        "next_slot_at": "2001-01-01T00:00:00Z",
    }
    created = api.post(SUBSCRIPTIONS, {"url": URL, **sneaky})
    assert created.status_code == 201
    mine = Subscription.objects.get(pk=created.data["id"])
    secret = mine.secret
    assert api.patch(at(mine), {**sneaky, "secret": signing.generate_secret()}).status_code == 200
    mine.refresh_from_db()
    assert mine.pk != theirs.pk
    assert mine.owner == me
    assert mine.status == "active"
    assert mine.disabled_reason == ""
    assert mine.created_at.year > 2001
    assert mine.failing_since is None
    assert mine.next_slot_at is None
    assert mine.secret == secret


def test_a_rule_of_a_stranger_can_not_be_taken(api: APIClient, me: User, stranger: User) -> None:
    theirs = make(stranger).rules.get()
    rules = [{"id": theirs.pk, "subscription": str(make(me).pk), "event_type": "*"}]
    api.post(SUBSCRIPTIONS, {"url": URL, "rules": rules})
    api.patch(at(make(me)), {"rules": rules})
    theirs.refresh_from_db()
    assert theirs.event_type == "shop.order.*"
    assert theirs.subscription.owner == stranger


def test_deepest_conditions_fit(api: APIClient) -> None:
    tree: Any = PAID
    for _ in range(conditions.MAX_DEPTH - 1):
        tree = {"all": [tree]}
    body = {"url": URL, "rules": [{"event_type": "*", "conditions": tree}]}
    assert api.post(SUBSCRIPTIONS, body).status_code == 201


# The whole way


@pytest.mark.django_db(transaction=True)
def test_from_create_to_redeliver(api: APIClient, me: User, receiver: Receiver) -> None:
    created = api.post(
        SUBSCRIPTIONS,
        {
            "name": "ERP",
            "url": receiver.url,
            "headers": {"Authorization": "Bearer HEADER-CANARY"},
            "rules": [{"event_type": "shop.order.*", "conditions": PAID}],
        },
    )
    assert created.status_code == 201
    customer = Customer.objects.create(name="Ann", user=me)
    Order.objects.create(number="A-1", customer=customer)
    order = Order.objects.create(number="A-2", status="paid", customer=customer)
    Order.objects.create(number="A-3", status="paid", customer=Customer.objects.create(name="Bo"))
    drain()

    [request] = receiver.requests
    assert request.verify(created.data["secret"]).data["object"]["id"] == order.pk
    assert request.headers["authorization"] == "Bearer HEADER-CANARY"
    [row] = api.get(DELIVERIES).data["results"]
    assert row["status"] == "succeeded"
    assert row["event"] == request.id
    assert row["event_type"] == "shop.order.created"
    assert str(row["subscription"]) == created.data["id"]
    assert row["matched"] == created.data["rules"][0]["sentence"]

    again = api.post(f"{DELIVERIES}{row['id']}/redeliver/")
    assert again.status_code == 202
    assert again.data["status"] == "pending"
    drain()
    assert [each.body for each in receiver.requests] == [request.body] * 2
    detail = api.get(f"{DELIVERIES}{row['id']}/").data
    assert [each["number"] for each in detail["attempts"]] == [1, 2]
    assert detail["payload"] == json.loads(request.body)

    tested = api.post(f"{SUBSCRIPTIONS}{created.data['id']}/test/")
    assert tested.status_code == 202
    assert tested.data["event_type"] == "webhooks.test"
    assert tested.data["status"] == "pending"
    drain()
    assert receiver.requests[-1].verify(created.data["secret"]).type == "webhooks.test"


# Subscriptions


def test_a_subscription_reads_as_it_was_written(api: APIClient) -> None:
    body = {
        "name": "ERP",
        "url": URL,
        "mode": "one_time",
        "headers": {"Authorization": "Bearer x"},
        "timeout": 5,
        "max_per_second": 0.5,
        "rules": [
            {"event_type": "shop.order.updated", "conditions": PAID},
            {"event_type": "billing.*"},
        ],
    }
    created = api.post(SUBSCRIPTIONS, body).json()
    read = api.get(f"{SUBSCRIPTIONS}{created['id']}/").json()
    signing.decode_secret(created.pop("secret"))
    assert created == read
    assert api.get(SUBSCRIPTIONS).json()["results"] == [read]
    assert [rule.pop("id") > 0 for rule in read["rules"]] == [True, True]
    del read["id"], read["created_at"], read["updated_at"]
    assert read == {
        **body,
        "ordered": False,
        "signature": "v1",
        "public_keys": [],
        "status": "active",
        "disabled_reason": "",
        "headers": {"Authorization": "••••••"},
        "rules": [
            {
                "event_type": "shop.order.updated",
                "conditions": PAID,
                "sentence": str(Rule(event_type="shop.order.updated", conditions=PAID)),
            },
            {
                "event_type": "billing.*",
                "conditions": {},
                "sentence": str(Rule(event_type="billing.*")),
            },
        ],
        "warnings": [],
    }


def test_a_secret_may_be_given(api: APIClient) -> None:
    secret = signing.generate_secret()
    created = api.post(SUBSCRIPTIONS, {"url": URL, "secret": secret})
    assert created.data["secret"] == secret
    assert created["Cache-Control"] == "no-store"
    assert Subscription.objects.get().secret == secret


@pytest.fixture
def signing_keys(settings: Any) -> list[str]:
    keys = [signing.generate_signing_key()]
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "SIGNING_KEYS": keys}
    return keys


def test_v1a_is_answered_with_public_keys_and_without_a_secret(
    api: APIClient, signing_keys: list[str]
) -> None:
    created = api.post(SUBSCRIPTIONS, {"url": URL, "signature": "v1a"})
    assert created.status_code == 201
    assert "secret" not in created.data
    assert created.data["public_keys"] == Subscription.objects.get().public_keys
    assert created.data["public_keys"][0].startswith("whpk_")
    assert "whsk_" not in created.text


def test_signature_can_be_changed(api: APIClient, me: User, signing_keys: list[str]) -> None:
    mine = make(me)
    assert api.get(at(mine)).data["public_keys"] == mine.public_keys
    for signature in ("v1a", "v1"):
        assert api.patch(at(mine), {"signature": signature}).data["signature"] == signature
        mine.refresh_from_db()
        assert mine.signature == signature
    assert api.patch(at(mine), {"public_keys": ["whpk_mine"]}).data["public_keys"] != ["whpk_mine"]


@pytest.mark.parametrize("signature", ["v1a", "v2", "", None, 1])
def test_a_signature_that_can_not_be_had_is_refused(
    api: APIClient, me: User, signature: Any
) -> None:
    """`v1a` without SIGNING_KEYS, too."""
    assert list(api.post(SUBSCRIPTIONS, {"url": URL, "signature": signature}).data) == ["signature"]
    assert list(api.patch(at(make(me)), {"signature": signature}).data) == ["signature"]


@pytest.mark.parametrize(
    "secret", ["whsk_" + "A" * 43 + "=", "", "whsec_", "whsec_short", "garbage", 7, None, [], {}]
)
def test_a_bad_secret_is_refused_under_its_name(api: APIClient, secret: Any) -> None:
    answer = api.post(SUBSCRIPTIONS, {"url": URL, "secret": secret})
    assert answer.status_code == 400
    assert list(answer.data) == ["secret"]
    assert not Subscription.objects.exists()


def test_secrets_and_header_values_are_in_no_other_answer(api: APIClient, me: User) -> None:
    body = {"url": URL, "headers": {"X-Key": "HEADER-CANARY"}, "rules": [{"event_type": "*"}]}
    created = api.post(SUBSCRIPTIONS, body)
    subscription = Subscription.objects.get()
    delivery = deliver(subscription)
    rotated = api.post(at(subscription, "rotate-secret"))
    assert created.data["secret"] != rotated.data["secret"]
    answers = [
        api.get(SUBSCRIPTIONS),
        api.get(at(subscription)),
        api.options(at(subscription)),
        api.patch(at(subscription), {"name": "new"}),
        api.post(at(subscription, "test")),
        api.post(at(subscription, "pause")),
        api.post(at(subscription, "resume")),
        api.post(at(subscription, "recover"), {"since": "2020-01-01T00:00:00Z"}),
        api.get(DELIVERIES),
        api.get(f"{DELIVERIES}{delivery.pk}/"),
        api.post(f"{DELIVERIES}{delivery.pk}/redeliver/"),
        api.post(PREVIEW, {"event_type": "*"}),
        api.get("/webhooks/event-types/"),
        api.get(at(subscription), headers={"accept": "text/html"}),
    ]
    keys = [each.data["secret"].removeprefix("whsec_") for each in (created, rotated)]
    for answer in answers:
        assert answer.status_code < 300, answer.content
        for hidden in ("CANARY", "whsec_", *keys):
            assert hidden not in answer.content.decode()
    assert "CANARY" not in created.content.decode() + rotated.content.decode()


def test_headers_read_from_the_api_can_not_be_written_back(api: APIClient, me: User) -> None:
    mine = make(me, headers={"X-Key": "value"})
    shown = api.get(at(mine)).data["headers"]
    assert shown == {"X-Key": "••••••"}
    assert api.patch(at(mine), {"headers": shown}).status_code == 400
    mine.refresh_from_db()
    assert mine.headers == {"X-Key": "value"}


def test_patch_leaves_what_it_does_not_name(api: APIClient, me: User) -> None:
    mine = make(me, name="old", headers={"X-Key": "value"}, max_per_second=3)
    rule = mine.rules.get()
    answer = api.patch(at(mine), {"name": "new", "mode": "one_time"})
    assert answer.status_code == 200
    assert answer.data["name"] == "new"
    mine.refresh_from_db()
    assert (mine.name, mine.mode, mine.max_per_second) == ("new", "one_time", 3)
    assert mine.headers == {"X-Key": "value"}
    assert mine.rules.get() == rule


def test_patch_replaces_the_rules_as_a_whole(api: APIClient, me: User) -> None:
    mine = make(me)
    answer = api.patch(at(mine), {"rules": [{"event_type": "billing.*"}, {"event_type": "*"}]})
    assert [rule["event_type"] for rule in answer.data["rules"]] == ["billing.*", "*"]
    assert [rule.event_type for rule in mine.rules.order_by("pk")] == ["billing.*", "*"]
    assert api.patch(at(mine), {"rules": []}).data["rules"] == []
    assert not mine.rules.exists()


def test_a_patch_that_is_refused_changes_nothing(api: APIClient, me: User) -> None:
    mine = make(me, name="old")
    body = {"name": "new", "rules": [{"event_type": "*"}, {"event_type": "no.such"}]}
    before = table_rows()
    assert api.patch(at(mine), body).status_code == 400
    assert table_rows() == before


def test_a_subscription_is_written_with_its_rules_or_not_at_all(
    api: APIClient, me: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = make(me, name="old")
    before = table_rows()
    save = Rule.save

    def fail_second(rule: Rule, **kwargs: Any) -> None:
        if rule.event_type == "billing.*":
            raise RuntimeError("the database is full")
        save(rule, **kwargs)

    monkeypatch.setattr(Rule, "save", fail_second)
    body = {"name": "new", "url": URL, "rules": [{"event_type": "*"}, {"event_type": "billing.*"}]}
    for send, path in [(api.post, SUBSCRIPTIONS), (api.patch, at(mine))]:
        with pytest.raises(RuntimeError, match="full"):
            send(path, body)
        assert table_rows() == before


def test_there_is_no_put(api: APIClient, me: User) -> None:
    assert api.put(at(make(me)), {"url": URL}).status_code == 405


def test_delete_cancels_what_was_still_to_be_sent(api: APIClient, me: User) -> None:
    mine = make(me)
    delivery = deliver(mine, status="pending")
    assert api.delete(at(mine)).status_code == 204
    delivery.refresh_from_db()
    assert delivery.status == "cancelled"
    assert api.get(DELIVERIES).data["results"] == []


def test_an_owner_has_only_so_many(
    api: APIClient, me: User, stranger: User, configure: Callable[..., None]
) -> None:
    configure(MAX_SUBSCRIPTIONS_PER_OWNER=1)
    make(stranger)
    assert api.post(SUBSCRIPTIONS, {"url": URL}).status_code == 201
    answer = api.post(SUBSCRIPTIONS, {"url": URL})
    assert answer.status_code == 409
    assert "You may have 1 subscription" in answer.data["detail"]


@pytest.mark.parametrize("verb", ["post", "patch"])
@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"url": "ftp://example.com"}, "url"),
        ({"url": "https://user:pw@example.com"}, "url"),
        ({"url": "http://169.254.169.254/"}, "url"),
        ({"url": "https://example.com/\0"}, "url"),
        ({"url": "https://example.com/" + "x" * 3000}, "url"),
        ({"url": None}, "url"),
        ({"url": ["https://example.com"]}, "url"),
        ({"mode": "sometimes"}, "mode"),
        ({"name": "x" * 201}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 31}, "timeout"),
        ({"timeout": "nan"}, "timeout"),
        ({"timeout": 10**400}, "timeout"),
        ({"max_per_second": -1}, "max_per_second"),
        ({"max_per_second": 1e-300}, "max_per_second"),
        ({"max_per_second": "inf"}, "max_per_second"),
        ({"max_per_second": True}, "max_per_second"),
        ({"headers": []}, "headers"),
        ({"headers": "X-Key: 7"}, "headers"),
        ({"headers": None}, "headers"),
        ({"headers": {"X-Key": 7}}, "headers"),
        ({"headers": {"X-Key": None}}, "headers"),
        ({"headers": {"X-Key": " padded "}}, "headers"),
        ({"headers": {"X-Key": "a\r\nb: c"}}, "headers"),
        ({"headers": {"Host": "example.com"}}, "headers"),
        ({"headers": {f"X-{n}": "v" for n in range(21)}}, "headers"),
        ({"rules": "*"}, "rules"),
        ({"rules": {"event_type": "*"}}, "rules"),
        ({"rules": None}, "rules"),
        ({"rules": [{"event_type": "*"}] * 101}, "rules"),
    ],
)
def test_what_is_wrong_is_told_under_its_field(
    api: APIClient, me: User, verb: str, body: dict[str, Any], where: str
) -> None:
    path, body = (SUBSCRIPTIONS, {"url": URL, **body}) if verb == "post" else (at(make(me)), body)
    answer = getattr(api, verb)(path, body)
    assert answer.status_code == 400
    assert list(answer.data) == [where]


@pytest.mark.parametrize("verb", ["post", "patch"])
@pytest.mark.parametrize(
    ("rule", "where", "said"),
    [
        ({"event_type": "shop.ordr.created"}, "event_type", "shop.order.created"),
        ({"event_type": None}, "event_type", "null"),
        ({"event_type": "a\0b"}, "event_type", "ull"),
        ({}, "event_type", ""),
        (
            {"event_type": "*", "conditions": {"all": [PAID, {"field": "a", "op": "above"}]}},
            "conditions",
            "all[1].op",
        ),
        ({"event_type": "*", "conditions": [PAID]}, "conditions", ""),
        ({"event_type": "*", "conditions": "{}"}, "conditions", ""),
        ({"event_type": "*", "conditions": None}, "conditions", ""),
        ("*", "non_field_errors", "dictionary"),
        (["*"], "non_field_errors", "dictionary"),
    ],
)
def test_what_is_wrong_with_a_rule_is_told_under_its_number(
    api: APIClient, me: User, verb: str, rule: Any, where: str, said: str
) -> None:
    body = {"url": URL, "rules": [{"event_type": "*"}, rule]}
    answer = getattr(api, verb)(SUBSCRIPTIONS if verb == "post" else at(make(me)), body)
    assert answer.status_code == 400
    assert list(answer.data) == ["rules"]
    first, second = answer.json()["rules"]
    assert first == {}
    assert list(second) == [where]
    assert said in second[where][0]


# The verbs of a subscription


def test_a_rotated_secret_overlaps_as_asked(api: APIClient, me: User) -> None:
    mine = make(me)
    first = mine.secret
    answer = api.post(at(mine, "rotate-secret"), {"overlap": 60})
    mine.refresh_from_db()
    assert list(answer.data) == ["secret", "previous_expires_at"]
    assert mine.signing_secrets == [answer.data["secret"], first]
    expires = parse_datetime(answer.data["previous_expires_at"])
    assert timedelta(seconds=50) < expires - timezone.now() < timedelta(seconds=61)

    answer = api.post(at(mine, "rotate-secret"), {"overlap": 0})
    mine.refresh_from_db()
    assert answer.data["previous_expires_at"] is None
    assert mine.signing_secrets == [answer.data["secret"]]

    answer = api.post(at(mine, "rotate-secret"))
    expires = parse_datetime(answer.json()["previous_expires_at"])
    assert expires - timezone.now() > timedelta(hours=23)


@pytest.mark.parametrize("overlap", [-1, 10**30, "x", "1e400", None, [], {}, 2**63])
def test_an_overlap_that_is_none_is_refused(api: APIClient, me: User, overlap: Any) -> None:
    mine = make(me)
    answer = api.post(at(mine, "rotate-secret"), {"overlap": overlap})
    assert answer.status_code == 400
    assert list(answer.data) == ["overlap"]
    assert Subscription.objects.get().secret == mine.secret


@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [
        ("pause", "active", "paused"),
        ("pause", "paused", None),
        ("pause", "disabled", None),
        ("pause", "completed", None),
        ("resume", "active", None),
        ("resume", "paused", "active"),
        ("resume", "disabled", "active"),
        ("resume", "completed", None),
    ],
)
def test_pause_and_resume(
    api: APIClient, me: User, verb: str, before: str, after: str | None
) -> None:
    mine = make(me, status=before, disabled_reason="gone" if before == "disabled" else "")
    answer = api.post(at(mine, verb))
    mine.refresh_from_db()
    if after is None:
        assert answer.status_code == 409
        assert before in answer.data["detail"]
        assert mine.status == before
    else:
        assert answer.status_code == 200
        assert answer.data["status"] == mine.status == after
        assert answer.data["disabled_reason"] == ""


def test_recover_sends_again_what_has_failed_since(
    api: APIClient, me: User, stranger: User
) -> None:
    mine = make(me)
    old, failed = deliver(mine, status="failed"), deliver(mine, status="failed")
    done, foreign = deliver(mine), deliver(make(stranger), status="failed")
    Event.objects.filter(pk=old.event_id).update(occurred_at=datetime(2020, 1, 1, tzinfo=UTC))
    body = {"since": "2021-01-01T00:00:00Z"}
    answer = api.post(at(mine, "recover"), {**body, "dry_run": True})
    assert answer.json() == {"count": 1}
    assert statuses(old, failed, done, foreign) == ["failed", "failed", "succeeded", "failed"]
    assert api.post(at(mine, "recover"), body).json() == {"count": 1}
    assert statuses(old, failed, done, foreign) == ["failed", "pending", "succeeded", "failed"]


def statuses(*deliveries: Delivery) -> list[str]:
    return [Delivery.objects.get(pk=each.pk).status for each in deliveries]


MOMENTS = [
    "2026-01-01T00:00:00",  # in which zone?
    "2026-01-01",
    "yesterday",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "9" * 5000,
]


@pytest.mark.parametrize("since", [*MOMENTS, "", None, 0, 10**30, [], {}, True])
def test_a_moment_that_is_none_is_refused(api: APIClient, me: User, since: Any) -> None:
    answer = api.post(at(make(me), "recover"), {"since": since})
    assert answer.status_code == 400
    assert list(answer.data) == ["since"]


@pytest.mark.parametrize("since", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_the_ends_of_time_are_moments(api: APIClient, me: User, since: str) -> None:
    assert api.post(at(make(me), "recover"), {"since": since}).json() == {"count": 0}
    assert api.get(DELIVERIES, {"since": since, "until": since}).status_code == 200


def test_manual_sends_are_limited(
    api: APIClient, me: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CostlyThrottle, "rate", "2/min")
    mine = make(me)
    verb = at(mine, "test")
    assert [api.post(verb).status_code for _ in range(3)] == [202, 202, 429]
    assert api.get(at(mine)).status_code == 200


# Deliveries


def test_a_delivery_says_what_came_back_in_codes_only(api: APIClient, me: User) -> None:
    delivery = deliver(make(me), status="failed", reason="connection: refused by 10.0.0.7")
    answer = api.get(f"{DELIVERIES}{delivery.pk}/")
    assert [list(each) for each in answer.data["attempts"]] == [
        ["number", "started_at", "duration_ms", "status_code", "error"]
    ] * 2
    assert [each["status_code"] for each in answer.data["attempts"]] == [503, 204]
    assert answer.data["reason"] == "connection"
    assert answer.data["payload"]["data"]["object"] == {"id": 1, "status": "paid"}
    assert "CANARY" not in answer.content.decode()
    assert "10.0.0.7" not in answer.content.decode() + api.get(DELIVERIES).content.decode()


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ["b", "a"]),
        ({"status": "failed"}, ["b"]),
        ({"status": "pending"}, []),
        ({"event_type": "shop.order.updated"}, ["b", "a"]),
        ({"event_type": "shop.order"}, []),
        ({"since": "2026-02-01T00:00:00Z"}, ["b"]),
        ({"until": "2026-02-01T00:00:00Z"}, ["a"]),
        ({"until": "2026-02-01T01:00:00+01:00"}, ["a"]),
        ({"since": "2026-01-01T00:00:00Z", "until": "2026-02-01T00:00:00Z"}, ["a"]),
        ({"status_code": 503}, ["b", "a"]),
        ({"status_code": 204, "status": "succeeded"}, ["a"]),
        ({"status_code": 500}, []),
        ({"ordering": "created_at"}, ["a", "b"]),
        ({"ordering": "-created_at"}, ["b", "a"]),
        ({"owner": "1", "subscription__owner": "1"}, ["b", "a"]),
    ],
)
def test_deliveries_can_be_filtered(
    api: APIClient, me: User, stranger: User, parameters: dict[str, Any], expected: list[str]
) -> None:
    mine = make(me)
    names = {}
    deliver(make(stranger))
    for name, month, status in [("a", 1, "succeeded"), ("b", 2, "failed")]:
        delivery = deliver(mine, status=status)
        names[delivery.pk] = name
        moment = datetime(2026, month, 1, tzinfo=UTC)
        Event.objects.filter(pk=delivery.event_id).update(occurred_at=moment)
    answer = api.get(DELIVERIES, parameters)
    assert [names[row["id"]] for row in answer.data["results"]] == expected


def test_deliveries_of_one_subscription(api: APIClient, me: User) -> None:
    one, other = make(me), make(me)
    wanted = deliver(one)
    deliver(other)
    answer = api.get(DELIVERIES, {"subscription": str(one.pk)})
    assert [row["id"] for row in answer.data["results"]] == [wanted.pk]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "no such"),
        ("status", "\0"),
        ("status", ""),
        ("until", ""),
        ("ordering", "id"),
        ("page_size", "0"),
        ("page_size", "null"),
        ("page_size", "9" * 5000),
        ("subscription", "garbage"),
        ("subscription", "9" * 5000),
        ("event_type", "\0"),
        ("status_code", "x"),
        ("status_code", "9" * 5000),
        ("status_code", 10**30),
        ("status_code", -1),
        *(("since", each) for each in MOMENTS),
        *(("until", each) for each in MOMENTS),
    ],
)
def test_a_filter_that_is_none_is_refused(api: APIClient, name: str, value: Any) -> None:
    answer = api.get(DELIVERIES, {name: value})
    assert answer.status_code == 400
    assert list(answer.data) == [name]


def test_what_is_in_flight_is_not_sent_again(api: APIClient, me: User) -> None:
    delivery = deliver(make(me), status="pending", lease_token=uuid.uuid4())
    answer = api.post(f"{DELIVERIES}{delivery.pk}/redeliver/")
    assert answer.status_code == 409
    assert "being sent" in answer.data["detail"]


@pytest.mark.parametrize(
    ("verb", "path"),
    [("post", DELIVERIES), ("put", "1/"), ("patch", "1/"), ("delete", "1/"), ("get", "redeliver/")],
)
def test_deliveries_are_read_only(api: APIClient, me: User, verb: str, path: str) -> None:
    pk = deliver(make(me)).pk
    path = {"1/": f"{DELIVERIES}{pk}/", "redeliver/": f"{DELIVERIES}{pk}/redeliver/"}.get(
        path, path
    )
    assert getattr(api, verb)(path, {}).status_code == 405


# Pages


@pytest.mark.parametrize("rows", [1, 20])
@pytest.mark.parametrize(("path", "queries"), [(SUBSCRIPTIONS, 2), (DELIVERIES, 2)])
def test_a_page_costs_the_same_however_long(
    api: APIClient,
    me: User,
    django_assert_num_queries: Callable[[int], Any],
    path: str,
    queries: int,
    rows: int,
) -> None:
    for _ in range(rows):
        deliver(make(me))
    with django_assert_num_queries(queries):
        assert len(api.get(path).data["results"]) == rows


@pytest.mark.parametrize("path", [SUBSCRIPTIONS, DELIVERIES])
def test_pages_lead_through_all(api: APIClient, me: User, path: str) -> None:
    for _ in range(5):
        deliver(make(me))
    seen, page = [], api.get(path, {"page_size": 2}).data
    seen += page["results"]
    while page["next"]:
        page = api.get(page["next"]).data
        seen += page["results"]
    assert len({row["id"] for row in seen}) == len(seen) == 5
    assert seen == api.get(path).data["results"]
    assert api.get(page["previous"]).data["results"] == seen[2:4]


@pytest.mark.parametrize("path", [SUBSCRIPTIONS, DELIVERIES])
def test_a_page_has_at_most_a_hundred_rows(api: APIClient, me: User, path: str) -> None:
    for _ in range(101):
        deliver(make(me))
    assert len(api.get(path, {"page_size": 100_000}).data["results"]) == 100


@pytest.mark.parametrize("path", [SUBSCRIPTIONS, DELIVERIES])
@pytest.mark.parametrize(
    "cursor", ["x", "\0", "é", "cD14", "cD0wMDAxLTAxLTAxIDAwOjAwOjAwKzE0OjAw", "cD0lMDA=", "bz14"]
)
def test_a_made_up_cursor_is_not_found(api: APIClient, me: User, path: str, cursor: str) -> None:
    deliver(make(me))
    assert api.get(path, {"cursor": cursor}).status_code in (200, 404)


# Event types, preview


def test_the_catalogue_tells_what_can_be_subscribed_to(api: APIClient) -> None:
    rows = {row["type"]: row for row in api.get("/webhooks/event-types/").json()}
    order = rows["shop.order.created"]
    assert list(order) == ["type", "description", "schema", "example", "public"]
    assert order["schema"]["properties"]["status"]["type"] == "string"
    assert order["public"] is False
    assert rows["shop.item.created"]["public"] is True
    assert rows["billing.invoice_paid"] == {
        "type": "billing.invoice_paid",
        "description": "An invoice was paid.",
        "schema": {},
        "example": {"invoice": 7},
        "public": False,
    }
    assert "webhooks.test" not in rows


def test_each_example_of_the_catalogue_fits_its_schema(api: APIClient) -> None:
    for row in api.get("/webhooks/event-types/").json():
        assert row["example"] is not None or row["type"] == "billing.notice"
        jsonschema.validate(row["example"], row["schema"], jsonschema.Draft202012Validator)


def test_catalogue_survives_a_serializer_that_cannot_be_described(
    api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = registry.require_type("shop.order.created")
    monkeypatch.setattr(type(known.webhook), "serializer_class", object)
    rows = {row["type"]: row for row in api.get("/webhooks/event-types/").json()}
    assert (rows["shop.order.created"]["schema"], rows["shop.order.created"]["example"]) == ({}, {})


@pytest.mark.django_db
def test_what_is_published_fits_the_schema() -> None:
    listener = Subscription.objects.create(url=URL)
    listener.rules.create(event_type="*")
    Order.objects.create(number="1")
    Item.objects.create(order=Order.objects.create(number="2", customer=None), sku="TEA")
    for event in Event.objects.all():
        known = registry.require_type(event.type)
        assert known.webhook is not None
        jsonschema.validate(event.data, known.webhook.schema(), jsonschema.Draft202012Validator)


def test_preview_finds_only_what_the_owner_may_receive(
    api: APIClient, me: User, stranger: User
) -> None:
    def event(owner: User | None, status: str, event_type: str = "shop.order.created") -> Event:
        made = outbox.compose(event_type, {"status": status}, action="created", owner=owner)
        made.save()
        return made

    mine, public = event(me, "paid"), event(None, "paid", "shop.item.created")
    event(me, "pending")
    event(stranger, "paid")
    event(None, "paid")
    answer = api.post(PREVIEW, {"event_type": "shop.*", "conditions": PAID})
    assert answer.status_code == 200
    assert (answer.data["checked"], answer.data["matched"]) == (3, 2)
    assert {row["id"] for row in answer.data["events"]} == {mine.pk, public.pk}
    assert set(answer.data["events"][0]) == {"id", "type", "occurred_at", "data", "previous"}
    assert api.post(PREVIEW, {"event_type": "shop.order.*"}).data["matched"] == 2


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "event_type"),
        ({"event_type": "no.such"}, "event_type"),
        ({"event_type": ["*"]}, "event_type"),
        ({"event_type": "*", "conditions": []}, "conditions"),
        ({"event_type": "*", "conditions": {"field": 1}}, "conditions"),
        ([], "non_field_errors"),
    ],
)
def test_a_preview_of_nonsense_is_refused(api: APIClient, body: Any, where: str) -> None:
    answer = api.post(PREVIEW, body)
    assert answer.status_code == 400
    assert list(answer.data) == [where]


# Whatever comes in


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


WEIRD = {
    "null": None,
    "true": True,
    "zero": 0,
    "negative": -1,
    "huge int": 10**4000,
    "float": 1e308,
    "empty": "",
    "NUL": "a\0b",
    "surrogate": "\ud800",
    "long": "x" * 100_000,
    "bidi": "\u202e\ufeff",
    "list": [],
    "object": {},
    "list of null": [None],
    "list of lists": [[]],
    "list of objects": [{}],
    "odd keys": {"": None, "\0": {}, "a" * 1000: [], "event_type": {}, "conditions": {"all": 7}},
    "rules": [{"event_type": "*", "conditions": {"not": {"not": {"field": "\0", "op": 7}}}}],
    "nested": nested(90),
    "nested too deeply": nested(300),
    "nested conditions": {"all": nested(90)},
}


@pytest.mark.parametrize("value", WEIRD.values(), ids=WEIRD.keys())
def test_no_value_breaks_an_endpoint(api: APIClient, me: User, value: Any) -> None:
    def send(method: str, path: str, body: Any) -> int:
        text = json.dumps(body)  # with escapes, which DRF's client would not write
        answer = getattr(api, method)(path, text, content_type="application/json")
        return int(answer.status_code)

    mine = make(me)
    delivery = deliver(mine)
    for name in [*api.get(at(mine)).data, "secret"]:
        assert send("post", SUBSCRIPTIONS, {"url": URL, name: value}) in (201, 400)
        assert send("patch", at(mine), {name: value}) in (200, 400)
    for name in ("event_type", "conditions"):
        rule = {"event_type": "*", name: value}
        assert send("post", SUBSCRIPTIONS, {"url": URL, "rules": [rule]}) in (201, 400)
        assert send("post", PREVIEW, rule) in (200, 400)
    for verb in ("recover", "rotate-secret", "test", "pause", "resume"):
        for body in (value, {"since": value, "overlap": value, "dry_run": value}):
            assert send("post", at(mine, verb), body) in (200, 202, 400, 409)
    assert send("post", f"{DELIVERIES}{delivery.pk}/redeliver/", value) in (202, 409)
    assert api.get(SUBSCRIPTIONS).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b"7",
        b'{"url": NaN}',
        b'{"timeout": Infinity}',
        b'{"timeout": 1e999}',
        b'{"max_per_second": 1e999}',
        b'{"mode": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"timeout": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"rules":' * 100_000,
        b'{"rules":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"headers":' + b'{"a":' * 900 + b"1" + b"}" * 901,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_no_body_breaks_an_endpoint(api: APIClient, me: User, body: bytes) -> None:
    mine = make(me)
    for path in (SUBSCRIPTIONS, PREVIEW, at(mine, "recover")):
        answer = api.post(path, body, content_type="application/json")
        assert answer.status_code == 400, path
    assert api.patch(at(mine), body, content_type="application/json").status_code in (200, 400)
    assert api.get(SUBSCRIPTIONS).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json; charset=utf-16", 201),
        ("application/json; charset=rot13", 201),
        ("application/json; charset=nonsense", 201),
        ("application/x-www-form-urlencoded", 415),
        ("text/plain", 415),
    ],
)
def test_bodies_are_json_in_utf_8(api: APIClient, content_type: str, status: int) -> None:
    body = json.dumps({"url": URL, "name": "Jörg"}, ensure_ascii=False).encode()
    answer = api.post(SUBSCRIPTIONS, body, content_type=content_type)
    assert answer.status_code == status
    assert status != 201 or answer.data["name"] == "Jörg"


@pytest.mark.parametrize("method", ["get", "options"])
def test_the_pages_for_browsers_work(api: APIClient, me: User, method: str) -> None:
    mine = make(me)
    delivery = deliver(mine)
    for path in (
        SUBSCRIPTIONS,
        at(mine),
        at(mine, "rotate-secret"),
        DELIVERIES,
        f"{DELIVERIES}{delivery.pk}/",
        PREVIEW,
        "/webhooks/event-types/",
    ):
        answer = getattr(api, method)(path, headers={"accept": "text/html"})
        assert answer.status_code in (200, 405)
        assert answer["content-type"].startswith("text/html")


def test_the_page_for_browsers_begins_with_what_can_be_sent(api: APIClient, me: User) -> None:
    browser = Client()
    browser.force_login(me)
    page = browser.get(SUBSCRIPTIONS, headers={"Accept": "text/html"}).content.decode()
    [area] = re.findall(r'<textarea name="_content"[^>]*>(.*?)</textarea>', page, re.DOTALL)
    body = json.loads(html.unescape(area))
    assert api.post(SUBSCRIPTIONS, body).json()["url"]  # the host alone is missing
    assert api.post(SUBSCRIPTIONS, {**body, "url": URL}).status_code == 201


def test_what_no_key_can_read_breaks_no_answer(api: APIClient, me: User, settings: Any) -> None:
    mine = make(me, headers={"X-Key": "value"})
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "SECRET_KEYS": ["another key " * 3]}
    assert api.get(at(mine)).data["headers"] == {}
    assert api.patch(at(mine), {"name": "new"}).status_code == 200
    rotated = api.post(at(mine, "rotate-secret"))
    assert rotated.data["previous_expires_at"] is None
    mine.refresh_from_db()
    assert mine.secret == rotated.data["secret"]


def test_a_tenant_learns_no_more_than_the_word(
    api: APIClient, me: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Private, metadata and loopback read the same, and none tells what the name resolved to."""
    answers = {"a.example": "10.1.2.3", "b.example": "169.254.169.254", "c.example": "::1"}
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda host, port, **kwargs: [(2, 1, 6, "", (answers[host], port))]
    )
    for host in answers:
        make(me, url=f"https://{host}/hook")
    outbox.publish("shop.order.created", {"id": 1}, owner=me)
    drain()
    told = []
    for row in api.get(DELIVERIES).data["results"]:
        answer = api.get(f"{DELIVERIES}{row['id']}/")
        text = answer.content.decode()
        assert not any(address in text for address in answers.values())
        told.append((row["status"], row["reason"], answer.data["attempts"][0]["error"]))
    assert told == [("failed", "blocked", "blocked")] * 3
