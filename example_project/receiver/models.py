"""What the receiver keeps: the secrets that it trusts, and all that arrived."""

import json

from django.db import models


class Secret(models.Model):
    """A secret as the sender showed it, once, when the subscription was made."""

    value = models.CharField(max_length=120, unique=True)
    added_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.value[:10]}…{self.value[-4:]}"


class ArrivalQuerySet(models.QuerySet["Arrival"]):
    def with_repeats(self) -> "ArrivalQuerySet":
        """Each with `is_repeat`: a retry or redelivery of an event that has been taken already."""
        earlier = Arrival.objects.filter(
            event_id=models.OuterRef("event_id"),
            path=models.OuterRef("path"),
            problem="",
            id__lt=models.OuterRef("id"),
        )
        return self.annotate(is_repeat=models.Exists(earlier))


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

    objects = ArrivalQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.event_type or 'unverified'} ({self.event_id})"

    @property
    def verified(self) -> bool:
        return not self.problem

    @property
    def headers_by_interest(self) -> list[tuple[str, str]]:
        """Those of Standard Webhooks before those that any request has."""
        own = [pair for pair in self.headers.items() if pair[0].startswith("webhook-")]
        return own + [pair for pair in self.headers.items() if pair not in own]

    @property
    def pretty_body(self) -> str:
        text = bytes(self.body).decode("utf-8", "replace")
        try:
            return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        except ValueError:
            return text
