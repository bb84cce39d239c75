"""A subscription's own headers are written as rows of a name and a value."""

import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from django_webhooks.models import Subscription
from tests.browser.conftest import NARROW, fits

URL = "https://example.com/hook"
ADD = reverse("admin:django_webhooks_subscription_add")


@pytest.fixture
def subscription(transactional_db: None) -> Subscription:
    headers = {"Authorization": "Bearer tr0ub4dor", "X-Team": "sales"}
    return Subscription.objects.create(name="Shop", url=URL, headers=headers)


def change_page(subscription: Subscription) -> str:
    return reverse("admin:django_webhooks_subscription_change", args=[subscription.pk])


def saved(page: Page) -> dict:
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist .success").first).to_be_visible()
    return Subscription.objects.get().headers


def test_headers_are_added_by_keyboard_alone(page: Page, transactional_db):
    page.goto(ADD)
    page.get_by_label("URL:").fill(URL)
    page.locator("#id_rules-0-event_type").select_option("*")
    expect(page.locator("#id_headers")).to_be_hidden()
    page.get_by_role("button", name="Add a header").focus()
    for name, value in (("Authorization", 'Bearer "a\\b"'), ("X-Team", "sales")):
        page.keyboard.press("Enter")
        page.keyboard.type(name)
        page.keyboard.press("Tab")
        page.keyboard.type(value)
        for _ in "×+":
            page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Add a header")).to_be_focused()
    assert saved(page) == {"Authorization": 'Bearer "a\\b"', "X-Team": "sales"}


def test_a_kept_header_shows_no_value_and_the_others_are_changed(page: Page, subscription):
    page.goto(change_page(subscription))
    assert "tr0ub4dor" not in page.content()
    assert "sales" not in page.content()
    kept = page.get_by_label("Header 1: value")
    expect(kept).to_have_value("")
    expect(kept).to_have_attribute("placeholder", "•••••• stays as it is")
    page.get_by_label("Header 2: value").fill("support")
    page.get_by_role("button", name="Add a header").click()
    expect(page.get_by_label("Header 3: name")).to_be_focused()
    page.get_by_label("Header 3: name").fill("X-New")
    page.get_by_label("Header 3: value").fill("1")
    assert saved(page) == {"Authorization": "Bearer tr0ub4dor", "X-Team": "support", "X-New": "1"}


def test_headers_are_removed_and_the_focus_stays_near(page: Page, subscription):
    page.goto(change_page(subscription))
    page.get_by_role("button", name="Remove: Header 1").click()
    expect(page.get_by_role("button", name="Remove: Header 1")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Add a header")).to_be_focused()
    assert saved(page) == {}


def test_headers_that_are_not_touched_stay_as_they_were(page: Page, subscription):
    page.goto(change_page(subscription))
    assert saved(page) == {"Authorization": "Bearer tr0ub4dor", "X-Team": "sales"}


def test_a_refused_header_is_marked_and_what_was_typed_stays(page: Page, subscription):
    page.goto(change_page(subscription))
    page.get_by_label("Header 2: name").fill("Authorization")
    page.get_by_label("Header 2: value").fill("twice")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".field-headers .errorlist")).to_contain_text("is there twice")
    expect(page.get_by_label("Header 1: name")).to_be_focused()
    expect(page.get_by_label("Header 2: name")).to_have_value("Authorization")
    expect(page.get_by_label("Header 2: value")).to_have_value("twice")
    assert Subscription.objects.get().headers["X-Team"] == "sales"


def test_the_same_headers_are_edited_as_json_and_back(page: Page, subscription):
    page.goto(change_page(subscription))
    field = page.locator(".field-headers")
    field.get_by_role("button", name="Edit as JSON").click()
    page.locator("#id_headers").fill('{"X-Number": 1}')
    field.get_by_role("button", name="Edit as a form").click()
    expect(field.get_by_role("alert")).to_contain_text("Only an object of texts")
    page.locator("#id_headers").fill('{"X-Number": "1"}')
    field.get_by_role("button", name="Edit as a form").click()
    expect(page.get_by_label("Header 1: name")).to_have_value("X-Number")
    assert saved(page) == {"X-Number": "1"}


def test_without_scripts_headers_are_json(open_page, staff, subscription):
    page = open_page(staff, java_script_enabled=False)
    page.goto(change_page(subscription))
    page.locator("#id_headers").fill('{"Authorization": "••••••"}')
    assert saved(page) == {"Authorization": "Bearer tr0ub4dor"}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_rows_are_accessible_and_fit_a_phone(open_page, staff, accessible, subscription, theme):
    page = open_page(staff, width=NARROW, theme=theme)
    page.goto(change_page(subscription))
    expect(page.get_by_label("Header 1: name")).to_be_visible()
    accessible(page)
    assert fits(page)
