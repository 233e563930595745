-- Finding messages by their seq.

local function seq_of(item)
  return item and tonumber(match(item, '^{"seq":(%d+)'))
end

-- How many of a session's messages have a lower seq.
local function count_below(key, seq)
  local length = call('LLEN', key)
  local first = seq_of(call('LINDEX', key, 0))
  if not first or seq <= first then
    return 0
  end
  local last = seq_of(call('LINDEX', key, -1))
  if seq > last then
    return length
  end
  if last - first + 1 == length then
    return seq - first
  end
  local low, high = 0, length
  while low < high do
    local middle = math.floor((low + high) / 2)
    if seq_of(call('LINDEX', key, middle)) < seq then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

