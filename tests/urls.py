from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView

urlpatterns = [
    path("schema/", SpectacularAPIView.as_view()),
    path("admin/", admin.site.urls),
    path("webhooks/", include("django_webhooks.api.urls")),
    path("staff/webhooks/", include("django_webhooks.api.staff_urls")),
]
