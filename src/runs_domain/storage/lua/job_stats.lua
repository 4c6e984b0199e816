-- One reading of the job system. ARGV: group, accounts_max, jobs_max: what is looked at one by one.
-- → {now_ms, in stream, taken, waiting, later, held, oldest queued (ms it has stood there) or -1,
--    slots, accounts with jobs,
--    {account, in stream, waiting, …}, {worker, its word, …}, {consumer, lease age ms, …},
--    {counter, count, …}}
local accounts_max, jobs_max = tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()

local function taken_now()
  local summary = redis.pcall('XPENDING', STREAM, GROUP)
  return failed(summary) and 0 or summary[1]
end

local function held_now()
  local count = 0
  for _, key in ipairs(redis.call('ZRANGE', LATER, 0, jobs_max - 1)) do
    local place = place_of(key)
    if place and string.match(place, '^held:') then count = count + 1 end
  end
  return count
end

local function oldest_in_stream()
  local from = '(' .. (last_delivered() or '0-0')
  local row = redis.call('XRANGE', STREAM, from, '+', 'COUNT', 1)[1]
  return row and now - tonumber(string.match(row[1], '^(%d+)')) or -1
end

local oldest = oldest_in_stream()
local accounts, count = {}, 0

local function add_account(account)
  local from, to = '[' .. account .. ':', '(' .. account .. ';'
  local waiting = redis.call('ZLEXCOUNT', WAITING, from, to)
  local first = first_waiting(account)
  if first then
    local since_us = since_us_of(string.match(first, '^.-:(%d+):'))
    if since_us then oldest = math.max(oldest, now - math.floor(since_us / 1000)) end
  end
  for _, word in ipairs({account, share_of(account), waiting}) do accounts[#accounts + 1] = word end
end

-- Accounts lie in order in both sets: from one to the next, however many jobs each has.
local function next_account(from)
  local a = redis.call('ZRANGEBYLEX', SHARES, from, '+', 'LIMIT', 0, 1)[1]
  local b = redis.call('ZRANGEBYLEX', WAITING, from, '+', 'LIMIT', 0, 1)[1]
  a, b = a and string.match(a, '^(.-):'), b and string.match(b, '^(.-):')
  if a and b then return a < b and a or b end
  return a or b
end

local from = '-'
for _ = 1, accounts_max do
  local account = next_account(from)
  if not account then break end
  add_account(account)
  count = count + 1
  from = '(' .. account .. ';'
end

local ages = {}
local rows = redis.pcall('XPENDING', STREAM, GROUP, '-', '+', jobs_max)
if not failed(rows) then
  for _, row in ipairs(rows) do
    ages[#ages + 1] = row[2]
    ages[#ages + 1] = row[3]
  end
end

return {now, redis.call('XLEN', STREAM), taken_now(), redis.call('ZCARD', WAITING),
  redis.call('ZCARD', LATER), held_now(), oldest, tonumber(redis.call('GET', SLOTS) or 0), count,
  accounts, redis.call('HGETALL', WORKERS), ages, redis.call('HGETALL', COUNTERS)}
