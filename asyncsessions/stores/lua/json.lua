-- Objects and numbers as JSON text. The server's own decoder confuses {} with [] and rounds large
-- numbers, so values stay the text that they are, and only an object's top level is taken apart.

-- Where the text in quotes ends that starts at a position.
local function end_of_string(text, at)
  at = at + 1
  while true do
    at = find(text, '["\\]', at)
    if byte(text, at) == 34 then
      return at
    end
    at = at + 2
  end
end

local function end_of_nested(text, at)
  local depth = 0
  repeat
    at = find(text, '["%[%]{}]', at)
    local character = byte(text, at)
    if character == 34 then
      at = end_of_string(text, at)
    elseif character == 123 or character == 91 then
      depth = depth + 1
    else
      depth = depth - 1
    end
    at = at + 1
  until depth == 0
  return at - 1
end

local function end_of_value(text, at)
  local character = byte(text, at)
  if character == 34 then
    return end_of_string(text, at)
  elseif character == 123 or character == 91 then
    return end_of_nested(text, at)
  end
  return find(text, '[,}]', at) - 1
end

-- An object is its keys, in their order, and the value of each; all as JSON text. What isn't one
-- is an error, so that a change never replaces what somebody may still repair.
local function parse_object(text)
  local object = {keys = {}, values = {}}
  if text == '{}' then
    return object
  end
  assert(byte(text, 1) == 123 and byte(text, -1) == 125, 'no object')
  local at = 2
  while byte(text, at) == 34 do
    local last = end_of_string(text, at)
    local key = sub(text, at, last)
    local stop = end_of_value(text, last + 2)
    object.keys[#object.keys + 1] = key
    object.values[key] = sub(text, last + 2, stop)
    at = stop + 2
  end
  assert(at == #text + 1, 'no object')
  return object
end

local function object_text(object)
  local parts = {}
  for at, key in ipairs(object.keys) do
    parts[at] = key .. ':' .. object.values[key]
  end
  return '{' .. table.concat(parts, ',') .. '}'
end

local function set_key(object, key, value)
  if not object.values[key] then
    object.keys[#object.keys + 1] = key
  end
  object.values[key] = value
end

local function remove_key(object, key)
  if object.values[key] then
    object.values[key] = nil
    for at, each in ipairs(object.keys) do
      if each == key then
        table.remove(object.keys, at)
        return
      end
    end
  end
end

local function is_object(text)
  return text and byte(text, 1) == 123
end

-- What a value is called in Python, where it is no number; else nil.
local TYPES = {['"'] = 'str', t = 'bool', f = 'bool', ['{'] = 'dict', ['['] = 'list'}

local function type_unless_number(text)
  return TYPES[sub(text, 1, 1)]
end

local function float_text(number)
  for digits = 15, 17 do
    local text = format('%.' .. digits .. 'g', number)
    if tonumber(text) == number then
      return find(text, '[.e]') and text or text .. '.0'
    end
  end
end

-- Whole numbers of any size: a sign, and the digits in sevens, the last ones first.

local SEVEN = 10000000

local function parse_whole(text)
  local sign, digits = match(text, '^(%-?)(%d+)$')
  local number = {sign = sign == '-' and -1 or 1}
  for last = #digits, 1, -7 do
    number[#number + 1] = tonumber(sub(digits, math.max(1, last - 6), last))
  end
  return number
end

local function is_smaller(one, other)
  if #one ~= #other then
    return #one < #other
  end
  for at = #one, 1, -1 do
    if one[at] ~= other[at] then
      return one[at] < other[at]
    end
  end
  return false
end

local function whole_text(number)
  while #number > 1 and number[#number] == 0 do
    number[#number] = nil
  end
  local parts = {number.sign < 0 and '-' or '', format('%d', number[#number])}
  for at = #number - 1, 1, -1 do
    parts[#parts + 1] = format('%07d', number[at])
  end
  return table.concat(parts)
end

local function sum_of_wholes(one, other)
  one, other = parse_whole(one), parse_whole(other)
  if is_smaller(one, other) then
    one, other = other, one
  end
  local factor = one.sign * other.sign
  local total, carry = {sign = one.sign}, 0
  for at = 1, #one do
    local digits = one[at] + factor * (other[at] or 0) + carry
    carry = digits >= SEVEN and 1 or digits < 0 and -1 or 0
    total[at] = digits - carry * SEVEN
  end
  if carry > 0 then
    total[#total + 1] = carry
  end
  return whole_text(total)
end

-- The sum of two numbers as Python has it; nil where it would overflow.
local function sum_text(one, other)
  local x, y = tonumber(one), tonumber(other)
  local total = x + y
  if find(one, '[.eE]') or find(other, '[.eE]') then
    return math.abs(total) < math.huge and float_text(total) or nil
  end
  local exact = 2 ^ 53
  if math.abs(x) < exact and math.abs(y) < exact and math.abs(total) < exact then
    return format('%.0f', total)
  end
  return sum_of_wholes(one, other)
end
