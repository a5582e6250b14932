-- Charge and write down a call that holds nothing here: Redis lost its reservation, or was away when it was admitted.
-- KEYS  1 reservation  2 ledger  3.. accounts      ARGV  1 tokens  2 cost  3 ledger entry  4 JSON list of limits
-- Returns 1 charged, 0 charged before.

local r = reservation(KEYS[1])
if r and r.state == 'settled' then return 0 end
local now = clock()
local at = windows(now)
local limits = cjson.decode(ARGV[4])
for i = 3, #KEYS do
  local a, l = account(KEYS[i], now, at), limits[i - 2]
  pour(a, l, 1, tonumber(ARGV[1]), now)
  charge(a, tonumber(ARGV[1]), tonumber(ARGV[2]), a)
  spent(a, tonumber(ARGV[2]), now)
  milestones(KEYS[2], a, l, now)
  keep(KEYS[i], a, l)
end
redis.call('XADD', KEYS[2], '*', 'e', ARGV[3])
redis.call('SET', KEYS[1], cmsgpack.pack({state = 'settled'}), 'PX', SETTLED_MS)
return 1
