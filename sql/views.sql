-- Views: columns, numbers, this database only; fl_rate_explain.
\getenv directory PG_ABS_SRCDIR
\set answer :directory /test/answer.sql
\i :answer

-- Statistics: a row per name, of those never used too
SELECT name, granted, refused, delayed, shadow_refused, keys, last_checked_at, last_refused_at, since IS NOT NULL FROM fl_rate_stats ORDER BY name;
SELECT count(*), min(keys), bool_and(memory_limit = 32 * 1024 * 1024), min(waiters) FROM fl_rate_store;
SELECT count(*) FROM fl_rate_counters;
SELECT fl_rate_check('user', 'v1', 'ai', 4), fl_rate_check('user', 'v1', 'ai', 5), fl_rate_check('user', 'v2', 'ai');
SELECT v.allowed FROM fl_rate_try('user', 'v1', 'ai', 2) AS v;
SELECT v.allowed FROM fl_rate_try('user', 'v1', 'ai', 11) AS v;
SELECT v.allowed FROM fl_rate_peek('user', 'v1', 'ai', 2) AS v;
SELECT v.allowed FROM fl_rate_peek('user', 'v3', 'ai') AS v;
SELECT name, granted, refused, delayed, shadow_refused, keys, last_checked_at BETWEEN since AND clock_timestamp() AS checked, last_refused_at BETWEEN since AND last_checked_at AS refused FROM fl_rate_stats WHERE granted > 0 OR name = 'fliplet/communicate' ORDER BY name;
SELECT name, limit_id, scope, key, api, used, remaining, granted, refused, delayed, shadow_refused, round(extract(epoch FROM next_valid_at - now())), last_request_at BETWEEN now() - interval '10 s' AND clock_timestamp(), last_refused_at <= last_request_at, memory > 0
FROM fl_rate_counters ORDER BY name, key;
SELECT keys, memory_used > 0, memory_used <= memory_limit, swept >= 0, refused_full >= 0, waiters, since <= now() FROM fl_rate_store;
-- next_valid_at of a counter that is full is when a request of cost 1 is granted.
SELECT fl_rate_check('user', 'v1', 'ai');
SELECT used, remaining, next_valid_at > now() + interval '30 s' FROM fl_rate_counters WHERE key = 'v1';
-- One row a counter: the limit's, not the variant's; limit_id is the row that was last applied.
INSERT INTO fl_rate_limit (limit_id, name, scope, api, key, max_requests, period) VALUES (77, 'fliplet/ai', 'user', 'ai', 'v1', 100, '1 min');
SELECT fl_rate_check('user', 'v1', 'ai');
SELECT limit_id, used, remaining FROM fl_rate_counters WHERE key = 'v1';
-- A '*' limit has one counter a key, and a name of its own in the statistics.
INSERT INTO fl_rate_limit (limit_id, name, scope, api, max_requests, period) VALUES (78, 'total', 'user', '*', 1000, '1 h');
SELECT fl_rate_check('user', 'v4', 'ai'), fl_rate_check('user', 'v4', 'communicate');
SELECT name, api, used FROM fl_rate_counters WHERE key = 'v4' ORDER BY name;
SELECT granted, keys FROM fl_rate_stats WHERE name = 'total';
-- After a reset the statistics begin anew, and the counters go on.
SELECT clock_timestamp() AS before \gset
SELECT fl_rate_stats_reset();
SELECT name, granted, refused, delayed, shadow_refused, last_checked_at, last_refused_at, since >= :'before' FROM fl_rate_stats WHERE name IN ('total', 'fliplet/ai') ORDER BY name;
SELECT used FROM fl_rate_counters WHERE name = 'total';

-- Explain: every candidate, also the ones that do not apply, and why
SELECT fl_rate_reset_all() > 0;
SET client_min_messages = warning;
INSERT INTO fl_rate_limit (limit_id, name, scope, api, key, plan, max_requests, period, enabled, valid_from, valid_until, on_limit) VALUES
	(201, 'posts', 'user', 'posts', NULL, NULL, 5, '1 h', true, NULL, NULL, 'refuse'), (202, 'posts', 'user', 'posts', NULL, 'pro', 10, '1 h', true, NULL, NULL, 'refuse'), (203, 'posts', 'user', 'posts', 'x1', NULL, 20, '1 h', true, NULL, NULL, 'refuse'),
	(204, 'posts', 'user', 'posts', 'x2', NULL, 30, '1 h', false, NULL, NULL, 'refuse'), (205, 'posts', 'user', 'posts', 'x3', NULL, 30, '1 h', true, '2100-01-01', NULL, 'refuse'), (206, 'posts', 'user', 'posts', 'x4', NULL, 30, '1 h', true, NULL, '2000-01-01', 'refuse'),
	(207, 'posts shadow', 'user', 'posts', NULL, NULL, 1, '1 h', true, NULL, NULL, 'count'), (208, 'posts', 'user', 'posts', 'x5', NULL, NULL, NULL, true, NULL, NULL, 'refuse'), (209, 'posts', 'user', 'posts', 'x6', NULL, 0, NULL, true, NULL, NULL, 'refuse'),
	(210, 'app posts', 'app', 'posts', NULL, NULL, 7, '1 h', true, NULL, NULL, 'refuse');
RESET client_min_messages;
SELECT fl_rate_check('user', 'x1', 'posts', 3);
SELECT k, e.name, e.limit_id, e.applies, e.why, e.max_requests, e.period, e.used, e.remaining, e.granted, e.refused FROM unnest('{x1,x2,x3,x4,x5,x6,x7}'::text[]) AS k, fl_rate_explain('user', k, 'posts') AS e ORDER BY k, e.limit_id;
SELECT e.limit_id, e.applies, e.why FROM fl_rate_explain('user', 'x7', 'posts', 'pro') AS e ORDER BY 1;
SELECT e.limit_id, e.applies, e.why FROM fl_rate_explain('user', 'x1', 'posts', 'pro') AS e ORDER BY 1;
SELECT e.limit_id, e.applies, e.why FROM fl_rate_explain('user', 'x7', 'posts', 'gold') AS e ORDER BY 1;
-- ... a shipped one that a row replaces, and all of them when they are off
INSERT INTO fl_rate_limit (limit_id, name, scope, api, max_requests, period) VALUES (211, 'fliplet/ai', 'user', 'ai', 12, '1 min');
SELECT e.limit_id, e.applies, e.why FROM fl_rate_explain('user', 'x7', 'ai') AS e ORDER BY 1;
SET fliplet_ratelimit.shipped_limits = off;
SELECT e.limit_id, e.applies, e.why FROM fl_rate_explain('user', 'x7', 'ai') AS e ORDER BY 1;
RESET fliplet_ratelimit.shipped_limits;
-- It spends nothing, and says when a full limit is free again.
SELECT fl_rate_check('user', 'x8', 'posts', 5);
SELECT e.name, e.used, e.remaining, e.next_valid_at > now() + interval '30 min' FROM fl_rate_explain('user', 'x8', 'posts') AS e WHERE e.applies AND e.name <> 'total' ORDER BY 1;
SELECT used FROM fl_rate_counters WHERE key = 'x8' AND name = 'posts';
-- An unknown API is an error here, too.
SELECT pg_temp.answer($$SELECT * FROM fl_rate_explain('app', 'x', 'pots')$$);

-- All views, and all resets, are of the current database only; also if another one is a copy of it.
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_fl_elsewhere;
RESET client_min_messages;
\c postgres
CREATE DATABASE regress_fl_elsewhere TEMPLATE :"home";
\c regress_fl_elsewhere
SELECT count(*) FROM fl_rate_counters;
SELECT sum(granted), sum(refused), sum(keys) FROM fl_rate_stats;
SELECT keys FROM fl_rate_store;
SELECT v.remaining FROM fl_rate_try('user', 'x8', 'posts') AS v;
SELECT fl_rate_forget('user', 'x8');
SELECT fl_rate_check('user', 'v1', 'ai', 9), fl_rate_check('user', 'only here', 'ai', 2);
SELECT key, used FROM fl_rate_counters ORDER BY key;
SELECT granted, keys FROM fl_rate_stats WHERE name = 'fliplet/ai';
SELECT keys FROM fl_rate_store;
SELECT fl_rate_stats_reset();
SELECT fl_rate_reset_all();
\c :home
\pset format unaligned
\pset tuples_only on
SELECT count(*) FROM fl_rate_counters WHERE key = 'only here';
SELECT count(*) FROM fl_rate_counters WHERE key = 'x8' AND name = 'posts';
SELECT granted > 0 FROM fl_rate_stats WHERE name = 'posts';
DROP DATABASE regress_fl_elsewhere;

SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
