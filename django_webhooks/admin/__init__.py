"""The admin: staff make subscriptions with their rules, and see what was delivered, and why not.

`subscriptions` is the one page that writes; `deliveries` and `events` only show, and call the
verbs of `outbox` and `fanout`; `overview` is a page without a table. What they
have in common is in `base` and `display`.
"""

from django.contrib import admin

from django_webhooks.admin.deliveries import DeliveryAdmin
from django_webhooks.admin.events import EventAdmin
from django_webhooks.admin.overview import Overview, OverviewAdmin
from django_webhooks.admin.subscriptions import SubscriptionAdmin
from django_webhooks.models import Delivery, Event, Subscription

admin.site.register(Subscription, SubscriptionAdmin)
admin.site.register(Delivery, DeliveryAdmin)
admin.site.register(Event, EventAdmin)
admin.site.register(Overview, OverviewAdmin)

__all__ = ["DeliveryAdmin", "EventAdmin", "OverviewAdmin", "SubscriptionAdmin"]
