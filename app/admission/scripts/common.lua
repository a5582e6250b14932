-- Shared by every admission script. Redis' own clock decides; money and tokens are whole numbers.
-- An account is one hash:  rl, rt  level (micro-requests) and time (us) of the requests-per-minute bucket
--                          tl, tt  the same for tokens per minute
--                          d, dt, dc  UTC day, its tokens, its micro-dollars      m, mc  UTC month, its micro-dollars
--                          n  requests in flight
-- A bucket's level leaks at limit/60 per second; a call fits while level + call <= limit (GCRA seen from the other side).

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

local function windows(now)
  local day = math.floor(now / 86400000000)
  -- civil month of a day number: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return day, year * 100 + month
end

local function leaked(level, since, limit, now)
  if limit <= 0 then return 0 end
  local elapsed = math.max(0, math.min(60000000, now - since))
  return math.max(0, level - math.floor(elapsed * limit / 60))
end

local function read(key, now, day, month)
  local v = redis.call('HMGET', key, 'rl', 'rt', 'tl', 'tt', 'd', 'dt', 'dc', 'm', 'mc', 'n')
  local a = {key = key}
  a.rl, a.rt, a.tl, a.tt = tonumber(v[1] or 0), tonumber(v[2] or now), tonumber(v[3] or 0), tonumber(v[4] or now)
  local today, this_month = tonumber(v[5] or -1) == day, tonumber(v[8] or -1) == month
  a.dt, a.dc = today and tonumber(v[6] or 0) or 0, today and tonumber(v[7] or 0) or 0
  a.mc = this_month and tonumber(v[9] or 0) or 0
  a.n = tonumber(v[10] or 0)
  return a
end

local function whole(number)
  return string.format('%.0f', number)
end

local function write(a, day, month)
  redis.call('HSET', a.key, 'rl', whole(a.rl), 'rt', whole(a.rt), 'tl', whole(a.tl), 'tt', whole(a.tt),
    'd', day, 'dt', whole(a.dt), 'dc', whole(a.dc), 'm', month, 'mc', whole(a.mc), 'n', whole(a.n))
end

-- Replace what a reservation held by what is true, on each of its accounts. `held` false: only correct what was charged.
local function correct(reservation, tokens, cost, held)
  local now = clock()
  local day, month = windows(now)
  for _, kept in ipairs(cjson.decode(reservation.accounts)) do
    local a = read(kept[1], now, day, month)
    local limit = kept[2]
    if limit > 0 then
      a.tl = math.max(0, leaked(a.tl, a.tt, limit, now) + (tokens - reservation.tokens) * 1000000)
      a.tt = now
    end
    if reservation.day == day then
      a.dt = math.max(0, a.dt + tokens - reservation.tokens)
      a.dc = math.max(0, a.dc + cost - reservation.cost)
    end
    if reservation.month == month then a.mc = math.max(0, a.mc + cost - reservation.cost) end
    if held then a.n = math.max(0, a.n - 1) end
    write(a, day, month)
  end
end

local function reservation_at(key)
  local v = redis.call('HMGET', key, 'state', 'tokens', 'cost', 'day', 'month', 'accounts', 'entry')
  if not v[1] then return nil end
  return {state = v[1], tokens = tonumber(v[2] or 0), cost = tonumber(v[3] or 0), day = tonumber(v[4] or 0),
    month = tonumber(v[5] or 0), accounts = v[6], entry = v[7]}
end

-- Charge reservations whose lease ran out at their estimate: the ledger entry was written when they were made.
local function expire(leases, ledger, prefix, most)
  local now = clock()
  local late = redis.call('ZRANGEBYSCORE', leases, '-inf', math.floor(now / 1000), 'LIMIT', 0, most)
  for _, id in ipairs(late) do
    local key = prefix .. id
    local r = reservation_at(key)
    if r and r.state == 'held' then
      correct(r, r.tokens, r.cost, true)
      redis.call('XADD', ledger, '*', 'e', r.entry)
      redis.call('HSET', key, 'state', 'lost')
    end
    redis.call('ZREM', leases, id)
  end
  return #late
end
