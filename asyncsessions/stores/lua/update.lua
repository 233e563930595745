-- Change sessions' records: the updates of each are together, in their order.
--
-- ARGV, after those of all writes, for each session: its id, the number of words that follow, and
-- for each update: now, 1 to create the session, the ttl or "", 1 for no expiry, 1 to fail where
-- others read its messages, the number of changes, and of each: field, key or "", key in it or "",
-- kind, value. Keys are JSON text, and so are values but those of text fields.
--
-- Returns for each session and update {0, value of each change or "" where the client knows it},
-- {1} where there is no session, {2, number of the change, type} where it met no number, {3, number
-- of the change} where it would overflow, {4, the newest seq that others read}, or {5} where
-- something isn't as expected. On Redis Cluster it is {that, what the indexes have to know}.

-- include: common
-- include: write
-- include: session
-- include: indexes
-- include: json
-- include: shared

local at = 5

-- A value's text after a change, which may be nil; or nothing, and why.
local function changed(old, kind, value)
  if kind == 'remove' then
    return nil
  elseif kind == 'set' then
    return value
  elseif kind == 'expect' then
    -- An absent text field is expected as nothing, any other as null.
    if (old or (value == '' and '' or 'null')) ~= value then
      return nil, {5}
    end
    return old
  end
  if old == 'null' then
    old = nil
  end
  if kind == 'default' then
    return old or value
  end
  old = old or '0'
  local other = type_unless_number(old)
  if other then
    return nil, {2, other}
  end
  local total = sum_text(old, value)
  if not total then
    return nil, {3}
  end
  return total
end

-- A session's record while it is changed: its fields as text, objects taken apart once needed.
local Draft = {}
Draft.__index = Draft

function Draft.new(record)
  return setmetatable({record = record, fields = {}, objects = {}, is_changed = {}}, Draft)
end

function Draft:read(field)
  if self.fields[field] == nil then
    self.fields[field] = call('HGET', self.record, field)
  end
  return self.fields[field] or nil
end

function Draft:write(field, text)
  self.fields[field] = text or false
  self.objects[field] = nil
  self.is_changed[field] = true
end

function Draft:object(field)
  if not self.objects[field] then
    self.objects[field] = parse_object(self:read(field) or '{}')
  end
  self.is_changed[field] = true
  return self.objects[field]
end

-- All changed fields as text; false for those that are gone.
function Draft:texts()
  local texts = {}
  for field in pairs(self.is_changed) do
    local object = self.objects[field]
    if object then
      texts[field] = #object.keys > 0 and object_text(object)
    else
      texts[field] = self.fields[field]
    end
  end
  return texts
end

function Draft:go_back_to(texts)
  self.objects, self.fields, self.is_changed = {}, {}, {}
  for field, text in pairs(texts) do
    self:write(field, text)
  end
end

function Draft:save()
  for field, text in pairs(self:texts()) do
    if text then
      call('HSET', self.record, field, text)
    else
      call('HDEL', self.record, field)
    end
  end
end

local function change_key(object, key, kind, value)
  local text, fault = changed(object.values[key], kind, value)
  if text then
    set_key(object, key, text)
  elseif not fault then
    remove_key(object, key)
  end
  return text, fault
end

-- Apply one change; returns the value's text, or nil and why not.
local function apply(draft, field, outer, inner, kind, value)
  if outer == '' then
    local text, fault = changed(draft:read(field), kind, value)
    if not fault then
      draft:write(field, text)
    end
    return text, fault
  end
  local object = draft:object(field)
  if inner == '' then
    return change_key(object, outer, kind, value)
  end
  local nested = object.values[outer]
  nested = parse_object(is_object(nested) and nested or '{}')
  local text, fault = change_key(nested, inner, kind, value)
  if not fault and kind ~= 'expect' then
    set_key(object, outer, object_text(nested))
  end
  return text, fault
end

local function may_fail_late(first, stop)
  for kind = first + 8, stop, 5 do
    if ARGV[kind] == 'increment' or ARGV[kind] == 'expect' then
      return true
    end
  end
  return false
end

-- Apply an update's changes, all or none.
local function apply_all(draft, count)
  local first = at
  at = first + 5 * count
  local before = may_fail_late(first, at - 1) and draft:texts()
  local answer, fault = {0}, nil
  for number = 1, count do
    local field, outer, inner, kind, value = unpack(ARGV, first + 5 * number - 5,
      first + 5 * number - 1)
    local text
    text, fault = apply(draft, field, outer, inner, kind, value)
    if fault then
      if before then
        draft:go_back_to(before)
      end
      return {fault[1], number, fault[2]}
    end
    answer[number + 1] = (kind == 'default' or kind == 'increment') and text or ''
  end
  return answer
end

local function update_one(session)
  local now, create, ttl, persist, unless_shared, count = unpack(ARGV, at, at + 5)
  at = at + 6
  if not session.exists and create == '' then
    at = at + 5 * count
    return {1}
  end
  local draft = session.draft
  local shared = unless_shared ~= '' and newest_shared(draft:read('metadata')) or 0
  if shared > 0 then
    at = at + 5 * count
    return {4, shared}
  end
  local answer = apply_all(draft, tonumber(count))
  if answer[1] ~= 0 then
    return answer
  end
  session.exists = true
  if not draft:read('last_seq') then
    draft:write('last_seq', '0')
  end
  if not draft:read('created_at') then
    draft:write('created_at', now)
  end
  if tonumber(count) > 0 or not draft:read('updated_at') then
    draft:write('updated_at', now)
  end
  if persist ~= '' then
    draft:write('expires_at', nil)
  elseif ttl ~= '' then
    draft:write('expires_at', text_of(expiry_of(tonumber(now), tonumber(ttl))))
  end
  session.is_written, session.now = true, tonumber(now)
  return answer
end

local function names_after(draft, had_names)
  local values, is_concerned = {}, had_names
  for number, field in ipairs(LOOKED_UP) do
    is_concerned = is_concerned or draft.is_changed[field]
    values[number] = is_concerned and draft:read(field)
  end
  return is_concerned and names_in(values) or NO_NAMES
end

local function missing_in(names, others)
  local missing, known = {}, {}
  for _, name in ipairs(others) do
    known[name] = true
  end
  for _, name in ipairs(names) do
    if not known[name] then
      missing[#missing + 1] = name
    end
  end
  return missing
end

local function save(session, answers, names)
  local draft, keys = session.draft, session.keys
  draft:write('looked_up', #names > 0 and '1' or nil)
  draft:write(writer, slot_of(answers))
  draft:save()
  local expires_at = draft:read('expires_at')
  if expires_at then
    keep_until(keys, tonumber(expires_at), is_by_server and started or session.now)
  elseif draft.is_changed.expires_at then
    for _, key in ipairs(keys) do
      call('PERSIST', key)
    end
  end
end

local function update(keys, id, stop)
  local now = is_by_server and started or tonumber(ARGV[at])
  local fields = read_record(keys, now, 'looked_up', writer)
  local session = {keys = keys, draft = Draft.new(keys[1]), exists = fields[1] ~= nil}
  local old_names = fields[3] and names_of(keys[1]) or NO_NAMES
  local names = old_names
  local answers = answer_in(fields[4])
  local is_new = not fields[1] or answers ~= nil
  if not answers then
    answers = {}
    while at < stop do
      answers[#answers + 1] = update_one(session)
    end
    if not session.is_written then
      return unwritten(answers)
    end
    names = names_after(session.draft, #old_names > 0)
    for _, name in ipairs(missing_in(names, old_names)) do
      check_index(name)
    end
    if session.draft.is_changed.expires_at then
      check_index('expiry')
    end
    save(session, answers, names)
    if fields[1] and not fields[4] then
      prune_slots(keys[1])
    end
  end
  local left = missing_in(old_names, names)
  leave(id, left)
  return touched(answers, id, names, session.draft:read('updated_at'),
    session.draft:read('expires_at'), is_new, left)
end

return run(function()
  check_index('all')
  local answers = {}
  for first = 1, #KEYS, 3 do
    local keys = {KEYS[first], KEYS[first + 1], KEYS[first + 2]}
    local id, words = ARGV[at], ARGV[at + 1]
    at = at + 2
    local stop = at + words
    answers[#answers + 1] = guarded(update, keys, id, stop)
    at = stop
  end
  save_scores()
  return answers
end)
