"""Migrations that processes of the version before can live with: see "Upgrading" in the docs."""

import pytest
from django.db import connection, models
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import AddField, AddIndex, CreateModel
from django.db.migrations.operations.base import Operation
from django.db.models import NOT_PROVIDED

pytestmark = pytest.mark.django_db

FIRST = "0001_initial"
ADDS = (CreateModel, AddField, AddIndex)


def objection(operation: Operation) -> str:
    """Why an old process could not work after it; empty if it can."""
    if not isinstance(operation, ADDS):
        return f"{operation.describe()}: it does more than add."
    if isinstance(operation, AddField):
        field = operation.field
        if not field.null and field.db_default is NOT_PROVIDED:
            return f"{operation.describe()}: an old process can't insert; give it a db_default."
    return ""


def test_a_migration_after_the_first_leaves_the_version_before_at_work():
    loader = MigrationLoader(connection)
    later = [
        migration
        for (app, name), migration in loader.disk_migrations.items()
        if app == "django_webhooks" and name != FIRST
    ]
    found = [objection(each) for migration in later for each in migration.operations]
    assert [each for each in found if each] == []


def test_what_an_old_process_could_not_live_with_is_told():
    required = AddField("delivery", "priority", models.IntegerField(default=0))
    assert "db_default" in objection(required)
    assert objection(AddField("delivery", "priority", models.IntegerField(db_default=0))) == ""
    assert objection(AddField("delivery", "priority", models.IntegerField(null=True))) == ""
