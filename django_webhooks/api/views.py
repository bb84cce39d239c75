"""The endpoints by which the project's own customers manage their webhooks.

Whom a request acts for, and what it may see, is said by `base.OwnedView`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, connections, transaction
from django.db.models import Exists, F, OuterRef, Prefetch, QuerySet
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from rest_framework import mixins, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import APIRootView
from rest_framework.serializers import BaseSerializer
from rest_framework.viewsets import GenericViewSet, ViewSet

from django_webhooks import fanout, outbox
from django_webhooks.api import preconditions, serializers
from django_webhooks.api.base import FromSetting, OwnedView
from django_webhooks.api.errors import Conflict, KeyReused
from django_webhooks.api.pagination import Ordering, Pages
from django_webhooks.conf import settings
from django_webhooks.models import Attempt, Delivery, Rule, Subscription
from django_webhooks.outbox import MOST_AT_ONCE
from django_webhooks.registry import registry

LOCKED = gettext_lazy("It was disabled by those who run this site: ask them.")
NO_STORE = {"Cache-Control": "no-store"}
"""For answers with a secret."""


class RootView(OwnedView, APIRootView):
    """Where to go from here."""


class SubscriptionViewSet(
    OwnedView,
    mixins.ListModelMixin,
    GenericViewSet[Subscription],
):
    """Subscriptions with their rules. The secret is in the answers to create and rotate only.

    Who sends back the `ETag` of what was read as `If-Match` changes nothing that another has
    changed since (RFC 9110, 13.1.1).
    """

    serializer_class = serializers.SubscriptionSerializer
    pagination_class = FromSetting("API_PAGINATION_CLASS", lambda: Pages)
    lookup_value_regex = "[^/]+"  # so that whatever is no id is refused here, as JSON
    new_serializer_class = serializers.NewSubscriptionSerializer
    filter_serializer_class: type[BaseSerializer[Any]] = serializers.SubscriptionFilterSerializer
    filter_backends = [Ordering]  # not the project's, which know nothing of what may be asked
    orderings = {"-created_at": ("-created_at", "-id"), "created_at": ("created_at", "id")}
    costly_actions = frozenset(
        {
            "create",
            "partial_update",
            "rotate_secret",
            "pause",
            "resume",
            "verify",
            "test",
            "recover",
        }
    )

    def get_queryset(self) -> QuerySet[Subscription]:
        rules = Prefetch("rules", Rule.objects.order_by("pk"))
        found = self.subscriptions().prefetch_related(rules)
        return self.filtered(found) if self.action == "list" else found

    def filtered(self, subscriptions: QuerySet[Subscription]) -> QuerySet[Subscription]:
        """As the query parameters ask."""
        parameters = self.filter_serializer_class(data=self.request.query_params.dict())
        parameters.is_valid(raise_exception=True)
        return subscriptions.filter(**parameters.validated_data)

    def get_serializer_class(self) -> type[BaseSerializer[Any]]:
        if self.action == "create":
            return self.new_serializer_class
        return super().get_serializer_class()

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The subscription, its rules and its secret.

        With an `Idempotency-Key`, whoever asks again gets the answer again, and no second one.
        """
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        wanted = preconditions.wanted_once(request, self.caller)
        made = self.made_before(wanted) or self.make_one(serializer, wanted)
        shown = self.get_serializer(made).data
        headers = NO_STORE | {"ETag": preconditions.etag_of(shown)}
        return Response(shown, status=status.HTTP_201_CREATED, headers=headers)

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        shown = self.get_serializer(self.get_object()).data
        etag = preconditions.etag_of(shown)
        if preconditions.is_known(request, etag):
            return Response(status=status.HTTP_304_NOT_MODIFIED, headers={"ETag": etag})
        return Response(shown, headers={"ETag": etag})

    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        with self.locked() as subscription:
            url = subscription.url
            serializer = self.get_serializer(subscription, data=request.data, partial=True)
            serializer.is_valid(raise_exception=True)
            serializer.save()
            if subscription.url != url and subscription.locked and not self.unlocks:
                raise Conflict(LOCKED)  # what was judged to be bad is not led elsewhere
            if subscription.url != url and self.verifies_endpoints:
                outbox.publish_challenge(subscription)
        return self.answer_with(subscription)

    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """What was still to be sent is cancelled."""
        # Not locked first: a worker that writes a result locks in the other order.
        subscription = self.get_object()
        self.check_match(subscription)
        subscription.delete()
        return Response(status=status.HTTP_204_NO_CONTENT)

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
        etag = preconditions.etag_of(self.shown(subscription))
        return Response(self.get_serializer(answer).data, headers=NO_STORE | {"ETag": etag})

    @action(detail=True, methods=["post"], serializer_class=serializers.DeliverySerializer)
    def test(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Sends a test event, past the rules. A subscription that is paused gets it later."""
        with self.locked() as subscription:  # or it might be deleted meanwhile
            delivery = outbox.publish_test(subscription)
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
        return self.answer_with(subscription)

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
            if subscription.locked and not self.unlocks:
                raise Conflict(LOCKED)
            if subscription.challenge:
                raise Conflict(
                    _("Its endpoint has to answer the challenge first: mend it, then POST verify/.")
                )
            subscription.resume(unlock=self.unlocks)
        return self.answer_with(subscription)

    @action(detail=True, methods=["post"], serializer_class=serializers.DeliverySerializer)
    def verify(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Sends another challenge to an endpoint that has not answered the one before."""
        with self.locked() as subscription:
            if subscription.locked and not self.unlocks:
                raise Conflict(LOCKED)
            if not subscription.challenge:
                raise Conflict(_("Its endpoint has nothing to answer."))
            delivery = outbox.publish_challenge(subscription)
        return Response(self.get_serializer(delivery).data, status=status.HTTP_202_ACCEPTED)

    @action(detail=True, methods=["post"], serializer_class=serializers.RecoverSerializer)
    def recover(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Sends again what has failed of the events in that time; `dry_run` only counts.

        Up to 10,000, the oldest first: where `count` says so many, ask again.
        """
        subscription = self.get_object()
        count = outbox.recover(subscription, most=MOST_AT_ONCE, **self.validated(request))
        return Response(self.get_serializer({"count": count}).data)

    def validated(self, request: Request) -> dict[str, Any]:
        """The body, as the action's serializer reads it."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    def made_before(self, wanted: preconditions.WantedOnce | None) -> Subscription | None:
        """What was made with this very `Idempotency-Key`; `KeyReused` if it was of another body."""
        if wanted is None:
            return None
        made = self.subscriptions().filter(pk=wanted.pk).first()
        if made is not None and made.request_digest != wanted.digest:
            raise KeyReused
        return made

    def make_one(
        self, serializer: BaseSerializer[Subscription], wanted: preconditions.WantedOnce | None
    ) -> Subscription:
        once = {"pk": wanted.pk, "request_digest": wanted.digest} if wanted else {}
        try:
            with transaction.atomic(using=self.using):
                return self.make(serializer, once)
        except IntegrityError:  # the same was asked for at the same time
            if made := self.made_before(wanted):
                return made
            if wanted and Subscription.objects.using(self.using).filter(pk=wanted.pk).exists():
                raise KeyReused from None  # its owner is another by now
            raise

    def make(self, serializer: BaseSerializer[Subscription], once: dict[str, Any]) -> Subscription:
        """One more of the owner's, within the quota, however many are asked for at once."""
        lock_owner(self.owner, self.using)
        subscription = serializer.save(owner=self.owner, **once)
        most = settings.MAX_SUBSCRIPTIONS_PER_OWNER
        if most is not None and self.subscriptions().count() > most:
            text = ngettext(
                "You may have %d subscription: delete the one there is first.",
                "You may have %d subscriptions: delete one first.",
                most,
            )
            raise Conflict(text % most)
        if self.verifies_endpoints:
            outbox.publish_challenge(subscription)
        return subscription

    unlocks = False
    """Whether what staff have disabled can be resumed."""

    @property
    def verifies_endpoints(self) -> bool:
        """Whether a URL that is written has to answer a challenge before it is sent anything."""
        return settings.VERIFY_ENDPOINTS

    @contextmanager
    def locked(self) -> Iterator[Subscription]:
        """The subscription of the URL, changed by nobody else until the block ends.

        `PreconditionFailed` if it is not the one that `If-Match` names.
        """
        found = self.get_object()
        with transaction.atomic(using=self.using):
            # Writing takes the lock on every database. SQLite has no SELECT FOR UPDATE, and
            # refuses to write in a transaction that began with a read, if another wrote since.
            self.subscriptions().filter(pk=found.pk).update(created_at=F("created_at"))
            subscription = self.get_object()
            self.check_match(subscription)
            yield subscription

    def check_match(self, subscription: Subscription) -> None:
        if "If-Match" in self.request.headers:
            etag = preconditions.etag_of(self.shown(subscription))
            preconditions.check_match(self.request, etag)

    def shown(self, subscription: Subscription) -> Any:
        """As it is read, whatever the serializer of this action is."""
        context = self.get_serializer_context()
        return type(self).serializer_class(subscription, context=context).data

    def answer_with(self, subscription: Subscription) -> Response:
        """The subscription as it is now."""
        shown = self.get_serializer(self.get_object()).data
        return Response(shown, headers={"ETag": preconditions.etag_of(shown)})


class DeliveryViewSet(
    OwnedView,
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    GenericViewSet[Delivery],
):
    """What was, or is to be, sent to the owner's subscriptions."""

    serializer_class = serializers.DeliverySerializer
    lookup_value_regex = "[^/]+"
    pagination_class = FromSetting("API_PAGINATION_CLASS", lambda: Pages)
    filter_backends = [Ordering]
    orderings = {"-created_at": ("-id",), "created_at": ("id",)}
    costly_actions = frozenset({"redeliver"})

    def deliveries(self) -> QuerySet[Delivery]:
        """All that this request may see."""
        # Ids and no subquery: a database that sees how few they are does not read all the others'.
        ids = list(self.subscriptions().values_list("pk", flat=True))
        return Delivery.objects.using(self.using).filter(subscription__in=ids)

    def get_queryset(self) -> QuerySet[Delivery]:
        found = self.deliveries().select_related("event")
        return self.filtered(found) if self.action == "list" else found

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
        parameters = serializers.DeliveryFilterSerializer(data=self.request.query_params.dict())
        parameters.is_valid(raise_exception=True)
        lookups = dict(parameters.validated_data)
        if "subscription" in lookups:
            get_object_or_404(self.subscriptions(), pk=lookups["subscription"])
        if "status_code" in lookups:
            answered = Attempt.objects.using(self.using).filter(
                delivery=OuterRef("pk"), status_code=lookups.pop("status_code")
            )
            deliveries = deliveries.filter(Exists(answered))
        heavy = ("event__data", "event__previous", "event__body")
        return deliveries.filter(**lookups).defer(*heavy)


class EventTypeViewSet(OwnedView, ViewSet):
    """What can be subscribed to. Of types that are not public an owner gets the own events."""

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        offered = registry.offered(for_owner=self.for_owner)
        return Response(serializers.EventTypeSerializer(offered, many=True).data)


class RuleViewSet(OwnedView, GenericViewSet[Rule]):
    """Rules are written with their subscription; here they are tried."""

    serializer_class = serializers.RuleSerializer
    costly_actions = frozenset({"preview"})

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
        return Response(serializers.PreviewSerializer(found).data)


def lock_owner(owner: Any, using: str) -> None:
    """Nobody else makes a subscription of this owner's until the transaction ends."""
    features = connections[using].features
    if features.has_select_for_update:
        # Not the owner's own type: a session's user is a lazy object.
        model = Subscription.owner.field.related_model
        rows = model._base_manager.using(using).filter(pk=owner.pk)
        no_key = features.has_select_for_no_key_update  # or whoever refers to it would wait, too
        list(rows.select_for_update(no_key=no_key).values_list("pk"))
    else:  # SQLite: whoever writes holds the lock for all
        Subscription.objects.using(using).owned_by(owner).update(created_at=F("created_at"))
