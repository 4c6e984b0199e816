-- Take out a job that nobody has begun. ARGV: group, key.
-- → 1, or 0 if there is none or a worker has it.
local place, account = place_of(ARGV[2])
if not place or string.match(place, '^held:') then return 0 end
if is_entry(place) and owner_of(place) then return 0 end
local was = alive(ARGV[2], place, account)
take_out(ARGV[2], place, account)
promote(account)
return was and 1 or 0
