-- Shared by all job scripts, after jobs.lua: how many jobs of an account may be in the stream.
-- shares: `<account>:<kind>:<id>` of every job that is queued or taken; all scores are 0, so that
-- an account's lie together. waiting: `<account>:<rank>:<kind>:<id>` of those that must wait, first
-- come first; an account has no colon. accounts: those with a share. slots: of all live workers.
-- A job is admitted if its account has less than its limit in the stream, or if there are slots
-- that nobody in the stream wants. The limit is an even part of the slots, and never more than half:
-- so a lone account has every slot, no slot is idle while somebody waits, and an account that comes
-- is next, not behind all that another has sent. Whatever changes shares or slots lets it drift
-- from that only until the next sweep (job_reclaim.lua).
local SLOTS_UNKNOWN = 64 -- while no worker is known to live
local MOVED_MAX = 200 -- jobs into the stream, a call: Redis does nothing else meanwhile
local LOOKED_AT_MAX = 100 -- accounts or entries a call

local function slots_now()
  return tonumber(redis.call('GET', SLOTS) or SLOTS_UNKNOWN)
end

local function limit_now()
  return math.ceil(slots_now() / math.max(2, redis.call('SCARD', ACCOUNTS)))
end

local function has_room()
  return redis.call('ZCARD', SHARES) < slots_now()
end

local function is_crowded()
  return redis.call('ZCARD', SHARES) > slots_now()
end

local function admits(account)
  return has_room() or share_of(account) < limit_now()
end

local function first_waiting(account)
  local from, to = '[' .. account .. ':', '(' .. account .. ';'
  return redis.call('ZRANGEBYLEX', WAITING, from, to, 'LIMIT', 0, 1)[1]
end

-- The order of waiting jobs: microseconds, of when a job was sent. One that has had its turn, and
-- may have been begun, comes before all that have not, however long those have waited: its rank is
-- of when its entry came into the stream, FRONT_US ago.
local FRONT_US = 1e15 -- some 31 years

local function rank_now()
  return string.format('%016.0f', now_us())
end

local function front_rank(us)
  return string.format('%016.0f', us - FRONT_US)
end

local function rank_of(ticket)
  local ms, seq = string.match(ticket, '^(%d+)%-(%d+)$')
  return front_rank(tonumber(ms) * 1000 + math.min(tonumber(seq), 999))
end

local RANK_FIRST = string.rep('0', 16)

-- Since when a job of that rank has stood there; nil if the rank does not tell.
local function since_us_of(rank)
  if rank == RANK_FIRST then return nil end
  local us = tonumber(rank)
  return us < now_us() - FRONT_US / 2 and us + FRONT_US or us
end

local function add_waiting(job, rank)
  local key = job.kind .. ':' .. job.id
  redis.call('ZADD', WAITING, 0, job.account .. ':' .. rank .. ':' .. key)
  redis.call('HSET', DATA, key, cjson.encode(job))
  put(key, 'waiting:' .. rank, job.account)
end

local moves_left = MOVED_MAX

local function move_into_stream(member)
  moves_left = moves_left - 1
  local account, rank, key = string.match(member, '^(.-):(%d+):(.+)$')
  redis.call('ZREM', WAITING, member)
  if place_of(key) ~= 'waiting:' .. rank then return end
  local data = redis.call('HGET', DATA, key)
  redis.call('HDEL', DATA, key)
  if data then add_entry(cjson.decode(data)) else clear(key, account) end
end

-- Of those that wait, the account with the smallest share gets the slot that nobody wants.
local function next_for_room()
  local chosen, smallest
  local from = '-'
  for _ = 1, LOOKED_AT_MAX do
    local member = redis.call('ZRANGEBYLEX', WAITING, from, '+', 'LIMIT', 0, 1)[1]
    if not member then break end
    local account = string.match(member, '^(.-):')
    local share = share_of(account)
    if not smallest or share < smallest then chosen, smallest = member, share end
    from = '(' .. account .. ';'
  end
  return chosen
end

local function fill_share(account)
  while moves_left > 0 do
    local member = share_of(account) < limit_now() and first_waiting(account)
    if not member then return end
    move_into_stream(member)
  end
end

local function fill_room()
  while moves_left > 0 do
    local member = has_room() and next_for_room()
    if not member then return end
    move_into_stream(member)
  end
end

-- After `account` has less in the stream than before.
local function promote(account)
  if redis.call('ZCARD', WAITING) == 0 then return end
  if account then fill_share(account) end
  fill_room()
end

-- Into the stream if there is a place, else behind the others of its account.
local function enter(job, rank)
  if not admits(job.account) then
    add_waiting(job, rank)
  elseif first_waiting(job.account) then
    add_waiting(job, rank)
    promote(job.account)
  else
    add_entry(job)
  end
end

-- An entry as a job, if the index knows it; else nil.
local function indexed_job(ticket, fields)
  local job = {}
  for i = 1, #fields, 2 do job[fields[i]] = fields[i + 1] end
  if not (job.kind and job.id and job.cause and job.retries) then return nil end
  local place, account = place_of(job.kind .. ':' .. job.id)
  if place ~= ticket then return nil end
  return {kind = job.kind, id = job.id, account = account, cause = job.cause,
    retries = job.retries, error = job.error}
end

local function has_too_much(account)
  return is_crowded() and share_of(account) > limit_now()
end

-- Out of the stream, to be the next of its account, beside others that were.
local function stand_back(ticket, job)
  redis.call('XACK', STREAM, GROUP, ticket)
  redis.call('XDEL', STREAM, ticket)
  clear(job.kind .. ':' .. job.id, job.account)
  add_waiting(job, rank_of(ticket))
end
