-- Charge what has run out of its lease.
-- KEYS  1 leases  2 ledger      ARGV  1 reservation prefix  2 most  3 lease ms
-- Returns {how many, the millisecond before which no lease of this tenant ends}.
local found = expire(KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]))
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
local latest = math.floor(clock() / 1000) + tonumber(ARGV[3])
return {found, math.min(first and tonumber(first) or latest, latest)}
