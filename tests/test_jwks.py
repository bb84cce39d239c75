"""Anyone can fetch a subscription's public keys; what they verify is what was sent to it."""

import base64

import pytest
from django.urls import path

from django_webhooks.jwks import as_jwk, jwks
from django_webhooks.models import Subscription
from django_webhooks.signing import generate_signing_key, sign, verify

urlpatterns = [path("hooks/<uuid:subscription_id>/jwks.json", jwks)]
pytestmark = pytest.mark.urls(__name__)


@pytest.fixture
def keys(settings) -> list[str]:
    keys = [generate_signing_key(), generate_signing_key()]
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "SIGNING_KEYS": keys}
    return keys


def address(subscription: Subscription) -> str:
    return f"/hooks/{subscription.pk}/jwks.json"


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_the_published_thumbprint():
    """The key of RFC 8037, appendix A; its thumbprint is in A.3."""
    x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    public_key = "whpk_" + base64.b64encode(unpadded(x)).decode()
    assert as_jwk(public_key) == {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": x,
        "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
        "use": "sig",
        "alg": "EdDSA",
    }


def test_the_keys_of_the_set_verify_what_is_signed(client, keys):
    """Without a database: the keys follow from the id."""
    subscription = Subscription(signature="v1a")
    shown = client.get(address(subscription)).json()["keys"]
    given = [f"whpk_{base64.b64encode(unpadded(each['x'])).decode()}" for each in shown]
    assert given == subscription.public_keys
    signing_keys = subscription.signing_secrets
    for public_key, signing_key in zip(given, signing_keys, strict=True):
        headers = {
            "webhook-id": "evt_1",
            "webhook-timestamp": "1764000000",
            "webhook-signature": sign(signing_key, "evt_1", 1764000000, b"{}"),
        }
        assert verify(public_key, headers, b"{}", now=1764000000).id == "evt_1"


def test_each_subscription_has_keys_of_its_own(client, keys):
    answers = [client.get(address(Subscription())).json()["keys"] for _ in range(3)]
    assert len({each["kid"] for answer in answers for each in answer}) == 6


def test_the_answer_may_be_kept_and_holds_nothing_secret(client, keys):
    subscription = Subscription()
    response = client.get(address(subscription))
    assert response["cache-control"] == "public, max-age=300"
    assert response["content-type"] == "application/jwk-set+json"
    assert "set-cookie" not in response
    assert all(
        set(each) == {"kty", "crv", "x", "kid", "use", "alg"} for each in response.json()["keys"]
    )
    for key in (*keys, *subscription._signing_keys()):
        assert key.removeprefix("whsk_").rstrip("=") not in response.text


def test_it_is_read_only(client, keys):
    url = address(Subscription())
    assert client.head(url).status_code == 200
    assert client.post(url).status_code == 405


def test_without_signing_keys_there_is_nothing(client, db):
    assert client.get(address(Subscription())).status_code == 404
