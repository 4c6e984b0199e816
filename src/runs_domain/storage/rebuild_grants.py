"""Who may do what with a view's table, given to its shadow: that, and nothing besides."""

from typing import Final

from psycopg import sql

from runs_domain.storage.long_work import LongConnection

# Without any grant, a table has those that its owner has by itself.
_HELD: Final = """
SELECT (aclexplode(coalesce(relacl, acldefault('r', relowner)))).*, NULL AS column_name
FROM pg_class WHERE oid = %(table)s::regclass
"""
_NAME: Final = "coalesce(nullif(grantee, 0)::regrole::text, 'PUBLIC')"
_HOLDERS: Final = f"SELECT DISTINCT {_NAME} FROM ({_HELD}) AS held"  # noqa: S608 - our own words
_GRANTS: Final = f"""
SELECT {_NAME}, privilege_type, is_grantable, column_name
FROM (
    {_HELD}
    UNION ALL
    SELECT (aclexplode(attacl)).*, attname FROM pg_attribute
    WHERE attrelid = %(table)s::regclass AND NOT attisdropped
) AS held
"""  # noqa: S608


async def copy_grants(owner: LongConnection, view: str, shadow: str, *, doing: str) -> None:
    """The shadow, as it was made, may have others: by ALTER DEFAULT PRIVILEGES."""
    table = sql.Identifier(shadow)
    for (whom,) in await owner.fetch(_HOLDERS, {"table": shadow}):
        revoke = sql.SQL("REVOKE ALL ON {} FROM {}").format(table, sql.SQL(whom))
        await owner.do(revoke.as_string(), doing=doing)
    for whom, right, grantable, column in await owner.fetch(_GRANTS, {"table": view}):
        grant = sql.SQL("GRANT {right}{column} ON {table} TO {whom}{too}").format(
            right=sql.SQL(right),
            column=sql.SQL("" if column is None else " ({})").format(
                *([] if column is None else [sql.Identifier(column)])
            ),
            table=table,
            whom=sql.SQL(whom),  # quoted by the server as it must be
            too=sql.SQL(" WITH GRANT OPTION" if grantable else ""),
        )
        await owner.do(grant.as_string(), doing=doing)
