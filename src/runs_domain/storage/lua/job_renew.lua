-- Renew leases, each only if it is still this consumer's: a bare XCLAIM would take an entry back
-- from its new owner. JUSTID keeps the delivery count.
-- A job whose entry went with a wiped Redis is held on: nobody else can have it, unless it was
-- sent again meanwhile and not yet taken, and then that one goes. So it does where only the index
-- was lost, as when Redis evicts single keys.
-- ARGV: group, consumer, lease_ms, then (ticket, job as JSON) per lease. → tickets that are lost.
local consumer, lease_ms = ARGV[2], tonumber(ARGV[3])
local held = 'held:' .. consumer
local now = now_ms()

local function outlived_a_wipe(ticket)
  local epoch = redis.call('EXISTS', STREAM) == 1 and redis.call('GET', EPOCH)
  return not epoch or tonumber(string.match(ticket, '^(%d+)')) < tonumber(epoch)
end

local function untaken(place)
  return not place or rank_in(place) or (is_entry(place) and not owner_of(place))
end

local lost = {}
for i = 4, #ARGV, 2 do
  local ticket, job = ARGV[i], cjson.decode(ARGV[i + 1])
  local key = job.kind .. ':' .. job.id
  local place, account = place_of(key)
  local owner = owner_of(ticket)
  if place == held then
    -- Out first: in a full Redis, a script's first write must be one that needs no memory.
    redis.call('ZREM', LATER, key)
    redis.call('ZADD', LATER, now + lease_ms, key)
  elseif owner == consumer then
    redis.call('XCLAIM', STREAM, GROUP, consumer, 0, ticket, 'JUSTID')
    if place ~= ticket and untaken(place) then
      if place then take_out(key, place, account) end
      put(key, ticket, job.account)
    end
  elseif not owner and outlived_a_wipe(ticket) and untaken(place) then
    if redis.call('EXISTS', EPOCH) == 0 then open_group() end
    if place then take_out(key, place, account) end
    job.rank = rank_of(ticket)
    add_later(job, now + lease_ms, held)
  else
    lost[#lost + 1] = ticket
  end
end
return lost
