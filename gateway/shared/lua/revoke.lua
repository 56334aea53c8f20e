-- Lines in their places, all under the next version, and the news of it. What is over leaves, a little at a time.
local lines, version, order, over = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local channel = ARGV[1]
local SOME = 200
local now = now_us()

local number = counter(version, now) + 1
redis.call('SET', version, text(number))
for at = 2, #ARGV, 3 do
  local place, line, ends = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  redis.call('HSET', lines, place, line)
  redis.call('ZADD', order, text(number), place)
  redis.call('ZADD', over, ends, place)
end
local gone = redis.call('ZRANGEBYSCORE', over, '-inf', math.floor(now / 1000000), 'LIMIT', 0, SOME)
for _, place in ipairs(gone) do
  redis.call('HDEL', lines, place)
  redis.call('ZREM', order, place)
  redis.call('ZREM', over, place)
end
redis.call('PUBLISH', channel, '{"do":"revoked","version":' .. text(number) .. '}')
return number
