-- quota: take one from a bucket, give back what a token took, or refill. What it means: rules/quota.py, its model.
-- KEYS[1]  sorted set  '' → when the bucket is whole; token → when it took (Unix µs); ends when nothing of it counts
-- ARGV[1]  'take', 'give' or 'refill'; ARGV[2] the token, of 'refill': how many µs sooner the bucket is whole
-- ARGV[3]  µs after which there is one more; ARGV[4] how many at once
-- returns  0 = taken (by this call or an earlier one), given back or refilled; else how many µs later one would fit
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2] -- below 2^53: exact
local each, room = tonumber(ARGV[3]), ARGV[3] * ARGV[4]
local whole_at = tonumber(redis.call('ZSCORE', KEYS[1], '') or now)
if ARGV[1] == 'take' then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - room)
  if redis.call('ZSCORE', KEYS[1], ARGV[2]) then
    return 0
  end
  whole_at = math.max(whole_at, now) + each
  if whole_at - now > room then
    return whole_at - now - room
  end
  redis.call('ZADD', KEYS[1], whole_at, '', now, ARGV[2])
  redis.call('PEXPIRE', KEYS[1], math.ceil(room / 1000))
  return 0
end
if ARGV[1] == 'refill' then
  if redis.call('EXISTS', KEYS[1]) == 1 then
    redis.call('ZADD', KEYS[1], math.max(whole_at - ARGV[2], now), '')
  end
  return 0
end
local taken_at = redis.call('ZSCORE', KEYS[1], ARGV[2])
if not taken_at then
  return 0
end
local left, found = each, whole_at
local later = redis.call('ZREVRANGEBYSCORE', KEYS[1], '+inf', taken_at, 'WITHSCORES')
for i = 1, #later, 2 do
  if later[i] ~= '' and later[i] ~= ARGV[2] then
    found = found - each
    left = math.min(left, math.max(found - later[i + 1], 0))
  end
end
redis.call('ZADD', KEYS[1], whole_at - left, '')
redis.call('ZREM', KEYS[1], ARGV[2])
return 0
