"""One small site for all who are compared: the same model, the same database server.

`PEER` says who sends its webhooks. Each in the best configuration that we found; what is not set
here is as it is after its installation.
"""

import os

import dj_database_url

PEER = os.environ["PEER"]

SECRET_KEY = "a key for the benchmarks alone, of a fair length"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": dj_database_url.parse(os.environ["DATABASE_URL"], conn_max_age=None)}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "shop"]

if PEER == "django-webhooks":
    INSTALLED_APPS += ["rest_framework", "django_q", "django_webhooks"]
    # As in the how-to, with two workers. No `poll`, no broker but the database.
    Q_CLUSTER = {"name": "peers", "orm": "default", "workers": 2, "timeout": 60, "retry": 90}
    DJANGO_WEBHOOKS = {"ALLOW_HTTP": True, "ALLOWED_NETWORKS": ["127.0.0.0/8"]}

if PEER in ("django-webhook", "django-webhook2"):
    INSTALLED_APPS += ["django_webhook"]
    DJANGO_WEBHOOK = {"MODELS": ["shop.Order"], "STORE_EVENTS": True, "USE_CACHE": True}
    CELERY_BROKER_URL = os.environ["REDIS_URL"]
    CELERY_TASK_IGNORE_RESULT = True
    # Without it Celery closes the database's connection after each task: half as fast.
    CELERY_DB_REUSE_MAX = 1_000_000
    if PEER == "django-webhook2":  # its admin is registered unless it is told not to
        DJANGO_WEBHOOK |= {"ADMIN_SITE": None}
    else:
        INSTALLED_APPS += [
            "django.contrib.admin",
            "django.contrib.messages",
            "django.contrib.sessions",
        ]

if PEER == "django-outbound-webhooks":
    INSTALLED_APPS += ["django_domain_events", "django_outbound_webhooks"]
    DJANGO_OUTBOUND_WEBHOOKS = {"ALLOW_PRIVATE_ADDRESSES": True}
    DJANGO_DOMAIN_EVENTS = {"WAKE": "notify", "NOTIFY_COALESCE_SECONDS": 0.05}
