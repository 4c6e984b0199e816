"""The login that the service's processes use on embedded servers."""

from typing import Final

import psycopg
from psycopg import sql

from workers.stack.servers import SERVICE, Servers

GROUP: Final = "runledger_service"
"""Made by the migrations, which grant it what the processes may do."""


def create_service_login(servers: Servers) -> None:
    """Make the role or set its password anew; comes after the migrations.

    Only the SCRAM verifier travels, so that no password can reach a server's log.
    """
    password = servers.places.password(SERVICE)
    url = servers.database_url("postgres", admin=True)
    with psycopg.connect(url, autocommit=True) as connection:
        verifier = connection.pgconn.encrypt_password(
            password.encode("ascii"), SERVICE.encode("ascii"), b"scram-sha-256"
        ).decode("ascii")
        known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [SERVICE])
        verb = sql.SQL("CREATE" if known.fetchone() is None else "ALTER")
        connection.execute(
            sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(
                verb, sql.Identifier(SERVICE), sql.Literal(verifier)
            )
        )
        connection.execute(
            sql.SQL("GRANT {} TO {}").format(sql.Identifier(GROUP), sql.Identifier(SERVICE))
        )
