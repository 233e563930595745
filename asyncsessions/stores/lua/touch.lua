-- Raise entries of an index, so that no session is missing from it.
--
-- KEYS: the index. ARGV: "", and the score and the member of each entry.

-- include: common

return run(function()
  for from = 2, #ARGV, MOST_ARGUMENTS do
    call('ZADD', KEYS[1], 'GT', unpack(ARGV, from, math.min(#ARGV, from + MOST_ARGUMENTS - 1)))
  end
  return 1
end)
