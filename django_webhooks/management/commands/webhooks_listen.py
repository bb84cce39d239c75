"""A local receiver that verifies and pretty-prints what arrives."""

import json
from argparse import ArgumentParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_webhooks import signing
from django_webhooks.exceptions import SecretError, SignatureError, UnreadableSecret
from django_webhooks.models import Subscription, outbox_aliases

MAX_BYTES = 10_000_000


class Command(BaseCommand):
    help = "Receive webhooks on 127.0.0.1, verify them, and print them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("port", nargs="?", type=int, default=8900)
        parser.add_argument(
            "--secret",
            action="append",
            help="verify with this secret or public key; without, with those of all subscriptions "
            "here",
        )
        parser.add_argument("--status", type=int, default=204, help="answer with this HTTP status")

    def handle(
        self, *args: Any, port: int, secret: list[str] | None, status: int, **options: Any
    ) -> None:
        for each in secret or ():
            try:
                is_public = each.startswith(signing.PUBLIC_PREFIX)
                (signing.decode_public_key if is_public else signing.decode_secret)(each)
            except SecretError as error:
                raise CommandError(f"--secret: {error}") from error
        try:
            server = ThreadingHTTPServer(("127.0.0.1", port), self._handler(secret, status))
        except OSError as error:
            raise CommandError(f"Port {port} can't be had: {error.strerror}.") from error
        self.stdout.write(f"Listening on http://127.0.0.1:{server.server_port}/ (Ctrl-C stops)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            server.server_close()

    def _handler(self, secrets: list[str] | None, status: int) -> type[BaseHTTPRequestHandler]:
        command = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = self.headers.get("content-length", "")
                body = self.rfile.read(min(int(length), MAX_BYTES)) if length.isdigit() else b""
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()
                line = f"{self.log_date_time_string()} {self.requestline}"
                command.show(line, dict(self.headers.items()), body, secrets or _known_secrets())

            def log_message(self, format: str, *args: Any) -> None:
                """Said by `show()`."""

        return Handler

    def show(
        self, first_line: str, headers: dict[str, str], body: bytes, secrets: list[str]
    ) -> None:
        lines = [f"\n{first_line}"]
        lines += [f"\n{name}: {value}" for name, value in headers.items() if name.lower() != "host"]
        try:
            signing.verify(secrets, headers, body)
            verdict = self.style.SUCCESS("✓ the signature holds")
        except SignatureError as error:
            verdict = self.style.ERROR(f"✗ {error}")
        try:
            shown = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
        except ValueError:
            shown = body.decode(errors="replace")
        self.stdout.write("".join(lines) + f"\n{shown}\n{verdict}")


def _known_secrets() -> list[str]:
    found = []
    for using in outbox_aliases():
        for subscription in Subscription.objects.using(using).all():
            try:
                found += subscription.signing_secrets
            except UnreadableSecret:
                continue
    return found
