-- A write to a chat has ended. Everything of before it goes, leases too: whoever leads lands nothing.
local chat, writes, replicas = KEYS[1], KEYS[2], KEYS[3]
local channel, alive_us, message = ARGV[1], ARGV[2] * 1000, ARGV[3]
local now = now_us()

redis.call('DEL', chat)
local number = counter(writes, now) + 1
redis.call('SET', writes, text(number))
redis.call('PUBLISH', channel, message .. text(number) .. '}')
local alive = redis.call('ZRANGEBYSCORE', replicas, text(now - alive_us), text(now + alive_us))
return {number, alive}
