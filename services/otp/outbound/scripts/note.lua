-- note: write one note of a record, if the record is there; a note never makes a key that would not expire.
-- KEYS[1]  string  the record, as commit writes it
-- ARGV     where the note begins, its octets
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('SETRANGE', KEYS[1], ARGV[1], ARGV[2])
end
