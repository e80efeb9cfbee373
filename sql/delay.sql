-- Throttling down: on_limit delay, and fl_rate_wait.
\getenv directory PG_ABS_SRCDIR
\set answer :directory /test/answer.sql
\i :answer
SET client_min_messages = warning;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period, algorithm, burst, on_limit, max_delay) VALUES
	('slow', 'user', 'slow', 2, '100 s', 'sliding_window', NULL, 'delay', '250 s'), ('slow bucket', 'user', 'slow bucket', 1, '100 s', 'token_bucket', 2, 'delay', '250 s'), ('default', 'user', 'default', 1, '10 s', 'sliding_window', NULL, 'delay', NULL);
RESET client_min_messages;
-- The verdict, with times in whole tens of seconds from now
CREATE FUNCTION pg_temp.slow(api text, key text, cost bigint DEFAULT 1) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', v.reason, 'remaining', v.remaining, 'delay', round(extract(epoch FROM v.delay) / 10) * 10, 'valid', round(extract(epoch FROM v.next_valid_at - clock_timestamp()) / 10) * 10)
	FROM fl_rate_try('user', key, api, cost) AS v
$$;
-- fl_rate_try reserves the next slot, up to max_delay, then refuses with the first instant at which the next slot is near enough.
SELECT pg_temp.slow('slow', 'd1') FROM generate_series(1, 8);
SELECT pg_temp.slow('slow bucket', 'd1') FROM generate_series(1, 6);
-- What is reserved is spent: it counts for everyone.
SELECT remaining, granted, refused, delayed FROM fl_rate_counters WHERE key = 'd1' ORDER BY name;
SELECT granted, refused, delayed FROM fl_rate_stats WHERE name LIKE 'slow%' ORDER BY name;
-- max_delay is 1 s unless it is given.
SELECT pg_temp.slow('default', 'd2') FROM generate_series(1, 2);
SELECT v.reason, extract(epoch FROM v.next_valid_at - clock_timestamp()) BETWEEN 5 AND 10 FROM fl_rate_try('user', 'd2', 'default') AS v;
SELECT fl_rate_age('user', 'd2', 'default', '9.1 s');
SELECT v.allowed, v.reason, v.delay BETWEEN '0' AND '1 s' FROM fl_rate_try('user', 'd2', 'default') AS v;
-- A cost that could never fit is refused, without a date.
SELECT v.reason, v.next_valid_at FROM fl_rate_try('user', 'd3', 'slow', 3) AS v;
-- fl_rate_check never sleeps and reserves nothing: it refuses, with the date of the slot.
SELECT fl_rate_check('user', 'd4', 'slow', 2);
SELECT pg_temp.answer($$SELECT fl_rate_check('user', 'd4', 'slow')$$);
SELECT used FROM fl_rate_counters WHERE key = 'd4';
DO $$
DECLARE
	detail text;
BEGIN
	PERFORM fl_rate_check('user', 'd4', 'slow');
EXCEPTION WHEN SQLSTATE 'PT429' THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RAISE NOTICE '%', (detail::json ->> 'nextValidRequestDate')::timestamptz - now() BETWEEN '90 s' AND '101 s';
END
$$;
-- ... also with slots reserved ahead
SELECT pg_temp.slow('slow', 'd4') FROM generate_series(1, 2);
DO $$
DECLARE
	detail text;
BEGIN
	PERFORM fl_rate_check('user', 'd4', 'slow');
EXCEPTION WHEN SQLSTATE 'PT429' THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RAISE NOTICE '%', (detail::json ->> 'nextValidRequestDate')::timestamptz - now() BETWEEN '190 s' AND '201 s';
END
$$;
-- So does the trigger.
CREATE TABLE entries (owner text);
CREATE TRIGGER limited BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION fl_rate_trigger('user', 'slow', 'column:owner');
SELECT pg_temp.answer($$INSERT INTO entries SELECT 'd5' FROM generate_series(1, 3)$$);
DROP TABLE entries;
-- A peek says what a try would, and reserves nothing.
SELECT fl_rate_reset_all() > 0;
SELECT fl_rate_check('user', 'd6', 'slow', 2);
SELECT v.allowed, v.reason, round(extract(epoch FROM v.delay)) BETWEEN 90 AND 100 FROM generate_series(2, 4) AS i, fl_rate_peek('user', 'd6', 'slow', least(i, 2)) AS v;
SELECT used FROM fl_rate_counters WHERE key = 'd6';
-- With another limit that refuses, nothing is reserved; with one that delays, all of them at the common slot.
SET client_min_messages = warning;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period, on_limit) VALUES ('strict', 'app', 'slow', 1, '100 s', 'refuse');
RESET client_min_messages;
SELECT v.allowed, v.reason, v.name FROM generate_series(1, 2) AS i, fl_rate_try_all('{user,app}', '{d7,a7}', 'slow', least(i, 1)) AS v;
SELECT name, used FROM fl_rate_counters WHERE key IN ('d7', 'a7') ORDER BY name;
SELECT v.allowed, v.reason, round(extract(epoch FROM v.delay) / 100) FROM generate_series(1, 2) AS i, fl_rate_try_all('{user,app}', '{d6,a8}', 'slow', least(i, 1)) AS v;
-- what was reserved for the slot in 100 s counts before it, too
SELECT v.allowed, v.reason, v.name FROM fl_rate_try('app', 'a8', 'slow') AS v;

-- fl_rate_wait returns the time slept: nothing while there is quota.
SET client_min_messages = warning;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('brief', 'user', 'brief', 2, '500 ms'), ('long', 'user', 'long', 2, '1 h');
RESET client_min_messages;
SELECT fl_rate_wait('user', 'w1', 'brief'), fl_rate_wait('user', 'w1', 'brief');
SELECT fl_rate_wait('user', 'w1', 'brief') > '0';
SELECT fl_rate_reset('user', 'w2', 'brief'), fl_rate_wait('user', 'w2', 'brief', 2), clock_timestamp() AS start \gset
SELECT fl_rate_wait('user', 'w2', 'brief', 2) > '0', fl_rate_wait('user', 'w2', 'brief', 2) > '0';
SELECT clock_timestamp() - :'start' >= '1 s';
-- A slot further away than max_wait is refused at once, and nothing is spent.
SELECT fl_rate_wait('user', 'w3', 'long', 2);
SELECT pg_temp.answers($$SELECT fl_rate_wait('user', 'w3', 'long')$$, $$SELECT fl_rate_wait('user', 'w3', 'long', max_wait => '59 min')$$, $$SELECT fl_rate_wait('user', 'w3', 'long', max_wait => '0')$$, $$SELECT fl_rate_wait('user', 3333, 'long', 3)$$);
SELECT used, granted, refused FROM fl_rate_counters WHERE key = 'w3';
SELECT clock_timestamp() - :'start' < '60 s';
-- max_wait 0 waits for nothing, and grants what is free.
SELECT fl_rate_wait('user', 'w4', 'long', max_wait => '0');
-- A cost that never fits and a blocked key are refused at once.
SELECT pg_temp.answers($$SELECT fl_rate_wait('user', 'w5', 'long', 3, max_wait => '100 years')$$);
-- When max_waiters sessions sleep already, it refuses at once; what is free is granted all the same.
SET fliplet_ratelimit.max_waiters = 0;
SELECT pg_temp.answers($$SELECT fl_rate_wait('user', 'w6', 'brief', 2)$$, $$SELECT fl_rate_wait('user', 'w6', 'brief', 2)$$);
SELECT granted, refused FROM fl_rate_counters WHERE key = 'w6';
RESET fliplet_ratelimit.max_waiters;
-- A cancelled wait gives its slot back.
SELECT fl_rate_check('user', 'w7', 'long', 2);
SET statement_timeout = '50 ms';
SELECT fl_rate_wait('user', 'w7', 'long', max_wait => '2 h');
RESET statement_timeout;
SELECT used FROM fl_rate_counters WHERE key = 'w7';
SELECT waiters FROM fl_rate_store;
-- ... of all limits, by each algorithm
SET client_min_messages = warning;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period, algorithm) VALUES ('long bucket', 'user', 'long', 4, '2 h', 'token_bucket'), ('long total', 'user', '*', 50, '2 h', 'sliding_window');
RESET client_min_messages;
SELECT fl_rate_check('user', 'w8', 'long', 2);
SELECT name, used FROM fl_rate_counters WHERE key = 'w8' ORDER BY name;
SET statement_timeout = '50 ms';
SELECT fl_rate_wait('user', 'w8', 'long', 2, max_wait => '2 h');
RESET statement_timeout;
SELECT name, used FROM fl_rate_counters WHERE key = 'w8' ORDER BY name;
-- The wait of a limit that delays reaches as far as max_wait, not max_delay.
SELECT fl_rate_check('user', 'w9', 'default'), fl_rate_age('user', 'w9', 'default', '8.5 s');
SELECT fl_rate_wait('user', 'w9', 'default') > '1 s';
-- The kill switch, an exemption, no limit at all: no wait.
SET fliplet_ratelimit.enabled = off;
SELECT fl_rate_wait('user', 'w3', 'long');
RESET fliplet_ratelimit.enabled;
SELECT fl_rate_wait('device', 'w3', 'long');

-- Limits that delay beside one that refuses: the same request is answered at the date that was told, and refused a minute before.
SET client_min_messages = warning;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period, on_limit, max_delay) VALUES
	('near delays', 'device', 'near', 1, '10 h', 'delay', '5 h'), ('near refuses', 'device', 'near', 1, '7 h', 'refuse', NULL),
	('far delays', 'device', 'far', 1, '10 h', 'delay', '2 h'), ('far refuses', 'device', 'far', 1, '7 h', 'refuse', NULL),
	('never delays', 'device', 'never', 1, '10 h', 'delay', '5 h'), ('never refuses', 'device', 'never', 1, '12 h', 'refuse', NULL),
	('both delay', 'device', 'both', 1, '10 h', 'delay', '5 h'), ('both delay, shorter', 'device', 'both', 1, '8 h', 'delay', '1 h'), ('both refuse', 'device', 'both', 1, '3 h', 'refuse', NULL);
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period, algorithm, on_limit, max_delay) VALUES
	('bucket delays', 'device', 'bucket', 1, '10 h', 'token_bucket', 'delay', '5 h'), ('bucket refuses', 'device', 'bucket', 1, '7 h', 'token_bucket', 'refuse', NULL);
RESET client_min_messages;
CREATE FUNCTION pg_temp.date_is_true(api text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	told interval;
	before fl_rate_verdict;
	after fl_rate_verdict;
BEGIN
	PERFORM fl_rate_check('device', 'k', api);
	SELECT v.next_valid_at - clock_timestamp() INTO told FROM fl_rate_try('device', 'k', api) AS v;
	PERFORM fl_rate_age('device', 'k', api, told - interval '1 min');
	before := fl_rate_try('device', 'k', api);
	PERFORM fl_rate_age('device', 'k', api, interval '2 min');
	after := fl_rate_try('device', 'k', api);
	RETURN format('in %s h; before: %s; then: %s, delay %s h', round(extract(epoch FROM told) / 3600, 1), before.reason, after.reason, round(extract(epoch FROM after.delay) / 3600, 1));
END
$$;
SELECT a, pg_temp.date_is_true(a) FROM unnest('{near,far,never,both,bucket}'::text[]) AS a;

SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
