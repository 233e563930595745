-- Read the entries of the index of expiries that are due.
--
-- KEYS: the index. ARGV: "" or "clock", now, how many to leave out and how many to read.
--
-- Returns entries and scores in turn.

-- include: common

return run(function()
  local limit = is_by_server and text_of(started) or ARGV[2]
  return call('ZRANGEBYSCORE', KEYS[1], '-inf', limit, 'WITHSCORES', 'LIMIT', ARGV[3], ARGV[4])
end)
