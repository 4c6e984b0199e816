-- A rebuild asks for the keys destroyed since it began, last of all in the moment of its swap, while
-- readers of the view wait: what it reads then must not grow with the accounts there are.

-- depends: 0007_rebuilds

CREATE INDEX account_data_keys_destroyed_at ON account_data_keys (destroyed_at)
    WHERE destroyed_at IS NOT NULL;
