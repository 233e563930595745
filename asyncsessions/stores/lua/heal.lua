-- Correct entries of an index that a reader found wrong, unless they have changed since.
--
-- KEYS: the index; where the sessions are on the same server, also each entry's record. ARGV: "",
-- "records" if these are there, the age in seconds below which an entry isn't removed otherwise,
-- and for each entry: its member, the score that was found or "" for any, and what to do: a
-- number is the right score; "gone" removes it because there is no such session, "foreign"
-- because the session belongs elsewhere, "leave" unless the score is higher than the one given.
--
-- Where nobody can look at the index and at the session at once, a young entry may be that of a
-- session that a writer is about to make.
--
-- Returns for each entry 1, or 0 where it was left alone.

-- include: common

local has_records, age = ARGV[2] ~= '', tonumber(ARGV[3])

local function may_go(score, found, action, record)
  if action == 'leave' then
    return score <= found
  elseif has_records then
    return action == 'foreign' or call('EXISTS', record) == 0
  end
  return math.abs(started - score) >= age
end

local function heal(member, found, action, record)
  local score = tonumber(call('ZSCORE', KEYS[1], member) or nil)
  if not score then
    return 1
  elseif action ~= 'leave' and found and score ~= found then
    return 0
  elseif tonumber(action) then
    call('ZADD', KEYS[1], action, member)
    return 1
  elseif may_go(score, found, action, record) then
    return call('ZREM', KEYS[1], member)
  end
  return 0
end

return run(function()
  local answers = {}
  for at = 4, #ARGV, 3 do
    local record = KEYS[#answers + 2]
    answers[#answers + 1] = heal(ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], record)
  end
  return answers
end)
