from django import forms
from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from .models import Customer, Order, OutOfStock, Product
from .orders import place

SHOWN = 20


def storefront(request: HttpRequest) -> HttpResponse:
    form = BasketForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            order = place(form.cleaned_data["customer"], form.basket)
        except OutOfStock as error:
            messages.error(request, str(error))
        else:
            messages.success(request, f"Order {order} is placed.")
        return redirect("shop:storefront")
    orders = Order.objects.select_related("customer").prefetch_related("items")[:SHOWN]
    return render(request, "shop/storefront.html", {"form": form, "orders": orders})


@require_POST
def change_status(request: HttpRequest, number: str, status: str) -> HttpResponse:
    with transaction.atomic():
        order = get_object_or_404(Order, number=number)
        if status in order.next_statuses:
            order.status = status
            order.save()  # that is all: whoever subscribed is told after the commit
            messages.success(request, f"Order {order} is {order.get_status_display()}.")
        else:
            messages.error(request, f"Order {order} can't become {status} any more.")
    return redirect("shop:storefront")


class BasketForm(forms.Form):
    """A customer, and a quantity for each product."""

    customer = forms.ModelChoiceField(Customer.objects.order_by("pk"), empty_label=None)

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.products = {f"product-{each.pk}": each for each in Product.objects.all()}
        for name, product in self.products.items():
            self.fields[name] = forms.IntegerField(
                label=product.name, min_value=0, max_value=99, required=False, initial=0
            )

    @property
    def shelf(self) -> list[tuple[Product, forms.BoundField]]:
        return [(product, self[name]) for name, product in self.products.items()]

    @property
    def basket(self) -> dict[Product, int]:
        counts = ((each, self.cleaned_data[name] or 0) for name, each in self.products.items())
        return {product: count for product, count in counts if count}

    def clean(self) -> None:
        super().clean()
        if not self.errors and not self.basket:
            raise forms.ValidationError("Choose how many of at least one product.")
