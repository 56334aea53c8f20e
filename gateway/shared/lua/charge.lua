-- One request, charged to all of its limits or to none of them. The same reckoning as in core/limits.py, in
-- whole microseconds: a rate has an arrival time, which is how far ahead of now it has been used.
local limits, takes = KEYS[1], ARGV[1] == '1'
local DAY_US = 86400000000
local LEAST_LIFE_MS = 3600000
local now = now_us()
local today = math.floor(now / DAY_US)

-- How far ahead a rate is. Under another rate than before as much is left as there was, or as the new burst
-- can hold; and nobody is ever further behind than a whole burst, whatever the clock did.
local function ahead_of(field, interval, burst)
  local said = redis.call('HGET', limits, field) or ''
  local arrival, old_interval, old_burst = string.match(said, '^(%d+) (%d+) (%d+)$')
  if not arrival then
    return 0
  end
  local ahead = math.max(0, arrival - now)
  old_interval, old_burst = tonumber(old_interval), tonumber(old_burst)
  if old_interval ~= interval or old_burst ~= burst then
    local left = math.max(0, old_burst - ahead / math.max(1, old_interval))
    ahead = math.ceil((burst - math.min(left, burst)) * interval)
  end
  return math.min(ahead, burst * interval)
end

local function used_of(field)
  local day, used = string.match(redis.call('HGET', limits, field) or '', '^(%d+) (%d+)$')
  return tonumber(day) == today and tonumber(used) or 0
end

-- Each limit as it stands, and how long until it has room for one more.
local found, has_room = {}, true
for at = 2, #ARGV, 4 do
  local kind, name, many = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local one = {kind = kind, field = kind .. ':' .. name, many = many, wait = 0}
  if kind == 'rate' then
    one.interval = tonumber(ARGV[at + 3])
    one.ahead = ahead_of(one.field, one.interval, many)
    one.wait = math.max(0, one.ahead - (many - 1) * one.interval)
  else
    one.used = used_of(one.field)
    if one.used >= many then
      one.wait = (today + 1) * DAY_US - now
    end
  end
  has_room = has_room and one.wait == 0
  found[#found + 1] = one
end

-- If nothing is taken it is said how it would be.
local life_us = 0
for _, one in ipairs(has_room and found or {}) do
  local value
  if one.kind == 'rate' then
    one.ahead = one.ahead + one.interval
    life_us = math.max(life_us, one.ahead)
    value = text(now + one.ahead) .. ' ' .. text(one.interval) .. ' ' .. text(one.many)
  else
    one.used = one.used + 1
    life_us = math.max(life_us, (today + 1) * DAY_US - now)
    value = text(today) .. ' ' .. text(one.used)
  end
  if takes then
    redis.call('HSET', limits, one.field, value)
  end
end
if takes and life_us > 0 then
  -- Longer than it means anything: where memory is short, what ends first is evicted first, and that is entries.
  live(limits, math.max(LEAST_LIFE_MS, math.ceil(life_us / 1000)))
end

local replies = {}
for at, one in ipairs(found) do
  local left, reset = one.many, 0
  if one.kind == 'day' then
    left = math.max(0, one.many - one.used)
    reset = one.used > 0 and (today + 1) * DAY_US - now or 0
  elseif one.ahead > 0 then
    -- Those that have not come back yet, the one on its way included.
    local owed = math.ceil(one.ahead / one.interval)
    left, reset = one.many - owed, one.ahead - (owed - 1) * one.interval
  end
  replies[at] = {one.wait, left, reset}
end
return replies
