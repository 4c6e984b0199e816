-- Which accounts were erased: when, by whom, and how far it got. An erasure that was cut short is
-- one without `finished_at`. For owners alone: the service has no business here.

-- depends: 0003_dead_letters

CREATE TABLE erasures (
    account_id uuid PRIMARY KEY REFERENCES accounts,
    asked_at timestamptz NOT NULL DEFAULT now(),
    asked_by text NOT NULL CHECK (length(asked_by) <= 80),
    -- Written in the transaction that destroys the data key. The digest is of the account's
    -- streams as they stood at this position of the log, so that anybody can make it again.
    position bigint,
    heads_digest bytea,
    runs bigint,
    events bigint,
    sealed_events bigint,
    -- What was cleared, counted over all tries.
    keys_revoked bigint NOT NULL DEFAULT 0,
    memberships_ended bigint NOT NULL DEFAULT 0,
    names_cleared bigint NOT NULL DEFAULT 0,
    runs_cancelled bigint NOT NULL DEFAULT 0,
    message_rows bigint NOT NULL DEFAULT 0,
    chunk_keys bigint NOT NULL DEFAULT 0,
    export_bundles bigint NOT NULL DEFAULT 0,
    sandboxes bigint NOT NULL DEFAULT 0,
    finished_at timestamptz,
    CONSTRAINT erasures_heads CHECK (num_nulls(position, heads_digest, runs, events, sealed_events) IN (0, 5)),
    CONSTRAINT erasures_finished CHECK (finished_at IS NULL OR position IS NOT NULL)
);
CREATE INDEX erasures_unfinished ON erasures (asked_at) WHERE finished_at IS NULL;

-- ANALYZE copies values of the columns that it looks at into pg_statistic, where no erasure would
-- look for a name or for a wrapped key.
ALTER TABLE accounts ALTER COLUMN name SET STATISTICS 0;
ALTER TABLE account_data_keys ALTER COLUMN wrapped SET STATISTICS 0;
DO $$
BEGIN
    IF to_regproc('pg_clear_attribute_stats') IS NOT NULL THEN -- from PostgreSQL 18 on
        PERFORM pg_clear_attribute_stats(
            schemaname => current_schema()::text, relname => 'accounts', attname => 'name',
            inherited => false);
        PERFORM pg_clear_attribute_stats(
            schemaname => current_schema()::text, relname => 'account_data_keys',
            attname => 'wrapped', inherited => false);
    END IF;
END
$$;
