-- Several scopes and limits at once: all or nothing.
\getenv directory PG_ABS_SRCDIR
\set answer :directory /test/answer.sql
\i :answer
SET client_min_messages = warning;
INSERT INTO fl_rate_limit (limit_id, name, scope, api, max_requests, period) VALUES
	(101, 'device', 'device', 'sync', 3, '1 h'), (102, 'user', 'user', 'sync', 5, '2 h'), (103, 'app', 'app', 'sync', 8, '1 h'), (104, 'organisation', 'organisation', 'sync', 10, '1 h');
RESET client_min_messages;
-- Spend by device, user, app and organisation
CREATE FUNCTION pg_temp.all4(device text, "user" text, app text, organisation text, cost bigint DEFAULT 1) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', v.reason, v.remaining, 'of', v.max_requests, 'by', v.scope, v.key, v.name)
	FROM fl_rate_try_all('{device,user,app,organisation}', ARRAY[device, "user", app, organisation], 'sync', cost) AS v
$$;
CREATE VIEW pg_temp.used AS SELECT name || ' ' || key || ': ' || used FROM fl_rate_counters WHERE used > 0 ORDER BY limit_id, key;

-- The smallest remaining decides a grant; all are spent.
SELECT pg_temp.all4('d1', 'u1', 'a1', 'o1') FROM generate_series(1, 3);
TABLE used;
-- One refuses: none is spent, and it is the one that decided.
SELECT pg_temp.all4('d1', 'u1', 'a1', 'o1');
TABLE used;
-- Another device of the same user: now the user's limit is the tightest.
SELECT pg_temp.all4('d2', 'u1', 'a1', 'o1') FROM generate_series(1, 3);
TABLE used;
-- Several refuse: the one whose wait is longest decides.
SELECT pg_temp.all4('d1', 'u1', 'a1', 'o1');
SELECT pg_temp.all4('d1', 'u2', 'a1', 'o1', 4);
-- A request that could never fit one of them waits longest of all.
SELECT pg_temp.all4('d3', 'u1', 'a1', 'o1', 4);
SELECT v.reason, v.name, v.next_valid_at FROM fl_rate_try_all('{device,user}', '{d3,u1}', 'sync', 4) AS v;
TABLE used;
-- fl_rate_check_all says the same by its result and its error, in any order of the pairs.
SELECT pg_temp.answers($$SELECT fl_rate_check_all('{organisation,app,user,device}', '{o1,a1,u3,d3}', 'sync')$$, $$SELECT fl_rate_check_all('{user,organisation}', '{u1,o1}', 'sync')$$,
	$$SELECT fl_rate_check_all('{app}', '{a1}', 'sync', 2)$$, $$SELECT fl_rate_check_all('{app}', '{a1}', 'sync')$$, $$SELECT fl_rate_check_all('{device,app}', '{d3,a1}', 'sync')$$);
-- A peek spends nothing.
SELECT fl_rate_reset_all();
SELECT v.allowed, v.reason, v.remaining, v.name FROM generate_series(3, 7) AS i, fl_rate_peek_all('{device,user}', '{d1,u1}', 'sync', least(i, 3)) AS v;
SELECT v.allowed, v.reason, v.remaining, v.name FROM fl_rate_peek_all('{device,user}', '{d1,u1}', 'sync', 6) AS v;
TABLE used;

-- The date is that of the first instant at which all of them grant.
SELECT pg_temp.all4('d1', 'u1', 'a1', 'o1', 3);
SELECT fl_rate_age('device', 'd1', 'sync', '30 min'), fl_rate_age('user', 'u1', 'sync', '30 min');
SELECT pg_temp.all4('d2', 'u1', 'a1', 'o1', 2);
-- the device d1 is free in 30 min, the user u1 in 1 h 30 min
SELECT v.name, date_trunc('minute', v.next_valid_at - clock_timestamp() + interval '30 s') FROM fl_rate_try_all('{device,user}', '{d1,u1}', 'sync', 3) AS v;
SELECT v.name, date_trunc('minute', v.next_valid_at - clock_timestamp() + interval '30 s') FROM fl_rate_try_all('{device}', '{d1}', 'sync', 3) AS v;
SELECT v.name, date_trunc('minute', v.next_valid_at - clock_timestamp() + interval '30 s') FROM fl_rate_try_all('{device,app}', '{d1,a1}', 'sync', 3) AS v;
SELECT v.name, date_trunc('minute', v.next_valid_at - clock_timestamp() + interval '30 s') FROM fl_rate_try_all('{device,app}', '{d1,a1}', 'sync', 2) AS v;
SELECT fl_rate_age('device', 'd1', 'sync', '30 min'), fl_rate_age('user', 'u1', 'sync', '1 h 29 min');
SELECT pg_temp.all4('d1', 'u1', 'a9', 'o9', 3);
SELECT fl_rate_age('user', 'u1', 'sync', '1 min');
SELECT pg_temp.all4('d1', 'u1', 'a9', 'o9', 3);
SELECT fl_rate_reset_all() > 0;

-- Two keys of one scope are two pairs.
SELECT pg_temp.answers($$SELECT fl_rate_check_all('{device,device}', '{d1,d2}', 'sync', 2)$$, $$SELECT fl_rate_check_all('{device,device}', '{d2,d3}', 'sync', 2)$$, $$SELECT fl_rate_check('device', 'd3', 'sync', 3)$$);
TABLE used;
-- A pair without a limit takes part and limits nothing.
SELECT v.allowed, v.reason, v.remaining, v.scope, v.key, v.name FROM fl_rate_try_all('{device,app}', '{d4,a4}', 'data-sources') AS v;
SELECT v.allowed, v.reason, v.remaining, v.scope, v.key, v.name FROM fl_rate_try_all('{organisation,user}', '{o4,u4}', 'ai') AS v;
-- The plan is that of all pairs.
INSERT INTO fl_rate_limit (name, scope, api, plan, max_requests, period) VALUES ('device', 'device', 'sync', 'pro', 30, '1 h'), ('user', 'user', 'sync', 'pro', 20, '1 h');
SELECT v.remaining, v.name FROM fl_rate_try_all('{device,user}', '{d5,u5}', 'sync', plan => 'pro') AS v;
-- Several limits of each pair: at most 16 in all
DELETE FROM fl_rate_limit WHERE plan = 'pro';
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) SELECT 'device' || i, 'device', 'sync', 100 + i, '1 h' FROM generate_series(1, 7) AS i;
SELECT pg_temp.answers($$SELECT fl_rate_check_all('{device,device}', '{d6,d7}', 'sync', 2)$$, $$SELECT fl_rate_check_all('{device,device,user}', '{d6,d7,u7}', 'sync')$$);
SELECT DISTINCT key, used FROM fl_rate_counters WHERE key IN ('d6', 'd7', 'u7') ORDER BY key;
-- Each limit has a counter of its own, also when all of them are new at once, or one has expired meanwhile.
SELECT fl_rate_reset_all() > 0;
SELECT count(*) FROM generate_series(1, 30) AS k WHERE fl_rate_check('organisation', k, 'sync', 2) = 8;
SELECT fl_rate_age('organisation', k::text, 'sync', '3 h') FROM generate_series(1, 30) AS k GROUP BY 1;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period, on_limit) SELECT 'organisation' || i, 'organisation', 'sync', 100 + i, '2 h', CASE i WHEN 7 THEN 'count' ELSE 'refuse' END FROM generate_series(1, 7) AS i;
SELECT count(*) FROM generate_series(1, 60) AS k WHERE fl_rate_check('organisation', k, 'sync', 3) = 7;
SELECT count(*) FROM generate_series(1, 60) AS k WHERE fl_rate_check('organisation', k, 'sync', 4) = 3;
SELECT name, count(*), min(used), max(used) FROM fl_rate_counters WHERE scope = 'organisation' GROUP BY name ORDER BY name;
-- ... and when the request is refused
SELECT count(*) FROM generate_series(61, 90) AS k, fl_rate_try('organisation', k, 'sync', 11) AS v WHERE NOT v.allowed;
SELECT count(*) FROM generate_series(61, 90) AS k WHERE fl_rate_check('organisation', k, 'sync', 10) = 0;
SELECT name, count(*), min(used), max(used) FROM fl_rate_counters WHERE scope = 'organisation' AND key::int > 60 GROUP BY name ORDER BY name;
DELETE FROM fl_rate_limit WHERE name LIKE 'organisation_';
-- A block or an exemption among them
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests) VALUES ('app', 'app', 'sync', 'free', NULL), ('app', 'app', 'sync', 'banned', 0);
SELECT v.allowed, v.reason, v.remaining, v.name, v.key FROM fl_rate_try_all('{organisation,app}', '{o8,free}', 'sync') AS v;
SELECT v.allowed, v.reason, v.remaining, v.name, v.key FROM fl_rate_try_all('{organisation,app}', '{o8,banned}', 'sync') AS v;
SELECT v.allowed, v.reason, v.remaining, v.name, v.key FROM fl_rate_try_all('{organisation}', '{o8}', 'sync') AS v;

SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
