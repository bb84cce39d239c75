from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", include("shop.urls")),
    path("admin/", admin.site.urls),
    path("accounts/", include("rest_framework.urls")),
    path("webhooks/", include("django_webhooks.api.urls")),
    # The receiver is a site of its own, as in real life.
    path("receiver/", RedirectView.as_view(url=settings.RECEIVER_PAGE), name="receiver"),
]
