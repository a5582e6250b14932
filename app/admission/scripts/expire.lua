-- Charge what has run out of its lease.
-- KEYS  1 leases  2 ledger  3 the tenant's account      ARGV  1 reservation prefix  2 most
-- Returns {how many, reservations outstanding, micro-dollars they hold}.
local found = expire(KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]))
local packed = redis.call('GET', KEYS[3])
return {found, redis.call('ZCARD', KEYS[1]), packed and cmsgpack.unpack(packed).hc or 0}
