-- A refusal is an HTTP 429 in every field of the error.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS fliplet_ratelimit CASCADE;
CREATE EXTENSION fliplet_ratelimit;
RESET client_min_messages;
\pset format unaligned
\pset tuples_only on

-- Each field of the error that a statement raises, with what differs from run to run replaced
CREATE FUNCTION pg_temp.fields(statement text) RETURNS TABLE (field text, value text) LANGUAGE plpgsql AS $$
DECLARE
	state text; message text; detail text; hint text; name text; col text; tab text; context text;
BEGIN
	EXECUTE statement;
	RETURN QUERY VALUES ('no error', NULL);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT,
		name = CONSTRAINT_NAME, col = COLUMN_NAME, tab = TABLE_NAME;
	RETURN QUERY SELECT f, regexp_replace(regexp_replace(v, '\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z', '<date>'), 'Retry after \d+\.\d{3} seconds', 'Retry after <seconds> seconds')
	FROM (VALUES ('SQLSTATE', state), ('MESSAGE', message), ('DETAIL', detail), ('HINT', hint), ('CONSTRAINT', name), ('COLUMN', col), ('TABLE', tab)) AS t (f, v);
END
$$;
-- DETAIL as JSON
CREATE FUNCTION pg_temp.detail(statement text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	EXECUTE statement;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN detail;
END
$$;

SELECT fl_rate_check('user', 'e1', 'ai', 10);
SELECT * FROM pg_temp.fields($$SELECT fl_rate_check('user', 'e1', 'ai')$$);
-- DETAIL is one JSON object with these three keys and no others.
SELECT k FROM json_object_keys(pg_temp.detail($$SELECT fl_rate_check('user', 'e1', 'ai')$$)) AS k;
SELECT d->>'message', d->>'referenceUrl', (d->>'nextValidRequestDate')::timestamptz BETWEEN now() AND now() + interval '61 s'
FROM pg_temp.detail($$SELECT fl_rate_check('user', 'e1', 'ai')$$) AS d;
-- Its date is that of the verdict, rounded up to the millisecond.
SELECT (d->>'nextValidRequestDate')::timestamptz - v.next_valid_at BETWEEN '-0.00001 s' AND '0.001 s'
FROM pg_temp.detail($$SELECT fl_rate_check('user', 'e1', 'ai')$$) AS d, fl_rate_peek('user', 'e1', 'ai') AS v;
-- HINT says when, with milliseconds.
DO $$
DECLARE
	hint text;
BEGIN
	PERFORM fl_rate_check('user', 'e1', 'ai');
EXCEPTION WHEN SQLSTATE 'PT429' THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RAISE NOTICE '%', substring(hint FROM '^Retry after (\d+\.\d{3}) seconds\.$')::numeric BETWEEN 30 AND 60;
END
$$;
-- The same from the other functions that raise; the name is that of the limit that decided.
SELECT * FROM pg_temp.fields($$SELECT fl_rate_check_all('{app,user}', '{e1,e1}', 'ai')$$) WHERE field IN ('SQLSTATE', 'DETAIL', 'HINT', 'CONSTRAINT');
SELECT * FROM pg_temp.fields($$SELECT fl_rate_raise(fl_rate_peek('user', 'e1', 'ai'))$$) WHERE field IN ('SQLSTATE', 'DETAIL', 'HINT', 'CONSTRAINT');
SELECT * FROM pg_temp.fields($$SELECT fl_rate_wait('user', 'e1', 'ai', max_wait => '1 s')$$) WHERE field IN ('SQLSTATE', 'DETAIL', 'HINT', 'CONSTRAINT');

-- What could never fit: the same error, a null date, and a hint that says so.
SELECT * FROM pg_temp.fields($$SELECT fl_rate_check('user', 'e2', 'ai', 11)$$);
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests) VALUES ('fliplet/ai', 'user', 'ai', 'banned', 0);
SELECT * FROM pg_temp.fields($$SELECT fl_rate_check('user', 'banned', 'ai')$$) WHERE field IN ('SQLSTATE', 'DETAIL', 'HINT', 'CONSTRAINT');
-- No text that the extension composes contains the subject's key.
SELECT fl_rate_check('user', 'Geheimnis', 'ai', 10);
SELECT count(*), bool_or(value LIKE '%Geheimnis%') FROM pg_temp.fields($$SELECT fl_rate_check('user', 'Geheimnis', 'ai')$$);
SELECT count(*), bool_or(value LIKE '%Geheimnis%') FROM pg_temp.fields($$SELECT fl_rate_check('user', 'Geheimnis', 'aj')$$);
SELECT count(*), bool_or(value LIKE '%Geheimnis%') FROM pg_temp.fields($$SELECT fl_rate_check_all('{user,user}', '{Geheimnis,Geheimnis}', 'ai')$$);

-- message and reference_url are settings; JSON stays JSON whatever they say.
SET fliplet_ratelimit.message = E'Zu viele: "\\ \t%s %d\n✓';
SET fliplet_ratelimit.reference_url = 'https://example.com/?a="b"&c=\d';
SELECT * FROM pg_temp.fields($$SELECT fl_rate_check('user', 'e1', 'ai')$$) WHERE field IN ('MESSAGE', 'DETAIL');
SELECT d->>'message' = current_setting('fliplet_ratelimit.message'), d->>'referenceUrl' = current_setting('fliplet_ratelimit.reference_url') FROM pg_temp.detail($$SELECT fl_rate_check('user', 'e1', 'ai')$$) AS d;
SET fliplet_ratelimit.message = '';
SELECT * FROM pg_temp.fields($$SELECT fl_rate_check('user', 'e1', 'ai')$$) WHERE field IN ('SQLSTATE', 'MESSAGE', 'DETAIL');
RESET fliplet_ratelimit.message;
RESET fliplet_ratelimit.reference_url;

-- error_style = pgrst: what PostgREST needs to set headers
SET fliplet_ratelimit.error_style = 'pgrst';
SELECT field, value FROM pg_temp.fields($$SELECT fl_rate_check('user', 'e1', 'ai')$$) WHERE field IN ('SQLSTATE', 'CONSTRAINT');
SELECT j.key, json_typeof(j.value), CASE WHEN j.key IN ('code', 'message', 'hint') THEN j.value::text END
FROM pg_temp.fields($$SELECT fl_rate_check('user', 'e1', 'ai')$$) AS f, json_each(f.value::json) AS j WHERE f.field = 'MESSAGE';
SELECT j.key, json_typeof(j.value) FROM pg_temp.fields($$SELECT fl_rate_check('user', 'e1', 'ai')$$) AS f, json_each((f.value::json->>'details')::json) AS j WHERE f.field = 'MESSAGE';
SELECT j.key, json_typeof(j.value), CASE WHEN j.key = 'status' THEN j.value::text END FROM json_each(pg_temp.detail($$SELECT fl_rate_check('user', 'e1', 'ai')$$)) AS j;
SELECT j.key, json_typeof(j.value), CASE WHEN j.key = 'RateLimit-Policy' THEN j.value #>> '{}' ELSE regexp_replace(j.value #>> '{}', '\d\d$', '<seconds>') END FROM json_each(pg_temp.detail($$SELECT fl_rate_check('user', 'e1', 'ai')$$)->'headers') AS j ORDER BY j.key COLLATE "C";
-- Without a date there is no Retry-After.
SELECT j.key, j.value FROM json_each(pg_temp.detail($$SELECT fl_rate_check('user', 'e2', 'ai', 11)$$)->'headers') AS j ORDER BY j.key COLLATE "C";
SELECT f.value::json->>'hint', (f.value::json->>'details')::json->>'nextValidRequestDate' FROM pg_temp.fields($$SELECT fl_rate_check('user', 'e2', 'ai', 11)$$) AS f WHERE f.field = 'MESSAGE';
-- Other errors keep their form.
SELECT * FROM pg_temp.fields($$SELECT fl_rate_check('user', 'e1', 'ai', 0)$$) WHERE field IN ('SQLSTATE', 'MESSAGE');
RESET fliplet_ratelimit.error_style;

-- A refusal can be caught, and what it recorded stays.
DO $$
BEGIN
	PERFORM fl_rate_check('user', 'e1', 'ai');
	RAISE NOTICE 'granted';
EXCEPTION WHEN SQLSTATE 'PT429' THEN
	RAISE NOTICE 'refused';
END
$$;
SELECT fl_rate_check('user', 'e3', 'ai', 10);
\set VERBOSITY terse
SELECT fl_rate_check('user', 'e3', 'ai');
SELECT fl_rate_check('user', 'e3', 'ai');
\set VERBOSITY default
SELECT granted, refused FROM fl_rate_counters WHERE key = 'e3';

SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
