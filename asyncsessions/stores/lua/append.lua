-- Append to sessions: the calls of each are together, in their order.
--
-- ARGV, after those of all writes: the ttl or "", how many messages to keep or "", the field and
-- the number of the write that has to be there before or "" twice; then for each session: its id,
-- the last call's now with the first one's before it if it is another, the number of messages, the
-- number of words that follow, and the messages. Where the calls aren't plain, the number of
-- messages is 0, and there follow for each call: now, key or "", digest, expected_seq or "", the
-- number of messages and these. Messages come without their opening brace; a tool result ends with
-- a space.
--
-- Returns for each session the first seq, or for each call {0, first seq, now}, {1} for a key
-- with other content or {2, last seq} for another expected_seq. On Redis Cluster it is {that,
-- what the indexes have to know}.

-- include: lone
-- include: common
-- include: write

local ttl, keep = ARGV[5], tonumber(ARGV[6])
local at = 9

-- A plain append to a session that asks for nothing else, which is the rule; returns nothing where
-- it isn't.
local function append_plainly(number, count, stop)
  local record = KEYS[number]
  local fields = call('HMGET', record, 'last_seq', 'expires_at', 'looked_up', writer)
  local last_seq, slot = fields[1], fields[4]
  if not last_seq or fields[2] or fields[3] or not slot then
    return nil
  elseif tonumber(match(slot, '^%d+')) >= counter then
    return nil
  end
  local updated_at, seq = ARGV[at - 3], tonumber(last_seq)
  if count == 1 then
    seq = seq + 1
    call('RPUSH', KEYS[number + 1], '{"seq":' .. seq .. ',' .. ARGV[at])
  else
    updated_at = match(updated_at, '%S+$')
    seq = push(KEYS[number + 1], seq, at, stop - 1)
  end
  local first_seq = last_seq + 1
  call('HSET', record, 'last_seq', seq, 'updated_at', updated_at, writer, slot_of(first_seq))
  if prefix == '' then
    return {first_seq}
  end
  scores[#scores + 1], scores[#scores + 2] = updated_at, ARGV[at - 4]
  return first_seq
end

-- Return the function for all that isn't plain. It is made only where it is needed, because to
-- make it takes as long as a plain append.
local function make_append()
  -- include: messages
  -- include: session
  -- include: indexes

  local KEY_LIFETIME = 24 * 3600

  -- Drop the oldest messages, but no results without their call.
  local function trim(key, keep)
    local length = call('LLEN', key)
    local drop = length - keep
    if drop <= 0 then
      return
    end
    local function is_result(index)
      return byte(call('LINDEX', key, index), -1) == 32
    end
    while drop < length and is_result(drop) do
      drop = drop + 1
    end
    if drop == length then
      repeat
        drop = drop - 1
      until drop == 0 or not is_result(drop)
    end
    call('LTRIM', key, drop, -1)
  end

  -- Remember a key, behind the others in a queue, and forget those in front that nobody needs.
  local function remember(session, key, first_seq, count, digest, now)
    local hash = session.keys[3]
    local tail = call('HINCRBY', hash, 'tail', 1)
    local value = format('%.0f %.0f %s %s', first_seq, count, now, digest)
    call('HSET', hash, 'k:' .. key, value, 'q:' .. tail, key)
    local head = tonumber(call('HGET', hash, 'head') or 1)
    for _ = 1, 2 do
      local oldest = call('HGET', hash, 'q:' .. head)
      local first, size, time = match(call('HGET', hash, 'k:' .. oldest), '^(%d+) (%d+) (%S+)')
      local oldest_seq = seq_of(call('LINDEX', session.keys[2], 0)) or session.last_seq + 1
      if first + size > oldest_seq or tonumber(time) + KEY_LIFETIME > tonumber(now) then
        break
      end
      call('HDEL', hash, 'k:' .. oldest, 'q:' .. head)
      head = head + 1
      call('HSET', hash, 'head', head)
    end
  end

  local function append_one(session)
    local now, key, digest, expected = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    local count = tonumber(ARGV[at + 4])
    local first = at + 5
    at = first + count
    local known = key ~= '' and call('HGET', session.keys[3], 'k:' .. key)
    if known then
      local seq, time, content = match(known, '^(%d+) %d+ (%S+) (.*)$')
      if content ~= digest then
        return {1}
      end
      return {0, tonumber(seq), time}
    end
    local first_seq = session.last_seq + 1
    if expected ~= '' and tonumber(expected) ~= session.last_seq then
      return {2, session.last_seq}
    end
    if count > 0 then
      session.last_seq = push(session.keys[2], session.last_seq, first, at - 1)
      session.created_at = session.created_at or now
      session.updated_at = now
      if key ~= '' then
        remember(session, key, first_seq, count, digest, now)
      end
    end
    return {0, first_seq, now}
  end

  local function append_each(session, stop)
    local answers = {}
    while at < stop do
      answers[#answers + 1] = append_one(session)
    end
    return answers
  end

  local function save(session, fields, answer)
    local keys, expires_at = session.keys, fields[2]
    local record = keys[1]
    call('HSET', record, 'last_seq', session.last_seq, 'updated_at', session.updated_at,
      writer, slot_of(answer))
    if not fields[1] then
      call('HSET', record, 'created_at', session.created_at)
    elseif not fields[4] then
      prune_slots(record)
    end
    if ttl ~= '' then
      expires_at = text_of(expiry_of(tonumber(session.updated_at), tonumber(ttl)))
      call('HSET', record, 'expires_at', expires_at)
    end
    if expires_at then
      keep_until(keys, tonumber(expires_at), is_by_server and started or tonumber(session.updated_at))
    end
    return expires_at
  end

  local function append_to(session, fields, count, stop)
    local answer
    if count > 0 then
      session.created_at, session.updated_at = session.first_now, session.last_now
      answer = session.last_seq + 1
      session.last_seq = push(session.keys[2], session.last_seq, at, stop - 1)
    else
      answer = append_each(session, stop)
      if not session.updated_at then
        return answer
      end
    end
    if keep then
      trim(session.keys[2], keep)
    end
    return answer, save(session, fields, answer)
  end

  local function append(number, count, stop)
    local id, times = ARGV[at - 4], ARGV[at - 3]
    local first_now, last_now = match(times, '^(%S+) (%S+)$')
    first_now, last_now = first_now or times, last_now or times
    local keys = {KEYS[number], KEYS[number + 1], KEYS[number + 2]}
    local now = is_by_server and started or tonumber(first_now)
    local fields = read_record(keys, now, 'looked_up', writer)
    local answer, updated_at, expires_at = answer_in(fields[4]), nil, fields[2]
    -- What is told for the second time may not have reached the indexes the first time.
    local is_new = not fields[1] or answer ~= nil
    if answer then
      updated_at = call('HGET', keys[1], 'updated_at')
    else
      local session = {keys = keys, last_seq = tonumber(fields[1] or 0)}
      session.first_now, session.last_now = first_now, last_now
      answer, expires_at = append_to(session, fields, count, stop)
      updated_at = session.updated_at
      if not updated_at then
        return unwritten(answer)
      end
    end
    local names = fields[3] and names_of(keys[1]) or NO_NAMES
    return touched(answer, id, names, updated_at, expires_at, is_new)
  end

  return append
end

return run(function()
  if ARGV[7] ~= '' then
    -- It was sent while another append of this client to the session was under way.
    local slot = redis.pcall('HGET', KEYS[1], ARGV[7])
    if type(slot) ~= 'string' or tonumber(match(slot, '^%d+')) < tonumber(ARGV[8]) then
      error({err = 'EARLY an append that was sent before is still under way'})
    end
  end
  check_index('all')
  if ttl ~= '' then
    check_index('expiry')
  end
  local answers, append = {}, nil
  local may_be_plain = ttl == '' and not keep
  for number = 1, #KEYS, 3 do
    local count, words = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    at = at + 4
    local stop = at + words
    local answer
    if may_be_plain and count > 0 then
      answer = guarded(append_plainly, number, count, stop)
    end
    if not answer then
      append = append or make_append()
      answer = guarded(append, number, count, stop)
    end
    answers[#answers + 1] = answer
    at = stop
  end
  save_scores()
  return answers
end)
