-- The end of a flight: its entry, if there is one, and the news of it. A write or another leader has taken
-- the lease away from whoever is too late.
local chat = KEYS[1]
local field, token, value, life_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local channel, message = ARGV[5], ARGV[6]
local MANY = 64

local held = redis.call('HGET', chat, 'lease:' .. field) or ''
if string.match(held, '^%S+') ~= token then
  return 0
end
if value ~= '' then
  -- Targets differ by their queries, too: in a long chat there may be ever more of them.
  if redis.call('HLEN', chat) >= MANY then
    local now, server = now_us(), server()
    for _, name in ipairs(redis.call('HKEYS', chat)) do
      local of = string.match(name, '^lease:(.*)$')
      if not (of and lease_of(chat, of, server, now)) then
        redis.call('HDEL', chat, name)
      end
    end
  end
  redis.call('HSET', chat, field, value)
  live(chat, life_ms)
end
redis.call('HDEL', chat, 'lease:' .. field)
redis.call('PUBLISH', channel, message)
return 1
