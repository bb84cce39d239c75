from typing import Any

from django import forms
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from django_webhooks import signing
from django_webhooks.exceptions import SecretError, SignatureError

from .models import Arrival, Secret

SHOWN = 25


@csrf_exempt
@require_POST
def hook(request: HttpRequest) -> HttpResponse:
    """All that a receiver must do: verify the bytes as they came, keep them, answer quickly.

    `?answer=503` makes it answer so: to see what the sender does then.
    """
    secrets = list(Secret.objects.values_list("value", flat=True))
    problem = event_type = ""
    try:
        event_type = signing.verify(secrets, request.headers, request.body).type
    except SignatureError as error:
        problem = str(error)
    Arrival.objects.create(
        path=request.get_full_path(),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=request.body,
        event_id=request.headers.get("webhook-id", "")[:255],
        event_type=event_type[:200],
        problem=problem,
    )
    if problem:
        return HttpResponse(problem, status=401, content_type="text/plain")
    answer = request.GET.get("answer", "")
    known = answer.isdigit() and 200 <= int(answer) <= 599
    return HttpResponse(status=int(answer) if known else 204)


def arrivals(request: HttpRequest) -> HttpResponse:
    context = {
        "arrivals": Arrival.objects.with_repeats()[:SHOWN],
        "shown": SHOWN,
        "count": Arrival.objects.count(),
        "live": "pause" not in request.GET,
        "hook": request.build_absolute_uri(reverse("receiver:hook")),
        "trusts": Secret.objects.exists(),
        "site": settings.SITE_PAGE,
    }
    return render(request, "receiver/arrivals.html", context)


def arrivals_json(request: HttpRequest) -> JsonResponse:
    """The same for programs; `make demo` asks here whether its order has arrived."""
    return JsonResponse({"arrivals": [_as_json(each) for each in Arrival.objects.all()[:SHOWN]]})


def secrets(request: HttpRequest) -> HttpResponse:
    form = SecretForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        Secret.objects.get_or_create(value=form.cleaned_data["secret"])
        return redirect("receiver:secrets")
    context = {"form": form, "secrets": Secret.objects.order_by("-id"), "site": settings.SITE_PAGE}
    return render(request, "receiver/secrets.html", context)


class SecretForm(forms.Form):
    secret = forms.CharField(
        max_length=120,
        widget=forms.TextInput(attrs={"placeholder": "whsec_…", "autocomplete": "off"}),
    )

    def clean_secret(self) -> str:
        secret: str = self.cleaned_data["secret"]
        try:
            signing.decode_secret(secret)
        except SecretError as error:
            raise forms.ValidationError(str(error)) from error
        return secret


def _as_json(arrival: Arrival) -> dict[str, Any]:
    return {
        "received_at": arrival.received_at,
        "path": arrival.path,
        "headers": arrival.headers,
        "body": arrival.pretty_body,
        "type": arrival.event_type,
        "verified": arrival.verified,
        "problem": arrival.problem,
    }
