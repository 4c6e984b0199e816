-- KEYS: 1 state, 2 frames. ARGV: attempt, index, ttl_seconds, channel, restart (0 or 1), frames …
-- → 1; 0 if `index` is not the next one (0 where nothing is); -1 if a higher attempt was raised.
local attempt, index = tonumber(ARGV[1]), tonumber(ARGV[2])
local raised = tonumber(redis.call('HGET', KEYS[1], 'attempt') or '0')
if attempt < raised then return -1 end
local base = redis.call('HGET', KEYS[1], 'base')
if not base and ARGV[5] ~= '1' and index ~= 0 then return 0 end
if not base or ARGV[5] == '1' then
  -- Also frames whose state was evicted: nobody could number them.
  redis.call('DEL', KEYS[2])
  base = index
elseif tonumber(base) + redis.call('LLEN', KEYS[2]) ~= index then
  return 0
end
redis.call('HSET', KEYS[1], 'attempt', attempt, 'base', base)
if #ARGV > 5 then redis.call('RPUSH', KEYS[2], unpack(ARGV, 6)) end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('PUBLISH', ARGV[4], '')
return 1
