"""A container's health check: exit 0 if the API in it says that it is ready."""

import http.client
import os
import sys

TIMEOUT_SECONDS = 2.0

connection = http.client.HTTPConnection(
    "127.0.0.1", int(os.environ["RUNLEDGER_PORT"]), timeout=TIMEOUT_SECONDS
)
connection.request("GET", "/readyz")
sys.exit(connection.getresponse().status != http.HTTPStatus.OK)
