"""How often a caller may ask, on top of the project's own throttles.

The rates are changed in `REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"]`, under each one's scope.
"""

from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import UserRateThrottle


class CallerThrottle(UserRateThrottle):
    """All requests, per user."""

    scope = "webhooks"
    default_rate = "600/min"

    def get_rate(self) -> str | None:
        rate: str | None = self.THROTTLE_RATES.get(self.scope, self.default_rate)
        return rate


class CostlyThrottle(CallerThrottle):
    """What costs a request to somebody, or a long search: sending, trying, writing."""

    scope = "webhooks_costly"
    default_rate = "60/min"

    def allow_request(self, request: Request, view: Any) -> bool:
        is_costly = getattr(view, "action", None) in view.costly_actions
        return not is_costly or super().allow_request(request, view)
