"""System checks: each says what is wrong, and a hint names the key or class and the mend."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import FieldDoesNotExist
from django.db import connections, router
from django.utils.module_loading import import_string

from django_webhooks import payloads
from django_webhooks.backends import BaseTaskBackend
from django_webhooks.conf import NAME, OPTIONS, settings
from django_webhooks.models import Subscription, outbox_aliases
from django_webhooks.registry import ALL_FIELDS, ModelWebhook, registry

TAG = "webhooks"


@register(TAG)
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """E001 no dict · E002 wrong value · E003 unknown key · E004, E005 task backend · E006 owner
    model · W024 SQLite."""
    if not settings.is_dict:
        hint = f"Write {NAME} = {{…}} with keys out of: {', '.join(OPTIONS)}."
        return [Error(f"{NAME} must be a dict.", hint=hint, id="django_webhooks.E001")]
    found = [*_wrong_values(), *_unknown_keys()]
    return found or [*_check_owner_model(), *_check_backend(), *_check_databases()]


@register(TAG)
def check_webhooks(**kwargs: Any) -> list[CheckMessage]:
    """E010-E014, W015, W016: what the registrations say is published."""
    return [message for webhook in registry.webhooks for message in _check_webhook(webhook)]


@register(TAG, Tags.database)
def check_signing_keys(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """E007: asked of the databases that `migrate` or `check --database` names."""
    if settings.SIGNING_KEYS:
        return []
    return [message for using in databases or () for message in _check_asymmetric(using)]


def _check_asymmetric(using: str) -> Iterator[CheckMessage]:
    table = Subscription._meta.db_table
    if table not in connections[using].introspection.table_names():  # before the first `migrate`
        return
    if Subscription.objects.using(using).filter(signature=Subscription.Signature.V1A).exists():
        yield Error(
            f"The database {using!r} has subscriptions with the signature v1a, and "
            f"{NAME}['SIGNING_KEYS'] has no keys: nothing is sent to them.",
            hint="Put the keys back into 'SIGNING_KEYS'; or set `signature` of these "
            "subscriptions to v1 and give their secrets to the receivers.",
            id="django_webhooks.E007",
        )


def _wrong_values() -> Iterator[CheckMessage]:
    for key, option in OPTIONS.items():
        if key in settings.given and not option.is_valid(settings.given[key]):
            shown = (
                "the value given"
                if key in ("SECRET_KEYS", "SIGNING_KEYS")
                else repr(settings.given[key])
            )
            yield Error(
                f"{NAME}[{key!r}] must be {option.expects}; it is {shown}.",
                hint=f"Mend or remove the key {key!r}.",
                id="django_webhooks.E002",
            )


def _unknown_keys() -> Iterator[CheckMessage]:
    for key in settings.given:
        if key not in OPTIONS:
            near = difflib.get_close_matches(str(key).upper(), OPTIONS, n=1)
            rename = f" or rename it to {near[0]!r}" if near else ""
            yield Error(
                f"{NAME}[{key!r}] is not a setting.",
                hint=f"Remove the key {key!r}{rename}.",
                id="django_webhooks.E003",
            )


def _check_owner_model() -> Iterator[CheckMessage]:
    try:
        apps.get_model(settings.OWNER_MODEL)
    except LookupError:
        yield Error(
            f"{NAME}['OWNER_MODEL'] {settings.OWNER_MODEL!r} is not an installed model.",
            hint="Let 'OWNER_MODEL' name a model as \"app_label.Model\", with its app in "
            "INSTALLED_APPS; or remove the key for AUTH_USER_MODEL.",
            id="django_webhooks.E006",
        )


def _check_databases() -> Iterator[CheckMessage]:
    """On SQLite a transaction that reads first and then writes fails at once if another wrote."""
    for alias in outbox_aliases():
        connection = connections[alias]
        if connection.vendor != "sqlite" or ":memory:" in str(connection.settings_dict["NAME"]):
            continue
        mode = connection.settings_dict["OPTIONS"].get("transaction_mode") or "DEFERRED"
        if str(mode).upper() not in ("IMMEDIATE", "EXCLUSIVE"):
            yield Warning(
                f"The SQLite database {alias!r} is shared by the site and the worker, and one of "
                "them will now and then fail with “database is locked”.",
                hint=f'Set DATABASES[{alias!r}]["OPTIONS"] = '
                '{"transaction_mode": "IMMEDIATE", "timeout": 20}: each takes its turn.',
                id="django_webhooks.W024",
            )


def _check_backend() -> Iterator[CheckMessage]:
    path = settings.TASK_BACKEND
    try:
        backend = import_string(path)()
    except Exception as error:
        yield Error(
            f"{NAME}['TASK_BACKEND'] {path!r} can't be loaded: {error}",
            hint="'TASK_BACKEND' needs the dotted path of a class, and its package installed and "
            "in INSTALLED_APPS.",
            id="django_webhooks.E004",
        )
        return
    if not isinstance(backend, BaseTaskBackend):
        yield Error(
            f"{NAME}['TASK_BACKEND'] {path!r} is not a task backend.",
            hint="'TASK_BACKEND' must name a subclass of "
            "django_webhooks.backends.base.BaseTaskBackend.",
            id="django_webhooks.E005",
        )
        return
    yield from backend.check()


def _check_webhook(webhook: ModelWebhook) -> Iterator[CheckMessage]:
    name = f"{type(webhook).__module__}.{type(webhook).__name__}"
    if webhook.renders_fields and not webhook.fields:
        yield Error(
            f"{name} does not say what it publishes.",
            hint="Set fields = [...] or serializer_class, or override get_data(). There is no "
            'implicit "all fields".',
            obj=webhook.model,
            id="django_webhooks.E010",
        )
        return
    if webhook.fields and webhook.serializer_class is not None:
        yield Error(
            f"{name} has both fields and serializer_class.",
            hint="Remove one: the serializer says what is published.",
            obj=webhook.model,
            id="django_webhooks.E012",
        )
    if isinstance(webhook.fields, str) and webhook.fields != ALL_FIELDS:
        yield Error(
            f"{name}.fields is the text {webhook.fields!r}.",
            hint=f"Write fields = [{webhook.fields!r}], with brackets.",
            obj=webhook.model,
            id="django_webhooks.E013",
        )
        return
    yield from _check_paths(webhook, name)
    yield from _check_all_fields(webhook, name)
    if not set(outbox_aliases()) & {router.db_for_write(webhook.model)}:
        yield Warning(
            f"{webhook.model._meta.label} is written to a database without the outbox tables: "
            "its changes can't be captured.",
            hint="Let your router's allow_migrate() admit django_webhooks to the database "
            f"{router.db_for_write(webhook.model)!r}, and migrate it.",
            obj=webhook.model,
            id="django_webhooks.W016",
        )


def _check_paths(webhook: ModelWebhook, name: str) -> Iterator[CheckMessage]:
    for path in webhook.paths if webhook.renders_fields else ():
        try:
            payloads.find_field(webhook.model, path)
        except FieldDoesNotExist as error:
            yield Error(
                f"{name}.fields has {'.'.join(path)!r}, which {webhook.model._meta.label} does "
                f"not: {error}",
                hint="Name columns, properties, and paths over foreign keys; for what leads to "
                "many objects use serializer_class or get_data().",
                obj=webhook.model,
                id="django_webhooks.E011",
            )


def _check_all_fields(webhook: ModelWebhook, name: str) -> Iterator[CheckMessage]:
    if webhook.fields != ALL_FIELDS:
        return
    if issubclass(webhook.model, get_user_model()):
        yield Error(
            f'{name} publishes the user model with fields = "__all__".',
            hint="List the fields that may leave the house.",
            obj=webhook.model,
            id="django_webhooks.E014",
        )
    left_out = [
        field.name
        for field in webhook.model._meta.concrete_fields
        if field.name not in payloads.all_fields(webhook.model)
    ]
    yield Warning(
        f'{name} publishes "__all__": every column that is added will be published, too.'
        + (f" Left out for their names: {', '.join(left_out)}." if left_out else ""),
        hint="List the fields, or silence django_webhooks.W015 if this is what you want.",
        obj=webhook.model,
        id="django_webhooks.W015",
    )
