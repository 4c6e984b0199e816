-- ARGV: group, then keys `<kind>:<id>`. → those that have no job, queued or running.
local missing = {}
for i = 2, #ARGV do
  if not alive(ARGV[i], redis.call('HGET', INDEX, ARGV[i])) then
    missing[#missing + 1] = ARGV[i]
  end
end
return missing
