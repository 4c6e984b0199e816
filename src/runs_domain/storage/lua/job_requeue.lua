-- Give the job back in the same call that takes the old entry out, so that it is never in neither.
-- ARGV: group, consumer, ticket, kind, id, account, cause, retries, delay_ms (0 = at once), error
-- (what broke it last).
-- → 1, or 0 if the job is not this consumer's any more.
local job = {kind = ARGV[4], id = ARGV[5], account = ARGV[6], cause = ARGV[7], retries = ARGV[8],
  error = ARGV[10]}
local ours, account = release(ARGV[2], ARGV[3], job.kind .. ':' .. job.id)
if not ours then return 0 end
local delay_ms = tonumber(ARGV[9])
if delay_ms > 0 then
  job.rank = rank_of(ARGV[3]) -- a pause costs it no place
  add_later(job, now_ms() + delay_ms, 'later')
  promote(account)
elseif admits(job.account) then
  add_entry(job) -- it is older than all that wait
else
  add_waiting(job, rank_of(ARGV[3]))
end
return 1
