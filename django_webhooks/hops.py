"""How many webhooks led to what happens now: the count that ends a loop.

Each request bears the count of its event, signed. A receiver passes the header on when it calls
us because of a webhook, `HopMiddleware` reads it, and what is saved meanwhile counts one more.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta

from django.core.signing import BadSignature, TimestampSigner

HEADER = "webhook-hops"

MAX_AGE = timedelta(minutes=10)
"""After this time a header counts no more: none is worth keeping for another occasion."""

MOST = 32767
"""What the column holds; without `MAX_HOPS` a loop gets there, and must not break a save."""

_current: ContextVar[int] = ContextVar("django_webhooks_hops", default=0)


def current() -> int:
    """The hops of the webhook that caused what runs now; 0 if none did."""
    return _current.get()


def following() -> int:
    """The hops of an event that happens now: 1 for one of our own making."""
    return min(current() + 1, MOST)


@contextmanager
def caused_by(hops: int) -> Iterator[None]:
    """What is saved in the block was caused by a webhook of so many hops; 0 is none."""
    before = _current.set(hops)
    try:
        yield
    finally:
        _current.reset(before)


def write_header(hops: int) -> str:
    """The value of `webhook-hops`: the count, the time, and a signature by `SECRET_KEY`."""
    return _signer().sign(str(hops))


def read_header(value: str) -> int:
    """The hops in a header of our own making; 0 for any other.

    Whoever sends us a wrong one could send none as well, and gains nothing by it. If any number
    were believed, a high one would keep the webhooks of the caller's own changes from being sent.
    """
    try:
        return int(_signer().unsign(value, max_age=MAX_AGE))
    except (BadSignature, ValueError):
        return 0


def _signer() -> TimestampSigner:
    return TimestampSigner(salt="django_webhooks.hops")
