-- Move what is due into the stream, bring the shares in order, then take over entries whose lease
-- ran out. XPENDING IDLE, not XAUTOCLAIM: that one looks at few entries and starves behind live ones.
-- ARGV: group, consumer, lease_ms, count, due_max, gap_ms (0 = none), then the tickets that run here
-- (never taken). A sweep is for all workers: within gap_ms of one, the others' find nothing.
-- → {entries due, {{ticket, fields, how often it was taken}, …}}
local consumer, lease_ms, count, due_max = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local gap_ms = tonumber(ARGV[6])

local function is_time_for(what)
  if gap_ms == 0 then return true end
  local now, last = now_ms(), tonumber(redis.call('HGET', TURNS, what) or 0)
  if last <= now and now - last < gap_ms then return false end -- later than now: the clock went back
  redis.pcall('HSET', TURNS, what, now) -- a Redis that is full takes no note
  return true
end

local function move_due()
  local due = redis.call('ZRANGEBYSCORE', LATER, '-inf', now_ms(), 'LIMIT', 0, due_max)
  for _, key in ipairs(due) do
    local data = redis.call('HGET', DATA, key)
    local place, account = place_of(key)
    if place == 'later' or (place and string.match(place, '^held:')) then
      take_out(key, place, account)
      local job = data and cjson.decode(data)
      if job then enter(job, job.rank or rank_now()) end
    else
      redis.call('ZREM', LATER, key) -- a job of that name is elsewhere, or the index is lost
    end
  end
  return #due
end

-- The newest entries of those that have too much, as long as nobody has taken them.
local function put_surplus_back()
  local last = is_crowded() and last_delivered()
  if not last then return end
  for _, row in ipairs(redis.call('XREVRANGE', STREAM, '+', '(' .. last, 'COUNT', LOOKED_AT_MAX)) do
    if not is_crowded() then return end
    local job = indexed_job(row[1], row[2])
    if job and has_too_much(job.account) then stand_back(row[1], job) end
  end
end

local function fill_shares()
  local from = '-'
  for _ = 1, LOOKED_AT_MAX do
    local member = redis.call('ZRANGEBYLEX', WAITING, from, '+', 'LIMIT', 0, 1)[1]
    if not member then break end
    local account = string.match(member, '^(.-):')
    fill_share(account)
    from = '(' .. account .. ';'
  end
end

-- What a dead worker held is no reason for its account to have more than its share.
local function waits_instead(ticket)
  if not is_crowded() then return false end
  local row = redis.call('XRANGE', STREAM, ticket, ticket, 'COUNT', 1)[1]
  local job = row and indexed_job(ticket, row[2])
  if not job or not has_too_much(job.account) then return false end
  job.cause, job.error = 'resent', '' -- who lost it could not tell why
  stand_back(ticket, job)
  return true
end

local function take_over()
  local mine, taken = {}, {}
  for i = 7, #ARGV do mine[ARGV[i]] = true end
  if count <= 0 or not is_time_for('reclaim') then return taken end
  local rows = redis.call('XPENDING', STREAM, GROUP, 'IDLE', lease_ms, '-', '+', count + #ARGV - 6)
  for _, row in ipairs(rows) do
    if #taken == count then break end
    if not mine[row[1]] and not waits_instead(row[1]) then
      local claimed = redis.call('XCLAIM', STREAM, GROUP, consumer, lease_ms, row[1])
      if claimed[1] then taken[#taken + 1] = {claimed[1][1], claimed[1][2], row[4] + 1} end
    end
  end
  return taken
end

local due = 0
if is_time_for('shares') then
  due = move_due()
  fill_shares()
  put_surplus_back()
  fill_room()
end
return {due, take_over()}
