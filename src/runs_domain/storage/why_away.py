"""Why PostgreSQL cannot be asked, in words of our own: the server's and the driver's own sentences
quote hosts, names and values.
"""

from typing import Final

import psycopg

_WORDS: Final = {
    "Connection refused": "connection refused",
    "No such file or directory": "nobody listens at its socket",
    "failed to resolve host": "its host's name is not known",
    "Network is unreachable": "its network cannot be reached",
    "No route to host": "its network cannot be reached",
    "authentication failed": "it refuses the name or the password",
    "no password supplied": "it refuses the name or the password",
    'role "': "it refuses the name or the password",
    "pg_hba.conf": "it refuses the name or the password",
    'database "': "it has no such database",
    "starting up": "it is starting",
    "shutting down": "it is stopping",
    "too many clients": "it has no connection left",
    "remaining connection slots": "it has no connection left",
    "server closed the connection": "it closed the connection",
}
"""What libpq says of a connection (it has no codes for it) → what we say of it."""


def why_away(error: psycopg.Error) -> str:
    """In words if they are known, else the error's class and SQLSTATE."""
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        said = str(error)
        for sign, words in _WORDS.items():
            if sign in said:
                return words
    return f"{type(error).__name__} {error.sqlstate or ''}".strip()
