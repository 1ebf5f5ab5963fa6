-- load: records of one shard and the server's clock, at one instant.
-- KEYS    strings, as commit writes them; all in one slot
-- returns {seconds, microseconds, record | false, …}
local answer = redis.call('TIME')
for i, key in ipairs(KEYS) do
  answer[#answer + 1] = redis.call('GET', key)
end
return answer
