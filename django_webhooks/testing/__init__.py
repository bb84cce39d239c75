"""For the tests of projects that publish webhooks.

`capture_webhooks` tells what would have been sent, without sending; a `Receiver` is a real
server on this machine, as slow or hostile as it is told to be.
"""

from .captured import CapturedWebhook, capture_webhooks
from .receivers import BEHAVIOURS, Receiver

__all__ = ["BEHAVIOURS", "CapturedWebhook", "Receiver", "capture_webhooks"]
