-- A step of a purge: all that is kept of chats goes, leases too, so that whoever leads lands nothing. With the
-- first step it counts as a write, and all are told. Nobody can tell from its key whose a chat is.
local writes = KEYS[1]
local channel, message, cursor, pattern = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if cursor == '0' then
  local number = counter(writes, now_us()) + 1
  redis.call('SET', writes, text(number))
  redis.call('PUBLISH', channel, message .. text(number) .. '}')
end
local found = redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', 500)
if #found[2] > 0 then
  redis.call('UNLINK', unpack(found[2]))
end
return found[1]
