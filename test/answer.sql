\set ECHO none
-- answer.sql: how the regression tests begin
--
-- A fresh extension, output that does not differ from run to run, and
-- pg_temp.answer(), which shows what a statement answers or how it fails.

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
	RETURN concat_ws(E'\n    ', SQLSTATE || ' ' || message, nullif(detail, ''), nullif(hint, ''));
END
$$;
CREATE FUNCTION pg_temp.answers(VARIADIC statements text[]) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT s || E'\n  ' || pg_temp.answer(s) FROM unnest(statements) WITH ORDINALITY AS u (s, n) ORDER BY n
$$;
\set ECHO all
