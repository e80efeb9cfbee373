-- Settings: names, units, checks, contexts, and what each does.
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

-- What a statement answers, or its error without what differs from run to run
CREATE FUNCTION pg_temp.answer(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	value text;
	message text;
	detail text;
	hint text;
	name text;
BEGIN
	EXECUTE statement INTO value;
	RETURN 'answers ' || coalesce(value, 'NULL');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
		hint = PG_EXCEPTION_HINT, name = CONSTRAINT_NAME;
	IF SQLSTATE = 'PT429' THEN
		RETURN 'PT429 by ' || name;
	END IF;
	IF detail LIKE 'Failing row contains%' OR detail LIKE 'Key (%' THEN
		detail := '';
	END IF;
	detail := regexp_replace(detail, '^Row \d+', 'Row N');
	-- PostgreSQL 16 and later name the unit in a range, too
	message := regexp_replace(message, '\((\d+) (?:min|s) \.\. (\d+) (?:min|s)\)$', '(\1 .. \2)');
	RETURN concat_ws(E'\n    ', SQLSTATE || ' ' || message, nullif(detail, ''), nullif(hint, ''));
END
$$;
CREATE FUNCTION pg_temp.answers(VARIADIC statements text[]) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT s || E'\n  ' || pg_temp.answer(s) FROM unnest(statements) WITH ORDINALITY AS u (s, n) ORDER BY n
$$;
LOAD 'fliplet_ratelimit';
SELECT name, boot_val, unit, context, vartype, enumvals FROM pg_settings WHERE name LIKE 'fliplet\_ratelimit.%' ORDER BY name COLLATE "C";
SELECT name FROM pg_settings WHERE name LIKE 'fliplet\_ratelimit.%' AND coalesce(short_desc, '') = '';
SHOW fliplet_ratelimit.max_memory;
SHOW fliplet_ratelimit.history_retention;
SHOW fliplet_ratelimit.save_min_period;
-- Each is checked.
SELECT pg_temp.answers($$SET fliplet_ratelimit.when_full = 'maybe'$$, $$SET fliplet_ratelimit.undefined_limit = 'maybe'$$, $$SET fliplet_ratelimit.error_style = 'html'$$, $$SET fliplet_ratelimit.store_keys = 'plain'$$,
	$$SET fliplet_ratelimit.enabled = 'perhaps'$$, $$SET fliplet_ratelimit.max_waiters = -1$$, $$SET fliplet_ratelimit.history_retention = '-1d'$$, $$SET fliplet_ratelimit.save_min_period = '-1 s'$$,
	$$SET fliplet_ratelimit.save_min_period = '3 parsecs'$$, $$SET fliplet_ratelimit.max_memory = '64MB'$$);
-- The prefix is reserved: a misspelt setting is an error.
SELECT pg_temp.answers($$SET fliplet_ratelimit.enable = off$$, $$SET fliplet_ratelimit.max_waiter = 1$$);
-- Only the style of the error is everyone's.
CREATE ROLE regress_fl_anyone;
SET ROLE regress_fl_anyone;
SET fliplet_ratelimit.error_style = 'pgrst';
RESET fliplet_ratelimit.error_style;
SELECT pg_temp.answers($$SET fliplet_ratelimit.enabled = off$$, $$SET fliplet_ratelimit.shipped_limits = off$$, $$SET fliplet_ratelimit.when_full = 'allow'$$, $$SET fliplet_ratelimit.undefined_limit = 'allow'$$,
	$$SET fliplet_ratelimit.message = 'x'$$, $$SET fliplet_ratelimit.reference_url = 'x'$$, $$SET fliplet_ratelimit.log_refusals = on$$, $$SET fliplet_ratelimit.max_waiters = 1$$, $$SET fliplet_ratelimit.store_keys = 'hash'$$,
	$$SET fliplet_ratelimit.history_retention = '1 day'$$, $$SET fliplet_ratelimit.save_min_period = '1 s'$$);
RESET ROLE;
DROP ROLE regress_fl_anyone;

-- enabled = off: the kill switch allows all, and counts nothing.
SELECT fl_rate_check('user', 'k', 'ai', 10);
SET fliplet_ratelimit.enabled = off;
SELECT fl_rate_check('user', 'k', 'ai') IS NULL, fl_rate_check_all('{user}', '{k}', 'ai') IS NULL, fl_rate_check('user', 'k', 'unknown api') IS NULL;
SELECT v.allowed, v.reason, v.remaining, v.delay, v.next_valid_at, v.reset_at, v.name, v.limit_id, v.max_requests, v.period FROM fl_rate_try('user', 'k', 'ai', 1000) AS v;
SELECT v.allowed, v.reason FROM fl_rate_peek('user', 'k', 'ai') AS v UNION ALL SELECT v.allowed, v.reason FROM fl_rate_try_all('{user,app}', '{k,k}', 'ai') AS v UNION ALL SELECT v.allowed, v.reason FROM fl_rate_peek_all('{user,app}', '{k,k}', 'ai') AS v;
SELECT fl_rate_body(v) IS NULL, fl_rate_headers(v), fl_rate_raise(v) IS NULL FROM fl_rate_try('user', 'k', 'ai') AS v;
RESET fliplet_ratelimit.enabled;
SELECT granted, refused, used FROM fl_rate_counters;
-- shipped_limits = off ignores them: their APIs are then unknown, unless another limit knows them.
SET fliplet_ratelimit.shipped_limits = off;
SELECT pg_temp.answer($$SELECT fl_rate_check('user', 'k', 'ai')$$);
SELECT count(*) FROM fl_rate_stats;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('fliplet/ai', 'user', 'ai', 12, '1 min');
SELECT v.remaining FROM fl_rate_try('user', 'k', 'ai') AS v;
RESET fliplet_ratelimit.shipped_limits;
SELECT v.remaining FROM fl_rate_try('user', 'k', 'ai') AS v;
DELETE FROM fl_rate_limit WHERE limit_id > 0;
SELECT v.allowed, v.remaining FROM fl_rate_try('user', 'k', 'ai') AS v;
SELECT count(*) FROM fl_rate_stats;
-- undefined_limit = allow lets the unknown pass, and only that.
SET fliplet_ratelimit.undefined_limit = 'allow';
SELECT v.allowed, v.reason, v.remaining FROM fl_rate_try('user', 'k', 'unknown') AS v;
SELECT v.allowed, v.reason, v.remaining FROM fl_rate_try('tenant', 'k', 'ai') AS v;
SELECT v.allowed, v.reason FROM fl_rate_try('user', 'k', 'ai') AS v;
SELECT v.allowed, v.reason, v.scope FROM fl_rate_try_all('{tenant,user}', '{k,k2}', 'ai') AS v;
RESET fliplet_ratelimit.undefined_limit;
SELECT pg_temp.answer($$SELECT fl_rate_check('user', 'k', 'unknown')$$);
-- store_keys = hash shows a digest, of which nobody can tell the key; the counter is the same.
SELECT fl_rate_reset_all() > 0;
SET fliplet_ratelimit.store_keys = 'hash';
SELECT fl_rate_check('user', 'secret subject', 'ai'), fl_rate_check('user', 'another', 'ai');
SELECT key LIKE '%secret%' OR key LIKE '%another%', length(key) >= 16, count(*) OVER (PARTITION BY key) FROM fl_rate_counters;
RESET fliplet_ratelimit.store_keys;
SELECT fl_rate_check('user', 'secret subject', 'ai');
SELECT count(*) FROM fl_rate_counters;

SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
