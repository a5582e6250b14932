-- Charge what has run out of its lease. KEYS 1 leases 2 ledger   ARGV 1 reservation prefix 2 most. Returns how many.
return expire(KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]))
