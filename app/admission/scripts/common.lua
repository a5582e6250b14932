-- Shared by every admission script. Redis' own clock decides, in microseconds; money and tokens are whole numbers.
-- An account is one MessagePack map (absent is zero):
--   rl rt  level (micro-requests) and time of the requests-per-minute bucket      tl tt  the same for tokens
--   d dt dc  UTC day, its tokens and micro-dollars    w wc  ISO week    m mc  UTC month    sc  micro-dollars since ever
--   n hc  requests in flight and the micro-dollars they hold (these are part of dc, wc, mc and sc already)
--   xc  micro-dollars that whole answers in flight may cost beyond what they hold: no budget gives these to others
--   vr vb vt v0  spend of the last minute, spend per minute of the last hour (both fading), their time, their beginning
--   bo bp  the breaker is open until; a probe runs until       x e  what has been announced (trips; percentages)
-- A bucket's level leaks at limit/60 per second; a call fits while level + call <= burst (GCRA seen from the other side).
-- Limits are a JSON object of what is set: kind id route, rpm rburst tpm tburst tpd most, day week month total,
-- cap (micro-dollars a minute), surge (per cent of the hour's rate), policy (block | degrade | alert), ttl (seconds).

local MICRO = 1000000
local MINUTE, HOUR = 60 * MICRO, 3600 * MICRO
local COOLDOWN = 30 * MICRO     -- how long a breaker stays open before one call may probe
local SETTLED_MS = 300000       -- how long a settled reservation is remembered
local SHARE = 16                -- one whole answer may grow into so small a part of what is left of a budget
local BUDGETS = {{'day', 'dc', 'd'}, {'week', 'wc', 'w'}, {'month', 'mc', 'm'}, {'total', 'sc', ''}}

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * MICRO + tonumber(t[2])
end

-- Numbers of the UTC day, the week (from Monday) and the month that `now` lies in.
-- Civil month of a day number: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
local function windows(now)
  local day = math.floor(now / 86400000000)
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return {d = day, w = math.floor((day + 3) / 7), m = (yoe + era * 400 + (month <= 2 and 1 or 0)) * 12 + month}
end

-- A window begins when its number grows. A clock set back by one does not open a spent window again; one set back by
-- more had been wrong before.
local function begins(number, known)
  return known == nil or number > known or number < known - 1
end

local function account(key, now, at)
  local packed = redis.call('GET', key)
  local a = packed and cmsgpack.unpack(packed) or {rl = 0, tl = 0, sc = 0, n = 0, hc = 0}
  if begins(at.d, a.d) then a.d, a.dt, a.dc = at.d, 0, 0 end
  if begins(at.w, a.w) then a.w, a.wc = at.w, 0 end
  if begins(at.m, a.m) then a.m, a.mc = at.m, 0 end
  if a.n == 0 then a.hc, a.xc = 0, nil end  -- nothing runs, so nothing is held: an account heals of what was lost
  return a
end

local function keep(key, a, limits)
  if limits.ttl then
    redis.call('SET', key, cmsgpack.pack(a), 'EX', limits.ttl)
  else
    redis.call('SET', key, cmsgpack.pack(a))
  end
end

local function leaked(level, since, limit, now)
  if limit == nil or limit <= 0 then return 0 end
  local elapsed = math.max(0, math.min(MINUTE, now - (since or now)))
  return math.max(0, level - math.floor(elapsed * limit / 60))
end

-- Add to both buckets of an account, whose levels fall by what has leaked since.
local function pour(a, limits, requests, tokens, now)
  a.rl = math.max(0, leaked(a.rl, a.rt, limits.rpm, now) + (limits.rpm and requests * MICRO or 0))
  a.tl = math.max(0, leaked(a.tl, a.tt, limits.tpm, now) + (limits.tpm and tokens * MICRO or 0))
  a.rt, a.tt = now, now
end

local function charge(a, tokens, cost, from)
  if from.d == a.d then a.dt, a.dc = math.max(0, a.dt + tokens), math.max(0, a.dc + cost) end
  if from.w == a.w then a.wc = math.max(0, a.wc + cost) end
  if from.m == a.m then a.mc = math.max(0, a.mc + cost) end
  a.sc = math.max(0, a.sc + cost)
end

-- What a budget may already have to pay: spent, held, and what whole answers may grow by.
local function promised(a, budget)
  return a[budget[2]] + (a.xc or 0)
end

local function promise(a, cost)
  local all = (a.xc or 0) + cost
  a.xc = all > 0 and all or nil
end

-- The first budget that has no room for so much more, as {name, limit, promised, window}; nil when all have. What costs
-- nothing (a caller's own provider key) always has room.
local function exhausted(a, limits, cost)
  if cost <= 0 then return nil end
  for _, budget in ipairs(BUDGETS) do
    local limit = limits[budget[1]]
    if limit and promised(a, budget) + cost > limit then
      return {'budget_' .. budget[1], limit, promised(a, budget), budget[3] == '' and 0 or a[budget[3]]}
    end
  end
  return nil
end

-- Spend rates fade exponentially: `vr` over a minute, `vb` over an hour, both in micro-dollars per minute.
local function spent(a, cost, now)
  local elapsed = math.max(0, now - (a.vt or now))
  a.v0 = a.v0 or now
  a.vr = math.max(0, (a.vr or 0) * math.exp(-elapsed / MINUTE) + cost)
  a.vb = math.max(0, (a.vb or 0) * math.exp(-elapsed / HOUR) + cost / 60)
  a.vt = now
end

-- Whether this account spends too fast: the cap or the multiple of its own hour, and the rate; nil when it does not.
local function surging(a, limits, cost, now)
  if not (limits.cap or limits.surge) then return nil end
  local elapsed = math.max(0, now - (a.vt or now))
  local rate = math.floor((a.vr or 0) * math.exp(-elapsed / MINUTE) + a.hc + cost)
  if limits.cap and rate > limits.cap then return limits.cap, rate end
  local age = now - (a.v0 or now)
  if limits.surge and age >= HOUR / 6 then
    local usual = (a.vb or 0) * math.exp(-elapsed / HOUR) / (1 - math.exp(-age / HOUR))
    local most = math.floor(usual * limits.surge / 100)
    if most > 0 and rate > most then return most, rate end
  end
  return nil
end

-- What a trip is remembered by, so that it is announced once.
local function trip_mark(limit, window)
  return limit .. ':' .. string.format('%.0f', window)
end

local function announce(ledger, limits, event, now)
  event.kind, event.account, event.route, event.at = limits.kind, limits.id, limits.route, math.floor(now / 1000)
  redis.call('XADD', ledger, '*', 'v', cjson.encode(event))
end

-- Tell once per window that 50, 80 and 100 per cent of a budget are spent (held money is not spent yet).
local function milestones(ledger, a, limits, now)
  for _, budget in ipairs(BUDGETS) do
    local limit = limits[budget[1]]
    if limit and limit > 0 then
      local percent = (a[budget[2]] - a.hc) * 100 / limit
      local reached = percent >= 100 and 100 or percent >= 80 and 80 or percent >= 50 and 50 or 0
      if reached > 0 then
        local window = budget[3] == '' and 0 or a[budget[3]]
        a.e = a.e or {}
        local told = a.e[budget[1]]
        if told == nil or told[1] ~= window or told[2] < reached then
          a.e[budget[1]] = {window, reached}
          announce(ledger, limits, {event = 'budget_reached', limit = 'budget_' .. budget[1], window = window,
            percent = reached, allowed = limit, used = a[budget[2]] - a.hc}, now)
        end
      end
    end
  end
end

local function reservation(key)
  local packed = redis.call('GET', key)
  return packed and cmsgpack.unpack(packed) or nil
end

-- Replace what a reservation holds by what is true. `ending`: settled and lost let the held request go, released takes
-- back that it ever was, corrected changes what was charged as lost.
local function correct(r, tokens, cost, ending, ledger)
  local now = clock()
  local at = windows(now)
  for _, held in ipairs(r.accounts) do
    local limits = held.limits
    local a = account(held.key, now, at)
    pour(a, limits, ending == 'released' and -1 or 0, tokens - r.tokens, now)
    charge(a, tokens - r.tokens, cost - r.cost, held)
    if ending ~= 'corrected' then
      a.n, a.hc = math.max(0, a.n - 1), math.max(0, a.hc - r.cost)
      promise(a, -(r.spare or 0))
    end
    if limits.cap or limits.surge then
      spent(a, ending == 'corrected' and cost - r.cost or cost, now)
      if held.probe and a.bo then
        local fast = surging(a, limits, 0, now)
        a.bp, a.bo = nil, fast and now + COOLDOWN or nil
        a.x = fast and trip_mark('spend_velocity', a.bo) or a.x
        announce(ledger, limits, {event = fast and 'breaker_reopened' or 'breaker_closed', limit = 'spend_velocity',
          window = now}, now)
      end
    end
    milestones(ledger, a, limits, now)
    keep(held.key, a, limits)
  end
end

-- Charge reservations whose lease ran out at their estimate: the ledger entry was written when they were made.
local function expire(leases, ledger, prefix, most)
  local late = redis.call('ZRANGEBYSCORE', leases, '-inf', math.floor(clock() / 1000), 'LIMIT', 0, most)
  for _, id in ipairs(late) do
    local key = prefix .. id
    local r = reservation(key)
    if r and r.state == 'held' then
      correct(r, r.tokens, r.cost, 'lost', ledger)
      redis.call('XADD', ledger, '*', 'e', r.entry)
      r.state = 'lost'
      redis.call('SET', key, cmsgpack.pack(r), 'KEEPTTL')
    end
    redis.call('ZREM', leases, id)
  end
  return #late
end
