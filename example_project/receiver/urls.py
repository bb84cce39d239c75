from django.urls import path

from . import views

app_name = "receiver"
urlpatterns = [
    path("", views.arrivals, name="arrivals"),
    path("arrivals.json", views.arrivals_json, name="arrivals-json"),
    path("hook/", views.hook, name="hook"),
    path("secrets/", views.secrets, name="secrets"),
]
