-- fl_rate_try_batch: many independent requests in one round trip, answered in order.
\getenv directory PG_ABS_SRCDIR
\set answer :directory /test/answer.sql
\i :answer

-- Each is judged for itself: one that is refused does not hinder the others.
SELECT ordinality, v.allowed, v.reason, v.remaining, v.scope, v.key, v.api, v.name
FROM fl_rate_try_batch('{user,user,app,user,device}', '{b1,b1,b1,b2,b1}', '{ai,ai,app-actions,data-sources,ai}', '{8,3,60,1,1}') WITH ORDINALITY AS v ORDER BY ordinality;
SELECT scope, key, name, used, granted, refused FROM fl_rate_counters ORDER BY scope, key, name;
-- The same key many times is that many requests.
SELECT count(*) FILTER (WHERE v.allowed), count(*) FILTER (WHERE NOT v.allowed), min(v.remaining)
FROM fl_rate_try_batch(array_fill('user'::text, '{15}'), array_fill('b3'::text, '{15}'), array_fill('ai'::text, '{15}')) AS v;
-- Costs are 1 unless they are given, plans none; of each request its own.
SET client_min_messages = warning;
INSERT INTO fl_rate_limit (name, scope, api, plan, max_requests, period) VALUES ('fliplet/ai', 'user', 'ai', 'pro', 100, '1 min');
RESET client_min_messages;
SELECT v.key, v.remaining, v.max_requests FROM fl_rate_try_batch('{user,user,user}', '{b4,b5,b6}', '{ai,ai,ai}', NULL, '{pro,NULL,free}') AS v;
-- More than 16 are no trouble: a thousand keys, ten requests each.
SELECT count(*), count(*) FILTER (WHERE v.allowed), bool_and(v.key = 'k' || (v.ordinality - 1) % 1000)
FROM (SELECT array_agg('user'::text) AS scopes, array_agg('k' || i % 1000 ORDER BY i) AS keys, array_agg('communicate'::text) AS apis FROM generate_series(0, 9999) AS i) AS a,
     fl_rate_try_batch(scopes, keys, apis) WITH ORDINALITY AS v;
SELECT count(*), sum(used) FROM fl_rate_counters WHERE key ~ '^k\d+$';
-- Nothing asked, nothing answered
SELECT count(*) FROM fl_rate_try_batch('{}', '{}', '{}');
SET client_min_messages = warning;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('ten', 'user', 'slow', 10, '1 h'), ('twenty', 'user', 'slower', 20, '1 h'), ('few', 'user', 'slower', 9, '3 h'), ('many', 'user', 'quick', 10000, '1 h');
RESET client_min_messages;
-- It never raises because of a limit, and answers like fl_rate_try.
SELECT fl_rate_check('user', 'b1', 'slow', 8);
SELECT (b.allowed, b.reason, b.remaining, b.delay, b.scope, b.key, b.api, b.name, b.limit_id, b.max_requests, b.period)
           IS NOT DISTINCT FROM (t.allowed, t.reason, t.remaining, t.delay, t.scope, t.key, t.api, t.name, t.limit_id, t.max_requests, t.period)
FROM fl_rate_try_batch('{user}', '{b1}', '{slow}', '{3}') AS b, fl_rate_try('user', 'b1', 'slow', 3) AS t;
-- Its rows are what fl_rate_peek makes of the same: texts short, long and very long, columns that are null.
SELECT length(b.key) AS length, b.scope, costs[n] AS cost, b.reason, b.key = keys[n] AS same_key, p.next_valid_at IS NULL AS never, b.reset_at IS NULL AS no_reset,
       (b.allowed, b.reason, b.remaining, b.delay, b.scope, b.key, b.api, b.name, b.limit_id, b.max_requests, b.period)
           IS NOT DISTINCT FROM (p.allowed, p.reason, p.remaining, p.delay, p.scope, p.key, p.api, p.name, p.limit_id, p.max_requests, p.period) AS same,
       b.next_valid_at IS NULL = (p.next_valid_at IS NULL) AND abs(extract(epoch FROM b.next_valid_at - p.next_valid_at)) < 600 IS NOT FALSE AS same_date,
       b.reset_at IS NULL = (p.reset_at IS NULL) AND abs(extract(epoch FROM b.reset_at - p.reset_at)) < 5 IS NOT FALSE AS same_reset
FROM (SELECT array_agg(scope) AS scopes, array_agg(repeat('k', length)) AS keys, array_agg('slow'::text) AS apis, array_agg(cost) AS costs
      FROM unnest('{1,2,125,126,127,128,3004,300000}'::int[]) AS length, (VALUES ('user', 1::bigint), ('user', 11), ('device', 1)) AS r (scope, cost)) AS a,
     fl_rate_try_batch(scopes, keys, apis, costs) WITH ORDINALITY
         AS b (allowed, reason, remaining, delay, next_valid_at, reset_at, scope, key, api, name, limit_id, max_requests, period, n),
     fl_rate_peek(b.scope, b.key, 'slow', costs[n]) AS p
ORDER BY n;
-- Of keys of every length near that of a word or two, each byte is where it was.
SELECT count(*), count(*) FILTER (WHERE b.key = keys[n]) AS same_key
FROM (SELECT array_agg('device'::text) AS scopes, array_agg(left('abcdefghijklmnopqrstuvwxyz', length)) AS keys, array_agg('slow'::text) AS apis FROM generate_series(1, 26) AS length) AS a,
     fl_rate_try_batch(scopes, keys, apis) WITH ORDINALITY
         AS b (allowed, reason, remaining, delay, next_valid_at, reset_at, scope, key, api, name, limit_id, max_requests, period, n);
-- A batch answers what its requests one by one would be answered, in every column: here of a few keys, with one limit, two or none, granted, delayed and refused,
-- in an order in which each is like the one before it but for one thing or two. (Where costs are delayed, 1: requests of a batch share their instant, so larger ones may fit otherwise.)
SET client_min_messages = warning;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period, on_limit, max_delay) VALUES ('pacea', 'user', 'pacea', 9, '1 h', 'delay', '10 h'), ('paceb', 'user', 'paceb', 9, '1 h', 'delay', '10 h'), ('any', 'tenant', '*', 1000, '1 h', 'refuse', NULL);
INSERT INTO fl_rate_limit (name, scope, api, plan, max_requests, period) VALUES ('quick', 'user', 'quick', 'a', 10000, '2 h'), ('quick', 'user', 'quick', 'b', 10001, '2 h');
-- What one of the keys has spent is older, so that its dates are others.
SELECT fl_rate_check('user', key, 'slow', 5), fl_rate_age('user', key, 'slow', '40 min') FROM unnest('{m1,other m1}'::text[]) AS key;
CREATE TEMP TABLE mixed AS
	SELECT n, (ARRAY['user', 'device', 'tenant'])[n % 37 / 14 + 1] AS scope, 'm' || n * n % 7 AS key, (ARRAY['slow', 'slower', 'quick', 'pacea', 'paceb'])[n % 61 / 13 + 1] AS api,
	       CASE WHEN n % 61 < 39 THEN n % 2 + 1 ELSE 1 END::bigint AS cost, (ARRAY['a', 'b', NULL])[n % 9 / 3 + 1] AS plan
	FROM generate_series(1, 600) AS n;
CREATE TEMP TABLE one_by_one AS SELECT n, t.* FROM (SELECT * FROM mixed ORDER BY n OFFSET 0) AS m, fl_rate_try(scope, 'other ' || key, api, cost, plan) AS t;
RESET client_min_messages;
SELECT count(*), count(*) FILTER (WHERE (b.allowed, b.reason, b.remaining, b.scope, 'other ' || b.key, b.api, b.name, b.limit_id, b.max_requests, b.period)
                                         IS NOT DISTINCT FROM (o.allowed, o.reason, o.remaining, o.scope, o.key, o.api, o.name, o.limit_id, o.max_requests, o.period)) AS same,
       count(*) FILTER (WHERE coalesce(abs(extract(epoch FROM b.delay - o.delay)) < 600, (b.delay IS NULL) = (o.delay IS NULL))) AS same_delay,
       count(*) FILTER (WHERE coalesce(abs(extract(epoch FROM b.next_valid_at - o.next_valid_at)) < 600, (b.next_valid_at IS NULL) = (o.next_valid_at IS NULL))) AS same_date,
       count(*) FILTER (WHERE coalesce(abs(extract(epoch FROM b.reset_at - o.reset_at)) < 600, (b.reset_at IS NULL) = (o.reset_at IS NULL))) AS same_reset,
       count(*) FILTER (WHERE o.reason = 'ok') AS granted, count(*) FILTER (WHERE o.reason = 'delayed') AS delayed, count(*) FILTER (WHERE o.reason = 'refused') AS refused, count(*) FILTER (WHERE o.reason = 'no_limit') AS no_limit
FROM (SELECT array_agg(scope ORDER BY n) AS scopes, array_agg(key ORDER BY n) AS keys, array_agg(api ORDER BY n) AS apis, array_agg(cost ORDER BY n) AS costs, array_agg(plan ORDER BY n) AS plans FROM mixed) AS m,
     fl_rate_try_batch(scopes, keys, apis, costs, plans) WITH ORDINALITY
         AS b (allowed, reason, remaining, delay, next_valid_at, reset_at, scope, key, api, name, limit_id, max_requests, period, n) JOIN one_by_one AS o USING (n);
SET fliplet_ratelimit.enabled = off;
SELECT v.allowed, v.reason, v.remaining, v.name FROM fl_rate_try_batch('{user,user}', '{b1,b2}', '{ai,ai}') AS v;

SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
