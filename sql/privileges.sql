-- Nobody can spend, read or reset someone else's quota without a grant.
\getenv directory PG_ABS_SRCDIR
\set answer :directory /test/answer.sql
\i :answer
CREATE VIEW pg_temp.member AS
	SELECT d.classid, d.objid FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'fliplet_ratelimit';

-- PUBLIC may run only what touches no counter, and read no table or view.
SELECT objid::regprocedure FROM pg_temp.member WHERE classid = 'pg_proc'::regclass AND has_function_privilege('public', objid, 'EXECUTE') ORDER BY objid::regprocedure::text COLLATE "C";
SELECT objid::regclass, p FROM pg_temp.member JOIN pg_class AS c ON c.oid = objid AND relkind IN ('r', 'v', 'p', 'm'), unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS p
WHERE classid = 'pg_class'::regclass AND has_table_privilege('public', objid, p);
-- No function is SECURITY DEFINER but the triggers on the definitions, and maintenance.
SELECT objid::regproc FROM pg_temp.member JOIN pg_proc AS p ON p.oid = objid WHERE classid = 'pg_proc'::regclass AND p.prosecdef AND p.prorettype <> 'trigger'::regtype;

CREATE ROLE regress_fl_public;
CREATE ROLE regress_fl_caller;
CREATE ROLE regress_fl_waiter;
CREATE ROLE regress_fl_login;
CREATE ROLE regress_fl_operator;
CREATE ROLE regress_fl_admin;
-- callers
GRANT EXECUTE ON FUNCTION fl_rate_check(text, text, text, bigint, text), fl_rate_check(text, bigint, text, bigint, text), fl_rate_check_all(text[], text[], text, bigint, text),
	fl_rate_try(text, text, text, bigint, text), fl_rate_try(text, bigint, text, bigint, text), fl_rate_try_all(text[], text[], text, bigint, text),
	fl_rate_peek(text, text, text, bigint, text), fl_rate_peek(text, bigint, text, bigint, text), fl_rate_peek_all(text[], text[], text, bigint, text),
	fl_rate_try_batch(text[], text[], text[], bigint[], text[]), fl_rate_refund(text, text, text, bigint, text), fl_rate_refund(text, bigint, text, bigint, text) TO regress_fl_caller;
-- waiters, login code, operators
GRANT EXECUTE ON FUNCTION fl_rate_wait(text, text, text, bigint, text, interval), fl_rate_wait(text, bigint, text, bigint, text, interval) TO regress_fl_waiter;
GRANT EXECUTE ON FUNCTION fl_rate_reset(text, text, text), fl_rate_reset(text, bigint, text) TO regress_fl_login;
GRANT pg_monitor TO regress_fl_operator;
-- administrators
GRANT SELECT, INSERT, UPDATE, DELETE ON fl_rate_limit TO regress_fl_admin;
GRANT EXECUTE ON FUNCTION fl_rate_define(text, text, text, bigint, interval, text, text, text, bigint, timestamptz, text, text, interval, boolean, timestamptz, timestamptz, text), fl_rate_undefine(text, text, text),
	fl_rate_explain(text, text, text, text), fl_rate_stats_reset(), fl_rate_forget(text, text), fl_rate_reset_all(), fl_rate_age(text, text, text, interval), fl_rate_counter_rows(), fl_rate_stats_of(text), fl_rate_store_row() TO regress_fl_admin;
GRANT SELECT ON fl_rate_counters, fl_rate_stats, fl_rate_store TO regress_fl_admin;

-- One call of each function and each view, as each of them
CREATE TEMP TABLE call (n int GENERATED ALWAYS AS IDENTITY, statement text);
INSERT INTO call (statement) VALUES ($$SELECT fl_rate_check('user', 'p', 'ai')$$), ($$SELECT fl_rate_check('user', 1, 'ai')$$), ($$SELECT fl_rate_check_all('{user}', '{p}', 'ai')$$),
	($$SELECT fl_rate_try('user', 'p', 'ai')$$), ($$SELECT fl_rate_try('user', 1, 'ai')$$), ($$SELECT fl_rate_try_all('{user}', '{p}', 'ai')$$), ($$SELECT fl_rate_peek('user', 'p', 'ai')$$), ($$SELECT fl_rate_peek('user', 1, 'ai')$$), ($$SELECT fl_rate_peek_all('{user}', '{p}', 'ai')$$),
	($$SELECT fl_rate_try_batch('{user}', '{p}', '{ai}')$$), ($$SELECT fl_rate_refund('user', 'p', 'ai')$$), ($$SELECT fl_rate_refund('user', 1, 'ai')$$), ($$SELECT fl_rate_wait('user', 'w', 'ai')$$), ($$SELECT fl_rate_wait('user', 9, 'ai')$$), ($$SELECT fl_rate_reset('user', 'p', 'ai')$$), ($$SELECT fl_rate_reset('user', 1, 'ai')$$),
	($$SELECT fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:00+00}')$$), ($$SELECT fl_rate_raise('(t,ok,1,,,,,,,,,,)')$$), ($$SELECT fl_rate_body('(t,ok,1,,,,,,,,,,)')$$), ($$SELECT fl_rate_headers('(t,ok,1,,,,,,,,,,)')$$), ($$SELECT fl_rate_json('(t,ok,1,,,,,,,,,,)')$$), ($$SELECT fl_rate_json('(t,ok,1,,,,,,,,,,)', 'array')$$),
	($$SELECT name FROM fl_rate_counters$$), ($$SELECT name FROM fl_rate_stats$$), ($$SELECT keys FROM fl_rate_store$$), ($$SELECT name FROM fl_rate_limit$$), ($$SELECT name FROM fl_rate_explain('user', 'p', 'ai')$$),
	($$SELECT fl_rate_define('p', 'user', 'ai', 1000, '1 h')$$), ($$UPDATE fl_rate_limit SET comment = 'c' WHERE name = 'p'$$), ($$SELECT fl_rate_undefine('p')$$), ($$DELETE FROM fl_rate_limit WHERE name = 'p'$$),
	($$SELECT fl_rate_age('user', 'p', 'ai', '1 s')$$), ($$SELECT fl_rate_stats_reset()$$), ($$SELECT fl_rate_forget('user', 'p')$$), ($$SELECT fl_rate_reset_all()$$), ($$SELECT secret FROM fl_rate_secret$$);
GRANT SELECT ON call TO PUBLIC;
CREATE FUNCTION pg_temp.may(statement text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN true;
EXCEPTION WHEN insufficient_privilege THEN
	RETURN false;
END
$$;
SET ROLE regress_fl_public;
SELECT 'public', statement FROM call WHERE pg_temp.may(statement) ORDER BY n;
SET ROLE regress_fl_caller;
SELECT 'caller', statement FROM call WHERE pg_temp.may(statement) AND n NOT BETWEEN 17 AND 22 ORDER BY n;
SET ROLE regress_fl_waiter;
SELECT 'waiter', statement FROM call WHERE pg_temp.may(statement) AND n NOT BETWEEN 17 AND 22 ORDER BY n;
SET ROLE regress_fl_login;
SELECT 'login', statement FROM call WHERE pg_temp.may(statement) AND n NOT BETWEEN 17 AND 22 ORDER BY n;
SET ROLE regress_fl_operator;
SELECT 'operator', statement FROM call WHERE pg_temp.may(statement) AND n NOT BETWEEN 17 AND 22 ORDER BY n;
SET ROLE regress_fl_admin;
SELECT 'admin', statement FROM call WHERE pg_temp.may(statement) AND n NOT BETWEEN 17 AND 22 ORDER BY n;
RESET ROLE;
-- An administrator's row says who wrote it, and a caller is limited by it without a right on the table.
SET SESSION AUTHORIZATION regress_fl_admin;
SELECT fl_rate_define('p', 'user', 'ai', 1, '1 h') > 0;
SELECT updated_by FROM fl_rate_limit WHERE name = 'p';
RESET SESSION AUTHORIZATION;
SET ROLE regress_fl_caller;
SELECT has_table_privilege('fl_rate_limit', 'SELECT'), v.name, v.remaining FROM fl_rate_try('user', 'q', 'ai') AS v;
SELECT pg_temp.answer($$SELECT fl_rate_check('user', 'q', 'ai')$$);
-- Row-level security on the definitions does not switch a limit off for those who see no row.
RESET ROLE;
ALTER TABLE fl_rate_limit ENABLE ROW LEVEL SECURITY;
SET ROLE regress_fl_caller;
SELECT pg_temp.answer($$SELECT fl_rate_check('user', 'q', 'ai')$$);
RESET ROLE;
ALTER TABLE fl_rate_limit DISABLE ROW LEVEL SECURITY;
-- The documented way under PostgREST: a SECURITY DEFINER function in front of a schema that is not exposed.
CREATE FUNCTION public.pre_request() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ BEGIN PERFORM public.fl_rate_check('user', 'via definer', 'ai'); END $$;
SET ROLE regress_fl_public;
SELECT pg_temp.answers($$SELECT public.pre_request()$$, $$SELECT public.pre_request()$$);
RESET ROLE;
DROP FUNCTION public.pre_request();
DROP OWNED BY regress_fl_public, regress_fl_caller, regress_fl_waiter, regress_fl_login, regress_fl_operator, regress_fl_admin;
DROP ROLE regress_fl_public, regress_fl_caller, regress_fl_waiter, regress_fl_login, regress_fl_operator, regress_fl_admin;
-- What ALTER DEFAULT PRIVILEGES grants reaches none of the extension's objects; and what only has such a name is left as it is.
SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
CREATE ROLE regress_fl_default;
CREATE FUNCTION fl_rate_mine() RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE fl_rate_procedure() LANGUAGE sql AS 'SELECT 1';
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_fl_default;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO regress_fl_default;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO regress_fl_default;
CREATE EXTENSION fliplet_ratelimit;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM regress_fl_default;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON SEQUENCES FROM regress_fl_default;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM regress_fl_default;
SELECT oid::regclass FROM pg_class WHERE relname ~ '^fl_' AND relacl::text ~ 'regress_fl_default';
SELECT oid::regprocedure FROM pg_proc WHERE proname ~ '^fl_' AND proacl::text ~ 'regress_fl_default';
SELECT has_function_privilege('regress_fl_default', 'fl_rate_mine()', 'EXECUTE'), has_function_privilege('regress_fl_default', 'fl_rate_procedure()', 'EXECUTE');
SELECT count(*) FROM pg_init_privs WHERE classoid = 'pg_proc'::regclass AND objoid = 'fl_rate_mine()'::regprocedure;
DROP FUNCTION fl_rate_mine();
DROP PROCEDURE fl_rate_procedure();
DROP ROLE regress_fl_default;

SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
