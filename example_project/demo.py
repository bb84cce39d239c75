"""What `make demo` runs: the shop, a django-q2 cluster and a receiver, and one order through all.

Exits 0 only after the receiver has said that the request arrived and that its signature held.
All that it starts it stops again, whatever happens, and its state lies in `.demo/` alone.

Django reads its settings once, and they depend on the ports that are free: so what needs Django
is imported inside of functions here, after `Demo.configure()`.
"""

import argparse
import fcntl
import http.cookiejar
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
STATE = HERE.parent / ".demo"

PATIENCE = 60.0
"""Seconds until what does not come is given up."""

STOPPING = 20.0
"""Seconds for a process to stop by itself: a cluster first finishes its task."""

EVENT_TYPE = "shop.order.created"
SUBSCRIPTION = "Dashboard"

Found = TypeVar("Found")


class Failed(Exception):
    """The demo can't go on; the message says why."""


class Interrupted(Exception):
    """Somebody asked for the end: Ctrl-C, SIGTERM, or the terminal was closed."""


def main() -> int:
    options = parse_arguments()
    STATE.mkdir(exist_ok=True)
    demo = Demo()
    try:
        with only_one(), demo.stopped_at_the_end():
            run(demo, options)
    except Interrupted:
        print("Stopped.")
        return 0 if demo.shown and not options.once else 130
    except (Failed, OSError) as failure:
        print(f"\n{demo.tails()}\n\n✗ {failure}", file=sys.stderr)
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="stop after the verified arrival")
    parser.add_argument(
        "--receiver-url", help="a receiver elsewhere, instead of the one of the example"
    )
    return parser.parse_args()


def run(demo: "Demo", options: argparse.Namespace) -> None:
    site_url = f"http://127.0.0.1:{free_port(8000)}/"
    receiver_url = f"http://127.0.0.1:{free_port(8001)}/receiver/"
    hook = options.receiver_url or f"{receiver_url}hook/"
    demo.forget_the_last_run()
    demo.configure(site_url, options.receiver_url or receiver_url)

    say("Migrating, and filling the shop …")
    secret = demo.prepare(hook, with_receiver=not options.receiver_url)
    if options.receiver_url:
        say(f"No receiver is started: {hook} is yours. Its secret is {secret}")

    say(f"Starting the shop, a django-q2 cluster{'' if options.receiver_url else ', a receiver'} …")
    demo.start("worker", "qcluster")
    demo.start("site", "runserver", "--noreload", urllib.parse.urlsplit(site_url).netloc)
    if not options.receiver_url:
        address = urllib.parse.urlsplit(receiver_url).netloc
        demo.start("receiver", "runserver", "--noreload", address, settings=RECEIVER_SETTINGS)
        receiver = Browser(receiver_url)
        demo.wait_for(receiver.answers, "The receiver does not answer.")
        receiver.post("secrets/", {"secret": secret})
    site = Browser(site_url)
    demo.wait_for(site.answers, "The site does not answer.")

    started = time.monotonic()
    order = place_order(site)
    say(f"Order {order.number} of {order.total} is placed. Waiting for it to arrive …")
    watched = Arrival(order)
    if options.receiver_url:
        request = demo.wait_for(watched.accepted, watched.why_not)
    else:
        request = demo.wait_for(lambda: watched.verified_by(receiver), watched.why_not)
    show(request, time.monotonic() - started)
    demo.shown = True
    if not options.once:
        invite(site_url, options.receiver_url or receiver_url)
        demo.stay_up()


RECEIVER_SETTINGS = "example_project.receiver_settings"


@dataclass
class Demo:
    """The processes of one run, and how they end."""

    processes: "list[Process]" = field(default_factory=list)
    asked_to_stop: bool = False
    shown: bool = False

    def forget_the_last_run(self) -> None:
        for pattern in ("*.sqlite3*", "*.log"):
            for path in STATE.glob(pattern):
                path.unlink()

    def configure(self, site_url: str, receiver_url: str) -> None:
        """This process is the shop's, too: its settings, and those that the others inherit."""
        os.environ.update(
            DJANGO_SETTINGS_MODULE="example_project.settings",
            EXAMPLE_STATE_DIR=str(STATE),
            EXAMPLE_SITE_PAGE=site_url,
            EXAMPLE_RECEIVER_PAGE=receiver_url,
            PYTHONUNBUFFERED="1",
        )
        import django

        django.setup()

    def prepare(self, hook: str, *, with_receiver: bool) -> str:
        """Tables and rows; the secret of the subscriptions."""
        from django.core.management import CommandError, call_command

        if with_receiver:
            migration = self.start("migration", "migrate", settings=RECEIVER_SETTINGS)
        call_command("migrate", verbosity=0)
        said = io.StringIO()
        try:
            call_command("seed", hook=hook, stdout=said)
        except CommandError as error:
            raise Failed(str(error)) from error
        if with_receiver:
            self.wait_for(lambda: migration.has_finished, "The receiver's database is not made.")
            self.processes.remove(migration)
        return said.getvalue().split()[-1]

    def start(self, name: str, *arguments: str, settings: str | None = None) -> "Process":
        self._heed_the_interrupt()
        process = Process(name, arguments, settings)
        self.processes.append(process)
        return process

    def wait_for(
        self, look: Callable[[], Found | None], otherwise: str | Callable[[], str]
    ) -> Found:
        """What `look` finds at last; `Failed` if it finds nothing, or a process dies meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = look()
            if found:
                return found
            self._pause()
        raise Failed(otherwise if isinstance(otherwise, str) else otherwise())

    def stay_up(self) -> None:
        while True:
            self._pause()

    @contextmanager
    def stopped_at_the_end(self) -> Iterator[None]:
        """An interrupt is only noted, and heeded between two steps: no process slips away."""
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, self._note_the_interrupt)
        try:
            yield
        finally:
            for process in self.processes:
                process.ask_to_stop()
            for process in self.processes:
                process.wait_until_stopped()

    def tails(self) -> str:
        return "\n".join(process.tail() for process in self.processes)

    def _pause(self) -> None:
        time.sleep(0.1)
        self._heed_the_interrupt()
        for process in self.processes:
            if process.has_failed:
                raise Failed(f"The {process.name} has ended, with {process.popen.returncode}.")

    def _note_the_interrupt(self, *args: object) -> None:
        self.asked_to_stop = True

    def _heed_the_interrupt(self) -> None:
        if self.asked_to_stop:
            raise Interrupted


class Process:
    """`manage.py` with a command, in a session of its own: a Ctrl-C reaches us alone."""

    def __init__(self, name: str, arguments: tuple[str, ...], settings: str | None) -> None:
        self.name = name
        self.log = STATE / f"{name}.log"
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": settings} if settings else None
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "manage.py", *arguments],
                cwd=HERE,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def has_finished(self) -> bool:
        return self.popen.poll() == 0

    @property
    def has_failed(self) -> bool:
        """Ended with an error. The servers are not meant to end at all, and never do with 0."""
        return bool(self.popen.poll())

    def ask_to_stop(self) -> None:
        if self.popen.poll() is None:
            self.popen.terminate()  # a cluster stops its workers itself

    def wait_until_stopped(self) -> None:
        deadline = time.monotonic() + STOPPING
        while time.monotonic() < deadline:
            if self.popen.poll() is not None and not self._signal_group(0):
                return
            time.sleep(0.05)
        self._signal_group(signal.SIGKILL)
        self.popen.wait()

    def tail(self, lines: int = 20) -> str:
        end = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"--- {self.log.name}", *end])

    def _signal_group(self, number: int) -> bool:
        """To the process and its children. False if there is none of them left."""
        try:
            os.killpg(self.popen.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True


class Browser:
    """One site as a person uses it: pages, forms, cookies."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),  # no proxy of the environment: this is our machine
            urllib.request.HTTPCookieProcessor(self.cookies),
        )

    def get(self, path: str = "", data: bytes | None = None) -> str:
        try:
            with self.opener.open(self.base + path, data, timeout=10) as response:
                text: str = response.read().decode()
                return text
        except urllib.error.HTTPError as error:
            raise Failed(f"{self.base}{path} answers {error.code}.") from error

    def post(self, path: str, fields: dict[str, Any]) -> str:
        self.get(path)
        tokens = [each.value for each in self.cookies if each.name.endswith("csrftoken")]
        form = {**fields, "csrfmiddlewaretoken": tokens[0]}
        return self.get(path, urllib.parse.urlencode(form).encode())

    def answers(self) -> bool:
        try:
            self.get()
        except OSError:
            return False
        return True


def place_order(site: Browser) -> Any:
    """By the form of the storefront. The order, as its row tells."""
    from shop.models import Customer, Order, Product

    basket = {"TEA-GREEN": 2, "TEAPOT": 1}
    products = Product.objects.filter(sku__in=basket)
    fields = {f"product-{product.pk}": basket[product.sku] for product in products}
    site.post("", {**fields, "customer": Customer.objects.earliest("pk").pk})
    order = Order.objects.first()
    if order is None:
        raise Failed("The storefront did not take the order.")
    return order


class Arrival:
    """The request that tells of the order: has it come, and if not, what is known of it."""

    def __init__(self, order: Any) -> None:
        from django_webhooks.models import Delivery, Event

        self.events = Event.objects.about(order).filter(type=EVENT_TYPE)
        self.deliveries = Delivery.objects.filter(
            event__in=self.events, subscription__name=SUBSCRIPTION
        )
        self.patient_until = time.monotonic() + PATIENCE

    def verified_by(self, receiver: Browser) -> dict[str, Any] | None:
        """As the receiver says, asked over HTTP."""
        known = set(self.events.values_list("pk", flat=True))
        for each in json.loads(receiver.get("arrivals.json"))["arrivals"]:
            if each["headers"].get("webhook-id") in known and "to=dashboard" in each["path"]:
                if not each["verified"]:
                    raise Failed(f"It arrived, but its signature did not hold: {each['problem']}")
                return {**each, "verdict": "The receiver verified its signature"}
        return self._nothing_yet()

    def accepted(self) -> dict[str, Any] | None:
        """By the answer of a receiver that is not ours to ask: it must be a 2xx."""
        delivery = self.deliveries.filter(status="succeeded").first()
        if delivery is None:
            return self._nothing_yet()
        attempt = delivery.attempts.last()
        return {
            "path": attempt.url,
            "headers": attempt.request_headers,
            "body": json.dumps(json.loads(delivery.event.body), indent=2, ensure_ascii=False),
            "verdict": f"{attempt.url} answered {attempt.status_code}",
        }

    def why_not(self) -> str:
        event, delivery = self.events.first(), self.deliveries.first()
        if event is None:
            return "Nothing arrived: no Event was written for the order."
        if event.error:
            return f"Nothing arrived: the Event could not be rendered. {event.error}"
        if delivery is None:
            return "Nothing arrived: the worker has made no Delivery of the Event."
        told = [f"Nothing arrived: the Delivery is {delivery.status}."]
        for attempt in delivery.attempts.all():
            what = attempt.detail or f"The answer was {attempt.status_code}."
            told.append(f"  attempt {attempt.number} to {attempt.url}: {what}")
        return "\n".join(told)

    def _nothing_yet(self) -> None:
        """`Failed` as soon as no further attempt falls into the time that we wait."""
        from django.utils import timezone

        delivery = self.deliveries.filter(attempt_count__gt=0, lease_token=None).first()
        if delivery is None or delivery.status == "succeeded":
            return
        if delivery.next_attempt_at is not None:
            wait = (delivery.next_attempt_at - timezone.now()).total_seconds()
            if time.monotonic() + wait < self.patient_until:
                return
        raise Failed(self.why_not())


def show(request: dict[str, Any], seconds: float) -> None:
    print(f"\nPOST {request['path']}")
    for name, value in request["headers"].items():
        print(f"{name}: {value}")
    print(f"\n{request['body']}")
    say(f"\n✓ {request['verdict']}, {seconds:.1f} seconds after the order.")


def invite(site_url: str, receiver_page: str) -> None:
    say(
        f"\n  Tea shop  {site_url}"
        f"\n  Receiver  {receiver_page}"
        f"\n  Admin     {site_url}admin/      login: admin, password: admin"
        f"\n  API       {site_url}accounts/login/?next=/webhooks/subscriptions/"
        "      login: ada, password: ada"
        f"\n  Logs      {os.path.relpath(STATE)}/"
        "\n\nOrder something, and see it arrive. Ctrl-C stops everything."
    )


def say(text: str) -> None:
    print(text, flush=True)


def free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Failed("No port is free on 127.0.0.1.")


@contextmanager
def only_one() -> Iterator[None]:
    """Two demos in one directory would delete each other's databases."""
    with (STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Failed("Another demo is running here: stop it first.") from error
        yield


if __name__ == "__main__":
    sys.exit(main())
