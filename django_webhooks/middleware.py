"""Requests that a webhook caused: the header of hops counts for all that is saved meanwhile."""

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest

from django_webhooks import hops


class HopMiddleware:
    """Reads `webhook-hops`, so that a loop over a receiver ends at `MAX_HOPS`."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if iscoroutinefunction(self):
            return self._respond(request)
        with _counted(request):
            return self.get_response(request)

    async def _respond(self, request: HttpRequest) -> Any:
        with _counted(request):
            return await self.get_response(request)


def _counted(request: HttpRequest) -> Any:
    return hops.caused_by(hops.read_header(request.headers.get(hops.HEADER, "")))
