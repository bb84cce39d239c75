from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

# Customers read of what is theirs; what staff can do is not listed among it.
for_customers = [path("webhooks/", include("django_webhooks.api.urls"))]

urlpatterns = [
    *for_customers,
    path("", include("shop.urls")),
    path("admin/", admin.site.urls),
    path("accounts/", include("rest_framework.urls")),
    path("staff/webhooks/", include("django_webhooks.api.staff_urls")),
    path("api/", SpectacularSwaggerView.as_view(url_name="schema"), name="api"),
    path("api/schema/", SpectacularAPIView.as_view(patterns=for_customers), name="schema"),
    # The receiver is a site of its own, as in real life.
    path("receiver/", RedirectView.as_view(url=settings.RECEIVER_PAGE), name="receiver"),
]
