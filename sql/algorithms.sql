-- The algorithms, by the same code that judges live requests, at times that are given.
\getenv directory PG_ABS_SRCDIR
\set answer :directory /test/answer.sql
\i :answer
-- Simulate requests at these offsets from 2021-02-15 17:13:00 UTC (a Monday).
CREATE FUNCTION pg_temp.sim(max_requests bigint, period interval, offsets interval[], costs bigint[] DEFAULT NULL, algorithm text DEFAULT 'sliding_window', burst bigint DEFAULT NULL)
RETURNS SETOF text LANGUAGE sql AS $$
	SELECT concat_ws(' ', s.at - '2021-02-15 17:13:00+00', 'cost', s.cost, CASE WHEN s.allowed THEN 'granted' ELSE 'refused' END, 'remaining', s.remaining,
	                 'valid', coalesce((s.next_valid_at - '2021-02-15 17:13:00+00')::text, 'never'))
	FROM fl_rate_simulate(max_requests, period, ARRAY(SELECT '2021-02-15 17:13:00+00'::timestamptz + o FROM unnest(offsets) WITH ORDINALITY AS u (o, n) ORDER BY n), costs, algorithm, burst) WITH ORDINALITY AS s
	ORDER BY s.ordinality
$$;

-- sliding_window: the cost in (t - period, t] plus this cost is at most max_requests.
SELECT pg_temp.sim(3, '10 s', '{0,1 s,2 s,3 s,9.999999 s,10 s,10.5 s,11 s,12 s,12 s}');
-- A refusal costs nothing.
SELECT pg_temp.sim(1, '10 s', '{0,1 s,2 s,3 s,4 s,5 s,6 s,7 s,8 s,9 s,10 s}');
-- Ties
SELECT pg_temp.sim(2, '10 s', '{0,0,0,0,10 s,10 s,10 s}');
-- Costs: the date is when all of the cost fits; one that never fits has none, and spends nothing.
SELECT pg_temp.sim(10, '10 s', '{0,1 s,2 s,3 s,4 s,5 s}', '{4,3,2,2,11,1}');
SELECT pg_temp.sim(10, '10 s', '{0,1 s,2 s,3 s,3 s,3 s,3 s}', '{4,3,3,1,5,8,10}');
-- No burst across an edge: 200 in 10 s, wherever the window is.
SELECT count(*) FILTER (WHERE allowed), min(next_valid_at) FILTER (WHERE NOT allowed)
FROM fl_rate_simulate(200, '10 s', ARRAY(SELECT '2021-02-15 17:12:59+00'::timestamptz + i * interval '5 ms' FROM generate_series(0, 599) AS i));

-- token_bucket: max_requests per period, up to burst at once.
SELECT pg_temp.sim(60, '60 s', '{0,0,0,0,0.999999 s,1 s,1 s,3.5 s,3.5 s,3.5 s,10 s}', algorithm => 'token_bucket', burst => 3);
-- burst is max_requests unless it is given.
SELECT pg_temp.sim(3, '10 s', '{0,0,0,0,3.333333 s,3.333334 s,6.666666 s,6.666667 s,9.999999 s,10 s}', algorithm => 'token_bucket');
SELECT pg_temp.sim(2, '10 s', '{0,0,5 s,60 s}', '{5,1,5,6}', algorithm => 'token_bucket', burst => 5);
-- No drift: 3 per 10 s, taken as soon as they come, make 300 in 1000 s, no less, no more.
SELECT count(*) FILTER (WHERE allowed) FROM fl_rate_simulate(3, '10 s', ARRAY(SELECT '2021-02-15 17:13:00+00'::timestamptz + i * interval '1 ms' + interval '1 us' FROM generate_series(0, 999999) AS i), algorithm => 'token_bucket', burst => 1);
-- No zero rate: 5 000 000 per second are one every 0.2 us.
SELECT pg_temp.sim(5000000, '1 s', '{0,0,1 us,1 us,2 us}', algorithm => 'token_bucket', burst => 1);
SELECT pg_temp.sim(5000000, '1 s', '{0,1 us,1 us}', '{5000000,5,1}', algorithm => 'token_bucket');
-- One request in 100 years, and 2^63-1 in a microsecond
SELECT pg_temp.sim(1, '36525 days', '{0,1 day,36524 days 23:59:59.999999,36525 days}', algorithm => 'token_bucket');
SELECT pg_temp.sim(9223372036854775807, '1 us', '{0,0,1 us}', '{9223372036854775807,1,9223372036854775807}', algorithm => 'token_bucket');
SELECT pg_temp.sim(9223372036854775807, '36525 days', '{0,0,1 us}', '{9223372036854775807,1,2921}', algorithm => 'token_bucket');
SELECT pg_temp.sim(1, '36525 days', '{0,0}', '{9223372036854775807,1}', algorithm => 'token_bucket', burst => 9223372036854775807);

-- fixed_window: all of it again at each edge, hence up to twice max_requests across one.
SELECT pg_temp.sim(3, '10 s', '{5 s,9.8 s,9.9 s,9.999999 s,10 s,10.1 s,10.2 s,10.3 s,20 s}', algorithm => 'fixed_window');
SELECT pg_temp.sim(10, '10 s', '{5 s,6 s,7 s,8 s,12 s}', '{8,3,2,11,10}', algorithm => 'fixed_window');
-- Edges: hours and days of UTC, Mondays, first days of months, quarters and years; whatever the session's time zone
SELECT period, next_valid_at FROM unnest('{1 h,1 day,7 days,1 month,3 months,1 year,100 years}'::interval[]) WITH ORDINALITY AS p (period, n),
	fl_rate_simulate(1, period, '{2021-02-16 17:13:00+00,2021-02-16 17:14:00+00}', algorithm => 'fixed_window') AS s WHERE NOT allowed ORDER BY n;
SET timezone = 'America/New_York';
SELECT period, next_valid_at FROM unnest('{1 h,1 day,7 days,1 month,3 months,1 year}'::interval[]) WITH ORDINALITY AS p (period, n),
	fl_rate_simulate(1, period, '{2021-02-16 17:13:00+00,2021-02-16 17:14:00+00}', algorithm => 'fixed_window') AS s WHERE NOT allowed ORDER BY n;
SET timezone = 'UTC';
-- ... also before 1970
SELECT period, next_valid_at FROM unnest('{1 h,1 day,7 days,1 month,1 year}'::interval[]) WITH ORDINALITY AS p (period, n),
	fl_rate_simulate(1, period, '{1969-07-20 20:17:40+00,1969-07-20 20:17:41+00}', algorithm => 'fixed_window') AS s WHERE NOT allowed ORDER BY n;
-- Leap years and the ends of months
SELECT at, allowed, next_valid_at FROM fl_rate_simulate(1, '1 month', '{2024-01-31 12:00+00,2024-02-28 12:00+00,2024-02-29 23:59:59.999999+00,2024-03-01 00:00+00,2024-12-31 23:00+00,2024-12-31 23:30+00,2025-01-01 00:00+00}', algorithm => 'fixed_window');

-- The date is true, by each algorithm, with costs: a microsecond before it the request is refused, at it granted.
CREATE TEMP TABLE trace AS
SELECT c.*, ARRAY(SELECT '2021-02-15 17:13:00+00'::timestamptz + (i * 1500 + i * i * 7919 % 2903) * interval '1 ms' FROM generate_series(1, 200) AS i ORDER BY i * 1500 + i * i * 7919 % 2903) AS arrivals,
       ARRAY(SELECT 1 + i * 31 % c.most FROM generate_series(1, 200) AS i)::bigint[] AS costs
FROM (VALUES ('sliding_window', 7, interval '10 s', 4, NULL::bigint), ('sliding_window', 1, '1 s', 1, NULL), ('sliding_window', 40, '61.000001 s', 9, NULL),
             ('token_bucket', 7, '10 s', 4, NULL), ('token_bucket', 7, '13.000001 s', 3, 3), ('token_bucket', 1, '3 s', 5, 5),
             ('fixed_window', 7, '10 s', 4, NULL), ('fixed_window', 20, '1 min', 6, NULL)) AS c (algorithm, max_requests, period, most, burst);
SELECT t.algorithm, t.max_requests, t.period, count(*) > 20 AS many, bool_and(s.next_valid_at > s.at) AS later, bool_and(g.allowed) AS granted_then, bool_or(e.allowed) AS granted_earlier
FROM trace AS t,
     fl_rate_simulate(max_requests, period, arrivals, costs, algorithm, burst) WITH ORDINALITY AS s,
     fl_rate_simulate(max_requests, period, arrivals[:s.ordinality - 1] || s.next_valid_at, costs[:s.ordinality], algorithm, burst) WITH ORDINALITY AS g,
     fl_rate_simulate(max_requests, period, arrivals[:s.ordinality - 1] || s.next_valid_at - interval '1 us', costs[:s.ordinality], algorithm, burst) WITH ORDINALITY AS e
WHERE NOT s.allowed AND g.ordinality = s.ordinality AND e.ordinality = s.ordinality
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
-- Exact: sliding_window never grants more than max_requests within any period, and refuses only what does not fit.
SELECT max_requests, period, max(used) <= max_requests AS never_more, bool_and(allowed = (before + cost <= max_requests)) AS never_less
FROM (SELECT t.max_requests, t.period, s.*,
             sum(cost) FILTER (WHERE allowed) OVER (PARTITION BY t ORDER BY ordinality ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) IS NOT NULL,
             (SELECT coalesce(sum(r.cost), 0) FROM fl_rate_simulate(t.max_requests, t.period, t.arrivals, t.costs) WITH ORDINALITY AS r WHERE r.allowed AND r.ordinality < s.ordinality AND r.at > s.at - t.period) AS before,
             (SELECT coalesce(sum(r.cost), 0) FROM fl_rate_simulate(t.max_requests, t.period, t.arrivals, t.costs) WITH ORDINALITY AS r WHERE r.allowed AND r.ordinality <= s.ordinality AND r.at > s.at - t.period) AS used
      FROM trace AS t, fl_rate_simulate(max_requests, period, arrivals, costs) WITH ORDINALITY AS s WHERE algorithm = 'sliding_window') AS x
GROUP BY 1, 2 ORDER BY 1, 2;
-- ... above 4096 per period too, where what fits is refused for at most period/4096 longer
WITH s AS (SELECT * FROM fl_rate_simulate(10000, '1 h', ARRAY(SELECT '2021-02-15 17:13:00+00'::timestamptz + i * interval '100 ms' FROM generate_series(0, 99999) AS i)) WITH ORDINALITY)
SELECT max(n) <= 10000 AS never_more, min(n) FILTER (WHERE NOT allowed) >= 10000 - 10000 / 1000 AS hardly_less, count(*) FILTER (WHERE allowed) BETWEEN 29970 AND 30000 AS granted,
       min(next_valid_at) FILTER (WHERE NOT allowed) BETWEEN '2021-02-15 18:13:00+00' AND '2021-02-15 18:13:00+00'::timestamptz + interval '1 h' / 4096 AS date
FROM (SELECT *, count(*) FILTER (WHERE allowed) OVER (ORDER BY at RANGE BETWEEN interval '3599.999999 s' PRECEDING AND CURRENT ROW) AS n FROM s) AS x;

-- Periods from a microsecond to 100 years
SELECT pg_temp.sim(1, '1 us', '{0,0,1 us,1 us,3 us}');
SELECT pg_temp.sim(1, '36525 days', '{0,1 s,36525 days -1 us,36525 days}');
SELECT pg_temp.sim(2, '1 us', '{0,0,0,1 us}', algorithm => 'token_bucket');
SELECT pg_temp.sim(1, '1 us', '{0,0,1 us}', algorithm => 'fixed_window');
-- max_requests 0 grants nothing; 2^63-1 grants all of it.
SELECT pg_temp.sim(0, '10 s', '{0,10 s}', algorithm => a) FROM unnest('{sliding_window,token_bucket,fixed_window}'::text[]) AS a;
SELECT pg_temp.sim(9223372036854775807, '10 s', '{0,0,0,10 s}', '{9223372036854775806,1,1,9223372036854775807}', a) FROM unnest('{sliding_window,fixed_window}'::text[]) AS a;

-- Nothing arrives: no rows.
SELECT pg_temp.sim(1, '1 s', '{}');
-- What makes no sense is an error.
SELECT pg_temp.answers(
	$$SELECT fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:01+00,2021-02-15 17:13:00+00}')$$,
	$$SELECT fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:01+00,NULL}')$$,
	$$SELECT fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:01+00,infinity}')$$,
	$$SELECT fl_rate_simulate(1, '1 s', '{-infinity,2021-02-15 17:13:01+00}')$$,
	$$SELECT fl_rate_simulate(1, '1 s', '{{2021-02-15 17:13:00+00,2021-02-15 17:13:01+00}}')$$,
	$$SELECT fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:00+00}', '{1,2}')$$,
	$$SELECT fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:00+00}', '{}')$$,
	$$SELECT fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:00+00}', '{NULL}')$$,
	$$SELECT fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:00+00}', '{0}')$$,
	$$SELECT fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:00+00}', '{-1}')$$,
	$$SELECT fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:00+00}', '{{1}}')$$);
SELECT pg_temp.answers(
	$$SELECT fl_rate_simulate(-1, '1 s', '{2021-02-15 17:13:00+00}')$$,
	$$SELECT fl_rate_simulate(1, '0', '{2021-02-15 17:13:00+00}')$$,
	$$SELECT fl_rate_simulate(1, '-1 s', '{2021-02-15 17:13:00+00}')$$,
	$$SELECT fl_rate_simulate(1, '1 month', '{2021-02-15 17:13:00+00}')$$,
	$$SELECT fl_rate_simulate(1, '1 month -30 days', '{2021-02-15 17:13:00+00}')$$,
	$$SELECT fl_rate_simulate(1, '1 month', '{2021-02-15 17:13:00+00}', algorithm => 'token_bucket')$$,
	$$SELECT fl_rate_simulate(1, '1 month 1 day', '{2021-02-15 17:13:00+00}', algorithm => 'fixed_window')$$,
	$$SELECT fl_rate_simulate(1, '-1 month', '{2021-02-15 17:13:00+00}', algorithm => 'fixed_window')$$,
	$$SELECT fl_rate_simulate(1, '1000 years', '{2021-02-15 17:13:00+00}', algorithm => 'fixed_window')$$,
	$$SELECT fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:00+00}', algorithm => 'leaky_bucket')$$,
	$$SELECT fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:00+00}', burst => 2)$$,
	$$SELECT fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:00+00}', algorithm => 'fixed_window', burst => 2)$$,
	$$SELECT fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:00+00}', algorithm => 'token_bucket', burst => 0)$$,
	$$SELECT fl_rate_simulate(1, '1 s', '{2021-02-15 17:13:00+00}', algorithm => 'token_bucket', burst => -1)$$);
SELECT pg_temp.answer($$SELECT fl_rate_simulate(1, 'infinity', '{2021-02-15 17:13:00+00}')$$) ~ '^22';
-- At the ends of time, too, no request is granted twice.
SELECT a, at FROM unnest('{sliding_window,token_bucket,fixed_window}'::text[]) AS a, fl_rate_simulate(1, '36525 days', '{294276-12-31 00:00+00,294276-12-31 01:00+00}', algorithm => a) WHERE allowed;
SELECT at, allowed FROM fl_rate_simulate(1, '1 s', '{4713-01-01 00:00+00 BC,4713-01-01 00:00:00.5+00 BC,4713-01-01 00:00:01+00 BC}');

SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
