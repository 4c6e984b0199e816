-- ARGV: group, kind, id, account, cause. → 1, or 0 if a job of that kind and id is there.
local job = {kind = ARGV[2], id = ARGV[3], account = ARGV[4], cause = ARGV[5], retries = '0'}
if redis.call('EXISTS', EPOCH) == 0 then open_group() end
local key = job.kind .. ':' .. job.id
local place = redis.call('HGET', INDEX, key)
if place then
  if alive(key, place) then return 0 end
  drop_dead(key, place)
end
add_entry(job)
return 1
