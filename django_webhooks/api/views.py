"""The endpoints by which the project's own customers manage their webhooks.

Each request acts for one owner, and sees and changes nothing but what is this owner's: what is
another's is not there (404).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.db import router, transaction
from django.db.models import Exists, OuterRef, Prefetch, QuerySet
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework import mixins, status
from rest_framework.decorators import action
from rest_framework.exceptions import APIException
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.throttling import BaseThrottle
from rest_framework.viewsets import GenericViewSet, ViewSet

from django_webhooks import fanout, outbox
from django_webhooks.api import serializers
from django_webhooks.api.pagination import DeliveryPages, Pages
from django_webhooks.api.parsers import JSONParser
from django_webhooks.api.throttling import ManualThrottle
from django_webhooks.models import Attempt, Delivery, Rule, Subscription
from django_webhooks.registry import registry

SHOWN_EVENTS = 100
"""Events in the answer to a preview; all that matched are counted."""

NO_STORE = {"Cache-Control": "no-store"}
"""For answers with a secret."""


class Conflict(APIException):
    """The object is there, but not in a state for this."""

    status_code = status.HTTP_409_CONFLICT
    default_code = "conflict"


class OwnerMixin(ViewSet):
    """Whom a request acts for, and what holds for each endpoint."""

    permission_classes = [IsAuthenticated]
    parser_classes = [JSONParser]
    limited_actions = frozenset(
        {"create", "partial_update", "pause", "resume", "test", "redeliver", "recover", "preview"}
    )

    owner: Any = None
    """Whose request it is, once it has been let in; until then nobody's."""

    def get_owner(self) -> Any:
        """An instance of `OWNER_MODEL`; override it where that is not the user. None: 403."""
        return self.request.user

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        self.owner = self.get_owner()
        if not isinstance(self.owner, Subscription.owner.field.related_model):
            self.permission_denied(request, message=_("You can't have webhooks."))

    def get_throttles(self) -> list[BaseThrottle]:
        throttles = list(super().get_throttles())
        return [*throttles, ManualThrottle()] if self.action in self.limited_actions else throttles

    @property
    def using(self) -> str:
        """The database that is written to, for reading, too: an answer is never an old one."""
        return router.db_for_write(Subscription)

    def owned_subscriptions(self) -> QuerySet[Subscription]:
        return Subscription.objects.using(self.using).owned_by(self.owner)


class SubscriptionViewSet(
    OwnerMixin,
    mixins.CreateModelMixin,
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    mixins.DestroyModelMixin,
    GenericViewSet[Subscription],
):
    """Subscriptions with their rules. The secret is in the answers to create and rotate only."""

    serializer_class = serializers.SubscriptionSerializer
    pagination_class = Pages
    filter_backends = []  # not the project's, which know nothing of what may be asked
    max_subscriptions = 20
    """Per owner; more can be made by staff only."""

    def get_queryset(self) -> QuerySet[Subscription]:
        rules = Prefetch("rules", Rule.objects.order_by("pk"))
        return self.owned_subscriptions().prefetch_related(rules)

    def get_serializer_class(self) -> type[BaseSerializer[Any]]:
        if self.action == "create":
            return serializers.NewSubscriptionSerializer
        return super().get_serializer_class()

    def get_success_headers(self, data: Any) -> dict[str, str]:
        return NO_STORE

    def perform_create(self, serializer: BaseSerializer[Subscription]) -> None:
        if self.owned_subscriptions().count() >= self.max_subscriptions:
            raise Conflict(
                _("You have %d subscriptions, which is the most: delete one first.")
                % self.max_subscriptions
            )
        with transaction.atomic(using=self.using):
            serializer.save(owner=self.owner)

    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        with self.locked() as subscription:
            serializer = self.get_serializer(subscription, data=request.data, partial=True)
            serializer.is_valid(raise_exception=True)
            serializer.save()
        return self.retrieve(request)

    @action(
        detail=True,
        methods=["post"],
        url_path="rotate-secret",
        serializer_class=serializers.RotateSecretSerializer,
    )
    def rotate_secret(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """A new secret. The one before still signs, too, for `overlap` seconds."""
        with self.locked() as subscription:
            overlap = timedelta(seconds=self.validated(request)["overlap"])
            answer = {
                "secret": subscription.rotate_secret(overlap=overlap),
                "previous_expires_at": subscription.old_secret_expires_at(),
            }
        return Response(self.get_serializer(answer).data, headers=NO_STORE)

    @action(detail=True, methods=["post"], serializer_class=serializers.DeliverySerializer)
    def test(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Sends a test event, past the rules. A subscription that is paused gets it later."""
        delivery = outbox.publish_test(self.get_object())
        return Response(self.get_serializer(delivery).data, status=status.HTTP_202_ACCEPTED)

    @action(detail=True, methods=["post"])
    def pause(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Nothing is sent, and no new event is matched, until it is resumed."""
        with self.locked() as subscription:
            if subscription.status != Subscription.Status.ACTIVE:
                raise Conflict(
                    _("Only an active subscription can be paused; this one is %s.")
                    % subscription.get_status_display()
                )
            subscription.pause()
        return self.retrieve(request)

    @action(detail=True, methods=["post"])
    def resume(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Active again, after a pause or once what disabled it is mended."""
        with self.locked() as subscription:
            if subscription.status not in (
                Subscription.Status.PAUSED,
                Subscription.Status.DISABLED,
            ):
                raise Conflict(
                    _("Only what is paused or disabled can be resumed; this one is %s.")
                    % subscription.get_status_display()
                )
            subscription.resume()
        return self.retrieve(request)

    @action(detail=True, methods=["post"], serializer_class=serializers.RecoverSerializer)
    def recover(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Sends again what has failed of the events since then; `dry_run` only counts."""
        subscription = self.get_object()
        count = outbox.recover(subscription, **self.validated(request))
        return Response(self.get_serializer({"count": count}).data)

    def validated(self, request: Request) -> dict[str, Any]:
        """The body, as the action's serializer reads it."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    @contextmanager
    def locked(self) -> Iterator[Subscription]:
        """The subscription of the URL, changed by nobody else until the block ends."""
        found = self.get_object()
        with transaction.atomic(using=self.using):
            # Writing takes the lock on every database. SQLite has no SELECT FOR UPDATE, and
            # refuses to write in a transaction that began with a read, if another wrote since.
            self.owned_subscriptions().filter(pk=found.pk).update(updated_at=timezone.now())
            yield self.get_object()


class DeliveryViewSet(
    OwnerMixin,
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    GenericViewSet[Delivery],
):
    """What was, or is to be, sent to the owner's subscriptions."""

    serializer_class = serializers.DeliverySerializer
    pagination_class = DeliveryPages
    filter_backends = []  # not the project's, which know nothing of what may be asked

    def get_queryset(self) -> QuerySet[Delivery]:
        deliveries = Delivery.objects.using(self.using).select_related("event")
        # Ids and no subquery: a database that sees how few they are does not read all the others'.
        ids = list(self.owned_subscriptions().values_list("pk", flat=True))
        owned = deliveries.filter(subscription__in=ids)
        return self.filtered(owned) if self.action == "list" else owned

    def get_serializer_class(self) -> type[BaseSerializer[Any]]:
        if self.action == "retrieve":
            return serializers.DeliveryDetailSerializer
        return super().get_serializer_class()

    @action(detail=True, methods=["post"])
    def redeliver(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Sends it again: the same event, the same bytes, a new round of attempts."""
        if not outbox.redeliver([self.get_object()]):
            raise Conflict(_("It is being sent right now: wait for the outcome."))
        answer = self.get_serializer(self.get_object())
        return Response(answer.data, status=status.HTTP_202_ACCEPTED)

    def filtered(self, deliveries: QuerySet[Delivery]) -> QuerySet[Delivery]:
        """As the query parameters ask, and without the columns that a list does not show."""
        parameters = serializers.DeliveryFilterSerializer(data=self.request.query_params)
        parameters.is_valid(raise_exception=True)
        lookups = dict(parameters.validated_data)
        if "subscription" in lookups:
            get_object_or_404(self.owned_subscriptions(), pk=lookups["subscription"])
        if "status_code" in lookups:
            answered = Attempt.objects.using(self.using).filter(
                delivery=OuterRef("pk"), status_code=lookups.pop("status_code")
            )
            deliveries = deliveries.filter(Exists(answered))
        heavy = ("event__data", "event__previous", "event__body")
        return deliveries.filter(**lookups).defer(*heavy)


class EventTypeViewSet(OwnerMixin):
    """What can be subscribed to. Of types that are not public an owner gets the own events."""

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return Response(serializers.EventTypeSerializer(registry.types, many=True).data)


class RuleViewSet(OwnerMixin, GenericViewSet[Rule]):
    """Rules are written with their subscription; here they are tried."""

    serializer_class = serializers.RuleSerializer

    @action(detail=False, methods=["post"])
    def preview(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Which of the owner's recent events the rule would have fired on."""
        rule = self.get_serializer(data=request.data)
        rule.is_valid(raise_exception=True)
        found = fanout.preview(
            rule.validated_data["event_type"],
            rule.validated_data["conditions"],
            owner=self.owner,
            using=self.using,
        )
        answer = {
            "checked": found.checked,
            "matched": found.matched,
            "events": found.events[:SHOWN_EVENTS],
        }
        return Response(serializers.PreviewSerializer(answer).data)
