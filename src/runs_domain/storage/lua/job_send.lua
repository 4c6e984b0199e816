-- ARGV: group, kind, id, account, cause, delay_ms (none or 0 = at once).
-- → 1, or 0 if a job of that kind and id is there.
local job = {kind = ARGV[2], id = ARGV[3], account = ARGV[4], cause = ARGV[5], retries = '0'}
local delay_ms = tonumber(ARGV[6] or '0')
if redis.call('EXISTS', EPOCH) == 0 then open_group() end
local key = job.kind .. ':' .. job.id
local place, account = place_of(key)
if place then
  if alive(key, place, account) then return 0 end
  take_out(key, place, account)
end
if delay_ms > 0 then
  add_later(job, now_ms() + delay_ms, 'later')
else
  -- What is sent again was sent before whatever comes now, and may have been begun.
  enter(job, job.cause == 'fresh' and rank_now() or front_rank(now_us()))
end
return 1
