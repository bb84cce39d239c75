"""Whom a request acts for, and how the endpoints fit into a project's REST framework."""

from collections.abc import Callable
from typing import Any

from django.core.exceptions import ObjectDoesNotExist, RequestDataTooBig
from django.db import router
from django.db.models import QuerySet
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.views import APIView

from django_webhooks.api.errors import TooLarge
from django_webhooks.api.parsers import JSONParser
from django_webhooks.api.throttling import CallerThrottle, CostlyThrottle
from django_webhooks.conf import settings
from django_webhooks.models import Subscription


class FromSetting:
    """An attribute of DRF's views that a setting of ours may name; read when it is used.

    A subclass that sets the attribute itself goes before both.
    """

    def __init__(self, key: str, default: Callable[[], Any]) -> None:
        self.key = key
        self.default = default

    def __get__(self, view: Any, view_class: type[Any]) -> Any:
        named = settings.classes_of_api(self.key)
        return self.default() if named is None else named


class OwnedView(APIView):
    """A request acts for one owner, and sees and changes nothing but what is this owner's.

    What is another's is not there (404).
    """

    authentication_classes = FromSetting(
        "API_AUTHENTICATION_CLASSES", lambda: api_settings.DEFAULT_AUTHENTICATION_CLASSES
    )
    permission_classes = FromSetting("API_PERMISSION_CLASSES", lambda: [IsAuthenticated])
    throttle_classes = FromSetting(
        "API_THROTTLE_CLASSES",
        lambda: [*api_settings.DEFAULT_THROTTLE_CLASSES, CallerThrottle, CostlyThrottle],
    )
    renderer_classes = FromSetting(
        "API_RENDERER_CLASSES", lambda: api_settings.DEFAULT_RENDERER_CLASSES
    )
    versioning_class = FromSetting(
        "API_VERSIONING_CLASS", lambda: api_settings.DEFAULT_VERSIONING_CLASS
    )
    parser_classes = [JSONParser]

    costly_actions: frozenset[str] = frozenset()
    """Those that `CostlyThrottle` counts."""

    owner: Any = None
    """Whose request it is, once it has been let in; until then nobody's."""

    def get_owner_for_request(self, request: Request) -> Any:
        """An instance of `OWNER_MODEL`; anything else, such as None, is answered with 403.

        As the setting `GET_OWNER_FOR_REQUEST` says, or else the user.
        """
        hook = settings.GET_OWNER_FOR_REQUEST
        return import_string(hook)(request) if hook else request.user

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        self.identify(request)

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, RequestDataTooBig):  # found by Django, which answers in HTML
            exc = TooLarge()
        return super().handle_exception(exc)

    def identify(self, request: Request) -> None:
        """Sets the owner of a request that was let in; `PermissionDenied` if it has none."""
        try:
            self.owner = self.get_owner_for_request(request)
        except ObjectDoesNotExist:  # a user without a company, say
            self.owner = None
        known = isinstance(self.owner, Subscription.owner.field.related_model)
        if not known or self.owner.pk is None:  # one that was not saved owns nothing
            self.permission_denied(request, message=_("You can't have webhooks."))

    @property
    def using(self) -> str:
        """The database that is written to, for reading, too: an answer is never an old one."""
        return router.db_for_write(Subscription)

    @property
    def caller(self) -> str:
        """Whose `Idempotency-Key` it is."""
        return str(self.owner.pk)

    def subscriptions(self) -> QuerySet[Subscription]:
        """All that this request may see or change."""
        return Subscription.objects.using(self.using).owned_by(self.owner)

    for_owner = True
    """Whether only the event types are offered that reach owners."""
