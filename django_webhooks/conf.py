"""The settings: one dict, `DJANGO_WEBHOOKS`, each key with its default and its check.

A value is read when it is used, so `override_settings` acts at once. This is the only module
that reads `django.conf.settings`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.utils.module_loading import import_string

NAME = "DJANGO_WEBHOOKS"

MAX_TIMEOUT = 30.0
"""Seconds; an exchange never lasts longer, whatever is configured (Standard Webhooks: 15-30 s)."""

MAX_DELAY = 366 * 86400
"""Seconds between two attempts; who waits for longer than a year does not wait for an answer."""

MAX_SIGNING_KEYS = 8
"""Each of them signs each request."""

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Option:
    """A key of the dict: its default, and a sentence that a right value makes true."""

    default: Any
    expects: str
    is_valid: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_schedule(value: Any) -> bool:
    return _is_sequence(value) and all(
        _is_number(delay) and 0 <= delay <= MAX_DELAY for delay in value
    )


def _is_network_list(value: Any) -> bool:
    try:
        return _is_sequence(value) and all(
            isinstance(item, str | Network) and ip_network(item) is not None for item in value
        )
    except (TypeError, ValueError):
        return False


def _is_proxy(value: Any) -> bool:
    if value is None:
        return True
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (AttributeError, TypeError, ValueError):
        return False


def _is_key_list(value: Any) -> bool:
    return value is None or (
        _is_sequence(value)
        and len(value) > 0
        and all(isinstance(key, str) and len(key) >= 16 for key in value)
    )


def _is_signing_key_list(value: Any) -> bool:
    """Each is `whsk_` + base64 of 32 bytes, as `signing.generate_signing_key()` makes them."""
    return value is None or (
        _is_sequence(value)
        and 1 <= len(value) <= MAX_SIGNING_KEYS
        and all(
            isinstance(key, str) and re.fullmatch(r"whsk_[A-Za-z0-9+/]{43}=", key) for key in value
        )
    )


def _is_path(value: Any) -> bool:
    return value is None or (isinstance(value, str) and "." in value)


def _is_path_list(value: Any) -> bool:
    return value is None or (_is_sequence(value) and all(each and _is_path(each) for each in value))


def _is_retention(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        name in RETENTION and (days is None or (_is_number(days) and days >= 0))
        for name, days in value.items()
    )


CLASS, CLASSES = "None or the dotted path of a class", "None or a list of dotted paths of classes"

RETENTION: Mapping[str, float | None] = {"succeeded": 30, "failed": 90, "unmatched": 7}

OPTIONS: Mapping[str, Option] = {
    "TASK_BACKEND": Option(
        "django_webhooks.backends.django_q.DjangoQBackend",
        "the dotted path of a task backend class",
        lambda value: isinstance(value, str) and "." in value,
    ),
    "RETRY_SCHEDULE": Option(
        [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400],
        "a list of seconds, none negative and none above a year",
        _is_schedule,
    ),
    "TIMEOUT": Option(
        15,
        f"a number of seconds above 0 and up to {MAX_TIMEOUT:g}",
        lambda value: _is_number(value) and 0 < value <= MAX_TIMEOUT,
    ),
    "MAX_RESPONSE_BYTES": Option(65536, "a number of bytes above 0", _is_positive_int),
    "MAX_PAYLOAD_BYTES": Option(262144, "a number of bytes above 0", _is_positive_int),
    "ALLOW_HTTP": Option(False, "True or False", lambda value: isinstance(value, bool)),
    "ALLOWED_NETWORKS": Option(
        [], 'a list of networks such as "10.0.0.0/8" without host bits', _is_network_list
    ),
    "PROXY": Option(None, "None or the http(s):// URL of a proxy", _is_proxy),
    "SECRET_KEYS": Option(
        None, "None or a list of strings of at least 16 characters, newest first", _is_key_list
    ),
    "SIGNING_KEYS": Option(
        None,
        f"None or a list of 1 to {MAX_SIGNING_KEYS} keys of signing.generate_signing_key(), "
        "newest first",
        _is_signing_key_list,
    ),
    "OWNER_MODEL": Option(
        None,
        'None or a model as "app_label.Model"',
        lambda value: value is None or (isinstance(value, str) and value.count(".") == 1),
    ),
    "CONCURRENCY": Option(16, "a number of requests above 0", _is_positive_int),
    "DISABLE_AFTER": Option(
        432000,
        "a number of seconds above 0, or None for never",
        lambda value: value is None or (_is_number(value) and value > 0),
    ),
    "MAX_HOPS": Option(
        5,
        "a number of webhooks above 0, or None for no limit",
        lambda value: value is None or _is_positive_int(value),
    ),
    "EMAIL_OWNERS": Option(False, "True or False", lambda value: isinstance(value, bool)),
    "RETENTION": Option(
        RETENTION,
        "a dict of days (or None for ever) with the keys " + ", ".join(RETENTION),
        _is_retention,
    ),
    "GET_OWNER_FOR_REQUEST": Option(None, "None or the dotted path of a function", _is_path),
    "MAX_SUBSCRIPTIONS_PER_OWNER": Option(
        20,
        "a number of subscriptions, or None for no limit",
        lambda value: value is None or value == 0 or _is_positive_int(value),
    ),
    "VERIFY_ENDPOINTS": Option(False, "True or False", lambda value: isinstance(value, bool)),
    "API_AUTHENTICATION_CLASSES": Option(None, CLASSES, _is_path_list),
    "API_PERMISSION_CLASSES": Option(None, CLASSES, _is_path_list),
    "API_THROTTLE_CLASSES": Option(None, CLASSES, _is_path_list),
    "API_RENDERER_CLASSES": Option(None, CLASSES, _is_path_list),
    "API_PAGINATION_CLASS": Option(None, CLASS, _is_path),
    "API_VERSIONING_CLASS": Option(None, CLASS, _is_path),
}


class Settings:
    """`DJANGO_WEBHOOKS` with its defaults; one typed property per key."""

    @property
    def is_dict(self) -> bool:
        """Whether the project wrote a dict, or nothing."""
        return isinstance(getattr(django_settings, NAME, {}), Mapping)

    @property
    def given(self) -> Mapping[str, Any]:
        """What the project wrote, unchecked; empty when it wrote nothing or no dict."""
        value = getattr(django_settings, NAME, None)
        return value if isinstance(value, Mapping) else {}

    def _get(self, key: str) -> Any:
        return self.given.get(key, OPTIONS[key].default)

    @property
    def TASK_BACKEND(self) -> str:
        return str(self._get("TASK_BACKEND"))

    @property
    def RETRY_SCHEDULE(self) -> Sequence[float]:
        return tuple(self._get("RETRY_SCHEDULE"))

    @property
    def TIMEOUT(self) -> float:
        return min(float(self._get("TIMEOUT")), MAX_TIMEOUT)

    @property
    def MAX_RESPONSE_BYTES(self) -> int:
        return int(self._get("MAX_RESPONSE_BYTES"))

    @property
    def MAX_PAYLOAD_BYTES(self) -> int:
        return int(self._get("MAX_PAYLOAD_BYTES"))

    @property
    def ALLOW_HTTP(self) -> bool:
        return bool(self._get("ALLOW_HTTP"))

    @property
    def ALLOWED_NETWORKS(self) -> Sequence[Network]:
        return tuple(ip_network(item) for item in self._get("ALLOWED_NETWORKS"))

    @property
    def PROXY(self) -> str | None:
        value: str | None = self._get("PROXY")
        return value

    @property
    def SECRET_KEYS(self) -> Sequence[str]:
        """The keys that encrypt secrets at rest, newest first; never empty."""
        keys = self._get("SECRET_KEYS")
        if keys is None:
            keys = [django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS]
        return tuple(keys)

    @property
    def SIGNING_KEYS(self) -> Sequence[str]:
        """The keys of which those of `v1a` subscriptions are derived, newest first.

        Empty without them, and for a value that a check refuses: then nothing is sent by `v1a`.
        """
        keys = self._get("SIGNING_KEYS")
        return tuple(keys) if keys and OPTIONS["SIGNING_KEYS"].is_valid(keys) else ()

    @property
    def OWNER_MODEL(self) -> str:
        """As `app_label.Model`; read once, when the models are made.

        For a value that a check refuses the default, or no check would ever be run.
        """
        value = self._get("OWNER_MODEL")
        usable = value and OPTIONS["OWNER_MODEL"].is_valid(value)
        return str(value if usable else django_settings.AUTH_USER_MODEL)

    @property
    def CONCURRENCY(self) -> int:
        return int(self._get("CONCURRENCY"))

    @property
    def DISABLE_AFTER(self) -> float | None:
        value: float | None = self._get("DISABLE_AFTER")
        return value

    @property
    def MAX_HOPS(self) -> int | None:
        value: int | None = self._get("MAX_HOPS")
        return value

    @property
    def EMAIL_OWNERS(self) -> bool:
        return bool(self._get("EMAIL_OWNERS"))

    @property
    def RETENTION(self) -> Mapping[str, float | None]:
        """Days by kind; None keeps for ever."""
        return {**RETENTION, **self._get("RETENTION")}

    @property
    def GET_OWNER_FOR_REQUEST(self) -> str | None:
        value: str | None = self._get("GET_OWNER_FOR_REQUEST")
        return value

    @property
    def MAX_SUBSCRIPTIONS_PER_OWNER(self) -> int | None:
        value: int | None = self._get("MAX_SUBSCRIPTIONS_PER_OWNER")
        return value

    @property
    def VERIFY_ENDPOINTS(self) -> bool:
        return bool(self._get("VERIFY_ENDPOINTS"))

    def classes_of_api(self, key: str) -> Any:
        """The class, or the list of classes, that the key `API_…` names; None if it names none.

        `ImportError` if there is no such class, which a check says, too.
        """
        value = self._get(key)
        if value is None or isinstance(value, str):
            return import_string(value) if value else None
        return [import_string(each) for each in value]

    @property
    def USE_TZ(self) -> bool:
        return bool(django_settings.USE_TZ)


settings = Settings()
