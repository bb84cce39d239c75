"""Placing an order: several rows and two kinds of event, in one transaction."""

from collections.abc import Mapping
from decimal import Decimal

from django.db import transaction

from django_webhooks.outbox import publish

from .models import Customer, Order, Product
from .serializers import OrderSerializer


@transaction.atomic
def place(customer: Customer, basket: Mapping[Product, int]) -> Order:
    """An order of what is in the basket: each product with its quantity. `OutOfStock`."""
    total = sum((product.price * count for product, count in basket.items()), Decimal(0))
    # This save is "shop.order.created": captured without a word here, before the items exist.
    order = Order.objects.create(number=_next_number(), customer=customer, total=total)
    for product, count in basket.items():
        product.take(count)
        order.items.create(sku=product.sku, quantity=count, price=product.price)
    # And this tells of the whole, items included.
    publish("shop.order_placed", OrderSerializer(order).data, subject=order, owner=customer.user)
    return order


def _next_number() -> str:
    last = Order.objects.order_by("-id").values_list("id", flat=True).first() or 0
    return f"A-{1001 + last}"
