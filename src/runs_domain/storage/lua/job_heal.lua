-- A page of the index against what is there, and of the shares against the index: scripts keep them
-- together, hands and half-restored backups do not. A lost share would let an account have too
-- much, a false one would keep it waiting for ever.
-- ARGV: group, which ('index', 'shares' or 'accounts'), cursor, count. → {next cursor, how many were wrong}
local which, cursor, count = ARGV[2], ARGV[3], ARGV[4]
local wrong = 0

local function check_index()
  local page = redis.call('HSCAN', INDEX, cursor, 'COUNT', count)
  for i = 1, #page[2], 2 do
    local key = page[2][i]
    local place, account = place_of(key)
    if place and not alive(key, place, account) then
      take_out(key, place, account)
      promote(account)
      wrong = wrong + 1
    elseif place then
      put(key, place, account)
    end
  end
  return page[1]
end

local function check_shares()
  local page = redis.call('ZSCAN', SHARES, cursor, 'COUNT', count)
  for i = 1, #page[2], 2 do
    local account, key = string.match(page[2][i], '^(.-):(.+)$')
    local place, of = place_of(key)
    if of ~= account or place == 'later' or rank_in(place) then
      redis.call('ZREM', SHARES, page[2][i])
      wrong = wrong + 1
    end
  end
  return page[1]
end

local function check_accounts()
  local page = redis.call('SSCAN', ACCOUNTS, cursor, 'COUNT', count)
  for _, account in ipairs(page[2]) do
    if share_of(account) == 0 then
      redis.call('SREM', ACCOUNTS, account)
      wrong = wrong + 1
    end
  end
  return page[1]
end

local checks = {index = check_index, shares = check_shares, accounts = check_accounts}
return {checks[which](), wrong}
