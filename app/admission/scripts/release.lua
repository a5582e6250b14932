-- Take a reservation back whose caller never learned of it: no call was made, so nothing is charged or written down.
-- KEYS  1 reservation  2 leases  3 ledger      ARGV  1 request id  2 how long to remember it, in ms (0: not at all)
-- Returns 1 taken back, 0 not held, 2 charged as lost before. One that comes later finds the mark and takes nothing.

local r = reservation(KEYS[1])
if r and r.state ~= 'held' then return r.state == 'lost' and 2 or 0 end
if r then
  correct(r, 0, 0, 'released', KEYS[3])
  redis.call('ZREM', KEYS[2], ARGV[1])
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], cmsgpack.pack({state = 'released'}), 'PX', ARGV[2])
end
return r and 1 or 0
