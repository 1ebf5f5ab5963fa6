-- settle: note the first outcome of a letter.
-- KEYS[1]  hash  of the letter: outcome; ends by itself, the claim may have failed: no key without an end
-- ARGV[1]  the outcome, ARGV[2] ms for which a letter is kept that was never claimed
redis.call('HSETNX', KEYS[1], 'outcome', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2], 'NX')
