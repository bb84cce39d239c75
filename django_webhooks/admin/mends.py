"""What an attempt's error means, in words, and what usually mends it."""

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_webhooks.models import Attempt

ERRORS: dict[str, tuple[Any, Any]] = {
    "timeout": (
        _("The receiver gave no complete answer in time."),
        _(
            "Let it answer first and work later; or give the subscription a longer timeout. It may "
            "have got the request all the same."
        ),
    ),
    "dns": (
        _("The name of the endpoint's host could not be resolved."),
        _("Look for a typing error in the URL; else ask who runs the worker's name servers."),
    ),
    "connection": (
        _("No connection came about, or it was cut off, or what came back was not HTTP."),
        _("Is the receiver running, at this port? Does a firewall let the worker through?"),
    ),
    "tls": (
        _("The certificate or the encrypted connection was not accepted."),
        _(
            "The receiver needs a certificate that is valid, for this name, with its whole chain. "
            "Checking can't be switched off."
        ),
    ),
    "proxy": (
        _("The egress proxy did not connect us."),
        _("The proxy's own log tells why: is it up, and does it allow this host?"),
    ),
    "redirect": (
        _("The receiver answered with a redirect, and redirects are never followed."),
        _("Put the final address into the subscription's URL."),
    ),
    "blocked": (
        _("This URL, or the address that its name resolves to, may not be called."),
        _(
            "Use a public https:// URL; or let the one who runs the site add the network to "
            "ALLOWED_NETWORKS. It is not tried again: redeliver it then."
        ),
    ),
    "challenge": (
        _("The endpoint answered, and did not repeat the challenge: perhaps it is nobody's wish."),
        _("Let the receiver answer with the challenge that it got; then send another."),
    ),
    "headers": (
        _("The subscription's own headers could not be sent."),
        _("Replace the subscription's headers."),
    ),
    "secret_unavailable": (
        _("The subscription's secret or headers could not be read, and nothing is sent unsigned."),
        _(
            "Put the key that is missing back into SECRET_KEYS (or SIGNING_KEYS); or rotate the "
            "secret, replace the headers, and tell the receiver."
        ),
    ),
    "abandoned": (
        _("A worker began this attempt and never wrote what came of it. It may have been sent."),
        _("The worker's log: was it killed, or did its host go down?"),
    ),
    "cancelled": (_("The subscription was deleted meanwhile."), _("There is nothing to mend.")),
    "internal": (
        _("The sender itself failed."),
        _("The log of “django_webhooks” has the traceback: please report it."),
    ),
}

STATUSES: dict[int, tuple[Any, Any]] = {
    400: (
        _("The receiver did not understand the request."),
        _("Its answer below may say what it misses. Does it expect another form of payload?"),
    ),
    401: (
        _("The receiver did not accept who we are."),
        _("Does it have the current secret? Does it need a header of ours? Is its clock set?"),
    ),
    403: (
        _("The receiver refused the request."),
        _("Does it have the current secret? Does its firewall know the worker's address?"),
    ),
    404: (_("There is nothing at this address."), _("Look at the path of the URL.")),
    405: (
        _("This address takes no POST."),
        _("It is probably a page for people: ask for the URL that is meant for webhooks."),
    ),
    410: (
        _("The receiver is gone, and asks for no more requests. The subscription was disabled."),
        _("If that was a mistake: resume the subscription, redeliver what was cancelled."),
    ),
    413: (
        _("The payload is too large for the receiver."),
        _("Publish fewer fields, or let the receiver take more."),
    ),
    429: (
        _("The receiver gets more requests than it wants."),
        _("Set the subscription's requests per second. What waits is sent later by itself."),
    ),
}

CLIENT_ERROR = (
    _("The receiver refused the request."),
    _("Its answer below may say why; else its log."),
)
SERVER_ERROR = (
    _("The receiver itself failed."),
    _("Its log tells why. It is tried again by itself; what was given up can be redelivered."),
)
UNKNOWN = (_("The attempt failed."), _("The detail may say why."))

SERVER_ERRORS = 500


@dataclass(frozen=True)
class Explanation:
    what: str
    mend: str


def explain(attempt: Attempt) -> Explanation | None:
    """What happened and what to do about it; None for a success."""
    if not attempt.error:
        return None
    what, mend = _of_status(attempt) if attempt.error == "status" else _of_error(attempt)
    location = attempt.response_headers.get("location")
    if attempt.error == "redirect" and location:
        mend = gettext("%(mend)s It pointed to %(location)s.") % {
            "mend": mend,
            "location": location,
        }
    return Explanation(str(what), str(mend))


def _of_error(attempt: Attempt) -> tuple[Any, Any]:
    return ERRORS.get(attempt.error, UNKNOWN)


def _of_status(attempt: Attempt) -> tuple[Any, Any]:
    code = attempt.status_code or 0
    return STATUSES.get(code) or (SERVER_ERROR if code >= SERVER_ERRORS else CLIENT_ERROR)
