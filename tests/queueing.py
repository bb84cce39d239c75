"""A model of workers, database and receivers, by which the docs reckon what no machine here can do.

A discrete-event simulation: what takes time is work at a station (a processor, the lock of a
Python process, the threads of a worker), which serves in turn. A worker does as `Pipeline` does:
it claims for free places, sends on threads, gathers what comes back, settles. All costs are
given, nothing is measured here; the same seed gives the same run. Left out: fairness among
subscriptions, for which workers look at each other's rows less often than here, and retries.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, islice

from django_webhooks.claim import LOOKS, WINDOW
from django_webhooks.fanout import BATCH, LOTS
from django_webhooks.worker import AHEAD, GATHER, GATHER_BUSY, POLL, RECENT

Then = Callable[[], None]


@dataclass(frozen=True)
class Line:
    """Seconds for a batch: `fixed`, and `each` for every row."""

    fixed: float
    each: float

    def of(self, rows: float) -> float:
        return self.fixed + self.each * rows

    @classmethod
    def through(cls, points: dict[int, float]) -> "Line":
        """By least squares of the relative error; `points` are seconds by rows of a batch."""
        weights = {rows: 1 / seconds**2 for rows, seconds in points.items()}
        total = sum(weights.values())
        mean_x = sum(weights[rows] * rows for rows in points) / total
        mean_y = sum(weights[rows] * points[rows] for rows in points) / total
        slope = sum(weights[x] * (x - mean_x) * (y - mean_y) for x, y in points.items())
        slope /= sum(weights[x] * (x - mean_x) ** 2 for x in points)
        return cls(max(mean_y - slope * mean_x, 0.0), slope)


@dataclass(frozen=True)
class Step:
    """One of the worker's steps with the database."""

    worker: Line
    """Seconds of processor in the worker's process."""
    database: Line
    """Seconds of processor in the database's."""
    round_trips: int


@dataclass(frozen=True)
class Costs:
    """Seconds."""

    fan_out: Step
    claim: Step
    settle: Step
    send: float
    """Of processor, in the worker, for one request."""
    receive: float = 0.0
    """Of processor, in the receiver; counts only where it shares the worker's machine."""


@dataclass(frozen=True)
class Receivers:
    """How long they take to answer: log-normal, and some never do."""

    median: float
    sigma: float = 0.0
    dead: float = 0.0
    """Share of the requests that end by the time-out."""
    timeout: float = 15.0

    @property
    def mean(self) -> float:
        alive = self.median * math.exp(self.sigma**2 / 2)
        return (1 - self.dead) * alive + self.dead * self.timeout

    def draw(self, chance: random.Random) -> float:
        if self.dead and chance.random() < self.dead:
            return self.timeout
        return self.median * math.exp(self.sigma * chance.gauss(0, 1))


@dataclass(frozen=True)
class Site:
    """What is there to do the work."""

    processes: int
    places: int = 16
    cores: float = math.inf
    """For the workers."""
    database_cores: float = math.inf
    """0: the database shares the workers' cores, and so do the receivers."""
    round_trip: float = 0.0
    """Seconds."""


@dataclass
class Result:
    seconds: float = 0.0
    done: int = 0
    left: int = 0
    """What had come and was not yet claimed, at the end."""
    waits: list[float] = field(default_factory=list)
    """Seconds from when each was due until its request began."""
    batches: list[int] = field(default_factory=list)
    """Of the claims."""
    chosen: int = 0
    """Rows that a worker had seen as due, and wanted."""
    worker: float = 0.0
    """Seconds of processor."""
    database: float = 0.0

    @property
    def lost(self) -> float:
        """Share of the chosen rows that another worker had taken by then."""
        return 1 - sum(self.batches) / self.chosen

    @property
    def rate(self) -> float:
        return self.done / self.seconds

    @property
    def batch(self) -> float:
        return sum(self.batches) / max(len(self.batches), 1)

    def wait(self, share: float) -> float:
        """The wait that this share of the deliveries does not exceed."""
        ranked = sorted(self.waits)
        return ranked[min(int(share * len(ranked)), len(ranked) - 1)]


def drain(costs: Costs, site: Site, receivers: Receivers, backlog: int, seed: int = 1) -> Result:
    """A backlog, fanned out already, until it is empty."""
    run = _Run(costs, site, receivers, seed)
    run.enqueue([0.0] * backlog)
    run.start()
    run.clock.run()
    return run.finish()


def contend(costs: Costs, site: Site, backlog: int, wanted: int, seed: int = 1) -> Result:
    """Workers that do nothing but claim, so many at a time."""
    run = _Run(costs, site, Receivers(0.0), seed)
    run.workers = [_Claimer(run, wanted) for _ in range(site.processes)]
    run.enqueue([0.0] * backlog)
    run.start()
    run.clock.run()
    return run.finish()


def serve(
    costs: Costs, site: Site, receivers: Receivers, rate: float, seconds: float, seed: int = 1
) -> Result:
    """Events that come at random, each for one subscription, `rate` per second on average."""
    run = _Run(costs, site, receivers, seed)

    def arrive() -> None:
        run.events.append(run.clock.now)
        run.wake()
        after = run.chance.expovariate(rate)
        if run.clock.now + after < seconds:
            run.clock.after(after, arrive)

    run.clock.after(run.chance.expovariate(rate), arrive)
    run.start()
    run.clock.run(until=seconds)
    return run.finish()


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self._ahead: list[tuple[float, int, Then]] = []
        self._number = count()

    def after(self, seconds: float, then: Then) -> None:
        heapq.heappush(self._ahead, (self.now + seconds, next(self._number), then))

    def run(self, until: float = math.inf) -> None:
        while self._ahead and self._ahead[0][0] <= until:
            self.now, _, then = heapq.heappop(self._ahead)
            then()
        if until < math.inf:
            self.now = until


class _Station:
    """So many at a time, the others in turn. Whoever is served leaves by `leave()`."""

    def __init__(self, places: float) -> None:
        self._free = places
        self._waiting: deque[Then] = deque()

    def enter(self, then: Then) -> None:
        if self._free >= 1:
            self._free -= 1
            then()
        else:
            self._waiting.append(then)

    def leave(self) -> None:
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._free += 1


class _Run:
    def __init__(self, costs: Costs, site: Site, receivers: Receivers, seed: int) -> None:
        self.costs, self.site, self.receivers = costs, site, receivers
        self.clock, self.chance, self.result = _Clock(), random.Random(seed), Result()
        self.events: deque[float] = deque()
        """When those came that wait for their fan-out."""
        self.due: dict[int, float] = {}
        """When those were due that wait for their claim."""
        self._order: deque[int] = deque()
        self._number = count()
        self.cores = _Station(site.cores)
        self.database = _Station(site.database_cores) if site.database_cores else self.cores
        self.fanning_out = 0
        """Workers that do so right now."""
        self.workers = [_Worker(self) for _ in range(site.processes)]

    def start(self) -> None:
        for each in self.workers:
            each.turn()

    def enqueue(self, moments: list[float]) -> None:
        for each in moments:
            number = next(self._number)
            self.due[number] = each
            self._order.append(number)

    def look(self, window: int) -> list[int]:
        """The oldest that are due."""
        while self._order and self._order[0] not in self.due:
            self._order.popleft()
        return list(islice((each for each in self._order if each in self.due), window))

    def wake(self) -> None:
        for each in self.workers:
            if each.idle:
                each.idle = False
                self.clock.after(0.0, each.turn)
                break

    def finish(self) -> Result:
        self.result.seconds = self.clock.now
        self.result.left = len(self.due) + len(self.events)
        return self.result

    def work(self, station: _Station, seconds: float, then: Then) -> None:
        def begin() -> None:
            self.clock.after(seconds, end)

        def end() -> None:
            station.leave()
            then()

        station.enter(begin)


class _Worker:
    """One process: a thread that claims and settles, and `places` that send."""

    def __init__(self, run: _Run) -> None:
        self.run, self.places = run, run.site.places
        self.idle = False
        self.under_way = 0
        self._interpreter = _Station(1)
        self._threads = _Station(self.places)
        self._came_back: deque[float] = deque(maxlen=AHEAD * self.places)
        self._done = 0
        self._waiting = 0
        """The number of the wait that is on; 0 if none is."""
        self._gathering = 0
        """Likewise, of results that follow the first; with `_enough` of them it ends."""
        self._enough = 0
        self._waits = count(1)

    # The thread that claims and settles

    def turn(self) -> None:
        run = self.run
        rows = min(len(run.events), BATCH)
        if rows and run.fanning_out < LOTS:
            run.fanning_out += 1
            came = [run.events.popleft() for _ in range(rows)]
            self._step(run.costs.fan_out, rows, lambda: self._fanned_out(came))
        else:
            self._claim()

    def _fanned_out(self, came: list[float]) -> None:
        self.run.fanning_out -= 1
        self.run.enqueue(came)
        self._claim()

    def _claim(self) -> None:
        now = self.run.clock.now
        most = self.places + sum(1 for each in self._came_back if each > now - RECENT)
        wanted = most - self.under_way
        enough = most // 2 if most > self.places else 1
        if wanted >= enough:
            self._look(wanted, 1)
        else:
            self._wait()

    def _look(self, wanted: int, number: int) -> None:
        """Choose; the lease comes a moment later, and takes what is still there."""
        run = self.run
        seen = run.look(wanted * WINDOW * number)
        if number > 1:
            run.chance.shuffle(seen)
        chosen = seen[:wanted]
        if not chosen or number > LOOKS:
            self._wait()
            return
        run.result.chosen += len(chosen)

        def lease() -> None:
            took = [run.due.pop(each) for each in chosen if each in run.due]
            if not took:
                self._look(wanted, number + 1)
                return
            run.result.batches.append(len(took))
            self.under_way += len(took)
            self._step(run.costs.claim, len(took), lambda: self._send(took), share=0.5)

        self._step(run.costs.claim, len(chosen), lease, share=0.5)

    def _send(self, due: list[float]) -> None:
        for each in due:
            self._threads.enter(lambda since=each: self._request(since))  # type: ignore[misc]
        self._wait()

    def _wait(self) -> None:
        run = self.run
        if not self.under_way:
            if run.due or (run.events and run.fanning_out < LOTS):
                self.turn()
            elif run.events:
                run.clock.after(GATHER, self.turn)
            else:
                self.idle = True
            return
        number = self._waiting = next(self._waits)
        if self._done:
            self._gather()
        else:
            run.clock.after(POLL, lambda: self._give_up(number))

    def _give_up(self, number: int) -> None:
        if self._waiting == number:
            self._waiting = 0
            self.turn()

    def _gather(self) -> None:
        self._waiting = 0
        seconds, self._enough = GATHER, self.under_way
        if self.under_way >= 2 * self.places:
            seconds, self._enough = GATHER_BUSY, self.under_way - self.places
        number = self._gathering = next(self._waits)
        self.run.clock.after(seconds, lambda: self._end_gathering(number))
        self._end_gathering(number, self._enough)

    def _end_gathering(self, number: int, enough: int = 1) -> None:
        if number == self._gathering and self._done >= enough:
            self._settle()

    def _settle(self) -> None:
        self._gathering = 0
        rows, self._done = self._done, 0
        self.under_way -= rows
        self._came_back.extend([self.run.clock.now] * rows)
        self._step(self.run.costs.settle, rows, lambda: self._settled(rows))

    def _settled(self, rows: int) -> None:
        self.run.result.done += rows
        self.turn()

    def _step(self, step: Step, rows: int, then: Then, share: float = 1.0) -> None:
        run = self.run
        database = step.database.of(rows) * share
        trips = step.round_trips * run.site.round_trip * share
        run.result.database += database

        def answered() -> None:
            run.clock.after(trips, then)

        self._compute(
            step.worker.of(rows) * share, lambda: run.work(run.database, database, answered)
        )

    def _compute(self, seconds: float, then: Then) -> None:
        """Holds the interpreter's lock, and a core."""
        self.run.result.worker += seconds

        def end() -> None:
            self._interpreter.leave()
            then()

        self._interpreter.enter(lambda: self.run.work(self.run.cores, seconds, end))

    # The threads that send

    def _request(self, due: float) -> None:
        run = self.run
        run.result.waits.append(run.clock.now - due)
        latency = run.receivers.draw(run.chance)

        def sent() -> None:
            if run.costs.receive and not run.site.database_cores:
                run.work(run.cores, run.costs.receive, received)
            else:
                received()

        def received() -> None:
            run.clock.after(latency, came_back)

        def came_back() -> None:
            self._threads.leave()
            self._done += 1
            if self._waiting:
                self._gather()
            elif self._gathering:
                self._end_gathering(self._gathering, self._enough)

        self._compute(run.costs.send, sent)


class _Claimer(_Worker):
    def __init__(self, run: _Run, wanted: int) -> None:
        super().__init__(run)
        self._wanted = wanted

    def _claim(self) -> None:
        if self.run.due:
            self._look(self._wanted, 1)

    def _send(self, due: list[float]) -> None:
        self.run.result.done += len(due)
        self._claim()

    def _wait(self) -> None:
        self._claim()
