"""Tables as large as those of a site that has run for months, filled by the database itself."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import connections, models
from django.utils import timezone

from django_webhooks.models import Attempt, Delivery, Event, Subscription

DIGITS = " UNION ALL ".join(f"SELECT {digit}" for digit in range(1, 10))


@dataclass(frozen=True)
class Dialect:
    """What the databases write differently; `{n}` is the row's number."""

    event_id: str
    ago: str
    """That many seconds before the parameter."""
    analyze: str = "ANALYZE {table}"


DIALECTS = {
    "postgresql": Dialect(
        "'evt_' || lpad(({n})::text, 32, '0')",
        "%s - ({n}) * interval '1 s'",
        # Without the map of what is visible to all, no index is enough by itself.
        analyze="VACUUM (ANALYZE) {table}",
    ),
    "mysql": Dialect(
        "CONCAT('evt_', LPAD({n}, 32, '0'))",
        "DATE_SUB(%s, INTERVAL {n} SECOND)",
        "ANALYZE TABLE {table}",
    ),
    "sqlite": Dialect("printf('evt_%%032d', {n})", "datetime(%s, '-' || ({n}) || ' seconds')"),
}


class Tables:
    """Fills the tables of one database: each call adds rows, numbered on from the last."""

    def __init__(self, using: str = "default") -> None:
        self.using = using
        self.connection = connections[using]
        self.dialect = DIALECTS[self.connection.vendor]
        self.rows = 0

    def subscribe(self, count: int, **fields: Any) -> list[Subscription]:
        return [
            Subscription.objects.using(self.using).create(
                url=f"https://{number}.example.com/", **fields
            )
            for number in range(count)
        ]

    def settled(self, count: int, subscriptions: list[Subscription], *, days: float = 0) -> None:
        """Events a second apart, the newest that many days old, each delivered by one attempt."""
        start = self.rows
        self.events(count, days=days)
        ended = self._ago("n", days)
        self._deliver(
            start, count, subscriptions, status="'succeeded'", attempt_count=1, completed_at=ended
        )
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {_table(Attempt)} (delivery_id, number, is_first, started_at,"
                " duration_ms, url, request_headers, response_headers, response_body, error,"
                " detail, stale)"
                f" SELECT id, 1, {self._sql_of(True)}, completed_at, 1, 'https://example.com/',"
                f" '{{}}', '{{}}', 'ok', '', '', {self._sql_of(False)} FROM {_table(Delivery)}"
                f" WHERE event_id > {self._event_id(str(start))} AND completed_at IS NOT NULL"
            )

    def due(self, count: int, subscriptions: list[Subscription], **event: Any) -> None:
        """Deliveries that are due for up to that many seconds; `event` is as for `events()`."""
        start = self.rows
        self.events(count, **event)
        self._deliver(start, count, subscriptions, next_attempt_at=self._ago("n", 0))

    def events(self, count: int, *, days: float = 0, waiting: bool = False, **columns: str) -> None:
        """Events a second apart; each column that is named has that text."""
        usual = {
            "type": "shop.order.updated",
            "data": "{}",
            "previous": "{}",
            "through": "[]",
            "body": "{}",
            "subject_type": "shop.order",
            "subject_id": "1",
        }
        self._insert(
            Event,
            count,
            id=self._event_id(f"n + {self.rows}"),
            occurred_at=self._ago("n", days),
            fanned_out_at="NULL" if waiting else self._ago("n", days),
            **{name: ("%s", [text]) for name, text in (usual | columns).items()},
        )
        self.rows += count

    def analyze(self) -> None:
        """What autovacuum does in the background, and `PRAGMA optimize` on SQLite."""
        with self.connection.cursor() as cursor:
            for model in (Attempt, Delivery, Event, Subscription):
                cursor.execute(self.dialect.analyze.format(table=_table(model)))

    def _deliver(
        self, start: int, count: int, subscriptions: list[Subscription], **columns: Any
    ) -> None:
        key = Delivery._meta.get_field("subscription").target_field
        for number, each in enumerate(subscriptions):
            self._insert(
                Delivery,
                count,
                where=f"n %% {len(subscriptions)} = {number}",
                event_id=self._event_id(f"n + {start}"),
                subscription_id=("%s", [key.get_db_prep_value(each.pk, self.connection)]),
                created_at=self._ago("n", 0),
                **columns,
            )

    def _insert(
        self, model: type[models.Model], count: int, where: str = "1 = 1", **columns: Any
    ) -> None:
        """One INSERT of rows 1 to `count`; a column is SQL over `n`, or SQL with parameters."""
        values = {
            field.column: self._sql_of(field.get_default())
            for field in model._meta.concrete_fields
            if not field.primary_key
        } | columns
        pairs = [each if isinstance(each, tuple) else (each, []) for each in values.values()]
        powers = [10**place for place in range(len(str(count)))]
        numbers = " CROSS JOIN ".join(f"d AS d{power}" for power in powers)
        n = " + ".join(f"{power} * d{power}.n" for power in powers)
        sql = (
            f"INSERT INTO {_table(model)} ({', '.join(values)})"
            f" WITH d(n) AS (SELECT 0 UNION ALL {DIGITS}),"
            f" numbers AS (SELECT {n} AS n FROM {numbers})"
            f" SELECT {', '.join(str(pair[0]) for pair in pairs)} FROM numbers"
            f" WHERE n BETWEEN 1 AND {count} AND {where}"
        )
        with self.connection.cursor() as cursor:
            cursor.execute(sql, [value for _, values_ in pairs for value in values_])

    def _event_id(self, n: str) -> str:
        return self.dialect.event_id.format(n=n)

    def _ago(self, n: str, days: float) -> tuple[str, list[Any]]:
        moment = timezone.now() - timedelta(days=days)
        adapted = self.connection.ops.adapt_datetimefield_value(moment)
        return self.dialect.ago.format(n=n), [adapted]

    def _sql_of(self, value: Any) -> Any:
        if value is None:
            return "NULL"
        if isinstance(value, bool):
            return str(value).upper() if self.connection.vendor == "postgresql" else int(value)
        if isinstance(value, int | str):
            return value if isinstance(value, int) else f"'{value}'"
        return "NULL"  # a date: given by whoever needs it


def _table(model: type[models.Model]) -> str:
    return model._meta.db_table
