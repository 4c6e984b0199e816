-- ARGV: group, consumer, ticket, key. → 1, or 0 if the job is not this consumer's any more.
local ours, account = release(ARGV[2], ARGV[3], ARGV[4])
if not ours then return 0 end
promote(account)
return 1
