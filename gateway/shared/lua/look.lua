-- What there is of a target that need not be refreshed yet; else who fetches it; else whoever asks leads.
local chat = KEYS[1]
local field, asked, lease_ms, cold = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local now, server = now_us(), server()

local value, refresh, stale = entry_of(chat, field, server, now)
if value and now < refresh then
  return {'found', now, value}
end
local there = cold and now < stale and value or ''

local mine = server .. '.' .. asked
local leader, left = lease_of(chat, field, server, now)
-- Asked twice under one token: the first answer did not arrive.
if leader and leader ~= mine then
  return {'follow', now, leader, left, there}
end
redis.call('HSET', chat, 'lease:' .. field, mine .. ' ' .. text(now + lease_ms * 1000))
live(chat, lease_ms)
return {'lead', now, mine, there}
