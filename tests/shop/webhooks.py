from django_webhooks.registry import EventType, ModelWebhook, register
from tests.shop.models import Country, Customer, Gadget, Item, Order, Place


@register(Order)
class OrderWebhook(ModelWebhook):
    fields = ["id", "number", "status", "total", "customer.name", "customer.email"]

    def get_owner(self, instance: Order):
        return instance.customer.user if instance.customer else None


@register(Item)
class ItemWebhook(ModelWebhook):
    fields = ["id", "sku", "order", "order.number"]
    public = True


@register(Customer)
class CustomerWebhook(ModelWebhook):
    fields = ["id", "name"]
    event_prefix = "crm.customer"
    actions = ["created", "deleted"]


@register(Place)
class PlaceWebhook(ModelWebhook):
    fields = ["id", "name"]


@register(Country)
class CountryWebhook(ModelWebhook):
    fields = ["code", "name"]


@register(Gadget)
class GadgetWebhook(ModelWebhook):
    fields = "__all__"
    keep_events = True


EventType("billing.invoice_paid", description="An invoice was paid.", example={"invoice": 7})
EventType("billing.notice", public=True)
