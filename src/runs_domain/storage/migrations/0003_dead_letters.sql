-- What the workers gave up on, until an operator has seen to it. Here and not in Redis, because a
-- Redis that is wiped must not lose it.

-- depends: 0002_views

-- `tries_exhausted`: the run has ended so, and a retry is a new run (`retried_as`).
-- `broken`: its job breaks before the run's own stream can count it. While `withheld` is true the
-- reconciler does not send the job again: that is what ends the crash loop.
CREATE TABLE dead_letters (
    kind text NOT NULL,
    id uuid NOT NULL,
    reason text NOT NULL CHECK (reason IN ('tries_exhausted', 'broken')),
    account_id uuid NOT NULL,
    last_error text NOT NULL CHECK (length(last_error) <= 200),
    tries integer NOT NULL CHECK (tries > 0),
    buried_at timestamptz NOT NULL DEFAULT now(),
    withheld boolean NOT NULL,
    closed_at timestamptz,
    closed_how text CHECK (closed_how IN ('retried', 'dropped')),
    closed_by text,
    retried_as uuid,
    PRIMARY KEY (kind, id, reason),
    CONSTRAINT dead_letters_closed CHECK (
        (closed_at IS NULL) = (closed_how IS NULL) AND (closed_at IS NULL) = (closed_by IS NULL)),
    CONSTRAINT dead_letters_retried_as CHECK (
        (retried_as IS NOT NULL)
        = (reason = 'tries_exhausted' AND closed_how IS NOT DISTINCT FROM 'retried')),
    CONSTRAINT dead_letters_withheld CHECK (
        NOT withheld OR (reason = 'broken' AND closed_how IS DISTINCT FROM 'retried'))
);
CREATE INDEX dead_letters_open ON dead_letters (buried_at, id) WHERE closed_at IS NULL;
CREATE INDEX dead_letters_withheld ON dead_letters (id) WHERE withheld;

GRANT SELECT, INSERT, UPDATE ON dead_letters TO runledger_service;
