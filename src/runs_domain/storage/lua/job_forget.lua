-- Delete consumers that have nothing pending: deleting one drops its pending entries for good.
-- ARGV: group, idle_ms, consumer (or '' for whoever has been idle that long). → how many.
local idle_ms, only = tonumber(ARGV[2]), ARGV[3]
local rows = redis.pcall('XINFO', 'CONSUMERS', STREAM, GROUP)
if failed(rows) then return 0 end
local count = 0
for _, row in ipairs(rows) do
  local told = {}
  for i = 1, #row, 2 do told[row[i]] = row[i + 1] end
  local meant = told['name'] == only or (only == '' and told['idle'] >= idle_ms)
  if meant and told['pending'] == 0 then
    redis.call('XGROUP', 'DELCONSUMER', STREAM, GROUP, told['name'])
    count = count + 1
  end
end
return count
