"""Benchmarks, each a driver of its own: python -m tests.benchmarks.NAME; all: `make bench`.

Importing this package sets Django up, so that drivers import models like any other module.
"""

import os

import django

# Not `setdefault`: importing `tests` has set those of the tests already.
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.benchmarks.settings"
django.setup()
