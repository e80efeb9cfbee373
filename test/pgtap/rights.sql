-- Rights: nobody can spend, read or reset another's quota without a grant.

BEGIN;
SELECT plan(74);

SET LOCAL client_min_messages = warning;
CREATE ROLE flr_nobody;
CREATE ROLE flr_caller;
CREATE ROLE flr_operator IN ROLE pg_monitor;

CREATE FUNCTION pg_temp.functions(pattern text) RETURNS SETOF regprocedure
LANGUAGE sql AS $$
    SELECT p.oid::regprocedure FROM pg_proc AS p JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
    WHERE d.refclassid = 'pg_extension'::regclass
      AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'fliplet_ratelimit')
      AND p.proname ~ $1
$$;

-- PUBLIC
SELECT set_eq($$ SELECT DISTINCT p.proname::text FROM pg_temp.functions('.') AS f JOIN pg_proc AS p ON p.oid = f WHERE has_function_privilege('flr_nobody', f, 'EXECUTE') $$,
              ARRAY['fl_rate_simulate', 'fl_rate_raise', 'fl_rate_body', 'fl_rate_headers', 'fl_rate_json'],
              'PUBLIC may run only what touches no counter');
SELECT is((SELECT count(*) FROM pg_class AS c JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
           WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'fliplet_ratelimit')
             AND c.relkind IN ('r', 'v')
             AND has_any_column_privilege('flr_nobody', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES')), 0::bigint,
          'and read or write no table or view');

SELECT lives_ok($$ SELECT fl_rate_define('small', 'user', 'small', 3, '1 h') $$, 'a limit');
CREATE TABLE entries (id integer);
GRANT INSERT ON entries TO flr_nobody;
CREATE TRIGGER limited BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'small', 'role');

SET LOCAL SESSION AUTHORIZATION flr_nobody;
SELECT throws_ok(statement, '42501', NULL, 'without a grant: ' || statement)
FROM unnest(ARRAY[
    $$ SELECT fl_rate_check('user', '1'::text, 'small') $$,
    $$ SELECT fl_rate_check('user', 1, 'small') $$,
    $$ SELECT fl_rate_check_all('{user}', '{1}', 'small') $$,
    $$ SELECT fl_rate_try('user', '1'::text, 'small') $$,
    $$ SELECT fl_rate_try('user', 1, 'small') $$,
    $$ SELECT fl_rate_try_all('{user}', '{1}', 'small') $$,
    $$ SELECT fl_rate_peek('user', '1'::text, 'small') $$,
    $$ SELECT fl_rate_peek_all('{user}', '{1}', 'small') $$,
    $$ SELECT fl_rate_try_batch('{user}', '{1}', '{small}') $$,
    $$ SELECT fl_rate_wait('user', '1'::text, 'small') $$,
    $$ SELECT fl_rate_refund('user', '1'::text, 'small') $$,
    $$ SELECT fl_rate_reset('user', '1'::text, 'small') $$,
    $$ SELECT fl_rate_reset_all() $$,
    $$ SELECT fl_rate_forget('user', '1') $$,
    $$ SELECT fl_rate_age('user', '1', 'small', '1 s') $$,
    $$ SELECT * FROM fl_rate_explain('user', '1', 'small') $$,
    $$ SELECT fl_rate_stats_reset() $$,
    $$ SELECT fl_rate_define('x', 'user', 'small', 3, '1 h') $$,
    $$ SELECT fl_rate_undefine('small') $$,
    $$ SELECT fl_rate_report() $$,
    $$ SELECT * FROM fl_rate_top() $$,
    $$ SELECT * FROM fl_rate_counters $$,
    $$ SELECT * FROM fl_rate_stats $$,
    $$ SELECT * FROM fl_rate_store $$,
    $$ SELECT * FROM fl_rate_limit $$,
    $$ SELECT * FROM fl_rate_secret $$,
    $$ INSERT INTO fl_rate_limit (name, scope, api, max_requests) VALUES ('x', 'user', 'small', 0) $$,
    $$ DELETE FROM fl_rate_limit $$]) AS statement;
SELECT lives_ok(statement, 'without a grant, allowed: ' || statement)
FROM unnest(ARRAY[
    $$ SELECT * FROM fl_rate_simulate(1, '1 s', ARRAY[now()]) $$,
    $$ SELECT fl_rate_body(ROW(true, 'ok', 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::fl_rate_verdict) $$,
    $$ SELECT fl_rate_json(ROW(true, 'ok', 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::fl_rate_verdict) $$,
    $$ SELECT fl_rate_json(ROW(true, 'ok', 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::fl_rate_verdict, 'array') $$,
    $$ SELECT fl_rate_headers(ROW(true, 'ok', 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::fl_rate_verdict) $$,
    $$ SELECT fl_rate_raise(ROW(true, 'ok', 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::fl_rate_verdict) $$,
    $$ INSERT INTO entries VALUES (1) $$,
    $$ INSERT INTO entries VALUES (2), (3) $$,
    $$ INSERT INTO entries VALUES (4) $$]) AS statement;
SELECT throws_ok('INSERT INTO entries VALUES (5)', 'PT429', NULL, 'the trigger limits an ordinary user without any grant');
RESET SESSION AUTHORIZATION;
SELECT is((SELECT key FROM fl_rate_counters WHERE name = 'small'), 'flr_nobody', 'by the role that writes');

-- Who may attach the trigger to a table
SET LOCAL SESSION AUTHORIZATION flr_nobody;
SELECT throws_ok($$ CREATE TEMPORARY TABLE mine (id integer);
    CREATE TRIGGER spend BEFORE INSERT ON mine FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'small', 'role') $$,
    '42501', NULL, 'making such a trigger takes a grant');
RESET SESSION AUTHORIZATION;

-- Callers
GRANT EXECUTE ON FUNCTION
    fl_rate_check(text, text, text, bigint, text), fl_rate_check(text, bigint, text, bigint, text),
    fl_rate_check_all(text[], text[], text, bigint, text),
    fl_rate_try(text, text, text, bigint, text), fl_rate_try(text, bigint, text, bigint, text),
    fl_rate_try_all(text[], text[], text, bigint, text),
    fl_rate_peek(text, text, text, bigint, text), fl_rate_peek(text, bigint, text, bigint, text),
    fl_rate_peek_all(text[], text[], text, bigint, text),
    fl_rate_try_batch(text[], text[], text[], bigint[], text[]),
    fl_rate_refund(text, text, text, bigint, text), fl_rate_refund(text, bigint, text, bigint, text)
TO flr_caller;
SET LOCAL SESSION AUTHORIZATION flr_caller;
SELECT is(fl_rate_check('user', 'c', 'small'), 2::bigint, 'a caller needs EXECUTE, and no right on the definitions');
SELECT lives_ok(statement, 'a caller: ' || statement)
FROM unnest(ARRAY[
    $$ SELECT fl_rate_check('user', 7, 'small') $$,
    $$ SELECT fl_rate_check_all('{user}', '{d}', 'small') $$,
    $$ SELECT fl_rate_try('user', 'c'::text, 'small') $$,
    $$ SELECT fl_rate_try_all('{user}', '{d}', 'small') $$,
    $$ SELECT fl_rate_peek('user', 'c'::text, 'small') $$,
    $$ SELECT fl_rate_peek_all('{user}', '{c}', 'small') $$,
    $$ SELECT fl_rate_try_batch('{user}', '{c}', '{small}') $$,
    $$ SELECT fl_rate_refund('user', 'c'::text, 'small') $$]) AS statement;
SELECT throws_ok(statement, '42501', NULL, 'not a caller: ' || statement)
FROM unnest(ARRAY[
    $$ SELECT fl_rate_wait('user', 'c'::text, 'small') $$,
    $$ SELECT fl_rate_reset('user', 'c'::text, 'small') $$,
    $$ SELECT fl_rate_reset_all() $$,
    $$ SELECT fl_rate_report() $$,
    $$ SELECT * FROM fl_rate_top() $$,
    $$ SELECT * FROM fl_rate_counters $$,
    $$ SELECT * FROM fl_rate_limit $$]) AS statement;
SELECT throws_ok($$ SELECT fl_rate_check('user', '1', 'smal') $$, '42704', NULL, 'a caller gets the errors of everybody');
RESET SESSION AUTHORIZATION;

-- Operators
SET LOCAL SESSION AUTHORIZATION flr_operator;
SELECT is((SELECT granted > 0 FROM fl_rate_stats WHERE name = 'small'), true, 'pg_monitor reads statistics');
SELECT is((SELECT keys > 0 FROM fl_rate_store), true, 'and the store');
SELECT throws_ok(statement, '42501', NULL, 'not pg_monitor: ' || statement)
FROM unnest(ARRAY[
    $$ SELECT * FROM fl_rate_counters $$,
    $$ SELECT fl_rate_report() $$,
    $$ SELECT * FROM fl_rate_top() $$,
    $$ SELECT * FROM fl_rate_explain('user', '1', 'small') $$,
    $$ SELECT fl_rate_check('user', '1'::text, 'small') $$,
    $$ SELECT fl_rate_stats_reset() $$,
    $$ SELECT * FROM fl_rate_secret $$]) AS statement;
RESET SESSION AUTHORIZATION;

-- Administrators, by the grants of README.md: what a report shows takes the right
-- to see it, beside the right to make one
CREATE ROLE flr_admin;
GRANT EXECUTE ON FUNCTION fl_rate_report(), fl_rate_top(integer), fl_rate_html(text), fl_rate_html(timestamptz),
    fl_rate_counter_rows(), fl_rate_stats_of(text), fl_rate_store_row() TO flr_admin;
GRANT SELECT ON fl_rate_limit, fl_rate_stats, fl_rate_store, fl_rate_history, fl_rate_history_top TO flr_admin;
SET LOCAL SESSION AUTHORIZATION flr_admin;
SELECT throws_ok('SELECT fl_rate_report()', '42501', NULL, 'a report is no way around the rights on fl_rate_counters');
RESET SESSION AUTHORIZATION;
GRANT SELECT ON fl_rate_counters TO flr_admin;
SET LOCAL SESSION AUTHORIZATION flr_admin;
SELECT is((SELECT count(*) FROM fl_rate_top() WHERE name = 'small') > 0 AND fl_rate_report() ~ 'Nearest', true, 'with all of them an administrator has both');
RESET SESSION AUTHORIZATION;

-- Owning a table of the same name, or a path that leads elsewhere, changes nothing
CREATE SCHEMA flr_hostile AUTHORIZATION flr_caller;
SET LOCAL SESSION AUTHORIZATION flr_caller;
CREATE TABLE flr_hostile.fl_rate_limit (limit_id integer, name text);
SET LOCAL search_path = flr_hostile, public;
SELECT is((fl_rate_peek('user', 'e', 'small')).max_requests, 3::bigint, 'the definitions are those beside the function');
SET LOCAL search_path = public;
RESET SESSION AUTHORIZATION;

-- A SECURITY DEFINER function hands on what its owner may
CREATE FUNCTION gate() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
    AS $$ SELECT fl_rate_check('user', session_user::text, 'small') $$;
GRANT EXECUTE ON FUNCTION gate() TO flr_nobody;
SELECT fl_rate_reset('user', 'flr_nobody'::text, 'small') > 0 AS reset;
SET LOCAL SESSION AUTHORIZATION flr_nobody;
SELECT is(gate(), 2::bigint, 'a SECURITY DEFINER function is a gate for its callers');
RESET SESSION AUTHORIZATION;
SELECT is((SELECT used FROM fl_rate_counters WHERE name = 'small' AND key = 'flr_nobody'), 1::bigint, 'with the key that it chose');

SELECT * FROM finish();
ROLLBACK;
