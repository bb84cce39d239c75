"""Keys at rest: what an older key encrypted is encrypted anew, with the first of `SECRET_KEYS`."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.apps import apps
from django.db import models

from django_webhooks.encryption import EncryptedJSONField, decrypt, encrypt, is_current
from django_webhooks.exceptions import UnreadableSecret
from django_webhooks.models import outbox_aliases
from django_webhooks.registry import APP_LABEL
from django_webhooks.retries import on_contention

BATCH = 500
"""Values that are read at once."""


@dataclass(frozen=True)
class Rotated:
    """What was done to a batch of values."""

    checked: int = 0
    stale: int = 0
    """Encrypted with an older key before; also encrypted anew, unless one only looks."""
    unreadable: tuple[str, ...] = ()
    """Those that no key can read, by row and column."""

    def __add__(self, other: "Rotated") -> "Rotated":
        return Rotated(
            self.checked + other.checked,
            self.stale + other.stale,
            self.unreadable + other.unreadable,
        )


def rotate_keys(*, only_look: bool = False) -> Iterator[Rotated]:
    """Encrypt each value with the first of `SECRET_KEYS`, a batch at a time; yields what was done.

    May be interrupted at any moment and run again. What no key can read is left as it is.
    """
    for using in outbox_aliases():
        for model, name in _encrypted_columns():
            column = _Column(model, name, using)
            for batch in column.batches():
                yield sum((column.rotate(*row, only_look=only_look) for row in batch), Rotated())


def _encrypted_columns() -> Iterator[tuple[type[models.Model], str]]:
    for model in apps.get_app_config(APP_LABEL).get_models():
        for field in model._meta.concrete_fields:
            if isinstance(field, EncryptedJSONField):
                yield model, field.name


@dataclass(frozen=True)
class _Column:
    model: type[models.Model]
    name: str
    using: str

    def batches(self) -> Iterator[list[tuple[Any, str]]]:
        """Primary keys and ciphertexts, in the order of the former."""
        rows = self._rows().filter(token__isnull=False).order_by("pk")
        ahead = rows
        while batch := list(ahead.values_list("pk", "token")[:BATCH]):
            yield batch
            ahead = rows.filter(pk__gt=batch[-1][0])

    def rotate(self, pk: Any, token: str, *, only_look: bool) -> Rotated:
        try:
            return Rotated(checked=1, stale=int(self._renew(pk, token, only_look=only_look)))
        except UnreadableSecret:
            return Rotated(checked=1, unreadable=(f"{self.model.__name__} {pk}: {self.name}",))

    def _renew(self, pk: Any, token: str | None, *, only_look: bool) -> bool:
        """Whether that was needed. `UnreadableSecret` if no key fits."""
        while token is not None and not is_current(token):
            new = encrypt(decrypt(token))
            # Each row in a transaction of its own, so that no worker waits for more than one; and
            # only as it was read: a secret that was rotated since must not come back.
            if only_look or on_contention(partial(self._replace, pk, token, new), self.using):
                return True
            token = self._rows().filter(pk=pk).values_list("token", flat=True).first()
        return False

    def _replace(self, pk: Any, token: str, new: str) -> int:
        value = models.Value(new, output_field=models.TextField())
        count: int = self._rows().filter(pk=pk, token=token).update(**{self.name: value})
        return count

    def _rows(self) -> Any:
        token = models.ExpressionWrapper(models.F(self.name), output_field=models.TextField())
        return self.model._base_manager.using(self.using).annotate(token=token)
