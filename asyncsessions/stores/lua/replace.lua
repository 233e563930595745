-- Remove a session's newest messages for good and put others in their place.
--
-- ARGV, after those of all writes: the session's id, now, from_seq, if_newest or "", 1 for
-- in_place, 1 to drop the checkpoint, 1 to create the session, the ttl or "", and the messages, as
-- in append.lua.
--
-- Returns {removed, first seq, 1 if there was a checkpoint}, {} where nothing was done, or {the
-- newest seq that others read} where it would remove messages that they read. On Redis Cluster it
-- is {that, what the indexes have to know}.

-- include: common
-- include: write
-- include: messages
-- include: session
-- include: indexes
-- include: json
-- include: shared

local FIRST_MESSAGE = 13

local id = ARGV[5]
local now, from_seq, if_newest = ARGV[6], tonumber(ARGV[7]), ARGV[8]
local is_in_place, drops_checkpoint = ARGV[9] ~= '', ARGV[10] ~= ''
local creates, ttl = ARGV[11] ~= '', ARGV[12]

local function remove_from(key)
  local cut, length = count_below(key, from_seq), call('LLEN', key)
  if cut == 0 then
    call('UNLINK', key)
  elseif cut < length then
    call('LTRIM', key, 0, cut - 1)
  end
  return length - cut
end

local function put(key, last_seq)
  if is_in_place then
    push(key, from_seq - 1, FIRST_MESSAGE, FIRST_MESSAGE)
    return from_seq, last_seq
  end
  return last_seq + 1, push(key, last_seq, FIRST_MESSAGE, #ARGV)
end

local function save(fields, last_seq, answer)
  local record = KEYS[1]
  call('HSET', record, 'last_seq', last_seq, 'updated_at', now,
    writer, slot_of(answer))
  if drops_checkpoint then
    call('HDEL', record, 'checkpoint')
  end
  local expires_at = fields[2]
  if not fields[1] then
    call('HSET', record, 'created_at', now)
  elseif not fields[4] then
    prune_slots(record)
  end
  if ttl ~= '' then
    expires_at = text_of(expiry_of(tonumber(now), tonumber(ttl)))
    call('HSET', record, 'expires_at', expires_at)
  end
  if expires_at then
    keep_until(KEYS, tonumber(expires_at), is_by_server and started or tonumber(now))
  end
  return expires_at
end

local function replace()
  local fields = read_record(KEYS, is_by_server and started or tonumber(now),
    'looked_up', writer, 'checkpoint', 'metadata')
  local updated_at, expires_at = now, fields[2]
  local answer = answer_in(fields[4])
  local is_new = not fields[1] or answer ~= nil
  if answer then
    updated_at = call('HGET', KEYS[1], 'updated_at')
  else
    local newest = seq_of(call('LINDEX', KEYS[2], -1)) or 0
    if not fields[1] and not creates or if_newest ~= '' and tonumber(if_newest) ~= newest then
      return unwritten({})
    end
    local shared = newest_shared(fields[6])
    if shared >= from_seq then
      return unwritten({shared})
    end
    local removed = remove_from(KEYS[2])
    local first_seq, last_seq = put(KEYS[2], tonumber(fields[1] or 0))
    answer = {removed, first_seq, fields[5] and 1 or 0}
    expires_at = save(fields, last_seq, answer)
  end
  local names = fields[3] and names_of(KEYS[1]) or NO_NAMES
  return touched(answer, id, names, updated_at, expires_at, is_new)
end

return run(function()
  check_index('all')
  if ttl ~= '' then
    check_index('expiry')
  end
  local answer = guarded(replace)
  save_scores()
  return answer
end)
