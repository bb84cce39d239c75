"""For django-webhooks, which looks for this file."""

from django_webhooks.registry import ModelWebhook, register
from shop.models import Order


@register(Order)
class OrderWebhook(ModelWebhook):
    fields = ["id", "number", "status", "total", "customer", "email"]
