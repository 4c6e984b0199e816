-- Two more views of the log: who was charged what, and which run holds which sandbox. And the way
-- from an account to its runs that needs no view: exports and erasures go it.

-- depends: 0003_dead_letters

-- The ledger: one row an event that moved credits, never changed. What an account may spend is
-- its grants less the sums of `reserved` and `charged`.
CREATE TABLE credits (
    run_id uuid NOT NULL,
    version bigint NOT NULL,
    account_id uuid NOT NULL,
    position bigint NOT NULL,
    at timestamptz NOT NULL,
    kind text NOT NULL CHECK (kind IN ('reserved', 'settled')),
    reserved bigint NOT NULL,
    charged bigint NOT NULL,
    PRIMARY KEY (run_id, version)
);
CREATE INDEX credits_of_account ON credits (account_id, position);

CREATE TABLE sandboxes (
    run_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    session_id uuid NOT NULL,
    requested_position bigint NOT NULL,
    sandbox text NOT NULL,
    state text NOT NULL CHECK (state IN ('awaited', 'named', 'open', 'released')),
    provider text,
    working_directory text,
    repository text,
    provisioned_at timestamptz,
    released_at timestamptz,
    found boolean,
    commit_id text,
    pushed boolean,
    version bigint NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX sandboxes_of_session ON sandboxes (session_id, requested_position);
CREATE INDEX sandboxes_of_account ON sandboxes (account_id, requested_position);
CREATE INDEX sandboxes_held ON sandboxes (requested_position) WHERE state <> 'released';

INSERT INTO checkpoints (name) VALUES ('credits'), ('sandboxes');

CREATE INDEX run_heads_of_account ON run_heads (account_id, requested_position);

GRANT SELECT, INSERT, UPDATE, DELETE ON credits, sandboxes TO runledger_service;
