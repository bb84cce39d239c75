"""`path("webhooks/", include("django_webhooks.api.urls"))`"""

from typing import Any

from rest_framework.routers import DefaultRouter

from django_webhooks.api import views


def make_router(viewsets: Any) -> DefaultRouter:
    """The endpoints of the contract, by the views of this module or class."""

    class Router(DefaultRouter):
        APIRootView = viewsets.RootView
        include_format_suffixes = False

    router = Router()
    router.register("subscriptions", viewsets.SubscriptionViewSet, "subscription")
    router.register("deliveries", viewsets.DeliveryViewSet, "delivery")
    router.register("event-types", viewsets.EventTypeViewSet, "event-type")
    router.register("rules", viewsets.RuleViewSet, "rule")
    return router


app_name = "django_webhooks"

router = make_router(views)

urlpatterns = router.urls
