-- exact sliding log: KEYS[1], ARGV = limit, period in microseconds
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local at = string.format('%.0f', now)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[2]))
local used = redis.call('ZCARD', KEYS[1])
if used >= tonumber(ARGV[1]) then
	return -1
end
redis.call('ZADD', KEYS[1], at, at .. ':' .. used)
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[2] / 1000))
return ARGV[1] - used - 1
