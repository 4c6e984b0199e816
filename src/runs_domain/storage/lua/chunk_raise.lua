-- KEYS: 1 state, 2 frames. ARGV: attempt, ttl_seconds.
-- → {base, length}; {} if no frame is there; -1 if a higher attempt was raised.
local attempt = tonumber(ARGV[1])
if attempt < tonumber(redis.call('HGET', KEYS[1], 'attempt') or '0') then return -1 end
redis.call('HSET', KEYS[1], 'attempt', attempt)
redis.call('EXPIRE', KEYS[1], ARGV[2])
local base = redis.call('HGET', KEYS[1], 'base')
if not base then return {} end
redis.call('EXPIRE', KEYS[2], ARGV[2])
return {tonumber(base), redis.call('LLEN', KEYS[2])}
