-- A leader that still flies. A lease that has ended is still its own while nobody has taken it.
local chat = KEYS[1]
local field, token, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])

local held = redis.call('HGET', chat, 'lease:' .. field) or ''
if string.match(held, '^%S+') ~= token then
  return 0
end
redis.call('HSET', chat, 'lease:' .. field, token .. ' ' .. text(now_us() + lease_ms * 1000))
live(chat, lease_ms)
return 1
