-- Shared by all job scripts, before each of them: where a job is, and how it comes and goes.
-- KEYS: 1 stream, 2 index, 3 later, 4 data, 5 epoch, 6 shares, 7 waiting, 8 accounts, 9 workers,
-- 10 slots, 11 counters, 12 turns. ARGV[1] is the group.
-- A job's ticket is its entry id. index[<kind>:<id>] = `<place> <account>` says where the one job of
-- that name is: an entry id; `later` (in the sorted set, due at its score); `waiting:<rank>` (its
-- account has its share, see job_shares.lua); or `held:<consumer>` (a job that runs on although
-- Redis was wiped under it: its lease is its score in `later`, and nobody's entry).
local STREAM, INDEX, LATER, DATA, EPOCH = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local SHARES, WAITING, ACCOUNTS = KEYS[6], KEYS[7], KEYS[8]
local WORKERS, SLOTS, COUNTERS, TURNS = KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local GROUP = ARGV[1]

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

local function failed(reply)
  return type(reply) == 'table' and reply.err ~= nil
end

-- From id 0, never `$`: what was sent before the group was made is work too.
local function open_group()
  local made = redis.pcall('XGROUP', 'CREATE', STREAM, GROUP, '0', 'MKSTREAM')
  if not failed(made) then
    redis.call('SET', EPOCH, now_ms())
  elseif redis.call('EXISTS', EPOCH) == 0 then
    redis.call('SET', EPOCH, now_ms())
  end
end

local function is_entry(place)
  return place and string.match(place, '^%d+%-%d+$') ~= nil
end

local function rank_in(place)
  return string.match(place, '^waiting:(%d+)$')
end

local function owner_of(ticket)
  local rows = redis.pcall('XPENDING', STREAM, GROUP, ticket, ticket, 1)
  if failed(rows) or #rows == 0 then return nil end
  return rows[1][2]
end

local function last_delivered()
  local groups = redis.pcall('XINFO', 'GROUPS', STREAM)
  if failed(groups) then return nil end
  for _, group in ipairs(groups) do
    local told = {}
    for i = 1, #group, 2 do told[group[i]] = group[i + 1] end
    if told['name'] == GROUP then return told['last-delivered-id'] end
  end
end

-- → place, account; nil if there is no job of that name.
local function place_of(key)
  local value = redis.call('HGET', INDEX, key)
  if not value then return nil end
  local place, account = string.match(value, '^(%S+) ?(.*)$')
  return place, account
end

local function share_of(account)
  return redis.call('ZLEXCOUNT', SHARES, '[' .. account .. ':', '(' .. account .. ';')
end

-- `put` and `clear` alone write the index, and the shares with it: so they cannot drift apart.
local function put(key, place, account)
  redis.call('HSET', INDEX, key, place .. ' ' .. account)
  if place == 'later' or rank_in(place) then return end
  redis.call('ZADD', SHARES, 0, account .. ':' .. key)
  redis.call('SADD', ACCOUNTS, account)
end

local function clear(key, account)
  redis.call('HDEL', INDEX, key)
  redis.call('ZREM', SHARES, account .. ':' .. key)
  if share_of(account) == 0 then redis.call('SREM', ACCOUNTS, account) end
end

local function add_entry(job)
  local ticket = redis.call('XADD', STREAM, '*', 'kind', job.kind, 'id', job.id,
    'account', job.account, 'cause', job.cause, 'retries', job.retries, 'error', job.error or '')
  put(job.kind .. ':' .. job.id, ticket, job.account)
end

local function add_later(job, due_ms, place)
  local key = job.kind .. ':' .. job.id
  redis.call('ZADD', LATER, due_ms, key)
  redis.call('HSET', DATA, key, cjson.encode(job))
  put(key, place, job.account)
end

-- Take the job out from wherever it is but from who has taken it. XACK is not needed: nobody has.
local function take_out(key, place, account)
  if is_entry(place) then
    redis.call('XDEL', STREAM, place)
  else
    local rank = rank_in(place)
    if rank then redis.call('ZREM', WAITING, account .. ':' .. rank .. ':' .. key) end
    redis.call('ZREM', LATER, key)
    redis.call('HDEL', DATA, key)
  end
  clear(key, account)
end

-- Take the job out if `consumer` holds it under `ticket`. XACK keeps the entry, so XDEL too.
-- → whether it did, the account whose share is smaller now.
local function release(consumer, ticket, key)
  local place, account = place_of(key)
  if place == 'held:' .. consumer then
    take_out(key, place, account)
    return true, account
  end
  if owner_of(ticket) ~= consumer then return false end
  redis.call('XACK', STREAM, GROUP, ticket)
  redis.call('XDEL', STREAM, ticket)
  if place == ticket then clear(key, account) end
  return true, account
end

-- Is the job that the index names really there? An index that lies would keep a run unsent for ever.
local function alive(key, place, account)
  if not place then return false end
  local rank = rank_in(place)
  if rank then
    return redis.call('ZSCORE', WAITING, account .. ':' .. rank .. ':' .. key) ~= false
  end
  if not is_entry(place) then return redis.call('ZSCORE', LATER, key) ~= false end
  if #redis.call('XRANGE', STREAM, place, place, 'COUNT', 1) == 0 then return false end
  if owner_of(place) then return true end
  local last = last_delivered()
  if not last then return true end
  -- Delivered, yet pending with nobody: its consumer was deleted. No one would get it again.
  local last_ms, last_seq = string.match(last, '^(%d+)%-(%d+)$')
  local ms, seq = string.match(place, '^(%d+)%-(%d+)$')
  last_ms, last_seq, ms, seq = tonumber(last_ms), tonumber(last_seq), tonumber(ms), tonumber(seq)
  return ms > last_ms or (ms == last_ms and seq > last_seq)
end
