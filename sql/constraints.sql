-- A definition that makes no sense cannot be stored; shipped rows cannot be changed.
\getenv directory PG_ABS_SRCDIR
\set answer :directory /test/answer.sql
\i :answer
-- Insert one row with these columns
CREATE FUNCTION pg_temp.row(columns text, "values" text) RETURNS text LANGUAGE sql AS $$
	SELECT columns || ' = ' || "values" || E'\n  ' || pg_temp.answer(format('INSERT INTO fl_rate_limit (%s) VALUES (%s) RETURNING ''stored''', columns, "values"))
$$;
-- Insert a row that is right but for these columns; its name and API are its own.
CREATE FUNCTION pg_temp.but(VARIADIC changes text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	unique_name text := quote_literal('c' || md5(changes::text));
	columns text[] := ARRAY['name', 'scope', 'api', 'max_requests', 'period'];
	"values" text[] := ARRAY[unique_name, '''user''', unique_name, '5', '''1 min'''];
	said text;
BEGIN
	FOR i IN 1 .. cardinality(changes) BY 2 LOOP
		said := concat_ws(', ', said, changes[i] || ' = ' || changes[i + 1]);
		IF changes[i] = ANY (columns) THEN
			"values"[array_position(columns, changes[i])] := changes[i + 1];
		ELSE
			columns := columns || changes[i];
			"values" := "values" || changes[i + 1];
		END IF;
	END LOOP;
	RETURN said || ': ' || split_part(pg_temp.row(array_to_string(columns, ', '), array_to_string("values", ', ')), E'\n', 2);
END
$$;
SET client_min_messages = warning;

-- Required: name, scope, api
SELECT pg_temp.row('scope, api, max_requests, period', $$'user', 'ai', 5, '1 min'$$);
SELECT pg_temp.row('name, api, max_requests, period', $$'n', 'ai', 5, '1 min'$$);
SELECT pg_temp.row('name, scope, max_requests, period', $$'n', 'user', 5, '1 min'$$);

-- Names, scopes, APIs and plans: 1 to 63 printable ASCII characters without " and \
SELECT pg_temp.but('name', v) FROM unnest(ARRAY[$$''$$, $$repeat('n', 63)$$, $$repeat('n', 64)$$, $$'a"b'$$, $$E'a\\b'$$, $$'näme'$$, $$E'a\nb'$$, $$E'a\tb'$$, $$E'a\x7f'$$, $$' ~!''#()[]^`{|}'$$]) AS v;
SELECT pg_temp.but('scope', v) FROM unnest(ARRAY[$$''$$, $$repeat('s', 63)$$, $$repeat('s', 64)$$, $$'a"b'$$, $$E'a\\b'$$, $$'scöpe'$$, $$E'a\n'$$, $$'*'$$]) AS v;
SELECT pg_temp.but('api', v) FROM unnest(ARRAY[$$''$$, $$repeat('a', 63)$$, $$repeat('a', 64)$$, $$'a"b'$$, $$E'a\\b'$$, $$'äpi'$$, $$E'\na'$$, $$'*'$$]) AS v;
SELECT pg_temp.but('plan', v) FROM unnest(ARRAY[$$''$$, $$repeat('p', 63)$$, $$repeat('p', 64)$$, $$'a"b'$$, $$E'a\\b'$$, $$'pläne'$$]) AS v;
-- A key may be anything but empty and '*'.
SELECT pg_temp.but('key', v) FROM unnest(ARRAY[$$''$$, $$'*'$$, $$'k"e\y ü'$$, $$repeat('k', 1024)$$, $$repeat('k', 1025)$$]) AS v;
-- A key or a plan, never both
SELECT pg_temp.but('key', $$'k'$$, 'plan', $$'p'$$);

-- max_requests
SELECT pg_temp.but('max_requests', v) FROM unnest(ARRAY['-1', '0', 'NULL', '1', '9223372036854775807']) AS v;
-- period
SELECT pg_temp.but('period', v) FROM unnest(ARRAY['NULL', $$'0'$$, $$'-1 s'$$, $$'1 microsecond'$$, $$'36525 days'$$, $$'1 month -30 days'$$, $$'1 month'$$, $$'1 year'$$, $$'73051 days'$$]) AS v;
SELECT pg_temp.but('period', 'NULL', 'max_requests', v) FROM unnest(ARRAY['NULL', '0']) AS v;
SELECT pg_temp.but('period', v, 'algorithm', $$'fixed_window'$$) FROM unnest(ARRAY['NULL', $$'0'$$, $$'-1 month'$$, $$'1 month'$$, $$'3 months'$$, $$'1 year'$$, $$'1 year 2 months'$$, $$'1 month 1 day'$$, $$'1 month -1 day'$$, $$'7 days'$$, $$'100 years'$$, $$'1000 years'$$]) AS v;
-- ... also where what is beside the months adds up to nothing
SELECT pg_temp.but('period', v, 'algorithm', $$'fixed_window'$$) FROM unnest(ARRAY[$$'1 year 1 day -24:00:00'$$, $$'1 month -1 day 24:00:00'$$, $$'1 month 1 microsecond'$$, $$'-1 month 31 days'$$, $$'12 months'$$]) AS v;
SELECT pg_temp.but('period', $$'1 month'$$, 'algorithm', $$'token_bucket'$$);
-- An infinite period is no period (before version 17 there is none).
SELECT pg_temp.but('period', v) NOT LIKE '%stored%', pg_temp.but('period', v, 'algorithm', $$'fixed_window'$$) NOT LIKE '%stored%' FROM unnest(ARRAY[$$'infinity'$$, $$'-infinity'$$]) AS v;
-- algorithm, burst
SELECT pg_temp.but('algorithm', v) FROM unnest(ARRAY['NULL', $$''$$, $$'leaky_bucket'$$, $$'Token_Bucket'$$, $$'token_bucket'$$]) AS v;
SELECT pg_temp.but('burst', '7', 'algorithm', v) FROM unnest(ARRAY[$$'sliding_window'$$, $$'fixed_window'$$, $$'token_bucket'$$]) AS v;
SELECT pg_temp.but('burst', v, 'algorithm', $$'token_bucket'$$) FROM unnest(ARRAY['-1', '0', '1', '9223372036854775807']) AS v;
-- anchor, time_zone
SELECT pg_temp.but('anchor', $$'2020-01-01 00:00+00'$$, 'algorithm', v) FROM unnest(ARRAY[$$'sliding_window'$$, $$'fixed_window'$$, $$'token_bucket'$$]) AS v;
SELECT pg_temp.but('anchor', v, 'algorithm', $$'fixed_window'$$) FROM unnest(ARRAY[$$'infinity'$$, $$'-infinity'$$]) AS v;
SELECT pg_temp.but('time_zone', $$'Europe/London'$$, 'algorithm', v) FROM unnest(ARRAY[$$'sliding_window'$$, $$'fixed_window'$$, $$'token_bucket'$$]) AS v;
SELECT pg_temp.but('time_zone', v, 'algorithm', $$'fixed_window'$$) FROM unnest(ARRAY['NULL', $$''$$, $$'Europe/Lodnon'$$]) AS v;
-- on_limit, max_delay
SELECT pg_temp.but('on_limit', v) FROM unnest(ARRAY['NULL', $$''$$, $$'warn'$$, $$'delay'$$, $$'count'$$]) AS v;
SELECT pg_temp.but('max_delay', $$'3 s'$$, 'on_limit', v) FROM unnest(ARRAY[$$'refuse'$$, $$'count'$$, $$'delay'$$]) AS v;
SELECT pg_temp.but('max_delay', v, 'on_limit', $$'delay'$$) FROM unnest(ARRAY[$$'-1 s'$$, $$'0'$$, $$'1000 years'$$]) AS v;
-- enabled, dates
SELECT pg_temp.but('enabled', 'NULL');
SELECT pg_temp.but('valid_from', $$'2020-01-02 00:00+00'$$, 'valid_until', v) FROM unnest(ARRAY[$$'2020-01-01 00:00+00'$$, $$'2020-01-02 00:00+00'$$, $$'2020-01-03 00:00+00'$$, $$'infinity'$$]) AS v;
-- What could be stored is applied, every row of it.
DELETE FROM fl_rate_limit WHERE api = '*';
SELECT count(*) > 30, bool_and(v.name = l.name), bool_and(v.allowed = (coalesce(l.max_requests, 1) > 0 AND coalesce(l.burst, 1) > 0))
FROM fl_rate_limit AS l, fl_rate_try(l.scope, coalesce(l.key, 'k'), replace(l.api, '*', 'stars'), plan => l.plan) AS v
WHERE l.limit_id > 0 AND on_limit <> 'count' AND coalesce(l.valid_until, now()) >= now() AND l.enabled;
DELETE FROM fl_rate_limit WHERE limit_id > 0;

-- The natural key: one row per name, key and plan, NULLs being alike
SELECT pg_temp.row('name, scope, api, max_requests, period', $$'twice', 'user', 'ai', 5, '1 min'$$) FROM generate_series(1, 2);
SELECT pg_temp.row('name, scope, api, key, max_requests, period', $$'twice', 'user', 'ai', 'k', 5, '1 min'$$) FROM generate_series(1, 2);
SELECT pg_temp.row('name, scope, api, plan, max_requests, period', $$'twice', 'user', 'ai', 'p', 5, '1 min'$$) FROM generate_series(1, 2);
-- Rows that share a name share scope and api, shipped ones too.
SELECT pg_temp.row('name, scope, api, key, max_requests, period', $$'twice', 'app', 'ai', 'l', 5, '1 min'$$);
SELECT pg_temp.row('name, scope, api, key, max_requests, period', $$'twice', 'user', '*', 'l', 5, '1 min'$$);
SELECT pg_temp.row('name, scope, api, max_requests, period', $$'fliplet/ai', 'user', 'data-sources', 5, '1 min'$$);
SELECT pg_temp.answers($$UPDATE fl_rate_limit SET scope = 'app' WHERE name = 'twice' AND key = 'k'$$, $$UPDATE fl_rate_limit SET api = '*' WHERE name = 'twice' AND plan = 'p'$$, $$UPDATE fl_rate_limit SET name = 'fliplet/communicate' WHERE name = 'twice' AND key = 'k'$$);
SELECT pg_temp.answers($$SELECT fl_rate_define('twice', 'app', 'ai', 5, '1 min', key => 'n')$$, $$SELECT fl_rate_define('fliplet/ai', 'app', 'ai', 5, '1 min')$$);
SELECT name, scope, api, key, plan FROM fl_rate_limit WHERE limit_id > 0 ORDER BY key, plan;
DELETE FROM fl_rate_limit WHERE limit_id > 0;
-- fl_rate_define is held to the same.
SELECT pg_temp.answers($$SELECT fl_rate_define(NULL, 'user', 'ai', 5, '1 min')$$, $$SELECT fl_rate_define('n', NULL, 'ai', 5, '1 min')$$, $$SELECT fl_rate_define('n', 'user', NULL, 5, '1 min')$$,
	$$SELECT fl_rate_define('n', 'user', 'ai', 5, NULL)$$, $$SELECT fl_rate_define('n', 'user', 'ai', 5, '1 month')$$, $$SELECT fl_rate_define('n', 'user', 'ai', -5, '1 min')$$,
	$$SELECT fl_rate_define('n', 'user', 'ai', 5, '1 min', key => 'k', plan => 'p')$$, $$SELECT fl_rate_define('n', 'user', 'ai', 5, '1 min', burst => 3)$$, $$SELECT fl_rate_undefine(NULL)$$);

-- Shipped rows cannot be inserted, edited or deleted; the hint says what to do instead.
SELECT pg_temp.answers($$INSERT INTO fl_rate_limit (limit_id, name, scope, api, max_requests, period) VALUES (-9, 'mine', 'user', 'ai', 5, '1 min')$$,
	$$INSERT INTO fl_rate_limit (limit_id, name, scope, api, max_requests, period) VALUES (0, 'mine', 'user', 'ai', 5, '1 min')$$,
	$$UPDATE fl_rate_limit SET max_requests = 1000 WHERE name = 'fliplet/ai'$$,
	$$UPDATE fl_rate_limit SET enabled = false WHERE name = 'fliplet/ai'$$,
	$$UPDATE fl_rate_limit SET limit_id = 77 WHERE name = 'fliplet/ai'$$,
	$$DELETE FROM fl_rate_limit WHERE name = 'fliplet/ai'$$,
	$$DELETE FROM fl_rate_limit$$,
	$$TRUNCATE fl_rate_limit$$);
SELECT pg_temp.row('name, scope, api, max_requests, period', $$'mine', 'user', 'ai', 5, '1 min'$$);
SELECT pg_temp.answers($$UPDATE fl_rate_limit SET limit_id = -77 WHERE name = 'mine'$$);
-- Deleting one's own rows works.
DELETE FROM fl_rate_limit WHERE limit_id > 0;
SELECT limit_id, name, max_requests FROM fl_rate_limit ORDER BY limit_id DESC;

-- As a subscriber (session_replication_role = replica) a shipped row is skipped silently, and is back after TRUNCATE.
SET session_replication_role = replica;
INSERT INTO fl_rate_limit (limit_id, name, scope, api, max_requests, period) VALUES (-1, 'fliplet/data-sources', 'user', 'data-sources', 200, '10 s');
UPDATE fl_rate_limit SET max_requests = 1000 WHERE name = 'fliplet/ai';
DELETE FROM fl_rate_limit WHERE name = 'fliplet/ai';
INSERT INTO fl_rate_limit (limit_id, name, scope, api, max_requests, period) VALUES (501, 'replicated', 'user', 'replicated', 7, '1 h');
SELECT v.remaining FROM fl_rate_try('user', 'r', 'replicated') AS v;
UPDATE fl_rate_limit SET max_requests = 8 WHERE limit_id = 501;
SELECT v.remaining FROM fl_rate_try('user', 'r', 'replicated') AS v;
TRUNCATE fl_rate_limit;
SELECT pg_temp.answer($$SELECT fl_rate_check('user', 'r', 'replicated')$$);
RESET session_replication_role;
SELECT limit_id, name, max_requests FROM fl_rate_limit ORDER BY limit_id DESC;

-- A time zone that only the publisher knows is an error for what is judged by that row, and for nothing else; none when it is disabled or replaced.
SET client_min_messages = warning;
SET session_replication_role = replica;
INSERT INTO fl_rate_limit (limit_id, name, scope, api, max_requests, period, algorithm, time_zone) VALUES (601, 'zoned', 'user', 'zoned', 5, '1 day', 'fixed_window', 'Future/City');
INSERT INTO fl_rate_limit (limit_id, name, scope, api, key, max_requests, period) VALUES (602, 'zoned', 'user', 'zoned', 'k', 4, '1 h');
RESET session_replication_role;
SELECT pg_temp.answers($$SELECT fl_rate_check('user', 'z', 'ai')$$, $$SELECT fl_rate_check('user', 'z', 'zoned')$$, $$SELECT fl_rate_check('user', 'k', 'zoned')$$, $$SELECT fl_rate_check('user', 'z', 'zoned', plan => 'p')$$,
	$$SELECT count(*) > 0 FROM fl_rate_explain('user', 'z', 'zoned')$$, $$SELECT fl_rate_maintain() >= 0$$);
UPDATE fl_rate_limit SET enabled = false WHERE limit_id = 601;
SELECT pg_temp.answers($$SELECT fl_rate_check('user', 'z', 'zoned')$$);

SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
