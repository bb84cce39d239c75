"""The API in OpenAPI 3.1: valid, true of what is served, and of what is sent."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.settings import patched_settings
from rest_framework.test import APIClient

from django_webhooks import outbox
from django_webhooks.api import staff_urls, urls
from django_webhooks.models import Subscription
from django_webhooks.registry import registry
from django_webhooks.worker import drain
from tests import api_reference
from tests.api import deliver, make
from tests.receiver import Receiver
from tests.shop.models import Customer, Item, Order

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited")]


@pytest.fixture
def schema() -> dict[str, Any]:
    served = APIClient().get("/schema/", {"format": "json"})
    assert served.status_code == 200
    made: dict[str, Any] = served.json()
    return made


def validator(schema: dict[str, Any], component: str) -> jsonschema.Draft202012Validator:
    ref = {"$ref": f"#/components/schemas/{component}", "components": schema["components"]}
    return jsonschema.Draft202012Validator(ref)


def test_the_schema_is_valid_and_made_without_a_warning(tmp_path: Path) -> None:
    """Fails on any warning; beside ours it has the endpoints of the project."""
    call_command(
        "spectacular",
        "--validate",
        "--fail-on-warn",
        "--file",
        str(tmp_path / "schema.yaml"),
        skip_checks=True,
    )


def test_each_endpoint_is_in_the_schema(schema: dict[str, Any]) -> None:
    routed = {
        (prefix + route.pattern.regex.pattern.strip("^$\\Z").replace("(?P<pk>[^/]+)", "{id}"), verb)
        for prefix, router in (("/webhooks/", urls.router), ("/staff/webhooks/", staff_urls.router))
        for route in router.urls
        for verb in getattr(route.callback, "actions", [])  # the root has none
        if verb != "head"
    }
    found = {(path, verb) for path, verbs in schema["paths"].items() for verb in verbs}
    assert routed == {each for each in found if "webhooks" in each[0]}


def test_each_operation_says_how_it_is_refused(schema: dict[str, Any]) -> None:
    for path, verbs in schema["paths"].items():
        for verb, operation in verbs.items():
            if "webhooks" in path:
                assert operation["summary"], (path, verb)
                assert {"401", "403", "429"} <= set(operation["responses"]), (path, verb)
                assert ("404" in operation["responses"]) >= ("{id}" in path), (path, verb)


# What is sent


def test_each_type_that_reaches_an_owner_is_a_request(schema: dict[str, Any]) -> None:
    offered = {each.type for each in registry.types if each.reaches_owners}
    assert set(schema["webhooks"]) == offered | {"webhooks.test", "webhooks.challenge"}
    assert len(offered) < len(registry.types)  # or it would not show that others are left out


@pytest.fixture
def sent(
    me: User, receiver: Receiver, configure: Callable[..., None], transactional_db: None
) -> list[bytes]:
    """One real body of each kind that a customer can get."""
    customer = Customer.objects.create(name="Ann", user=me)
    mine = Subscription.objects.create(url=receiver.url, owner=me)
    mine.rules.create(event_type="*")
    order = Order.objects.create(number="1", customer=customer)
    order.status, order.total = "paid", 12
    order.save()
    Item.objects.create(order=order, sku="TEA")
    order.delete()
    outbox.publish("billing.invoice_paid", {"invoice": 7}, owner=me)
    outbox.publish_test(mine)
    drain()
    outbox.publish_challenge(mine)
    drain()
    return [each.body for each in receiver.requests]


def test_what_is_sent_is_what_the_schema_says(schema: dict[str, Any], sent: list[bytes]) -> None:
    types = set()
    for body in sent:
        told = json.loads(body)
        types.add(told["type"])
        content = schema["webhooks"][told["type"]]["post"]["requestBody"]["content"]
        component = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        check = validator(schema, component)
        check.validate(told)
        # It is not true of just anything.
        assert not check.is_valid({**told, "type": "other"})
        assert not check.is_valid({**told, "timestamp": 7})
    assert {"shop.order.updated", "shop.item.created", "billing.invoice_paid"} <= types
    assert {"webhooks.test", "webhooks.challenge", "shop.order.deleted"} <= types


def test_the_headers_that_are_sent_are_in_the_schema(
    schema: dict[str, Any], sent: list[bytes], receiver: Receiver
) -> None:
    for request in receiver.requests:
        told = schema["webhooks"][json.loads(request.body)["type"]]["post"]["parameters"]
        assert {each["name"] for each in told} == {
            name for name in request.headers if name.startswith("webhook-")
        }


@pytest.mark.once
def test_a_stock_generator_makes_models_that_read_what_is_sent(
    schema: dict[str, Any], sent: list[bytes], tmp_path: Path
) -> None:
    source, models = tmp_path / "schema.json", tmp_path / "received.py"
    source.write_text(json.dumps(schema))
    subprocess.run(
        [
            sys.executable, "-m", "datamodel_code_generator", "--input", str(source),
            "--input-file-type", "openapi", "--output", str(models),
            "--output-model-type", "pydantic_v2.BaseModel", "--disable-timestamp",
        ],
        check=True,
        timeout=100,
    )  # fmt: skip
    spec = importlib.util.spec_from_file_location("received", models)
    assert spec is not None
    assert spec.loader is not None
    received = importlib.util.module_from_spec(spec)
    sys.modules["received"] = received
    spec.loader.exec_module(received)
    read = {}
    for body in sent:
        told = json.loads(body)
        name = "WebhookPayload" + told["type"].replace("_", ".").title().replace(".", "")
        read[told["type"]] = getattr(received, name).model_validate_json(body)
    assert read["shop.order.updated"].data.object.status.value == "paid"
    assert read["shop.order.updated"].data.previous.total == Decimal("0.00")
    del sys.modules["received"]


# In a project


@pytest.mark.parametrize(
    "patch",
    [{"OAS_VERSION": "3.0.3"}, {"PREPROCESSING_HOOKS": ["tests.test_openapi.without_ours"]}],
    ids=["OpenAPI 3.0", "without the endpoints"],
)
def test_the_requests_are_not_where_they_have_no_place(patch: dict[str, Any]) -> None:
    with patched_settings(patch):
        made = SchemaGenerator().get_schema(public=True)
    assert "webhooks" not in made


def without_ours(endpoints: list[Any], **kwargs: Any) -> list[Any]:
    return [each for each in endpoints if "webhooks" not in each[0]]


def test_names_of_components_say_whose_they_are(schema: dict[str, Any]) -> None:
    """So that a project may have a `Subscription` and a `Status` of its own."""
    for name in schema["components"]["schemas"]:
        assert name.removeprefix("Paginated").removeprefix("Patched").startswith("Webhook"), name


def test_conditions_are_described_as_they_are_judged(schema: dict[str, Any]) -> None:
    check = validator(schema, "WebhookConditions")
    leaf = {"field": "total", "op": "gte", "value": 1000}
    for tree in (
        {},
        leaf,
        {"all": [leaf, {"not": {"any": [leaf]}}]},
        {"field": "a", "op": "increased"},
        {"field": "a", "op": "exists"},
        {"field": "a", "op": "in", "value": [1, "b"]},
    ):
        assert check.is_valid(tree), tree
    for tree in (
        {"all": []},
        {"field": "a", "op": "above", "value": 1},
        {"field": "a", "op": "eq"},
        {"field": "a", "op": "increased", "value": 1},
        {"all": [leaf], "any": [leaf]},
        {"field": "a", "op": "in", "value": []},
    ):
        assert not check.is_valid(tree), tree


@pytest.mark.once
def test_the_reference_is_made_from_the_schema(schema: dict[str, Any]) -> None:
    assert api_reference.PAGE.read_text() == api_reference.page(schema)


# Beside what they are by default, these answers are right: an older `If-Match` (412), a body that
# is too large (413), an `Idempotency-Key` that was used before (422). That a URL is safe, a type is
# published and a condition can be judged is more than JSON Schema can say, so who writes them may
# be refused though the schema is met (400).
ACCEPTED = ["2xx", "3xx", "401", "403", "404", "409", "412", "422", "429"]
REJECTED = ["400", "401", "403", "404", "405", "406", "409", "412", "413", "415", "422", "429"]
SETTINGS = f"""
[checks]
positive_data_acceptance.expected-statuses = {ACCEPTED}
negative_data_rejection.expected-statuses = {REJECTED}
""" + "".join(
    f"""
[[operations]]
include-name = "{operation}"
checks.positive_data_acceptance.expected-statuses = {["400", *ACCEPTED]}
"""
    for prefix in ("/webhooks", "/staff/webhooks")
    for operation in (
        f"POST {prefix}/subscriptions/",
        f"PATCH {prefix}/subscriptions/{{id}}/",
        f"POST {prefix}/rules/preview/",
    )
)


@pytest.mark.once
@pytest.mark.timeout(600)
@pytest.mark.parametrize("caller", ["anonymous", "tenant", "staff"])
def test_schemathesis_finds_nothing(live_server: Any, caller: str, tmp_path: Path) -> None:
    """All its checks, by examples, at the limits, at random and in sequences."""
    tenant = User.objects.create_user("tenant", password="secret")
    User.objects.create_superuser("staff", password="secret")
    deliver(make(tenant))
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    login = [] if caller == "anonymous" else ["--auth", f"{caller}:secret"]
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{live_server}/schema/?format=json",
            "--checks", "all", "--max-examples", "10", "--seed", "7", "--no-color", *login,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
