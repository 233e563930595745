-- What all scripts share; it is put in front of each of them.
--
-- A session has three keys with one hash tag: its record (a hash), its messages (a list of JSON
-- objects, "seq" first) and its idempotency keys (a hash). They come and go together.

local call, ARGV, KEYS, tonumber = redis.call, ARGV, KEYS, tonumber
local byte, find, format, match, sub = string.byte, string.find, string.format, string.match, string.sub

-- Lua's stack takes no more than some 8,000 arguments in one call.
local MOST_ARGUMENTS = 4000

local function text_of(number)
  return format('%.17g', number)
end

local function server_time()
  local time = call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

-- ARGV[1] is empty where the server's clock decides what has expired, not the client's.
local is_by_server = ARGV[1] == ''
local started = server_time()

-- An error's text, with the server's code in front if it has one; versions differ.
local function error_text(raised)
  local text = type(raised) == 'table' and raised.err or tostring(raised)
  text = text:gsub('[\r\n]', ''):gsub('^[^:]*: ?%-?%d+: ', ''):gsub('^%-', '')
  if find(text, 'The user executing the script', 1, true) then
    text = 'NOPERM ' .. text
  end
  return text
end

-- Run what one session is asked for. An error in what is stored for it is its own, and so are those
-- that this library's scripts raise; any other error is the server's, and the same for all.
local function guarded(action, ...)
  local is_done, result = pcall(action, ...)
  if is_done then
    return result
  end
  local text = error_text(result)
  local code = match(text, '^(%u%u+) ')
  if not code or code == 'WRONGTYPE' or code == 'ERR' then
    return {err = 'DAMAGED ' .. text}
  elseif code == 'INDEX' or code == 'SUPERSEDED' then
    return {err = text}
  end
  error({err = text})
end

-- Run the whole script; its error has its code in front on every version.
local function run(action)
  local is_done, result = pcall(action)
  return is_done and result or redis.error_reply(error_text(result))
end
