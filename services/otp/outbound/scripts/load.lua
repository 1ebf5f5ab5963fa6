-- load: records of one shard and the server's clock, at one instant.
-- KEYS    hashes {v = version, d = data}; all in one slot
-- returns {seconds, microseconds, v1 | false, d1 | false, v2 | false, …}
local time = redis.call('TIME')
local answer = {time[1], time[2]}
for i, key in ipairs(KEYS) do
  local record = redis.call('HMGET', key, 'v', 'd')
  answer[#answer + 1] = record[1]
  answer[#answer + 1] = record[2]
end
return answer
