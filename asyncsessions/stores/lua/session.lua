-- Reading and writing a session's keys.

-- How long the server keeps an expired session for a store that has a clock of its own, which
-- decides first: by Redis' clock it may be any time.
local MARGIN = 3600
-- Later expiries, in seconds, are more than a key can have.
local FAR_FUTURE = 1e11

local function expiry_of(now, ttl)
  if is_by_server then
    -- Whole milliseconds, so that the keys vanish at this very moment.
    return math.floor((started + ttl) * 1000) / 1000
  end
  return now + ttl
end

-- Let all keys of a session vanish together.
local function keep_until(keys, expires_at, now)
  for _, key in ipairs(keys) do
    if expires_at - now > FAR_FUTURE then
      call('PERSIST', key)
    elseif is_by_server then
      -- Redis removes a key when its moment is over, a millisecond late.
      call('PEXPIREAT', key, format('%.0f', expires_at * 1000 - 1))
    else
      call('PEXPIRE', key, format('%.0f', math.ceil((expires_at - now + MARGIN) * 1000)))
    end
  end
end

-- Fields of a session's record, "last_seq" and "expires_at" first; all nil if it doesn't exist.
local function read_record(keys, now, ...)
  local fields = call('HMGET', keys[1], 'last_seq', 'expires_at', ...)
  local expires_at = fields[2] and tonumber(fields[2])
  if fields[1] and not (expires_at and expires_at <= now) then
    return fields
  end
  -- A full server refuses only a script whose first write is one that takes memory. This one does
  -- nothing, or nothing that stays.
  call('RPUSHX', keys[2], '')
  -- Nothing may be left: not of an expired session, and not where the server evicted the record.
  call('DEL', unpack(keys))
  return {}
end

local SLOT_LIFETIME = 3600
local PRUNING_INTERVAL = 600
local FIRST_PRUNING = 64

-- The answer to this very write, if it was made before.
local function answer_in(slot)
  local number = slot and tonumber(match(slot, '^%d+')) or 0
  if number < counter then
    return nil
  elseif number > counter then
    -- A request from a connection that was given up, overtaken by a later one.
    error({err = 'SUPERSEDED a later write of this client was first'})
  end
  return cmsgpack.unpack(match(slot, '^%d+ %d+ (.*)$'))
end

-- Forget writers that are gone, where there are many, but not at every write.
local function prune_slots(record)
  local prune_at = call('HGET', record, 'prune_at')
  if call('HLEN', record) < FIRST_PRUNING or prune_at and started < tonumber(prune_at) then
    return
  end
  local fields = call('HGETALL', record)
  for at = 1, #fields, 2 do
    if sub(fields[at], 1, 2) == 'w:' then
      local time = tonumber(match(fields[at + 1], '^%d+ (%d+)'))
      if time + SLOT_LIFETIME < started then
        call('HDEL', record, fields[at])
      end
    end
  end
  call('HSET', record, 'prune_at', format('%.0f', started + PRUNING_INTERVAL))
end

