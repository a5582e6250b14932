-- Replace a reservation by the truth and write the ledger entry, in one step.
-- KEYS  1 reservation  2 leases  3 ledger      ARGV  1 request id  2 tokens  3 cost  4 ledger entry
-- Returns 1 settled, 0 settled before, 2 corrected what had been charged as lost, 3 unknown: nothing was done.

local r = reservation(KEYS[1])
if r == nil or r.state == 'released' then return 3 end
if r.state == 'settled' then return 0 end

local entry, done = ARGV[4], 1
if r.state == 'lost' then
  local truth, lost = cjson.decode(ARGV[4]), cjson.decode(r.entry)
  truth.adjustment = true
  for _, name in ipairs({'prompt_tokens', 'completion_tokens', 'cached_tokens', 'cost_microusd'}) do
    truth[name] = truth[name] - lost[name]
  end
  entry, done = cjson.encode(truth), 2
end
correct(r, tonumber(ARGV[2]), tonumber(ARGV[3]), r.state == 'lost' and 'corrected' or 'settled', KEYS[3])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('XADD', KEYS[3], '*', 'e', entry)
redis.call('SET', KEYS[1], cmsgpack.pack({state = 'settled'}), 'PX', SETTLED_MS)
return done
