"""What keeps two requests from undoing or doubling each other: `If-Match`, `Idempotency-Key`."""

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.crypto import salted_hmac
from django.utils.http import parse_etags
from django.utils.translation import gettext as _
from rest_framework.exceptions import ValidationError
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request

from django_webhooks.api.errors import PreconditionFailed

NAMESPACE = uuid.UUID("6f0b3b1e-5f0c-5c1e-9a51-6c1e3d0e8f27")
"""Of the ids that are made from an owner and a key (RFC 9562, 5.5)."""

KEY = re.compile(r"[\x21-\x7e]{1,255}")


def etag_of(shown: Mapping[str, Any]) -> str:
    """The entity tag of a subscription as it is shown, whatever language it is in."""
    rules = [{name: rule[name] for name in ("event_type", "conditions")} for rule in shown["rules"]]
    text = JSONRenderer().render({**shown, "rules": rules, "warnings": None, "secret": None})
    return f'"{hashlib.sha256(text).hexdigest()[:32]}"'


def is_known(request: Request, etag: str) -> bool:
    """Whether the caller has it already: `If-None-Match` (RFC 9110, 13.1.2)."""
    return _names(request.headers.get("If-None-Match", ""), etag)


def check_match(request: Request, etag: str) -> None:
    """`PreconditionFailed` unless `If-Match` names `etag`, or is not there."""
    if "If-Match" in request.headers and not _names(request.headers["If-Match"], etag):
        raise PreconditionFailed


def _names(header: str, etag: str) -> bool:
    # A proxy that compresses makes a tag weak; what it stands for is the same.
    given = {each.removeprefix("W/") for each in parse_etags(header)}
    return bool(given & {"*", etag})


@dataclass(frozen=True)
class WantedOnce:
    """What an `Idempotency-Key` asks for: an object with this id, made from this body."""

    pk: uuid.UUID
    digest: str


def wanted_once(request: Request, caller: str) -> WantedOnce | None:
    """None without the header; `ValidationError` for a key that is none.

    The id is made from who calls and the key, so the primary key itself sees to it that there is
    only one.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not KEY.fullmatch(key):
        raise ValidationError(
            {"Idempotency-Key": [_("Use 1 to 255 visible ASCII characters, as of a UUID.")]}
        )
    text = json.dumps(request.data, sort_keys=True)
    digest = salted_hmac("django_webhooks.api", text, algorithm="sha256").hexdigest()
    return WantedOnce(uuid.uuid5(NAMESPACE, f"{caller} {key}"), digest)
