"""The public keys of a subscription as a JSON Web Key Set, for receivers that verify `v1a`.

The project mounts it where it likes, with the subscription's id in the path:
`path("webhooks/<uuid:subscription_id>/jwks.json", jwks)`. Public keys are for everyone, so
nobody is asked who they are.
"""

import base64
import hashlib
import json
from uuid import UUID

from django.http import Http404, HttpRequest, JsonResponse
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe

from django_webhooks import signing
from django_webhooks.models import Subscription

MAX_AGE = 300
"""Seconds that an answer may be kept: for how long a new key may be unknown to a receiver."""


@require_safe
@cache_control(public=True, max_age=MAX_AGE)
def jwks(request: HttpRequest, subscription_id: UUID) -> JsonResponse:
    """The keys, newest first; 404 without `SIGNING_KEYS`.

    They follow from the id: no row is read, so the answer does not tell which ids there are.
    """
    keys = Subscription(pk=subscription_id).public_keys
    if not keys:
        raise Http404("There are no SIGNING_KEYS.")
    response = JsonResponse({"keys": [as_jwk(key) for key in keys]})
    response["content-type"] = "application/jwk-set+json"
    return response


def as_jwk(public_key: str) -> dict[str, str]:
    """A public key (`whpk_…`) as a JSON Web Key (RFC 8037); `kid` is its thumbprint (RFC 7638)."""
    required = {
        "crv": "Ed25519",
        "kty": "OKP",
        "x": _base64url(signing.decode_public_key(public_key)),
    }
    canonical = json.dumps(required, separators=(",", ":"), sort_keys=True).encode()
    kid = _base64url(hashlib.sha256(canonical).digest())
    return {**required, "kid": kid, "use": "sig", "alg": "EdDSA"}


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")
