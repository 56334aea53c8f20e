-- Nobody is to wait for this replica any more.
return redis.call('ZREM', KEYS[1], ARGV[1])
