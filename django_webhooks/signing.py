"""Who sent this, and is it whole: the signatures of Standard Webhooks 1.0.

The signed text is `{id}.{timestamp}.{body}`, the header a list of `<version>,<base64>` separated
by spaces: one for each secret that counts, so that a secret can be rotated without a gap. `v1` is
HMAC-SHA256 with a secret that both sides have; `v1a` is ed25519 with a key pair of which the
receiver has the public key alone. The prefix of a secret or key says which of the two it is for,
and it is never used for the other. https://github.com/standard-webhooks/standard-webhooks, `spec/`.

Plain arguments, no settings: a receiver can use `verify` on its own.
"""

import base64
import hmac
import json
import re
import secrets as randomness
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .exceptions import SecretError, SignatureError

PREFIX, SIGNING_PREFIX, PUBLIC_PREFIX = "whsec_", "whsk_", "whpk_"
VERSION, ASYMMETRIC_VERSION = "v1", "v1a"
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64
KEY_BYTES = 32
MAX_SIGNATURES = 16  # each costs a pass over the body, whoever sent it

_TIMESTAMP = re.compile(r"[0-9]{1,11}", re.ASCII)  # 11 digits end in the year 5138
_ID = re.compile(r"[!-\-/-~]{1,255}", re.ASCII)  # visible ASCII without the full stop

Body = bytes | bytearray | memoryview | str


@dataclass(frozen=True)
class Message:
    """What a verified request said.

    `type` and `data` are those of the body if it is a JSON object that has them; a body of
    any other kind verifies just as well and leaves them "" and None. `body` holds the bytes
    that were signed; `timestamp` (aware, UTC) is when this attempt was sent.
    """

    id: str
    timestamp: datetime
    body: bytes
    type: str
    data: Any


def generate_secret() -> str:
    """A new secret: `whsec_` + base64 of 32 random bytes."""
    return PREFIX + base64.b64encode(randomness.token_bytes(32)).decode("ascii")


def generate_signing_key() -> str:
    """A new ed25519 key: `whsk_` + base64 of its 32 random bytes."""
    return _encode(SIGNING_PREFIX, randomness.token_bytes(KEY_BYTES))


def derive_signing_key(key: str, label: str) -> str:
    """The signing key (`whsk_…`) for `label` that belongs to the signing key `key`.

    The same two always give the same; from what it gives, neither `key` nor the key for another
    label can be found (HKDF, RFC 5869).
    """
    info = f"django_webhooks signing key {label}".encode()
    hkdf = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info)
    return _encode(SIGNING_PREFIX, hkdf.derive(_decode_signing_key(key)))


def public_key_of(key: str) -> str:
    """The public key (`whpk_…`) of the signing key `key` (`whsk_…`): what its receivers need."""
    return _encode(PUBLIC_PREFIX, _signer(key).public_key().public_bytes_raw())


def decode_secret(secret: str) -> bytes:
    """The key inside `secret`, 24 to 64 bytes; SecretError (which never quotes it) otherwise."""
    key = _decode(PREFIX, secret, "A secret", "Use generate_secret().")
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise SecretError(
            f"A secret is {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64, "
            f"this one is {len(key)}.",
            "Use generate_secret().",
        )
    return key


def decode_public_key(key: str) -> bytes:
    """The 32 bytes inside `key`; SecretError otherwise."""
    return _decode_key(PUBLIC_PREFIX, key, "A public key", "Use public_key_of().")


def sign(secrets: str | Sequence[str], id: str, timestamp: int, body: bytes | str) -> str:
    """The value of `webhook-signature`: one `<version>,<base64>` per secret, in their order.

    A secret (`whsec_…`) makes a `v1`, a signing key (`whsk_…`) a `v1a`.
    `timestamp` is in whole seconds since 1970. SecretError for no or an unusable secret;
    SignatureError for an id or a timestamp that a receiver could not verify.
    """
    stamp = str(timestamp)
    _check_id(id)
    if not _TIMESTAMP.fullmatch(stamp):
        raise SignatureError("The timestamp is not a number of whole seconds since 1970.")
    text = _signed_text(id, stamp, _to_bytes(body))
    return " ".join(_token(secret, text) for secret in _listed(secrets))


def verify(
    secrets: str | Sequence[str],
    headers: Mapping[str, str],
    body: bytes | str,
    *,
    tolerance: float = 300,
    now: float | datetime | None = None,
) -> Message:
    """The message, if one of `secrets` signed it at most `tolerance` seconds from `now`.

    A secret (`whsec_…`) verifies `v1`, a public key (`whpk_…`) `v1a`, and neither the other.
    `headers` is any mapping, in any case; `body` the bytes as they arrived; `now` (default:
    the clock) an aware datetime or seconds since 1970. Every bad input, of whatever type,
    raises SignatureError and nothing else.
    """
    try:
        verifiers = [_verifier(secret) for secret in _listed(secrets)]
    except SecretError as error:
        raise SignatureError(f"The secret can't be used. {error}") from None
    given = _lowered(headers)
    id, stamp, signatures = (_header(given, name) for name in ("id", "timestamp", "signature"))
    content = _to_bytes(body)
    _check_id(id)
    _check_time(stamp, tolerance, now)
    _check_signatures(signatures, verifiers, _signed_text(id, stamp, content))
    type_, data = _parse(content)
    return Message(id, datetime.fromtimestamp(int(stamp), UTC), content, type_, data)


def _listed(secrets: str | Sequence[str]) -> Sequence[str]:
    if isinstance(secrets, str):
        secrets = [secrets]
    if not isinstance(secrets, Sequence) or not secrets:
        raise SecretError("There is no secret: give one, or a list with the newest first.")
    return secrets


def _has_prefix(secret: str, prefix: str) -> bool:
    return isinstance(secret, str) and secret.startswith(prefix)


def _encode(prefix: str, key: bytes) -> str:
    return prefix + base64.b64encode(key).decode("ascii")


def _decode(prefix: str, secret: str, what: str, mend: str) -> bytes:
    if not _has_prefix(secret, prefix):
        raise SecretError(f"{what} starts with {prefix}, and base64 follows.", mend)
    try:
        key = base64.b64decode(secret.removeprefix(prefix), validate=True)
    except ValueError:
        key = None
    if key is None:
        raise SecretError(f"What follows {prefix} is not base64.", mend)
    return key


def _decode_key(prefix: str, key: str, what: str, mend: str) -> bytes:
    decoded = _decode(prefix, key, what, mend)
    if len(decoded) != KEY_BYTES:
        raise SecretError(f"{what} is {KEY_BYTES} bytes in base64, not {len(decoded)}.", mend)
    return decoded


def _decode_signing_key(key: str) -> bytes:
    return _decode_key(SIGNING_PREFIX, key, "A signing key", "Use generate_signing_key().")


def _signer(key: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(_decode_signing_key(key))


def _token(secret: str, text: bytes) -> str:
    if _has_prefix(secret, SIGNING_PREFIX):
        return f"{ASYMMETRIC_VERSION},{base64.b64encode(_signer(secret).sign(text)).decode()}"
    return f"{VERSION},{_digest(decode_secret(secret), text).decode()}"


Verifier = tuple[str, Callable[[bytes, bytes], bool]]
"""The one version that it is for, and whether a signed text and a signature (base64) fit."""


def _verifier(secret: str) -> Verifier:
    if _has_prefix(secret, SIGNING_PREFIX):  # who can sign can verify: the sender's own tools
        secret = public_key_of(secret)
    if _has_prefix(secret, PUBLIC_PREFIX):
        key = Ed25519PublicKey.from_public_bytes(decode_public_key(secret))
        return ASYMMETRIC_VERSION, partial(_fits_key, key)
    return VERSION, partial(_fits_secret, decode_secret(secret))


def _fits_secret(key: bytes, text: bytes, signature: bytes) -> bool:
    return hmac.compare_digest(signature, _digest(key, text))


def _fits_key(key: Ed25519PublicKey, text: bytes, signature: bytes) -> bool:
    try:
        decoded = base64.b64decode(signature, validate=True)
        key.verify(decoded, text)
    except (ValueError, InvalidSignature):
        return False
    return base64.b64encode(decoded) == signature  # one way to write it, as with `v1`


def _lowered(headers: Mapping[str, str]) -> dict[str, Any]:
    """The headers by lower-case name; one that is there twice can't be trusted: None."""
    lowered: dict[str, Any] = {}
    try:
        for name, value in headers.items():
            if isinstance(name, str):
                key = name.lower()
                lowered[key] = None if key in lowered else value
    except Exception as error:
        raise SignatureError("The headers are not a mapping of names to values.") from error
    return lowered


def _header(given: Mapping[str, Any], suffix: str) -> str:
    value = given.get(f"webhook-{suffix}")
    if not isinstance(value, str) or not value:
        raise SignatureError(f"The header webhook-{suffix} must be there once, as text.")
    return value


def _to_bytes(body: Body) -> bytes:
    if isinstance(body, str):
        try:
            return body.encode()
        except UnicodeEncodeError:
            raise SignatureError("The body is not text that can be sent: give bytes.") from None
    if not isinstance(body, bytes | bytearray | memoryview):
        raise SignatureError("The body must be the bytes as they arrived, before any parsing.")
    return bytes(body)


def _check_id(id: str) -> None:
    """A full stop would let one signature stand for two readings of the signed text."""
    if not isinstance(id, str) or not _ID.fullmatch(id):
        raise SignatureError("The id must be 1 to 255 visible ASCII characters without a '.'.")


def _check_time(stamp: str, tolerance: float, now: float | datetime | None) -> None:
    if not _TIMESTAMP.fullmatch(stamp):
        raise SignatureError("The timestamp is not a number of whole seconds since 1970.")
    try:
        age = _seconds(now) - int(stamp)
        too_old, too_new = not age <= tolerance, not -age <= tolerance  # true for NaN
    except (TypeError, ValueError, OverflowError) as error:
        raise SignatureError("`now` or `tolerance` is not a time.") from error
    if too_old or too_new:
        raise SignatureError(
            f"The timestamp is too {'old' if too_old else 'new'}: "
            "a replay, or a clock is wrong; compare both clocks."
        )


def _seconds(now: float | datetime | None) -> float:
    if now is None:
        return time.time()
    if isinstance(now, datetime):
        if now.tzinfo is None:
            raise ValueError("naive datetime")
        return now.timestamp()
    return now


def _check_signatures(signatures: str, verifiers: Sequence[Verifier], text: bytes) -> None:
    """One good signature is enough; tokens of other versions or no shape are passed over."""
    tokens = signatures.split(" ")
    if len(tokens) > MAX_SIGNATURES:
        raise SignatureError(f"There are more than {MAX_SIGNATURES} signatures.")
    for token in tokens:
        version, _, value = token.partition(",")
        given = value.encode("utf-8", "replace")
        if any(version == its_own and fits(text, given) for its_own, fits in verifiers):
            return
    raise SignatureError(
        "No signature fits: check the secret or public key, and that the body is the bytes as "
        "they arrived."
    )


def _signed_text(id: str, stamp: str, body: bytes) -> bytes:
    return f"{id}.{stamp}.".encode() + body


def _digest(key: bytes, text: bytes) -> bytes:
    return base64.b64encode(hmac.digest(key, text, "sha256"))


def _parse(body: bytes) -> tuple[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return "", None
    if not isinstance(content, dict):
        return "", None
    type_ = content.get("type")
    return type_ if isinstance(type_, str) else "", content.get("data")
