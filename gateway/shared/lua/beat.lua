-- A replica lives. It sends itself a mark, which tells by the way that it takes whether others' messages
-- arrive as well.
local replicas, writes, revocations = KEYS[1], KEYS[2], KEYS[3]
local id, alive_us, inbox, number = ARGV[1], ARGV[2] * 1000, ARGV[3], ARGV[4]
local now = now_us()

redis.call('ZADD', replicas, text(now), id)
-- The dead, and those who have beaten in the future: that was another clock.
redis.call('ZREMRANGEBYSCORE', replicas, '-inf', '(' .. text(now - alive_us))
redis.call('ZREMRANGEBYSCORE', replicas, '(' .. text(now + alive_us), '+inf')
local written, revoked = text(counter(writes, now)), text(counter(revocations, now))
local mark = '{"do":"mark","number":%s,"writes":%s,"revocations":%s,"server":"%s"}'
redis.call('PUBLISH', inbox, string.format(mark, number, written, revoked, server()))
return {redis.call('ZCARD', replicas), tonumber(written), tonumber(revoked)}
