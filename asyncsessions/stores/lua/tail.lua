-- Read messages of a session.
--
-- KEYS: its record and messages. ARGV: "", the seq before the first, the one after the last or
-- "", the limit or "", 1 to keep the oldest of them, and the bytes after which to stop or "".
--
-- Returns {expires_at or "", the messages, the place of the first one}, or nothing where there is no
-- session.

-- include: common
-- include: messages

local after, before, limit = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local keeps_oldest, most_bytes = ARGV[5] ~= '', tonumber(ARGV[6])

local STEP = 64

local function bounds(key)
  local first = after > 0 and count_below(key, after + 1) or 0
  local stop = before == '' and call('LLEN', key) or count_below(key, tonumber(before))
  if limit and stop - first > limit then
    if keeps_oldest then
      return first, first + limit
    end
    return stop - limit, stop
  end
  return first, stop
end

-- Messages up to the one with which there are enough bytes.
local function read_bytes(key, first, stop)
  local messages, size = {}, 0
  for from = first, stop - 1, STEP do
    for _, message in ipairs(call('LRANGE', key, from, math.min(from + STEP, stop) - 1)) do
      messages[#messages + 1] = message
      size = size + #message
      if size >= most_bytes then
        return messages
      end
    end
  end
  return messages
end

local function read()
  local fields = call('HMGET', KEYS[1], 'last_seq', 'expires_at')
  if not fields[1] then
    return {}
  end
  local first, stop = bounds(KEYS[2])
  local messages = {}
  if first < stop and keeps_oldest and most_bytes then
    messages = read_bytes(KEYS[2], first, stop)
  elseif first < stop then
    messages = call('LRANGE', KEYS[2], first, stop - 1)
  end
  return {fields[2] or '', messages, first}
end

return run(function()
  return guarded(read)
end)
