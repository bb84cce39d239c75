"""What a receiver can rely on: only what a secret's owner sent, unchanged and recent."""

import base64
import hmac
import json
import time
from datetime import UTC, datetime, timedelta

import nacl.signing
import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from django_webhooks.exceptions import SecretError, SignatureError
from django_webhooks.signing import (
    Message,
    decode_public_key,
    decode_secret,
    derive_signing_key,
    generate_secret,
    generate_signing_key,
    public_key_of,
    sign,
    verify,
)

# Published with the specification and its libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = '{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

# Published in the tests of their Go library, for the same id, timestamp and body.
SIGNING_KEY = "whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk="
SIGNATURE_A = (
    "v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag=="
)
PUBLIC_KEY = public_key_of(SIGNING_KEY)

OTHER = "whsec_" + base64.b64encode(bytes(range(32))).decode()


def headers(**changed):
    given = {"id": ID, "timestamp": str(TIMESTAMP), "signature": SIGNATURE, **changed}
    return {f"Webhook-{name}": value for name, value in given.items()}


def check(secrets=SECRET, given=None, body=BODY, *, now=TIMESTAMP, **kwargs):
    return verify(secrets, headers() if given is None else given, body, now=now, **kwargs)


# Secrets.


def test_a_generated_secret_holds_32_random_bytes():
    assert len(decode_secret(generate_secret())) == 32
    assert generate_secret() != generate_secret()


@pytest.mark.parametrize("length", [24, 32, 64])
def test_24_to_64_bytes_are_a_secret(length):
    key = bytes(range(length))
    assert decode_secret("whsec_" + base64.b64encode(key).decode()) == key


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        OTHER.rstrip("="),
        OTHER + "\n",
        SECRET + "!canary",
        "whsec_canary ümläut",
        "whsec_\ud800",
        None,
        b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        7,
    ],
)
def test_anything_else_is_refused_without_being_quoted(secret):
    with pytest.raises(SecretError, match="generate_secret") as caught:
        decode_secret(secret)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


# Keys.


def test_a_generated_key_pair_signs_and_verifies():
    key = generate_signing_key()
    assert key != generate_signing_key()
    given = headers(signature=sign(key, ID, TIMESTAMP, BODY))
    assert check(public_key_of(key), given).id == ID


def test_each_label_has_a_key_of_its_own():
    key = generate_signing_key()
    derived = {derive_signing_key(each, label) for each in (key, SIGNING_KEY) for label in "ab"}
    assert len(derived - {key, SIGNING_KEY}) == 4
    assert derive_signing_key(key, "a") in derived


def test_derived_keys_stay_the_same_from_release_to_release():
    """Receivers have pinned what belongs to them."""
    assert (
        public_key_of(derive_signing_key(SIGNING_KEY, "a"))
        == "whpk_m680eDoQp5HQv30PU/h5JdHG+tcP/AAPoaH61Q37Szo="
    )


@pytest.mark.parametrize("length", [0, 31, 33, 64])
@pytest.mark.parametrize(
    ("read", "prefix"),
    [
        (public_key_of, "whsk_"),
        (lambda key: derive_signing_key(key, "a"), "whsk_"),
        (decode_public_key, "whpk_"),
    ],
)
def test_what_is_no_key_is_refused_without_being_quoted(read, prefix, length):
    value = prefix + base64.b64encode(bytes(length)).decode()
    for wrong in (value, prefix + "canary!", SECRET, "canary", None, 7):
        with pytest.raises(SecretError) as caught:
            read(wrong)
        assert "canary" not in str(caught.value)
        assert caught.value.__context__ is None


# Signing.


def test_the_published_vector():
    assert sign([SECRET], ID, TIMESTAMP, BODY) == SIGNATURE
    assert sign([SECRET], ID, TIMESTAMP, BODY.encode()) == SIGNATURE


def test_each_secret_signs_in_its_order():
    both = sign([OTHER, SECRET], ID, TIMESTAMP, BODY)
    assert both == f"{sign([OTHER], ID, TIMESTAMP, BODY)} {SIGNATURE}"


@pytest.mark.parametrize("secrets", [[], (), "", None, ["whsec_no"], [None], 5])
def test_nothing_is_signed_without_a_good_secret(secrets):
    with pytest.raises(SecretError):
        sign(secrets, ID, TIMESTAMP, BODY)


def test_the_published_vector_of_v1a():
    assert sign([SIGNING_KEY], ID, TIMESTAMP, BODY) == SIGNATURE_A
    assert check(PUBLIC_KEY, headers(signature=SIGNATURE_A)).id == ID


def test_secrets_and_keys_sign_side_by_side():
    assert sign([SIGNING_KEY, SECRET], ID, TIMESTAMP, BODY) == f"{SIGNATURE_A} {SIGNATURE}"


def test_a_public_key_signs_nothing():
    with pytest.raises(SecretError):
        sign([PUBLIC_KEY], ID, TIMESTAMP, BODY)


@pytest.mark.parametrize(
    ("id", "timestamp", "body"),
    [
        ("", TIMESTAMP, BODY),
        ("msg.1", TIMESTAMP, BODY),
        ("a b", TIMESTAMP, BODY),
        ("a\n", TIMESTAMP, BODY),
        (None, TIMESTAMP, BODY),
        (ID, -1, BODY),
        (ID, 1.5, BODY),
        (ID, None, BODY),
        (ID, 10**12, BODY),
        (ID, TIMESTAMP, None),
        (ID, TIMESTAMP, 5),
        (ID, TIMESTAMP, "\ud800"),
    ],
)
def test_what_could_not_be_verified_is_not_signed(id, timestamp, body):
    with pytest.raises(SignatureError):
        sign([SECRET], id, timestamp, body)


# Verifying.


def test_the_message_tells_what_was_sent():
    body = b'{"type": "shop.order.updated", "data": {"object": {"id": 1}}}'
    given = headers(signature=sign([SECRET], ID, TIMESTAMP, body))
    assert check(given=given, body=body) == Message(
        id=ID,
        timestamp=datetime.fromtimestamp(TIMESTAMP, UTC),
        body=body,
        type="shop.order.updated",
        data={"object": {"id": 1}},
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[1]",
        b'"x"',
        b"{}",
        b'{"type": 5}',
        b"\xff\xfe\x00",
        b"not json",
        b"[" * 10**5,
    ],
)
def test_a_body_of_any_kind_verifies(body):
    message = check(given=headers(signature=sign([SECRET], ID, TIMESTAMP, body)), body=body)
    assert (message.type, message.data, message.body) == ("", None, body)


class LikeDjango(CaseInsensitiveDict):
    """Django's HttpHeaders: a case-insensitive mapping with title-case names."""


@pytest.mark.parametrize(
    "given",
    [
        headers(),
        {name.lower(): value for name, value in headers().items()},
        {name.upper(): value for name, value in headers().items()},
        CaseInsensitiveDict(headers()),
        {**headers(), "Other": None, 5: 5, None: b""},
    ],
)
def test_headers_are_found_in_any_case(given):
    assert check(given=given).id == ID


@pytest.mark.parametrize("secrets", [SECRET, [SECRET], (OTHER, SECRET), [SECRET, OTHER]])
def test_one_fitting_secret_is_enough(secrets):
    assert check(secrets).id == ID


def test_through_a_rotation_old_and_new_receivers_verify():
    given = headers(signature=sign([OTHER, SECRET], ID, TIMESTAMP, BODY))
    for secrets in (SECRET, OTHER):
        assert check(secrets, given).id == ID


def test_a_receiver_that_changes_from_v1_to_v1a_verifies_both():
    for signature in (SIGNATURE, SIGNATURE_A, f"{SIGNATURE_A} {SIGNATURE}"):
        assert check([SECRET, PUBLIC_KEY], headers(signature=signature)).id == ID


def test_a_public_key_is_never_the_secret_of_an_hmac():
    """Everyone has it: whoever signs with it as if it were a secret must get nowhere."""
    text = f"{ID}.{TIMESTAMP}.{BODY}".encode()
    for key in (decode_public_key(PUBLIC_KEY), PUBLIC_KEY.encode(), PUBLIC_KEY[5:].encode()):
        digest = base64.b64encode(hmac.digest(key, text, "sha256")).decode()
        for version in ("v1", "v1a"):
            with pytest.raises(SignatureError, match="fits"):
                check(PUBLIC_KEY, headers(signature=f"{version},{digest}"))


def test_a_signature_counts_under_its_own_version_only():
    for secrets, signature in (
        (PUBLIC_KEY, SIGNATURE_A.replace("v1a", "v1")),
        (SECRET, SIGNATURE.replace("v1", "v1a")),
        (SECRET, SIGNATURE_A),
        (PUBLIC_KEY, SIGNATURE),
    ):
        with pytest.raises(SignatureError, match="fits"):
            check(secrets, headers(signature=signature))


def test_who_can_sign_can_verify():
    assert check(SIGNING_KEY, headers(signature=SIGNATURE_A)).id == ID


def test_a_flood_of_signatures_is_refused():
    """Each would cost a pass over the body, and nobody has to be known to send them."""
    check(PUBLIC_KEY, headers(signature="v1a,AAAA " * 15 + SIGNATURE_A))
    with pytest.raises(SignatureError, match="more than"):
        check(PUBLIC_KEY, headers(signature="v1a,AAAA " * 16 + SIGNATURE_A))


@pytest.mark.parametrize(
    "signature",
    [
        "v1a",
        "v1a,",
        "v1a,AAAA",
        "v1a,%%%",
        "v1a,é",
        "v1a,\ud800",
        SIGNATURE_A.replace("v1a", "V1A"),
        SIGNATURE_A.rstrip("="),
        SIGNATURE_A + "=",
        SIGNATURE_A + "\n",
        SIGNATURE_A[:-3] + "h==",  # the same bytes, written another way
        "v1a," + base64.b64encode(bytes(64)).decode(),
        "v1a," + base64.b64encode(base64.b64decode(SIGNATURE_A[4:]) + b"x").decode(),
    ],
)
def test_no_other_signature_of_v1a_fits(signature):
    with pytest.raises(SignatureError):
        check(PUBLIC_KEY, headers(signature=signature))


def test_what_was_signed_with_a_key_can_not_be_changed():
    given = headers(signature=SIGNATURE_A)
    for secrets, changed, body in (
        (public_key_of(generate_signing_key()), given, BODY),
        (PUBLIC_KEY, {**given, "Webhook-id": "msg_other"}, BODY),
        (PUBLIC_KEY, {**given, "Webhook-timestamp": str(TIMESTAMP + 1)}, BODY),
        (PUBLIC_KEY, given, BODY + " "),
    ):
        with pytest.raises(SignatureError, match="fits"):
            check(secrets, changed, body)


@pytest.mark.parametrize(
    "before",
    [
        "v1,AAAA ",
        "v1a,AAAA ",
        "v2,x ",
        "nocomma ",
        ",, ",
        "v1, ",
        "v1,%%% ",
        "v1,é ",
        "  ",
        "v1,\ud800 ",
    ],
)
def test_a_bad_token_does_not_hide_a_good_one(before):
    assert check(given=headers(signature=before + SIGNATURE)).id == ID


@pytest.mark.parametrize(
    "signature",
    [
        "",
        " ",
        "v1",
        "v1,",
        SIGNATURE.removeprefix("v1,"),
        SIGNATURE.replace("v1", "v2"),
        SIGNATURE.replace("v1", "V1"),
        SIGNATURE.rstrip("="),
        SIGNATURE + "=",
        SIGNATURE + "\n",
        SIGNATURE[:-2] + "F=",
        "v1,é",
        None,
        SIGNATURE.encode(),
        [SIGNATURE],
    ],
)
def test_no_other_signature_fits(signature):
    with pytest.raises(SignatureError):
        check(given=headers(signature=signature))


@pytest.mark.parametrize(
    "changed",
    [
        {"id": "msg_other"},
        {"id": ""},
        {"id": f"{ID}.{TIMESTAMP}"},
        {"id": ID + "\0"},
        {"id": ID.encode()},
        {"timestamp": str(TIMESTAMP + 1)},
        {"timestamp": f"0{TIMESTAMP}"},
    ],
)
def test_what_was_signed_can_not_be_changed(changed):
    with pytest.raises(SignatureError):
        check(given=headers(**changed))
    with pytest.raises(SignatureError):
        check(body=BODY + " ")
    with pytest.raises(SignatureError):
        check(OTHER)


def test_a_shifted_full_stop_does_not_make_a_second_reading():
    body = "1614265331.rest"
    signature = sign([SECRET], ID, TIMESTAMP, body)
    given = headers(id=f"{ID}.{TIMESTAMP}", timestamp="1614265331", signature=signature)
    with pytest.raises(SignatureError, match="id"):
        check(given=given, body="rest")


@pytest.mark.parametrize("offset", [-300, 0, 300])
def test_within_the_tolerance(offset):
    assert check(now=TIMESTAMP + offset)
    assert check(now=datetime.fromtimestamp(TIMESTAMP + offset, UTC))


@pytest.mark.parametrize(("offset", "word"), [(301, "old"), (-301, "new"), (10**9, "old")])
def test_too_old_and_too_new_are_refused(offset, word):
    with pytest.raises(SignatureError, match=word):
        check(now=TIMESTAMP + offset)


def test_the_clock_is_the_default():
    now = int(time.time())
    given = headers(timestamp=str(now), signature=sign([SECRET], ID, now, BODY))
    assert verify(SECRET, given, BODY).timestamp == datetime.fromtimestamp(now, UTC)
    with pytest.raises(SignatureError, match="old"):
        verify(SECRET, headers(), BODY)


@pytest.mark.parametrize(
    "stamp",
    ["", " ", "-1", "+1614265330", "1614265330.0", "1.6e9", " 1614265330", "1614265330\n", "0x1",
     "１６１４２６５３３０", "²", "1_614_265_330", "9" * 12, "9" * 5000, "nan", "inf", None,
     TIMESTAMP, b"1614265330"],
)  # fmt: skip
def test_only_plain_digits_are_a_timestamp(stamp):
    with pytest.raises(SignatureError):
        check(given=headers(timestamp=stamp))


def test_the_largest_timestamp_is_a_date():
    stamp = 99_999_999_999
    given = headers(timestamp=str(stamp), signature=sign([SECRET], ID, stamp, BODY))
    assert check(given=given, now=stamp).timestamp.year == 5138


def test_a_timestamp_beyond_all_dates():
    key, stamp = decode_secret(SECRET), "9" * 12
    digest = hmac.digest(key, f"{ID}.{stamp}.{BODY}".encode(), "sha256")
    signature = "v1," + base64.b64encode(digest).decode()
    with pytest.raises(SignatureError):
        check(given=headers(timestamp=stamp, signature=signature), now=int(stamp))


class Exploding(dict):
    def items(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "given",
    [{}, None, 5, "x", b"x", [], [("webhook-id", ID)], Exploding(),
     {"webhook-id": "twice", **headers()}, object()],
)  # fmt: skip
def test_bad_headers(given):
    with pytest.raises(SignatureError):
        verify(SECRET, given, BODY, now=TIMESTAMP)


@pytest.mark.parametrize("body", [None, 5, [], {}, object(), json.loads(BODY), "\ud800"])
def test_bad_bodies(body):
    with pytest.raises(SignatureError):
        check(body=body)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_any_kind(kind):
    assert check(body=kind(BODY.encode())).body == BODY.encode()


@pytest.mark.parametrize(
    "secrets",
    [
        None,
        "",
        [],
        5,
        b"x",
        [None],
        ["whsec_canary!"],
        {SECRET},
        object(),
        ["whpk_canary!"],
        "whpk_",
        "whsk_canary",
        PUBLIC_KEY[:-4],
        [SECRET, "whpk_QUJD"],
        "whpk_\ud800",
    ],
)
def test_bad_secrets_are_a_signature_error_too(secrets):
    with pytest.raises(SignatureError) as caught:
        check(secrets)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("now", "tolerance"),
    [
        (float("nan"), 300),
        (float("inf"), 300),
        (TIMESTAMP, float("nan")),
        (TIMESTAMP, None),
        (TIMESTAMP, "300"),
        (TIMESTAMP, -1),
        ("now", 300),
        (datetime(2021, 2, 25, 15, 2, 10), 300),  # noqa: DTZ001
        (timedelta(1), 300),
        (10**400, 300),
        (datetime.max.replace(tzinfo=UTC), 300),
    ],
)
def test_bad_times(now, tolerance):
    with pytest.raises(SignatureError):
        check(now=now, tolerance=tolerance)


anything = st.one_of(
    st.none(),
    st.text(),
    st.binary(),
    st.integers(),
    st.floats(),
    st.lists(st.text()),
    st.booleans(),
)


any_key = st.binary(min_size=32, max_size=32).map(
    lambda key: "whpk_" + base64.b64encode(key).decode()  # mostly no point of the curve
)
any_token = st.tuples(
    st.sampled_from(["v1,", "v1a,", "v2,"]),
    st.binary(max_size=65).map(lambda value: base64.b64encode(value).decode()),
).map("".join)


@given(
    secrets=st.one_of(st.sampled_from([SECRET, PUBLIC_KEY]), any_key, anything),
    given_=st.one_of(
        anything,
        st.fixed_dictionaries(
            {},
            optional={
                "Webhook-ID": st.one_of(st.just(ID), anything),
                "webhook-timestamp": st.one_of(st.just(str(TIMESTAMP)), anything),
                "webhook-signature": st.one_of(st.text("v1a,= \0é"), any_token, anything),
            },
        ),
    ),
    body=anything,
    now=st.one_of(st.just(TIMESTAMP), st.datetimes(), anything),
)
def test_verify_raises_nothing_but_signature_error(secrets, given_, body, now):
    with pytest.raises(SignatureError):
        verify(secrets, given_, body, now=now)


# With the reference library.


@given(st.text(), st.binary(min_size=24, max_size=64))
def test_standardwebhooks_verifies_what_we_sign(body, key):
    secret = "whsec_" + base64.b64encode(key).decode()
    now = int(time.time())
    given = headers(timestamp=str(now), signature=sign([OTHER, secret], ID, now, body))
    standardwebhooks.Webhook(secret).verify(body.encode(), given, json_parse=False)


@given(st.text(), st.binary(min_size=24, max_size=64))
def test_we_verify_what_standardwebhooks_signs(body, key):
    secret = "whsec_" + base64.b64encode(key).decode()
    now = datetime.now(UTC).replace(microsecond=0)
    signature = standardwebhooks.Webhook(secret).sign(ID, now, body)
    given = headers(timestamp=str(int(now.timestamp())), signature=signature)
    assert verify([OTHER, secret], given, body).body == body.encode()


# With libsodium, by PyNaCl: another implementation of ed25519 than that of `cryptography`.


@given(st.text(), st.binary(min_size=32, max_size=32))
def test_libsodium_verifies_what_we_sign(body, seed):
    key = "whsk_" + base64.b64encode(seed).decode()
    token = sign([SECRET, key], ID, TIMESTAMP, body).split(" ")[1]
    verifier = nacl.signing.VerifyKey(base64.b64decode(public_key_of(key).removeprefix("whpk_")))
    text = f"{ID}.{TIMESTAMP}.{body}".encode()
    assert verifier.verify(text, base64.b64decode(token.removeprefix("v1a,"))) == text


@given(st.text(), st.binary(min_size=32, max_size=32))
def test_we_verify_what_libsodium_signs(body, seed):
    signer = nacl.signing.SigningKey(seed)
    signed = signer.sign(f"{ID}.{TIMESTAMP}.{body}".encode())
    public_key = "whpk_" + base64.b64encode(bytes(signer.verify_key)).decode()
    given = headers(signature="v1a," + base64.b64encode(signed.signature).decode())
    assert check([OTHER, public_key], given, body).body == body.encode()
