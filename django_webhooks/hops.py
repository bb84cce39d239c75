"""Which webhooks led to what happens now: the chain that ends a loop.

Each request bears the chain of its event, signed. A receiver passes the header on when it calls
us because of a webhook, `HopMiddleware` reads it, and what is saved meanwhile counts one more.

From `MAX_HOPS` on a chain also tells whom it has been through, and to those nothing more of it is
sent. Everybody else is told as ever: whoever passes on a header that they have kept, with changes
which no webhook caused, leaves out themselves.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from django.core.signing import BadSignature, TimestampSigner
from django.utils.crypto import salted_hmac

from django_webhooks.conf import settings

HEADER = "webhook-hops"

MAX_AGE = timedelta(minutes=10)
"""After this time a header counts no more: none is worth keeping for another occasion."""

MOST = 32767
"""What the column holds; without `MAX_HOPS` a chain may get there, and must not break a save."""

OWNED = "o"
"""What the mark of an owner begins with."""

SIGNAL = "signal"
"""The mark of `event_published`: who publishes when told of that may go on for ever, too."""


class Chain(NamedTuple):
    """The webhooks, one because of the other, that led to something."""

    hops: int = 0
    """How many."""
    through: tuple[str, ...] = ()
    """The marks of those it has been through since `MAX_HOPS`."""

    def passed_on_by(self, mark: str) -> "Chain":
        """The chain of what happens because the one with this mark was told.

        What owners pass on leaves out owners alone, never what staff have subscribed to. It ends
        all the same: each owner adds a mark once, and between two of them each of staff's does.
        """
        limit = settings.MAX_HOPS
        if limit is None or self.hops < limit:
            return Chain(self.hops)
        kept = self.through
        if mark.startswith(OWNED):
            kept = tuple(each for each in kept if each.startswith(OWNED))
        return Chain(self.hops, (*kept, mark))


NONE = Chain()

_current: ContextVar[Chain] = ContextVar("django_webhooks_hops", default=NONE)


def mark_of(subscription_id: Any, owner_id: Any) -> str:
    """Stands for a subscription in a chain, and tells nothing of it to those who see the header.

    One mark for all of an owner's: with one of each a loop would be cut later, and an owner who
    leaves out their own subscriptions could have deleted them as well.
    """
    kind, key = ("s", subscription_id) if owner_id is None else (OWNED, owner_id)
    return _mark(kind, key)


@lru_cache(maxsize=1024)
def _mark(kind: str, key: Any) -> str:
    return kind + salted_hmac("django_webhooks.hops", f"{kind}{key}").hexdigest()[:16]


def current() -> Chain:
    """The chain of webhooks that caused what runs now; `NONE` if none did."""
    return _current.get()


def following() -> Chain:
    """The chain of an event that happens now: of one hop, if it is of our own making."""
    now = current()
    return now._replace(hops=min(now.hops + 1, MOST))


@contextmanager
def caused_by(chain: Chain) -> Iterator[None]:
    """What is saved in the block was caused by webhooks: `chain` is what `current()` gave."""
    hops, through = chain  # a list, if it has been JSON meanwhile
    before = _current.set(Chain(hops, tuple(through)))
    try:
        yield
    finally:
        _current.reset(before)


def write_header(chain: Chain) -> str:
    """The value of `webhook-hops`: the chain, the time, and a signature by `SECRET_KEY`."""
    return _sign(chain, int(time.time()))


@lru_cache(maxsize=256)
def _sign(chain: Chain, _second: int) -> str:
    """Most chains are alike, and a second has but one time."""
    return _signer().sign(".".join((str(chain.hops), *chain.through)))


def read_header(value: str) -> Chain:
    """The chain in a header of our own making; `NONE` for any other.

    Whoever sends us a wrong one could send none as well, and gains nothing by it.
    """
    try:
        hops, *through = _signer().unsign(value, max_age=MAX_AGE).split(".")
        return Chain(int(hops), tuple(through))
    except (BadSignature, ValueError):
        return NONE


def _signer() -> TimestampSigner:
    return TimestampSigner(salt="django_webhooks.hops")
