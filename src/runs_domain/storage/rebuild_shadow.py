"""The shadow that a view is made anew in, and how it takes the view's place.

It begins as bare rows: indexes are built once it is full, which is far quicker. Only names differ
until the swap, and afterwards nothing does.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from psycopg import sql

from runs_domain.storage.long_work import LongConnection, ServerFailed
from runs_domain.storage.rebuild_grants import copy_grants
from runs_domain.storage.rebuild_likeness import Likeness, differing, likeness

SHADOW: Final = "__rebuild"
REPLACED: Final = "__replaced"
_WHILE_LOADED: Final = "autovacuum_enabled"
"""Off meanwhile: a vacuum would be in the way of the indexes, and there is nothing to clean."""
ANALYZE_SECONDS_MAX: Final = 3600.0
_MISSING: Final = "SELECT one FROM unnest(%s::text[]) AS one WHERE to_regclass(one) IS NULL"


def shadow_of(view: str) -> str:
    return view + SHADOW


def replaced_of(view: str) -> str:
    return view + REPLACED


def index_names(view: str, like: Likeness, suffix: str = SHADOW) -> dict[str, str]:
    """Its indexes' own names, by those that they have beside the view."""
    return {
        f"{view}{suffix}_{number}": one["name"]
        for number, one in enumerate(like["indexes"], start=1)
    }


async def create(owner: LongConnection, view: str, like: Likeness) -> None:
    """Without rows and indexes. Raises ServerFailed if it is not like the view in all else."""
    doing = f"making the shadow of {view}"
    for statement in _table(view, like):
        await owner.do(statement.as_string(), doing=doing)
    await copy_grants(owner, view, shadow_of(view), doing=doing)
    _assert_like(view, _bare(like), _bare(await likeness(owner, shadow_of(view))))


def _table(view: str, like: Likeness) -> list[sql.Composable]:
    shadow = sql.Identifier(shadow_of(view))
    options = _options(like) | {_WHILE_LOADED: "false", f"toast.{_WHILE_LOADED}": "false"}
    made: list[sql.Composable] = [
        sql.SQL(
            "CREATE {unlogged} TABLE {schema}.{shadow} (LIKE {view} INCLUDING ALL EXCLUDING INDEXES"
            " EXCLUDING STATISTICS) USING {method} WITH ({options}) {tablespace}"
        ).format(
            unlogged=sql.SQL("UNLOGGED" if like["persistence"] == "u" else ""),
            schema=sql.Identifier(like["schema"]),
            shadow=shadow,
            view=sql.Identifier(view),
            method=sql.Identifier(like["method"]),
            options=_assignments(options),
            tablespace=_in_tablespace(like),
        ),
        sql.SQL("ALTER TABLE {} OWNER TO {}").format(shadow, sql.Identifier(like["owner"])),
    ]
    if like["comment"] is not None:
        comment = sql.Literal(like["comment"])
        made.append(sql.SQL("COMMENT ON TABLE {} IS {}").format(shadow, comment))
    for column in like["columns"]:
        named = sql.Identifier(column["name"])
        change = sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET ").format(shadow, named)
        if column["statistics"] is not None:
            made.append(change + sql.SQL("STATISTICS {}").format(column["statistics"]))
        if column["options"]:
            made.append(change + sql.SQL("({})").format(_assignments(_pairs(column["options"]))))
    return made


def index_statements(view: str, like: Likeness) -> Mapping[str, Sequence[str]]:
    """What builds each index of the shadow, by its name there; to be done in one session."""
    statements = {}
    own = {one["name"]: one for one in like["indexes"]}
    for name, original in index_names(view, like).items():
        index = own[original]
        space = sql.SQL("SET default_tablespace = {}").format(index["tablespace"] or "")
        create = sql.SQL("CREATE {} INDEX {} ON {} USING ").format(
            sql.SQL("UNIQUE" if index["unique"] else ""),
            sql.Identifier(name),
            sql.Identifier(shadow_of(view)),
        )
        statements[name] = (space.as_string(), create.as_string() + index["says"])
    return statements


async def complete(owner: LongConnection, view: str, like: Likeness) -> None:
    """Once its indexes are there: constraints, options, statistics. Raises ServerFailed if it is
    not like the view in all.
    """
    names = index_names(view, like)
    there = await likeness(owner, shadow_of(view), names)
    for statement in _rest(view, like, there):
        doing = f"completing the shadow of {view}"
        await owner.do(statement.as_string(), doing=doing, seconds_max=ANALYZE_SECONDS_MAX)
    _assert_like(view, like, await likeness(owner, shadow_of(view), names))


def _assert_like(view: str, like: Likeness, shadow: Likeness) -> None:
    unlike = differing(like, shadow)
    if unlike:
        raise ServerFailed(f"the shadow of {view} is not like it in: {', '.join(unlike)}")


def _bare(like: Likeness) -> Likeness:
    """But for what is made once it is full: indexes, their constraints, and what was off."""
    kept = [one for one in like["constraints"] if one["kind"] not in {"p", "u"}]
    options = {
        name: [one for one in like[name] if not one.startswith(f"{_WHILE_LOADED}=")]
        for name in ("options", "toastOptions")
    }
    return like | options | {"indexes": [], "constraints": kept}


def _rest(view: str, like: Likeness, there: Likeness) -> list[sql.Composable]:
    shadow = sql.Identifier(shadow_of(view))
    names = {original: name for name, original in index_names(view, like).items()}
    known = {one["name"] for one in there["constraints"]}
    made: list[sql.Composable] = []
    for index in like["indexes"]:
        name = sql.Identifier(names[index["name"]])
        if index["constraint"] is not None and index["name"] not in known:
            kind = sql.SQL("PRIMARY KEY" if index["primary"] else "UNIQUE")
            made.append(
                sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {} USING INDEX {}").format(
                    shadow, name, kind, name
                )
            )
        if index["comment"] is not None:
            comment = sql.Literal(index["comment"])
            made.append(sql.SQL("COMMENT ON INDEX {} IS {}").format(name, comment))
        if index["clustered"]:
            made.append(sql.SQL("ALTER TABLE {} CLUSTER ON {}").format(shadow, name))
    meanwhile = sql.SQL(f"{_WHILE_LOADED}, toast.{_WHILE_LOADED}")
    made.append(sql.SQL("ALTER TABLE {} RESET ({})").format(shadow, meanwhile))
    kept = {name: to for name, to in _options(like).items() if name.endswith(_WHILE_LOADED)}
    if kept:
        made.append(sql.SQL("ALTER TABLE {} SET ({})").format(shadow, _assignments(kept)))
    made.append(sql.SQL("VACUUM (ANALYZE) {}").format(shadow))
    return made


def swap_statements(view: str, like: Likeness) -> str:
    """Renames the view and its indexes out of the way, then the shadow and its own into place."""
    tables = [(view, replaced_of(view)), (shadow_of(view), view)]
    out = {original: name for name, original in index_names(view, like, REPLACED).items()}
    indexes = [*out.items(), *index_names(view, like).items()]
    return "; ".join(
        [
            *(_renamed("TABLE", old, new) for old, new in tables),
            *(_renamed("INDEX", old, new) for old, new in indexes),
        ]
    )


def _renamed(kind: str, old: str, new: str) -> str:
    return (
        sql.SQL("ALTER {} {} RENAME TO {}")
        .format(sql.SQL(kind), sql.Identifier(old), sql.Identifier(new))
        .as_string()
    )


async def missing(owner: LongConnection, views: Sequence[str]) -> list[str]:
    """Those of the views' shadows that are not there."""
    tables = [shadow_of(view) for view in views]
    return [table for (table,) in await owner.fetch(_MISSING, (tables,))]


async def drop(owner: LongConnection, tables: Sequence[str]) -> None:
    """Those of them that are there."""
    for table in tables:
        await owner.do(
            sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(table)).as_string(),
            doing=f"dropping {table}",
        )


def _options(like: Likeness) -> dict[str, str]:
    toast = {f"toast.{name}": to for name, to in _pairs(like["toastOptions"]).items()}
    return _pairs(like["options"]) | toast


def _pairs(options: Sequence[str]) -> dict[str, str]:
    return dict(option.split("=", maxsplit=1) for option in options)


def _assignments(options: Mapping[str, Any]) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{} = {}").format(
            sql.SQL(".").join(map(sql.Identifier, name.split("."))), sql.Literal(str(to))
        )
        for name, to in options.items()
    )


def _in_tablespace(like: Likeness) -> sql.Composable:
    space = like["tablespace"]
    return sql.SQL("" if space is None else "TABLESPACE {}").format(
        *([] if space is None else [sql.Identifier(space)])
    )
