-- CREATE EXTENSION is the whole installation, and every object says what it is.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS fliplet_ratelimit CASCADE;
CREATE EXTENSION fliplet_ratelimit;
RESET client_min_messages;

-- It needs no shared_preload_libraries.
SELECT current_setting('shared_preload_libraries') LIKE '%fliplet_ratelimit%' AS preloaded;

-- One extension, in a schema of the user's choice, not to be moved afterwards
SELECT e.extname, e.extversion, e.extrelocatable, n.nspname
FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
WHERE e.extname = 'fliplet_ratelimit';
ALTER EXTENSION fliplet_ratelimit SET SCHEMA pg_catalog;

-- The functions, with the names and types of their arguments
\pset format unaligned
\pset tuples_only on
SELECT format(E'%s (%s)\n    %s', p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid))
FROM pg_proc AS p JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
     AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
     JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'fliplet_ratelimit'
WHERE p.proname IN ('fl_rate_check', 'fl_rate_check_all', 'fl_rate_try', 'fl_rate_try_all', 'fl_rate_peek',
                    'fl_rate_peek_all', 'fl_rate_try_batch', 'fl_rate_wait', 'fl_rate_refund', 'fl_rate_reset',
                    'fl_rate_raise', 'fl_rate_body', 'fl_rate_headers', 'fl_rate_json', 'fl_rate_trigger',
                    'fl_rate_define', 'fl_rate_undefine', 'fl_rate_explain', 'fl_rate_stats_reset',
                    'fl_rate_simulate', 'fl_rate_forget', 'fl_rate_reset_all', 'fl_rate_age')
ORDER BY p.proname, pg_get_function_arguments(p.oid);
\pset tuples_only off
\pset format aligned

-- The definitions: the columns that users write
SELECT attname, format_type(atttypid, atttypmod) AS type, attnotnull AS not_null, attidentity AS identity,
       pg_get_expr(d.adbin, d.adrelid) AS "default"
FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = 'fl_rate_limit'::regclass AND a.attnum > 0 ORDER BY a.attnum;

-- The verdict
SELECT attname, format_type(atttypid, atttypmod) AS type
FROM pg_attribute WHERE attrelid = 'fl_rate_verdict'::regclass AND attnum > 0 ORDER BY attnum;

-- The views
SELECT c.relname, string_agg(a.attname, ', ' ORDER BY a.attnum) AS columns
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relname IN ('fl_rate_counters', 'fl_rate_stats', 'fl_rate_store') AND c.relkind = 'v'
GROUP BY c.relname ORDER BY c.relname;

-- The shipped limits are the documented ones.
SELECT name, scope, api, key, plan, max_requests, period, algorithm, on_limit, enabled
FROM fl_rate_limit ORDER BY limit_id DESC;

-- Every member of the extension has a comment, and so has every column.
CREATE TEMP VIEW member AS
	SELECT d.classid, d.objid
	FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'fliplet_ratelimit';
SELECT count(*) > 30 AS enough_members FROM member;
SELECT pg_describe_object(classid, objid, 0) AS no_comment
FROM member
WHERE obj_description(objid, classid::regclass::name) IS NULL
  -- row types and the identity's sequence speak through their tables
  AND NOT (classid = 'pg_type'::regclass AND objid IN (SELECT reltype FROM pg_class WHERE relkind <> 'c'))
  AND NOT (classid = 'pg_type'::regclass AND objid IN (SELECT typarray FROM pg_type))
  AND NOT (classid = 'pg_class'::regclass AND objid IN (SELECT oid FROM pg_class WHERE relkind IN ('S', 'c')))
ORDER BY 1;
SELECT pg_describe_object('pg_class'::regclass, a.attrelid, a.attnum) AS no_comment
FROM pg_attribute AS a
     JOIN (SELECT objid AS relid FROM member WHERE classid = 'pg_class'::regclass
           UNION SELECT t.typrelid FROM member JOIN pg_type AS t ON t.oid = objid WHERE classid = 'pg_type'::regclass) AS m
       ON m.relid = a.attrelid
     JOIN pg_class AS c ON c.oid = a.attrelid AND c.relkind IN ('r', 'v', 'c')
WHERE a.attnum > 0 AND NOT a.attisdropped
  AND col_description(a.attrelid, a.attnum) IS NULL
ORDER BY 1;
SELECT tgname AS trigger_without_comment
FROM pg_trigger JOIN member ON classid = 'pg_class'::regclass AND objid = tgrelid
WHERE NOT tgisinternal AND obj_description(pg_trigger.oid, 'pg_trigger') IS NULL
ORDER BY 1;

-- No function is STRICT: it would answer NULL to NULL, which reads as a pass.
SELECT objid::regprocedure AS strict FROM member JOIN pg_proc AS p ON p.oid = objid
WHERE classid = 'pg_proc'::regclass AND p.proisstrict ORDER BY 1;

-- What spends or looks at counters is VOLATILE and not PARALLEL SAFE.
SELECT objid::regprocedure AS function, provolatile, proparallel FROM member JOIN pg_proc AS p ON p.oid = objid
WHERE classid = 'pg_proc'::regclass
  AND p.proname ~ '^fl_rate_(check|try|peek|wait|refund|reset|explain|counter|stats|store|forget|age)'
  AND (p.provolatile <> 'v' OR p.proparallel = 's')
ORDER BY 1;

-- Each SQL and PL/pgSQL function has a search_path of its own.
SELECT objid::regprocedure AS function, proconfig FROM member JOIN pg_proc AS p ON p.oid = objid
     JOIN pg_language AS l ON l.oid = p.prolang
WHERE classid = 'pg_proc'::regclass AND l.lanname IN ('sql', 'plpgsql')
  AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)
ORDER BY 1;

-- Triggers of the definitions fire under session_replication_role = replica too.
SELECT tgname AS not_always FROM pg_trigger
WHERE tgrelid = 'fl_rate_limit'::regclass AND NOT tgisinternal AND tgenabled <> 'A' ORDER BY 1;

-- A dump holds the user's rows alone, and where the identity stands.
SELECT c.relname, u.condition FROM pg_extension AS e, unnest(e.extconfig, e.extcondition) AS u (oid, condition)
     JOIN pg_class AS c ON c.oid = u.oid
WHERE e.extname = 'fliplet_ratelimit' AND c.relname LIKE 'fl_rate_limit%' ORDER BY c.relname;

-- DROP EXTENSION leaves nothing; a recreated extension starts clean.
SELECT fl_rate_check('user', 'install', 'ai', 4);
DROP EXTENSION fliplet_ratelimit;
SELECT proname FROM pg_proc WHERE proname LIKE 'fl\_rate\_%';
SELECT relname FROM pg_class WHERE relname LIKE 'fl\_rate\_%' AND relpersistence = 'p';
CREATE EXTENSION fliplet_ratelimit;
SELECT fl_rate_check('user', 'install', 'ai');
SELECT used, granted FROM fl_rate_counters;
DROP EXTENSION fliplet_ratelimit;

-- Any schema will do, also one with a name that has to be quoted.
CREATE SCHEMA "Rate limits";
CREATE EXTENSION fliplet_ratelimit SCHEMA "Rate limits";
SELECT "Rate limits".fl_rate_check('user', 'install', 'ai');
SELECT name, used FROM "Rate limits".fl_rate_counters;
SELECT "Rate limits".fl_rate_define('install/test', 'user', 'ai', 5, '1 min') > 0 AS defined;
SELECT "Rate limits".fl_rate_check('user', 'install', 'ai');
SELECT "Rate limits".fl_rate_undefine('install/test');
DROP EXTENSION fliplet_ratelimit;
DROP SCHEMA "Rate limits";
