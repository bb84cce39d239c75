"""How often a customer may ask for what costs a request to somebody, or a long search."""

from rest_framework.throttling import UserRateThrottle


class ManualThrottle(UserRateThrottle):
    """Test events, redeliveries and previews, per user; on top of the project's throttles."""

    scope = "django_webhooks"
    rate = "60/min"
