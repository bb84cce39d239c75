"""Which change is this? Model signals become Events, in the transaction of the change.

Receivers are connected for each registered model alone: other models keep their fast deletes.
What the project's own code does wrong while an object is rendered never breaks the save.
"""

import copy
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from django.apps import apps
from django.db import OperationalError, connections, models, transaction
from django.db.models.signals import post_save, pre_delete, pre_save

from django_webhooks import outbox, payloads
from django_webhooks.models import Event, Rule, holds_outbox, label_of
from django_webhooks.payloads import Path
from django_webhooks.registry import (
    CREATED,
    DELETED,
    UPDATED,
    ModelWebhook,
    patterns_of,
    registry,
)

logger = logging.getLogger("django_webhooks")

UID = "django_webhooks.capture"


def connect(webhook: ModelWebhook) -> None:
    """Capture the changes of the webhook's model, its proxies and its multi-table children."""
    _make_saves_atomic(webhook.model)
    for model in apps.get_models(include_auto_created=True):
        if issubclass(model, webhook.model):
            pre_save.connect(before_save, sender=model, dispatch_uid=UID)
            post_save.connect(after_save, sender=model, dispatch_uid=UID)
            pre_delete.connect(before_delete, sender=model, dispatch_uid=UID)


def before_save(
    sender: type[models.Model], instance: models.Model, raw: bool, using: str, **kwargs: Any
) -> None:
    save = _current_save(instance)
    if raw or save is None or not holds_outbox(using):
        return
    for webhook in registry.lineage(sender):
        change = _foresee(webhook, save, using)
        if change is None:
            continue
        # From here to the end of save(): the change and its Event are committed together.
        if not connections[using].in_atomic_block:
            save.transaction.enter_context(transaction.atomic(using=using))
        if change.action == UPDATED:
            change.read_before(using)
        save.changes.append(change)


def after_save(
    sender: type[models.Model],
    instance: models.Model,
    using: str,
    update_fields: frozenset[str] | None = None,
    **kwargs: Any,
) -> None:
    save = _current_save(instance)
    for change in save.changes if save else ():
        change.pk = instance._get_pk_val(change.webhook.model._meta)
        change.read_after(instance, update_fields, using)
        change.write(using)


def before_delete(
    sender: type[models.Model], instance: models.Model, using: str, **kwargs: Any
) -> None:
    """The Event is written before the row is gone, for its relations go, too.

    Django deletes in a transaction of its own, which this belongs to.
    """
    if not holds_outbox(using):
        return
    for webhook in registry.lineage(sender):
        # A multi-table parent's row is deleted with a signal of its own.
        if webhook.model._meta.concrete_model is not sender._meta.concrete_model:
            continue
        listening = _is_listened_to(webhook, DELETED, using)
        if listening is None:
            continue
        change = Change(webhook, DELETED, listening, pk=instance.pk)
        change.read_before(using)
        change.read_deleted(using)
        change.write(using)


@dataclass
class Change:
    """One change of one registered model's row, from what it was to the Event that tells of it."""

    webhook: ModelWebhook
    action: str
    listening: bool
    pk: Any = None
    wanted: bool = True
    computed: bool = False
    """A value is an expression that only the database can compute."""
    before: models.Model | None = None
    before_values: dict[Path, Any] = field(default_factory=dict)
    event: Event | None = None
    error: str = ""

    def read_before(self, using: str) -> None:
        """The row as it was: one query, and those of the project's own rendering."""
        # A lock that was not got may have undone what the user did before: it must be heard of.
        with self._forgiving(but=OperationalError):
            self.before = self._take_row(using)
        if self.before is None and not self.error and self.action == UPDATED:
            self._become_created(using)
        if self.before is not None:
            with self._forgiving(), _savepoint_if_queried(using):
                self.before_values = self.webhook.render(self.before)

    def read_after(
        self, instance: models.Model, update_fields: frozenset[str] | None, using: str
    ) -> None:
        if self.error or not self.wanted:
            return
        with self._forgiving(), _savepoint_if_queried(using):
            after = self._as_saved(instance, update_fields, using)
            values = self.webhook.render(after, self.before)
            changed = payloads.changed_paths(self.before_values, values) if self.before else []
            # Old values have names; data that is no dict has none.
            previous = {path: self.before_values.get(path) for path in changed if path}
            self._compose(after, values, previous)

    def read_deleted(self, using: str) -> None:
        if self.before is not None and not self.error:
            with self._forgiving(), _savepoint_if_queried(using):
                self._compose(self.before, self.before_values, {})

    def write(self, using: str) -> None:
        """One INSERT; none when `should_publish()` said no."""
        if self.error:
            self.event = outbox.compose_failed(
                self.webhook.type_of(self.action),
                self.error,
                action=self.action,
                subject_type=label_of(self.webhook.model),
                subject_id=str(self.pk),
            )
        if self.event is not None:
            outbox.write(self.event, using, listening=self.listening)

    @contextmanager
    def _forgiving(self, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        """What goes wrong inside becomes the Event's `error`, and never breaks the save.

        Only the exceptions `but` are raised all the same.
        """
        try:
            yield
        except but:
            raise
        except Exception as error:
            self.error = payloads.storable(f"{type(error).__name__}: {error}")
            logger.exception(
                "%s could not be rendered for a webhook; the Event is kept with the reason.",
                self.webhook.model._meta.label,
            )

    def _become_created(self, using: str) -> None:
        """The row that was to be updated is not there (any more): Django will insert it."""
        listening = _is_listened_to(self.webhook, CREATED, using)
        self.action, self.listening = CREATED, bool(listening)
        self.wanted = listening is not None

    def _take_row(self, using: str) -> models.Model | None:
        """The row as it is, locked: nobody changes it between this and the save."""
        rows = self._locked(self._rows(using), using).filter(pk=self.pk)
        relations = self.webhook.relations
        row = rows.first()
        if relations and (row is None or _lost_a_relation(row, relations)):
            row = rows.first()
        return row

    def _locked(
        self, rows: "models.QuerySet[models.Model]", using: str
    ) -> "models.QuerySet[models.Model]":
        """`rows` with the lock that the change takes a moment later; never on related rows, which
        are not changed and might be waited for crosswise.
        """
        features = connections[using].features
        if not features.has_select_for_update_of:
            return rows if self.webhook.relations else rows.select_for_update()
        no_key = features.has_select_for_no_key_update and self.action != DELETED
        return rows.select_for_update(of=_own_tables(self.webhook.model), no_key=no_key)

    def _rows(self, using: str) -> "models.QuerySet[models.Model]":
        rows = self.webhook.model._base_manager.using(using)
        relations = self.webhook.relations
        return rows.select_related(*relations) if relations else rows.all()

    def _as_saved(
        self, instance: models.Model, update_fields: frozenset[str] | None, using: str
    ) -> models.Model:
        """The row as it is after the save, without a query where that can be known."""
        # Asked again, for the project's own receivers of pre_save come after ours.
        if self.computed or _has_expression(self.webhook, instance):
            return self._rows(using).get(pk=self.pk)
        if self.before is None:
            return instance
        kept = [
            column
            for column in self.webhook.model._meta.concrete_fields
            if not _was_written(column, instance, update_fields)
        ]
        if not kept:
            return instance
        merged = copy.copy(instance)
        for column in kept:
            setattr(merged, column.attname, getattr(self.before, column.attname))
        return merged

    def _compose(
        self, instance: models.Model, values: dict[Path, Any], previous: dict[Path, Any]
    ) -> None:
        changed = frozenset(".".join(path) for path in previous)
        if not self.webhook.should_publish(instance, self.action, changed):
            return
        self.event = outbox.compose(
            self.webhook.type_of(self.action),
            payloads.nest(values),
            action=self.action,
            previous=payloads.nest(previous),
            owner=self.webhook.get_owner(instance),
        )
        self.event.subject_type = label_of(self.webhook.model)
        self.event.subject_id = str(self.pk)


def _foresee(webhook: ModelWebhook, save: "Save", using: str) -> Change | None:
    """The change that this save is about to make; None if nobody wants to know of it.

    One query, which may also have to tell whether the row exists: Django itself finds out by
    trying, for an object that was given its primary key.
    """
    pk: Any = save.instance._get_pk_val(webhook.model._meta)
    action = _foresee_action(webhook, save, pk)
    if action:
        listening = _is_listened_to(webhook, action, using)
    else:
        action, listening = _look_up_both(webhook, pk, using)
    if listening is None:
        return None
    computed = _has_expression(webhook, save.instance)
    return Change(webhook, action, listening, pk=pk, computed=computed)


def _foresee_action(webhook: ModelWebhook, save: "Save", pk: Any) -> str:
    """What Django will do, by its own rules in their order; empty if only the database can tell."""
    if save.forces_insert(webhook.model):
        return CREATED
    if save.forces_update(webhook.model):
        return UPDATED
    adding = save.instance._state.adding
    # With update_fields, too, Django inserts a new object whose key has a default.
    if pk is None or (adding and webhook.model._meta.pk.has_default()):
        return CREATED
    return "" if adding and not save.update_fields else UPDATED


def _is_listened_to(webhook: ModelWebhook, action: str, using: str) -> bool | None:
    """Whether a rule listens; None when no Event is wanted."""
    if action not in webhook.actions:
        return None
    listening = outbox.is_listened_to(webhook.type_of(action), using)
    return listening if listening or webhook.keep_events else None


def _look_up_both(webhook: ModelWebhook, pk: Any, using: str) -> tuple[str, bool | None]:
    """The action, by whether the row exists, and who listens to it: in one query."""
    exists = models.Exists(webhook.model._base_manager.using(using).filter(pk=pk))
    wanted = models.Q()
    for action, row in ((UPDATED, exists), (CREATED, ~exists)):
        if action in webhook.actions:
            names = patterns_of(webhook.type_of(action))
            wanted |= models.Q(row, event_type__in=names)
    if not wanted:
        return CREATED, None
    rules = Rule.objects.using(using).active().filter(wanted).annotate(exists=exists)
    found = rules.values_list("exists", flat=True).first()
    if found is not None:
        return (UPDATED if found else CREATED), True
    if webhook.keep_events:
        there = webhook.model._base_manager.using(using).filter(pk=pk).exists()
        action = UPDATED if there else CREATED
        return action, False if action in webhook.actions else None
    return CREATED, None


def _own_tables(model: type[models.Model]) -> list[str]:
    """What `select_for_update` calls the tables of a row; a multi-table child has several."""
    options: Any = (model._meta.concrete_model or model)._meta
    paths = [options.get_path_to_parent(parent) for parent in options.all_parents]
    return ["self", *("__".join(step.join_field.name for step in path) for path in paths)]


def _lost_a_relation(row: Any, relations: Iterable[str]) -> bool:
    """Whether a related object is missing that `row` points to.

    PostgreSQL, having waited for a lock, gives the new row, but with the related rows that the
    old one pointed to: if it points elsewhere now, with none (or no row, where null is not
    allowed). https://www.postgresql.org/docs/current/transaction-iso.html
    """
    fields = [row._meta.get_field(path.partition("__")[0]) for path in relations]
    return any(
        getattr(row, field.attname) is not None and field.get_cached_value(row, row) is None
        for field in fields
        if field.concrete
    )


def _has_expression(webhook: ModelWebhook, instance: models.Model) -> bool:
    """Whether a column's value is known to the database alone: F("total") + 1, a default of it."""
    return any(
        column.generated or hasattr(instance.__dict__.get(column.attname), "resolve_expression")
        for column in webhook.model._meta.concrete_fields
    )


def _was_written(column: Any, instance: models.Model, update_fields: frozenset[str] | None) -> bool:
    if update_fields is not None:
        return column.name in update_fields or column.attname in update_fields
    return column.attname in instance.__dict__


# The transaction of a save


@dataclass
class Save:
    """One call of save(), while it runs, and what it was told to do."""

    instance: models.Model
    transaction: ExitStack
    force_insert: bool | tuple[type[models.Model], ...] = False
    force_update: bool = False
    update_fields: Collection[str] | None = None
    changes: list[Change] = field(default_factory=list)

    def forces_insert(self, model: type[models.Model]) -> bool:
        """A multi-table parent is only inserted by force if it is named."""
        if self._is_of(model):
            return bool(self.force_insert)
        return isinstance(self.force_insert, tuple) and issubclass(model, self.force_insert)

    def forces_update(self, model: type[models.Model]) -> bool:
        return self.force_update and self._is_of(model)

    def _is_of(self, model: type[models.Model]) -> bool:
        return model._meta.concrete_model is self.instance._meta.concrete_model


TOLD = ("force_insert", "force_update", "update_fields")
"""What Django's `save()` passes on to `save_base()`, by name."""

_saves: ContextVar[tuple[Save, ...]] = ContextVar("django_webhooks_saves", default=())


def _make_saves_atomic(model: type[models.Model]) -> None:
    """In autocommit Django saves first and sends `post_save` after: a crash in between would
    lose the Event. No signal spans both, so `save_base` is wrapped; the transaction is begun by
    `before_save`, and only if somebody listens.
    """
    save_base: Any = model.save_base
    if not getattr(save_base, "captured", False):
        model.save_base = _captured(save_base)  # type: ignore[method-assign]


def _captured(save_base: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(save_base)
    def wrapper(self: models.Model, *args: Any, **kwargs: Any) -> Any:
        told = {name: kwargs[name] for name in TOLD if name in kwargs}
        with ExitStack() as stack:
            outer = _saves.set((*_saves.get(), Save(self, stack, **told)))
            try:
                return save_base(self, *args, **kwargs)
            finally:
                _saves.reset(outer)

    wrapper.captured = True  # type: ignore[attr-defined]
    return wrapper


def _current_save(instance: models.Model) -> Save | None:
    """The innermost save() that runs, if it is of `instance`; None for a raw one of a fixture."""
    saves = _saves.get()
    return saves[-1] if saves and saves[-1].instance is instance else None


@contextmanager
def _savepoint_if_queried(using: str) -> Iterator[None]:
    """A savepoint, begun only when the first query comes: most objects are rendered without one.

    On PostgreSQL a query that fails outside of a savepoint would poison the user's transaction.
    """
    connection = connections[using]
    with ExitStack() as stack:
        begun = not connection.in_atomic_block

        def begin(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
            nonlocal begun
            if not begun:
                begun = True
                stack.enter_context(transaction.atomic(using=using))
            return execute(sql, params, many, context)

        with connection.execute_wrapper(begin):
            yield
