-- Hostile roles: what nobody, everybody, and those with a right too many can do
--
-- rights.sql names functions one by one; here they come from the catalogs, so
-- that what a later version adds is tested too.

BEGIN;
SELECT * FROM no_plan();

SELECT fl_rate_reset_all() >= 0 AS begin_clean;
SET LOCAL client_min_messages = warning;

CREATE ROLE flr_nobody;
CREATE ROLE flr_owner;
CREATE ROLE flr_admin;
CREATE ROLE flr_reader IN ROLE pg_read_all_data;
CREATE ROLE flr_writer IN ROLE pg_write_all_data;
CREATE ROLE flr_operator IN ROLE pg_monitor;

CREATE TEMPORARY VIEW member AS
    SELECT d.classid, d.objid FROM pg_depend AS d
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
      AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'fliplet_ratelimit');

-- The functions of the documented list, and what everybody may do with them
CREATE FUNCTION pg_temp.is_public(f oid) RETURNS boolean LANGUAGE sql AS $$
    SELECT p.proname IN ('fl_rate_simulate', 'fl_rate_raise', 'fl_rate_body', 'fl_rate_headers', 'fl_rate_json') FROM pg_proc AS p WHERE p.oid = f
$$;

-- A call of a function with nothing but NULLs
CREATE FUNCTION pg_temp.call_of(f oid) RETURNS text LANGUAGE sql AS $$
    SELECT format('SELECT %s(%s)', f::regproc,
                  (SELECT string_agg(format('NULL::%s', format_type(t, NULL)), ', ' ORDER BY i)
                   FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a (t, i)))
    FROM pg_proc AS p WHERE p.oid = f
$$;

-- How a statement ends: its SQLSTATE, or WORKS. What it did to tables is undone.
CREATE FUNCTION pg_temp.state_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RAISE SQLSTATE 'WORKS';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END
$$;

-- ---------------------------------------------------------------------------
-- A role with nothing granted
-- ---------------------------------------------------------------------------

SELECT set_eq('SELECT DISTINCT classid::regclass::text FROM member', ARRAY['pg_proc', 'pg_class', 'pg_type'],
              'the extension is made of kinds of objects that are tested here');
SELECT set_eq($$ SELECT objid::regtype::text FROM member JOIN pg_type AS t ON t.oid = objid JOIN pg_class AS c ON c.oid = t.typrelid AND c.relkind = 'c' WHERE classid = 'pg_type'::regclass $$, ARRAY['fl_rate_verdict', 'fl_rate_backtest_summary'],
              'its types are records, which anybody may write down');
SELECT set_eq($$ SELECT DISTINCT c.relkind::text FROM member JOIN pg_class AS c ON c.oid = objid WHERE classid = 'pg_class'::regclass $$,
              ARRAY['r', 'v', 'S'], 'it has tables, views and sequences');

CREATE TEMPORARY TABLE attempts (id integer GENERATED ALWAYS AS IDENTITY, statement text);
INSERT INTO attempts (statement)
    SELECT pg_temp.call_of(objid) FROM member WHERE classid = 'pg_proc'::regclass AND NOT pg_temp.is_public(objid) ORDER BY 1;
INSERT INTO attempts (statement)
    SELECT format('CREATE TRIGGER t BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION %s()', objid::regproc)
    FROM member JOIN pg_proc AS p ON p.oid = objid WHERE classid = 'pg_proc'::regclass AND p.prorettype = 'trigger'::regtype ORDER BY 1;
INSERT INTO attempts (statement)
    SELECT format(s, objid::regclass, (SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = objid AND attnum = 1))
    FROM member JOIN pg_class AS c ON c.oid = objid,
         unnest(CASE c.relkind WHEN 'S' THEN ARRAY['SELECT nextval(''%s'')', 'SELECT setval(''%s'', 1)', 'SELECT last_value FROM %s']
                WHEN 'v' THEN ARRAY['SELECT * FROM %s', 'SELECT count(*) FROM %s', 'CREATE VIEW pg_temp.mine_too AS SELECT * FROM %s; SELECT * FROM mine_too', 'LOCK TABLE %s']
                ELSE ARRAY['SELECT * FROM %s', 'SELECT count(*) FROM %s', 'INSERT INTO %s DEFAULT VALUES', 'UPDATE %s SET %s = DEFAULT',
                           'DELETE FROM %s', 'TRUNCATE %s', 'LOCK TABLE %s IN ACCESS SHARE MODE', 'LOCK TABLE %s IN ACCESS EXCLUSIVE MODE',
                           'SELECT FROM %s FOR UPDATE', 'CREATE TABLE pg_temp.child () INHERITS (%s)',
                           'CREATE TRIGGER t BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()',
                           'CREATE POLICY p ON %s', 'CREATE RULE r AS ON INSERT TO %s DO INSTEAD NOTHING', 'CREATE INDEX ON %s (%s)',
                           'ALTER TABLE %s DISABLE TRIGGER ALL', 'ALTER TABLE %s ADD COLUMN x integer', 'DROP TABLE %s', 'CREATE STATISTICS s ON name, scope FROM %s'] END) AS s
    WHERE classid = 'pg_class'::regclass ORDER BY objid::regclass::text, s;
INSERT INTO attempts (statement) VALUES ('ALTER EXTENSION fliplet_ratelimit UPDATE'), ('DROP EXTENSION fliplet_ratelimit'), ('ALTER EXTENSION fliplet_ratelimit DROP TABLE fl_rate_secret'),
    ('ALTER TYPE fl_rate_verdict ADD ATTRIBUTE x integer'), ('DROP TYPE fl_rate_verdict CASCADE'),
    ('ALTER FUNCTION fl_rate_check(text, text, text, bigint, text) COST 1'), ('CREATE OR REPLACE FUNCTION fl_rate_check(scope text, key text, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL) RETURNS bigint LANGUAGE sql RETURN 1');
GRANT SELECT ON attempts, member TO PUBLIC;
GRANT CREATE ON SCHEMA public TO flr_nobody;

SET LOCAL SESSION AUTHORIZATION flr_nobody;
CREATE TEMPORARY TABLE mine (x integer);
SELECT is(pg_temp.state_of(statement), '42501', 'without a grant: ' || statement) FROM attempts ORDER BY id;
-- What ANALYZE has noted of the definitions, keys among it, follows their rights.
RESET SESSION AUTHORIZATION;
ANALYZE fl_rate_limit;
SELECT cmp_ok((SELECT count(*) FROM pg_stats WHERE tablename = 'fl_rate_limit'), '>', 0::bigint, 'there are statistics of the planner');
SET LOCAL SESSION AUTHORIZATION flr_nobody;
SELECT is((SELECT count(*) FROM pg_stats WHERE tablename ~ '^fl_rate_'), 0::bigint, 'of which a role with nothing sees none');
SET LOCAL SESSION AUTHORIZATION flr_operator;
SELECT is((SELECT count(*) FROM pg_stats WHERE tablename ~ '^fl_rate_'), 0::bigint, 'nor does pg_monitor');
RESET SESSION AUTHORIZATION;

-- A function that everybody may call refuses a NULL, and does nothing else
SET LOCAL SESSION AUTHORIZATION flr_nobody;
SELECT is(pg_temp.state_of(pg_temp.call_of(objid)), '22004', 'for everybody, with NULLs: ' || objid::regprocedure)
FROM member WHERE classid = 'pg_proc'::regclass AND pg_temp.is_public(objid) ORDER BY objid::regprocedure::text;
-- What is asked of fl_rate_simulate is answered, or refused for what it is.
SELECT is(pg_temp.state_of('SELECT * FROM fl_rate_simulate(' || arguments || ')'), state, format('fl_rate_simulate(%s): %s', left(arguments, 100), state))
FROM (VALUES ($$-1, '1 s', '{2020-01-01}'$$, '22023'), ($$0, '1 s', '{2020-01-01}'$$, 'WORKS'), ($$9223372036854775807, '73000 days', '{2020-01-01,2020-01-01}', '{9223372036854775807,9223372036854775807}'$$, 'WORKS'),
             ($$1, '-1 s', '{2020-01-01}'$$, '22023'), ($$1, '0', '{2020-01-01}'$$, '22023'), ($$1, '178000000 years', '{2020-01-01}'$$, '22023'), ($$1, '1 us', '{4714-11-24 BC,294276-12-31 23:59:59.999999}'$$, 'WORKS'),
             ($$1, '1 s', '{infinity}'$$, '22023'), ($$1, '1 s', '{-infinity}'$$, '22023'), ($$1, '1 s', '{2020-01-01,NULL}'$$, '22004'), ($$1, '1 s', '{{2020-01-01},{2020-01-02}}'$$, '2202E'), ($$1, '1 s', '{2020-01-02,2020-01-01}'$$, '22023'),
             ($$1, '1 s', '{2020-01-01}', '{0}'$$, '22023'), ($$1, '1 s', '{2020-01-01}', '{-9223372036854775808}'$$, '22023'), ($$1, '1 s', '{2020-01-01}', '{1,1}'$$, '2202E'), ($$1, '1 s', '{2020-01-01}', '{NULL}'$$, '22004'),
             ($$1, '1 s', '{2020-01-01}', NULL, E'sliding_window\n'$$, '22023'), ($$1, '1 s', '{2020-01-01}', NULL, repeat('x', 1000000)$$, '22023'), ($$1, '1 s', '{2020-01-01}', NULL, ''$$, '22023'),
             ($$9223372036854775807, '1 us', '{2020-01-01}', NULL, 'token_bucket', 9223372036854775807$$, 'WORKS'), ($$1, '73000 days', '{4714-11-24 BC,294276-12-31}', NULL, 'token_bucket', 9223372036854775807$$, 'WORKS'),
             ($$1, '1 s', '{2020-01-01}', NULL, 'token_bucket', 0$$, '22023'), ($$1, '1 month', '{4714-11-24 BC,294276-12-31}', NULL, 'fixed_window'$$, 'WORKS'), ($$1, '1 month 1 s', '{2020-01-01}', NULL, 'fixed_window'$$, '22023'),
             ($$5000, '1 s', ARRAY(SELECT '2020-01-01'::timestamptz + i * interval '1 us' FROM generate_series(1, 100000) AS i)$$, 'WORKS')) AS t (arguments, state);
RESET SESSION AUTHORIZATION;
SELECT is((SELECT count(*) FROM fl_rate_counters), 0::bigint, 'nothing of all this has made a counter');
REVOKE CREATE ON SCHEMA public FROM flr_nobody;

-- ---------------------------------------------------------------------------
-- A SECURITY DEFINER function lends its owner's right to spend, and no other
-- ---------------------------------------------------------------------------

SELECT fl_rate_define('gate', 'user', 'gate', 2, '1 h') > 0 AS defined;
GRANT CREATE ON SCHEMA public TO flr_owner;
GRANT EXECUTE ON FUNCTION fl_rate_check(text, text, text, bigint, text) TO flr_owner;
CREATE SCHEMA flr_theirs AUTHORIZATION flr_nobody;
GRANT USAGE ON SCHEMA flr_theirs TO PUBLIC;
SET LOCAL SESSION AUTHORIZATION flr_owner;
CREATE FUNCTION public.gate() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ BEGIN RETURN public.fl_rate_check('user', session_user, 'gate'); END $$;
SET LOCAL SESSION AUTHORIZATION flr_nobody;
SELECT is(gate(), 1::bigint, 'who has no grant spends through the gate');
SELECT is(gate(), 0::bigint, 'once more');
SELECT throws_ok('SELECT gate()', 'PT429', NULL, 'and is limited there');
SELECT throws_ok($$ SELECT fl_rate_check('user', 'flr_owner'::text, 'gate') $$, '42501', NULL, 'it is the only way');
SELECT throws_ok('SET ROLE flr_owner', '42501', NULL, 'there is no other');
-- the caller's surroundings reach into the function no further than they may
CREATE FUNCTION flr_theirs.fl_rate_check(text, text, text) RETURNS bigint LANGUAGE sql RETURN 99;
SET LOCAL search_path = flr_theirs, public, pg_temp;
SELECT throws_ok('SELECT public.gate()', 'PT429', NULL, 'a look-alike of the caller''s does not open it');
RESET search_path;
RESET SESSION AUTHORIZATION;

-- ---------------------------------------------------------------------------
-- Row-level security hides definitions from readers, never from enforcement
-- ---------------------------------------------------------------------------

GRANT SELECT, INSERT, UPDATE, DELETE ON fl_rate_limit TO flr_admin;
GRANT EXECUTE ON FUNCTION fl_rate_define, fl_rate_undefine, fl_rate_explain, fl_rate_check(text, text, text, bigint, text),
    fl_rate_try(text, text, text, bigint, text), fl_rate_stats_of TO flr_admin;
GRANT SELECT ON fl_rate_stats TO flr_admin;
SELECT fl_rate_define('ours', 'user', 'hidden', 1, '1 h') > 0 AS defined;
ALTER TABLE fl_rate_limit ENABLE ROW LEVEL SECURITY;
ALTER TABLE fl_rate_limit FORCE ROW LEVEL SECURITY;
SET LOCAL SESSION AUTHORIZATION flr_admin;
SELECT is((SELECT count(*) FROM fl_rate_limit), 0::bigint, 'row-level security without a policy: no row is seen');
SELECT is(fl_rate_check('user', 'rls', 'hidden'), 0::bigint, 'the limit applies');
SELECT throws_ok($$ SELECT fl_rate_check('user', 'rls', 'hidden') $$, 'PT429', NULL, 'and refuses');
SET LOCAL row_security = off;
SELECT throws_ok($$ SELECT fl_rate_check('user', 'rls', 'hidden') $$, 'PT429', NULL, 'whatever row_security is');
SELECT throws_ok('SELECT FROM fl_rate_limit', '42501', NULL, 'which is an error where rows would be missing');
RESET row_security;
SELECT is((SELECT array_agg(name) FROM fl_rate_explain('user', 'rls', 'hidden') WHERE applies), '{ours}', 'fl_rate_explain shows it to whom it is granted');
SELECT is((SELECT granted FROM fl_rate_stats WHERE name = 'ours'), 1::bigint, 'so does fl_rate_stats');
SELECT throws_ok($$ SELECT fl_rate_define('ours', 'user', 'hidden', 1000, '1 h') $$, '42501', NULL, 'fl_rate_define cannot change what its caller may not');
SELECT throws_ok($$ SELECT fl_rate_define('mine', 'user', 'hidden', 1000, '1 h') $$, '42501', NULL, 'nor add to it');
SELECT is(fl_rate_undefine('ours'), false, 'fl_rate_undefine finds no row');
RESET SESSION AUTHORIZATION;
CREATE POLICY their_own ON fl_rate_limit TO flr_admin USING (name ~ '^team/');
SET LOCAL SESSION AUTHORIZATION flr_admin;
SELECT lives_ok($$ INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('team/a', 'user', 'hidden', 5, '1 h') $$, 'with a policy: what it lets through');
SELECT lives_ok($$ SELECT fl_rate_define('team/a', 'user', 'hidden', 6, '1 h') $$, 'by fl_rate_define too');
SELECT is((SELECT array_agg(name) FROM fl_rate_limit), '{team/a}', 'is seen');
SELECT throws_ok($$ SELECT fl_rate_define('ours', 'user', 'hidden', 1000, '1 h') $$, '42501', NULL, 'another name is not');
SELECT throws_ok($$ INSERT INTO fl_rate_limit (name, scope, api, max_requests, period, key) VALUES ('ours', 'app', 'hidden', 5, '1 h', 'k') $$,
                 '23514', NULL, 'variants of one limit stay together over rows that are hidden');
RESET SESSION AUTHORIZATION;
SELECT is((SELECT array_agg(name ORDER BY name) FROM fl_rate_explain('user', 'rls', 'hidden') WHERE applies), '{ours,team/a}', 'all of them are enforced');
DROP POLICY their_own ON fl_rate_limit;
ALTER TABLE fl_rate_limit NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;

-- ---------------------------------------------------------------------------
-- pg_read_all_data and pg_write_all_data
-- ---------------------------------------------------------------------------

-- They have every table's rows, by PostgreSQL's definition, and no function.
SELECT is((SELECT count(*) FROM fl_rate_counters WHERE name = 'ours'), 1::bigint, 'a counter');
SET LOCAL SESSION AUTHORIZATION flr_reader;
SELECT is((SELECT count(*) FROM fl_rate_limit WHERE name = 'ours'), 1::bigint, 'pg_read_all_data reads definitions');
SELECT is((SELECT octet_length(secret) FROM fl_rate_secret), 32, 'and the secret: nothing can keep it from that');
SELECT is(pg_temp.state_of(pg_temp.call_of(p)), '42501', 'but does not call ' || p)
FROM (SELECT objid::regprocedure AS p FROM member WHERE classid = 'pg_proc'::regclass AND NOT pg_temp.is_public(objid)) AS f ORDER BY p::text;
SELECT is(pg_temp.state_of('SELECT * FROM ' || v), '42501', 'and does not read ' || v) FROM unnest('{fl_rate_counters,fl_rate_stats,fl_rate_store}'::text[]) AS v;
SELECT is(pg_temp.state_of(s), '42501', 'nor: ' || s)
FROM unnest(ARRAY['UPDATE fl_rate_secret SET secret = secret', 'DELETE FROM fl_rate_limit', 'SELECT nextval(''fl_rate_limit_limit_id_seq'')']) AS s;
SET LOCAL SESSION AUTHORIZATION flr_writer;
SELECT is(pg_temp.state_of(pg_temp.call_of(p)), '42501', 'pg_write_all_data does not call ' || p)
FROM (SELECT objid::regprocedure AS p FROM member WHERE classid = 'pg_proc'::regclass AND NOT pg_temp.is_public(objid)) AS f ORDER BY p::text;
SELECT is(pg_temp.state_of('SELECT * FROM ' || v), '42501', 'and does not read ' || v)
FROM unnest('{fl_rate_counters,fl_rate_stats,fl_rate_store,fl_rate_limit,fl_rate_secret}'::text[]) AS v;
SELECT is(pg_temp.state_of('UPDATE fl_rate_limit SET max_requests = NULL'), '55000', 'nor changes shipped limits');
SELECT is(pg_temp.state_of('TRUNCATE fl_rate_limit'), '42501', 'nor empties the table');
SELECT is(pg_temp.state_of($$ INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('theirs', 'user', 'hidden', 1000, '1 h') $$), 'WORKS',
          'but it writes definitions: it is an administrator');
-- It could also take the secret away. Then nothing is let through.
DELETE FROM fl_rate_secret;
RESET SESSION AUTHORIZATION;
SELECT is((SELECT count(*) FROM fl_rate_secret), 0::bigint, 'pg_write_all_data can delete the secret, as any row');
SELECT fl_rate_define('later', 'user', 'hidden', 1000, '1 h') > 0 AS read_again;
SELECT throws_ok($$ SELECT fl_rate_check('user', 'rls', 'hidden') $$, '55000', NULL, 'without a secret a check is an error, no pass');
INSERT INTO fl_rate_secret VALUES (sha256('another'));
SELECT lives_ok($$ SELECT fl_rate_check('user', 'rls', 'hidden') $$, 'with another secret every key begins anew');

-- ---------------------------------------------------------------------------
-- The owner of a table, with the right to make rate limit triggers
-- ---------------------------------------------------------------------------

SELECT fl_rate_define('writes', 'user', 'writes', 10, '1 h') > 0 AS defined;
GRANT EXECUTE ON FUNCTION fl_rate_trigger() TO flr_owner;
SET LOCAL SESSION AUTHORIZATION flr_owner;
CREATE TYPE public.pair AS (a text, b text);
CREATE DOMAIN public.word AS text;
CREATE TABLE public.entries (owner text, gone text, made text GENERATED ALWAYS AS ('made') STORED, two pair, word word, list text[], data bytea, code "char");
ALTER TABLE entries DROP COLUMN gone;

-- How an INSERT ends under a trigger with these arguments
CREATE FUNCTION pg_temp.insert_under(arguments text[], what text DEFAULT 'DEFAULT VALUES', each text DEFAULT 'ROW') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text;
BEGIN
    EXECUTE format('CREATE TRIGGER "a ""trigger"" %%s" BEFORE INSERT ON public.entries FOR EACH %s EXECUTE FUNCTION public.fl_rate_trigger(%s)',
                   each, (SELECT string_agg(quote_literal(a), ', ') FROM unnest(arguments) AS a));
    state := pg_temp.state_of('INSERT INTO public.entries ' || what);
    DROP TRIGGER "a ""trigger"" %s" ON public.entries;
    RETURN state;
END
$$;
SELECT is(pg_temp.insert_under(ARRAY['user', 'writes', source]), state, format('key from %s: %s', left(to_json(source)::text, 50), state))
FROM (VALUES ('column:ctid', '42703'), ('column:tableoid', '42703'), ('column:xmin', '42703'), ('column:', '42703'), ('column:*', '42703'),
             ('column:........pg.dropped.2........', '42703'), ('column:gone', '42703'), ('column:OWNER', '42703'), ('column:"owner"', '42703'),
             ('column:owner; DROP TABLE entries', '42703'), (E'column:a\nb', '42703'), ('column:%s%n', '42703'), ('column:' || repeat('x', 100000), '42703'),
             -- not computed yet when a BEFORE trigger runs: an error, no pass
             ('column:made', '22004'), ('column:owner', '22004'),
             ('setting:', '22004'), ('setting:a.b', '22004'), (E'setting:a\nb', '22004'), ('setting:%s%n', '22004'), ('setting:' || repeat('x', 100000), '22004'),
             -- what its owner could not read by SHOW
             ('setting:data_directory', '42501'), ('setting:hba_file', '42501'), ('setting:primary_conninfo', '42501'),
             ('role:x', '39P01'), ('ROLE', '39P01'), ('', '39P01'), ('%s%n', '39P01'), (repeat('x', 100000), '39P01')) AS t (source, state);
SELECT is(pg_temp.insert_under(ARRAY[scope, api, 'role']), '22023', format('scope %s, API %s: no name', to_json(left(scope, 10)), to_json(left(api, 10))))
FROM (VALUES ('', 'writes'), (E'us\ner', 'writes'), ('us"er', 'writes'), ('us\er', 'writes'), ('ü', 'writes'), (repeat('x', 64), 'writes'), (repeat('x', 100000), 'writes'),
             ('user', ''), ('user', '*'), ('user', E'wri\ntes'), ('user', 'wri"tes'), ('user', E'\x7f'), ('user', repeat('x', 100000))) AS t (scope, api);
SELECT is(pg_temp.insert_under(arguments, each => each), state, format('%s FOR EACH %s: %s', arguments, each, state))
FROM (VALUES ('{users,writes,role}'::text[], 'ROW', '42704'), ('{user,write,role}', 'ROW', '42704'), ('{*,writes,role}', 'ROW', '42704'), ('{user,writes,role,rows}', 'ROW', '39P01'),
             ('{user,writes,role,rows}', 'STATEMENT', '39P01'), ('{user,writes,column:owner}', 'STATEMENT', '39P01'), ('{user,writes,role,""}', 'ROW', '39P01'),
             ('{user,writes}', 'ROW', '39P01'), ('{}', 'ROW', '39P01'), (array_fill('role'::text, ARRAY[500]), 'STATEMENT', '39P01')) AS t (arguments, each, state);
SELECT is(pg_temp.insert_under(ARRAY['user', 'writes', 'column:' || col], format('(%s) VALUES (%s)', col, value)), 'WORKS', format('a key from %s %s', col, left(value, 30)))
FROM (VALUES ('two', $$('a', E'b\n"')$$), ('word', $$E'\n'$$), ('list', $$'{a,NULL,"*"}'$$), ('data', $$decode(repeat('00', 1000), 'hex')$$), ('code', $$'x'$$),
             ('owner', $$repeat('x', 10000000)$$)) AS t (col, value);
SELECT is(pg_temp.insert_under('{user,writes,column:owner}', $$(owner) VALUES ('*')$$), '22023', 'a column cannot name every key');

-- A right that is taken away later does not switch the trigger off.
CREATE TRIGGER limited BEFORE INSERT ON public.entries FOR EACH STATEMENT EXECUTE FUNCTION public.fl_rate_trigger('user', 'writes', 'role');
RESET SESSION AUTHORIZATION;
REVOKE EXECUTE ON FUNCTION fl_rate_trigger() FROM flr_owner;
SET LOCAL SESSION AUTHORIZATION flr_owner;
SELECT lives_ok('INSERT INTO public.entries DEFAULT VALUES', 'a trigger goes on when the right to make it is gone');
SELECT throws_ok($$ DO 'BEGIN FOR i IN 1 .. 10 LOOP INSERT INTO public.entries DEFAULT VALUES; END LOOP; END' $$, 'PT429', NULL, 'and refuses');
RESET SESSION AUTHORIZATION;

SELECT * FROM finish();
ROLLBACK;
