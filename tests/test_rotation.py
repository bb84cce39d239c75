"""Keys at rest are rotated beside all else, and nothing is lost by it."""

import io
import threading

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, models
from django.test.utils import CaptureQueriesContext

from django_webhooks import rotation
from django_webhooks.encryption import is_current
from django_webhooks.management.commands import webhooks_rotate_keys
from django_webhooks.models import Subscription
from django_webhooks.rotation import Rotated, rotate_keys

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

OLD, NEW, LOST = ("a key of sixteen letters or more: " + each for each in ("old", "new", "lost"))


@pytest.fixture
def keys(settings):
    """Sets SECRET_KEYS."""

    def use(*values):
        settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "SECRET_KEYS": list(values)}

    return use


def make(count, using="default"):
    return [
        Subscription.objects.using(using).create(
            url="https://example.com/hook", headers={"Authorization": f"Bearer {number}"}
        )
        for number in range(count)
    ]


def ciphertexts(using="default"):
    raw = {
        name: models.ExpressionWrapper(models.F(name), output_field=models.TextField())
        for name in ("secrets", "headers")
    }
    rows = Subscription.objects.using(using).annotate(
        raw_secrets=raw["secrets"], raw_headers=raw["headers"]
    )
    return {
        pk: (secrets, headers)
        for pk, secrets, headers in rows.values_list("pk", "raw_secrets", "raw_headers")
    }


def all_current(using="default"):
    return all(is_current(each) for pair in ciphertexts(using).values() for each in pair)


def run(*options):
    """What the command wrote to stdout; `CommandError` as it is."""
    out = io.StringIO()
    call_command("webhooks_rotate_keys", *options, stdout=out, stderr=out)
    return out.getvalue()


def in_another_thread(function):
    def work():
        try:
            function()
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)


def test_old_key_can_be_removed_after_the_command(keys):
    keys(OLD)
    made = make(3) + make(1, using="other")
    keys(NEW, OLD)
    assert not all_current()
    assert "All 8 values are encrypted with the first key" in run()
    keys(NEW)
    for each in made:
        found = Subscription.objects.using(each._state.db).get(pk=each.pk)
        assert found.secret == each.secret
        assert found.headers == each.headers
        assert found.updated_at == each.updated_at


def test_second_run_writes_nothing(keys):
    keys(OLD)
    make(2)
    keys(NEW, OLD)
    run()
    before = ciphertexts()
    with CaptureQueriesContext(connection) as queries:
        run()
    assert ciphertexts() == before
    assert not [each for each in queries if each["sql"].startswith("UPDATE")]


def test_check_counts_what_needs_an_older_key_and_changes_nothing(keys):
    keys(OLD)
    make(2)
    keys(NEW, OLD)
    before = ciphertexts()
    with pytest.raises(CommandError, match="4 of 4 values need an older key") as caught:
        run("--check")
    assert caught.value.returncode == 1
    assert ciphertexts() == before
    run()
    assert "All 4 values" in run("--check")


def test_what_no_key_can_read_is_counted_left_alone_and_fails_the_command(keys, capsys):
    keys(LOST)
    [lost] = make(1)
    keys(OLD)
    make(1)
    keys(NEW, OLD)
    before = ciphertexts()[lost.pk]
    for _ in range(2):
        with pytest.raises(CommandError, match="2 of 4 values can't be read") as caught:
            call_command("webhooks_rotate_keys")
        assert caught.value.returncode == 1
        assert f"Subscription {lost.pk}: secrets" in capsys.readouterr().err
    assert ciphertexts()[lost.pk] == before
    keys(NEW, LOST)
    run()
    assert all_current()


def test_interrupted_rotation_goes_on_where_it_was(keys, monkeypatch):
    monkeypatch.setattr(rotation, "BATCH", 2)
    keys(OLD)
    make(5)
    keys(NEW, OLD)
    steps = rotate_keys()
    assert next(steps) == Rotated(checked=2, stale=2)
    steps.close()
    assert sum(rotate_keys(), Rotated()) == Rotated(checked=10, stale=8)
    assert all_current()


def test_ctrl_c_is_told_and_fails(keys, monkeypatch):
    def interrupted(**options):
        yield Rotated(checked=1)
        raise KeyboardInterrupt

    monkeypatch.setattr(webhooks_rotate_keys, "rotate_keys", interrupted)
    with pytest.raises(CommandError, match="run it again"):
        run()


def test_secret_that_was_rotated_meanwhile_does_not_come_back(keys, monkeypatch):
    """By another process, between our read and our write; even if that one has the old keys."""
    keys(OLD)
    [subscription] = make(1)
    keys(NEW, OLD)
    given, real_encrypt = [], rotation.encrypt

    def encrypt(value):
        if not given and isinstance(value, list):  # the secrets are being rotated
            keys(OLD)
            in_another_thread(lambda: given.append(Subscription.objects.get().rotate_secret()))
            keys(NEW, OLD)
        return real_encrypt(value)

    monkeypatch.setattr(rotation, "encrypt", encrypt)
    run()
    assert Subscription.objects.get(pk=subscription.pk).secret == given[0]
    assert all_current()


def test_row_that_is_deleted_meanwhile_is_passed_over(keys, monkeypatch):
    keys(OLD)
    make(2)
    keys(NEW, OLD)
    first = Subscription.objects.order_by("pk").first()
    encrypt = rotation.encrypt

    def delete_first(value):
        in_another_thread(lambda: Subscription.objects.filter(pk=first.pk).delete())
        return encrypt(value)

    monkeypatch.setattr(rotation, "encrypt", delete_first)
    run()
    assert all_current()
    assert Subscription.objects.count() == 1


def test_rotation_beside_admin_edits_loses_none_of_them(keys, monkeypatch):
    """Many at once, for real: secrets rotated and headers edited while the keys are."""
    monkeypatch.setattr(rotation, "BATCH", 3)
    keys(OLD)
    made = make(6)
    last = {}
    stop = threading.Event()

    def edit(lot):
        number = 0
        while not stop.is_set():
            number += 1
            for each in lot:
                row = Subscription.objects.get(pk=each.pk)
                secret = row.rotate_secret()
                row = Subscription.objects.get(pk=each.pk)
                row.headers = {"X-Number": str(number)}
                row.save()
                last[each.pk] = secret, row.headers
        connection.close()

    keys(NEW, OLD)
    editors = [threading.Thread(target=edit, args=(lot,)) for lot in (made[:3], made[3:])]
    for each in editors:
        each.start()
    try:
        for keyring in [(OLD, NEW), (NEW, OLD)] * 5:
            keys(*keyring)
            sum(rotate_keys(), Rotated())
    finally:
        stop.set()
        for each in editors:
            each.join(30)
    assert len(last) == 6
    for pk, (secret, headers) in last.items():
        found = Subscription.objects.get(pk=pk)
        assert (found.secret, found.headers) == (secret, headers)
    run()
    assert all_current()
