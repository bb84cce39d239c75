"""No request undoes or doubles another: `ETag` and `If-Match`, `Idempotency-Key`."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone, translation
from rest_framework.test import APIClient

from django_webhooks.api.serializers import SubscriptionSerializer
from django_webhooks.models import Subscription
from tests.api import SUBSCRIPTIONS, URL, at, client_of, make
from tests.threads import at_once

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited")]

KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
BODY = {"url": URL, "name": "ERP", "rules": [{"event_type": "shop.order.*"}]}

# If-Match


def tag(api: APIClient, subscription: Subscription) -> str:
    return str(api.get(at(subscription))["ETag"])


CHANGES: list[tuple[str, str, Any]] = [
    ("patch", "", {"name": "mine"}),
    ("delete", "", None),
    ("post", "pause", None),
    ("post", "rotate-secret", None),
]


@pytest.mark.parametrize(("method", "verb", "body"), CHANGES)
def test_who_has_read_an_older_one_changes_nothing(
    api: APIClient, me: User, method: str, verb: str, body: Any
) -> None:
    mine = make(me)
    read = {"If-Match": tag(api, mine)}
    api.patch(at(mine), {"rules": [{"event_type": "billing.*"}]})
    before = Subscription.objects.values().get()
    refused = getattr(api, method)(at(mine, verb), body, headers=read)
    assert refused.status_code == 412
    assert "read it again" in refused.data["detail"]
    assert Subscription.objects.values().get() == before
    read = {"If-Match": tag(api, mine)}
    assert getattr(api, method)(at(mine, verb), body, headers=read).status_code in (200, 204)


@pytest.mark.parametrize(
    "given", ["{}", "W/{}", '"other", {}', "*"], ids=["strong", "weak", "one of", "any"]
)
def test_a_tag_is_understood_in_each_form(api: APIClient, me: User, given: str) -> None:
    mine = make(me)
    headers = {"If-Match": given.format(tag(api, mine))}
    assert api.patch(at(mine), {"name": "x"}, headers=headers).status_code == 200


@pytest.mark.parametrize("given", ['"other"', "other", '"', ""])
def test_a_tag_that_is_none_matches_nothing(api: APIClient, me: User, given: str) -> None:
    mine = make(me)
    answer = api.patch(at(mine), {"name": "x"}, headers={"If-Match": given})
    assert answer.status_code == 412


def test_each_answer_with_a_subscription_has_the_tag_of_what_is_read(api: APIClient) -> None:
    made = api.post(SUBSCRIPTIONS, BODY)
    mine = Subscription.objects.get()
    assert made["ETag"] == tag(api, mine)
    for method, verb, body in (
        ("patch", "", {"headers": {"X-Key": "secret"}}),
        ("post", "pause", None),
        ("post", "resume", None),
    ):
        assert getattr(api, method)(at(mine, verb), body)["ETag"] == tag(api, mine)


def test_what_a_worker_or_the_admin_changes_changes_the_tag(api: APIClient, me: User) -> None:
    mine = make(me)
    first = tag(api, mine)
    rule = mine.rules.get()
    rule.conditions = {"field": "status", "op": "eq", "value": "paid"}
    rule.save()
    second = tag(api, mine)
    mine.disable("410")
    assert len({first, second, tag(api, mine)}) == 3


def test_a_tag_does_not_depend_on_the_language(api: APIClient, me: User) -> None:
    mine = make(me)
    with translation.override("de"):
        german = tag(api, mine)
    assert german == tag(api, mine)


def test_what_is_known_is_not_sent_again(api: APIClient, me: User) -> None:
    mine = make(me)
    headers = {"If-None-Match": tag(api, mine)}
    answer = api.get(at(mine), headers=headers)
    assert (answer.status_code, answer.content) == (304, b"")
    api.patch(at(mine), {"name": "new"})
    assert api.get(at(mine), headers=headers).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_of_two_editors_one_is_told(me: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(*args: Any) -> Any:
        time.sleep(0.1)  # between the check and the change
        return update(*args)

    update = SubscriptionSerializer.update
    monkeypatch.setattr(SubscriptionSerializer, "update", slowly)
    mine = make(me)
    headers = {"If-Match": tag(client_of(me), mine)}

    def edit(number: int) -> int:
        body = {"name": str(number)}
        return int(client_of(me).patch(at(mine), body, headers=headers).status_code)

    assert sorted(at_once(4, edit)) == [200, 412, 412, 412]


# Idempotency-Key


def test_who_asks_again_gets_the_same_answer_and_no_second_one(api: APIClient) -> None:
    first = api.post(SUBSCRIPTIONS, BODY, headers=KEY)
    again = api.post(SUBSCRIPTIONS, BODY, headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.json()["secret"] == Subscription.objects.get().secret
    assert again["Cache-Control"] == "no-store"


def test_the_same_key_with_another_body_is_refused(api: APIClient) -> None:
    api.post(SUBSCRIPTIONS, BODY, headers=KEY)
    refused = api.post(SUBSCRIPTIONS, {**BODY, "name": "other"}, headers=KEY)
    assert refused.status_code == 422
    assert "take a new one" in refused.data["detail"]
    assert Subscription.objects.get().name == "ERP"


def test_a_key_is_of_its_owner_alone(api: APIClient, stranger: User) -> None:
    mine = api.post(SUBSCRIPTIONS, BODY, headers=KEY).json()
    theirs = client_of(stranger).post(SUBSCRIPTIONS, BODY, headers=KEY).json()
    assert mine["id"] != theirs["id"]
    assert mine["secret"] != theirs["secret"]


def test_what_was_refused_may_be_mended_under_its_key(api: APIClient) -> None:
    assert api.post(SUBSCRIPTIONS, {"url": "ftp://x"}, headers=KEY).status_code == 400
    assert api.post(SUBSCRIPTIONS, BODY, headers=KEY).status_code == 201


@pytest.mark.parametrize("change", ["rotated", "a day old", "unreadable"])
def test_a_secret_is_not_shown_again_for_ever(
    api: APIClient, change: str, configure: Callable[..., None]
) -> None:
    api.post(SUBSCRIPTIONS, BODY, headers=KEY)
    if change == "rotated":
        Subscription.objects.get().rotate_secret()
    elif change == "a day old":
        Subscription.objects.update(created_at=timezone.now() - timedelta(days=1, seconds=1))
    else:
        configure(SECRET_KEYS=["another key, of a fair length"])
    again = api.post(SUBSCRIPTIONS, BODY, headers=KEY)
    assert again.status_code == 201
    assert "secret" not in again.json()


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "é", "a\tb"])
def test_a_key_that_is_none_is_refused(api: APIClient, key: str) -> None:
    answer = api.post(SUBSCRIPTIONS, BODY, HTTP_IDEMPOTENCY_KEY=key)
    assert answer.status_code == 400
    assert list(answer.data) == ["Idempotency-Key"]
    assert not Subscription.objects.exists()


def test_a_key_does_not_count_twice_in_the_quota(
    api: APIClient, configure: Callable[..., None]
) -> None:
    configure(MAX_SUBSCRIPTIONS_PER_OWNER=1)
    answers = [api.post(SUBSCRIPTIONS, BODY, headers=KEY).status_code for _ in range(3)]
    assert answers == [201] * 3


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("prefix", ["/webhooks/", "/staff/webhooks/"])
def test_who_asks_many_times_at_once_gets_one(prefix: str) -> None:
    user = User.objects.create_superuser("both")
    where = prefix + "subscriptions/"
    answers = at_once(6, lambda _: client_of(user).post(where, BODY, headers=KEY))
    assert [each.status_code for each in answers] == [201] * 6
    assert len({each.json()["secret"] for each in answers}) == 1
    assert Subscription.objects.count() == 1
    assert Subscription.objects.get().rules.count() == 1


@pytest.mark.parametrize("overlap", [0, 3600])
def test_a_rotated_secret_is_shown_once(api: APIClient, overlap: int) -> None:
    made = api.post(SUBSCRIPTIONS, BODY, headers=KEY).data
    where = f"{SUBSCRIPTIONS}{made['id']}/rotate-secret/"
    assert api.post(where, {"overlap": overlap}).data["secret"] != made["secret"]
    again = api.post(SUBSCRIPTIONS, BODY, headers=KEY)
    assert (again.status_code, "secret" in again.data) == (201, False)
