"""What `manage.py check` says: each wrong setting and registration, with a hint that names it."""

import json
import subprocess
import sys

import pytest
from django.contrib.auth.models import User
from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.core.checks import run_checks
from django.db import connections, models
from django.test.utils import isolate_apps

from django_webhooks.checks import TAG
from django_webhooks.conf import OPTIONS
from django_webhooks.registry import ModelWebhook, registry
from tests.processes import DJANGO_Q
from tests.shop.models import Customer, Order


@pytest.fixture
def configure(settings):
    """Sets keys of the setting; what is checked is these alone."""

    def update(**values):
        settings.DJANGO_WEBHOOKS = values

    return update


@pytest.fixture
def publish():
    """Registers for the time of a test, in place of all that was registered."""
    kept = registry._webhooks, registry._types
    registry._webhooks, registry._types = {}, {}
    yield registry.add
    registry._webhooks, registry._types = kept


def found(id: str) -> list:
    """What our checks say under this id."""
    return [each for each in run_checks(tags=[TAG]) if each.id == f"django_webhooks.{id}"]


def only(id: str):
    [message] = found(id)
    return message


def test_settings_of_the_tests_are_right():
    assert [each for each in run_checks(tags=[TAG]) if each.is_serious()] == []


@pytest.mark.parametrize("value", [[], "x", 7])
def test_what_is_no_dict_is_refused(settings, value):
    settings.DJANGO_WEBHOOKS = value
    assert "TASK_BACKEND" in only("E001").hint


WRONG = [
    ("TASK_BACKEND", 7),
    ("TASK_BACKEND", "nodots"),
    ("RETRY_SCHEDULE", "5,300"),
    ("RETRY_SCHEDULE", [5, -1]),
    ("RETRY_SCHEDULE", [True]),
    ("RETRY_SCHEDULE", [float("inf")]),
    ("RETRY_SCHEDULE", [10**15]),
    ("TIMEOUT", 0),
    ("TIMEOUT", 31),
    ("TIMEOUT", "15"),
    ("MAX_RESPONSE_BYTES", 0),
    ("MAX_PAYLOAD_BYTES", 1.5),
    ("ALLOW_HTTP", "yes"),
    ("ALLOWED_NETWORKS", "10.0.0.0/8"),
    ("ALLOWED_NETWORKS", ["10.0.0.1/8"]),
    ("ALLOWED_NETWORKS", [7]),
    ("ALLOWED_NETWORKS", [True]),
    ("PROXY", "proxy:3128"),
    ("PROXY", "socks5://proxy"),
    ("SECRET_KEYS", []),
    ("SECRET_KEYS", ["short"]),
    ("SECRET_KEYS", "a text of more than sixteen characters"),
    ("OWNER_MODEL", "nodots"),
    ("OWNER_MODEL", 5),
    ("CONCURRENCY", 0),
    ("DISABLE_AFTER", -1),
    ("MAX_HOPS", 0),
    ("MAX_HOPS", "5"),
    ("EMAIL_OWNERS", "yes"),
    ("RETENTION", {"delivered": 3}),
    ("RETENTION", {"failed": -1}),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_wrong_value_is_refused_with_its_key(configure, key, value):
    configure(**{key: value})
    message = only("E002")
    assert key in message.msg
    assert key in message.hint


def test_each_setting_has_a_wrong_value_that_is_refused():
    assert {key for key, _ in WRONG} == set(OPTIONS)


def test_wrong_secret_key_is_not_quoted(configure):
    configure(SECRET_KEYS=["hunter2"])
    assert "hunter2" not in str(only("E002"))


@pytest.mark.parametrize(
    ("key", "near"), [("TIMEOUTS", "TIMEOUT"), ("timeout", "TIMEOUT"), ("RETENTIONS", "RETENTION")]
)
def test_unknown_key_is_refused_with_the_nearest(configure, key, near):
    configure(**{key: 1})
    assert repr(key) in only("E003").hint
    assert repr(near) in only("E003").hint


def test_unknown_key_like_no_other_is_refused(configure):
    configure(XYZZY=1)
    assert "'XYZZY'" in only("E003").hint


@pytest.mark.parametrize(
    ("path", "id"),
    [("no.such.Backend", "E004"), ("django.http.HttpResponse", "E005"), ("os.nothing", "E004")],
)
def test_task_backend_that_is_none_is_refused(configure, path, id):
    configure(TASK_BACKEND=path)
    assert path in only(id).msg
    assert "TASK_BACKEND" in only(id).hint


def test_owner_model_that_is_not_installed_is_refused(configure):
    configure(OWNER_MODEL="no.Such")
    assert "OWNER_MODEL" in only("E006").hint


@pytest.mark.parametrize(("value", "id"), [("no.Such", "E006"), ("x", "E002"), (5, "E002")])
def test_wrong_owner_model_gets_as_far_as_its_check(tmp_path, value, id):
    """The models and the admin are made from it, before any check is run."""
    (tmp_path / "wrong_settings.py").write_text(
        "from tests.settings import *\n"
        f"DJANGO_WEBHOOKS = {{**DJANGO_WEBHOOKS, 'OWNER_MODEL': {json.dumps(value)}}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "django", "check", "--settings", "wrong_settings"],
        env={"PYTHONPATH": ":".join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"django_webhooks.{id}" in done.stderr
    assert "Traceback" not in done.stderr


def test_sqlite_that_would_fail_where_it_could_wait_is_warned_of(monkeypatch):
    connection = connections["default"]
    monkeypatch.setitem(connection.settings_dict, "ENGINE", "django.db.backends.sqlite3")
    monkeypatch.setattr(connection, "vendor", "sqlite")
    monkeypatch.setitem(connection.settings_dict, "NAME", "db.sqlite3")
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {})
    assert "IMMEDIATE" in only("W024").hint
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {"transaction_mode": "IMMEDIATE"})
    assert found("W024") == []
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {})
    monkeypatch.setitem(
        connection.settings_dict, "NAME", "file:memorydb?mode=memory&cache=:memory:"
    )
    assert found("W024") == []


# The cluster's own settings


@pytest.mark.parametrize(
    ("name", "value", "id"),
    [
        ("TIMEOUT", None, "W017"),
        ("TIMEOUT", 40, "W021"),
        ("RETRY", 45, "W022"),
        ("TIMEOUT", 120, "W022"),
        ("SYNC", True, "W023"),
    ],
)
def test_cluster_that_would_cut_a_drain_short_is_warned_of(configure, monkeypatch, name, value, id):
    from django_q.conf import Conf

    configure(TASK_BACKEND=DJANGO_Q)
    assert found(id) == []
    monkeypatch.setattr(Conf, name, value)
    assert "Q_CLUSTER" in only(id).hint


def test_missing_django_q_is_warned_of(configure, settings):
    configure(TASK_BACKEND=DJANGO_Q)
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django_q"]
    assert "webhooks_drain --loop" in only("W020").hint


# Registrations


def test_there_is_no_implicit_all_fields(publish):
    publish(Order, type("OrderWebhook", (ModelWebhook,), {}))
    assert "OrderWebhook" in only("E010").msg
    assert "fields" in only("E010").hint


@pytest.mark.parametrize("path", ["totl", "customer.nothing", "items.sku", "number.length"])
def test_field_that_does_not_exist_is_refused(publish, path):
    publish(Order, type("OrderWebhook", (ModelWebhook,), {"fields": ["id", path]}))
    assert repr(path) in only("E011").msg


@isolate_apps("tests.shop")
def test_path_through_a_generic_relation_is_refused(publish):
    class Label(models.Model):
        content_type = models.ForeignKey(ContentType, on_delete=models.CASCADE)
        object_id = models.IntegerField()
        target = GenericForeignKey()

        class Meta:
            app_label = "shop"

    publish(Label, type("LabelWebhook", (ModelWebhook,), {"fields": ["id", "target.name"]}))
    assert "'target' leads to objects of any model" in only("E011").msg


def test_fields_and_serializer_are_one_too_many(publish):
    attributes = {"fields": ["id"], "serializer_class": object}
    publish(Order, type("OrderWebhook", (ModelWebhook,), attributes))
    assert only("E012")


def test_fields_without_brackets_are_refused(publish):
    publish(Order, type("OrderWebhook", (ModelWebhook,), {"fields": "id"}))
    assert "['id']" in only("E013").hint


def test_all_fields_are_warned_of_and_those_left_out_are_named(publish):
    publish(Customer, type("CustomerWebhook", (ModelWebhook,), {"fields": "__all__"}))
    assert "every column" in only("W015").msg
    publish(User, type("UserWebhook", (ModelWebhook,), {"fields": "__all__"}))
    assert "password" in found("W015")[1].msg
    assert only("E014")


def test_model_of_a_database_without_the_outbox_is_warned_of(publish, settings):
    class Router:
        def db_for_write(self, model, **hints):
            return "other" if model is Order else None

        def allow_migrate(self, db, app_label, **hints):
            return db == "default" if app_label == "django_webhooks" else None

    settings.DATABASE_ROUTERS = [Router()]
    publish(Order, type("OrderWebhook", (ModelWebhook,), {"fields": ["id"]}))
    assert "allow_migrate" in only("W016").hint
