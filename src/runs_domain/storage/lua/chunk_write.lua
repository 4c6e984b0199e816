-- No fence, no write: frames come in only under the very fence that their writer put up.
-- KEYS: 1 state, 2 frames.
-- ARGV: attempt, mark, index, ttl_seconds, channel, restart (0 or 1), frames …
-- → 1; 0 if `index` is not the next one; -1 if a higher attempt's fence stands; -2 if ours does not.
local attempt, index = tonumber(ARGV[1]), tonumber(ARGV[3])
local state = redis.call('HMGET', KEYS[1], 'fence', 'mark', 'base')
if attempt < tonumber(state[1] or '0') then return -1 end
if state[2] ~= ARGV[2] then return -2 end
local base = state[3]
if not base and ARGV[6] ~= '1' and index ~= 0 then return 0 end
if not base or ARGV[6] == '1' then
  -- Also frames whose state was evicted: nobody could number them.
  redis.call('DEL', KEYS[2])
  base = index
elseif tonumber(base) + redis.call('LLEN', KEYS[2]) ~= index then
  return 0
end
redis.call('HSET', KEYS[1], 'attempt', attempt, 'base', base)
if #ARGV > 6 then redis.call('RPUSH', KEYS[2], unpack(ARGV, 7)) end
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.call('PUBLISH', ARGV[5], '')
return 1
