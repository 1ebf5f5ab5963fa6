-- own: let an owner have a letter, unless a later one has it; claim it, or note that its body is about to leave.
-- KEYS[1]  hash        of the letter: attempt, topic, epoch, since (its owner, and since when); began; outcome
-- KEYS[2]  sorted set  what its owner wishes of it: wanted, withdrawn
-- ARGV[1]  attempt, ARGV[2] topic, ARGV[3] epoch of who asks
-- ARGV[4]  'claim' or 'hand over'
-- ARGV[5]  of a claim: when the letter is forgotten (Unix ms); of a hand-over: when the body leaves
-- ARGV[6]  ms for which a newer epoch counts, ARGV[7] ms for which a letter is kept that was never claimed
-- returns  {'yours' | 'moved' | 'taken', began, outcome, wanted, withdrawn}; not 'yours': nothing was written
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'attempt', 'topic', 'epoch', 'since', 'began', 'outcome')
local wished = redis.call('ZMSCORE', KEYS[2], 'wanted', 'withdrawn')
local verdict = 'yours'
if held[6] then
  if ARGV[4] == 'hand over' then
    verdict = 'taken'
  end
elseif held[1] then
  local ahead = tonumber(held[1]) - tonumber(ARGV[1])
  if ahead > 0 then
    verdict = 'moved'
  elseif ahead == 0 and held[2] == ARGV[2] and tonumber(held[3]) > tonumber(ARGV[3])
      and now - tonumber(held[4]) < tonumber(ARGV[6]) then
    verdict = 'taken'
  end
end
if verdict == 'yours' then
  if not held[6] then
    redis.call('HSET', KEYS[1], 'attempt', ARGV[1], 'topic', ARGV[2], 'epoch', ARGV[3], 'since', now)
  end
  if ARGV[4] == 'claim' then
    redis.call('PEXPIREAT', KEYS[1], ARGV[5])
  else
    redis.call('HSETNX', KEYS[1], 'began', ARGV[5])
    redis.call('PEXPIRE', KEYS[1], ARGV[7], 'NX')
  end
end
return {verdict, held[5], held[6], wished[1], wished[2]}
