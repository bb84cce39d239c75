from django.urls import path

from . import views

app_name = "shop"
urlpatterns = [
    path("", views.storefront, name="storefront"),
    path("orders/<str:number>/<str:status>/", views.change_status, name="change-status"),
]
