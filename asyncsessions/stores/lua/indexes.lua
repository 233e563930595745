-- Keeping the indexes of sessions. Each is a sorted set of ids by "updated_at"; one more has all their
-- entries by "expires_at". On Redis Cluster they are elsewhere, and the client keeps them.

local LOOKED_UP = {'agent_name', 'user_id', 'agent_id', 'gateway_session_id'}

local function index_name(field, value)
  if #value <= 200 then
    return field .. '=' .. value
  end
  return field .. '#' .. redis.sha1hex(value)
end

local NO_NAMES = {}

-- The names of the indexes that have a session beside "all", from four fields of its record.
local function names_in(values)
  local names = {}
  for at, field in ipairs(LOOKED_UP) do
    if values[at] then
      names[#names + 1] = index_name(field, values[at])
    end
  end
  return names
end

local function names_of(record)
  return names_in(call('HMGET', record, unpack(LOOKED_UP)))
end

local function entry(name, id)
  return #name .. ':' .. name .. id
end

-- What the client gets where nothing was written.
local function unwritten(answer)
  return prefix == '' and {answer} or answer
end

-- Note a session's place, for `save_scores`; returns what the client gets. It is written already, so
-- an index that is no longer one may lag behind, and says so to its readers.
local function touched(answer, id, names, updated_at, expires_at, is_new, left)
  if prefix == '' then
    if is_new or expires_at or #names > 0 or left and #left > 0 then
      return {answer, {updated_at, is_new and 1 or 0, expires_at or '', names, left or NO_NAMES}}
    end
    return {answer}
  end
  scores[#scores + 1], scores[#scores + 2] = updated_at, id
  for _, name in ipairs(names) do
    redis.pcall('ZADD', prefix .. name, updated_at, id)
  end
  if expires_at then
    expiries[#expiries + 1], expiries[#expiries + 2] = expires_at, entry('', id)
    for _, name in ipairs(names) do
      expiries[#expiries + 1], expiries[#expiries + 2] = expires_at, entry(name, id)
    end
  end
  return answer
end

local function leave(id, names)
  if prefix ~= '' then
    for _, name in ipairs(names) do
      redis.pcall('ZREM', prefix .. name, id)
      redis.pcall('ZREM', prefix .. 'expiry', entry(name, id))
    end
  end
end
