"""Encrypt secrets and headers with the newest key, so that an older one can be removed."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_webhooks.rotation import Rotated, rotate_keys


class Command(BaseCommand):
    help = "Encrypt secrets and headers with the first of SECRET_KEYS; any time, beside all else."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--check",
            action="store_true",
            help="only count, and exit with 1 if an older key is still needed",
        )

    def handle(self, *args: Any, check: bool, **options: Any) -> None:
        done = "need it" if check else "encrypted anew"
        total = Rotated()
        try:
            for batch in rotate_keys(only_look=check):
                total += batch
                for each in batch.unreadable:
                    self.stderr.write(f"Unreadable: {each}")
                self.stdout.write(f"{total.checked:,} values looked at, {total.stale:,} {done}…")
        except KeyboardInterrupt:
            raise CommandError("Stopped; run it again to go on.", returncode=1) from None
        if total.unreadable:
            raise CommandError(
                f"{len(total.unreadable):,} of {total.checked:,} values can't be read with any of "
                "SECRET_KEYS, and were left as they are: put their key back, or rotate those "
                "secrets.",
                returncode=1,
            )
        if check and total.stale:
            raise CommandError(
                f"{total.stale:,} of {total.checked:,} values need an older key: run "
                "webhooks_rotate_keys.",
                returncode=1,
            )
        self.stdout.write(f"All {total.checked:,} values are encrypted with the first key.")
