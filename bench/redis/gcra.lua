-- GCRA: KEYS[1], ARGV = limit, period in microseconds
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local step = ARGV[2] / ARGV[1]
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now) + step
if tat - now > tonumber(ARGV[2]) then
	return -1
end
redis.call('SET', KEYS[1], string.format('%.3f', tat), 'PX', math.max(1, math.ceil((tat - now) / 1000)))
return math.floor((ARGV[2] - (tat - now)) / step)
