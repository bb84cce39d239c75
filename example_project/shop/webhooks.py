"""What the shop publishes. Found by itself, as `admin.py` is."""

from typing import Any

from django_webhooks.registry import EventType, ModelWebhook, register

from .models import Customer, Order
from .serializers import CustomerSerializer


@register(Order)
class OrderWebhook(ModelWebhook):
    """By fields: shop.order.created, shop.order.updated, shop.order.deleted."""

    fields = [
        "id",
        "number",
        "status",
        "total",
        "express",
        "placed_at",
        "customer.name",
        "customer.email",
    ]

    def get_owner(self, instance: Order) -> Any:
        return instance.customer.user


@register(Customer)
class CustomerWebhook(ModelWebhook):
    """By a serializer of Django REST framework. Deleting a customer tells nobody."""

    serializer_class = CustomerSerializer
    actions = ["created", "updated"]

    def get_owner(self, instance: Customer) -> Any:
        return instance.user


# By hand, with `publish()`: see orders.py and Product in models.py.
EventType(
    "shop.order_placed",
    description="An order was placed, with all its items.",
    example={
        "number": "A-1001",
        "status": "pending",
        "total": "29.80",
        "placed_at": "2026-11-24T10:00:00Z",
        "customer": {"id": 1, "name": "Ada Lovelace", "email": "ada@example.com"},
        "items": [{"sku": "TEA-GREEN", "quantity": 2, "price": "14.90"}],
    },
)
EventType(
    "shop.stock_low",
    description="Few of a product are left.",
    example={"sku": "TEA-GREEN", "left": 4},
)
