-- Drops the expired leases of a lane (and of its model and its tenant, where these have limits of
-- their own), then adds as many as fit, and answers how many.
--   KEYS  the lane's set[, the model's set][, the tenant's set]
--   ARGV  life in ms, epoch, first sequence number, wanted, and the limit of each set
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local life, epoch, first = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])

local room = tonumber(ARGV[4])
for i, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  room = math.min(room, tonumber(ARGV[4 + i]) - redis.call('ZCARD', key))
end
if room <= 0 then
  return 0
end

local leases = {}
for seq = first, first + room - 1 do
  leases[#leases + 1] = now + life
  leases[#leases + 1] = epoch .. ':' .. string.format('%.0f', seq)
end
for _, key in ipairs(KEYS) do
  -- Many at once, within what Lua passes to a call.
  for from = 1, #leases, 1000 do
    redis.call('ZADD', key, unpack(leases, from, math.min(from + 999, #leases)))
  end
  -- A set that nobody renews vanishes by itself, a bit after its last lease.
  redis.call('PEXPIRE', key, life + 1000)
end
return room
