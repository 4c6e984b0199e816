-- KEYS: 1 state, 2 frames. ARGV: index, count.
-- → {base, length, attempt, frame …}; {} if nothing is there.
local base = tonumber(redis.call('HGET', KEYS[1], 'base') or '-1')
if base < 0 then return {} end
local length = redis.call('LLEN', KEYS[2])
local attempt = tonumber(redis.call('HGET', KEYS[1], 'attempt'))
local first = tonumber(ARGV[1]) - base
local count = tonumber(ARGV[2])
if first < 0 or count == 0 then return {base, length, attempt} end
local frames = redis.call('LRANGE', KEYS[2], first, first + count - 1)
table.insert(frames, 1, attempt)
table.insert(frames, 1, length)
table.insert(frames, 1, base)
return frames
