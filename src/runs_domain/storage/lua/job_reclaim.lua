-- Move what is due into the stream, then take over entries whose lease ran out.
-- XPENDING IDLE, not XAUTOCLAIM: that one looks at few entries and starves behind live ones.
-- ARGV: group, consumer, lease_ms, count, due_max, then the tickets that run here (never taken).
-- → {entries moved, {{ticket, fields}, …}}
local consumer, lease_ms, count, due_max = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local due = redis.call('ZRANGEBYSCORE', LATER, '-inf', now_ms(), 'LIMIT', 0, due_max)
for _, key in ipairs(due) do
  local data = redis.call('HGET', DATA, key)
  forget_later(key)
  if data then
    add_entry(cjson.decode(data))
  else
    redis.call('HDEL', INDEX, key)
  end
end
local mine = {}
for i = 6, #ARGV do mine[ARGV[i]] = true end
local taken = {}
if count > 0 then
  local rows = redis.call('XPENDING', STREAM, GROUP, 'IDLE', lease_ms, '-', '+', count + #ARGV - 5)
  for _, row in ipairs(rows) do
    if #taken == count then break end
    if not mine[row[1]] then
      local claimed = redis.call('XCLAIM', STREAM, GROUP, consumer, lease_ms, row[1])
      if claimed[1] then taken[#taken + 1] = claimed[1] end
    end
  end
end
return {#due, taken}
