"""`path("webhooks/", include("django_webhooks.api.urls"))`"""

from rest_framework.routers import SimpleRouter

from django_webhooks.api import views

app_name = "django_webhooks"

router = SimpleRouter()
router.register("subscriptions", views.SubscriptionViewSet, "subscription")
router.register("deliveries", views.DeliveryViewSet, "delivery")
router.register("event-types", views.EventTypeViewSet, "event-type")
router.register("rules", views.RuleViewSet, "rule")

urlpatterns = router.urls
