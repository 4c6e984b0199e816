-- The log, the rows that change with it, and who may touch what.

DO $$
BEGIN
    CREATE ROLE runledger_service NOLOGIN;
EXCEPTION
    -- Roles belong to the whole cluster: another database's migration may have made it.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

-- As the application recorder of eventsourcing 9.5.6 makes it, so that the stock library reads it.
-- topic = the event's tag; notification_id = the position.
CREATE TABLE stored_events (
    originator_id uuid NOT NULL,
    originator_version bigint NOT NULL,
    topic text,
    state bytea,
    notification_id bigserial,
    PRIMARY KEY (originator_id, originator_version)
) WITH (
    autovacuum_enabled = true,
    autovacuum_vacuum_threshold = 100000000,
    autovacuum_vacuum_scale_factor = 0.5,
    autovacuum_analyze_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.01
);
CREATE UNIQUE INDEX stored_events_notification_id_idx ON stored_events (notification_id);

-- The newest state of each stream. Few of its columns are indexed and pages keep room, so that
-- most updates stay on their page.
CREATE TABLE run_heads (
    run_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    chat_id uuid NOT NULL,
    session_id uuid NOT NULL,
    version bigint NOT NULL,
    status text NOT NULL CHECK (status IN ('queued', 'running', 'completed', 'failed', 'cancelled')),
    live boolean NOT NULL,
    open boolean NOT NULL,
    head_hash bytea NOT NULL,
    requested_position bigint NOT NULL,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX run_heads_one_live_run_a_chat ON run_heads (chat_id) WHERE live;
CREATE INDEX run_heads_of_chat ON run_heads (chat_id, requested_position);
CREATE INDEX run_heads_of_session ON run_heads (session_id);
CREATE INDEX run_heads_open ON run_heads (run_id) WHERE open;

CREATE TABLE accounts (
    account_id uuid PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('person', 'org')),
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE org_members (
    org_id uuid NOT NULL REFERENCES accounts,
    member_id uuid NOT NULL REFERENCES accounts,
    valid_from timestamptz NOT NULL DEFAULT now(),
    valid_until timestamptz,
    PRIMARY KEY (org_id, member_id, valid_from)
);

CREATE TABLE api_keys (
    key_id uuid PRIMARY KEY,
    mac bytea NOT NULL CONSTRAINT api_keys_mac UNIQUE,
    display_prefix text NOT NULL,
    account_id uuid NOT NULL,
    run_id uuid,
    ephemeral boolean NOT NULL,
    scopes text[] NOT NULL,
    secret_version integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT api_keys_of_a_run_are_ephemeral CHECK (ephemeral = (run_id IS NOT NULL)),
    CONSTRAINT api_keys_ephemeral_expire CHECK (expires_at IS NOT NULL OR NOT ephemeral)
);
CREATE INDEX api_keys_of_run ON api_keys (run_id) WHERE run_id IS NOT NULL;

-- Erasing a person = setting wrapped to NULL; the row stays, so that no new key is made.
CREATE TABLE account_data_keys (
    account_id uuid PRIMARY KEY,
    wrapped bytea,
    secret_version integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    destroyed_at timestamptz,
    CONSTRAINT account_data_keys_destroyed CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL))
);

-- What each writer's last batch came to: a writer whose reply was lost asks again by number.
CREATE TABLE log_writers (
    writer_id uuid PRIMARY KEY,
    batch bigint NOT NULL,
    at timestamptz NOT NULL,
    refusals text[] NOT NULL,
    found bigint[] NOT NULL,
    positions bigint[] NOT NULL
) WITH (fillfactor = 50);

-- Commits the appends of one batch and says what became of each: `refusals` NULL = it landed,
-- `found` = its stream's version before, `positions` = one an event, in order, NULL if refused.
-- A batch number that was already handled answers what it came to then and changes nothing; a
-- batch of no appends therefore settles what became of a lost one, for good.
--
-- Everything an event's bytes need but the time and the hash before it arrives ready made
-- (head ‖ time ‖ middle ‖ hash ‖ tail); nothing here reads the payload. The lock makes positions
-- visible in order and lasts until the commit; no client is waited for while it is held.
CREATE FUNCTION append_batch(
    p_writer uuid,
    p_batch bigint,
    -- one element an append
    p_runs uuid[],
    p_expected bigint[],
    p_prevs bytea[],
    p_counts integer[],
    p_accounts uuid[],
    p_chats uuid[],
    p_sessions uuid[],
    p_statuses text[],
    p_lives boolean[],
    p_opens boolean[],
    p_mint_ids uuid[],
    p_mint_macs bytea[],
    p_mint_prefixes text[],
    p_mint_secret_versions integer[],
    p_mint_ttls integer[],
    p_mint_scopes text[],
    p_revoke_ids uuid[],
    -- one element an event
    p_topics text[],
    p_heads bytea[],
    p_middles bytea[],
    p_tails bytea[]
) RETURNS log_writers LANGUAGE plpgsql AS $$
DECLARE
    receipt log_writers;
    v_at timestamptz;
    v_at_bytes bytea;
    v_refusal text;
    v_version bigint;
    v_hash bytea;
    v_state bytea;
    v_position bigint;
    v_first_position bigint;
    v_event integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(125848689340263);

    SELECT * INTO receipt FROM log_writers WHERE writer_id = p_writer;
    IF FOUND AND receipt.batch >= p_batch THEN
        RETURN receipt;
    END IF;

    -- A clock that was set back must not turn the log's order round.
    SELECT greatest(clock_timestamp(), max(at)) INTO v_at FROM log_writers;
    v_at_bytes := convert_to(
        to_char(v_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'UTF8');
    receipt := ROW(p_writer, p_batch, v_at, '{}'::text[], '{}'::bigint[], '{}'::bigint[]);

    FOR i IN 1 .. cardinality(p_runs) LOOP
        SELECT version, head_hash INTO v_version, v_hash FROM run_heads WHERE run_id = p_runs[i];
        IF NOT FOUND THEN
            v_version := 0;
            v_hash := p_prevs[i];
        END IF;

        v_refusal := CASE
            WHEN v_version <> p_expected[i] THEN 'version_conflict'
            WHEN v_hash <> p_prevs[i] THEN 'broken_chain'
            WHEN v_version = 0 AND p_lives[i] AND EXISTS (
                SELECT FROM run_heads WHERE chat_id = p_chats[i] AND live
            ) THEN 'chat_busy'
            WHEN p_mint_ids[i] IS NOT NULL AND EXISTS (
                SELECT FROM api_keys WHERE key_id = p_mint_ids[i] OR mac = p_mint_macs[i]
            ) THEN 'key_taken'
        END;
        receipt.refusals := array_append(receipt.refusals, v_refusal);
        receipt.found := array_append(receipt.found, v_version);
        IF v_refusal IS NOT NULL THEN
            v_event := v_event + p_counts[i];
            receipt.positions := receipt.positions || array_fill(NULL::bigint, ARRAY[p_counts[i]]);
            CONTINUE;
        END IF;

        v_first_position := NULL;
        FOR j IN 1 .. p_counts[i] LOOP
            v_event := v_event + 1;
            v_version := v_version + 1;
            v_state := p_heads[v_event] || v_at_bytes || p_middles[v_event]
                || convert_to(encode(v_hash, 'hex'), 'UTF8') || p_tails[v_event];
            v_hash := sha256(v_state);
            INSERT INTO stored_events (originator_id, originator_version, topic, state)
                VALUES (p_runs[i], v_version, p_topics[v_event], v_state)
                RETURNING notification_id INTO v_position;
            v_first_position := coalesce(v_first_position, v_position);
            receipt.positions := array_append(receipt.positions, v_position);
        END LOOP;

        IF p_expected[i] = 0 THEN
            INSERT INTO run_heads VALUES (
                p_runs[i], p_accounts[i], p_chats[i], p_sessions[i], v_version, p_statuses[i],
                p_lives[i], p_opens[i], v_hash, v_first_position, v_at);
        ELSE
            UPDATE run_heads SET
                version = v_version, status = p_statuses[i], live = p_lives[i],
                open = p_opens[i], head_hash = v_hash, updated_at = v_at
                WHERE run_id = p_runs[i];
        END IF;

        IF p_mint_ids[i] IS NOT NULL THEN
            INSERT INTO api_keys (
                key_id, mac, display_prefix, account_id, run_id, ephemeral, scopes,
                secret_version, created_at, expires_at
            ) VALUES (
                p_mint_ids[i], p_mint_macs[i], p_mint_prefixes[i], p_accounts[i], p_runs[i], true,
                string_to_array(p_mint_scopes[i], ' '), p_mint_secret_versions[i], v_at,
                v_at + make_interval(secs => p_mint_ttls[i]));
        END IF;
        IF p_revoke_ids[i] IS NOT NULL THEN
            UPDATE api_keys SET revoked_at = v_at
                WHERE key_id = p_revoke_ids[i] AND account_id = p_accounts[i] AND ephemeral
                AND revoked_at IS NULL;
        END IF;
    END LOOP;

    INSERT INTO log_writers SELECT receipt.*
        ON CONFLICT (writer_id) DO UPDATE SET
            batch = EXCLUDED.batch, at = EXCLUDED.at, refusals = EXCLUDED.refusals,
            found = EXCLUDED.found, positions = EXCLUDED.positions;
    RETURN receipt;
END
$$;

-- The processes may add to the log and read it; nothing may change or remove what it holds.
GRANT SELECT, INSERT ON stored_events TO runledger_service;
GRANT USAGE ON SEQUENCE stored_events_notification_id_seq TO runledger_service;
GRANT SELECT, INSERT, UPDATE ON run_heads, api_keys TO runledger_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON log_writers TO runledger_service;
GRANT SELECT, INSERT ON account_data_keys TO runledger_service;
GRANT SELECT ON accounts, org_members TO runledger_service;
