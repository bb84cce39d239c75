"""Values that lie encrypted in the database: secrets and custom headers.

Fernet (AES-128-CBC with HMAC) with the keys of `SECRET_KEYS`: the first encrypts, each may
decrypt, so a key is rotated by putting a new one in front.
"""

import base64
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.db import models
from django.views.decorators.debug import sensitive_variables

from django_webhooks.conf import settings
from django_webhooks.exceptions import UnreadableSecret

TOKEN_START = "gAAAA"  # noqa: S105
"""What each Fernet token begins with: version 0x80 and the upper bytes of the time."""


class Unreadable:
    """Stands for a value that none of the keys can read; keeps the ciphertext as it was.

    A lost key must neither break a list page nor destroy what a restored key could read.
    """

    def __init__(self, ciphertext: str) -> None:
        self.ciphertext = ciphertext

    def __repr__(self) -> str:
        return "<unreadable: none of SECRET_KEYS fits>"


class EncryptedJSONField(models.TextField):  # type: ignore[type-arg]
    """JSON values, encrypted at rest. Read as the value, or as `Unreadable`."""

    def get_prep_value(self, value: Any) -> str | None:
        if value is None:
            return None
        return value.ciphertext if isinstance(value, Unreadable) else encrypt(value)

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Any:
        if value is None:
            return None
        try:
            return decrypt(value)
        except UnreadableSecret:
            return Unreadable(value)

    def to_python(self, value: Any) -> Any:
        """Reads the ciphertext of a dump; any other value is the value itself."""
        is_dumped = isinstance(value, str) and value.startswith(TOKEN_START)
        return self.from_db_value(value, None, None) if is_dumped else value

    def value_to_string(self, obj: models.Model) -> str:
        """For `dumpdata`: the ciphertext, so that a dump holds no secret."""
        return self.get_prep_value(self.value_from_object(obj)) or ""


@sensitive_variables()
def encrypt(value: Any) -> str:
    """The JSON-able `value` as a Fernet token, made with the first of `SECRET_KEYS`."""
    return _fernet(settings.SECRET_KEYS).encrypt(json.dumps(value).encode()).decode()


@sensitive_variables()
def decrypt(token: str) -> Any:
    """The value in `token`; `UnreadableSecret` when none of `SECRET_KEYS` made it."""
    try:
        return json.loads(_decrypted(tuple(settings.SECRET_KEYS), token))
    except (InvalidToken, ValueError) as error:
        raise UnreadableSecret(
            "An encrypted value can't be read: put the key it was written with back into "
            "DJANGO_WEBHOOKS['SECRET_KEYS'] (or SECRET_KEY_FALLBACKS)."
        ) from error


def is_current(token: str) -> bool:
    """Whether the first of `SECRET_KEYS` made `token`."""
    try:
        _fernet(settings.SECRET_KEYS[:1]).decrypt(token)
    except InvalidToken:
        return False
    return True


@lru_cache(maxsize=1000)
@sensitive_variables()
def _decrypted(keys: Sequence[str], token: str) -> bytes:
    """Kept, for a worker reads the secret of a subscription with each of its deliveries."""
    return _fernet(keys).decrypt(token)


@lru_cache(maxsize=8)
def _fernet(keys: Sequence[str]) -> MultiFernet:
    return MultiFernet([Fernet(_derive(key)) for key in keys])


def _derive(key: str) -> bytes:
    """A Fernet key from any string (HKDF, RFC 5869), apart from all other uses of SECRET_KEY."""
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"django_webhooks secrets at rest")
    return base64.urlsafe_b64encode(hkdf.derive(key.encode()))
