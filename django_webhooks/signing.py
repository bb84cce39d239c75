"""Who sent this, and is it whole: the signatures of Standard Webhooks 1.0.

The signed text is `{id}.{timestamp}.{body}`, the algorithm HMAC-SHA256, the header a list of
`v1,<base64>` separated by spaces: one for each secret that counts, so that a secret can be
rotated without a gap. https://github.com/standard-webhooks/standard-webhooks, `spec/`.

Plain arguments, no settings: a receiver can use `verify` on its own.
"""

import base64
import hmac
import json
import re
import secrets as randomness
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .exceptions import SecretError, SignatureError

PREFIX = "whsec_"
VERSION = "v1"
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64

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


def decode_secret(secret: str) -> bytes:
    """The key inside `secret`, 24 to 64 bytes; SecretError (which never quotes it) otherwise."""
    if not isinstance(secret, str) or not secret.startswith(PREFIX):
        raise SecretError(f"A secret starts with {PREFIX}: use generate_secret().")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        key = None
    if key is None:
        raise SecretError(f"What follows {PREFIX} is not base64: use generate_secret().")
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise SecretError(
            f"A secret is {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64, "
            f"this one is {len(key)}: use generate_secret()."
        )
    return key


def sign(secrets: str | Sequence[str], id: str, timestamp: int, body: bytes | str) -> str:
    """The value of `webhook-signature`: one `v1,<base64>` per secret, in their order.

    `timestamp` is in whole seconds since 1970. SecretError for no or an unusable secret;
    SignatureError for an id or a timestamp that a receiver could not verify.
    """
    stamp = str(timestamp)
    _check_id(id)
    if not _TIMESTAMP.fullmatch(stamp):
        raise SignatureError("The timestamp is not a number of whole seconds since 1970.")
    text = _signed_text(id, stamp, _to_bytes(body))
    return " ".join(f"{VERSION},{_digest(key, text).decode()}" for key in _keys(secrets))


def verify(
    secrets: str | Sequence[str],
    headers: Mapping[str, str],
    body: bytes | str,
    *,
    tolerance: float = 300,
    now: float | datetime | None = None,
) -> Message:
    """The message, if one of `secrets` signed it at most `tolerance` seconds from `now`.

    `headers` is any mapping, in any case; `body` the bytes as they arrived; `now` (default:
    the clock) an aware datetime or seconds since 1970. Every bad input, of whatever type,
    raises SignatureError and nothing else.
    """
    try:
        keys = _keys(secrets)
    except SecretError as error:
        raise SignatureError(f"The secret can't be used. {error}") from None
    given = _lowered(headers)
    id, stamp, signatures = (_header(given, name) for name in ("id", "timestamp", "signature"))
    content = _to_bytes(body)
    _check_id(id)
    _check_time(stamp, tolerance, now)
    _check_signatures(signatures, keys, _signed_text(id, stamp, content))
    type_, data = _parse(content)
    return Message(id, datetime.fromtimestamp(int(stamp), UTC), content, type_, data)


def _keys(secrets: str | Sequence[str]) -> list[bytes]:
    if isinstance(secrets, str):
        secrets = [secrets]
    if not isinstance(secrets, Sequence) or not secrets:
        raise SecretError("There is no secret: give one, or a list with the newest first.")
    return [decode_secret(secret) for secret in secrets]


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


def _check_signatures(signatures: str, keys: Sequence[bytes], text: bytes) -> None:
    """One good signature is enough; tokens of other versions or no shape are passed over."""
    expected = [_digest(key, text) for key in keys]
    for token in signatures.split(" "):
        version, _, value = token.partition(",")
        given = value.encode("utf-8", "replace")
        if version == VERSION and any(hmac.compare_digest(given, good) for good in expected):
            return
    raise SignatureError(
        "No signature fits: check the secret, and that the body is the bytes as they arrived."
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
