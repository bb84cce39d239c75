"""Real worker processes for tests, on the database of the running test."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from django.db import connections

DJANGO_Q = "django_webhooks.backends.django_q.DjangoQBackend"
CELERY = "django_webhooks.backends.celery.CeleryBackend"
DJANGO_TASKS = "django_webhooks.backends.django_tasks.DjangoTasksBackend"


def database_url(using: str = "default") -> str:
    """The URL of the test database, for another process."""
    config = connections[using].settings_dict
    if config["ENGINE"].endswith("sqlite3"):
        return f"sqlite:///{config['NAME']}"
    scheme = "mysql" if config["ENGINE"].endswith("mysql") else "postgres"
    user, password = quote(config["USER"]), quote(config["PASSWORD"])
    login = f"{user}:{password}" if password else user
    return f"{scheme}://{login}@{config['HOST']}:{config['PORT'] or ''}/{config['NAME']}"


class Process:
    """A `manage.py` command as a process of its own; its output is in `output()`.

    With `module` it is `python -m` another than Django.
    """

    def __init__(self, *command: str, module: str = "django", **environment: str) -> None:
        self.log = Path(tempfile.mkstemp(suffix=".log")[1])
        with self.log.open("w") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", module, *command],
                env={
                    **os.environ,
                    "DJANGO_SETTINGS_MODULE": "tests.settings",
                    "PYTHONPATH": str(Path(__file__).parent.parent),
                    "PYTHONUNBUFFERED": "1",
                    "DATABASE_URL": database_url(),
                    **environment,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that it can be killed with all its children
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def output(self) -> str:
        return self.log.read_text()

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def send_to_group(self, number: int) -> None:
        """To this process and all that it has started."""
        os.killpg(self.pid, number)

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM to this process alone, then wait; killed if it does not end."""
        if self.popen.poll() is None:
            self.send(signal.SIGTERM)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return self.kill()
        finally:
            self.log.unlink(missing_ok=True)

    def kill(self) -> int:
        """SIGKILL to this process and all that it has started, even if it has ended itself."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.popen.wait()


@contextmanager
def running(*processes: Process) -> Iterator[tuple[Process, ...]]:
    try:
        yield processes
    except BaseException:
        for each in processes:
            print(each.output()[-3000:])
        raise
    finally:
        for each in processes:
            each.stop()


def wait_until(condition: Callable[[], object], seconds: float = 20) -> bool:
    """Whether the condition came true within that time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())
