-- A worker's word about itself, and what it has counted since the last one.
-- ARGV: group, consumer, slots ('' = it leaves), running, silent_ms, number, then (counter, more)…
-- The number goes up with each set of counts: a set that comes again, its reply lost, counts once.
-- workers: consumer → `<ms of its last word> <slots> <running> <number>`. → slots of live workers.
local consumer, slots, running = ARGV[2], ARGV[3], ARGV[4]
local silent_ms, number = tonumber(ARGV[5]), tonumber(ARGV[6])
local now = now_ms()
local row = redis.call('HGET', WORKERS, consumer)
if not row or tonumber(string.match(row, '(%d+)$')) < number then
  for i = 7, #ARGV, 2 do redis.call('HINCRBY', COUNTERS, ARGV[i], ARGV[i + 1]) end
end
if slots == '' then
  redis.call('HDEL', WORKERS, consumer)
else
  redis.call('HSET', WORKERS, consumer, table.concat({now, slots, running, number}, ' '))
end
local total = 0
local rows = redis.call('HGETALL', WORKERS)
for i = 1, #rows, 2 do
  local told_ms, has = string.match(rows[i + 1], '^(%d+) (%d+)')
  if now - tonumber(told_ms) > silent_ms then
    redis.call('HDEL', WORKERS, rows[i])
  else
    total = total + tonumber(has)
  end
end
if total > 0 then
  redis.call('SET', SLOTS, total, 'PX', silent_ms)
else
  redis.call('DEL', SLOTS)
end
return total
