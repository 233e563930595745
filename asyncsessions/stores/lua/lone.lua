-- One message for one session that asks for nothing else, which is what a lone caller appends. This
-- is `append_plainly` in front of all definitions, because they take as long as the append does.
-- Where anything is in the way, nothing is changed, and what follows sees to it.
if #KEYS == 3 and ARGV[4] ~= '' and ARGV[5] .. ARGV[6] .. ARGV[7] == '' and ARGV[11] == '1' then
  local pcall, record, all = redis.pcall, KEYS[1], ARGV[4] .. 'all'
  local fields = pcall('HMGET', record, 'last_seq', 'expires_at', 'looked_up', ARGV[2])
  local last_seq, slot = tonumber(fields[1]), fields[4]
  local last_write = last_seq and slot and tonumber(string.match(slot, '^%d+'))
  if last_write and last_write < tonumber(ARGV[3]) and not fields[2] and not fields[3]
    and type(pcall('ZADD', all, 'XX', 0, '')) == 'number' then
    local seq = last_seq + 1
    if type(pcall('RPUSH', KEYS[2], '{"seq":' .. seq .. ',' .. ARGV[13])) == 'number' then
      local noted = ARGV[3] .. ' ' .. pcall('TIME')[1] .. ' ' .. cmsgpack.pack(seq)
      redis.call('HSET', record, 'last_seq', seq, 'updated_at', ARGV[10], ARGV[2], noted)
      pcall('ZADD', all, ARGV[10], ARGV[9])
      return {seq}
    end
  end
end
