-- Take every limit and budget of one call, or none.
-- KEYS  1 reservation  2 leases  3 ledger  4.. accounts
-- ARGV  1 request id  2 tokens  3 cost  4 lease ms  5 ledger entry if lost  6 reservation prefix
--       then six per account: requests/min, tokens/min, tokens/day, concurrent, day budget, month budget; -1 is no limit
-- Returns {1, requests limit, remaining, reset ms, tokens limit, remaining, reset ms}, the tightest account's (-1 none),
--      or {0, account index, limit name, retry ms, limit, used}.

local again = redis.call('HMGET', KEYS[1], 'state', 'reply')
if again[1] then return cjson.decode(again[2] or '[1,-1,-1,-1,-1,-1,-1]') end

expire(KEYS[2], KEYS[3], ARGV[6], 20)

local now = clock()
local day, month = windows(now)
local tokens, cost = tonumber(ARGV[2]), tonumber(ARGV[3])
local accounts = {}
for i = 4, #KEYS do
  local a = read(KEYS[i], now, day, month)
  local at = 6 + (i - 4) * 6
  a.rpm, a.tpm, a.tpd = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  a.most, a.day, a.month = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
  a.rl, a.tl = leaked(a.rl, a.rt, a.rpm, now), leaked(a.tl, a.tt, a.tpm, now)
  a.rt, a.tt = now, now
  accounts[#accounts + 1] = a
end

local function wait_ms(level, add, limit)
  if add > limit * 1000000 or limit <= 0 then return 60000 end
  return math.ceil((level + add - limit * 1000000) * 60 / limit / 1000)
end

local midnight = (day + 1) * 86400000 - math.floor(now / 1000)
for i, a in ipairs(accounts) do
  if a.day >= 0 and a.dc + cost > a.day then return {0, i, 'budget_day', midnight, a.day, whole(a.dc)} end
  if a.month >= 0 and a.mc + cost > a.month then return {0, i, 'budget_month', midnight, a.month, whole(a.mc)} end
end
for i, a in ipairs(accounts) do
  if a.most >= 0 and a.n + 1 > a.most then return {0, i, 'concurrent_requests', 1000, a.most, a.n} end
  if a.rpm >= 0 and a.rl + 1000000 > a.rpm * 1000000 then
    return {0, i, 'requests_per_minute', wait_ms(a.rl, 1000000, a.rpm), a.rpm, math.ceil(a.rl / 1000000)}
  end
  if a.tpm >= 0 and a.tl + tokens * 1000000 > a.tpm * 1000000 then
    return {0, i, 'tokens_per_minute', wait_ms(a.tl, tokens * 1000000, a.tpm), a.tpm, math.ceil(a.tl / 1000000)}
  end
  if a.tpd >= 0 and a.dt + tokens > a.tpd then return {0, i, 'tokens_per_day', midnight, a.tpd, whole(a.dt)} end
end

local reply = {1, -1, -1, -1, -1, -1, -1}
local tightest = {2, 2}
local kept = {}
local function report(at, slot, level, limit)
  if limit < 0 then return end
  local remaining = math.max(0, math.floor((limit * 1000000 - level) / 1000000))
  local share = limit > 0 and remaining / limit or 0
  if share >= tightest[slot] then return end
  tightest[slot] = share
  reply[at], reply[at + 1] = limit, remaining
  reply[at + 2] = limit > 0 and math.ceil(level * 60 / limit / 1000) or 60000
end
for _, a in ipairs(accounts) do
  if a.rpm >= 0 then a.rl = a.rl + 1000000 end
  if a.tpm >= 0 then a.tl = a.tl + tokens * 1000000 end
  a.dt, a.dc, a.mc, a.n = a.dt + tokens, a.dc + cost, a.mc + cost, a.n + 1
  report(2, 1, a.rl, a.rpm)
  report(5, 2, a.tl, a.tpm)
  write(a, day, month)
  kept[#kept + 1] = {a.key, a.tpm}
end

local lease = tonumber(ARGV[4])
redis.call('HSET', KEYS[1], 'state', 'held', 'tokens', ARGV[2], 'cost', ARGV[3], 'day', day, 'month', month,
  'accounts', #kept > 0 and cjson.encode(kept) or '[]', 'entry', ARGV[5], 'reply', cjson.encode(reply))
redis.call('PEXPIRE', KEYS[1], lease + 86400000)
redis.call('ZADD', KEYS[2], math.floor(now / 1000) + lease, ARGV[1])
return reply
