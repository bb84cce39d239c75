"""A project whose webhooks belong to companies: made, migrated and called as its users do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FILES = {
    "settings.py": """
from tests.settings import *
INSTALLED_APPS = [each for each in INSTALLED_APPS if each != "tests.shop"] + ["accounts"]
ROOT_URLCONF = "urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3",
                         "OPTIONS": {"transaction_mode": "IMMEDIATE"}}}
DJANGO_WEBHOOKS = {
    "TASK_BACKEND": "django_webhooks.backends.dummy.DummyBackend",
    "OWNER_MODEL": "accounts.Company",
    "GET_OWNER_FOR_REQUEST": "accounts.webhooks.get_owner_for_request",
}
""",
    "urls.py": """
from django.contrib import admin
from django.urls import include, path
urlpatterns = [
    path("admin/", admin.site.urls),
    path("webhooks/", include("django_webhooks.api.urls")),
]
""",
    "accounts/__init__.py": "",
    "accounts/models.py": """
import uuid
from django.conf import settings
from django.db import models


class Company(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=50)


class Member(models.Model):
    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    company = models.ForeignKey(Company, on_delete=models.CASCADE)


class Invoice(models.Model):
    company = models.ForeignKey(Company, on_delete=models.CASCADE)
""",
    "accounts/webhooks.py": """
from django_webhooks.registry import ModelWebhook, register
from accounts.models import Invoice


@register(Invoice)
class InvoiceWebhook(ModelWebhook):
    fields = ["id", "company"]

    def get_owner(self, instance):
        return instance.company


def get_owner_for_request(request):
    return request.user.member.company
""",
    "work.py": """
import json, django
django.setup()
from django.contrib.auth.models import User
from rest_framework.test import APIClient
from accounts.models import Company, Invoice, Member
from django_webhooks.fanout import fan_out
from django_webhooks.models import Delivery

one, two = (Company.objects.create(name=name) for name in "ab")
clients = {}
for name, company in {"ann": one, "abe": one, "bo": two, "nobody": None}.items():
    user = User.objects.create_user(name)
    if company:
        Member.objects.create(user=user, company=company)
    clients[name] = APIClient()
    clients[name].force_authenticate(user)


def ask(name, method, path, body=None):
    answer = getattr(clients[name], method)("/webhooks/" + path, body, format="json")
    return answer.status_code, answer.json()


def rows_of(name):
    return ask(name, "get", "subscriptions/")[1]["results"]


body = {"url": "https://example.com/", "rules": [{"event_type": "accounts.invoice.*"}]}
made = ask("ann", "post", "subscriptions/", body)
Invoice.objects.create(company=two)
Invoice.objects.create(company=one)
fan_out("default")
print(json.dumps({
    "made": made[0],
    "colleague": [row["id"] == made[1]["id"] for row in rows_of("abe")],
    "other": rows_of("bo"),
    "nobody": ask("nobody", "get", "subscriptions/")[0],
    "delivered": [each.event.owner.name for each in Delivery.objects.all()],
    "again": ask("ann", "get", "subscriptions/" + made[1]["id"] + "/")[0],
}))
""",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(project: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env={
            "PYTHONPATH": ":".join([str(project), *sys.path]),
            "DJANGO_SETTINGS_MODULE": "settings",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_webhooks_can_belong_to_companies(project: Path) -> None:
    run(project, "-m", "django", "makemigrations", "accounts")
    run(project, "-m", "django", "migrate")
    run(project, "-m", "django", "makemigrations", "--check")
    assert json.loads(run(project, "work.py").splitlines()[-1]) == {
        "made": 201,
        "colleague": [True],
        "other": [],
        "nobody": 403,
        "delivered": ["a"],
        "again": 200,
    }
