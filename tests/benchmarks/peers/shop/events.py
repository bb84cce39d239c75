"""For django-outbound-webhooks, which is told of events by hand."""

from dataclasses import dataclass

from django_domain_events import event


@event(name="shop.OrderPlaced")
@dataclass(frozen=True, slots=True)
class OrderPlaced:
    id: int
    number: str
    status: str
    total: str
    customer: str
    email: str
