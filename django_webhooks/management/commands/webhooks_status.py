"""Tell how the outbox is doing; for monitoring, fail when it lags."""

from argparse import ArgumentParser
from dataclasses import asdict
from datetime import timedelta
from json import dumps
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from django_webhooks.health import MOST, Health, check_health
from django_webhooks.management import arguments


class Command(BaseCommand):
    help = "Show the backlog, its age, and when a worker was last seen."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--max-lag",
            type=arguments.seconds,
            metavar="SECONDS",
            help="exit with 1 if something due has waited for longer",
        )
        parser.add_argument(
            "--json", action="store_true", help="for monitoring: a list, an object per database"
        )

    def handle(self, *args: Any, max_lag: float | None, json: bool, **options: Any) -> None:
        found = check_health()
        if json:
            self.stdout.write(dumps([_as_json(health) for health in found]))
        else:
            for health in found:
                self._show(health, many=len(found) > 1)
        worst = max(health.lag for health in found)
        if max_lag is not None and worst > timedelta(seconds=max_lag):
            raise CommandError(
                f"Something due has waited for {worst.total_seconds():.0f} s; allowed are "
                f"{max_lag:g}. Is the cluster (or `webhooks_drain --loop`) running?",
                returncode=1,
            )

    def _show(self, health: Health, many: bool) -> None:
        seen = "never"
        if health.worker_seen_at is not None:
            age = (timezone.now() - health.worker_seen_at).total_seconds()
            seen = f"{max(age, 0):.0f} s ago"
        if many:
            self.stdout.write(f"database: {health.using}")
        rows = {
            "events to fan out": _counted(health.waiting_events),
            "deliveries due": _counted(health.due),
            "deliveries pending": _counted(health.pending),
            "in flight": _counted(health.in_flight),
            "failed in 24 h": _counted(health.failed_today),
            "disabled subscriptions": _counted(health.disabled),
            "oldest due": f"{health.lag.total_seconds():.0f} s" if health.is_behind else "-",
            "worker seen": seen,
        }
        for name, value in rows.items():
            self.stdout.write(f"{name + ':':<24}{value}")


def _counted(count: int) -> str:
    return f"{count:,}+" if count >= MOST else f"{count:,}"


def _as_json(health: Health) -> dict[str, Any]:
    """The fields of `Health`, the lag in seconds."""
    seen = health.worker_seen_at
    return {
        **asdict(health),
        "lag": health.lag.total_seconds(),
        "worker_seen_at": seen and seen.isoformat(),
    }
