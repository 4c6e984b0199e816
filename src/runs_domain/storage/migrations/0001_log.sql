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

-- What each batch came to: a writer whose reply was lost asks again by number. Rows are never
-- updated and only looked up by their whole key, so that versions which an open snapshot keeps
-- (a dump's, a forgotten transaction's) are in no append's way. The writer deletes what it has read.
CREATE TABLE log_receipts (
    writer_id uuid,
    batch bigint,
    at timestamptz NOT NULL,
    refusals text[] NOT NULL,
    found bigint[] NOT NULL,
    positions bigint[] NOT NULL,
    PRIMARY KEY (writer_id, batch)
);

-- The time of the newest batch in microseconds since 1970. A sequence, because that has one version.
CREATE SEQUENCE log_clock MINVALUE 0 START 0;

-- Commits the appends of one batch and says what became of each: `refusals` NULL = it landed,
-- `found` = its stream's version before, `positions` = one an event, in order, NULL if refused.
-- A batch number that was already handled answers what it came to then and changes nothing; a
-- batch of no appends therefore settles what became of a lost one, for as long as its receipt is
-- kept.
--
-- Everything an event's bytes need but the time and the hash before it arrives ready made
-- (head ‖ time ‖ middle ‖ hash ‖ tail); nothing here reads the payload. The lock makes positions
-- visible in order and lasts until the commit; no client is waited for while it is held.
--
-- A batch holds a stream, and a chat that begins a run, at most once. Should a rule be broken all
-- the same, a constraint fails the whole batch, and the writer sends its appends one by one.
CREATE FUNCTION append_batch(
    p_writer uuid,
    p_batch bigint,
    -- one element an append
    p_runs uuid[],
    p_expected bigint[],
    p_prevs bytea[],
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
    -- one element an event; p_appends = which append it belongs to, from 1
    p_appends integer[],
    p_versions bigint[],
    p_topics text[],
    p_heads bytea[],
    p_middles bytea[],
    p_tails bytea[]
) RETURNS log_receipts LANGUAGE plpgsql AS $$
DECLARE
    receipt log_receipts;
    v_at timestamptz;
    v_at_bytes bytea;
    v_refusals text[];
    v_found bigint[];
    v_states bytea[] := '{}';
    v_positions bigint[] := '{}';
    v_hash bytea;
    v_state bytea;
    v_position bigint;
    v_append integer;
    v_current integer := 0;
    -- one element an append, NULL if refused
    v_hashes bytea[] := array_fill(NULL::bytea, ARRAY[cardinality(p_runs)]);
    v_firsts bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(p_runs)]);
    v_lasts bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(p_runs)]);
BEGIN
    PERFORM pg_advisory_xact_lock(125848689340263);

    SELECT * INTO receipt FROM log_receipts WHERE writer_id = p_writer AND batch = p_batch;
    IF FOUND THEN
        RETURN receipt;
    END IF;

    -- A clock that was set back must not turn the log's order round.
    SELECT greatest(clock_timestamp(), 'epoch'::timestamptz + last_value * interval '1 microsecond')
    INTO v_at FROM log_clock;
    PERFORM setval('log_clock', (extract(epoch FROM v_at) * 1000000)::bigint);
    v_at_bytes := convert_to(
        to_char(v_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'UTF8');

    SELECT
        coalesce(array_agg(refusal ORDER BY place), '{}'),
        coalesce(array_agg(version_before ORDER BY place), '{}')
    INTO v_refusals, v_found
    FROM (
        SELECT
            one.place,
            coalesce(head.version, 0) AS version_before,
            CASE
                WHEN coalesce(head.version, 0) <> one.expected THEN 'version_conflict'
                WHEN head.head_hash <> one.prev THEN 'broken_chain'
                WHEN head.version IS NULL AND one.live AND EXISTS (
                    SELECT FROM run_heads AS other WHERE other.chat_id = one.chat AND other.live
                ) THEN 'chat_busy'
                WHEN one.mint_id IS NOT NULL AND EXISTS (
                    SELECT FROM api_keys WHERE key_id = one.mint_id OR mac = one.mint_mac
                ) THEN 'key_taken'
            END AS refusal
        FROM unnest(p_runs, p_expected, p_prevs, p_chats, p_lives, p_mint_ids, p_mint_macs)
            WITH ORDINALITY
            AS one (run, expected, prev, chat, live, mint_id, mint_mac, place)
        LEFT JOIN run_heads AS head ON head.run_id = one.run
    ) AS checked;

    FOR event IN 1 .. cardinality(p_appends) LOOP
        v_append := p_appends[event];
        v_state := NULL;
        v_position := NULL;
        IF v_refusals[v_append] IS NULL THEN
            IF v_append <> v_current THEN
                v_current := v_append;
                v_hash := p_prevs[v_append];
            END IF;
            v_state := p_heads[event] || v_at_bytes || p_middles[event]
                || convert_to(encode(v_hash, 'hex'), 'UTF8') || p_tails[event];
            v_hash := sha256(v_state);
            v_position := nextval('stored_events_notification_id_seq');
            v_hashes[v_append] := v_hash;
            v_firsts[v_append] := coalesce(v_firsts[v_append], v_position);
            v_lasts[v_append] := p_versions[event];
        END IF;
        v_states := array_append(v_states, v_state);
        v_positions := array_append(v_positions, v_position);
    END LOOP;

    INSERT INTO stored_events
        (originator_id, originator_version, topic, state, notification_id)
    SELECT p_runs[append], version, topic, state, position
    FROM unnest(p_appends, p_versions, p_topics, v_states, v_positions)
        AS event (append, version, topic, state, position)
    WHERE position IS NOT NULL;

    IF 0 = ANY (p_expected) THEN
        INSERT INTO run_heads (
            run_id, account_id, chat_id, session_id, version, status, live, open, head_hash,
            requested_position, updated_at
        )
        SELECT run, account, chat, session, last, status, live, open, hash, first, v_at
        FROM unnest(
            p_runs, p_expected, p_accounts, p_chats, p_sessions, p_statuses, p_lives, p_opens,
            v_lasts, v_hashes, v_firsts
        ) AS one (
            run, expected, account, chat, session, status, live, open, last, hash, first
        )
        WHERE expected = 0 AND last IS NOT NULL;
    END IF;
    IF 0 < ANY (p_expected) THEN
        UPDATE run_heads AS head SET
            version = one.last, status = one.status, live = one.live, open = one.open,
            head_hash = one.hash, updated_at = v_at
        FROM unnest(p_runs, p_expected, p_statuses, p_lives, p_opens, v_lasts, v_hashes)
            AS one (run, expected, status, live, open, last, hash)
        WHERE head.run_id = one.run AND one.expected > 0 AND one.last IS NOT NULL;
    END IF;

    IF num_nonnulls(VARIADIC p_mint_ids) > 0 THEN
        INSERT INTO api_keys (
            key_id, mac, display_prefix, account_id, run_id, ephemeral, scopes, secret_version,
            created_at, expires_at
        )
        SELECT
            id, mac, prefix, account, run, true, string_to_array(scopes, ' '), secret_version,
            v_at, v_at + make_interval(secs => ttl)
        FROM unnest(
            p_mint_ids, p_mint_macs, p_mint_prefixes, p_accounts, p_runs, p_mint_scopes,
            p_mint_secret_versions, p_mint_ttls, v_lasts
        ) AS one (id, mac, prefix, account, run, scopes, secret_version, ttl, last)
        WHERE id IS NOT NULL AND last IS NOT NULL;
    END IF;
    IF num_nonnulls(VARIADIC p_revoke_ids) > 0 THEN
        UPDATE api_keys AS key SET revoked_at = v_at
        FROM unnest(p_revoke_ids, p_accounts, v_lasts) AS one (id, account, last)
        WHERE key.key_id = one.id AND key.account_id = one.account AND key.ephemeral
            AND key.revoked_at IS NULL AND one.last IS NOT NULL;
    END IF;

    receipt := ROW(p_writer, p_batch, v_at, v_refusals, v_found, v_positions);
    INSERT INTO log_receipts SELECT receipt.*;
    RETURN receipt;
END
$$;

-- The processes may add to the log and read it; nothing may change or remove what it holds.
GRANT SELECT, INSERT ON stored_events TO runledger_service;
GRANT USAGE ON SEQUENCE stored_events_notification_id_seq TO runledger_service;
GRANT SELECT, INSERT, UPDATE ON run_heads, api_keys TO runledger_service;
GRANT SELECT, INSERT, DELETE ON log_receipts TO runledger_service;
GRANT SELECT, UPDATE ON SEQUENCE log_clock TO runledger_service;
GRANT SELECT, INSERT ON account_data_keys TO runledger_service;
GRANT SELECT ON accounts, org_members TO runledger_service;
