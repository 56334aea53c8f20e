-- What a replica has counted since it was last heard, added once however often it is said. Its numbers rise.
local totals, numbers = KEYS[1], KEYS[2]
local replica, number, life_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3] * 1000

local known = tonumber(redis.call('HGET', numbers, replica) or '') or 0
if number > known then
  redis.call('HSET', numbers, replica, text(number))
  for at = 4, #ARGV, 2 do
    -- What is no number was none of ours.
    if type(redis.pcall('HINCRBY', totals, ARGV[at], ARGV[at + 1])) == 'table' then
      redis.call('HSET', totals, ARGV[at], ARGV[at + 1])
    end
  end
  live(totals, life_ms)
  live(numbers, life_ms)
end
return {known, redis.call('HGETALL', totals)}
