-- Which entries are still this consumer's; their leases begin now. JUSTID keeps the delivery count.
-- ARGV: group, consumer, tickets … → those that are.
local mine = {}
for i = 3, #ARGV do
  if owner_of(ARGV[i]) == ARGV[2] then
    redis.call('XCLAIM', STREAM, GROUP, ARGV[2], 0, ARGV[i], 'JUSTID')
    mine[#mine + 1] = ARGV[i]
  end
end
return mine
