"""The rule builder, by mouse and by keyboard, as a person meets it."""

import json

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.urls import reverse
from playwright.sync_api import Locator, Page, expect

from django_webhooks import worker
from django_webhooks.conditions import MAX_DEPTH
from django_webhooks.models import Delivery, Event, Rule, Subscription
from tests.browser.conftest import NARROW, WIDE, fits
from tests.shop.models import Customer, Order

ADD = "/admin/django_webhooks/subscription/add/"
BIG = {"field": "total", "op": "gte", "value": 1000}
PAID = {"field": "status", "op": "changed_to", "value": "paid"}
FOREIGN = {"not": {"field": "customer.email", "op": "endswith", "value": "@example.com"}}
TREE = {"all": [PAID, {"any": [BIG, FOREIGN]}]}
SENTENCE = (
    "order updated, when status changes to “paid” and "
    "(total is at least 1000 or customer.email does not end with “@example.com”)"
)


class OrderAdmin(admin.ModelAdmin):
    search_fields = ("number",)


def deep(levels: int) -> object:
    """Groups within groups, as many as may be."""
    return BIG if levels == 1 else {"any" if levels % 2 else "all": [PAID, deep(levels - 1)]}


@pytest.fixture
def subscription(transactional_db: None) -> Subscription:
    return Subscription.objects.create(name="Shop", url="https://example.com/hook")


@pytest.fixture
def orders(subscription: Subscription) -> list[Order]:
    """Three that became paid; one of them is big, and none is of example.com but the last."""
    subscription.rules.create(event_type="shop.order.*")
    made = []
    for number, total, email in (
        ("A-1", 1540, "ada@example.com"),
        ("A-2", 740, "bob@example.org"),
        ("A-3", 740, "cyd@example.com"),
    ):
        customer = Customer.objects.create(name=number, email=email)
        order = Order.objects.create(number=number, total=total, customer=customer)
        order.status = "paid"
        order.save()
        made.append(order)
    return made


def change_page(subscription: Subscription) -> str:
    return reverse("admin:django_webhooks_subscription_change", args=[subscription.pk])


def condition(page: Page, position: str) -> "Condition":
    return Condition(page, position)


class Condition:
    """One condition of the builder, by its number."""

    def __init__(self, page: Page, position: str) -> None:
        self.page = page
        self.name = f"Condition {position}"
        self.place = page.get_by_role("group", name=self.name, exact=True)

    def part(self, name: str) -> Locator:
        return self.page.get_by_label(f"{self.name}: {name}", exact=True)

    def fill(self, field: str, operator: str, value: str) -> None:
        self.part("field").select_option(field)
        self.part("operator").select_option(label=operator)
        control = self.part("value")
        if control.evaluate("each => each.tagName") == "SELECT":
            control.select_option(value)
        else:
            control.fill(value)

    def button(self, name: str) -> Locator:
        return self.place.get_by_role("button", name=f"{name}: {self.name}", exact=True)


def rules(page: Page) -> Locator:
    return page.locator("#rules-group")


def event_type(page: Page) -> Locator:
    return page.locator("#id_rules-0-event_type")


def as_json(page: Page) -> Locator:
    return page.locator("#id_rules-0-conditions")


def stored() -> object:
    return Rule.objects.order_by("-pk")[0].conditions


def test_a_nested_rule_is_built_by_mouse_tried_and_saved(page, orders, accessible):
    page.goto(ADD)
    page.get_by_label("Name:").fill("Big and foreign")
    page.get_by_label("URL:").fill("https://example.com/hook")
    event_type(page).select_option("shop.order.updated")
    page.get_by_role("button", name="Add a condition").click()
    condition(page, "1").fill("status", "changes to", "paid")
    page.get_by_role("button", name="Add a group").click()
    condition(page, "2.1").fill("total", "is at least", "1000")
    group = page.get_by_role("group", name="Group 2", exact=True)
    group.get_by_role("button", name="Add a group").click()
    page.get_by_label("Group 2.2", exact=True).and_(page.locator("select")).select_option("not")
    condition(page, "2.2.1").fill("customer.email", "ends with", "@example.com")
    expect(page.locator(".webhooks-sentence")).to_have_text(SENTENCE)
    accessible(page)

    page.get_by_role("button", name="Try it on the last events").click()
    answer = page.get_by_role("region", name="Result")
    expect(answer).to_contain_text("2 of the last 3 events would have matched.")
    nearly = answer.locator("h4:has-text('Nearly matching') + ul details")
    expect(nearly).to_have_count(1)
    nearly.locator("summary").click(position={"x": 4, "y": 12})
    expect(nearly).to_contain_text("total 740.00 is not at least 1000")
    accessible(page)

    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist .success").first).to_be_visible()
    assert stored() == TREE


def test_a_nested_rule_is_built_by_keyboard_alone_tried_and_saved(page, orders, subscription):
    page.goto(change_page(subscription))
    keyboard = Keyboard(page)
    keyboard.to("Event type:")
    keyboard.type("Order updated")
    keyboard.press("Add a condition")
    keyboard.is_at("Condition 1: field")
    keyboard.type("status")
    keyboard.to("Condition 1: operator")
    keyboard.type("changes to")
    keyboard.to("Condition 1: value")
    keyboard.type("paid")
    keyboard.press("Add a group")
    keyboard.is_at("Condition 2.1: field")
    keyboard.type("total")
    keyboard.to("Condition 2.1: operator")
    keyboard.type("is at least")
    keyboard.to("Condition 2.1: value")
    keyboard.type("1000")
    keyboard.press("Add a group")  # the next of them is that of the inner group
    keyboard.to("Group 2.2", back=True)
    keyboard.type("This does not")
    keyboard.to("Condition 2.2.1: field")
    keyboard.type("customer.email")
    keyboard.to("Condition 2.2.1: operator")
    keyboard.type("ends with")
    keyboard.to("Condition 2.2.1: value")
    keyboard.type("@example.com")
    expect(page.locator(".webhooks-sentence")).to_have_text(SENTENCE)
    keyboard.press("Try it on the last events")
    answer = page.get_by_role("region", name="Result")
    expect(answer).to_contain_text("2 of the last 3 events would have matched.")
    keyboard.press("Save and continue editing")
    expect(page.locator(".messagelist .success").first).to_be_visible()
    assert stored() == TREE


def test_the_whole_way_from_a_rule_to_a_delivery_and_to_the_why_not_and_to_the_mend(
    page, transactional_db, receiver
):
    page.goto(ADD)
    page.get_by_label("Name:").fill("Big orders")
    page.get_by_label("URL:").fill(receiver.url)
    event_type(page).select_option("shop.order.created")
    page.get_by_role("button", name="Add a condition").click()
    condition(page, "1").fill("total", "is at least", "1000")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist .success").first).to_be_visible()

    receiver.answer = lambda request: (503, {}, b"down for maintenance")
    big = Order.objects.create(number="A-1", total=1540)
    small = Order.objects.create(number="A-2", total=740)
    worker.drain()
    page.goto("/admin/django_webhooks/delivery/")
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    page.locator("#result_list tbody th a").click()
    expect(page.locator("#content")).to_contain_text("total 1540.00 is at least 1000")
    expect(page.locator("#content")).to_contain_text("down for maintenance")

    event = Event.objects.get(subject_id=str(small.pk))
    page.goto(reverse("admin:django_webhooks_event_change", args=[event.pk]))
    expect(page.locator(".webhooks-whys")).to_contain_text("did not fire")
    expect(page.locator(".webhooks-whys")).to_contain_text("total 740.00 is not at least 1000")

    receiver.answer = lambda request: (204, {}, b"")
    delivery = Delivery.objects.get(event__subject_id=str(big.pk))
    page.goto(reverse("admin:django_webhooks_delivery_change", args=[delivery.pk]))
    page.get_by_role("button", name="Redeliver").click()
    worker.drain()
    page.reload()
    expect(page.locator(".webhooks-badge").first).to_have_text("succeeded")


def test_any_path_can_be_asked_for(page, subscription):
    subscription.rules.create(event_type="shop.order.updated")
    page.goto(change_page(subscription))
    page.get_by_role("button", name="Add a condition").click()
    condition(page, "1").part("field").select_option(label="Another path…")
    field = condition(page, "1").part("field")
    expect(field).to_be_focused()
    field.fill("total")  # known after all: asked for by its kind
    expect(condition(page, "1").part("type of the value")).to_have_count(0)
    field.fill("customer.address.city")
    page.keyboard.press("Tab")
    expect(condition(page, "1").part("operator")).to_be_focused()
    condition(page, "1").part("operator").select_option(label="is greater than")
    condition(page, "1").part("value").fill("5")
    condition(page, "1").part("type of the value").select_option("number")
    assert json.loads(as_json(page).input_value()) == {
        "field": "customer.address.city",
        "op": "gt",
        "value": 5,
    }
    page.get_by_role("button", name="Add a group").focus()
    expect(condition(page, "1").place).to_contain_text("publishes no field")


def test_without_an_event_type_there_is_nothing_to_choose_from_and_it_says_so(
    page, transactional_db
):
    page.goto(ADD)
    builder = rules(page).locator(".webhooks-builder")
    expect(builder).to_contain_text("Choose an event type first")
    expect(builder).not_to_contain_text("No conditions")
    expect(page.get_by_role("button", name="Add a condition")).to_be_disabled()
    event_type(page).select_option("shop.order.updated")
    expect(builder).to_contain_text("No conditions: each event of this type is sent.")
    expect(page.get_by_role("button", name="Add a condition")).to_be_enabled()


def test_that_a_field_is_missing_is_said_when_the_condition_is_left(page, subscription):
    subscription.rules.create(event_type="shop.order.updated")
    page.goto(change_page(subscription))
    with page.expect_response("**/rules/check/"):
        page.get_by_role("button", name="Add a condition").click()
    place = condition(page, "1").place
    problem = place.locator(".webhooks-problems li")
    expect(page.locator(".webhooks-sentence")).to_be_hidden()
    expect(problem).to_have_count(0)
    page.get_by_role("button", name="Add a group").focus()
    expect(problem).to_have_text(["Choose a field."])
    expect(condition(page, "1").part("field")).to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".errornote")).to_be_visible()
    expect(problem).to_have_text(["Choose a field."])


def test_fields_of_another_event_type_are_told_to_be_none_of_this_one(page, subscription):
    subscription.rules.create(event_type="shop.order.updated", conditions={"all": [PAID, BIG]})
    page.goto(change_page(subscription))
    event_type(page).select_option("crm.customer.created")
    field = condition(page, "1").part("field")
    expect(field.locator("option:checked")).to_have_text(
        "status (not a field of crm.customer.created)"
    )
    expect(condition(page, "1").place).to_contain_text("publishes no field “status”")
    field.select_option("name")
    expect(field.locator("option:checked")).to_have_text("name")
    expect(condition(page, "1").place).not_to_contain_text("publishes no field")


def test_conditions_are_moved_grouped_and_removed_and_the_focus_stays_near(page, subscription):
    one, two, three = ({"field": "number", "op": "eq", "value": each} for each in "abc")
    subscription.rules.create(event_type="shop.order.*", conditions={"all": [one, two, three]})
    page.goto(change_page(subscription))
    area = as_json(page)

    def tree() -> object:
        return json.loads(area.input_value() or "{}")

    condition(page, "1").button("Move down").click()
    assert tree() == {"all": [two, one, three]}
    expect(condition(page, "2").button("Move down")).to_be_focused()
    expect(rules(page).locator("[role=status]").first).to_have_text("Moved down.")
    condition(page, "3").button("Put into a group").click()
    assert tree() == {"all": [two, one, {"any": [three]}]}
    condition(page, "2").button("Move down").click()
    assert tree() == {"all": [two, {"any": [one, three]}]}
    condition(page, "2.2").button("Move down").click()
    assert tree() == {"all": [two, {"any": [one]}, three]}
    condition(page, "2.1").button("Move up").click()
    assert tree() == {"all": [two, one, three]}
    condition(page, "2").button("Remove").click()
    expect(condition(page, "2").button("Remove")).to_be_focused()
    assert tree() == {"all": [two, three]}
    condition(page, "1").button("Remove").click()
    condition(page, "1").button("Remove").click()
    assert area.input_value() == ""
    expect(page.get_by_role("button", name="Add a condition")).to_be_focused()


def test_an_error_is_shown_at_its_condition_and_what_was_typed_is_kept(page, subscription):
    page.goto(change_page(subscription))
    page.get_by_text("Add another Rule").click()
    event_type(page).select_option("shop.order.updated")
    page.get_by_role("button", name="Add a condition").click()
    condition(page, "1").fill("number", "starts with", "A-")
    page.get_by_role("button", name="Add a group").click()
    condition(page, "2.1").fill("number", "matches", "(unfinished")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".errornote")).to_be_visible()
    value = condition(page, "2.1").part("value")
    expect(value).to_have_value("(unfinished")
    expect(value).to_have_attribute("aria-invalid", "true")
    expect(condition(page, "2.1").place).to_contain_text("not a regular expression of RE2")
    expect(condition(page, "1").place).not_to_contain_text("RE2")
    expect(condition(page, "1").part("value")).to_have_value("A-")
    value.fill("^A-[0-9]+$")
    expect(value).not_to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist .success").first).to_be_visible()
    assert stored()["all"][1]["any"][0]["value"] == "^A-[0-9]+$"


def test_after_errors_their_note_comes_first_and_the_focus_is_at_the_first_of_them(
    page, subscription
):
    subscription.rules.create(event_type="shop.order.updated", conditions=BIG)
    page.goto(change_page(subscription))
    condition(page, "1").part("value").fill("12,50")
    page.get_by_role("button", name="Save", exact=True).click()
    note = page.locator(".errornote")
    expect(note).to_be_visible()
    expect(condition(page, "1").part("value")).to_be_focused()
    health = page.locator(".webhooks-health")
    assert note.bounding_box()["y"] < health.bounding_box()["y"]

    page.get_by_label("URL:").fill("ftp://example.com")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_label("URL:")).to_be_focused()


def test_each_error_is_said_once_and_nothing_else_is_red(page, subscription):
    page.goto(change_page(subscription))
    page.get_by_text("Add another Rule").click()
    event_type(page).select_option("shop.order.updated")
    page.get_by_role("button", name="Add a condition").click()
    condition(page, "1").fill("total", "is", "12,50")
    event_type(page).select_option("")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".errornote")).to_be_visible()
    expect(page.locator("#rules-group .errorlist")).to_have_count(0)
    expect(page.locator(".webhooks-problems li")).to_have_text(["Choose an event type."])
    expect(event_type(page)).to_be_focused()
    expect(page.locator("#rules-group [aria-invalid=true]")).to_have_count(1)
    event_type(page).select_option("shop.order.updated")
    expect(page.locator(".webhooks-problems li")).to_have_text(["Enter a number, such as 12.50."])
    expect(event_type(page)).not_to_have_attribute("aria-invalid", "true")
    expect(page.locator("#rules-group [aria-invalid=true]")).to_have_count(1)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".errornote")).to_be_visible()
    expect(page.locator("#rules-group .errorlist, #rules-group .errors")).to_have_count(0)
    expect(page.locator(".webhooks-problems li")).to_have_text(["Enter a number, such as 12.50."])


def test_a_value_that_is_no_number_is_red_once_it_is_written_and_does_not_get_saved(
    page, subscription
):
    subscription.rules.create(event_type="shop.gadget.*")
    page.goto(change_page(subscription))
    page.route("**/rules/check/", lambda route: route.abort())  # it is known without asking
    page.get_by_role("button", name="Add a condition").click()
    condition(page, "1").part("field").select_option("price")
    value = condition(page, "1").part("value")
    value.focus()
    expect(condition(page, "1").place).not_to_contain_text("Enter a number")  # not yet
    page.keyboard.press("Shift+Tab")
    page.get_by_role("button", name="Add a group").focus()
    expect(condition(page, "1").place).to_contain_text("Enter a number")
    value.fill("12,50")
    expect(value).to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".errornote")).to_be_visible()
    expect(value).to_have_value("12,50")
    expect(condition(page, "1").place.get_by_text("Enter a number")).to_have_count(1)
    assert stored() == {}
    page.unroute("**/rules/check/")
    value.fill("12.50")
    expect(value).not_to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist .success").first).to_be_visible()
    assert stored()["value"] == "12.50"


@pytest.mark.parametrize(
    ("field", "typed", "words"),
    [
        ("count", "1.5", "Enter a whole number"),
        ("on", "", "Enter a date"),
        ("took", "", "Enter a duration"),
    ],
)
def test_each_kind_of_field_says_what_it_takes(page, subscription, field, typed, words):
    subscription.rules.create(event_type="shop.gadget.*")
    page.goto(change_page(subscription))
    page.get_by_role("button", name="Add a condition").click()
    condition(page, "1").fill(field, "is", typed)
    page.get_by_role("button", name="Add a group").focus()
    expect(condition(page, "1").place.get_by_text(words)).to_have_count(1)


def test_the_json_view_shows_the_same_tree_both_ways(page, subscription):
    subscription.rules.create(event_type="shop.order.updated", conditions=TREE)
    page.goto(change_page(subscription))
    rules(page).get_by_role("button", name="Edit as JSON").click()
    area = as_json(page)
    expect(area).to_be_focused()
    assert json.loads(area.input_value()) == TREE
    area.fill(json.dumps({"all": [BIG, {"any": [PAID]}]}))
    rules(page).get_by_role("button", name="Edit as a form").click()
    expect(condition(page, "1").part("value")).to_have_value("1000")
    expect(condition(page, "2.1").part("value")).to_have_value("paid")
    rules(page).get_by_role("button", name="Edit as JSON").click()
    area.fill(json.dumps({"all": [BIG, {"field": "x", "op": "like"}]}))
    expect(page.get_by_text("all[1].op: 'like' is not an operator")).to_be_visible()
    area.fill('{"all": [')
    rules(page).get_by_role("button", name="Edit as a form").click()
    expect(page.get_by_text("This is not valid JSON")).to_be_visible()
    expect(area).to_have_value('{"all": [')


@pytest.mark.parametrize(
    "tree",
    [
        {},
        BIG,
        {"all": [BIG]},
        {"not": {"all": [BIG, {"not": FOREIGN}]}},
        {"field": "gone", "op": "in", "value": ["a", 1, True, 1.5]},
        {"field": "total", "op": "eq", "value": 90071992547409931234},
        {"all": [{"field": "number", "op": "changed", "value": True}, {"any": [BIG]}]},
        {"any": [{"field": "x", "op": "exists", "value": False}, PAID]},
        {"any": [{"field": "status", "op": "changed_to", "value": None}, PAID]},
        {"field": "status", "op": "startswith", "value": "p"},
        deep(MAX_DEPTH),
    ],
)
def test_a_tree_that_is_not_touched_is_saved_as_it_was(page, subscription, tree):
    rule = subscription.rules.create(event_type="shop.order.updated", conditions=tree)
    page.goto(change_page(subscription))
    page.get_by_role("button", name="Add a condition").last.click()  # and away with it
    page.get_by_role("button", name="Remove:").last.click()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist .success").first).to_be_visible()
    rule.refresh_from_db()
    assert rule.conditions == tree


def test_what_the_builder_does_not_know_is_shown_and_kept(page, subscription):
    odd = {"all": [{"field": "a", "op": "like", "value": "x"}, {"and": [1]}, PAID]}
    subscription.rules.create(event_type="shop.order.updated")
    Rule.objects.update(conditions=odd)
    page.goto(change_page(subscription))
    assert condition(page, "1").part("field").input_value() == "a"
    expect(condition(page, "1").place).to_contain_text("like (not an operator)")
    expect(condition(page, "2").place).to_contain_text('{"and":[1]}')
    rules(page).get_by_role("button", name="Edit as JSON").click()
    assert json.loads(as_json(page).input_value()) == odd


@pytest.mark.parametrize(
    ("pattern", "field", "operator", "typed", "value"),
    [
        ("shop.gadget.*", "count", "is at least", "7", 7),
        ("shop.gadget.*", "price", "is", "9.50", "9.50"),
        ("shop.gadget.*", "on", "is before", "2026-12-24", "2026-12-24"),
        ("shop.gadget.*", "at", "is at or after", "2026-12-24T10:00", "2026-12-24T10:00Z"),
        ("shop.gadget.*", "good", "is", "false", False),
        ("shop.gadget.*", "count", "is one of", "1\n2\n", [1, 2]),
        ("shop.gadget.*", "ref", "is", "b7e1", "b7e1"),
        ("billing.invoice_paid", "invoice", "is", "7", 7),
        ("shop.order.*", "status", "is", "shipped", "shipped"),
    ],
)
def test_the_value_is_written_by_the_kind_of_the_field(
    page, subscription, pattern, field, operator, typed, value
):
    subscription.rules.create(event_type=pattern)
    page.goto(change_page(subscription))
    page.get_by_role("button", name="Add a condition").click()
    condition(page, "1").fill(field, operator, typed)
    area = as_json(page)
    assert json.loads(area.input_value())["value"] == value


def test_choices_are_ticked(page, subscription):
    subscription.rules.create(event_type="shop.order.updated")
    page.goto(change_page(subscription))
    page.get_by_role("button", name="Add a condition").click()
    condition(page, "1").part("field").select_option("status")
    condition(page, "1").part("operator").select_option(label="is one of")
    page.get_by_role("checkbox", name="paid").check()
    page.get_by_role("checkbox", name="shipped").check()
    tree = json.loads(as_json(page).input_value())
    assert tree == {"field": "status", "op": "in", "value": ["paid", "shipped"]}


def test_choices_are_offered_by_what_they_are_called(page, subscription, monkeypatch):
    status = Order._meta.get_field("status")
    monkeypatch.setattr(status, "choices", [("N", "New"), ("P", "Paid")])
    subscription.rules.create(event_type="shop.order.updated")
    page.goto(change_page(subscription))
    page.get_by_role("button", name="Add a condition").click()
    condition(page, "1").part("field").select_option("status")
    condition(page, "1").part("operator").select_option(label="is")
    condition(page, "1").part("value").select_option(label="Paid (P)")
    tree = json.loads(as_json(page).input_value())
    assert tree == {"field": "status", "op": "eq", "value": "P"}


def test_on_a_phone_what_no_sign_tells_has_words(open_page, staff, subscription):
    subscription.rules.create(event_type="shop.order.*", conditions={"all": [BIG, BIG]})
    page = open_page(staff, width=NARROW)
    page.goto(change_page(subscription))
    expect(condition(page, "1").button("Put into a group").locator("span")).to_be_visible()
    assert fits(page)
    wide = open_page(staff)
    wide.goto(change_page(subscription))
    expect(condition(wide, "1").button("Put into a group").locator("span")).to_be_hidden()


def test_fields_are_offered_by_what_they_are_called(page, subscription, monkeypatch):
    monkeypatch.setattr(Order._meta.get_field("total"), "verbose_name", "sum with tax")
    subscription.rules.create(event_type="shop.order.updated", conditions=BIG)
    page.goto(change_page(subscription))
    field = condition(page, "1").part("field")
    expect(field.locator("option:checked")).to_have_text("sum with tax (total)")
    field.select_option("number")
    field.select_option("sum with tax (total)")
    expect(page.locator(".webhooks-sentence")).to_contain_text("sum with tax is at least")
    assert json.loads(as_json(page).input_value())["field"] == "total"


def test_only_operators_that_make_sense_are_offered(page, subscription):
    subscription.rules.create(event_type="shop.gadget.*")
    page.goto(change_page(subscription))
    page.get_by_role("button", name="Add a condition").click()

    def offered(field: str) -> set[str]:
        condition(page, "1").part("field").select_option(field)
        return set(condition(page, "1").part("operator").locator("option").all_inner_texts())

    assert {"is at least", "increases"} <= offered("count")
    assert not {"starts with", "matches"} & offered("count")
    assert {"is after", "is at or before"} <= offered("at")
    assert offered("good") == {
        "is",
        "is not",
        "exists",
        "does not exist",
        "is null",
        "is not null",
        "changes",
        "does not change",
        "changes to",
        "changes to null",
        "changes from",
        "changes from null",
    }


@pytest.mark.parametrize(
    ("pattern", "looks_back"),
    [
        ("shop.gadget.created", False),
        ("shop.gadget.deleted", False),
        ("shop.gadget.updated", True),
        ("shop.gadget.*", True),
        ("crm.customer.*", False),
        ("*", True),
    ],
)
def test_of_a_value_before_the_change_is_asked_only_where_there_is_one(
    page, subscription, pattern, looks_back
):
    subscription.rules.create(event_type=pattern)
    page.goto(change_page(subscription))
    page.get_by_role("button", name="Add a condition").click()
    field = "name" if pattern == "crm.customer.*" else "count"
    condition(page, "1").part("field").select_option(field)
    offered = {*condition(page, "1").part("operator").locator("option").all_inner_texts()}
    assert "is" in offered
    assert ("changes to" in offered) == ("changes" in offered) == looks_back
    assert ("increases" in offered) == (looks_back and field == "count")


def test_a_rule_that_can_never_fire_is_warned_of_and_saved(page, subscription):
    subscription.rules.create(event_type="shop.order.created", conditions=PAID)
    page.goto(change_page(subscription))
    expect(condition(page, "1").place).to_contain_text("no value before the change")
    operator = condition(page, "1").part("operator")
    expect(operator.locator("option:checked")).to_have_text("changes to")  # it is not lost
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist .warning")).to_contain_text("no value before the change")
    assert stored() == PAID


def test_what_would_be_sent_for_one_object_is_shown_and_not_sent(page, subscription, orders):
    subscription.headers = {"Authorization": "Bearer tr0ub4dor"}
    subscription.save()
    subscription.rules.update(conditions=BIG)
    events = Event.objects.count()
    page.goto(change_page(subscription))
    page.get_by_label("Key or name of an object").fill(str(orders[0].pk))
    page.get_by_role("button", name="Show what would be sent").click()
    answer = page.get_by_role("region", name="Result")
    expect(answer).to_contain_text("For “A-1” this would be sent:")
    expect(answer).to_contain_text("POST https://example.com/hook")
    expect(answer).to_contain_text("Authorization: ••••••")
    expect(answer).to_contain_text("webhook-signature: v1,••••••")
    expect(answer).to_contain_text('"total":"1540.00"')
    page.get_by_label("URL").fill("https://example.com/new")
    page.get_by_role("button", name="Remove: Header 1").click()
    page.get_by_role("button", name="Add a header").click()
    page.get_by_label("Header 1: name").fill("X-New")
    page.get_by_label("Header 1: value").fill("tr0ub4dor")
    with page.expect_request("**/rules/object/") as asked:
        page.get_by_role("button", name="Show what would be sent").click()
    assert "tr0ub4dor" not in (asked.value.post_data or "")
    expect(answer).to_contain_text("POST https://example.com/new")
    expect(answer).to_contain_text("X-New: ••••••")
    page.get_by_label("URL").fill("")
    page.locator(".field-headers").get_by_role("button", name="Edit as JSON").click()
    page.locator("#id_headers").fill('{"X-New": tr0ub4dor}')
    with page.expect_request("**/rules/object/") as asked:
        page.get_by_role("button", name="Show what would be sent").click()
    assert "tr0ub4dor" not in (asked.value.post_data or "")
    expect(answer).to_contain_text("URL: This field is required.")
    expect(answer).to_contain_text("Headers: This is not valid JSON.")
    page.get_by_label("Key or name of an object").fill(str(orders[1].pk))
    page.get_by_label("Key or name of an object").press("Enter")
    expect(answer).to_contain_text("nothing would be sent, for the conditions do not hold")
    expect(answer).to_contain_text("total 740.00 is not at least 1000")
    assert Event.objects.count() == events


def test_an_object_is_found_by_its_name_while_it_is_typed(page, subscription, orders, monkeypatch):
    page.goto(change_page(subscription))
    # Only now, for the page would link to its list, which has no URL.
    monkeypatch.setitem(admin.site._registry, Order, OrderAdmin(Order, admin.site))
    key = page.get_by_label("Key or name of an object")
    key.press_sequentially("a-2")
    offered = page.locator("datalist[id$=objects] option")
    expect(offered).to_have_count(1)
    expect(offered).to_have_attribute("value", str(orders[1].pk))
    key.press("Enter")
    expect(page.get_by_role("region", name="Result")).to_contain_text("For “A-2”")


def test_who_may_not_see_events_can_not_try(open_page, subscription):
    user = User.objects.create_user("clerk", is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(codename__in=["change_subscription", "view_subscription"])
    )
    subscription.rules.create(event_type="*")
    page = open_page(user)
    page.goto(change_page(subscription))
    expect(rules(page).get_by_role("button", name="Edit as JSON")).to_be_visible()
    expect(page.get_by_role("button", name="Try it on the last events")).to_have_count(0)


def test_without_scripts_the_rule_is_json_and_still_saved(browser, open_page, staff, subscription):
    page = open_page(staff, java_script_enabled=False)
    subscription.rules.create(event_type="shop.order.updated", conditions=PAID)
    page.goto(change_page(subscription))
    as_json(page).fill(json.dumps(TREE))
    page.get_by_role("button", name="Save", exact=True).click()
    assert stored() == TREE


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_builder_is_accessible_and_fits(
    open_page, staff, accessible, subscription, orders, width, theme
):
    shown = {"all": [*TREE["all"], {"field": "gone", "op": "in", "value": ["a"]}]}
    subscription.rules.update(event_type="shop.order.updated", conditions=shown)
    page = open_page(staff, width=width, theme=theme)
    page.goto(change_page(subscription))
    page.get_by_role("button", name="Try it on the last events").click()
    expect(page.get_by_role("region", name="Result")).to_contain_text("of the last 3 events")
    page.locator(".webhooks-tried summary").first.evaluate("each => each.parentElement.open = true")
    assert fits(page)
    for each in page.locator(".webhooks-builder button:visible").all():
        box = each.bounding_box()
        assert box["x"] + box["width"] <= width
    accessible(page)


class Keyboard:
    """Who has no mouse: Tab until the focus is there, then type."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def to(self, name: str, *, back: bool = False) -> None:
        for _ in range(120):
            self.page.keyboard.press("Shift+Tab" if back else "Tab")
            if self.focused() == name:
                return
        raise AssertionError(f"Tab does not lead to {name!r}")

    def is_at(self, name: str) -> None:
        assert self.focused() == name

    def type(self, text: str) -> None:
        self.page.keyboard.type(text)

    def press(self, name: str) -> None:
        self.to(name)
        self.page.keyboard.press("Enter")

    def focused(self) -> str:
        name: str = self.page.evaluate("""() => {
                const each = document.activeElement;
                const label = each.labels && each.labels[0] && each.labels[0].textContent;
                return (each.getAttribute("aria-label") || label || each.value || each.textContent)
                    .trim();
            }""")
        return name
