# One image for API, worker, projector and migrations; not built yet.
FROM python:3.13-slim AS build
WORKDIR /app
RUN python -m venv /opt/runledger
COPY requirements/runtime.txt requirements/
RUN /opt/runledger/bin/pip install --no-cache-dir --no-deps --require-hashes \
    --requirement requirements/runtime.txt
COPY pyproject.toml README.md ./
COPY src src
RUN /opt/runledger/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
# What a sandbox shows inside is this image's /usr: add the tools that your agents need.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap ca-certificates curl git util-linux \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home runledger \
    && install --directory --owner=runledger --mode=0700 /var/lib/runledger
COPY --from=build /opt/runledger /opt/runledger
COPY deploy /app/deploy
COPY scripts/keys.py /app/scripts/
ENV PATH=/opt/runledger/bin:$PATH PYTHONUNBUFFERED=1
USER runledger
WORKDIR /app
CMD ["runledger", "api"]
