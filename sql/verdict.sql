-- A verdict as error, body, headers and JSON.
\getenv directory PG_ABS_SRCDIR
\set answer :directory /test/answer.sql
\i :answer
-- A verdict with these columns
CREATE FUNCTION pg_temp.verdict(allowed boolean, reason text, remaining bigint DEFAULT 0, next_valid_at timestamptz DEFAULT NULL, reset_at timestamptz DEFAULT NULL, max_requests bigint DEFAULT 200,
	period interval DEFAULT '10 s', name text DEFAULT 'fliplet/data-sources', delay interval DEFAULT '0', key text DEFAULT '42', limit_id int DEFAULT -1)
RETURNS fl_rate_verdict LANGUAGE sql AS $$
	SELECT ROW(allowed, reason, remaining, delay, next_valid_at, reset_at, 'user', key, 'data-sources', name, limit_id, max_requests, period)::fl_rate_verdict
$$;

-- The body has the three documented keys; its date is rounded up to the millisecond.
SELECT jsonb_pretty(fl_rate_body(pg_temp.verdict(false, 'refused', next_valid_at => '2021-02-15 17:13:32.363+00')));
SELECT fl_rate_body(pg_temp.verdict(false, 'refused', next_valid_at => d)) ->> 'nextValidRequestDate'
FROM unnest('{2021-02-15 17:13:32.362001+00,2021-02-15 17:13:32.362999+00,2021-02-15 17:13:32.363001+00,2021-02-15 17:13:32+00,2021-12-31 23:59:59.9990001+00,2021-12-31 23:59:59.999001+00,2021-02-15 18:13:32.363+01,1969-12-31 23:59:59.9995+00,1960-02-29 12:00:00.000001+00}'::timestamptz[]) AS d;
SET timezone = 'Asia/Kolkata';
SELECT fl_rate_body(pg_temp.verdict(false, 'refused', next_valid_at => '2021-02-15 17:13:32.363+00')) ->> 'nextValidRequestDate';
SET timezone = 'UTC';
SELECT fl_rate_body(pg_temp.verdict(false, r)) FROM unnest('{too_large,blocked}'::text[]) AS r;
-- It is NULL when the request is allowed.
SELECT r, fl_rate_body(pg_temp.verdict(true, r, next_valid_at => now())) IS NULL FROM unnest('{ok,delayed,no_limit,unlimited,off}'::text[]) AS r;

-- Headers: whole seconds rounded up, at least 1; numbers clamped to 15 digits; Retry-After only when refused.
SELECT fl_rate_headers(pg_temp.verdict(true, 'ok', 5, now(), now() + interval '9.5 s'));
SELECT fl_rate_headers(pg_temp.verdict(false, 'refused', 0, now() + interval '3.5 s', now() + interval '3.5 s'));
SELECT fl_rate_headers(pg_temp.verdict(false, 'refused', 3, now() + interval '8.5 s', now() + interval '3.5 s'));
SELECT fl_rate_headers(pg_temp.verdict(true, 'delayed', 0, now(), now() + interval '3.5 s', delay => '2.5 s'));
SELECT fl_rate_headers(pg_temp.verdict(true, 'ok', 200, now()));
SELECT fl_rate_headers(pg_temp.verdict(true, 'ok', 9223372036854775807, now(), now() + interval '0.000001 s', 9223372036854775807, '0.000001 s'));
SELECT fl_rate_headers(pg_temp.verdict(true, 'ok', 999999999999999, now(), now() - interval '5 s', 1000000000000000, '36525 days'));
SELECT fl_rate_headers(pg_temp.verdict(false, 'too_large', 200));
SELECT fl_rate_headers(pg_temp.verdict(false, 'blocked', 0, max_requests => 0, period => NULL));
SELECT fl_rate_headers(pg_temp.verdict(true, r, NULL, max_requests => NULL, period => NULL, name => NULL)) FROM unnest('{no_limit,off}'::text[]) AS r;
SELECT fl_rate_headers(pg_temp.verdict(true, 'unlimited', NULL, now(), max_requests => NULL, period => NULL));
SELECT fl_rate_headers(pg_temp.verdict(true, 'ok', 1, now(), period => p)) ->> 'RateLimit-Policy' FROM unnest('{1 s,1.000001 s,1 min,1 day,7 days,1 month}'::interval[]) AS p;
-- Retry-After is never earlier than the date.
SELECT bool_and(clock_timestamp() + (fl_rate_headers(v) ->> 'Retry-After')::int * interval '1 s' >= v.next_valid_at)
FROM generate_series(1, 100) AS i, pg_temp.verdict(false, 'refused', 0, now() + i * interval '123.457 ms', now() + i * interval '123.457 ms') AS v;
-- What a name may hold needs no escape in a header, only in JSON.
SELECT fl_rate_headers(pg_temp.verdict(true, 'ok', 1, now(), name => 'a/b c;d=''e'',')) ->> 'RateLimit';

-- JSON for JavaScript
SELECT jsonb_pretty(fl_rate_json(pg_temp.verdict(true, 'ok', 199, '2021-02-15 17:13:22.362001+00', '2021-02-15 17:13:32.362001+00')));
SELECT jsonb_pretty(fl_rate_json(pg_temp.verdict(true, 'no_limit', NULL, delay => NULL, max_requests => NULL, period => NULL, name => NULL, limit_id => NULL)));
SELECT j -> 'allowed', j -> 'reason', j -> 'delayMs', j -> 'retryAfterMs' FROM (SELECT fl_rate_json(pg_temp.verdict(true, 'delayed', 0, '2021-02-15 17:13:22+00', delay => '1.2340001 s')) AS j) AS x;
SELECT j -> 'delayMs' FROM unnest('{0,0.000001 s,0.001 s,0.0010001 s,0.001001 s,1 day}'::interval[]) AS d, fl_rate_json(pg_temp.verdict(true, 'delayed', 0, '2021-02-15 17:13:22+00', delay => d)) AS j;
SELECT j -> 'allowed', j -> 'reason', (j ->> 'retryAfterMs')::numeric BETWEEN 3000 AND 3500 FROM (SELECT fl_rate_json(pg_temp.verdict(false, 'refused', 0, now() + interval '3.5 s')) AS j) AS x;
SELECT j -> 'allowed', j -> 'reason', j -> 'nextValidAt', j -> 'retryAfterMs' FROM (SELECT fl_rate_json(pg_temp.verdict(false, 'blocked')) AS j) AS x;
SELECT fl_rate_json(pg_temp.verdict(true, 'ok', 199, now(), key => E'k"e\\y\n✓')) ->> 'key';
SELECT jsonb_object_agg(e.key, jsonb_typeof(e.value)) FROM fl_rate_try('user', 'j', 'ai') AS v, jsonb_each(fl_rate_json(v)) AS e;

-- The same as text, and as an array for client libraries: microseconds, dates since 1970, the time when it is not next_valid_at.
SELECT fl_rate_json(v, 'object')::jsonb = fl_rate_json(v) FROM (VALUES (pg_temp.verdict(true, 'ok', 199, '2021-02-15 17:13:22.362001+00', '2021-02-15 17:13:32.362001+00')), (pg_temp.verdict(false, 'blocked'))) AS t (v);
SELECT fl_rate_json(pg_temp.verdict(true, 'ok', 199, '2021-02-15 17:13:22.362001+00', '2021-02-15 17:13:32.362001+00'), 'array');
SELECT fl_rate_json(pg_temp.verdict(true, 'delayed', 9223372036854775807, '1970-01-01 00:00:00+00', '1969-12-31 23:59:59.999999+00', 9223372036854775807, '1 month', delay => '1.2340001 s'), 'array');
SELECT fl_rate_json(pg_temp.verdict(true, 'no_limit', NULL, delay => NULL, max_requests => NULL, period => NULL, name => NULL, limit_id => NULL), 'array');
SELECT j -> 0, j -> 1, (j ->> 4)::bigint - 1000000 * extract(epoch FROM now())::numeric, j -> 5, (j ->> 10)::numeric BETWEEN 1000000 * extract(epoch FROM now()) AND 1000000 * extract(epoch FROM clock_timestamp()), json_array_length(j)
FROM fl_rate_json(pg_temp.verdict(false, 'refused', 0, now() + interval '3.5 s'), 'array') AS j;
-- A date that 64 bits cannot say so, or an infinite one, is null; texts are escaped.
SELECT fl_rate_json(pg_temp.verdict(true, E'r"e\\\n✓', 0, n, r), 'array') FROM (VALUES (timestamptz '294276-12-31 23:59:59+00', timestamptz '294247-01-10 04:00:54.775808+00'), ('infinity', '-infinity'), ('294247-01-10 04:00:54.775807+00', '4714-11-24 00:00:00+00 BC')) AS t (n, r);
SELECT pg_temp.answer(format('SELECT fl_rate_json(%L::fl_rate_verdict, %L)', pg_temp.verdict(true, 'ok', name => n), f)) FROM (VALUES ('n', 'list'), ('n', ''), ('n', NULL), (E'n\n', 'array'), ('n"', 'object')) AS t (n, f);
SELECT pg_temp.answer($$SELECT fl_rate_json(ROW(NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL)::fl_rate_verdict, 'array')$$), pg_temp.answer($$SELECT fl_rate_json(ROW(true,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL)::fl_rate_verdict, 'array')$$), pg_temp.answer($$SELECT fl_rate_json(NULL, 'array')$$);

-- fl_rate_raise raises a refusal, and answers what remains of anything else.
SELECT pg_temp.answer(format('SELECT fl_rate_raise(%L::fl_rate_verdict)', pg_temp.verdict(a, r, n)))
FROM (VALUES (true, 'ok', 5), (true, 'delayed', 0), (true, 'no_limit', NULL), (true, 'unlimited', NULL), (true, 'off', NULL), (false, 'refused', 3), (false, 'too_large', 3), (false, 'blocked', 0), (false, 'store_full', NULL)) AS t (a, r, n);
-- What travelled through another node raises as it would have there.
DO $$
DECLARE
	state text; message text; detail text; hint text; name text;
BEGIN
	PERFORM fl_rate_raise('(f,refused,0,00:00:00,"2021-02-15 17:13:32.362001+00","2021-02-15 17:13:32.362001+00",user,42,data-sources,fliplet/data-sources,-1,200,00:00:10)'::fl_rate_verdict);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT, name = CONSTRAINT_NAME;
	RAISE NOTICE E'%\n%\n%\n%', state, message, detail, name;
	RAISE NOTICE '%', hint ~ '^Retry after \d+\.\d{3} seconds\.$';
END
$$;
-- Incomplete and invalid verdicts
SELECT pg_temp.answer(s) FROM unnest(ARRAY[$$SELECT fl_rate_raise(ROW(NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL)::fl_rate_verdict)$$, $$SELECT fl_rate_body(ROW(NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL)::fl_rate_verdict)$$,
	$$SELECT fl_rate_headers(ROW(NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL)::fl_rate_verdict)$$, $$SELECT fl_rate_json(ROW(NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL)::fl_rate_verdict)$$]) AS s;
SELECT pg_temp.answer(s) FROM unnest(ARRAY[$$SELECT fl_rate_raise(ROW(false,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL)::fl_rate_verdict)$$, $$SELECT fl_rate_body(ROW(false,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL)::fl_rate_verdict) ? 'message'$$,
	$$SELECT fl_rate_headers(ROW(false,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL)::fl_rate_verdict)$$, $$SELECT fl_rate_json(ROW(false,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL)::fl_rate_verdict) ->> 'allowed'$$]) AS s;
-- An infinite date is no date that a client could wait for, and no crash.
SELECT fl_rate_body(v) -> 'nextValidRequestDate', fl_rate_headers(v) IS NOT NULL, fl_rate_json(v) IS NOT NULL FROM pg_temp.verdict(false, 'refused', 0, 'infinity', 'infinity') AS v;
SELECT fl_rate_body(v) IS NOT NULL, fl_rate_headers(v) IS NOT NULL, fl_rate_json(v) IS NOT NULL FROM pg_temp.verdict(false, 'refused', 0, '294276-12-31 23:59:59+00', '4713-01-01 00:00 BC') AS v;

-- Whoever owns the extension can change its types and tables. That is an error then, and no crash.
ALTER TYPE fl_rate_verdict ALTER ATTRIBUTE reason TYPE bigint;
SELECT pg_temp.answers($$SELECT fl_rate_try('user', 'k', 'ai')$$, $$SELECT fl_rate_try_batch('{user}', '{k}', '{ai}')$$,
	$$SELECT fl_rate_json(ROW(true,123456,1,'1s',now(),now(),'s','k','a','n',1,1,'1s')::fl_rate_verdict, 'array')$$, $$SELECT fl_rate_raise(ROW(true,123456,1,'1s',now(),now(),'s','k','a','n',1,1,'1s')::fl_rate_verdict)$$);
ALTER TABLE fl_rate_secret DROP CONSTRAINT fl_rate_secret_is_32_bytes;
ALTER TABLE fl_rate_secret ALTER secret TYPE integer USING 4;
\c
SELECT fl_rate_check('user', 'k', 'ai');
ALTER TABLE fl_rate_secret RENAME TO fl_rate_no_secret;
CREATE VIEW fl_rate_secret AS SELECT decode(repeat('00', 32), 'hex') AS secret;
SELECT fl_rate_check('user', 'k', 'ai');
ALTER TABLE fl_rate_limit RENAME TO fl_rate_no_limit;
CREATE VIEW fl_rate_limit AS SELECT * FROM fl_rate_no_limit;
SELECT fl_rate_check('user', 'k', 'ai');
DROP VIEW fl_rate_limit, fl_rate_secret;

SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
