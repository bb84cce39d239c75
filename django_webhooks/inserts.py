"""Rows into a table, with as little round them as there can be.

`bulk_create()` makes an instance of each row and asks each field for each value, and psycopg
escapes each item of the lists that it sends in Python: several times what the database takes.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from django.db import connections, models
from django.db.models.constants import OnConflict

ROWS, ARRAYED = 500, 2000
"""Rows that are inserted with one statement: as values or JSON, and as arrays."""

CHARACTERS = 16_000_000
"""Of JSON, in one statement: PostgreSQL takes a gigabyte at most, and holds it more than once."""

PLAIN = (models.BooleanField, models.CharField, models.IntegerField, models.TextField)
"""Fields whose values every driver takes as they are."""


def insert(model: type[models.Model], rows: Sequence[Any], using: str) -> list[Any]:
    """As `bulk_create()`, in half of its time. Returns the keys, if the database tells them.

    A row has all columns but the key as attributes, of the very type of the field: it may be an
    instance, or cheaper than that. Raises what the database does.
    """
    if not rows:
        return []
    connection, meta = connections[using], model._meta
    fields: list[Any] = [field for field in meta.concrete_fields if not field.primary_key]
    quote = connection.ops.quote_name
    columns = ", ".join(quote(field.column) for field in fields)
    into = f"INSERT INTO {quote(meta.db_table)} ({columns})"
    tells = connection.features.can_return_rows_from_bulk_insert
    returning = f" RETURNING {quote(str(meta.pk.column))}" if tells else ""
    source = _from_json if connection.vendor == "postgresql" else _from_values
    keys: list[Any] = []
    with connection.cursor() as cursor:
        for part, params in source(fields, rows, connection):
            cursor.execute(f"{into} {part}{returning}", params)
            keys += [key for (key,) in cursor.fetchall()] if tells else []
    return keys


Source = Iterator[tuple[str, list[Any]]]
"""What follows INSERT INTO, with its parameters, once for each statement."""


def _from_values(fields: Sequence[Any], rows: Sequence[Any], connection: Any) -> Source:
    adapters = [(field.attname, _adapter(field, connection)) for field in fields]
    marks = f"({', '.join(['%s'] * len(fields))})"
    most = connection.ops.bulk_batch_size(fields, rows)
    for start in range(0, len(rows), most):
        lot = rows[start : start + most]
        values = [adapt(getattr(row, name)) for row in lot for name, adapt in adapters]
        yield "VALUES " + ", ".join([marks] * len(lot)), values


def _from_json(fields: Sequence[Any], rows: Sequence[Any], connection: Any) -> Source:
    """One text for a whole lot: psycopg would spend more on so many values than all else takes."""
    quote = connection.ops.quote_name
    types = ", ".join(f"{quote(field.column)} {field.db_type(connection)}" for field in fields)
    source = f"SELECT * FROM json_to_recordset(%s) AS rows ({types})"  # noqa: S608
    names = [field.column for field in fields]
    values_of = attrgetter(*(field.attname for field in fields))
    # As PostgreSQL reads them: moments and UUIDs.
    encode = json.JSONEncoder(default=str, ensure_ascii=False).encode
    texts = (encode(dict(zip(names, values_of(row), strict=True))) for row in rows)
    for lot in _lots(texts):
        yield source, [f"[{','.join(lot)}]"]


def _lots(texts: Iterable[str]) -> Iterator[list[str]]:
    """Of rows in JSON, each for one statement."""
    lot: list[str] = []
    left = CHARACTERS
    for text in texts:
        if lot and (len(text) > left or len(lot) == ROWS):
            yield lot
            lot, left = [], CHARACTERS
        lot.append(text)
        left -= len(text)
    if lot:
        yield lot


def insert_alike(
    like: models.Model,
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    parent: str,
    using: str,
) -> None:
    """Rows like the instance `like`, each with its own values of the fields `names`.

    What is there already is left as it is. `parent` is the foreign key among `names` whose target
    another may delete meanwhile: rows that would point to nothing are left out, and the other
    targets can't be deleted until the transaction ends. They can be changed, where the database
    has a lock for that, and others may insert what points to them.
    """
    if not rows:
        return
    connection, meta = connections[using], like._meta
    own: list[Any] = [meta.get_field(name) for name in names]
    common = [each for each in meta.concrete_fields if not (each.primary_key or each in own)]
    values = [each.get_db_prep_save(getattr(like, each.attname), connection) for each in common]
    quote = connection.ops.quote_name
    columns = ", ".join(quote(each.column) for each in [*common, *own])
    into = connection.ops.insert_statement(on_conflict=OnConflict.IGNORE)
    start = f"{into} {quote(meta.db_table)} ({columns})"
    end = connection.ops.on_conflict_suffix_sql([*common, *own], OnConflict.IGNORE, [], [])
    has_arrays = connection.vendor == "postgresql"
    most = ARRAYED if has_arrays else ROWS
    with connection.cursor() as cursor:
        for first in range(0, len(rows), most):
            lot = zip(*rows[first : first + most], strict=True)
            lists = [_prepared(*each, connection) for each in zip(own, lot, strict=True)]
            if has_arrays:
                source = _from_arrays(common, own, meta.get_field(parent), connection)
                params = [*values, *lists]
            else:
                # The check of the foreign key locks its target, and what fails it is ignored, too,
                # on MySQL; on SQLite one transaction writes at a time.
                place = f"({', '.join(['%s'] * len([*common, *own]))})"
                source = f"VALUES {', '.join([place] * len(lists[0]))}"
                params = [each for row in zip(*lists, strict=True) for each in (*values, *row)]
            cursor.execute(f"{start} {source} {end}", params)


def _adapter(field: Any, connection: Any) -> Callable[[Any], Any]:
    if isinstance(field, PLAIN):
        return _as_it_is
    if isinstance(field, models.JSONField):
        return lambda value: None if value is None else json.dumps(value, cls=field.encoder)
    return partial(field.get_db_prep_save, connection=connection)


def _as_it_is(value: Any) -> Any:
    return value


def _prepared(field: Any, values: Sequence[Any], connection: Any) -> list[Any]:
    known = {each: field.get_db_prep_save(each, connection) for each in set(values)}
    return [known[each] for each in values]


def _from_arrays(common: Sequence[Any], own: Sequence[Any], parent: Any, connection: Any) -> str:
    """An array for each field, for PostgreSQL would spend as long on reading so many values.

    Its foreign keys are checked at the end of the transaction only, so their target is locked here
    as that check will do. Rows are inserted in their order.
    """
    quote = connection.ops.quote_name
    target = parent.target_field
    selected = [f"%s::{each.db_type(connection)}" for each in common]
    selected += [f"rows.{quote(each.column)}" for each in own]
    arrays = ", ".join(f"%s::{each.db_type(connection)}[]" for each in own)
    names = ", ".join(quote(each.column) for each in own)
    return (  # of names of tables and columns only
        f"SELECT {', '.join(selected)}"  # noqa: S608
        f" FROM unnest({arrays}) WITH ORDINALITY AS rows ({names}, number)"
        f" JOIN {quote(target.model._meta.db_table)} AS parents"
        f" ON parents.{quote(target.column)} = rows.{quote(parent.column)}"
        " ORDER BY rows.number FOR KEY SHARE OF parents"
    )
