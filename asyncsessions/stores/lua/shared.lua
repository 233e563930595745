-- Who else reads a session's messages.

-- The newest seq that others read, 0 if none; from the session's metadata as text, or nil.
local function newest_shared(metadata)
  local newest = 0
  if metadata and find(metadata, '"asyncsessions:shared":{"', 1, true) then
    local sharers = parse_object(metadata).values['"asyncsessions:shared"']
    for _, seq in pairs(sharers and parse_object(sharers).values or {}) do
      newest = math.max(newest, tonumber(seq) or 0)
    end
  end
  return newest
end
