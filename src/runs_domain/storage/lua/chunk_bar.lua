-- Forget what a run has streamed, and let nobody write to it again: the fence is above any attempt.
-- KEYS: 1 state, 2 frames. ARGV: attempt, mark, ttl_seconds.
-- → how many keys of the run's were there, not counting an earlier call's.
local state = redis.call('HMGET', KEYS[1], 'fence', 'base')
local is_barred = state[1] == ARGV[1] and not state[2]
local gone = redis.call('DEL', KEYS[2]) + (is_barred and 0 or redis.call('EXISTS', KEYS[1]))
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'mark', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return gone
