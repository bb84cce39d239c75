"""Every error of ours. Each message names what is wrong and how to mend it."""

from django.core.exceptions import ImproperlyConfigured

DATA_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What code raises that meets data it did not expect. The time limit of a task, which may be
raised anywhere, is none of them: what it cuts short is not to be taken for bad data."""


class WebhookError(Exception):
    """The root: catch it to catch them all."""


class RegistrationError(WebhookError, ImproperlyConfigured):
    """A registration in a `webhooks.py` can't be used."""


class UnknownEventType(WebhookError, LookupError):
    """No registered model and no `EventType` publishes this type."""


class PayloadError(WebhookError, ValueError):
    """The payload can't be sent: it is not JSON, or not storable."""


class PayloadTooLarge(PayloadError):
    """The body is larger than `MAX_PAYLOAD_BYTES`."""


class SecretError(WebhookError, ValueError):
    """Not a secret (`whsec_` + base64 of 24 to 64 bytes) or key (`whsk_`, `whpk_`: 32 bytes).

    `problem` is for whoever wrote it; `hint` for whoever can call a function.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        self.problem = problem
        self.hint = hint
        super().__init__(f"{problem} {hint}".strip())


class SignatureError(WebhookError, ValueError):
    """The request's signature, timestamp or headers do not hold."""


class ConditionError(WebhookError, ValueError):
    """A condition tree is malformed; `path` tells where (`all[1].any[0].op`)."""

    def __init__(self, path: str, message: str) -> None:
        self.path = path
        self.message = message
        super().__init__(f"{path}: {message}" if path else message)


class UnsafeURL(WebhookError, ValueError):
    """The URL may not be an endpoint; the text never tells what a name resolves to.

    `problem` is for whoever wrote the URL; `hint` for whoever can change the site's settings.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        self.problem = problem
        self.hint = hint
        super().__init__(f"{problem} {hint}".strip())


class BlockedAddress(WebhookError):
    """A name resolved to an address that may not be called.

    Not an `OSError` on purpose: urllib3 would wrap it as a connection failure, and a
    refusal would look like bad luck.
    """


class UnreadableSecret(WebhookError):
    """An encrypted value can't be read with any of `SECRET_KEYS`, or `SIGNING_KEYS` is missing."""
