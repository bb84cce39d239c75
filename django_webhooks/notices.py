"""E-mail to owners whose endpoint fails, recovers or is disabled; only if `EMAIL_OWNERS` asks.

A receiver of the signals like any other. The first line of a template is the subject; a project
overrides `django_webhooks/email/<name>.txt` as any template of Django.
"""

import logging
from collections.abc import Callable
from threading import Thread
from typing import Any

from django.core.mail import EmailMessage
from django.template.loader import render_to_string

from django_webhooks import signals
from django_webhooks.conf import settings
from django_webhooks.models import Subscription

logger = logging.getLogger("django_webhooks")


def connect() -> None:
    """Listen to the signals; what the setting says is asked each time."""
    for name in ("failing", "recovered", "disabled"):
        signal = getattr(signals, f"subscription_{name}")
        signal.connect(_teller(name), weak=False, dispatch_uid=f"django_webhooks.notices.{name}")


def _teller(name: str) -> Callable[..., None]:
    def tell(subscription: Subscription, **kwargs: Any) -> None:
        if settings.EMAIL_OWNERS:
            _tell_owner(name, subscription)

    return tell


def _tell_owner(name: str, subscription: Subscription) -> None:
    """In a thread of its own: a mail server that hangs must not hold up the worker."""
    address = _address_of(subscription.owner)
    if not address:
        return
    text = render_to_string(f"django_webhooks/email/{name}.txt", {"subscription": subscription})
    subject, _, body = text.strip().partition("\n")
    message = EmailMessage(" ".join(subject.split()), body.strip() + "\n", to=[address])
    Thread(target=_send, args=(message,), name="webhooks-notice").start()


def _address_of(owner: Any) -> str:
    """The owner's e-mail address: by the user model's own name of the field, or `email`."""
    name = getattr(owner, "get_email_field_name", lambda: "email")()
    return str(getattr(owner, name, "") or "")


def _send(message: EmailMessage) -> None:
    try:
        message.send()
    except Exception:
        logger.exception("An owner could not be told by e-mail about a subscription.")
