-- What lists are read from. Every row is a fold of the log, up to the checkpoint of its view, and
-- can be made again from it.

-- depends: 0001_log

CREATE TABLE runs (
    run_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    chat_id uuid NOT NULL,
    session_id uuid NOT NULL,
    status text NOT NULL CHECK (status IN ('queued', 'running', 'completed', 'failed', 'cancelled')),
    model text NOT NULL,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    usage jsonb,
    error_code text,
    error_message text,
    version bigint NOT NULL,
    requested_position bigint NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX runs_of_account ON runs (account_id, requested_position);
CREATE INDEX runs_of_account_by_status ON runs (account_id, status, requested_position);
CREATE INDEX runs_of_chat ON runs (chat_id, requested_position);

-- `sealed` holds everything that a client or a model wrote, under the account's data key: once
-- the key is destroyed, no row of this table can be read, wherever a copy of it lies.
CREATE TABLE messages (
    run_id uuid NOT NULL,
    place integer NOT NULL,
    role text NOT NULL,
    account_id uuid NOT NULL,
    chat_id uuid NOT NULL,
    session_id uuid NOT NULL,
    requested_position bigint NOT NULL,
    created_at timestamptz NOT NULL,
    version bigint NOT NULL,
    complete boolean NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (run_id, place)
) WITH (fillfactor = 80);
CREATE INDEX messages_of_chat ON messages (chat_id, requested_position, place);
CREATE INDEX messages_of_account ON messages (account_id);

-- How far each view has come. `stopped_*`: an event that its fold cannot take; the view waits
-- there, and the others go on.
CREATE TABLE checkpoints (
    name text PRIMARY KEY,
    position bigint NOT NULL DEFAULT 0,
    stopped_position bigint,
    stopped_error text,
    stopped_at timestamptz,
    CONSTRAINT checkpoints_stopped CHECK (
        (stopped_position IS NULL) = (stopped_error IS NULL)
        AND (stopped_position IS NULL) = (stopped_at IS NULL))
);
INSERT INTO checkpoints (name) VALUES ('runs'), ('messages');

GRANT SELECT, INSERT, UPDATE, DELETE ON runs, messages TO runledger_service;
GRANT SELECT, UPDATE ON checkpoints TO runledger_service;
