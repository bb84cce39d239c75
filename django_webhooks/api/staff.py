"""The same endpoints for staff, who manage everybody's webhooks: with the admin's permissions."""

from typing import Any

from django.apps import apps
from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from django_webhooks.api import views
from django_webhooks.api.base import OwnedView
from django_webhooks.api.serializers import (
    NewSubscriptionSerializer,
    SubscriptionSerializer,
)
from django_webhooks.conf import settings
from django_webhooks.models import Delivery, Subscription

MAY = {
    "list": "view",
    "retrieve": "view",
    "metadata": "view",
    "create": "add",
    "destroy": "delete",
}
"""What a user must be allowed to do with the model; to change it for all other actions."""


class StaffPermission(BasePermission):
    """Active staff who have the model permission for it. Rules belong to their subscription."""

    def has_permission(self, request: Request, view: Any) -> bool:
        verb = MAY.get(getattr(view, "action", None) or "list", view.other_actions)
        permission = f"django_webhooks.{verb}_{view.managed}"
        user: Any = request.user  # None for the anonymous, if the project has it so
        return bool(user and user.is_active and user.is_staff and user.has_perm(permission))


class StaffView(OwnedView):
    """A request acts for nobody in particular, and sees all."""

    permission_classes = [StaffPermission]
    managed = "subscription"
    other_actions = "change"
    for_owner = False

    def identify(self, request: Request) -> None:
        """Whoever was let in has the permission, and needs to own nothing."""

    @property
    def caller(self) -> str:
        return f"staff {self.request.user.pk}"

    def subscriptions(self) -> QuerySet[Subscription]:
        return Subscription.objects.using(self.using)


class RootView(StaffView, views.RootView):
    """Where to go from here."""


class OwnerField(serializers.PrimaryKeyRelatedField[Any]):
    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, float):  # which would be cut to a whole number, and be another's
            self.fail("incorrect_type", data_type="float")
        return super().to_internal_value(data)

    def get_queryset(self) -> Any:
        return apps.get_model(settings.OWNER_MODEL)._default_manager.all()


class StaffSubscriptionSerializer(SubscriptionSerializer):
    owner = serializers.PrimaryKeyRelatedField[Any](read_only=True, allow_null=True)

    class Meta(SubscriptionSerializer.Meta):
        fields = ["owner", *SubscriptionSerializer.Meta.fields]


class StaffNewSubscriptionSerializer(NewSubscriptionSerializer):
    """The owner is chosen once: what was sent to one is not handed to another."""

    owner = OwnerField(required=False, allow_null=True, default=None)

    class Meta(NewSubscriptionSerializer.Meta):
        fields = ["owner", *NewSubscriptionSerializer.Meta.fields]


class OwnerFilterField(OwnerField):
    def fail(self, key: str, **kwargs: Any) -> Any:
        if key == "does_not_exist":
            raise NotFound
        return super().fail(key, **kwargs)


class StaffSubscriptionFilterSerializer(serializers.ModelSerializer[Subscription]):
    """The query parameters of staff's list of subscriptions."""

    status = serializers.ChoiceField(choices=Subscription.Status.choices, required=False)
    owner = OwnerFilterField(required=False)

    class Meta:
        model = Subscription
        fields = ["status", "owner"]


class SubscriptionViewSet(StaffView, views.SubscriptionViewSet):
    """Everybody's, and nobody's. No quota, and no challenge: staff know what they do."""

    serializer_class = StaffSubscriptionSerializer
    new_serializer_class = StaffNewSubscriptionSerializer
    filter_serializer_class = StaffSubscriptionFilterSerializer
    verifies_endpoints = False
    unlocks = True

    @property
    def managed(self) -> str:  # type: ignore[override]
        """What is changed by recovering is deliveries, as in the admin."""
        return "delivery" if self.action == "recover" else "subscription"

    def make(self, serializer: Any, once: dict[str, Any]) -> Subscription:
        made: Subscription = serializer.save(**once)
        return made


class DeliveryViewSet(StaffView, views.DeliveryViewSet):
    """Those of deleted subscriptions, too."""

    managed = "delivery"

    def deliveries(self) -> QuerySet[Delivery]:
        return Delivery.objects.using(self.using)


class EventTypeViewSet(StaffView, views.EventTypeViewSet):
    """All event types."""


class RuleViewSet(StaffView, views.RuleViewSet):
    """Tried on everybody's events."""

    managed = "event"
    other_actions = "view"
