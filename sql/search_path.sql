-- Look-alikes in the search_path change nothing.
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
CREATE TABLE public.entries (owner text);
CREATE TRIGGER limited BEFORE INSERT ON public.entries FOR EACH ROW EXECUTE FUNCTION public.fl_rate_trigger('user', 'ai', 'column:owner');

-- Everything in this schema raises an error, and is found before what it looks like.
CREATE SCHEMA regress_fl_trap;
CREATE FUNCTION pg_temp.set_traps() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	s text;
	t text[];
BEGIN
	FOREACH s IN ARRAY ARRAY['now()|timestamptz', 'lower(text)|text', 'octet_length(text)|int', 'current_setting(text)|text', 'current_setting(text, boolean)|text', 'hashtext(text)|int', 'pg_advisory_xact_lock(int, int)|void',
		'format(text, text)|text', 'format(text, int)|text', 'isfinite(timestamptz)|boolean', 'fl_rate_shipped()|SETOF text', 'make_interval(years int, months int)|interval', 'clock_timestamp()|timestamptz', 'fl_rate_stats_of(text)|bigint'] LOOP
		EXECUTE format('CREATE FUNCTION regress_fl_trap.%s RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN RAISE EXCEPTION %L; END $f$', split_part(s, '|', 1), split_part(s, '|', 2), 'trap: ' || s);
	END LOOP;
	FOREACH s IN ARRAY ARRAY['=|text|text', '<>|text|text', '~|text|text', '=|int|int', '<>|int|int', '<=|int|int', '>|int|int', '>|bigint|int', '>=|bigint|int', '=|boolean|boolean', '=|numeric|int', '=|numeric|numeric',
		'>|interval|interval', '<=|interval|interval', '>|timestamptz|timestamptz', '=|name|name', '=|oid|oid', '=|interval|interval'] LOOP
		t := string_to_array(s, '|');
		EXECUTE format('CREATE OR REPLACE FUNCTION regress_fl_trap.op(%s, %s) RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN RAISE EXCEPTION %L; END $f$', t[2], t[3], 'trap: operator of ' || t[2] || ' and ' || t[3]);
		EXECUTE format('CREATE OPERATOR regress_fl_trap.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = regress_fl_trap.op)', t[1], t[2], t[3]);
	END LOOP;
	EXECUTE 'CREATE FUNCTION regress_fl_trap.concat(text, text) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RAISE EXCEPTION ''trap: ||''; END $f$';
	EXECUTE 'CREATE OPERATOR regress_fl_trap.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = regress_fl_trap.concat)';
END
$$;
SELECT pg_temp.set_traps();
CREATE TABLE regress_fl_trap.fl_rate_limit (LIKE public.fl_rate_limit INCLUDING ALL);
CREATE TABLE regress_fl_trap.fl_rate_secret (secret bytea);
INSERT INTO regress_fl_trap.fl_rate_limit (name, scope, api, max_requests, period) VALUES ('trap', 'user', 'ai', 0, NULL);

-- In front of the others
SET search_path = regress_fl_trap, pg_catalog, public;
SELECT 1 = 1;
SELECT public.fl_rate_check('user', 'h1', 'ai', 3);
SELECT public.fl_rate_check('user', 1, 'ai', 3);
SELECT public.fl_rate_check_all('{user,app}', '{h1,h1}', 'ai');
SELECT v.name, v.remaining FROM public.fl_rate_try('user', 'h1', 'ai') AS v;
SELECT v.name, v.remaining FROM public.fl_rate_try_batch('{user}', '{h1}', '{ai}') AS v;
SELECT public.fl_rate_wait('user', 'h1', 'ai');
SELECT public.fl_rate_refund('user', 'h1', 'ai');
SELECT v.applies, v.why FROM public.fl_rate_explain('user', 'h1', 'ai') AS v;
SELECT s.allowed FROM public.fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:00+00}', algorithm => 'fixed_window') AS s;
SELECT public.fl_rate_headers(v) -> 'RateLimit-Policy', public.fl_rate_body(v) IS NULL, public.fl_rate_json(v) -> 'allowed', public.fl_rate_raise(v) FROM public.fl_rate_peek('user', 'h1', 'ai') AS v;
INSERT INTO public.entries VALUES ('h2');
SELECT name, used FROM public.fl_rate_counters ORDER BY used, name;
SELECT count(*) FROM public.fl_rate_stats;
SELECT keys FROM public.fl_rate_store;
SELECT public.fl_rate_define('mine', 'user', 'ai', 7, '1 month', algorithm => 'fixed_window', time_zone => 'Europe/London') IS NOT NULL;
SELECT public.fl_rate_define('mine', 'user', 'ai', 8, '1 h') IS NOT NULL;
INSERT INTO public.fl_rate_limit (name, scope, api, key, max_requests, period, on_limit, max_delay, valid_from, valid_until) VALUES ('mine', 'user', 'ai', 'h1', 9, '2 h', 'delay', '3 s', '2020-01-01', '2100-01-01');
INSERT INTO public.fl_rate_limit (name, scope, api, plan, max_requests, period) VALUES ('mine', 'app', 'ai', 'p', 9, '2 h');
DELETE FROM public.fl_rate_limit;
TRUNCATE public.fl_rate_limit;
SELECT v.name, v.remaining FROM public.fl_rate_try('user', 'h3', 'ai') AS v;
SELECT public.fl_rate_undefine('mine', key => 'h1'), public.fl_rate_undefine('mine');
SELECT public.fl_rate_age('user', 'h1', 'ai', '1 s'), public.fl_rate_reset('user', 'h1', 'ai'), public.fl_rate_forget('user', 'h1');
SELECT public.fl_rate_stats_reset();
SELECT public.fl_rate_reset_all() IS NOT NULL;

-- Nothing but pg_catalog, and nothing at all
SET search_path = pg_catalog;
SELECT public.fl_rate_check('user', 'c1', 'ai');
SELECT public.fl_rate_define('mine', 'user', 'ai', 8, '1 h') > 0;
SELECT v.name FROM public.fl_rate_try('user', 'c1', 'ai') AS v;
SELECT public.fl_rate_undefine('mine');
SELECT count(*) FROM public.fl_rate_stats;
SET search_path = '';
SELECT public.fl_rate_check('user', 'c1', 'ai');
INSERT INTO public.entries VALUES ('c1');
SELECT name, used FROM public.fl_rate_counters WHERE key = 'c1' AND name LIKE 'fliplet/%';
SELECT limit_id < 0, why FROM public.fl_rate_explain('user', 'c1', 'ai');
-- A temporary table does not stand in for the definitions.
RESET search_path;
CREATE TEMP TABLE fl_rate_limit AS SELECT * FROM public.fl_rate_limit;
UPDATE fl_rate_limit SET max_requests = 1000;
SELECT v.max_requests FROM public.fl_rate_try('user', 'c1', 'ai') AS v;
SELECT public.fl_rate_define('mine', 'user', 'ai', 8, '1 h') > 0;
SELECT count(*) FROM pg_temp.fl_rate_limit WHERE name = 'mine';
DROP TABLE pg_temp.fl_rate_limit;
DROP TABLE public.entries;
DROP EXTENSION fliplet_ratelimit;

-- The extension can be created in a schema that is full of them.
DROP TABLE regress_fl_trap.fl_rate_limit, regress_fl_trap.fl_rate_secret;
DROP FUNCTION regress_fl_trap.fl_rate_shipped(), regress_fl_trap.fl_rate_stats_of(text);
CREATE EXTENSION fliplet_ratelimit SCHEMA regress_fl_trap;
SELECT regress_fl_trap.fl_rate_check('user', 't1', 'ai');
SELECT regress_fl_trap.fl_rate_define('mine', 'user', 'ai', 7, '1 month', algorithm => 'fixed_window') IS NOT NULL;
SELECT v.name FROM regress_fl_trap.fl_rate_try('user', 't1', 'ai') AS v;
SELECT count(*) FROM regress_fl_trap.fl_rate_stats;
SET client_min_messages = warning;
DROP SCHEMA regress_fl_trap CASCADE;
