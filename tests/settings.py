"""Settings of the test project. DATABASE_URL chooses the database; SQLite by default."""

import os
import tempfile

import dj_database_url
import django
import pymysql
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from django_webhooks.backends.celery import SWEEP

# PyMySQL stands in for mysqlclient, which needs a compiler; Django asks for its version number.
pymysql.version_info = (2, 2, 7, "final", 0)
pymysql.install_as_MySQLdb()

SECRET_KEY = "a key for the tests alone, of a fair length"
DEBUG = False
USE_TZ = True
TIME_ZONE = "Europe/Berlin"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # fast; nobody's password

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_q",
    "django_tasks_db",
    "rest_framework",
    "drf_spectacular",
    "django_webhooks",
    "tests.shop",
]
if django.VERSION < (6, 0):
    INSTALLED_APPS.append("django_tasks")
MIDDLEWARE = [
    "tests.csp.StrictPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_webhooks.middleware.HopMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

_SQLITE = f"sqlite:///{tempfile.gettempdir()}/django_webhooks_{os.getpid()}.sqlite3"


def _database(url: str, name: str) -> dict[str, object]:
    config: dict[str, object] = dict(dj_database_url.parse(url))
    engine = str(config["ENGINE"])
    if engine.endswith("sqlite3"):
        # A file, for several threads and processes share it.
        path = f"{tempfile.gettempdir()}/django_webhooks_{name}_{os.getpid()}.sqlite3"
        config["TEST"] = {"NAME": os.environ.get(f"TEST_SQLITE_{name.upper()}", path)}
        config["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA synchronous=OFF",  # no test pulls the plug
        }
    else:
        config["TEST"] = {"NAME": f"test_webhooks_{name}"}
    if engine.endswith("mysql"):
        config["OPTIONS"] = {"charset": "utf8mb4"}
        config["TEST"]["CHARSET"] = "utf8mb4"  # type: ignore[index]
    return config


DATABASE_URL = os.environ.get("DATABASE_URL", _SQLITE)
DATABASES = {
    "default": _database(DATABASE_URL, "default"),
    "other": _database(DATABASE_URL, "other"),
}

QUEUE = os.environ.get("QUEUE", "tests")  # brokers are shared with other runs

Q_CLUSTER: dict[str, object] = {
    "name": QUEUE,
    "workers": 2,
    "timeout": 90,
    "retry": 120,
    "poll": 0.1,
    "catch_up": False,
    "max_attempts": 1,
}
if redis_url := os.environ.get("REDIS_URL"):
    # A Redis that hangs must not hold up those who save.
    redis = {"socket_connect_timeout": 1, "socket_timeout": 2, "retry": Retry(NoBackoff(), 0)}
    Q_CLUSTER |= {"redis": redis | parse_url(redis_url), "name": QUEUE}
else:
    Q_CLUSTER |= {"orm": "default"}

CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL", "memory://")
CELERY_BROKER_TRANSPORT_OPTIONS = {"global_keyprefix": f"{QUEUE}."}
CELERY_TASK_DEFAULT_QUEUE = QUEUE
# Once a second in place of once a minute: no test waits that long.
CELERY_BEAT_SCHEDULE = {name: {**entry, "schedule": 1.0} for name, entry in SWEEP.items()}
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False  # its queues would be shared with other runs

TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}

REST_FRAMEWORK = {"DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema"}
SPECTACULAR_SETTINGS = {"TITLE": "A shop", "VERSION": "1", "OAS_VERSION": "3.1.1"}

DJANGO_WEBHOOKS = {
    "TASK_BACKEND": os.environ.get("TASK_BACKEND", "django_webhooks.backends.dummy.DummyBackend"),
    "ALLOW_HTTP": True,
    "ALLOWED_NETWORKS": ["127.0.0.0/8"],
    "RETRY_SCHEDULE": [
        float(delay) for delay in os.environ.get("RETRY_SCHEDULE", "5,300,1800").split(",")
    ],
}
