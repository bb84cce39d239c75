"""Whom a request acts for, what staff may do, and what a project can replace."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.urls import include, path, re_path
from rest_framework.authentication import BaseAuthentication
from rest_framework.pagination import PageNumberPagination
from rest_framework.permissions import BasePermission
from rest_framework.renderers import JSONRenderer
from rest_framework.test import APIClient
from rest_framework.throttling import BaseThrottle
from rest_framework.versioning import NamespaceVersioning, URLPathVersioning

from django_webhooks.api import staff_urls
from django_webhooks.api.throttling import CallerThrottle, CostlyThrottle
from django_webhooks.models import Subscription
from django_webhooks.registry import registry
from django_webhooks.worker import drain
from tests.api import DELIVERIES, PREVIEW, SUBSCRIPTIONS, TYPES, URL, at, client_of, deliver, make
from tests.receiver import Receiver
from tests.shop.models import Customer, Item, Order
from tests.threads import at_once

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited")]

Configure = Callable[..., None]

STAFF = "/staff/webhooks/"

# As in a project that says whom a request acts for


def owner_of(request: Any) -> Any:
    return User.objects.get(username=request.headers["X-Acts-For"])


def test_a_setting_says_whom_a_request_acts_for(
    api: APIClient, me: User, stranger: User, configure: Configure
) -> None:
    theirs = make(stranger)
    make(me)
    configure(GET_OWNER_FOR_REQUEST="tests.test_api_owners.owner_of")
    rows = api.get(SUBSCRIPTIONS, headers={"X-Acts-For": "stranger"}).data["results"]
    assert [row["id"] for row in rows] == [str(theirs.pk)]
    made = api.post(SUBSCRIPTIONS, {"url": URL}, headers={"X-Acts-For": "stranger"})
    assert Subscription.objects.get(pk=made.data["id"]).owner == stranger


def test_who_has_no_company_is_refused_and_nothing_breaks(
    api: APIClient, configure: Configure
) -> None:
    configure(GET_OWNER_FOR_REQUEST="tests.test_api_owners.owner_of")
    assert api.get(SUBSCRIPTIONS, headers={"X-Acts-For": "nobody"}).status_code == 403


# What an owner is offered


def test_only_what_can_reach_an_owner_is_offered(api: APIClient) -> None:
    """A model that never says whose its objects are, and is not public, reaches no owner."""
    offered = {row["type"] for row in api.get(TYPES).data}
    assert {"shop.order.created", "shop.item.created", "billing.invoice_paid"} <= offered
    assert not {each for each in offered if each.startswith(("shop.place", "crm.customer"))}


@pytest.mark.parametrize("pattern", ["shop.place.created", "shop.place.*", "crm.customer.created"])
def test_a_rule_for_what_reaches_no_owner_is_refused_without_a_word_of_it(
    api: APIClient, me: User, pattern: str
) -> None:
    rules = [{"event_type": pattern}]
    for answer in (
        api.post(SUBSCRIPTIONS, {"url": URL, "rules": rules}),
        api.patch(at(make(me)), {"rules": rules}),
    ):
        assert answer.status_code == 400
        [message] = answer.data["rules"][0]["event_type"]
        hint = message.partition("Did you mean")[2]
        hidden = [each.type for each in registry.types if not each.reaches_owners]
        assert hint
        assert not [each for each in hidden if each in hint]
    assert api.post(PREVIEW, {"event_type": pattern}).status_code == 400


@pytest.mark.parametrize("pattern", ["*", "shop.*", "shop.order.*", "billing.notice"])
def test_a_pattern_may_cover_more_than_reaches_an_owner(api: APIClient, pattern: str) -> None:
    rules = [{"event_type": pattern}]
    assert api.post(SUBSCRIPTIONS, {"url": URL, "rules": rules}).status_code == 201


@pytest.mark.django_db(transaction=True)
def test_two_tenants_each_get_only_their_own(
    me: User, stranger: User, receiver: Receiver, configure: Configure
) -> None:
    secrets = {}
    for user in (me, stranger):
        body = {
            "url": f"{receiver.url}/{user.username}",
            "rules": [{"event_type": "shop.order.*"}, {"event_type": "shop.item.*"}],
        }
        secrets[user.username] = client_of(user).post(SUBSCRIPTIONS, body).data["secret"]
    mine = Customer.objects.create(name="Ann", user=me)
    theirs = Customer.objects.create(name="Bo", user=stranger)
    order = Order.objects.create(number="of mine", customer=mine)
    Order.objects.create(number="of theirs", customer=theirs)
    Item.objects.create(sku="for all", order=order)
    Order.objects.create(number="of nobody")
    # The change belongs to whose it is then, and so does the one before.
    order.customer, order.number = theirs, "now of theirs"
    order.save()
    while drain().succeeded:
        pass
    got: dict[str, list[str]] = {"me": [], "stranger": []}
    for request in receiver.requests:
        name = request.path.rpartition("/")[2]
        data = request.verify(secrets[name]).data["object"]
        got[name].append(data.get("number") or data["sku"])
    assert sorted(got["me"]) == ["for all", "of mine"]
    assert sorted(got["stranger"]) == ["for all", "now of theirs", "of theirs"]


@pytest.mark.django_db(transaction=True)
def test_the_quota_holds_however_many_are_asked_for_at_once(me: User, configure: Configure) -> None:
    configure(MAX_SUBSCRIPTIONS_PER_OWNER=3)
    answers = at_once(8, lambda _: client_of(me).post(SUBSCRIPTIONS, {"url": URL}).status_code)
    assert sorted(answers) == [201] * 3 + [409] * 5
    assert Subscription.objects.count() == 3


# Limits


def test_without_a_setting_all_is_throttled(
    api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CallerThrottle, "rate", "2/min")
    assert [api.get(TYPES).status_code for _ in range(3)] == [200, 200, 429]
    assert int(api.get(TYPES)["Retry-After"]) <= 60


def test_rates_are_set_where_those_of_rest_framework_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CallerThrottle, "rate", None)
    monkeypatch.setattr(CostlyThrottle, "rate", None)
    assert (CallerThrottle().rate, CostlyThrottle().rate) == ("600/min", "60/min")
    monkeypatch.setattr(CallerThrottle, "THROTTLE_RATES", {"webhooks_costly": "5/day"})
    assert (CallerThrottle().rate, CostlyThrottle().rate) == ("600/min", "5/day")


# What a project can replace


class AsStranger(BaseAuthentication):
    def authenticate(self, request: Any) -> Any:
        return User.objects.get(username="stranger"), None


class Never(BasePermission):
    message = "not on a Sunday"

    def has_permission(self, request: Any, view: Any) -> bool:
        return False


class Always(BasePermission):
    pass


class Tired(BaseThrottle):
    def allow_request(self, request: Any, view: Any) -> bool:
        return False


class Loud(JSONRenderer):
    media_type = "application/loud+json"


class Numbered(PageNumberPagination):
    page_size = 1


HERE = "tests.test_api_owners."


def test_each_of_rest_frameworks_parts_can_be_replaced(
    stranger: User, me: User, configure: Configure
) -> None:
    make(stranger)
    make(stranger)
    configure(API_AUTHENTICATION_CLASSES=[HERE + "AsStranger"])
    anonymous = APIClient()
    assert len(anonymous.get(SUBSCRIPTIONS).json()["results"]) == 2
    configure(API_PAGINATION_CLASS=HERE + "Numbered")
    page = anonymous.get(SUBSCRIPTIONS).json()
    assert (page["count"], len(page["results"])) == (2, 1)
    assert anonymous.get(DELIVERIES).json()["count"] == 0
    configure(API_RENDERER_CLASSES=[HERE + "Loud"])
    assert anonymous.get(TYPES)["Content-Type"] == "application/loud+json"
    configure(API_VERSIONING_CLASS="rest_framework.versioning.QueryParameterVersioning")
    assert anonymous.get(TYPES, {"version": "1"}).status_code == 200
    configure(API_THROTTLE_CLASSES=[HERE + "Tired"])
    assert anonymous.get(TYPES).status_code == 429
    configure(API_PERMISSION_CLASSES=[HERE + "Never"])
    refused = anonymous.get(TYPES)
    assert (refused.status_code, refused.json()["detail"]) == (403, "not on a Sunday")


def test_no_permission_class_lets_in_who_owns_nothing(configure: Configure) -> None:
    configure(API_PERMISSION_CLASSES=[HERE + "Always"])
    for where in (SUBSCRIPTIONS, DELIVERIES, TYPES, "/webhooks/"):
        assert APIClient().get(where).status_code in (401, 403)


@pytest.mark.parametrize("versioning", [URLPathVersioning, NamespaceVersioning])
def test_the_endpoints_fit_into_a_projects_versions(
    api: APIClient, settings: Any, versioning: Any, configure: Configure, me: User
) -> None:
    configure(API_VERSIONING_CLASS=f"rest_framework.versioning.{versioning.__name__}")
    urls = {
        URLPathVersioning: [
            re_path(r"^(?P<version>v1)/webhooks/", include("django_webhooks.api.urls"))
        ],
        NamespaceVersioning: [path("v1/webhooks/", include("django_webhooks.api.urls"))],
    }
    settings.ROOT_URLCONF = type("urls", (), {"urlpatterns": urls[versioning]})
    mine = deliver(make(me))
    for where in (
        "",
        "subscriptions/",
        f"subscriptions/{mine.subscription_id}/",
        "deliveries/",
        f"deliveries/{mine.pk}/",
        "event-types/",
    ):
        assert api.get(f"/v1/webhooks/{where}").status_code == 200, where
    assert api.post(f"/v1/webhooks/subscriptions/{mine.subscription_id}/pause/").status_code == 200


def test_the_root_leads_to_the_lists(api: APIClient) -> None:
    for where in api.get("/webhooks/").json().values():
        assert api.get(where).status_code == 200


# Staff


def allowed(*permissions: str) -> APIClient:
    user = User.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return client_of(user)


ALL = ("view", "add", "change", "delete")


@pytest.fixture
def staff(db: None) -> APIClient:
    models = ("subscription", "delivery", "event")
    return allowed(*(f"{verb}_{model}" for verb in ALL for model in models))


def test_staff_manage_everybodys(staff: APIClient, me: User, stranger: User) -> None:
    of_all = [make(me), make(stranger), make(None)]
    deliveries = [deliver(each) for each in of_all]
    rows = staff.get(STAFF + "subscriptions/").json()["results"]
    assert {(row["id"], row["owner"]) for row in rows} == {
        (str(each.pk), each.owner_id) for each in of_all
    }
    rows = staff.get(STAFF + "deliveries/").json()["results"]
    assert {row["id"] for row in rows} == {each.pk for each in deliveries}
    where = f"{STAFF}subscriptions/{of_all[1].pk}/"
    assert staff.patch(where, {"name": "ours"}).json()["name"] == "ours"
    assert staff.post(where + "pause/").json()["status"] == "paused"
    assert staff.post(f"{STAFF}deliveries/{deliveries[2].pk}/redeliver/").status_code == 202
    assert staff.post(STAFF + "rules/preview/", {"event_type": "*"}).json()["checked"] == 3
    assert staff.delete(where).status_code == 204
    # What was sent to it is still to be found.
    assert staff.get(f"{STAFF}deliveries/{deliveries[1].pk}/").json()["subscription"] is None


def test_staff_see_every_event_type_and_may_subscribe_to_it(staff: APIClient) -> None:
    offered = {row["type"] for row in staff.get(STAFF + "event-types/").json()}
    assert offered == {each.type for each in registry.types}
    body = {"url": URL, "rules": [{"event_type": "shop.place.created"}]}
    assert staff.post(STAFF + "subscriptions/", body).status_code == 201


def test_staff_choose_the_owner_once(staff: APIClient, me: User, stranger: User) -> None:
    made = staff.post(STAFF + "subscriptions/", {"url": URL, "owner": me.pk}).json()
    assert made["owner"] == me.pk
    assert made["secret"]
    where = f"{STAFF}subscriptions/{made['id']}/"
    assert staff.patch(where, {"owner": stranger.pk}).json()["owner"] == me.pk
    assert staff.post(STAFF + "subscriptions/", {"url": URL}).json()["owner"] is None
    refused = staff.post(STAFF + "subscriptions/", {"url": URL, "owner": 0})
    assert list(refused.json()) == ["owner"]


NEEDED = {
    ("subscription-list", "get"): "view_subscription",
    ("subscription-list", "post"): "add_subscription",
    ("subscription-detail", "get"): "view_subscription",
    ("subscription-detail", "patch"): "change_subscription",
    ("subscription-detail", "delete"): "delete_subscription",
    ("subscription-rotate-secret", "post"): "change_subscription",
    ("subscription-test", "post"): "change_subscription",
    ("subscription-pause", "post"): "change_subscription",
    ("subscription-resume", "post"): "change_subscription",
    ("subscription-verify", "post"): "change_subscription",
    ("subscription-recover", "post"): "change_delivery",
    ("delivery-list", "get"): "view_delivery",
    ("delivery-detail", "get"): "view_delivery",
    ("delivery-redeliver", "post"): "change_delivery",
    ("event-type-list", "get"): "view_subscription",
    ("rule-preview", "post"): "view_event",
    ("api-root", "get"): "view_subscription",
}


def staff_routes() -> list[Any]:
    return [
        pytest.param(route, method, id=f"{method}-{route.name}")
        for route in staff_urls.router.urls
        for method in getattr(route.callback, "actions", ["get"])
    ]


@pytest.mark.parametrize(("route", "method"), staff_routes())
def test_staff_need_the_permission_for_it(route: Any, method: str, me: User) -> None:
    delivery = deliver(make(me))
    pk = delivery.pk if route.name.startswith("delivery") else delivery.subscription_id
    where = STAFF + {
        "api-root": "",
        "rule-preview": "rules/preview/",
        "event-type-list": "event-types/",
        "subscription-list": "subscriptions/",
        "delivery-list": "deliveries/",
    }.get(route.name, "")
    if where == STAFF and route.name != "api-root":
        kind, _, verb = route.name.partition("-")
        where += {"subscription": "subscriptions", "delivery": "deliveries"}[kind] + f"/{pk}/"
        where += "" if verb == "detail" else f"{verb}/"
    needed = NEEDED[route.name, method]
    every = {f"{verb}_{model}" for verb in ALL for model in ("subscription", "delivery", "event")}
    without = allowed(*(every - {needed}))
    assert getattr(without, method)(where, {}).status_code == 403
    User.objects.filter(username="staff").delete()
    assert getattr(allowed(needed), method)(where, {}).status_code not in (401, 403)
    User.objects.filter(username="staff").update(is_staff=False)
    me_too = client_of(User.objects.get(username="staff"))
    assert getattr(me_too, method)(where, {}).status_code == 403
    assert getattr(APIClient(), method)(where).status_code in (401, 403)


def test_who_is_not_staff_finds_nothing_under_the_prefix(api: APIClient, me: User) -> None:
    mine = make(me)
    assert api.get(f"{STAFF}subscriptions/{mine.pk}/").status_code == 403


def test_what_staff_have_disabled_its_owner_can_not_resume(
    api: APIClient, me: User, staff: APIClient, configure: Configure
) -> None:
    mine = make(me)
    mine.disable("Too many complaints.", lock=True)
    refused = api.post(at(mine, "resume"))
    assert refused.status_code == 409
    assert "ask them" in refused.data["detail"]
    configure(VERIFY_ENDPOINTS=True)
    assert api.patch(at(mine), {"url": URL + "/other"}).status_code == 409
    shown = api.get(at(mine)).data
    assert (shown["status"], shown["disabled_reason"]) == ("disabled", "Too many complaints.")
    assert api.post(at(mine, "verify")).status_code == 409
    assert api.post(at(mine, "pause")).status_code == 409
    mine.refresh_from_db()
    assert mine.resume() is False
    where = f"{STAFF}subscriptions/{mine.pk}/resume/"
    assert staff.post(where).json()["status"] == "active"
    mine.refresh_from_db()
    mine.disable("410")
    assert api.post(at(mine, "resume")).data["status"] == "active"
