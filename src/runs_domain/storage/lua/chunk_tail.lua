-- What lower attempts left, for the one whose fence keeps them out now.
-- KEYS: 1 state, 2 frames. ARGV: attempt, mark, index, count.
-- → {base, length, attempt, frame …} from the first index there is; {} if nothing is there;
-- -1 if a higher attempt's fence stands; -2 if ours does not.
local state = redis.call('HMGET', KEYS[1], 'fence', 'mark', 'base', 'attempt')
if tonumber(ARGV[1]) < tonumber(state[1] or '0') then return -1 end
if state[2] ~= ARGV[2] then return -2 end
if not state[3] then return {} end
local base, length = tonumber(state[3]), redis.call('LLEN', KEYS[2])
local first = math.max(tonumber(ARGV[3]) - base, 0)
local reply = {base, length, tonumber(state[4])}
for _, frame in ipairs(redis.call('LRANGE', KEYS[2], first, first + ARGV[4] - 1)) do
  reply[#reply + 1] = frame
end
return reply
