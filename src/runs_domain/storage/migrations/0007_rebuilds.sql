-- What a rebuild of views has done so far, so that one that was killed goes on where it was. One
-- is under way at most; nothing of it is left once its views were swapped in.

-- depends: 0004_credits_and_sandboxes

-- A row for each view that is not swapped in yet. `position` is the checkpoint of its shadow.
CREATE TABLE view_rebuilds (
    view text PRIMARY KEY,
    rebuild_id uuid NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    -- Rows of the shadow are folds by this release, in a table that is like this one.
    release text NOT NULL,
    likeness text NOT NULL,
    -- The views that were asked for together.
    asked text[] NOT NULL,
    -- NULL = everything. `changed_after` may lie before it: a view that lagged
    -- behind, or stood still, has not seen what came after its checkpoint.
    from_position bigint,
    changed_after bigint,
    pinned_position bigint NOT NULL,
    position bigint NOT NULL,
    phase text NOT NULL DEFAULT 'load' CHECK (phase IN ('load', 'index', 'catch-up', 'swap')),
    CONSTRAINT view_rebuilds_from CHECK ((from_position IS NULL) = (changed_after IS NULL))
);

-- Runs by id, both ends included; together they are all ids there can be.
CREATE TABLE view_rebuild_ranges (
    rebuild_id uuid,
    first uuid,
    last uuid NOT NULL,
    -- By the heads, so that it may be a few more or less.
    events bigint NOT NULL,
    loaded bigint,
    PRIMARY KEY (rebuild_id, first)
) WITH (fillfactor = 50);

-- Of a rebuild from a position: the runs that have changed between there and the pinned position.
CREATE TABLE view_rebuild_runs (
    rebuild_id uuid,
    run_id uuid,
    PRIMARY KEY (rebuild_id, run_id)
);
