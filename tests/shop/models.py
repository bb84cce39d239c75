"""Models that bring up each case of capture: relations, proxies, inheritance, odd fields."""

import uuid

from django.conf import settings
from django.db import models


class Customer(models.Model):
    name = models.CharField(max_length=100)
    email = models.EmailField(blank=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    class Status(models.TextChoices):
        PENDING = "pending"
        PAID = "paid"
        SHIPPED = "shipped"

    number = models.CharField(max_length=20, default="")
    status = models.CharField(max_length=20, choices=Status.choices, default=Status.PENDING)
    total = models.DecimalField(max_digits=10, decimal_places=2, default=0)
    customer = models.ForeignKey(Customer, null=True, on_delete=models.CASCADE)
    note = models.TextField(blank=True)

    def __str__(self) -> str:
        return self.number


class RushOrder(Order):
    class Meta:
        proxy = True


class Item(models.Model):
    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="items")
    sku = models.CharField(max_length=20)

    def __str__(self) -> str:
        return self.sku


class Place(models.Model):
    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Restaurant(Place):
    stars = models.IntegerField(default=0)


class Country(models.Model):
    """Its primary key is given, so only the database knows whether a save creates."""

    code = models.CharField(max_length=2, primary_key=True)
    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.code


class Page(models.Model):
    """Its primary key may be longer than an Event can hold."""

    url = models.CharField(max_length=500, primary_key=True)

    def __str__(self) -> str:
        return self.url


class Gadget(models.Model):
    """One field of each kind."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    at = models.DateTimeField(null=True)
    on = models.DateField(null=True)
    time = models.TimeField(null=True)
    took = models.DurationField(null=True)
    price = models.DecimalField(max_digits=8, decimal_places=3, null=True)
    ratio = models.FloatField(null=True)
    count = models.IntegerField(null=True)
    good = models.BooleanField(null=True)
    meta = models.JSONField(null=True)
    file = models.FileField(null=True, blank=True)
    blob = models.BinaryField(null=True)
    ref = models.UUIDField(null=True)
    tags = models.ManyToManyField(Country)
    api_key = models.CharField(max_length=20, default="")

    def __str__(self) -> str:
        return str(self.pk)


class Unheard(models.Model):
    """Nobody registered it."""

    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class UnheardChild(models.Model):
    parent = models.ForeignKey(Unheard, on_delete=models.CASCADE)

    def __str__(self) -> str:
        return str(self.parent_id)
