-- The documented limits work right after CREATE EXTENSION, for every API and key.
\getenv directory PG_ABS_SRCDIR
\set answer :directory /test/answer.sql
\i :answer

-- Each grants what its page says, and refuses the next request.
SELECT concat_ws(' ', l.name, l.scope, count(*) FILTER (WHERE v.allowed), 'granted', count(*) FILTER (WHERE NOT v.allowed), 'refused')
FROM fl_rate_limit AS l, generate_series(1, l.max_requests + 3) AS i,
     fl_rate_try(l.scope, 'documented' || i * 0, l.api) AS v
GROUP BY l.name, l.scope ORDER BY l.name;

-- Another key has a quota of its own, and so has the same key of another scope.
SELECT fl_rate_check('user', '42', 'data-sources');
SELECT fl_rate_check('user', '43', 'data-sources');
SELECT fl_rate_check('app', '42', 'app-actions');
SELECT fl_rate_check('user', '42', 'communicate');

-- The bigint form of a key is the same key.
SELECT fl_rate_check('user', 42, 'data-sources');
SELECT fl_rate_check('user', 42::bigint, 'data-sources', cost => 100);
SELECT fl_rate_check('user', '42', 'data-sources');

-- A refusal costs nothing: twice the refusals, the same remaining.
SELECT fl_rate_check('user', 'costs', 'audit-logs', 25);
SELECT count(*) FILTER (WHERE NOT v.allowed), min(v.remaining) FROM generate_series(6, 25) AS i, fl_rate_try('user', 'costs', 'audit-logs', least(i, 6)) AS v;
SELECT fl_rate_check('user', 'costs', 'audit-logs', 5);

-- The date is true: five seconds before it the request is refused, at it granted.
SELECT fl_rate_check('user', 'date', 'ai', 10);
SELECT allowed, next_valid_at AS date FROM fl_rate_try('user', 'date', 'ai') \gset
\echo :allowed
SELECT fl_rate_age('user', 'date', 'ai', :'date'::timestamptz - clock_timestamp() - interval '5 s');
SELECT pg_temp.answer($$SELECT fl_rate_check('user', 'date', 'ai')$$);
SELECT allowed, next_valid_at AS date FROM fl_rate_peek('user', 'date', 'ai') \gset
SELECT fl_rate_age('user', 'date', 'ai', :'date'::timestamptz - clock_timestamp());
SELECT pg_temp.answer($$SELECT fl_rate_check('user', 'date', 'ai', 10)$$);
SELECT pg_temp.answer($$SELECT fl_rate_check('user', 'date', 'ai')$$);

-- The scopes that no shipped limit covers are known.
SELECT v.allowed, v.reason FROM fl_rate_try('device', 'd1', 'data-sources') AS v;
SELECT v.allowed, v.reason FROM fl_rate_try('organisation', 'o1', 'ai') AS v;
SELECT pg_temp.answer($$SELECT fl_rate_check('device', 'd1', 'data-sources')$$);

-- ROLLBACK does not give quota back, neither does an error.
BEGIN;
SELECT fl_rate_check('user', 'rollback', 'ai', 3);
SAVEPOINT s;
SELECT fl_rate_check('user', 'rollback', 'ai', 2);
ROLLBACK TO s;
SELECT 1 / 0;
ROLLBACK;
SELECT fl_rate_check('user', 'rollback', 'ai');

-- A read-only transaction can check.
BEGIN READ ONLY;
SELECT fl_rate_check('user', 'readonly', 'ai', 9);
SELECT v.allowed FROM fl_rate_try('user', 'readonly', 'ai', 2) AS v;
SELECT fl_rate_check('user', 'readonly', 'ai');
COMMIT;
SELECT fl_rate_check('user', 'readonly2', 'ai');

SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
