"""What a project's developer and its customers met who tried the endpoints for the first time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from rest_framework import serializers
from rest_framework.test import APIClient

from django_webhooks import checks, signing
from django_webhooks.models import Event
from django_webhooks.registry import EventType, ModelWebhook, registry
from tests.api import SUBSCRIPTIONS, TYPES, URL, at, client_of, deliver, make
from tests.shop.models import Order

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited")]

STAFF = "/staff/webhooks/"
Configure = Callable[..., None]


@contextmanager
def published(*types: EventType) -> Iterator[None]:
    try:
        yield
    finally:
        for each in types:
            registry.remove_type(each.type)


def test_whoever_is_logged_in_by_session_makes_a_subscription(me: User) -> None:
    """Whose `request.user` is a lazy object; on databases with row locks, too."""
    client = Client()
    client.force_login(me)
    made = client.post(SUBSCRIPTIONS, {"url": URL}, content_type="application/json")
    assert made.status_code == 201, made.content
    assert client.get(SUBSCRIPTIONS).json()["results"][0]["id"] == made.json()["id"]


def test_nobody_at_all_is_refused_by_staffs_endpoints(settings: Any) -> None:
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "UNAUTHENTICATED_USER": None}
    for prefix in ("/webhooks/", STAFF):
        assert APIClient().get(prefix + "subscriptions/").status_code in (401, 403)


def test_errors_of_rules_keep_their_shape_whatever_the_project_calls_them(
    api: APIClient, settings: Any
) -> None:
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "NON_FIELD_ERRORS_KEY": "errors"}
    told = api.post(SUBSCRIPTIONS, {"url": URL, "rules": "x"}).json()
    assert isinstance(told["rules"], list)


def test_a_customer_with_a_bad_secret_is_told_what_one_is(api: APIClient) -> None:
    [told] = api.post(SUBSCRIPTIONS, {"url": URL, "secret": "hunter2"}).json()["secret"]
    assert told == "A secret starts with whsec_, and base64 follows."
    with pytest.raises(signing.SecretError, match=r"Use generate_secret\(\)"):
        signing.decode_secret("hunter2")


def test_recovery_ends_where_it_is_told_to(api: APIClient, me: User) -> None:
    mine = make(me)
    for day in (1, 2, 3):
        delivery = deliver(mine, status="failed")
        moment = datetime(2026, 3, day, tzinfo=UTC)
        Event.objects.filter(pk=delivery.event_id).update(occurred_at=moment)
    body = {"since": "2026-03-01T12:00:00Z", "until": "2026-03-02T12:00:00Z"}
    assert api.post(at(mine) + "recover/", body).json() == {"count": 1}
    del body["until"]
    assert api.post(at(mine) + "recover/", body).json() == {"count": 1}, "the other of the two"


def test_staff_find_the_subscriptions_of_an_owner(me: User, stranger: User) -> None:
    user = User.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename="view_subscription"))
    mine, _ = make(me), make(stranger)
    found = client_of(user).get(f"{STAFF}subscriptions/", {"owner": me.pk}).json()["results"]
    assert [each["id"] for each in found] == [str(mine.pk)]
    assert client_of(user).get(f"{STAFF}subscriptions/", {"owner": 10**30}).status_code == 404
    assert client_of(user).get(f"{STAFF}subscriptions/", {"owner": "x"}).status_code == 400


# The catalogue


def test_types_that_read_alike_have_requests_of_their_own(api: APIClient) -> None:
    alike = EventType("billing.paid_invoice"), EventType("billing.paid.invoice")
    with published(*alike):
        schema = api.get("/schema/", {"format": "json"}).json()
    components = schema["components"]["schemas"]
    operations = set()
    for each in alike:
        request = schema["webhooks"][each.type]["post"]
        operations.add(request["operationId"])
        ref = request["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert components[ref.rpartition("/")[2]]["properties"]["type"]["const"] == each.type
    assert len(operations) == 2


class LineSerializer(serializers.Serializer[Any]):
    sku = serializers.CharField()


class FullSerializer(serializers.Serializer[Any]):
    """A field of each kind that may be null, or holds others."""

    price = serializers.DecimalField(max_digits=9, decimal_places=2, allow_null=True)
    state = serializers.ChoiceField(choices=["new", "paid"], allow_null=True)
    tags = serializers.ListField(child=serializers.CharField(), allow_null=True)
    wishes = serializers.MultipleChoiceField(choices=["a", "b"])
    customer = LineSerializer(allow_null=True)
    seller = LineSerializer(read_only=True)
    lines = LineSerializer(many=True)


@pytest.mark.parametrize(
    ("data", "fits"),
    [
        (
            {"price": None, "state": None, "tags": None, "customer": None, "seller": None},
            True,
        ),
        ({"price": "9.50", "customer": {"sku": "x"}, "lines": [{"sku": "x"}], "tags": ["a"]}, True),
        ({"state": "odd"}, False),
        ({"tags": [1]}, False),
        ({"lines": [{"sku": 1}]}, False),
        ({"customer": "x"}, False),
    ],
)
def test_the_schema_of_a_serializer_is_what_it_publishes(data: dict[str, Any], fits: bool) -> None:
    class OrderWebhook(ModelWebhook):
        serializer_class = FullSerializer

    webhook = OrderWebhook(Order)
    validator = jsonschema.Draft202012Validator(webhook.schema())
    assert validator.is_valid(data) == fits
    assert validator.is_valid(webhook.example())


def test_a_type_with_a_schema_alone_has_an_example_that_fits(api: APIClient) -> None:
    schema = {
        "type": "object",
        "required": ["at", "lines"],
        "properties": {
            "at": {"type": "string", "format": "date-time"},
            "lines": {"type": "array"},
            "by": {"type": ["object", "null"], "properties": {"id": {"type": "integer"}}},
        },
    }
    made = EventType("zz.thing", schema=schema)
    with published(made):
        row = next(each for each in api.get(TYPES).json() if each["type"] == made.type)
    jsonschema.validate(row["example"], schema, jsonschema.Draft202012Validator)


def test_an_example_that_does_not_fit_its_schema_is_told_by_a_check() -> None:
    schema = {"type": "object", "required": ["a"]}
    right = EventType("zz.right", schema=schema, example={"a": 1})
    wrong = EventType("zz.wrong", schema=schema, example={"b": 1})
    with published(right, wrong):
        [told] = checks.check_examples()
    assert told.id == "django_webhooks.W030"
    assert "'zz.wrong'" in told.msg
