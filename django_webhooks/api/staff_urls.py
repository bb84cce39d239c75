"""`path("staff/webhooks/", include("django_webhooks.api.staff_urls"))`"""

from django_webhooks.api import staff
from django_webhooks.api.urls import make_router

app_name = "django_webhooks_staff"

router = make_router(staff)

urlpatterns = router.urls
