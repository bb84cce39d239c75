"""Staff work webhooks: they see a receiver that fails, understand it, mend it, send again."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Page, expect

from django_webhooks import worker
from django_webhooks.models import Delivery, Event, Subscription, Watch
from tests.browser.conftest import NARROW, WIDE, fits
from tests.shop.models import Order


def address(name: str, *args: object) -> str:
    return reverse(f"admin:django_webhooks_{name}", args=args)


@pytest.fixture
def failing(transactional_db, subscribe, receiver, configure) -> Subscription:
    """Its endpoint has given up one order and lets another wait; one has arrived before."""
    configure(RETRY_SCHEDULE=[])
    made = subscribe("shop.order.created", name="Warehouse")
    Order.objects.create(number="A-1")
    worker.drain()
    body = b'{"error":"maintenance"}'
    receiver.answer = lambda request: (503, {"content-type": "application/json"}, body)
    Order.objects.create(number="A-2")
    worker.drain()
    configure(RETRY_SCHEDULE=[3600])
    Order.objects.create(number="A-3")
    worker.drain()
    assert list(Delivery.objects.order_by("pk").values_list("status", flat=True)) == [
        "succeeded",
        "failed",
        "pending",
    ]
    return made


def test_a_failing_receiver_is_seen_understood_and_its_delivery_sent_again(
    page: Page, failing, receiver
):
    page.goto(address("subscription_changelist"))
    row = page.get_by_role("row", name=re.compile("Warehouse"))
    expect(row).to_contain_text("failing")
    row.get_by_role("link", name="Warehouse").click()
    expect(page.locator(".webhooks-health")).to_contain_text("Its requests have failed since")
    expect(page.locator(".webhooks-health")).to_contain_text("33.3 %")
    chart = page.get_by_role("img", name=re.compile("Last 24 hours: 3 attempts, 2 of them failed"))
    expect(chart).to_be_visible()

    page.locator(".object-tools").get_by_role("link", name="Deliveries").click()
    page.get_by_role("link", name="failed", exact=True).click()
    page.locator("#result_list").get_by_role("link").first.click()
    explained = page.locator(".webhooks-explanation")
    expect(explained).to_contain_text("The receiver itself failed.")
    expect(page.locator(".webhooks-attempt")).to_contain_text('"error": "maintenance"')
    expect(page.locator(".webhooks-timeline li").last).to_contain_text("Failed")

    receiver.answer = lambda request: 204
    page.get_by_role("button", name="Redeliver").click()
    expect(page.locator(".messagelist")).to_contain_text("1 delivery is sent again.")
    worker.drain()
    page.reload()
    expect(page.locator(".webhooks-timeline li").last).to_contain_text("Succeeded")
    expect(page.locator(".webhooks-attempt")).to_have_count(2)
    expect(page.locator(".webhooks-attempt").first).to_contain_text("HTTP 204")


def test_curl_is_copied_by_a_button(page: Page, failing):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(address("delivery_change", Delivery.objects.get(status="failed").pk))
    page.get_by_text("As cURL").click()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").startswith("curl --globoff")


def test_recovery_shows_the_number_and_only_then_sends(page: Page, failing, receiver):
    page.goto(address("subscription_change", failing.pk))
    page.get_by_role("button", name="Recover what has failed").click()
    expect(page.locator("#content")).to_contain_text("1 delivery has failed")
    tomorrow = (timezone.localtime() + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M")
    page.get_by_label("Of events since").fill(tomorrow)
    page.get_by_role("button", name="Count").click()
    expect(page.locator("#content")).to_contain_text("Nothing has failed")
    expect(page.get_by_role("button", name="Recover what has failed")).to_have_count(0)
    yesterday = (timezone.localtime() - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M")
    page.get_by_label("Of events since").fill(yesterday)
    page.get_by_role("button", name="Count").click()
    expect(page.locator("#content")).to_contain_text("1 delivery has failed")
    assert Delivery.objects.filter(status="failed").count() == 1

    receiver.answer = lambda request: 204
    page.get_by_role("button", name="Recover what has failed").click()
    expect(page.locator(".messagelist")).to_contain_text("1 delivery is sent again.")
    assert page.url.endswith(address("subscription_change", failing.pk))
    worker.drain()
    assert not Delivery.objects.filter(status="failed").exists()


def test_what_waits_is_cancelled_after_a_question(page: Page, failing):
    page.goto(address("subscription_change", failing.pk))
    page.get_by_role("button", name="Cancel what waits").click()
    expect(page.locator("#content")).to_contain_text("1 delivery waits to be sent.")
    page.get_by_role("button", name="Cancel what waits").click()
    expect(page.locator(".messagelist")).to_contain_text("1 delivery is cancelled.")
    assert Delivery.objects.get(reason="Cancelled by staff.").status == "cancelled"


def test_who_disables_a_subscription_writes_the_reason_at_once(page: Page, failing):
    page.goto(address("subscription_change", failing.pk))
    page.get_by_role("button", name="Disable").click()
    expect(page.get_by_label("Because")).to_be_focused()
    page.keyboard.type("No more orders.")
    page.keyboard.press("Enter")
    expect(page.locator(".webhooks-health")).to_contain_text("No more orders.")


def test_a_new_secret_is_shown_once_with_the_end_of_the_old_one(page: Page, failing):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(address("subscription_change", failing.pk))
    page.get_by_role("button", name="Rotate the secret").click()
    page.get_by_role("button", name="Rotate the secret").click()
    shown = page.locator(".messagelist .webhooks-secret")
    expect(shown).to_have_text(Subscription.objects.get().secret)
    expect(page.locator(".messagelist")).to_contain_text("the old one signs, too")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == Subscription.objects.get().secret
    page.reload()
    expect(page.locator(".webhooks-secret")).to_have_count(0)
    expect(page.locator(".field-secret_state")).to_contain_text("the old one signs, too")


def test_who_may_only_look_sees_all_and_finds_no_button(open_page: Callable[..., Page], failing):
    clerk = User.objects.create_user("clerk", is_staff=True)
    names = ["view_subscription", "view_delivery", "view_event"]
    clerk.user_permissions.set(Permission.objects.filter(codename__in=names))
    page = open_page(clerk)
    failed = Delivery.objects.get(status="failed")
    for url in (address("subscription_change", failing.pk), address("delivery_change", failed.pk)):
        page.goto(url)
        expect(page.locator(".webhooks-tool")).to_have_count(0)
        expect(page.locator("#content")).to_contain_text("Warehouse")
    for url in (address("subscription_changelist"), address("delivery_changelist")):
        page.goto(url)
        expect(page.locator("#result_list tbody tr").first).to_be_visible()
        expect(page.locator("select[name=action]")).to_have_count(0)
    page.goto(address("overview_changelist"))
    expect(page.locator("#content")).to_contain_text("In trouble")


def test_the_overview_leads_to_a_failing_endpoint(page: Page, failing):
    Watch.objects.sign()
    page.goto(reverse("admin:index"))
    page.get_by_role("link", name="Overview").click()
    page.goto(address("subscription_changelist"))
    page.locator(".object-tools").get_by_role("link", name="Overview").click()
    expect(page.locator("#content")).to_contain_text("worker alive")
    Watch.objects.update(seen_at=timezone.now() - timedelta(hours=1))
    page.reload()
    expect(page.locator("#content")).to_contain_text("webhooks_drain --loop")
    page.get_by_role("link", name="Warehouse").first.click()
    expect(page.locator(".webhooks-health")).to_be_visible()


def test_on_a_phone_nothing_of_a_list_is_cut_off(open_page, staff, failing):
    page = open_page(staff, width=NARROW)
    page.goto(address("delivery_changelist"))
    row = page.locator("#result_list tbody tr").first
    expect(row.locator(".field-subscription_text")).to_have_attribute("data-label", "Subscription")
    for url in (
        "subscription_changelist",
        "delivery_changelist",
        "event_changelist",
        "overview_changelist",
    ):
        page.goto(address(url))
        for each in page.locator(
            "#result_list :is(td, th):not([class*=action-]):visible, .webhooks-tiles > div"
        ).all():
            box = each.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= NARROW
            assert each.evaluate("each => each.scrollWidth <= each.clientWidth")


def test_on_a_phone_a_list_is_sorted_by_its_names(open_page, staff, failing):
    Subscription.objects.create(name="A first one", url="https://example.com/")
    page = open_page(staff, width=NARROW)
    page.goto(address("subscription_changelist"))
    for first in ("A first one", "Warehouse"):  # up, then down
        page.locator("#result_list thead").get_by_role("link", name="Subscription").click()
        expect(page.locator("#result_list tbody tr").first).to_contain_text(first)
    assert fits(page)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_has_arrived_is_sent_again_after_a_question(
    open_page, staff, failing, accessible, theme
):
    page = open_page(staff, width=NARROW, theme=theme)
    page.goto(address("delivery_changelist"))
    page.locator("#action-toggle").check()
    page.locator("select[name=action]").select_option("redeliver")
    page.get_by_role("button", name="Run").or_(page.get_by_role("button", name="Go")).click()
    expect(page.locator("#content")).to_contain_text("1 has succeeded: it is sent again")
    accessible(page)
    assert fits(page)
    page.get_by_role("button", name="Send all 3 again").click()
    expect(page.locator(".messagelist")).to_contain_text("3 deliveries are sent again.")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_to_delete_a_subscription_tells_what_becomes_of_its_deliveries(
    open_page, staff, failing, accessible, theme
):
    page = open_page(staff, width=NARROW, theme=theme)
    page.goto(address("subscription_delete", failing.pk))
    expect(page.locator("#content")).to_contain_text("1 delivery waits to be sent")
    expect(page.locator("#content")).to_contain_text("3 deliveries stay in the list")
    accessible(page)
    assert fits(page)
    page.get_by_role("button", name="Yes").click()
    expect(page.locator(".messagelist")).to_contain_text("was deleted")


def test_of_the_list_of_events_nothing_is_cut_off(open_page, staff, failing):
    owner = User.objects.create_user("somebody.with.a.long.name@example.com")
    Event.objects.update(owner=owner, error="ValueError: It could not be rendered " + "x" * 60)
    page = open_page(staff)
    page.goto(address("event_changelist"))
    [results] = page.locator(".results").all()
    assert results.evaluate("each => each.scrollWidth <= each.clientWidth")


def test_the_box_to_delete_a_rule_stands_beside_its_sentence_however_long(
    open_page, staff, failing
):
    tree = {"field": "note", "op": "eq", "value": "as long as can be " * 5}
    failing.rules.update(conditions=tree)
    for width in (WIDE, NARROW):
        page = open_page(staff, width=width)
        page.goto(address("subscription_change", failing.pk))
        sentence = page.locator("#rules-0 h3 .inline_label").bounding_box()
        delete = page.locator("#rules-0 h3 .delete").bounding_box()
        beside = delete["x"] >= sentence["x"] + sentence["width"]
        assert beside or delete["y"] >= sentence["y"] + sentence["height"]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_each_page_is_accessible_and_fits(open_page, staff, accessible, failing, width, theme):
    Subscription.objects.create(name="Gone", url="https://gone.example.com/").disable("410 Gone.")
    page = open_page(staff, width=width, theme=theme)
    failed = Delivery.objects.get(status="failed")
    subscription = address("subscription_change", failing.pk)
    for url, button in [
        (address("overview_changelist"), ""),
        (address("subscription_changelist"), ""),
        (subscription, ""),
        (subscription, "Rotate the secret"),
        (subscription, "Recover what has failed"),
        (subscription, "Cancel what waits"),
        (address("delivery_changelist"), ""),
        (address("delivery_change", failed.pk), ""),
        (address("event_changelist"), ""),
        (address("event_change", Event.objects.first().pk), ""),
    ]:
        page.goto(url)
        if button:
            page.get_by_role("button", name=button).click()
            page.wait_for_load_state()
        for each in page.locator("details:not([open]) > summary").all():
            if each.is_visible():
                each.click()
        assert fits(page), (url, button)
        accessible(page)
