"""System checks: each says what is wrong, and a hint names the key or class and the mend."""

import difflib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import connections, router
from django.utils.module_loading import import_string

from django_webhooks import payloads
from django_webhooks.backends import BaseTaskBackend
from django_webhooks.conf import NAME, OPTIONS, settings
from django_webhooks.models import Subscription, outbox_aliases
from django_webhooks.payloads import Path
from django_webhooks.registry import ALL_FIELDS, ModelWebhook, registry

TAG = "webhooks"


@register(TAG)
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """E001 no dict · E002 wrong value · E003 unknown key · E004, E005 task backend · E006 owner
    model · E008 classes of the API · W024 SQLite."""
    if not settings.is_dict:
        hint = f"Write {NAME} = {{…}} with keys out of: {', '.join(OPTIONS)}."
        return [Error(f"{NAME} must be a dict.", hint=hint, id="django_webhooks.E001")]
    found = [*_wrong_values(), *_unknown_keys()]
    return found or [
        *_check_owner_model(),
        *_check_backend(),
        *_check_paths_of_api(),
        *_check_databases(),
    ]


@register(TAG)
def check_webhooks(**kwargs: Any) -> list[CheckMessage]:
    """E010-E014, W015, W016: what the registrations say is published."""
    return [message for webhook in registry.webhooks for message in _check_webhook(webhook)]


@register(TAG)
def check_examples(**kwargs: Any) -> list[CheckMessage]:
    """W030: the examples of the catalogue fit their schemas, if jsonschema can tell."""
    try:
        validator_class = import_string("jsonschema.Draft202012Validator")
        best_match = import_string("jsonschema.exceptions.best_match")
    except ImportError:  # it comes with drf-spectacular
        return []
    return [
        Warning(
            f"The example of {each.type!r} does not fit its schema: {problem.message}",
            hint="Mend one of them: your customers write their receivers by both.",
            id="django_webhooks.W030",
        )
        for each in registry.types
        if each.webhook is None and each.schema and each.example is not None
        for problem in [best_match(validator_class(each.schema).iter_errors(each.example))]
        if problem
    ]


@register(TAG, Tags.database)
def check_signing_keys(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """E007: asked of the databases that `migrate` or `check --database` names; since Django 6.1 of
    every database where `check --tag` asks."""
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


@register(TAG)
def check_exposure(**kwargs: Any) -> list[CheckMessage]:
    """I030-I032: what leaves the house that a person should have looked at. Only when asked for."""
    if not _is_asked_for():
        return []
    return [message for webhook in registry.webhooks for message in _list_exposed(webhook)]


def _is_asked_for() -> bool:
    """Whether these checks run because of `check --tag webhooks`, and not at each `runserver`.

    `run_checks(tags=…)` chooses by tags, and does not tell a check which were asked for.
    """
    return TAG in (sys._getframe(2).f_locals.get("tags") or ())


def _wrong_values() -> Iterator[CheckMessage]:
    for key, option in OPTIONS.items():
        if key in settings.given and not option.is_valid(settings.given[key]):
            is_secret = key in ("SECRET_KEYS", "SIGNING_KEYS", "PROXY")  # may have a password
            shown = "the value given" if is_secret else repr(settings.given[key])
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


def _check_paths_of_api() -> Iterator[CheckMessage]:
    """Without Django REST framework nobody asks for these, so they are loaded only if given."""
    for key in (each for each in settings.given if each.startswith("API_")):
        try:
            settings.classes_of_api(key)
        except Exception as error:
            yield _unloadable(key, settings.given[key], error)
    try:
        import_string(settings.GET_OWNER_FOR_REQUEST or "builtins.callable")
    except Exception as error:
        yield _unloadable("GET_OWNER_FOR_REQUEST", settings.GET_OWNER_FOR_REQUEST, error)


def _unloadable(key: str, value: Any, error: Exception) -> CheckMessage:
    return Error(
        f"{NAME}[{key!r}] {value!r} can't be loaded: {error}",
        hint=f"Mend the dotted path in {key!r}, or remove the key.",
        id="django_webhooks.E008",
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
    name = _name_of(webhook)
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
    yield from _check_user(webhook, name)
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


def _check_user(webhook: ModelWebhook, name: str) -> Iterator[CheckMessage]:
    """The user model needs a list of fields, wherever a serializer gets to it.

    `get_data()` is the project's own choice: what it gives can't be known here.
    """
    found = ["fields"] if webhook.fields == ALL_FIELDS and _is_user(webhook.model) else []
    for path, part in _serializer_parts(webhook):
        meta = getattr(getattr(part, "child", part), "Meta", None)
        if _is_open(meta) and _is_user(getattr(meta, "model", None)):
            found.append(f"serializer_class at {'.'.join(path)!r}" if path else "serializer_class")
    for where in found:
        yield Error(
            f"{name} publishes the user model with all columns ({where}).",
            hint="List the fields that may leave the house, in fields = [...] of the webhook or "
            "of the serializer's Meta; a serializer's depth does not list them.",
            obj=webhook.model,
            id="django_webhooks.E014",
        )


def _is_user(model: Any) -> bool:
    """Whether `model` is the user model, a proxy or a child of it."""
    try:
        user = get_user_model()
    except ImproperlyConfigured:  # a project without users
        return False
    concrete = user._meta.concrete_model or user
    return isinstance(model, type) and issubclass(model, concrete)


def _is_open(meta: Any) -> bool:
    """Whether a serializer's Meta publishes columns that nobody has named."""
    return getattr(meta, "fields", None) == ALL_FIELDS or hasattr(meta, "exclude")


def _serializer_parts(webhook: ModelWebhook) -> list[tuple[Path, Any]]:
    """The serializer and all that it writes, by path; its class alone if that can't be told."""
    if webhook.serializer_class is None:
        return []
    try:
        return list(_walk(webhook.serializer_class(), ()))
    except Exception:  # the project's code, which may want a request or the database
        return [((), webhook.serializer_class)]


def _walk(part: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    yield path, part
    for name, field in _fields_of(part).items():
        if not getattr(field, "write_only", False):
            yield from _walk(field, (*path, name))


def _fields_of(part: Any) -> Any:
    """Those of a nested serializer, or of the one in a list."""
    return getattr(getattr(part, "child", part), "fields", {})


# What a person should have looked at


def _list_exposed(webhook: ModelWebhook) -> Iterator[CheckMessage]:
    name, published = _name_of(webhook), list(_published(webhook))
    personal = [path for path, words in published if any(map(payloads.PERSONAL.search, words))]
    secret = [path for path, words in published if any(map(payloads.SENSITIVE.search, words))]
    if personal:
        yield Info(
            f"{name} publishes what looks personal: {', '.join(personal)}.",
            hint="Does each receiver need it? Remove the rest.",
            obj=webhook.model,
            id="django_webhooks.I030",
        )
    if secret:
        yield Info(
            f"{name} publishes what looks secret: {', '.join(secret)}.",
            hint="Whoever subscribes gets to see it. Remove it, unless the name deceives.",
            obj=webhook.model,
            id="django_webhooks.I031",
        )
    if not published:
        yield Info(
            f"{name}: what it publishes is known to its code alone.",
            hint="Look at get_data(), or at the serializer, which can't be made without a request.",
            obj=webhook.model,
            id="django_webhooks.I032",
        )


def _published(webhook: ModelWebhook) -> Iterator[tuple[str, list[str]]]:
    """Each published path, and the dotted names by which it may be known."""
    model = webhook.model._meta.model_name or ""
    if webhook.renders_fields:
        for path in webhook.paths:
            yield ".".join(path), [".".join((model, *path))]
    elif type(webhook).get_data is ModelWebhook.get_data:
        for path, part in _serializer_parts(webhook):
            if path and not _fields_of(part):
                source = str(getattr(part, "source", "") or "")
                yield _shown(path, source), [".".join((model, *path)), f"{model}.{source}"]


def _shown(path: Path, source: str) -> str:
    """`contact (user.email)` of a serializer's field that is named otherwise than its source."""
    shown = ".".join(path)
    return shown if source in ("", "*", path[-1]) else f"{shown} ({source})"


def _name_of(webhook: ModelWebhook) -> str:
    return f"{type(webhook).__module__}.{type(webhook).__name__}"
