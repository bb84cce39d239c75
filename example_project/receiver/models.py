"""What the receiver keeps: the secrets that it trusts, and all that arrived."""

import json

from django.db import models


class Secret(models.Model):
    """A secret as the sender showed it, once, when the subscription was made."""

    value = models.CharField(max_length=120, unique=True)
    added_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.value[:10]}…{self.value[-4:]}"


class Arrival(models.Model):
    """One request to the hook, whether its signature held or not."""

    received_at = models.DateTimeField(auto_now_add=True)
    path = models.CharField(max_length=500)
    headers = models.JSONField()
    body = models.BinaryField()
    event_id = models.CharField(max_length=255, db_index=True)
    event_type = models.CharField(max_length=200)
    problem = models.CharField(max_length=500)
    """Why the signature did not hold; empty if it did."""

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.event_type or 'unverified'} ({self.event_id})"

    @property
    def verified(self) -> bool:
        return not self.problem

    @property
    def pretty_body(self) -> str:
        text = bytes(self.body).decode("utf-8", "replace")
        try:
            return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        except ValueError:
            return text
