"""The shop publishes what it says, tested as any project can: with `capture_webhooks()`."""

from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import TestCase
from django.urls import reverse

from django_webhooks.models import Subscription
from django_webhooks.testing import capture_webhooks

from .models import Customer, Order, Product
from .orders import place


class ShopTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        call_command("seed", hook="http://127.0.0.1:8001/receiver/hook/", verbosity=0)
        cls.ada = Customer.objects.get(name="Ada Lovelace")
        cls.tea = Product.objects.get(sku="TEA-GREEN")
        cls.teapot = Product.objects.get(sku="TEAPOT")

    def order_by_form(self, **quantities):
        fields = {f"product-{Product.objects.get(sku=sku).pk}": n for sku, n in quantities.items()}
        form = {**fields, "customer": self.ada.pk}
        return self.client.post(reverse("shop:storefront"), form, follow=True)

    def mark(self, order, status):
        url = reverse("shop:change-status", args=[order.number, status])
        return self.client.post(url, follow=True)

    def test_the_storefront_takes_an_order_and_shows_it(self):
        page = self.order_by_form(CUP=2)
        self.assertContains(page, "Order A-1001 is placed.")
        self.assertContains(page, "2 × CUP")
        self.assertContains(page, "Mark as paid")

    def test_an_empty_basket_is_no_order(self):
        self.assertContains(self.order_by_form(CUP=0), "at least one product")
        assert not Order.objects.exists()

    def test_an_order_is_told_to_the_dashboard_and_with_its_items_to_the_warehouse(self):
        with capture_webhooks() as sent:
            place(self.ada, {self.tea: 2})
        told = {webhook.subscription.name: webhook for webhook in sent}
        assert sorted(told) == ["Dashboard", "Warehouse"]
        assert told["Dashboard"].type == "shop.order.created"
        assert told["Dashboard"].data["object"]["customer"] == {
            "name": "Ada Lovelace",
            "email": "ada@example.com",
        }
        assert told["Warehouse"].type == "shop.order_placed"
        assert told["Warehouse"].data["items"] == [
            {"sku": "TEA-GREEN", "quantity": 2, "price": "14.90"}
        ]

    def test_a_rule_may_ask_for_express_orders(self):
        urgent = Subscription.objects.create(name="Urgent", url="http://127.0.0.1:8001/x/")
        big = {"field": "total", "op": "gte", "value": 50}
        express = {"field": "express", "op": "eq", "value": True}
        paid = {"field": "status", "op": "changed_to", "value": "paid"}
        urgent.rules.create(
            event_type="shop.order.updated", conditions={"all": [paid, {"any": [big, express]}]}
        )
        small, fast = place(self.ada, {self.tea: 1}), place(self.ada, {self.tea: 1})
        Order.objects.filter(pk=fast.pk).update(express=True)
        with capture_webhooks() as sent:
            self.mark(small, "paid")
            self.mark(fast, "paid")
        urgently = [each for each in sent if each.subscription == urgent]
        assert [each.data["object"]["number"] for each in urgently] == [fast.number]

    def test_accounting_hears_of_payments_of_100_and_more_only(self):
        small, large = place(self.ada, {self.tea: 1}), place(self.ada, {self.teapot: 2})
        with capture_webhooks() as sent:
            self.mark(small, "paid")
            self.mark(large, "paid")
        told = [
            each.data["object"]["number"] for each in sent if str(each.subscription) == "Accounting"
        ]
        assert told == [large.number]

    def test_an_order_does_not_go_back(self):
        order = place(self.ada, {self.tea: 1})
        self.assertContains(self.mark(order, "shipped"), "become shipped any more")

    def test_low_stock_is_told_once_it_is_reached(self):
        with capture_webhooks() as sent:
            place(self.ada, {self.teapot: 2})
            place(self.ada, {self.teapot: 1})
        low = [each.data for each in sent if each.type == "shop.stock_low"]
        assert low == [{"sku": "TEAPOT", "left": 5}]

    def test_an_order_that_fails_tells_nobody(self):
        with capture_webhooks() as sent:
            page = self.order_by_form(**{"TEA-GREEN": 1, "TEAPOT": 99})
        self.assertContains(page, "There are not 99 of Teapot, cast iron left.")
        assert (list(Order.objects.all()), sent) == ([], [])

    def test_the_admin_shows_every_model_and_publishes_low_stock(self):
        self.client.force_login(User.objects.get(username="admin"))
        place(self.ada, {self.tea: 1})
        for page in ["index", "shop_order_changelist", "shop_customer_add", "shop_product_add"]:
            assert self.client.get(reverse(f"admin:{page}")).status_code == 200, page
        action = {"action": "report_low_stock", "_selected_action": [self.tea.pk]}
        with capture_webhooks() as sent:
            self.client.post(reverse("admin:shop_product_changelist"), action)
        assert [each.data for each in sent] == [{"sku": "TEA-GREEN", "left": 39}]

    def test_the_api_and_the_receiver_are_linked(self):
        self.client.force_login(self.ada.user)
        assert self.client.get("/webhooks/subscriptions/").status_code == 200
        self.assertRedirects(
            self.client.get("/receiver/"),
            "http://127.0.0.1:8001/receiver/",
            fetch_redirect_response=False,
        )

    def test_the_api_is_described_on_a_page_that_loads_nothing_from_elsewhere(self):
        page = self.client.get("/api/")
        assert page.status_code == 200
        assert b"/static/drf_spectacular_sidecar/" in page.content
        assert b"https://" not in page.content
        schema = self.client.get("/api/schema/").content
        assert b"shop.order.created" in schema
        assert b"/staff/" not in schema
