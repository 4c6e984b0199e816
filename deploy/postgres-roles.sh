#!/usr/bin/env bash
# Run once by the PostgreSQL image on an empty volume: the role that API and workers log in with.
# The migrations grant the group what the processes may do.
set -euo pipefail

psql --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<'SQL'
\getenv password RUNLEDGER_APP_PASSWORD
CREATE ROLE runledger_service NOLOGIN;
CREATE ROLE runledger_app LOGIN PASSWORD :'password' IN ROLE runledger_service;
SQL
