"""What happened, told to whoever wants to know. All are sent after the commit.

A receiver that raises is logged and harms nobody (`send_robust`).
"""

from django.dispatch import Signal

# sender=Event, event: Event, using: str
event_published = Signal()

# sender=Delivery, delivery: Delivery, attempt: Attempt
delivery_succeeded = Signal()

# sender=Delivery, delivery: Delivery, attempt: Attempt | None
# Only when a delivery has finally failed; `attempt` is None when no request was possible.
delivery_failed = Signal()

# sender=Subscription, subscription: Subscription
# Once per incident: the endpoint keeps failing and is held back; it answers again.
subscription_failing = Signal()
subscription_recovered = Signal()

# sender=Subscription, subscription: Subscription, reason: str
subscription_disabled = Signal()
