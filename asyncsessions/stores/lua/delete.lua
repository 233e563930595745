-- Remove a session with all that belongs to it.
--
-- KEYS: the session's record, messages and keys. ARGV: "" or "clock", the prefix of the indexes'
-- keys or "" on Redis Cluster, the session's id, and the time by which it must have expired or "".
--
-- Returns {1 if there was one, its updated_at, the names of the indexes that had it}; where others
-- read its messages, {minus the newest seq of those} instead, and nothing is removed.

-- include: common

local prefix, id, expired_at = ARGV[2], ARGV[3], ARGV[4]

-- include: indexes
-- include: json
-- include: shared

local function delete()
  local fields = call('HMGET', KEYS[1], 'last_seq', 'expires_at', 'updated_at', unpack(LOOKED_UP))
  if expired_at ~= '' then
    local limit = is_by_server and started or tonumber(expired_at)
    if not fields[2] or tonumber(fields[2]) > limit then
      return {0, '', NO_NAMES}
    end
  else
    local is_sound, shared = pcall(newest_shared, call('HGET', KEYS[1], 'metadata'))
    if is_sound and shared > 0 then
      return {-shared, '', NO_NAMES}
    end
  end
  call('UNLINK', unpack(KEYS))
  local names = names_in({unpack(fields, 4, 7)})
  leave(id, names)
  if prefix ~= '' then
    redis.pcall('ZREM', prefix .. 'all', id)
    redis.pcall('ZREM', prefix .. 'expiry', entry('', id))
  end
  return {fields[1] and 1 or 0, fields[3] or '', names}
end

return run(function()
  local is_done, answer = pcall(delete)
  if is_done then
    return answer
  end
  local text = error_text(answer)
  if match(text, '^WRONGTYPE') then
    -- What is there is no session's record, and goes all the same.
    return {call('UNLINK', unpack(KEYS)) > 0 and 1 or 0, '', NO_NAMES}
  end
  error({err = text})
end)
