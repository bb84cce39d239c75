"""A small shop. Nothing here knows of webhooks but one call of `publish()`."""

from django.conf import settings
from django.db import models
from django.utils import timezone

from django_webhooks.outbox import publish


class Customer(models.Model):
    name = models.CharField(max_length=100)
    email = models.EmailField()
    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL
    )

    def __str__(self) -> str:
        return self.name


class OutOfStock(Exception):
    """There are fewer left than were ordered."""


class Product(models.Model):
    LOW = 5

    sku = models.CharField("SKU", max_length=20, unique=True)
    name = models.CharField(max_length=100)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    stock = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def take(self, quantity: int) -> None:
        """From the shelf; `OutOfStock` if that many are not there."""
        left = Product.objects.filter(pk=self.pk, stock__gte=quantity)
        if not left.update(stock=models.F("stock") - quantity):
            raise OutOfStock(f"There are not {quantity} of {self.name} left.")
        self.refresh_from_db(fields=["stock"])
        if self.stock <= self.LOW < self.stock + quantity:
            self.report_low_stock()

    def report_low_stock(self) -> None:
        # An event that is no change of one row. It belongs to the transaction of the order:
        # if that is rolled back, nobody is told.
        publish("shop.stock_low", {"sku": self.sku, "left": self.stock}, subject=self)


class Order(models.Model):
    class Status(models.TextChoices):
        PENDING = "pending", "pending"
        PAID = "paid", "paid"
        SHIPPED = "shipped", "shipped"
        CANCELLED = "cancelled", "cancelled"

    number = models.CharField(max_length=20, unique=True)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="orders")
    status = models.CharField(max_length=20, choices=Status.choices, default=Status.PENDING)
    total = models.DecimalField(max_digits=10, decimal_places=2)
    express = models.BooleanField("express delivery", default=False)
    placed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.number

    @property
    def next_statuses(self) -> list["Order.Status"]:
        """What the order may become, with a button each."""
        following = {
            self.Status.PENDING: [self.Status.PAID, self.Status.CANCELLED],
            self.Status.PAID: [self.Status.SHIPPED, self.Status.CANCELLED],
        }
        return following.get(self.Status(self.status), [])


class Item(models.Model):
    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="items")
    sku = models.CharField("SKU", max_length=20)
    quantity = models.PositiveIntegerField()
    price = models.DecimalField(max_digits=8, decimal_places=2)

    def __str__(self) -> str:
        return f"{self.quantity} × {self.sku}"
