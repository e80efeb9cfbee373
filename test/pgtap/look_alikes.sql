-- Hostile surroundings: an attacker's operators, functions, types and tables in
-- front of PostgreSQL's own, and every setting that a user can turn, change
-- nothing of what an administrator or a caller does
--
-- sql/search_path.sql has look-alikes of its own choice. Here they are made from
-- the catalogs: of each operator there is, and of each function, type and
-- relation whose name occurs in what the extension is made of.

BEGIN;
SELECT * FROM no_plan();

SET LOCAL client_min_messages = warning;
-- plans that are forced to be bad look too expensive not to be compiled
SET LOCAL jit = off;
CREATE ROLE flr_admin;
CREATE ROLE flr_attacker;
CREATE SCHEMA flr_attack AUTHORIZATION flr_attacker;
GRANT USAGE ON SCHEMA flr_attack TO PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO flr_admin;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO flr_admin;
GRANT CREATE ON SCHEMA public TO flr_admin;

CREATE TEMPORARY VIEW member AS
    SELECT d.classid, d.objid FROM pg_depend AS d
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
      AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'fliplet_ratelimit');

-- The words of the extension's functions, views, constraints, defaults and indexes
CREATE TEMPORARY TABLE words AS
    SELECT DISTINCT lower(w[1]) AS word
    FROM (SELECT p.prosrc FROM member JOIN pg_proc AS p ON p.oid = objid WHERE classid = 'pg_proc'::regclass AND p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c')
          UNION ALL SELECT p.proname FROM member JOIN pg_proc AS p ON p.oid = objid WHERE classid = 'pg_proc'::regclass
          UNION ALL SELECT pg_get_viewdef(objid) FROM member JOIN pg_class ON pg_class.oid = objid AND relkind = 'v'
          UNION ALL SELECT relname FROM member JOIN pg_class ON pg_class.oid = objid
          UNION ALL SELECT pg_get_constraintdef(c.oid) FROM member JOIN pg_constraint AS c ON c.conrelid = objid
          UNION ALL SELECT pg_get_expr(adbin, adrelid) FROM member JOIN pg_attrdef ON adrelid = objid
          UNION ALL SELECT pg_get_indexdef(i.indexrelid) FROM member JOIN pg_index AS i ON i.indrelid = objid
          UNION ALL SELECT format_type(a.atttypid, NULL) FROM member JOIN pg_attribute AS a ON a.attrelid = objid
          UNION ALL SELECT t.typname FROM pg_type AS t WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b' AND t.typelem = 0) AS s (source),
         regexp_matches(s.source, '[A-Za-z_][A-Za-z_0-9]*', 'g') AS w;
GRANT SELECT ON words, member TO PUBLIC;

-- Whoever comes to any of them is told.
CREATE FUNCTION pg_temp.make(statement text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    RETURN false;           -- what PostgreSQL does not allow, nobody can do
END
$$;
-- A function that springs when it is called
CREATE FUNCTION pg_temp.trap(name text, arguments text, result text) RETURNS text LANGUAGE sql AS $$
    SELECT format('CREATE FUNCTION flr_attack.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L; ', name, arguments, result,
                  format('BEGIN RAISE SQLSTATE ''TRAPS'' USING MESSAGE = %L; END', name || ' was called'))
$$;
SET LOCAL SESSION AUTHORIZATION flr_attacker;
CREATE TEMPORARY TABLE made AS
    SELECT 'operator' AS kind, o.oprname::text AS name FROM pg_operator AS o
    WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprleft <> 0
      AND pg_temp.make(pg_temp.trap('op_' || o.oid, format('%s, %s', o.oprleft::regtype, o.oprright::regtype), o.oprresult::regtype::text)
                       || format('CREATE OPERATOR flr_attack.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = flr_attack.op_%s)', o.oprname, o.oprleft::regtype, o.oprright::regtype, o.oid));
INSERT INTO made SELECT 'function', p.proname FROM pg_proc AS p
    WHERE p.proname IN (SELECT word FROM words) AND p.prokind = 'f' AND p.pronamespace IN ('pg_catalog'::regnamespace, 'public'::regnamespace)
      AND pg_temp.make(pg_temp.trap(p.proname, pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid)));
INSERT INTO made SELECT 'relation', c.relname FROM pg_class AS c
    WHERE c.relname IN (SELECT word FROM words) AND c.relnamespace IN ('pg_catalog'::regnamespace, 'public'::regnamespace) AND c.relkind IN ('r', 'v')
      AND pg_temp.make(format('CREATE TABLE flr_attack.%I ()', c.relname));
-- a type of PostgreSQL's name, and the attacker's with casts to everything
INSERT INTO made SELECT 'type', w.word FROM words AS w
    WHERE EXISTS (SELECT FROM pg_type AS t WHERE t.typname = w.word AND t.typnamespace IN ('pg_catalog'::regnamespace, 'public'::regnamespace))
      AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.relname = w.word AND c.relnamespace = 'flr_attack'::regnamespace)
      AND pg_temp.make(format('CREATE DOMAIN flr_attack.%I AS pg_catalog.%s', w.word, CASE w.word WHEN 'int4' THEN 'text' ELSE 'int4' END));
CREATE TYPE flr_attack.chameleon AS ENUM ('user', 'k', 'hostile', '1');
INSERT INTO made SELECT 'cast', t::regtype::text FROM unnest('{text,int8,interval,timestamptz,bool,int4,name,text[]}'::regtype[]) AS t
    WHERE pg_temp.make(pg_temp.trap('to_' || t::oid, 'flr_attack.chameleon', t::text)
                       || pg_temp.trap('from_' || t::oid, t::text, 'flr_attack.chameleon')
                       || format('CREATE CAST (flr_attack.chameleon AS %1$s) WITH FUNCTION flr_attack.to_%2$s(flr_attack.chameleon) AS IMPLICIT;
                                  CREATE CAST (%1$s AS flr_attack.chameleon) WITH FUNCTION flr_attack.from_%2$s(%1$s) AS IMPLICIT', t, t::oid));
RESET SESSION AUTHORIZATION;
SELECT cmp_ok(count(*), '>', least, count(*) || ' look-alikes: ' || kind)
FROM made JOIN (VALUES ('operator', 700::bigint), ('function', 100), ('relation', 5), ('type', 50), ('cast', 7)) AS k (kind, least) USING (kind) GROUP BY kind, least ORDER BY kind;
SELECT set_has('SELECT kind, name FROM made',
    $$ VALUES ('operator', '='), ('operator', '<>'), ('operator', '~'), ('operator', '||'), ('operator', '>='), ('function', 'now'), ('function', 'lower'), ('function', 'fl_rate_shipped'),
              ('relation', 'fl_rate_limit'), ('relation', 'fl_rate_secret'), ('relation', 'pg_timezone_names'), ('type', 'text'), ('type', 'interval'), ('type', 'bool'), ('type', 'int8') $$, 'the important ones among them');

-- Everything that there is to do, with answers that do not depend on the time
CREATE TEMPORARY TABLE things (id integer GENERATED ALWAYS AS IDENTITY, statement text);
INSERT INTO things (statement) VALUES
    ($$SELECT public.fl_rate_reset_all() IS NULL$$), ($$SELECT public.fl_rate_stats_reset()$$),
    ($$SELECT public.fl_rate_define('h', 'user', 'hostile', 9, '1 h') IS NULL$$),
    ($$SELECT public.fl_rate_define('h', 'user', 'hostile', 10, '1 h') IS NULL$$),
    ($$SELECT public.fl_rate_define('h', 'user', 'hostile', 3, '1 h', key => 'special') IS NULL$$),
    ($$SELECT public.fl_rate_define('h', 'user', 'hostile', 5, '1 h', plan => 'gold', valid_from => '2020-01-01', valid_until => '2200-01-01', enabled => true, comment => 'c') IS NULL$$),
    ($$SELECT public.fl_rate_define('month', 'app', 'hostile', 7, '1 month', algorithm => 'fixed_window', time_zone => 'europe/BERLIN', anchor => '2020-01-15') IS NULL$$),
    ($$SELECT public.fl_rate_define('bucket', 'device', 'hostile', 7, '1 h', algorithm => 'token_bucket', burst => 20) IS NULL$$),
    ($$SELECT public.fl_rate_define('late', 'scope of mine', 'hostile', 7, '1 h', on_limit => 'delay', max_delay => '1 ms') IS NULL$$),
    ($$INSERT INTO public.fl_rate_limit (name, scope, api, max_requests, period) VALUES ('plain', 'organisation', 'hostile', 9, '1 h'), ('plain 2', 'organisation', '*', 9, '1 h') RETURNING name$$),
    ($$UPDATE public.fl_rate_limit SET max_requests = 8, period = '2 h' WHERE name OPERATOR(pg_catalog.=) 'plain' RETURNING updated_by$$),
    ($$DELETE FROM public.fl_rate_limit WHERE name OPERATOR(pg_catalog.=) 'plain 2' RETURNING api$$),
    -- what the table and its triggers refuse
    ($$DELETE FROM public.fl_rate_limit$$), ($$TRUNCATE public.fl_rate_limit$$), ($$UPDATE public.fl_rate_limit SET max_requests = 1$$),
    ($$SELECT public.fl_rate_define('h', 'app', 'hostile', 10, '1 h', key => 'x')$$), ($$SELECT public.fl_rate_define('h"', 'user', 'hostile', 10, '1 h')$$),
    ($$SELECT public.fl_rate_define('n', 'user', 'hostile', -1, '1 h')$$), ($$SELECT public.fl_rate_define('n', 'user', 'hostile', 1, '0')$$), ($$SELECT public.fl_rate_define('n', 'user', 'hostile', 1, '300 years')$$),
    ($$SELECT public.fl_rate_define('n', 'user', 'hostile', 1, '1 month')$$), ($$SELECT public.fl_rate_define('n', 'user', 'hostile', 1, '1 month 1 day', algorithm => 'fixed_window')$$),
    ($$SELECT public.fl_rate_define('n', 'user', 'hostile', 1, '1 h', time_zone => 'Mars', algorithm => 'fixed_window')$$), ($$SELECT public.fl_rate_define('n', 'user', 'hostile', 1, '1 h', algorithm => 'x')$$),
    ($$SELECT public.fl_rate_define('n', 'user', 'hostile', 1, '1 h', key => pg_catalog.repeat('x', 2000))$$), ($$SELECT public.fl_rate_define('n', 'user', 'hostile', 1, '1 h', key => 'a', plan => 'b')$$),
    -- requests
    ($$SELECT public.fl_rate_check('user', 'k', 'hostile', 3)$$), ($$SELECT public.fl_rate_check('user', 1, 'hostile')$$), ($$SELECT public.fl_rate_check('user', 'special', 'hostile', 4)$$),
    ($$SELECT public.fl_rate_check('user', 'gold', 'hostile', plan => 'gold')$$), ($$SELECT public.fl_rate_check_all('{user,app,device}', '{k,k,k}', 'hostile')$$),
    ($$SELECT v.remaining FROM public.fl_rate_try('user', 'k', 'hostile') AS v$$), ($$SELECT v.remaining FROM public.fl_rate_try('app', 2, 'hostile') AS v$$), ($$SELECT v.reason FROM public.fl_rate_try_all('{user,app}', '{k,k}', 'hostile', 100) AS v$$),
    ($$SELECT v.remaining FROM public.fl_rate_peek('device', 'k', 'hostile') AS v$$), ($$SELECT v.name FROM public.fl_rate_peek('device', 1, 'hostile') AS v$$), ($$SELECT v.name FROM public.fl_rate_peek_all('{user,app}', '{k,k}', 'hostile') AS v$$),
    ($$SELECT pg_catalog.json_agg(q) FROM (SELECT v.remaining, v.name FROM public.fl_rate_try_batch('{user,app}', '{k,k}', '{hostile,hostile}', '{1,2}', '{gold,NULL}') AS v) AS q$$),
    ($$SELECT public.fl_rate_wait('user', 'w', 'hostile') IS NULL$$), ($$SELECT public.fl_rate_refund('user', 'k', 'hostile', 2)$$), ($$SELECT public.fl_rate_refund('user', 1, 'hostile')$$),
    ($$SELECT public.fl_rate_check('user', 'k', 'hostil')$$), ($$SELECT public.fl_rate_check('users', 'k', 'hostile')$$), ($$SELECT public.fl_rate_check('user', NULL::pg_catalog.text, 'hostile')$$),
    -- verdicts
    ($$SELECT public.fl_rate_raise('(t,ok,5,,,,,,,,,,)')$$), ($$SELECT public.fl_rate_raise('(f,refused,5,,,,,,,h,1,10,)')$$), ($$SELECT public.fl_rate_body('(f,refused,0,,2020-01-01 00:00:00+00,,,,,h,1,10,)')$$),
    ($$SELECT public.fl_rate_headers('(f,refused,0,,"2020-01-01 00:00:00+00","2020-01-01 00:00:00+00",,,,h,1,10,1 s)')$$), ($$SELECT public.fl_rate_json('(f,refused,0,1 s,"2020-01-01 00:00:00+00",,u,k,a,h,1,10,1 s)')$$),
    ($$SELECT pg_catalog.json_agg(s.allowed) FROM public.fl_rate_simulate(1, '1 s', '{2020-01-01 00:00:00+00,2020-01-01 00:00:00.5+00,2020-01-01 00:00:01+00}', '{1,1,1}', 'sliding_window') AS s$$), ($$SELECT b.refused FROM public.fl_rate_backtest(1, '1 s', '{2020-01-01 00:00:00+00,2020-01-01 00:00:00.5+00}') AS b$$),
    -- looking
    ($$SELECT pg_catalog.json_agg(q) FROM (SELECT e.name, e.applies, e.why, e.used FROM public.fl_rate_explain('user', 'special', 'hostile') AS e ORDER BY e.max_requests) AS q$$),
    ($$SELECT pg_catalog.json_agg(q) FROM (SELECT name, scope, key, api, used, granted FROM public.fl_rate_counters ORDER BY name, scope, key) AS q$$),
    ($$SELECT pg_catalog.json_agg(q) FROM (SELECT name, granted, refused, keys FROM public.fl_rate_stats ORDER BY name) AS q$$), ($$SELECT keys FROM public.fl_rate_store$$),
    ($$SELECT pg_catalog.count(*) FROM public.fl_rate_counter_rows()$$), ($$SELECT granted FROM public.fl_rate_stats_of('h')$$), ($$SELECT waiters FROM public.fl_rate_store_row()$$),
    ($$SELECT pg_catalog.json_agg(q) FROM (SELECT limit_id, name, scope, api, max_requests, time_zone FROM public.fl_rate_shipped()) AS q$$),
    ($$SELECT pg_catalog.json_agg(q) FROM (SELECT name, scope, key, api, used, max_requests, share, refused FROM public.fl_rate_top(5)) AS q$$), ($$SELECT pg_catalog.json_agg(q) FROM (SELECT name, key FROM public.fl_rate_top()) AS q$$),
    ($$SELECT public.fl_rate_top(0)$$), ($$SELECT public.fl_rate_html(E'<\u00e9\u202e>'::pg_catalog.text)$$), ($$SELECT public.fl_rate_html('2020-01-01 12:00:00+02'::pg_catalog.timestamptz)$$),
    -- without its numbers and dates
    ($$SELECT pg_catalog.regexp_replace(public.fl_rate_report(), '^.*</style>|[0-9][-:.,0-9TZ ]*', '#', 'g')$$),
    -- triggers
    ($$CREATE TABLE public.entries (owner pg_catalog.text)$$),
    ($$CREATE TRIGGER limit_rows BEFORE INSERT ON public.entries FOR EACH ROW EXECUTE FUNCTION public.fl_rate_trigger('user', 'hostile', 'column:owner')$$),
    ($$CREATE TRIGGER limit_statements BEFORE INSERT ON public.entries FOR EACH STATEMENT EXECUTE FUNCTION public.fl_rate_trigger('user', 'hostile', 'role')$$),
    ($$INSERT INTO public.entries VALUES ('o'), ('o') RETURNING owner$$), ($$INSERT INTO public.entries VALUES (NULL)$$),
    -- keeping
    ($$SELECT pg_catalog.json_agg(q) FROM (SELECT name, key, refused FROM public.fl_rate_refused_keys('-infinity', 5) ORDER BY name, key) AS q$$), ($$SELECT granted IS NULL FROM public.fl_rate_totals_of('h')$$),
    ($$SELECT pg_catalog.json_agg(q) FROM (SELECT key, record IS NULL FROM public.fl_rate_unsaved() ORDER BY key, identity) AS q$$), ($$SELECT public.fl_rate_maintain()$$), ($$SELECT public.fl_rate_sweep() IS NULL$$),
    ($$SELECT pg_catalog.strpos(public.fl_rate_report(), '<svg role="img" aria-label="h, requests per 5 minutes') OPERATOR(pg_catalog.>) 0$$),
    ($$SELECT public.fl_rate_schedule()$$),
    ($$SELECT public.fl_rate_age('user', 'k', 'hostile', '1 s')$$), ($$SELECT public.fl_rate_reset('user', 'k', 'hostile')$$), ($$SELECT public.fl_rate_reset('user', 1, 'hostile')$$), ($$SELECT public.fl_rate_forget('app', 'k')$$),
    ($$SELECT public.fl_rate_undefine('h', 'special')$$), ($$SELECT public.fl_rate_undefine('h', plan => 'gold')$$), ($$SELECT public.fl_rate_undefine('h')$$), ($$SELECT public.fl_rate_undefine('h')$$),
    ($$SELECT pg_catalog.json_agg(q) FROM (SELECT name, scope, api, key, plan, max_requests, time_zone, enabled, updated_by FROM public.fl_rate_limit WHERE limit_id OPERATOR(pg_catalog.>) 0 ORDER BY name) AS q$$),
    ($$SELECT public.fl_rate_reset_all()$$);
GRANT SELECT ON things TO flr_admin;

SELECT is((SELECT array_agg(DISTINCT p.proname) FROM member JOIN pg_proc AS p ON p.oid = objid WHERE classid = 'pg_proc'::regclass AND p.proname !~ '^fl_rate_(limit_|stay_local)'
           AND NOT EXISTS (SELECT FROM things WHERE statement ~ ('public\.' || p.proname || '\M'))), NULL, 'no function of the extension is left out');

-- What comes of doing it all under some settings; definitions are as before then.
CREATE FUNCTION pg_temp.outcome_of(statement text, settings jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    outcome text;
    setting record;
    answers boolean := statement !~ '^CREATE';
BEGIN
    FOR setting IN SELECT * FROM jsonb_each_text(settings) ORDER BY key <> 'search_path' DESC LOOP
        PERFORM set_config(setting.key, setting.value, true);
    END LOOP;
    IF answers THEN
        EXECUTE statement INTO outcome;
    ELSE
        EXECUTE statement;
    END IF;
    PERFORM pg_catalog.set_config('search_path', 'public, pg_temp', true);
    RETURN outcome;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ': ' || SQLERRM;
END
$$;
CREATE FUNCTION pg_temp.outcomes_of_all(settings jsonb) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    outcomes text[];
    thing record;
BEGIN
    BEGIN
        FOR thing IN SELECT * FROM things ORDER BY id LOOP
            outcomes := outcomes || pg_temp.outcome_of(thing.statement, settings);
        END LOOP;
        RAISE SQLSTATE 'UNDOS';
    EXCEPTION WHEN SQLSTATE 'UNDOS' THEN
        RETURN outcomes;
    END;
END
$$;
SET LOCAL SESSION AUTHORIZATION flr_admin;
CREATE TEMPORARY TABLE outcomes (surroundings text, list text[]);
INSERT INTO outcomes SELECT 'ordinary', pg_temp.outcomes_of_all('{}');
INSERT INTO outcomes SELECT surroundings, pg_temp.outcomes_of_all(settings) FROM (VALUES
    ('look-alikes first', '{"search_path": "flr_attack, pg_catalog, public, pg_temp"}'::jsonb),
    ('look-alikes alone', '{"search_path": "flr_attack, pg_temp, pg_catalog"}'),
    ('an empty path', '{"search_path": ""}'),
    ('settings', '{"transform_null_equals": "on", "standard_conforming_strings": "off", "escape_string_warning": "off", "backslash_quote": "on", "bytea_output": "escape", "datestyle": "German", "intervalstyle": "sql_standard",
                   "timezone": "Asia/Kolkata", "extra_float_digits": "-15", "array_nulls": "on", "quote_all_identifiers": "on", "row_security": "off", "plan_cache_mode": "force_generic_plan", "check_function_bodies": "off",
                   "enable_seqscan": "off", "enable_indexscan": "off", "enable_bitmapscan": "off", "enable_sort": "off", "enable_hashagg": "off", "work_mem": "64kB", "default_transaction_isolation": "serializable",
                   "default_transaction_read_only": "on", "client_encoding": "LATIN1", "geqo_threshold": "2", "from_collapse_limit": "1", "join_collapse_limit": "1", "xmloption": "document", "cursor_tuple_fraction": "0"}'),
    ('both', '{"transform_null_equals": "on", "datestyle": "German", "intervalstyle": "sql_standard", "timezone": "Asia/Kolkata", "search_path": "flr_attack, pg_catalog, public, pg_temp"}')) AS s (surroundings, settings);
RESET SESSION AUTHORIZATION;

-- The traps work: an unqualified operator, function, type or table finds them.
SELECT is(left(pg_temp.outcome_of(statement, '{"search_path": "flr_attack, pg_catalog, public, pg_temp"}'), 5), state, 'a trap: ' || statement)
FROM (VALUES ($$SELECT 1 = 1$$, 'TRAPS'), ($$SELECT 'a'::pg_catalog.text || 'b'::pg_catalog.text$$, 'TRAPS'), ($$SELECT now()$$, 'TRAPS'), ($$SELECT fl_rate_shipped()$$, 'TRAPS'),
             ($$SELECT 'x'::text$$, '22P02'), ($$SELECT name FROM fl_rate_limit$$, '42703'), ($$SELECT public.fl_rate_undefine('k'::flr_attack.chameleon)$$, 'TRAPS')) AS t (statement, state);

SELECT is(coalesce((SELECT list[id] FROM outcomes WHERE surroundings = 'ordinary'), '') ~ '^TRAPS|^42883|^42P01', false, 'as meant: ' || left(statement, 120)) FROM things ORDER BY id;
SELECT is(o.list[t.id], (SELECT list[t.id] FROM outcomes WHERE surroundings = 'ordinary'), o.surroundings || ': ' || left(t.statement, 120))
FROM outcomes AS o, things AS t WHERE o.surroundings <> 'ordinary' ORDER BY o.surroundings, t.id;

SELECT * FROM finish();
ROLLBACK;
