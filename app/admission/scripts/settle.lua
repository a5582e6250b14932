-- Replace a reservation by the truth and write the ledger entry, in one step.
-- KEYS  1 reservation  2 leases  3 ledger      ARGV  1 request id  2 tokens  3 cost  4 ledger entry
-- Returns 1 settled, 0 settled before, 2 corrected a reservation that had been charged as lost, 3 unknown reservation:
-- its counters are gone (Redis lost them), its ledger entry is still written; the entry's id keeps SQL from doubling it.

local r = reservation_at(KEYS[1])
if r == nil then
  redis.call('XADD', KEYS[3], '*', 'e', ARGV[4])
  return 3
end
if r.state == 'settled' then return 0 end

local tokens, cost = tonumber(ARGV[2]), tonumber(ARGV[3])
correct(r, tokens, cost, r.state == 'held')
redis.call('ZREM', KEYS[2], ARGV[1])
local entry, done = ARGV[4], 1
if r.state == 'lost' then
  local truth, lost = cjson.decode(ARGV[4]), cjson.decode(r.entry)
  truth.adjustment = true
  for _, name in ipairs({'prompt_tokens', 'completion_tokens', 'cached_tokens', 'cost_microusd'}) do
    truth[name] = truth[name] - lost[name]
  end
  entry, done = cjson.encode(truth), 2
end
redis.call('XADD', KEYS[3], '*', 'e', entry)
redis.call('HDEL', KEYS[1], 'accounts', 'entry', 'reply', 'tokens', 'cost', 'day', 'month')
redis.call('HSET', KEYS[1], 'state', 'settled')
redis.call('PEXPIRE', KEYS[1], 60000)
return done
