"""What was tried on the endpoints by those who did not write them, and what customers can't read.

Each has been seen to succeed once; see "Attacks" in docs/explanation/security.md.
"""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from rest_framework.test import APIClient

from django_webhooks import outbox
from django_webhooks.api import serializers, views
from django_webhooks.models import UNANSWERED, VOID, Attempt, Event, Rule, Subscription
from tests.api import DELIVERIES, PAID, PREVIEW, SUBSCRIPTIONS, URL, at, client_of, deliver, make

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited")]

STAFF = "/staff/webhooks/"
DEAR = "(a?){100}b"
"""A regular expression of some 400 instructions."""


def rule(**changes: Any) -> dict[str, Any]:
    return {"event_type": "shop.order.*", **changes}


def matching(pattern: str) -> dict[str, Any]:
    return rule(conditions={"field": "number", "op": "matches", "value": pattern})


def staff_with(*names: str) -> APIClient:
    user = User.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    return client_of(User.objects.get(pk=user.pk))


# What rules cost those who wait


def test_the_rules_of_a_subscription_are_bounded_together(api: APIClient) -> None:
    large = rule(conditions={"all": [{"field": "x" * 200, "op": "eq", "value": "y" * 200}] * 50})
    assert api.post(SUBSCRIPTIONS, {"url": URL, "rules": [large] * 2}).status_code == 201
    told = api.post(SUBSCRIPTIONS, {"url": URL, "rules": [large] * 4})
    assert told.status_code == 400
    assert "64 kB" in told.json()["rules"][0]


def test_the_regular_expressions_of_a_subscription_are_bounded_together(api: APIClient) -> None:
    rules = [matching(f"{DEAR}{number}") for number in range(8)]
    assert api.post(SUBSCRIPTIONS, {"url": URL, "rules": rules[:5]}).status_code == 201
    told = api.post(SUBSCRIPTIONS, {"url": URL, "rules": rules})
    assert told.status_code == 400
    assert "regular expressions" in told.json()["rules"][0]


def test_a_sentence_is_cut(api: APIClient, me: User) -> None:
    tree = {"all": [{"field": "status", "op": "eq", "value": "y" * 90}] * 100}
    Rule.objects.create(subscription=make(me), event_type="*", conditions=tree)
    [shown] = api.get(SUBSCRIPTIONS).json()["results"]
    assert len(shown["rules"][1]["sentence"]) == 2000


# Answers are bounded


def test_a_preview_is_a_megabyte_at_most(api: APIClient, me: User) -> None:
    for _ in range(12):
        outbox.compose("shop.order.created", {"text": "x" * 200_000}, owner=me).save()
    answer = api.post(PREVIEW, {"event_type": "*"})
    assert answer.json()["matched"] == 12
    assert 0 < len(answer.json()["events"]) < 12
    assert len(answer.content) <= serializers.PREVIEW_BYTES + 10_000


def test_of_very_many_attempts_the_newest_are_shown(api: APIClient, me: User) -> None:
    delivery = deliver(make(me))
    first = delivery.attempts.first()
    assert first is not None
    common = {"delivery": delivery, "started_at": first.started_at, "url": URL}
    Attempt.objects.bulk_create(Attempt(number=n, **common) for n in range(3, 203))
    shown = api.get(f"{DELIVERIES}{delivery.pk}/").json()["attempts"]
    assert [each["number"] for each in shown] == list(range(103, 203))


def test_one_request_sends_no_more_again_than_it_says(
    api: APIClient, me: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = make(me)
    for _ in range(3):
        deliver(mine, status="failed")
    monkeypatch.setattr(views, "MOST_AT_ONCE", 2)
    body = {"since": "2026-01-01T00:00:00Z"}
    assert api.post(at(mine) + "recover/", body | {"dry_run": True}).json() == {"count": 2}
    assert api.post(at(mine) + "recover/", body).json() == {"count": 2}
    assert api.post(at(mine) + "recover/", body).json() == {"count": 1}


# Rows that were not written by us


@pytest.mark.parametrize("tree", [1, "x", [], [1]])
def test_conditions_that_are_none_take_no_list_with_them(
    api: APIClient, me: User, tree: Any
) -> None:
    mine = make(me)
    Rule.objects.update(conditions=tree)
    [shown] = api.get(SUBSCRIPTIONS).json()["results"]
    assert shown["rules"][0]["conditions"] == {"malformed": True}
    assert shown["warnings"][0].startswith("rules[0].conditions: They are malformed")
    back = api.patch(at(mine), {"rules": [rule(conditions=shown["rules"][0]["conditions"])]})
    assert back.status_code == 400


@pytest.mark.parametrize("body", ["{", "[1e999]", '"\\ud800"', "[" * 100_000 + "]" * 100_000])
def test_a_body_that_is_no_json_takes_no_page_with_it(api: APIClient, me: User, body: str) -> None:
    delivery = deliver(make(me))
    Event.objects.update(body=body)
    assert api.get(f"{DELIVERIES}{delivery.pk}/").json()["payload"] is None


def test_only_a_cursor_that_was_given_is_blamed(
    api: APIClient, me: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise ValueError("a row can't be read")

    monkeypatch.setattr(serializers.SubscriptionSerializer, "get_warnings", fail)
    make(me)
    with pytest.raises(ValueError, match="a row can't be read"):
        api.get(SUBSCRIPTIONS)


# Staff and owners


def test_a_challenge_that_came_while_staff_were_reading_is_kept_by_their_lock(me: User) -> None:
    mine = make(me)
    outbox.publish_challenge(Subscription.objects.get())
    mine.disable("Complaints.", lock=True)  # as it was read before
    assert mine.challenge == VOID
    assert not mine.resume(unlock=True)
    mine.refresh_from_db()
    assert (mine.status, mine.locked) == ("disabled", False)


def test_what_staff_locked_is_led_nowhere_else(
    api: APIClient, me: User, configure: Callable[..., None]
) -> None:
    configure(VERIFY_ENDPOINTS=True)
    mine = make(me)
    mine.disable("Complaints.", lock=True)
    refused = api.patch(at(mine), {"url": URL + "/elsewhere"})
    assert refused.status_code == 409
    mine.refresh_from_db()
    assert mine.url == URL
    assert api.patch(at(mine), {"name": "renamed"}).status_code == 200


@pytest.mark.parametrize("verb", ["resume/", "verify/"])
def test_a_lock_does_not_stand_for_the_answer_to_a_challenge(
    api: APIClient, me: User, verb: str
) -> None:
    mine = make(me)
    outbox.publish_challenge(mine)
    challenge = Event.objects.get(pk=mine.challenge)
    mine.disable("Complaints.", lock=True)
    assert api.post(at(mine) + verb).status_code == 409
    assert not mine.verify(challenge), "it is void"
    assert not mine.deliveries.sendable().exists()
    assert not mine.resume(unlock=True)
    mine.refresh_from_db()
    state = (mine.status, mine.disabled_reason, mine.locked)
    assert state == ("disabled", UNANSWERED, False)
    assert not mine.verify(challenge)
    assert api.post(at(mine) + "resume/").status_code == 409
    assert api.post(at(mine) + "verify/").status_code == 202
    mine.refresh_from_db()
    assert mine.verify(Event.objects.get(pk=mine.challenge))
    assert mine.status == "active"


def test_staff_recover_with_the_permission_that_the_admin_asks_for(me: User) -> None:
    mine = make(me)
    where = f"{STAFF}subscriptions/{mine.pk}/recover/"
    body = {"since": "2026-01-01T00:00:00Z"}
    staff = staff_with("change_subscription", "view_subscription")
    assert staff.post(where, body).status_code == 403
    User.objects.get(username="staff").user_permissions.add(
        Permission.objects.get(codename="change_delivery")
    )
    again = client_of(User.objects.get(username="staff"))
    assert again.post(where, body).json() == {"count": 0}


def test_an_owner_that_was_not_saved_has_nothing(configure: Callable[..., None], me: User) -> None:
    configure(GET_OWNER_FOR_REQUEST="tests.test_api_attacks.nobody")
    assert client_of(me).get(SUBSCRIPTIONS).status_code == 403


def nobody(request: Any) -> User:
    return User(username="new")


def test_half_an_owner_is_no_owner(me: User) -> None:
    staff = staff_with("add_subscription")
    told = staff.post(f"{STAFF}subscriptions/", {"url": URL, "owner": me.pk + 0.5})
    assert list(told.json()) == ["owner"]


def test_staff_change_what_they_have_read_and_nothing_newer(me: User) -> None:
    mine = make(me)
    staff = staff_with("change_subscription", "view_subscription")
    where = f"{STAFF}subscriptions/{mine.pk}/"
    tag = staff.get(where).headers["ETag"]
    changed = staff.patch(where, {"name": "ours"}, headers={"If-Match": tag})
    assert changed.status_code == 200
    assert staff.patch(where, {"name": "x"}, headers={"If-Match": tag}).status_code == 412


def test_a_key_whose_subscription_has_changed_hands_is_refused(
    api: APIClient, stranger: User
) -> None:
    once = {"Idempotency-Key": "k1"}
    assert api.post(SUBSCRIPTIONS, {"url": URL}, headers=once).status_code == 201
    Subscription.objects.update(owner=stranger)
    assert api.post(SUBSCRIPTIONS, {"url": URL}, headers=once).status_code == 422


# What is said to whom


@pytest.mark.parametrize(
    ("body", "setting"),
    [
        ({"url": "https://10.0.0.1/"}, "ALLOWED_NETWORKS"),
        ({"url": "https://intranet/"}, "ALLOWED_NETWORKS"),
        ({"url": "http://example.com/"}, "ALLOW_HTTP"),
        ({"url": URL, "signature": "v1a"}, "SIGNING_KEYS"),
    ],
)
def test_settings_are_named_to_those_who_can_change_them(
    api: APIClient, configure: Callable[..., None], body: dict[str, Any], setting: str
) -> None:
    configure(ALLOW_HTTP=False, ALLOWED_NETWORKS=[], SIGNING_KEYS=None)
    told = api.post(SUBSCRIPTIONS, body)
    assert told.status_code == 400
    assert setting not in told.content.decode()
    staff = staff_with("add_subscription")
    assert setting in staff.post(STAFF + "subscriptions/", body).content.decode()


def test_all_that_is_wrong_is_told_at_once(api: APIClient) -> None:
    body = {
        "url": "ftp://example.com/",
        "name": "a\nb",
        "mode": "often",
        "headers": {"Host": "example.org"},
        "secret": "hunter2",
        "rules": [
            rule(conditions={"all": [{"field": "status"}, {"op": "eq", "value": 1}, []]}),
            {"event_type": "shop.oder.created"},
        ],
    }
    told = api.post(SUBSCRIPTIONS, body).json()
    assert set(told) == set(body)
    assert [each.partition(":")[0] for each in told["rules"][0]["conditions"]] == [
        "all[0].op",
        "all[1].field",
        "all[2]",
    ]
    assert "event_type" in told["rules"][1]


def test_rules_that_are_no_list_are_told_so_where_they_stand(api: APIClient) -> None:
    told = api.post(SUBSCRIPTIONS, {"url": URL, "rules": "x"}).json()
    assert list(told) == ["rules"]
    assert "list" in told["rules"][0]


def test_of_very_many_warnings_the_first_are_told(api: APIClient) -> None:
    never = [
        rule(conditions={"field": f"nothing{n}", "op": "in", "value": [1] * 9}) for n in range(30)
    ]
    made = api.post(SUBSCRIPTIONS, {"url": URL, "rules": never}).json()
    assert len(made["warnings"]) == 21
    assert made["warnings"][-1].startswith("And more")


@pytest.mark.parametrize(
    ("rules", "warning"),
    [
        ([], "It has no rules"),
        ([rule(conditions={"field": "totl", "op": "gt", "value": 1})], "rules[0].conditions: "),
        (
            [
                rule(),
                rule(conditions={"all": [PAID, {"field": "total", "op": "gt", "value": "x"}]}),
            ],
            "rules[1].conditions.all[1]: ",
        ),
        (
            [
                {
                    "event_type": "shop.order.created",
                    "conditions": {"field": "total", "op": "changed"},
                }
            ],
            "rules[0].conditions: ",
        ),
    ],
)
def test_what_will_hardly_ever_fire_is_saved_with_a_warning(
    api: APIClient, rules: list[dict[str, Any]], warning: str
) -> None:
    made = api.post(SUBSCRIPTIONS, {"url": URL, "rules": rules}).json()
    assert len(made["warnings"]) == 1
    assert made["warnings"][0].startswith(warning)
    assert api.patch(at(Subscription.objects.get()), {"rules": [rule()]}).json()["warnings"] == []


def test_rotating_tells_the_tag_of_what_it_has_changed(api: APIClient, me: User) -> None:
    mine = make(me)
    rotated = api.post(at(mine) + "rotate-secret/")
    assert rotated.headers["ETag"] == api.get(at(mine)).headers["ETag"]


def test_a_list_is_told_of_a_made_up_cursor(api: APIClient) -> None:
    told = api.get(DELIVERIES, {"cursor": "made up"})
    assert told.status_code == 404
    assert "`next`" in told.json()["detail"]
