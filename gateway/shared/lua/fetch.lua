-- What was landed, however old.
local now = now_us()
return {now, (entry_of(KEYS[1], ARGV[1], server(), now)) or ''}
