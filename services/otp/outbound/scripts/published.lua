-- published: forget an entry of the outbox, and note where its letter stands if the record is there, as note does.
-- KEYS[1]  stream  the shard's outbox
-- KEYS[2]  string  the record, as commit writes it; absent for an entry without a letter
-- ARGV[1]  id of the entry; ARGV[2] where the note begins, ARGV[3] its octets
redis.call('XDEL', KEYS[1], ARGV[1])
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('SETRANGE', KEYS[2], ARGV[2], ARGV[3])
end
