-- commit: write records and outbox entries of one shard, all or nothing, and hint at the change.
-- KEYS[1]   stream   the shard's outbox
-- KEYS[2]   sorted set  ends of the shard's challenges
-- KEYS[3…]  strings  a version (8 octets, big-endian), the notes (22 octets), the data; expire at the given instant
-- ARGV[1]   id of the challenge that changes, or ''; ARGV[2] the shard's channel of hints, in the same slot
-- ARGV[3]   end of a challenge that is new (Unix ms), or ''
-- ARGV[4…]  records as fours: the version that must be stored ('' = no record), the new one, the data, expiry (Unix ms).
--           Then the entries: number of fields, field, value, field, value, …
-- returns   false when a version does not match: nothing was written; else the ids of the entries
local at = 4
for i = 3, #KEYS do
  if redis.call('GETRANGE', KEYS[i], 0, 7) ~= ARGV[at] then
    return false
  end
  at = at + 4
end
at = 4
for i = 3, #KEYS do
  local notes = redis.call('GETRANGE', KEYS[i], 8, 29)
  if notes == '' then
    notes = string.rep('\0', 22)
  end
  redis.call('SET', KEYS[i], ARGV[at + 1] .. notes .. ARGV[at + 2], 'PXAT', ARGV[at + 3])
  at = at + 4
end
local ids = {}
while at <= #ARGV do
  local fields = tonumber(ARGV[at])
  ids[#ids + 1] = redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + fields))
  at = at + fields + 1
end
if ARGV[3] ~= '' then
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
end
if ARGV[1] ~= '' then
  redis.call('SPUBLISH', ARGV[2], ARGV[1])
end
return ids
