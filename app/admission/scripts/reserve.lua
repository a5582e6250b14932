-- Take every limit and budget of one call, or none.
-- KEYS  1 reservation  2 leases  3 ledger  4.. accounts
-- ARGV  1 request id  2 tokens  3 cost  4 lease ms  5 ledger entry if lost  6 reservation prefix
--       7 JSON list of the accounts' limits  8 cost of the cheaper variant, '' when there is none  9 its entry if lost
--       10 what a whole answer may cost beyond its cost in 3, at most  11 the same of the cheaper variant
-- Returns {1, requests limit, remaining, reset ms, tokens limit, remaining, reset ms, degraded, shortened}, the tightest
-- account's (-1 none; shortened: what the answer may cost beyond its estimate, -1 as much as it likes), or
-- {0, account index, limit name, retry ms, allowed, used}, or {2}: taken back before it came here.

local again = reservation(KEYS[1])
if again then return again.state == 'released' and {2} or again.reply or {1, -1, -1, -1, -1, -1, -1, 0, -1} end

expire(KEYS[2], KEYS[3], ARGV[6], 20)

local now = clock()
local at = windows(now)
local tokens, cost, cheaper, spare = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[8]), tonumber(ARGV[10])
local limits = cjson.decode(ARGV[7])
local accounts = {}
for i = 4, #KEYS do
  local a = account(KEYS[i], now, at)
  pour(a, limits[i - 3], 0, 0, now)
  accounts[i - 3] = a
end

local midnight = (math.floor(now / 86400000000) + 1) * 86400000 - math.floor(now / 1000)

local function spent_up(a, l, price)
  local full = exhausted(a, l, price)
  return full and {full[1], midnight, full[2], full[3], full[4]}
end

-- Open until its time is over, then one call at a time may probe; the probe's settlement closes it or opens it again.
local function velocity(a, l, price)
  if a.bo and now < a.bo then return {'spend_velocity', math.ceil((a.bo - now) / 1000), l.cap or 0, 0, a.bo} end
  if a.bo and a.bp and now < a.bp then return {'spend_velocity', 1000, l.cap or 0, 0, a.bo} end
  if a.bo then return nil, true end
  local most, rate = surging(a, l, price, now)
  if not most then return nil end
  a.bo = now + COOLDOWN
  return {'spend_velocity', COOLDOWN / 1000, most, rate, a.bo}
end

local function trip(i, refusal)
  local mark = trip_mark(refusal[1], refusal[5])
  if accounts[i].x == mark then return end
  accounts[i].x = mark
  announce(KEYS[3], limits[i], {event = 'breaker_opened', limit = refusal[1], window = refusal[5], allowed = refusal[3],
    used = refusal[4], policy = limits[i].policy or 'block'}, now)
  keep(KEYS[i + 3], accounts[i], limits[i])
end

local degraded, probes = false, {}
for i, a in ipairs(accounts) do
  local l = limits[i]
  local refusal, probe = spent_up(a, l, cost), false
  if not refusal and (l.cap or l.surge) then refusal, probe = velocity(a, l, cost) end
  probes[i] = probe
  if refusal then
    trip(i, refusal)
    if l.policy == 'degrade' and cheaper then
      degraded = true
    elseif l.policy ~= 'alert' then
      return {0, i, refusal[1], refusal[2], refusal[3], refusal[4]}
    end
  end
end
if degraded then
  cost, spare = cheaper, tonumber(ARGV[11])
  for i, a in ipairs(accounts) do
    local refusal = limits[i].policy ~= 'alert' and spent_up(a, limits[i], cost)
    if refusal then return {0, i, refusal[1], refusal[2], refusal[3], refusal[4]} end
  end
end

local function wait_ms(level, add, burst, limit)
  if add > burst * MICRO or limit <= 0 then return 60000 end
  return math.ceil((level + add - burst * MICRO) * 60 / limit / 1000)
end

for i, a in ipairs(accounts) do
  local l = limits[i]
  if l.most and a.n + 1 > l.most then return {0, i, 'concurrent_requests', 1000, l.most, a.n} end
  local burst = l.rburst or l.rpm
  if l.rpm and a.rl + MICRO > burst * MICRO then
    return {0, i, 'requests_per_minute', wait_ms(a.rl, MICRO, burst, l.rpm), l.rpm, math.ceil(a.rl / MICRO)}
  end
  burst = l.tburst or l.tpm
  if l.tpm and a.tl + tokens * MICRO > burst * MICRO then
    return {0, i, 'tokens_per_minute', wait_ms(a.tl, tokens * MICRO, burst, l.tpm), l.tpm, math.ceil(a.tl / MICRO)}
  end
  if l.tpd and a.dt + tokens > l.tpd then return {0, i, 'tokens_per_day', midnight, l.tpd, a.dt} end
end

-- A whole answer cannot be stopped on its way. Where budgets end near, it may grow beyond its estimate by a part of what
-- is left (`shortened`); that much is kept from others until it has settled. Without budgets it may grow as it likes.
local shortened = -1
local function grown(most)
  local left
  for i, a in ipairs(accounts) do
    local l = limits[i]
    for _, budget in ipairs(l.policy ~= 'alert' and BUDGETS or {}) do
      local limit = l[budget[1]]
      if limit then left = math.min(left or limit, limit - promised(a, budget) - cost) end
    end
  end
  if not left then return 0 end
  local part = math.max(0, math.floor(left / SHARE))
  if most <= part then return most end
  shortened = part
  return part
end
spare = spare > 0 and grown(spare) or 0

local reply = {1, -1, -1, -1, -1, -1, -1, degraded and 1 or 0, shortened}
local tightest = {2, 2}
local function report(place, slot, level, limit, burst)
  if not limit then return end
  local remaining = math.max(0, math.floor(((burst or limit) * MICRO - level) / MICRO))
  local share = limit > 0 and remaining / limit or 0
  if share >= tightest[slot] then return end
  tightest[slot] = share
  reply[place], reply[place + 1] = limit, remaining
  reply[place + 2] = limit > 0 and math.ceil(level * 60 / limit / 1000) or 60000
end

local held = {}
for i, a in ipairs(accounts) do
  local l, key = limits[i], KEYS[i + 3]
  pour(a, l, 1, tokens, now)
  charge(a, tokens, cost, a)
  a.n, a.hc = a.n + 1, a.hc + cost
  promise(a, spare)
  if probes[i] then a.bp = now + COOLDOWN end
  report(2, 1, a.rl, l.rpm, l.rburst)
  report(5, 2, a.tl, l.tpm, l.tburst)
  keep(key, a, l)
  held[i] = {key = key, limits = l, d = a.d, w = a.w, m = a.m, probe = probes[i] or nil}
end

local lease = tonumber(ARGV[4])
redis.call('SET', KEYS[1], cmsgpack.pack({state = 'held', tokens = tokens, cost = cost, spare = spare, accounts = held,
  entry = degraded and ARGV[9] or ARGV[5], reply = reply}), 'PX', lease + 86400000)
redis.call('ZADD', KEYS[2], math.floor(now / 1000) + lease, ARGV[1])
return reply
