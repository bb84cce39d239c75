"""What is saved, and so told of."""

from django.db import models


class Order(models.Model):
    number = models.CharField(max_length=20)
    status = models.CharField(max_length=20)
    total = models.DecimalField(max_digits=10, decimal_places=2)
    customer = models.CharField(max_length=100)
    email = models.EmailField()

    def __str__(self) -> str:
        return self.number
