"""What the catalog says of a view's table: what a shadow must be like, to the last grant.

What cannot be copied is said before anything is made, and a shadow that came out different is
never swapped in.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from runs_domain.storage.long_work import LongConnection

Likeness = dict[str, Any]

_TABLE: Final = """
SELECT jsonb_build_object(
    'owner', pg_get_userbyid(one.relowner), 'persistence', one.relpersistence,
    'options', to_jsonb(ARRAY(SELECT unnest(one.reloptions) ORDER BY 1)),
    'toastOptions', to_jsonb(ARRAY(SELECT unnest(toast.reloptions) ORDER BY 1)),
    'method', am.amname, 'tablespace', space.spcname, 'replicaIdentity', one.relreplident,
    'acl', to_jsonb(ARRAY(SELECT item::text FROM unnest(
        coalesce(one.relacl, acldefault('r', one.relowner))) AS item ORDER BY 1)),
    'comment', obj_description(one.oid, 'pg_class'), 'schema', place.nspname
)
FROM pg_class AS one
JOIN pg_namespace AS place ON place.oid = one.relnamespace
JOIN pg_am AS am ON am.oid = one.relam
LEFT JOIN pg_class AS toast ON toast.oid = one.reltoastrelid
LEFT JOIN pg_tablespace AS space ON space.oid = one.reltablespace
WHERE one.oid = %s::regclass
"""
_COLUMNS: Final = """
SELECT jsonb_build_object(
    'name', attname, 'type', format_type(atttypid, atttypmod), 'notNull', attnotnull,
    'default', pg_get_expr(adbin, adrelid), 'identity', attidentity, 'generated', attgenerated,
    'storage', attstorage, 'compression', attcompression, 'statistics', attstattarget,
    'collation', attcollation::regcollation::text, 'options', to_jsonb(attoptions),
    'acl', to_jsonb(ARRAY(SELECT item::text FROM unnest(attacl) AS item ORDER BY 1)),
    'comment', col_description(attrelid, attnum)
)
FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_CONSTRAINTS: Final = """
SELECT jsonb_build_object(
    'name', conname, 'kind', contype, 'says', pg_get_constraintdef(one.oid),
    'comment', obj_description(one.oid, 'pg_constraint')
)
FROM pg_constraint AS one WHERE conrelid = %s::regclass ORDER BY conname
"""
_INDEXES: Final = """
SELECT jsonb_build_object(
    'name', one.relname, 'says', split_part(pg_get_indexdef(one.oid), ' USING ', 2),
    'unique', indisunique, 'primary', indisprimary, 'valid', indisvalid,
    'clustered', indisclustered, 'replicaIdentity', indisreplident,
    'tablespace', space.spcname, 'constraint', con.contype,
    'comment', obj_description(one.oid, 'pg_class')
)
FROM pg_index JOIN pg_class AS one ON one.oid = indexrelid
LEFT JOIN pg_tablespace AS space ON space.oid = one.reltablespace
LEFT JOIN pg_constraint AS con ON con.conindid = one.oid AND con.contype IN ('p', 'u', 'x')
WHERE indrelid = %s::regclass ORDER BY one.relname
"""
_HINDRANCES: Final = """
SELECT 'the trigger ' || tgname FROM pg_trigger
WHERE tgrelid = %(table)s::regclass AND NOT tgisinternal
UNION ALL
SELECT 'the rule ' || rulename FROM pg_rewrite WHERE ev_class = %(table)s::regclass
UNION ALL
SELECT DISTINCT 'the SQL view ' || ev_class::regclass::text
FROM pg_depend JOIN pg_rewrite AS rule ON rule.oid = objid AND classid = 'pg_rewrite'::regclass
WHERE refobjid = %(table)s::regclass AND ev_class <> refobjid
UNION ALL
SELECT 'the policy ' || polname FROM pg_policy WHERE polrelid = %(table)s::regclass
UNION ALL
SELECT 'row security' FROM pg_class
WHERE oid = %(table)s::regclass AND (relrowsecurity OR relforcerowsecurity)
UNION ALL
SELECT 'the constraint ' || conname || ' of ' || conrelid::regclass::text FROM pg_constraint
WHERE contype IN ('f', 'x') AND %(table)s::regclass IN (conrelid, confrelid)
UNION ALL
SELECT 'the statistics ' || stxname FROM pg_statistic_ext WHERE stxrelid = %(table)s::regclass
UNION ALL
SELECT 'the publication ' || pubname FROM pg_publication_rel
JOIN pg_publication AS one ON one.oid = prpubid WHERE prrelid = %(table)s::regclass
UNION ALL
SELECT 'the replica identity' FROM pg_class
WHERE oid = %(table)s::regclass AND relreplident <> 'd'
UNION ALL
SELECT 'the invalid index ' || indexrelid::regclass::text FROM pg_index
WHERE indrelid = %(table)s::regclass AND NOT indisvalid
UNION ALL
SELECT DISTINCT 'the statistics of ' || indexrelid::regclass::text
FROM pg_index JOIN pg_attribute ON attrelid = indexrelid
WHERE indrelid = %(table)s::regclass AND attstattarget >= 0
UNION ALL
SELECT 'the deferrable constraint ' || conname FROM pg_constraint
WHERE conrelid = %(table)s::regclass AND condeferrable AND contype IN ('p', 'u')
UNION ALL
SELECT 'the constraint ' || conname || ' (not valid)' FROM pg_constraint
WHERE conrelid = %(table)s::regclass AND NOT convalidated AND contype <> 'f'
UNION ALL
SELECT 'the sequence ' || objid::regclass::text
FROM pg_depend JOIN pg_class AS one ON one.oid = objid AND classid = 'pg_class'::regclass
WHERE refclassid = 'pg_class'::regclass AND refobjid = %(table)s::regclass AND one.relkind = 'S'
UNION ALL
SELECT DISTINCT 'the grants by ' || grantor::regrole::text
FROM (
    SELECT relowner AS owner, (aclexplode(relacl)).* FROM pg_class
    WHERE oid = %(table)s::regclass
    UNION ALL
    SELECT relowner, (aclexplode(attacl)).* FROM pg_attribute JOIN pg_class AS one
        ON one.oid = attrelid
    WHERE attrelid = %(table)s::regclass AND NOT attisdropped
) AS held WHERE grantor <> owner
UNION ALL
SELECT 'the inheritance of ' || inhrelid::regclass::text FROM pg_inherits
WHERE %(table)s::regclass IN (inhrelid, inhparent)
ORDER BY 1
"""


async def likeness(
    owner: LongConnection, table: str, index_names: Mapping[str, str] | None = None
) -> Likeness:
    """Of a table, all of its settings; `index_names` says what an index will be called."""
    names = index_names or {}
    ((found,),) = await owner.fetch(_TABLE, (table,))
    columns, constraints, indexes = [
        [one for (one,) in await owner.fetch(query, (table,))]
        for query in (_COLUMNS, _CONSTRAINTS, _INDEXES)
    ]
    for one in (*constraints, *indexes):
        one["name"] = names.get(one["name"], one["name"])
    parts = {"columns": columns, "constraints": constraints, "indexes": indexes}
    whole: Likeness = found | {
        name: sorted(some, key=lambda one: str(one["name"])) if name != "columns" else some
        for name, some in parts.items()
    }
    return whole


async def hindrances(owner: LongConnection, table: str) -> list[str]:
    """What hangs on the table and would be lost with it."""
    return [what for (what,) in await owner.fetch(_HINDRANCES, {"table": table})]


def as_text(one: Likeness) -> str:
    return msgspec.json.encode(one, order="sorted").decode()


def differing(one: Likeness, other: Likeness) -> list[str]:
    """Names of the parts that are not the same."""
    return [name for name in one if one[name] != other.get(name)]
