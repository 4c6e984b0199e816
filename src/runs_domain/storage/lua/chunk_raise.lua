-- Put up the fence of an attempt. Each call has a mark of its own: a fence with that mark is the one
-- that this very call put up, so that no writer takes the fence of another call for its own.
-- KEYS: 1 state, 2 frames. ARGV: attempt, mark, ttl_seconds. → 1; -1 if a higher attempt's stands.
local attempt = tonumber(ARGV[1])
if attempt < tonumber(redis.call('HGET', KEYS[1], 'fence') or '0') then return -1 end
redis.call('HSET', KEYS[1], 'fence', attempt, 'mark', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
