-- Shared by all job scripts; put before each of them.
-- KEYS: 1 stream, 2 index, 3 later, 4 later-data, 5 epoch. ARGV[1] is the group.
-- A job's ticket is its entry id. index[<kind>:<id>] says where the one job of that name is:
-- an entry id; `later` (in the sorted set, due at its score); or `held:<consumer>` (a job that runs
-- on although Redis was wiped under it: its lease is its score in `later`, and nobody's entry).
local STREAM, INDEX, LATER, DATA, EPOCH = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local GROUP = ARGV[1]

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
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

local function owner_of(ticket)
  local rows = redis.pcall('XPENDING', STREAM, GROUP, ticket, ticket, 1)
  if failed(rows) or #rows == 0 then return nil end
  return rows[1][2]
end

local function add_entry(job)
  local key = job.kind .. ':' .. job.id
  local ticket = redis.call('XADD', STREAM, '*', 'kind', job.kind, 'id', job.id,
    'account', job.account, 'cause', job.cause, 'retries', job.retries, 'error', job.error or '')
  redis.call('HSET', INDEX, key, ticket)
  return ticket
end

local function add_later(job, due_ms, place)
  local key = job.kind .. ':' .. job.id
  redis.call('ZADD', LATER, due_ms, key)
  redis.call('HSET', DATA, key, cjson.encode(job))
  redis.call('HSET', INDEX, key, place)
end

local function forget_later(key)
  redis.call('ZREM', LATER, key)
  redis.call('HDEL', DATA, key)
end

-- Take the job out if `consumer` holds it under `ticket`. XACK keeps the entry, so XDEL too.
local function release(consumer, ticket, key)
  local place = redis.call('HGET', INDEX, key)
  if place == 'held:' .. consumer then
    forget_later(key)
    redis.call('HDEL', INDEX, key)
    return true
  end
  if owner_of(ticket) ~= consumer then return false end
  redis.call('XACK', STREAM, GROUP, ticket)
  redis.call('XDEL', STREAM, ticket)
  if place == ticket then redis.call('HDEL', INDEX, key) end
  return true
end

-- Is the job that the index names really there? An index that lies would keep a run unsent for ever.
local function alive(key, place)
  if not place then return false end
  if not is_entry(place) then return redis.call('ZSCORE', LATER, key) ~= false end
  if #redis.call('XRANGE', STREAM, place, place, 'COUNT', 1) == 0 then return false end
  if owner_of(place) then return true end
  local groups = redis.pcall('XINFO', 'GROUPS', STREAM)
  if failed(groups) then return true end
  for _, group in ipairs(groups) do
    local told = {}
    for i = 1, #group, 2 do told[group[i]] = group[i + 1] end
    if told['name'] == GROUP then
      -- Delivered, yet pending with nobody: its consumer was deleted. No one would get it again.
      local last_ms, last_seq = string.match(told['last-delivered-id'], '^(%d+)%-(%d+)$')
      local ms, seq = string.match(place, '^(%d+)%-(%d+)$')
      last_ms, last_seq, ms, seq = tonumber(last_ms), tonumber(last_seq), tonumber(ms), tonumber(seq)
      return ms > last_ms or (ms == last_ms and seq > last_seq)
    end
  end
  return true
end

local function drop_dead(key, place)
  if is_entry(place) then redis.call('XDEL', STREAM, place) end
  forget_later(key)
  redis.call('HDEL', INDEX, key)
end
