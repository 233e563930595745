-- What the scripts share that write to sessions.
--
-- KEYS: each session's record, messages and keys. ARGV: "" or "clock", the writer's field, the
-- number of its write, the prefix of the indexes' keys or "" on Redis Cluster, and their own.

local writer, counter, prefix = ARGV[2], tonumber(ARGV[3]), ARGV[4]

-- What a writer remembers in each session: the number of its last write there, the time, and the
-- answer. A client that lost its connection asks again, and is told what it missed.
local slot_head = ARGV[3] .. format(' %.0f ', started)

local function slot_of(answer)
  return slot_head .. cmsgpack.pack(answer)
end

-- Entries for the index of all sessions and for that of their expiries: scores and members.
local scores, expiries = {}, {}

local function add_scores(key, entries)
  for from = 1, #entries, MOST_ARGUMENTS do
    -- By now the writes are done, which is what a caller has to know.
    redis.pcall('ZADD', key, unpack(entries, from, math.min(#entries, from + MOST_ARGUMENTS - 1)))
  end
end

local function save_scores()
  add_scores(prefix .. 'all', scores)
  add_scores(prefix .. 'expiry', expiries)
end

-- Refuse a write before it begins where a session couldn't come into an index: because the user may
-- not write to it, or because its key holds something else. No member is empty, so this changes
-- nothing.
local function check_index(name)
  if prefix == '' then
    return
  end
  local reply = redis.pcall('ZADD', prefix .. name, 'XX', 0, '')
  if type(reply) ~= 'table' then
    return
  end
  local text = error_text(reply)
  if find(text, '^WRONGTYPE') then
    error({err = 'INDEX ' .. text})
  elseif find(text, '^NOPERM') then
    error({err = text})
  end
end

local function push(key, seq, first, last)
  for from = first, last, MOST_ARGUMENTS do
    local items = {}
    for at = from, math.min(last, from + MOST_ARGUMENTS - 1) do
      seq = seq + 1
      items[#items + 1] = '{"seq":' .. seq .. ',' .. ARGV[at]
    end
    call('RPUSH', key, unpack(items))
  end
  return seq
end
