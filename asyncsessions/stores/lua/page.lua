-- Read a page of an index, from its end.
--
-- KEYS: the index. ARGV: "", how many entries at the most, and the score and the id after which
-- to go on, or two times "".
--
-- Returns ids and scores in turn.

-- include: common

local count, score, id = tonumber(ARGV[2]), ARGV[3], ARGV[4]

-- Whether one id comes before another; Lua's own comparison depends on the server's language.
local function is_below(one, other)
  for at = 1, math.min(#one, #other) do
    local x, y = byte(one, at), byte(other, at)
    if x ~= y then
      return x < y
    end
  end
  return #one < #other
end

-- How many entries, counted from the end, have a higher score, or the same and not a lower id.
local function entries_from(key)
  local low = call('ZCOUNT', key, '(' .. score, '+inf')
  local high = low + call('ZCOUNT', key, score, score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if is_below(call('ZREVRANGE', key, middle, middle)[1], id) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

return run(function()
  local first = score == '' and 0 or entries_from(KEYS[1])
  return call('ZREVRANGE', KEYS[1], first, first + count - 1, 'WITHSCORES')
end)
