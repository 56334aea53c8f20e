-- Before every script. Times are integer microseconds of Redis's clock; a double holds them exactly for
-- 285 years, but has to be told to print them so.

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function text(number)
  return string.format('%.0f', number)
end

-- Tokens begin with it: after a failover another machine's clock tells, and what was timed by the old one is
-- not believed.
local function server()
  local info = redis.pcall('INFO', 'server')
  return type(info) == 'string' and string.match(info, 'run_id:(%x%x%x%x%x%x%x%x)') or '-'
end

local function is_of(token, server)
  return string.sub(token, 1, #server + 1) == server .. '.'
end

-- The leader's token and for how long it leads, if anybody does. Whatever else is there is nothing.
local LONGEST_LEASE_US = 10000000

local function lease_of(chat, field, server, now)
  local token, till = string.match(redis.call('HGET', chat, 'lease:' .. field) or '', '^([%w.-]+) (%d+)$')
  if token and is_of(token, server) then
    local left = tonumber(till) - now
    if left > 0 and left <= LONGEST_LEASE_US then
      return token, left
    end
  end
end

-- What was landed, from when it is to be refreshed and until when it may be stale.
local function entry_of(chat, field, server, now)
  local value = redis.call('HGET', chat, field)
  if not value then
    return nil, 0, 0
  end
  local sent, refresh, stale, token = string.match(value, '^(%d+) (%d+) (%d+) ([%w.-]+)\n')
  if token and is_of(token, server) and tonumber(sent) <= now then
    return value, tonumber(refresh), tonumber(stale)
  end
  return nil, 0, 0
end

-- Never shorter than it was promised to another.
local function live(key, ms)
  if redis.call('PTTL', key) < ms then
    redis.call('PEXPIRE', key, ms)
  end
end

-- A number that only rises. Where there is none it begins at the time, so that it never comes to the same
-- again once it was lost.
local function counter(key, now)
  local number = redis.pcall('GET', key)
  if type(number) == 'string' and string.match(number, '^%d+$') and #number < 17 then
    return tonumber(number)
  end
  redis.call('SET', key, text(now))
  return now
end
