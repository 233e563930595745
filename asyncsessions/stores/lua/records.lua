-- Read the records of sessions.
--
-- KEYS: each session's record and messages. ARGV: "", and the fields to read, the first of which
-- every record has.
--
-- Returns for each the fields and the number of messages, or nothing where there is none.

-- include: common

local function read(record, messages)
  local values = call('HMGET', record, unpack(ARGV, 2))
  if not values[1] then
    return {}
  end
  values[#values + 1] = call('LLEN', messages)
  return values
end

return run(function()
  local answers = {}
  for at = 1, #KEYS, 2 do
    answers[#answers + 1] = guarded(read, KEYS[at], KEYS[at + 1])
  end
  return answers
end)
