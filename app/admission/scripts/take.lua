-- Take the tenants whose leases may be due: nobody else looks at them for a while.
-- KEYS  1 the set of tenants by the millisecond of their next look      ARGV  1 most  2 how long they are taken, in ms
-- Returns {how many tenants there are, those taken}.
local now = math.floor(clock() / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, tenant in ipairs(due) do redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), tenant) end
return {redis.call('ZCARD', KEYS[1]), due}
