-- Hold more for a call that runs: an answer longer than its estimate.
-- KEYS  1 reservation  2 leases  3.. accounts      ARGV  1 request id  2 more tokens  3 more cost  4 lease ms  5 entry if lost
-- Returns {1} held, {0, account index, limit name, allowed, used} where a budget or the day's tokens end,
-- {2} nothing is held under this id (any more): its settlement corrects what is charged.

local r = reservation(KEYS[1])
if r == nil or r.state ~= 'held' then return {2} end
local now = clock()
local at = windows(now)
local tokens, cost = tonumber(ARGV[2]), tonumber(ARGV[3])
local accounts = {}
for i, held in ipairs(r.accounts) do
  local a, l = account(held.key, now, at), held.limits
  accounts[i] = a
  local full = l.policy ~= 'alert' and exhausted(a, l, cost)
  if full then return {0, i, full[1], full[2], full[3]} end
  if l.tpd and a.dt + tokens > l.tpd then return {0, i, 'tokens_per_day', l.tpd, a.dt} end
end
for i, held in ipairs(r.accounts) do
  local a = accounts[i]
  pour(a, held.limits, 0, tokens, now)
  charge(a, tokens, cost, held)
  a.hc = a.hc + cost
  keep(held.key, a, held.limits)
end
r.tokens, r.cost, r.entry = r.tokens + tokens, r.cost + cost, ARGV[5]
local lease = tonumber(ARGV[4])
redis.call('SET', KEYS[1], cmsgpack.pack(r), 'PX', lease + 86400000)
redis.call('ZADD', KEYS[2], math.floor(now / 1000) + lease, ARGV[1])
return {1}
