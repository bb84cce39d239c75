"""Thousands of rows that are nearly alike, with few statements.

`bulk_create()` makes an instance of each row and asks each field for each value, which takes
several times as long as the database does. Here a field is asked once for each value it has.
"""

from collections.abc import Sequence
from typing import Any

from django.db import connections, models
from django.db.models.constants import OnConflict

ROWS, ARRAYED = 500, 2000
"""Rows that are inserted with one statement: as values, and as arrays."""


def insert(
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
