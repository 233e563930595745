-- Put entries into an index, so that no session is missing from it.
--
-- KEYS: the index. ARGV: "", "GT" where a higher score stays, and the score and the member of each
-- entry.

-- include: common

return run(function()
  for from = 3, #ARGV, MOST_ARGUMENTS do
    local last = math.min(#ARGV, from + MOST_ARGUMENTS - 1)
    if ARGV[2] == 'GT' then
      call('ZADD', KEYS[1], 'GT', unpack(ARGV, from, last))
    else
      call('ZADD', KEYS[1], unpack(ARGV, from, last))
    end
  end
  return 1
end)
