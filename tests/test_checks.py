"""What `manage.py check` says: each wrong setting and registration, with a hint that names it."""

import json
import subprocess
import sys

import django
import pytest
from django.contrib.auth.models import User
from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connections, models
from django.test.utils import isolate_apps
from rest_framework import serializers

from django_webhooks import payloads
from django_webhooks.backends.django_tasks import ImmediateBackend
from django_webhooks.checks import TAG
from django_webhooks.conf import OPTIONS
from django_webhooks.models import Subscription
from django_webhooks.registry import ModelWebhook, registry
from django_webhooks.signing import generate_secret, generate_signing_key, public_key_of
from tests.celery import app as celery_app
from tests.processes import CELERY, DJANGO_Q, DJANGO_TASKS
from tests.shop.models import Customer, Order

# Django 6.1 asks the checks of databases, too, where a tag is asked for.
pytestmark = pytest.mark.django_db(databases=["default", "other"])


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
    ("SIGNING_KEYS", []),
    ("SIGNING_KEYS", "whsk_" + "A" * 43 + "="),
    ("SIGNING_KEYS", [generate_signing_key()[:-4]]),
    ("SIGNING_KEYS", [generate_secret()]),
    ("SIGNING_KEYS", [public_key_of(generate_signing_key())]),
    ("SIGNING_KEYS", [generate_signing_key()] * 9),
    ("OWNER_MODEL", "nodots"),
    ("OWNER_MODEL", 5),
    ("CONCURRENCY", 0),
    ("DISABLE_AFTER", -1),
    ("MAX_HOPS", 0),
    ("MAX_HOPS", "5"),
    ("EMAIL_OWNERS", "yes"),
    ("RETENTION", {"delivered": 3}),
    ("RETENTION", {"failed": -1}),
    ("GET_OWNER_FOR_REQUEST", "nodots"),
    ("GET_OWNER_FOR_REQUEST", print),
    ("MAX_SUBSCRIPTIONS_PER_OWNER", -1),
    ("MAX_SUBSCRIPTIONS_PER_OWNER", "20"),
    ("VERIFY_ENDPOINTS", "yes"),
    ("API_AUTHENTICATION_CLASSES", "rest_framework.authentication.TokenAuthentication"),
    ("API_PERMISSION_CLASSES", ["IsAuthenticated"]),
    ("API_THROTTLE_CLASSES", [None]),
    ("API_RENDERER_CLASSES", {}),
    ("API_PAGINATION_CLASS", ["rest_framework.pagination.CursorPagination"]),
    ("API_VERSIONING_CLASS", 1),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_wrong_value_is_refused_with_its_key(configure, key, value):
    configure(**{key: value})
    message = only("E002")
    assert key in message.msg
    assert key in message.hint


def test_each_setting_has_a_wrong_value_that_is_refused():
    assert {key for key, _ in WRONG} == set(OPTIONS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("API_PERMISSION_CLASSES", ["rest_framework.permissions.NoSuch"]),
        ("API_PAGINATION_CLASS", "no.such.Pages"),
        ("GET_OWNER_FOR_REQUEST", "tests.shop.models.no_such"),
    ],
)
def test_what_can_not_be_loaded_for_the_api_is_told_with_its_key(configure, key, value):
    configure(**{key: value})
    assert key in only("E008").hint


def test_wrong_secret_key_is_not_quoted(configure):
    configure(SECRET_KEYS=["hunter2"])
    assert "hunter2" not in str(only("E002"))


def test_wrong_signing_key_is_not_quoted(configure):
    configure(SIGNING_KEYS=["whsk_hunter2"])
    assert "hunter2" not in str(only("E002"))


def test_password_of_a_wrong_proxy_is_not_quoted(configure):
    configure(PROXY="http://me:hunter2@proxy.example.com:99999")
    assert "hunter2" not in str(only("E002"))


def test_generated_signing_keys_are_right(configure):
    configure(SIGNING_KEYS=[generate_signing_key(), generate_signing_key()])
    assert found("E002") == []


def found_in_database(id: str) -> list:
    """What is said when `migrate` or `check --database` asks."""
    messages = run_checks(tags=[TAG], databases=["default"])
    return [each for each in messages if each.id == f"django_webhooks.{id}"]


@pytest.mark.parametrize("wrong", [{}, {"SIGNING_KEYS": None}, {"SIGNING_KEYS": ["whsk_no"]}])
def test_v1a_without_signing_keys_is_refused(configure, wrong):
    configure(**wrong)
    subscription = Subscription.objects.create(url="https://example.com/hook")
    assert found_in_database("E007") == []
    subscription.signature = "v1a"
    subscription.save()
    [message] = found_in_database("E007")
    assert "SIGNING_KEYS" in message.hint
    # No other command opens the database for it.
    assert "django_webhooks.E007" not in {each.id for each in run_checks()}
    configure(SIGNING_KEYS=[generate_signing_key()])
    assert found_in_database("E007") == []


def test_v1a_is_not_looked_for_before_the_first_migrate(configure, monkeypatch):
    configure()
    Subscription.objects.create(url="https://example.com/hook", signature="v1a")
    assert found_in_database("E007")
    monkeypatch.setattr(connections["default"].introspection, "table_names", list)
    assert found_in_database("E007") == []


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


# Other engines' own settings


def test_settings_of_celery_in_the_tests_are_right(configure):
    configure(TASK_BACKEND=CELERY)
    assert [found(id) for id in ("W025", "W026", "W027")] == [[], [], []]


@pytest.mark.parametrize(
    ("name", "value", "id"),
    [
        ("task_time_limit", 50, "W025"),
        ("task_soft_time_limit", 20, "W025"),
        ("task_always_eager", True, "W026"),
    ],
)
def test_celery_that_would_harm_a_drain_is_warned_of(configure, monkeypatch, name, value, id):
    configure(TASK_BACKEND=CELERY)
    monkeypatch.setitem(celery_app.conf, name, value)
    assert name.upper() in only(id).hint.upper()


def test_beat_without_a_sweep_is_warned_of(configure, monkeypatch):
    configure(TASK_BACKEND=CELERY)
    [sweep] = celery_app.conf.beat_schedule
    monkeypatch.delitem(celery_app.conf.beat_schedule, sweep)
    assert "SWEEP" in only("W027").hint


def test_time_limit_of_our_task_alone_is_enough(configure, monkeypatch):
    configure(TASK_BACKEND=CELERY)
    monkeypatch.setitem(celery_app.conf, "task_time_limit", 30)
    monkeypatch.setattr(celery_app.tasks["django_webhooks.attend"], "time_limit", 90)
    assert found("W025") == []


@pytest.mark.parametrize("engine", ["ImmediateBackend", "DummyBackend"])
def test_django_tasks_without_a_worker_are_warned_of(configure, settings, engine):
    configure(TASK_BACKEND=DJANGO_TASKS)
    assert found("W028") == []
    package = ImmediateBackend.__module__.rpartition(".")[0]
    module = f"{package}.{engine.removesuffix('Backend').lower()}"
    settings.TASKS = {"default": {"BACKEND": f"{module}.{engine}"}}
    assert engine in only("W028").msg


def test_missing_backport_of_django_tasks_is_warned_of(configure, settings):
    configure(TASK_BACKEND=DJANGO_TASKS)
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django_tasks"]
    assert len(found("W029")) == (django.VERSION < (6, 0))


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


# The user model


with isolate_apps("tests.shop"):

    class Staff(User):
        class Meta:
            proxy = True
            app_label = "shop"


def serializer(model, bases=(serializers.ModelSerializer,), meta=None, **fields):
    """A serializer class of `model`, with these declared fields."""
    meta = type("Meta", (), {"model": model, **(meta or {})})
    return type("MadeSerializer", bases, {"Meta": meta, **fields})


OPEN_USER = serializer(User, meta={"fields": "__all__"})
CLOSED_USER = serializer(User, meta={"fields": ["id", "username"]})
ORDER = {"fields": ["id", "customer"]}


class NeedsARequest(OPEN_USER):
    def get_fields(self):
        return self.context["request"]


@pytest.mark.parametrize(
    ("model", "attributes", "where"),
    [
        (User, {"fields": "__all__"}, "fields"),
        (Staff, {"fields": "__all__"}, "fields"),
        (User, {"serializer_class": OPEN_USER}, "serializer_class"),
        (Staff, {"serializer_class": OPEN_USER}, "serializer_class"),
        (
            User,
            {"serializer_class": serializer(User, meta={"exclude": ["email"]})},
            "serializer_class",
        ),
        (User, {"serializer_class": NeedsARequest}, "serializer_class"),
        (
            Order,
            {"serializer_class": serializer(Order, meta=ORDER, customer=OPEN_USER())},
            "serializer_class at 'customer'",
        ),
        (
            Order,
            {"serializer_class": serializer(Order, meta=ORDER, customer=OPEN_USER(many=True))},
            "serializer_class at 'customer'",
        ),
        (
            Order,
            {"serializer_class": serializer(Order, meta={**ORDER, "depth": 2})},
            "serializer_class at 'customer.user'",
        ),
    ],
)
def test_user_model_needs_a_list_of_fields_wherever_it_is_published(
    publish, model, attributes, where
):
    publish(model, type("Webhook", (ModelWebhook,), attributes))
    assert f"({where})" in only("E014").msg


@pytest.mark.parametrize(
    ("model", "attributes"),
    [
        (User, {"fields": ["id", "username"]}),
        (User, {"get_data": lambda self, instance: {"id": instance.pk}}),
        (User, {"serializer_class": CLOSED_USER}),
        (
            User,
            {
                "serializer_class": type(
                    "PlainSerializer",
                    (serializers.Serializer,),
                    {"username": serializers.CharField()},
                )
            },
        ),
        (Order, {"serializer_class": serializer(Order, meta={"fields": "__all__"})}),
        (
            Order,
            {
                "serializer_class": serializer(
                    Order, meta=ORDER, customer=OPEN_USER(write_only=True)
                )
            },
        ),
    ],
)
def test_user_model_with_a_list_of_fields_is_fine(publish, model, attributes):
    publish(model, type("Webhook", (ModelWebhook,), attributes))
    assert found("E014") == []


def test_project_without_users_is_checked_all_the_same(publish, settings):
    settings.AUTH_USER_MODEL = "no.User"
    publish(Order, type("Webhook", (ModelWebhook,), {"fields": "__all__"}))
    assert only("W015")


# What a person should have looked at


def exposed(publish, model, **attributes):
    """What is listed as personal, and as secret."""
    publish(model, type("Webhook", (ModelWebhook,), attributes))
    return tuple(
        each.msg.partition(": ")[2].rstrip(".").split(", ")
        for id in ("I030", "I031")
        for each in found(id)
    )


def test_personal_fields_are_listed_for_review(publish):
    fields = ["id", "status", "total", "customer.name", "customer.email", "customer.user"]
    assert exposed(publish, Order, fields=fields) == (["customer.name", "customer.email"],)


def test_what_looks_secret_is_listed_though_it_was_named(publish):
    fields = ["id", "password", "first_name"]
    assert exposed(publish, User, fields=fields) == (["first_name"], ["password"])


def test_fields_of_serializers_are_listed_by_name_and_by_source(publish):
    class Inner(serializers.Serializer):
        email = serializers.EmailField()
        api_token = serializers.CharField()
        total = serializers.IntegerField()

    class Outer(serializers.Serializer):
        id = serializers.IntegerField()
        contact = serializers.CharField(source="customer.email")
        phone = serializers.CharField(write_only=True)
        buyer = Inner()
        others = Inner(many=True)

    assert exposed(publish, Order, serializer_class=Outer) == (
        ["contact (customer.email)", "buyer.email", "others.email"],
        ["buyer.api_token", "others.api_token"],
    )


@pytest.mark.parametrize(
    "attributes",
    [{"get_data": lambda self, instance: {}}, {"serializer_class": NeedsARequest}],
)
def test_what_cannot_be_listed_is_named(publish, attributes):
    publish(Order, type("Webhook", (ModelWebhook,), attributes))
    assert "its code alone" in only("I032").msg


PERSONAL = (
    "email e_mail work_email emailAddress phone phone_number mobile fax tel first_name lastName "
    "surname full_name username customer_name owner.name customer.name street address ip_address "
    "ip client_ip postcode postal_code zip zip_code birth_date birthday dob date_of_birth age "
    "gender latitude passport_no national_id tax_id vat_number account_holder"
)
HARMLESS = (
    "id status total name product.name tax tax_rate vat page image zipped ship description "
    "average_total telemetry recipe_id agent address.id created_at number owner script stage"
)


@pytest.mark.parametrize("name", PERSONAL.split())
def test_name_is_personal(name):
    assert payloads.PERSONAL.search(f"thing.{name}")


@pytest.mark.parametrize("name", HARMLESS.split())
def test_name_is_not_personal(name):
    assert not payloads.PERSONAL.search(f"thing.{name}")


def test_review_is_told_when_asked_for_and_never_in_passing(publish, capsys):
    """Not at each `runserver`, whose checks are all of them, and not by a command with others."""
    publish(Order, type("Webhook", (ModelWebhook,), {"fields": ["customer.email"]}))
    call_command("check", "--tag", "webhooks")
    assert "django_webhooks.I030" in capsys.readouterr().err
    call_command("check")
    assert "I030" not in "".join(capsys.readouterr())
    call_command("check", "--tag", "models")
    assert "I030" not in "".join(capsys.readouterr())
    assert [each for each in run_checks() if "django_webhooks.I" in str(each.id)] == []
