"""The receivers of the docs, copied and started as a customer does, get what we really send."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from django_webhooks import outbox, signing
from django_webhooks.jwks import as_jwk
from django_webhooks.models import Delivery, Subscription
from django_webhooks.worker import drain
from tests.shop.models import Order
from tests.test_docs import BLOCKS, Block, free_port, is_open, running, until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.once]

SECRET = signing.generate_secret()
BODY = b'{"type":"shop.order.updated","timestamp":"2026-11-24T10:00:00.000000Z","data":{}}'
CODE = {
    block.title: block
    for block in BLOCKS
    if block.page.name == "receive-and-verify.md" and block.title.endswith((".py", ".mjs"))
}


@dataclass
class Copied:
    """A receiver that runs on `port`; what it prints is in `log`."""

    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def handled(self) -> list[str]:
        """The types that it has printed, each once for an event."""
        return [line for line in self.log.read_text().splitlines() if line.startswith("shop.")]

    def post(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("POST", "/hook", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def begun(self, content_length: int) -> socket.socket:
        """A connection with a request on it whose body is still to come."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        head = f"POST /hook HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {content_length}"
        connection.sendall(f"{head}\r\n\r\n".encode())
        return connection


def signed(body: bytes = BODY, secret: str = SECRET, age: int = 0) -> dict[str, str]:
    now = int(time.time()) - age
    return {
        "content-type": "application/json",
        "webhook-id": "evt_1",
        "webhook-timestamp": str(now),
        "webhook-signature": signing.sign(secret, "evt_1", now, body),
    }


# Started as their pages say


def django_site(directory: Path, port: int) -> list[str]:
    """A customer's site with the page's app in it."""
    (directory / "site_settings.py").write_text(
        "SECRET_KEY = 'x' * 50\n"
        "ROOT_URLCONF = 'inbox.urls'\n"
        "INSTALLED_APPS = ['inbox']\n"
        "SQLITE = {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'site.sqlite3'}\n"
        "DATABASES = {'default': SQLITE}\n"
        "ALLOWED_HOSTS = ['127.0.0.1']\n"
    )
    for title in ("inbox/models.py", "inbox/views.py", "inbox/urls.py"):
        write(directory, CODE[title], port)
    manage = [sys.executable, "-m", "django"]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "site_settings", "PYTHONPATH": "."}
    subprocess.run(
        [*manage, "migrate", "--run-syncdb", "-v0"], cwd=directory, env=environment, check=True
    )
    return [*manage, "runserver", "--noreload", str(port)]


def write(directory: Path, block: Block, port: int) -> Path:
    path = directory / block.title
    path.parent.mkdir(exist_ok=True)
    path.write_text(block.code.replace("8900", str(port)))
    return path


def module(title: str, *command: str) -> Callable[[Path, int], list[str]]:
    """`python -m …`, or the script itself."""

    def start(directory: Path, port: int) -> list[str]:
        script = write(directory, CODE[title], port)
        rest = [each.format(port=port) for each in command]
        return [sys.executable, "-m", *rest] if rest else [sys.executable, script.name]

    return start


def node(directory: Path, port: int) -> list[str]:
    runner = shutil.which("node")
    if runner is None:
        pytest.skip("node is not installed")
    return [runner, write(directory, CODE["receiver.mjs"], port).name]


STARTS: dict[str, Callable[[Path, int], list[str]]] = {
    "Django": django_site,
    "FastAPI": module("receiver_fastapi.py", "uvicorn", "receiver_fastapi:app", "--port", "{port}"),
    "Flask": module("receiver_flask.py", "flask", "--app", "receiver_flask", "run", "-p", "{port}"),
    "Python": module("receiver.py"),
    "Node": node,
}


@contextmanager
def copied(
    start: Callable[[Path, int], list[str]], directory: Path, secrets: str, **environment: str
) -> Iterator[Copied]:
    directory.mkdir(exist_ok=True)
    port, log = free_port(), directory / "log.txt"
    command = start(directory, port)
    with log.open("wb") as output:
        env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "site_settings",
            "PYTHONPATH": str(directory),
            "WEBHOOK_SECRETS": secrets,
            **environment,
        }
        with running(command, cwd=directory, env=env, stdout=output, stderr=output):
            until(lambda: is_open(port), f"the receiver: {log.read_text()}")
            yield Copied(port, log)


def test_each_receiver_of_the_page_is_started() -> None:
    started = {"inbox/models.py", "inbox/views.py", "inbox/urls.py", "receiver.mjs"}
    started |= {"receiver_fastapi.py", "receiver_flask.py", "receiver.py", "receiver_v1a.py"}
    assert set(CODE) == started


@pytest.fixture(params=STARTS)
def receiver(request: Any, tmp_path: Path) -> Iterator[Copied]:
    with copied(STARTS[request.param], tmp_path, SECRET) as started:
        yield started


@pytest.fixture
def subscription(receiver: Copied) -> Subscription:
    subscription = Subscription(url=receiver.url)
    subscription.secret = SECRET
    subscription.save()
    subscription.rules.create(event_type="shop.order.created")
    return subscription


def deliver() -> Delivery:
    """What came of the newest delivery."""
    drain()
    delivery: Delivery = Delivery.objects.latest("id")
    return delivery


def test_what_we_send_is_taken_and_handled_once(
    receiver: Copied, subscription: Subscription
) -> None:
    Order.objects.create(number="1")
    delivery = deliver()
    assert delivery.status == "succeeded", receiver.log.read_text()
    until(lambda: receiver.handled == ["shop.order.created"], "the event")
    outbox.redeliver([delivery])
    assert deliver().attempt_count == 2
    assert deliver().status == "succeeded"
    Order.objects.create(number="2")
    until(lambda: deliver().status == "succeeded", "the next one")
    until(lambda: len(receiver.handled) == 2, "the next one")


def test_a_challenge_of_ours_is_answered(receiver: Copied, subscription: Subscription) -> None:
    outbox.publish_challenge(subscription)
    assert deliver().status == "succeeded", receiver.log.read_text()
    subscription.refresh_from_db()
    assert subscription.status == "active"


def test_a_secret_can_be_changed_without_a_gap(
    tmp_path: Path, receiver: Copied, subscription: Subscription
) -> None:
    new = subscription.rotate_secret(overlap=timedelta(hours=1))
    Order.objects.create(number="1")
    assert deliver().status == "succeeded"  # the receiver knows the old one only
    status, _ = receiver.post(BODY, signed(secret=new))
    assert status == 400


@pytest.mark.parametrize("name", STARTS)
def test_a_receiver_may_know_several_secrets(name: str, tmp_path: Path) -> None:
    other = signing.generate_secret()
    with copied(STARTS[name], tmp_path, f"{other} {SECRET}") as receiver:
        assert [receiver.post(BODY, signed(secret=each))[0] for each in (SECRET, other)] == [
            204
        ] * 2


def test_what_is_not_ours_is_refused_and_not_handled(receiver: Copied) -> None:
    genuine = signed()
    for body, headers in (
        (BODY + b" ", genuine),
        (BODY, signed(secret=signing.generate_secret())),
        (BODY, {**genuine, "webhook-signature": "v1,bm8= v1a,bm8="}),
        (BODY, {**genuine, "webhook-signature": "garbage"}),
        (BODY, {**genuine, "webhook-signature": "v1,a"}),
        (BODY, signed(age=600)),
        (BODY, signed(age=-600)),
        (BODY, {**genuine, "webhook-timestamp": "9" * 5000}),
        (BODY, {**genuine, "webhook-timestamp": "now"}),
        (BODY, {**genuine, "webhook-id": "evt_2"}),
        (BODY, {"content-type": "application/json"}),
        (b"\xff\xfe", genuine),
    ):
        assert receiver.post(body, headers)[0] == 400, (body, headers)
    assert receiver.handled == []
    assert receiver.post(BODY, genuine)[0] == 204  # it is alive


def test_a_body_without_end_is_refused(receiver: Copied) -> None:
    huge = BODY + b" " * 5_000_000  # good JSON, and signed: only its size is bad
    with suppress(ConnectionError):  # it may hang up without reading on
        assert receiver.post(huge, signed(huge))[0] in (400, 413)
    assert receiver.post(BODY, signed())[0] == 204  # it is alive


def test_a_body_of_negative_length_is_refused_at_once(receiver: Copied) -> None:
    with receiver.begun(content_length=-1) as connection:
        assert connection.recv(12).startswith((b"HTTP/1.0 4", b"HTTP/1.1 4"))


def test_a_caller_that_hangs_up_half_way_stops_nobody(receiver: Copied) -> None:
    with receiver.begun(content_length=100) as connection:
        connection.sendall(b"half")
    for _ in range(20):  # it hears of that while it answers these
        assert receiver.post(BODY, signed())[0] == 204


# With a public key


@pytest.fixture
def key_set() -> Iterator[tuple[str, str]]:
    """A signing key, and the address at which its public key is told, as `jwks` does."""
    key = signing.generate_signing_key()
    content = json.dumps({"keys": [as_jwk(signing.public_key_of(key))]}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield key, f"http://127.0.0.1:{server.server_port}/jwks.json"
        server.shutdown()


def test_the_receiver_with_a_public_key_takes_what_it_signs_and_nothing_else(
    tmp_path: Path, key_set: tuple[str, str]
) -> None:
    key, address = key_set
    start = module("receiver_v1a.py")
    with copied(start, tmp_path, "", WEBHOOK_JWKS=address) as receiver:
        genuine = signed(secret=key)
        assert [receiver.post(BODY, genuine)[0] for _ in range(2)] == [204, 204]
        assert receiver.post(BODY + b" ", genuine)[0] == 400
        assert receiver.post(BODY, signed(secret=SECRET))[0] == 400
        assert receiver.post(BODY, {**genuine, "webhook-signature": "v1a,bm8="})[0] == 400
        assert receiver.post(BODY, signed(secret=key, age=600))[0] == 400
        huge = BODY + b" " * 5_000_000
        with suppress(ConnectionError):
            assert receiver.post(huge, signed(huge, key))[0] == 413
        with receiver.begun(content_length=-1) as connection:
            assert b" 413 " in connection.recv(20)
