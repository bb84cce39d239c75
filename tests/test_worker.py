"""Drains: what they do, and side by side in many processes."""

import io
import json
import re
import signal
import threading
import time
from collections import Counter
from concurrent.futures import Future
from datetime import timedelta
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import OperationalError, connection, connections, transaction
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.module_loading import import_string
from django_q.models import Schedule

from django_webhooks import health, models, signals, worker
from django_webhooks.backends.base import HOLD_BACK
from django_webhooks.backends.django_q import PRUNE, SCHEDULES, SWEEP, DjangoQBackend
from django_webhooks.conf import settings as webhook_settings
from django_webhooks.fanout import fan_out
from django_webhooks.health import check_health
from django_webhooks.management.commands import webhooks_drain, webhooks_status
from django_webhooks.models import Attempt, Delivery, Event, Subscription, Watch
from django_webhooks.outbox import publish
from django_webhooks.worker import DrainResult, attend, drain
from tests.processes import DJANGO_Q, Process, running, wait_until
from tests.shop.models import Order
from tests.threads import at_once

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

PAID = {"field": "status", "op": "changed_to", "value": "paid"}


def order(**fields) -> Order:
    return Order.objects.create(**{"number": "1", **fields})


def pending() -> int:
    waiting = Event.objects.waiting().count()
    return waiting + Delivery.objects.filter(status="pending").count()


# drain()


def test_idle_drain_costs_two_queries_per_database(django_assert_num_queries):
    with django_assert_num_queries(2):
        assert not drain()


def test_drain_inside_a_transaction_is_refused():
    with pytest.raises(TransactionManagementError, match="after the commit"), transaction.atomic():
        drain()


def test_no_transaction_is_open_while_a_request_is_made(subscribe, receiver):
    open_transactions = []

    def answer(request):
        open_transactions.append(connection_of_drain.in_atomic_block)
        return 200

    connection_of_drain = connections["default"]  # this thread's
    receiver.answer = answer
    subscribe("*")
    order()
    drain()
    assert open_transactions == [False]


def test_drain_begins_nothing_after_its_time(subscribe, receiver):
    subscribe("*")
    order()
    assert drain(max_seconds=0) == DrainResult()
    assert receiver.requests == []


def test_receiver_of_a_signal_may_save_and_is_served_by_the_same_drain(subscribe, receiver):
    subscribe("shop.order.created")
    made = []

    def save_another(**kwargs):
        if len(made) < 2:
            made.append(order(number="another"))
            drain()  # as ImmediateBackend does

    signals.delivery_succeeded.connect(save_another)
    try:
        order()
        drain()
    finally:
        signals.delivery_succeeded.disconnect(save_another)
    assert len(receiver.requests) == 3


def test_immediate_backend_delivers_on_commit(subscribe, receiver, settings):
    settings.DJANGO_WEBHOOKS = {
        **settings.DJANGO_WEBHOOKS,
        "TASK_BACKEND": "django_webhooks.backends.immediate.ImmediateBackend",
    }
    subscribe("*")
    with transaction.atomic():
        order()
        assert receiver.requests == []
    assert len(receiver.requests) == 1


def test_immediate_backend_drains_its_own_database_alone(subscribe, receiver, settings):
    settings.DJANGO_WEBHOOKS = {
        **settings.DJANGO_WEBHOOKS,
        "TASK_BACKEND": "django_webhooks.backends.immediate.ImmediateBackend",
    }
    subscribe("*")
    with transaction.atomic(using="other"), transaction.atomic(using="default"):
        order()
    assert len(receiver.requests) == 1


def test_drain_that_is_cut_short_gives_back_what_it_has_not_begun(
    subscribe, receiver, settings, monkeypatch
):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "CONCURRENCY": 1}
    release = threading.Event()
    receiver.answer = lambda request: release.wait(3) and 200
    subscribe("*")
    order()
    order()

    def time_out(self):
        if receiver.requests:
            raise SystemExit("as django-q2's time-out does")
        return []

    monkeypatch.setattr(worker.Pipeline, "_wait", time_out)
    started = time.monotonic()
    with pytest.raises(SystemExit):
        drain()
    assert time.monotonic() - started < 1.5
    leased = Delivery.objects.filter(lease_token__isnull=False)
    assert leased.count() == 1, "the one that was being sent keeps its lease"
    assert Delivery.objects.filter(lease_token=None, attempt_count=0).count() == 1
    release.set()


def test_database_without_the_outbox_is_left_alone_until_it_has_one(
    subscribe, receiver, monkeypatch, caplog
):
    monkeypatch.setattr(models, "_looked_at", {})
    with monkeypatch.context() as without:
        without.setattr(connections["other"].introspection, "table_names", list)
        assert models.outbox_aliases() == ["default"]
    subscribe("*")
    order()
    with CaptureQueriesContext(connections["other"]) as queries:
        drain()
    assert len(receiver.requests) == 1
    assert len(queries) == 0, "it is not asked each time"
    assert not caplog.records
    monkeypatch.setattr(models, "LOOK_AGAIN", 0)
    models._looked_at.clear()
    assert models.outbox_aliases() == ["default", "other"]


# attend()


def test_an_endpoint_that_was_quick_and_hangs_holds_up_no_other(subscribe, receiver):
    """Of the quick one many are claimed ahead; they wait in a lane of their own."""
    arrived: list[tuple[str, float]] = []

    def answer(request):
        arrived.append((request.path, time.monotonic()))
        if request.path.endswith("quick") and len(arrived) > 100:
            time.sleep(5)
        return 204

    receiver.answer = answer
    quick = subscribe("billing.notice", url=receiver.url + "quick")
    calm = subscribe("billing.notice", url=receiver.url + "calm")
    now = timezone.now()
    events = Event.objects.bulk_create(
        Event(type="shop.order.created", body="{}", fanned_out_at=now) for _ in range(400)
    )
    Delivery.objects.bulk_create(
        Delivery(event=event, subscription=quick, next_attempt_at=now) for event in events
    )
    late = Event.objects.create(type="shop.order.created", body="{}", fanned_out_at=now)
    due = now + timedelta(seconds=2)
    Delivery.objects.create(event=late, subscription=calm, next_attempt_at=due)
    began = time.monotonic()
    drain(max_seconds=4, using="default")
    (at,) = (moment for path, moment in arrived if path.endswith("calm"))
    assert sum(1 for path, _ in arrived if path.endswith("quick")) > 100, "it hangs by then"
    assert at - began < 4.5, "it did not wait for what hangs"


def test_attend_lingers_for_longer_than_wakes_are_held_back(subscribe, receiver, monkeypatch):
    assert worker.LINGER.total_seconds() > HOLD_BACK
    monkeypatch.setattr(worker, "LINGER", worker.timedelta(seconds=0.5))
    subscribe("*")
    started = time.monotonic()
    thread = threading.Timer(0.3, lambda: (order(), connection.close()))
    thread.start()
    result = attend()
    took = time.monotonic() - started
    thread.join()
    assert result["succeeded"] == 1, "what came while it lingered is sent by the same task"
    assert 0.7 < took < 3


def test_wake_that_came_to_a_task_at_its_end_is_handed_on(subscribe, receiver, monkeypatch):
    """Whose wakes are held back relies on somebody who lingers: the budget must not end that."""
    monkeypatch.setattr(worker, "BUDGET", 1.5)
    woken = []
    monkeypatch.setattr(worker, "_call", lambda watch: woken.append(time.monotonic()))
    thread = threading.Thread(target=lambda: (attend(), connections.close_all()))
    thread.start()
    assert wait_until(lambda: Watch.objects.filter(holder__isnull=False).exists(), 5)
    time.sleep(1)
    assert attend()["attempts"] == 0, "it only prolonged the other"
    thread.join()
    assert len(woken) == 1


def test_drain_with_more_than_it_can_take_calls_for_another(subscribe, receiver, settings):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "CONCURRENCY": 4}
    receiver.answer = lambda request: time.sleep(0.02) or 200
    for _ in range(4):
        subscribe("*")
    called = []
    order()
    drain(call=lambda: called.append(time.monotonic()))
    assert not called, "what it can take itself is no reason"
    for number in range(40):
        order(number=str(number))
    drain(call=lambda: called.append(time.monotonic()))
    assert called


def test_called_task_is_not_called_again_before_it_has_begun(monkeypatch):
    enqueued = []
    monkeypatch.setattr(DjangoQBackend, "enqueue", lambda self, using: enqueued.append(using))
    monkeypatch.setattr(worker, "get_backend", DjangoQBackend)
    watch = Watch.objects.using("default")
    for _ in range(3):
        worker._call(watch)
    assert len(enqueued) == 1
    monkeypatch.setattr(worker, "LINGER", timedelta(0))
    attend()
    worker._call(watch)
    assert len(enqueued) == 2
    watch.update(called_until=timezone.now() - timedelta(seconds=1))
    worker._call(watch)
    assert len(enqueued) == 3, "one that is lost is replaced"


def test_broker_that_is_down_keeps_no_task_from_being_called_for(monkeypatch):
    monkeypatch.setattr(worker, "get_backend", DjangoQBackend)
    monkeypatch.setattr(DjangoQBackend, "enqueue", lambda self, using: 1 / 0)
    worker._call(Watch.objects.using("default"))
    assert Watch.objects.get().called_until is None


def test_watch_that_can_not_be_written_breaks_no_drain(subscribe, receiver, monkeypatch):
    def fail(*args):
        raise OperationalError("the database is down")

    monkeypatch.setattr(models.WatchQuerySet, "answer", fail)
    monkeypatch.setattr(models.WatchQuerySet, "call", fail)
    subscribe("*")
    order()
    worker._call(Watch.objects.using("default"))
    monkeypatch.setattr(worker, "LINGER", timedelta(0))
    assert attend()["succeeded"] == 1


def test_task_that_dies_on_a_host_with_another_clock_is_replaced_in_time(monkeypatch):
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has no clock and no second host")
    ahead = timezone.now() + worker.timedelta(hours=1)
    with monkeypatch.context() as other_host:
        other_host.setattr(models.timezone, "now", lambda: ahead)
        assert Watch.objects.take(uuid4(), worker.timedelta(seconds=0.2), worker.LINGER)
    time.sleep(0.3)
    assert Watch.objects.take(uuid4(), worker.HELD, worker.LINGER)


def test_only_one_task_lingers(monkeypatch):
    monkeypatch.setattr(worker, "LINGER", worker.timedelta(seconds=1))

    def took(_) -> float:
        started = time.monotonic()
        attend()
        return time.monotonic() - started

    assert sum(each > 0.9 for each in at_once(4, took)) == 1


def test_dead_lingering_task_is_replaced():
    Watch.objects.create(
        name=Watch.DRAIN,
        holder=uuid4(),
        held_until=timezone.now() - worker.timedelta(seconds=1),
        linger_until=timezone.now() + worker.timedelta(hours=1),
    )
    token = uuid4()
    assert Watch.objects.take(token, worker.HELD, worker.LINGER)
    assert not Watch.objects.take(uuid4(), worker.HELD, worker.LINGER)
    assert not Watch.objects.leave(token), "it must linger for as long as it was asked to"
    assert Watch.objects.leave(token, anyway=True)


def test_retry_that_is_near_is_waited_for(subscribe, receiver, settings, monkeypatch):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "RETRY_SCHEDULE": [1.5]}
    monkeypatch.setattr(worker, "LINGER", worker.timedelta(seconds=0.2))
    receiver.answer = lambda request: 500 if len(receiver.requests) == 1 else 200
    subscribe("*")
    order()
    started = time.monotonic()
    attend()
    assert Delivery.objects.get().status == "succeeded"
    assert 1.4 < time.monotonic() - started < 4


def test_retry_that_is_near_is_waited_for_however_slow_the_database_is(
    subscribe, receiver, settings, monkeypatch
):
    def slowly():
        time.sleep(0.5)
        return seconds_to_near_work()

    seconds_to_near_work = worker.seconds_to_near_work
    monkeypatch.setattr(worker, "seconds_to_near_work", slowly)
    monkeypatch.setattr(worker, "LINGER", worker.timedelta(seconds=0.2))
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "RETRY_SCHEDULE": [1.5]}
    receiver.answer = lambda request: 500 if len(receiver.requests) == 1 else 200
    subscribe("*")
    order()
    attend()
    assert Delivery.objects.get().status == "succeeded"


def test_task_that_runs_out_of_time_wakes_another(subscribe, receiver, monkeypatch, wakes):
    monkeypatch.setattr(worker, "BUDGET", 0.0)
    subscribe("*")
    order()
    wakes.clear()
    attend()
    assert wakes == ["default"]


def test_attend_never_raises(monkeypatch, caplog):
    def fail():
        raise RuntimeError("database gone")

    monkeypatch.setattr(worker, "outbox_aliases", fail)
    assert attend() == dict.fromkeys(DrainResult().__dict__, 0)
    assert "A drain failed" in caplog.text


# Many at once


def save_two_hundred() -> None:
    for number in range(200):
        made = order(number=number, total=number)
        if number % 4 == 0:
            made.status = "paid"
            made.save()


def fail_a_third(receiver) -> None:
    seen: Counter = Counter()
    lock = threading.Lock()

    def answer(request):
        # Of three that are repeated in turn the same one would be the third for ever.
        key = request.path, request.id
        with lock:
            seen["all"] += 1
            if seen["all"] % 3 or seen[key] == 2:
                return 204
            seen[key] += 1
            return 500

    receiver.answer = answer


def test_two_workers_deliver_everything_where_it_should_go_and_nowhere_else(
    subscribe, receiver, settings
):
    """200 saves, 3 subscriptions, a receiver that fails a third of the requests."""
    fail_a_third(receiver)
    all_url, paid_url, once_url = (f"{receiver.url}/{name}" for name in ("all", "paid", "once"))
    secrets = {
        "/hook/all": subscribe("shop.order.*", url=all_url).secret,
        "/hook/paid": subscribe("shop.order.updated", PAID, url=paid_url).secret,
        "/hook/once": subscribe("shop.order.created", url=once_url, mode="one_time").secret,
    }
    retries = {"RETRY_SCHEDULE": ",".join(["0.1"] * 20)}
    workers = [Process("webhooks_drain", "--loop", **retries) for _ in range(2)]
    with running(*workers):
        save_two_hundred()
        assert wait_until(lambda: pending() == 0, 60), pending()
    for request in receiver.requests:
        request.verify(secrets[request.path])
    events = {event.id: event for event in Event.objects.all()}
    paid = {key for key, event in events.items() if event.previous.get("status") == "pending"}
    assert len(events) == 250
    assert len(paid) == 50
    arrived: dict[str, set[str]] = {path: set() for path in secrets}
    for request in receiver.requests:
        arrived[request.path].add(request.id)
    assert arrived["/hook/all"] == set(events)
    assert arrived["/hook/paid"] == paid
    assert len(arrived["/hook/once"]) == 1
    assert set(Delivery.objects.values_list("status", flat=True)) == {"succeeded"}
    assert not Delivery.objects.filter(lease_token__isnull=False).exists()
    assert Attempt.objects.count() == len(receiver.requests), "one Attempt for each request"


def test_many_drains_at_once_send_each_delivery_once(subscribe, receiver):
    subscribe("*")
    for number in range(150):
        publish("billing.invoice_paid", {"number": number})
    workers = [Process("webhooks_drain") for _ in range(6)]
    with running(*workers):
        assert wait_until(lambda: pending() == 0, 60)
        for each in workers:
            each.popen.wait(30)
    assert len(receiver.requests) == 150
    assert len({request.id for request in receiver.requests}) == 150


def test_one_time_is_delivered_once_when_fifty_events_race_in_several_processes(
    subscribe, receiver
):
    subscription = subscribe("billing.*", mode="one_time")
    for number in range(50):
        publish("billing.invoice_paid", {"number": number})
    Subscription.objects.update(status="active")
    workers = [Process("webhooks_drain", "--loop") for _ in range(4)]
    with running(*workers):
        assert wait_until(lambda: pending() == 0, 60)
        time.sleep(0.5)
    assert len(receiver.requests) == 1
    assert Delivery.objects.count() == 1
    subscription.refresh_from_db()
    assert subscription.status == "completed"


def drain_command(*arguments) -> list[str]:
    out = io.StringIO()
    call_command("webhooks_drain", *arguments, stdout=out)
    return out.getvalue().splitlines()


def test_long_drain_shows_its_progress_and_takes_up_where_it_was_stopped(
    subscribe, receiver, settings, monkeypatch
):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "CONCURRENCY": 2}
    monkeypatch.setattr(webhooks_drain, "TELL_EVERY", 0.2)
    receiver.answer = lambda request: time.sleep(0.1) or 200
    subscribe("*")
    for number in range(20):
        order(number=number)
    stopped = drain_command("--max-seconds", "0.3")
    assert 0 < len(receiver.requests) < 20
    told = stopped + drain_command()
    assert len(told) >= 4
    assert re.match(r"0 events, \d+ attempts", told[-1])
    assert len(receiver.requests) == 20
    assert pending() == 0


def test_loop_ends_cleanly_on_sigterm_with_what_it_had_begun(subscribe, receiver):
    receiver.answer = lambda request: time.sleep(1) or 200
    subscribe("*")
    order()
    process = Process("webhooks_drain", "--loop")
    with running(process):
        assert wait_until(lambda: receiver.requests)
        process.send(signal.SIGTERM)
        assert process.popen.wait(10) == 0
        assert "Stopped" in process.output()
    assert Delivery.objects.get().status == "succeeded"


def test_loop_outlives_a_database_that_goes_away(subscribe, receiver):
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL can refuse connections to one database")
    subscribe("*")
    database = connection.ops.quote_name(connection.settings_dict["NAME"])
    with running(Process("webhooks_drain", "--loop")) as (process,):
        order()
        assert wait_until(lambda: len(receiver.requests) == 1)
        connections["default"].close()
        with connections["other"].cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [connection.settings_dict["NAME"]],
            )
            time.sleep(3)
            cursor.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        order()
        assert wait_until(lambda: len(receiver.requests) == 2)
        assert process.output().count("could not be drained") < 10, "not a traceback each 0.1 s"


def test_idle_loop_writes_next_to_nothing(subscribe, monkeypatch):
    monkeypatch.setattr(webhooks_drain, "SIGN_EVERY", 60)
    with CaptureQueriesContext(connection) as queries:
        drain_command("--loop", "--max-seconds", "1")
    writes = [each["sql"] for each in queries if not each["sql"].startswith("SELECT")]
    assert len(writes) <= 6, writes


def test_killed_worker_delays_by_its_lease_and_loses_nothing(subscribe, receiver):
    receiver.answer = lambda request: time.sleep(1.5) or 200
    subscribe("*")
    order()
    process = Process("webhooks_drain", "--loop")
    with running(process):
        assert wait_until(lambda: receiver.requests)
        process.send(signal.SIGKILL)
        process.popen.wait()
    assert Delivery.objects.get().status == "pending"
    Delivery.objects.update(next_attempt_at=timezone.now())  # the lease runs out
    drain()
    assert Delivery.objects.get().status == "succeeded"
    assert {request.id for request in receiver.requests} == {Event.objects.get().id}


# The sweep


@pytest.fixture
def django_q(settings):
    settings.DJANGO_WEBHOOKS = {**settings.DJANGO_WEBHOOKS, "TASK_BACKEND": DJANGO_Q}


# The schedules


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_is_installed_by_migrate_once_and_keeps_a_changed_interval(django_q, name):
    Schedule.objects.all().delete()
    call_command("migrate", verbosity=0)
    schedule = Schedule.objects.get(name=name)
    func = schedule.func
    Schedule.objects.update(schedule_type=Schedule.MINUTES, minutes=5)
    Schedule.objects.create(name=name, func="doubled")
    call_command("migrate", verbosity=0)
    schedule = Schedule.objects.get(name=name)
    assert (schedule.schedule_type, schedule.minutes, schedule.func) == ("I", 5, func)


def test_sweep_runs_each_minute_and_prune_each_day(django_q):
    Schedule.objects.all().delete()
    call_command("migrate", verbosity=0)
    found = Schedule.objects.values_list("name", "schedule_type", "minutes")
    assert set(found) == {
        (SWEEP, Schedule.MINUTES, 1),
        (PRUNE, Schedule.DAILY, None),
    }
    for func in Schedule.objects.values_list("func", flat=True):
        assert callable(import_string(func))


def test_sweep_that_was_renamed_inside_is_updated(django_q):
    Schedule.objects.filter(name=SWEEP).delete()
    Schedule.objects.create(name=SWEEP, func="django_webhooks.old", minutes=7)
    DjangoQBackend().ensure_sweep("default")
    schedule = Schedule.objects.get(name=SWEEP)
    assert (schedule.func, schedule.minutes) == ("django_webhooks.worker.attend", 7)


# Status and prune


def status(*arguments) -> str:
    out = io.StringIO()
    call_command("webhooks_status", *arguments, stdout=out)
    return out.getvalue()


def test_status_tells_the_backlog_and_fails_over_the_lag(subscribe):
    subscribe("*")
    order()
    Event.objects.update(occurred_at=timezone.now() - worker.timedelta(seconds=100))
    assert re.search(r"events to fan out: +1", status())
    assert re.search(r"worker seen: +never", status())
    status("--max-lag", "200")
    with pytest.raises(CommandError, match="has waited for 100 s") as caught:
        status("--max-lag", "50")
    assert caught.value.returncode == 1
    call_command("webhooks_drain", stdout=io.StringIO())
    assert re.search(r"worker seen: +\d s ago", status("--max-lag", "1"))


def test_what_was_given_back_when_it_is_cut_short_is_no_result():
    """Between the cancelling of a request and its being forgotten."""
    with pytest.raises(TimeoutError), worker.Pipeline("default") as pipeline:
        future = Future()
        future.cancel()
        pipeline.under_way[future] = worker.UnderWay(Delivery(), 0.0)
        raise TimeoutError


@pytest.mark.parametrize("odd", ["nan", "inf", "1e300", "-1", "soon"])
@pytest.mark.parametrize(
    ("command", "option"), [("webhooks_status", "--max-lag"), ("webhooks_drain", "--max-seconds")]
)
def test_seconds_that_are_none_are_refused_by_name(command, option, odd):
    with pytest.raises(CommandError, match=f"{option}: {odd!r} is not a number of seconds"):
        call_command(command, f"{option}={odd}")


def test_prune_ends_what_waits_for_a_subscription_that_was_deleted_by_sql(subscribe):
    subscribe("shop.order.*")
    order()
    fan_out("default")
    Delivery.objects.update(subscription=None)
    call_command("webhooks_prune", stdout=io.StringIO())
    assert Delivery.objects.get().status == "cancelled"
    assert Delivery.objects.get().reason == "The subscription was deleted."


def lag() -> float:
    return max(each.lag.total_seconds() for each in check_health())


def make_late(seconds: float, **fields) -> None:
    late = timezone.now() - worker.timedelta(seconds=seconds)
    Delivery.objects.update(next_attempt_at=late, **fields)


def test_lag_is_what_a_worker_should_have_taken(subscribe):
    subscription = subscribe("*")
    order()
    fan_out("default")
    make_late(100)
    assert 99 < lag() < 110
    make_late(100, lease_token=uuid4())
    assert 99 < lag() < 110, "a lease that ran out, and nobody took over"
    Subscription.objects.update(status="paused")
    assert lag() == 0
    Subscription.objects.update(status="active", held_until=timezone.now() + worker.HELD)
    assert lag() == 0, "the endpoint is broken, not the worker"
    (found,) = (each for each in check_health() if each.using == "default")
    assert (found.due, found.pending) == (0, 1)
    Subscription.objects.update(held_until=timezone.now() - worker.timedelta(seconds=5))
    assert 4 < lag() < 15, "late since it may be asked again"
    Subscription.objects.update(
        held_until=None, next_slot_at=timezone.now() - worker.timedelta(seconds=3)
    )
    assert 2 < lag() < 13, "late since its turn came"
    Subscription.objects.filter(pk=subscription.pk).delete()
    assert lag() == 0


def test_status_counts_no_further_than_needed(subscribe, monkeypatch):
    monkeypatch.setattr(health, "MOST", 3)
    monkeypatch.setattr(webhooks_status, "MOST", 3)
    subscribe("*")
    for number in range(5):
        order(number=number)
    with CaptureQueriesContext(connection) as queries:
        assert re.search(r"events to fan out: +3\+", status())
    counts = [each["sql"] for each in queries if "COUNT(" in each["sql"]]
    assert counts
    assert all("LIMIT 3" in sql for sql in counts)


def test_status_tells_monitoring_in_json(subscribe):
    subscribe("*")
    order()
    Event.objects.update(occurred_at=timezone.now() - worker.timedelta(seconds=100))
    found = {each["using"]: each for each in json.loads(status("--json"))}
    assert found["default"]["waiting_events"] == 1
    assert 99 < found["default"]["lag"] < 110
    assert found["other"]["worker_seen_at"] is None


def test_prune_follows_the_retention_and_keeps_what_has_not_ended(subscribe, receiver, settings):
    receiver.answer = lambda request: 500 if b"waits" in request.body else 200
    subscribe("shop.order.*")
    order(number="old")
    order(number="waits")
    drain()
    long_ago = timezone.now() - worker.timedelta(days=31)
    Delivery.objects.filter(status="succeeded").update(completed_at=long_ago)
    Event.objects.update(occurred_at=long_ago)
    order(number="new")
    drain()
    out = io.StringIO()
    call_command("webhooks_prune", stdout=out)
    kept = Event.objects.order_by("id")
    assert [event.data["number"] for event in kept] == ["waits", "new"]
    assert "1 succeeded deliveries, 1 events" in out.getvalue()
    call_command("webhooks_prune", stdout=out)
    assert "nothing is old enough" in out.getvalue()
    assert webhook_settings.RETENTION["succeeded"] == 30
