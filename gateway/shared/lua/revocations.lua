-- The lines that came after a version, the oldest first: whole versions, until there are MANY.
local lines, version, order = KEYS[1], KEYS[2], KEYS[3]
local since = ARGV[1]
local MANY = 500

local places = redis.call('ZRANGEBYSCORE', order, '(' .. since, '+inf', 'LIMIT', 0, MANY)
local last
if #places < MANY then
  last = counter(version, now_us())
else
  last = tonumber(redis.call('ZSCORE', order, places[MANY]))
  places = redis.call('ZRANGEBYSCORE', order, '(' .. since, text(last))
end
local told = {}
for _, place in ipairs(places) do
  local line = redis.call('HGET', lines, place)
  -- An eviction may have taken one key and left the other.
  if line then
    told[#told + 1] = line
  end
end
return {last, told}
