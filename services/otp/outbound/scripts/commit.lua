-- commit: write records and outbox entries of one shard, all or nothing.
-- KEYS[1]   stream   the shard's outbox
-- KEYS[2…]  hashes   {v = version, d = data}; expire at the given instant
-- ARGV      records as triples: new version, data, expiry (Unix ms); a record is written only if its stored version is one
--           lower (0 = not there). Then the entries: number of fields, field, value, field, value, …
-- returns   false when a version does not match: nothing was written; else the ids of the entries
local at = 1
for i = 2, #KEYS do
  local stored = tonumber(redis.call('HGET', KEYS[i], 'v') or '0')
  if stored ~= tonumber(ARGV[at]) - 1 then
    return false
  end
  at = at + 3
end
at = 1
for i = 2, #KEYS do
  redis.call('HSET', KEYS[i], 'v', ARGV[at], 'd', ARGV[at + 1])
  redis.call('PEXPIREAT', KEYS[i], ARGV[at + 2])
  at = at + 3
end
local ids = {}
while at <= #ARGV do
  local fields = tonumber(ARGV[at])
  ids[#ids + 1] = redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + fields))
  at = at + fields + 1
end
return ids
