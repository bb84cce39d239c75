"""The example project works: its own tests, each site's in a process with its own settings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import django_webhooks

ROOT = Path(__file__).parent.parent
each_site = pytest.mark.parametrize(
    ("settings", "app"),
    [("example_project.settings", "shop"), ("example_project.receiver_settings", "receiver")],
)


def manage(*arguments, settings, state):
    package = Path(django_webhooks.__file__).parent.parent
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": settings,
        "EXAMPLE_STATE_DIR": str(state),
        "PYTHONPATH": str(package),
        "PYTHONUTF8": "1",
    }
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT / "example_project",
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@each_site
def test_each_site_passes_its_own_tests(settings, app, tmp_path):
    done = manage("test", app, settings=settings, state=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Ran 0 tests" not in done.stderr


@each_site
def test_each_site_passes_the_checks_and_lacks_no_migration(settings, app, tmp_path):
    check = manage("check", "--fail-level", "WARNING", settings=settings, state=tmp_path)
    assert check.returncode == 0, check.stderr
    missing = manage("makemigrations", app, "--check", settings=settings, state=tmp_path)
    assert missing.returncode == 0, missing.stdout


def test_the_sites_schema_is_valid_and_made_without_a_warning(tmp_path):
    made = manage(
        "spectacular",
        "--validate",
        "--fail-on-warn",
        settings="example_project.settings",
        state=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    assert "\n  shop.order.created:\n    post:\n" in made.stdout
