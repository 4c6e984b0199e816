-- Make a delayed job due now, before the others of its account that wait. ARGV: group, key.
-- → 1, or 0 if no job of that name is delayed.
local place, account = place_of(ARGV[2])
if place ~= 'later' then return 0 end
local data = redis.call('HGET', DATA, ARGV[2])
take_out(ARGV[2], place, account)
if not data then return 0 end
enter(cjson.decode(data), RANK_FIRST)
return 1
