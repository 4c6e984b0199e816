"""A container's health check: exit 0 if the projector in it is at work on every view it keeps."""

import os
import sys

import psycopg

TIMEOUT_SECONDS = 2
CONNECTED = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database()
  AND application_name LIKE 'runledger projector %'
  AND client_addr IS NOT DISTINCT FROM inet_client_addr()
"""
STOPPED = "SELECT count(*) FROM checkpoints WHERE stopped_position IS NOT NULL"

try:
    with psycopg.connect(
        os.environ["RUNLEDGER_DATABASE_URL"], connect_timeout=TIMEOUT_SECONDS, autocommit=True
    ) as connection:
        (connected,) = connection.execute(CONNECTED).fetchone() or (0,)
        (stopped,) = connection.execute(STOPPED).fetchone() or (0,)
except psycopg.Error as error:  # its text may quote the URL
    sys.exit(type(error).__name__)
sys.exit(connected == 0 or stopped > 0)
