"""Delete old rows, as `RETENTION` says."""

from typing import Any

from django.core.management.base import BaseCommand

from django_webhooks.retention import prune


class Command(BaseCommand):
    help = "Delete deliveries and events that are older than RETENTION; in batches, any time again."

    def handle(self, *args: Any, **options: Any) -> None:
        totals: dict[str, int] = {}
        try:
            for what, count in prune():
                if not count:
                    continue
                totals[what] = totals.get(what, 0) + count
                self.stdout.write(f"{totals[what]:,} {what}…")
        except KeyboardInterrupt:
            self.stdout.write("Stopped; run it again to go on.")
        summary = ", ".join(f"{count:,} {what}" for what, count in totals.items())
        self.stdout.write(f"Pruned: {summary or 'nothing is old enough'}.")
