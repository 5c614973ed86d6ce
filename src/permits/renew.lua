-- Adds leases of a lane again, whether or not they are still there, so that a gate that lost its
-- memory gets it back from the holders.
--   KEYS  the lane's set[, the model's set][, the tenant's set]
--   ARGV  life in ms, epoch, sequence numbers
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local life, epoch = tonumber(ARGV[1]), ARGV[2]

for _, key in ipairs(KEYS) do
  for i = 3, #ARGV do
    redis.call('ZADD', key, now + life, epoch .. ':' .. ARGV[i])
  end
  redis.call('PEXPIRE', key, life + 1000)
end
