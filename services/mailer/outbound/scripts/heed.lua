-- heed: merge what the owner of a letter wishes of it with what is known; a score only ever rises.
-- KEYS[1]  sorted set  what its owner wishes of it: wanted, withdrawn
-- ARGV[1]  when that is forgotten, if nothing later stands (Unix ms); then scores and names, none for no wish
-- returns  {wanted, withdrawn} as they were
local known = redis.call('ZMSCORE', KEYS[1], 'wanted', 'withdrawn')
if #ARGV > 1 then
  redis.call('ZADD', KEYS[1], 'GT', unpack(ARGV, 2))
  redis.call('PEXPIREAT', KEYS[1], ARGV[1], 'NX') -- GT takes a key without an end for one that is kept for ever
  redis.call('PEXPIREAT', KEYS[1], ARGV[1], 'GT')
end
return known
