-- ARGV: group, then keys `<kind>:<id>`. → those that have no job, whatever it is doing.
local missing = {}
for i = 2, #ARGV do
  local place, account = place_of(ARGV[i])
  if not alive(ARGV[i], place, account) then missing[#missing + 1] = ARGV[i] end
end
return missing
