-- fl_rate_simulate: the algorithms, to the microsecond, with times that are given

BEGIN;
SELECT plan(30);

CREATE FUNCTION pg_temp.at(VARIADIC seconds numeric[]) RETURNS timestamptz[]
LANGUAGE sql AS $$ SELECT array_agg('2026-01-01 00:00+00'::timestamptz + s * interval '1 s' ORDER BY o)
                   FROM unnest(seconds) WITH ORDINALITY AS u(s, o) $$;
CREATE FUNCTION pg_temp.answers(max_requests bigint, period interval, arrivals timestamptz[],
                                costs bigint[] DEFAULT NULL, algorithm text DEFAULT 'sliding_window', burst bigint DEFAULT NULL)
RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(CASE WHEN s.allowed THEN s.remaining::text ELSE '-' END, ' ' ORDER BY o)
    FROM fl_rate_simulate($1, $2, $3, $4, $5, $6) WITH ORDINALITY AS s(at, cost, allowed, remaining, next_valid_at, o)
$$;

-- Sliding window
SELECT is(pg_temp.answers(3, '10 s', pg_temp.at(0, 1, 2, 3, 9.999999, 10, 10, 11, 12)), '2 1 0 - - 0 - 0 0',
          'sliding_window: a request leaves the window after exactly one period');
SELECT is((SELECT max(n) FROM (SELECT count(*) OVER (ORDER BY at RANGE BETWEEN CURRENT ROW AND '9.999999 s' FOLLOWING) AS n
           FROM fl_rate_simulate(200, '10 s', (SELECT array_agg('2026-01-01'::timestamptz + i * interval '7 ms') FROM generate_series(1, 6000) AS i))
           WHERE allowed) AS w), 200::bigint,
          'sliding_window: never more than N in any window, across every edge');
SELECT is((SELECT count(*) FILTER (WHERE allowed) FROM fl_rate_simulate(200, '10 s',
              (SELECT array_agg('2026-01-01'::timestamptz + i * interval '7 ms' ORDER BY i) FROM generate_series(1, 6000) AS i))),
          200 * 4 + 200::bigint, 'sliding_window: and as many as that in every one');
SELECT is((SELECT array_agg(extract(epoch FROM next_valid_at - '2026-01-01 00:00+00')::numeric(10, 6)) FROM fl_rate_simulate(3, '10 s', pg_temp.at(0, 1, 2.5, 3, 10, 10.5)) WHERE NOT allowed),
          '{10.000000,11.000000}', 'sliding_window: the date is when enough has left the window');
SELECT is(pg_temp.answers(5, '10 s', pg_temp.at(0, 1, 2, 10, 10, 12), '{2,3,1,2,1,4}'), '3 0 - 0 - -',
          'sliding_window: costs');
SELECT is(pg_temp.answers(5, '10 s', pg_temp.at(0, 0, 0), '{6,5,1}'), '- 0 -', 'sliding_window: what can never fit spends nothing');
SELECT is((SELECT next_valid_at FROM fl_rate_simulate(5, '10 s', pg_temp.at(0), '{6}')), NULL, 'and has no date');
SELECT is(pg_temp.answers(2, '10 s', pg_temp.at(5, 5, 5, 15)), '1 0 - 1', 'equal times are in order');

-- A refusal costs nothing: the denied hammering does not move the date
SELECT is((SELECT count(DISTINCT next_valid_at) FROM fl_rate_simulate(1, '10 s',
              (SELECT array_agg('2026-01-01 00:00+00'::timestamptz + i * interval '1 ms' ORDER BY i) FROM generate_series(0, 9999) AS i)) WHERE NOT allowed),
          1::bigint, 'refusals do not move the date');

-- Token bucket
SELECT is(pg_temp.answers(10, '10 s', pg_temp.at(0, 0, 0, 0, 1, 1, 3.5, 3.5, 3.5), NULL, 'token_bucket', 3), '2 1 0 - 0 - 1 0 -',
          'token_bucket: a burst, then a token a second');
SELECT is((SELECT next_valid_at FROM fl_rate_simulate(3, '1 s', pg_temp.at(0, 0, 0, 0), NULL, 'token_bucket') WHERE NOT allowed),
          '2026-01-01 00:00:00.333334+00'::timestamptz, 'token_bucket: the date is exact, rounded up');
SELECT is((SELECT count(*) FILTER (WHERE allowed) FROM fl_rate_simulate(3, '1 s',
              (SELECT array_agg('2026-01-01'::timestamptz + i * interval '1 ms' ORDER BY i) FROM generate_series(0, 100000) AS i), NULL, 'token_bucket', 2)),
          302::bigint, 'token_bucket: no drift');
SELECT is(pg_temp.answers(5000000, '1 s', pg_temp.at(0, 0, 0.000001), '{5000000,1,5}', 'token_bucket'), '0 - 0',
          'token_bucket: no zero rate at millions a second');

-- Fixed window
SELECT is(pg_temp.answers(2, '10 s', pg_temp.at(8, 9, 9.999999, 10, 10, 10), NULL, 'fixed_window'), '1 0 - 1 0 -',
          'fixed_window: begins at the edge');
SELECT is((SELECT next_valid_at FROM fl_rate_simulate(1, '1 month', ARRAY['2026-01-31 12:00+00', '2026-01-31 13:00+00']::timestamptz[], NULL, 'fixed_window') WHERE NOT allowed),
          '2026-02-01 00:00+00'::timestamptz, 'fixed_window: months begin on the first');
SELECT is((SELECT next_valid_at FROM fl_rate_simulate(1, '7 days', ARRAY['2026-01-01 12:00+00', '2026-01-01 13:00+00']::timestamptz[], NULL, 'fixed_window') WHERE NOT allowed),
          '2026-01-05 00:00+00'::timestamptz, 'fixed_window: weeks on Mondays');

-- More than 4096 requests a period: never above the maximum, late by 1/4096 at most
SELECT cmp_ok((SELECT max(n) FROM (SELECT count(*) OVER (ORDER BY at RANGE BETWEEN CURRENT ROW AND '9.999999 s' FOLLOWING) AS n
           FROM fl_rate_simulate(10000, '10 s', (SELECT array_agg('2026-01-01'::timestamptz + i * interval '400 us' ORDER BY i) FROM generate_series(1, 60000) AS i))
           WHERE allowed) AS w), '<=', 10000::bigint, 'above 4096 a period: never more than N');
SELECT ok(next_valid_at >= '2026-01-01 00:00:10+00' AND next_valid_at <= '2026-01-01 00:00:10+00'::timestamptz + interval '10 s' / 4096 + interval '1 us',
          'above 4096 a period: late by at most period/4096')
FROM fl_rate_simulate(10000, '10 s', array_fill('2026-01-01 00:00+00'::timestamptz, ARRAY[10001])) WHERE NOT allowed;

-- Input
SELECT throws_ok($$ SELECT * FROM fl_rate_simulate(1, '1 s', ARRAY['2026-01-02', '2026-01-01']::timestamptz[]) $$, '22023', NULL,
                 'arrivals must be sorted');
SELECT throws_ok($$ SELECT * FROM fl_rate_simulate(1, '1 s', NULL) $$, '22004', NULL, 'and given');
SELECT is((SELECT count(*) FROM fl_rate_counters WHERE name = 'simulate'), 0::bigint, 'nothing is spent anywhere');

-- The same in one row
SELECT is(fl_rate_backtest(2, '10 s', ARRAY['2026-01-01 00:00:00Z', '2026-01-01 00:00:04Z', '2026-01-01 00:00:05Z', '2026-01-01 00:00:09Z', '2026-01-01 00:00:10Z']::timestamptz[])::text,
          ROW(5, 3, 2, timestamptz '2026-01-01 00:00:05Z', interval '5 s')::text, 'fl_rate_backtest: arrivals, granted, refused, the first refusal, the longest wait');
SELECT results_eq(format('SELECT arrivals, granted, refused, first_refused_at, longest_wait FROM fl_rate_backtest(7, %L, %L, %L, %L)', '3 s', a.times, a.costs, algorithm),
                  format('SELECT count(*), count(*) FILTER (WHERE allowed), count(*) FILTER (WHERE NOT allowed), min(at) FILTER (WHERE NOT allowed), justify_interval(max(next_valid_at - at) FILTER (WHERE NOT allowed)) FROM fl_rate_simulate(7, %L, %L, %L, %L)', '3 s', a.times, a.costs, algorithm),
                  'what it says of a thousand requests is what fl_rate_simulate() says: ' || algorithm)
FROM unnest('{sliding_window,token_bucket,fixed_window}'::text[]) AS algorithm,
     (SELECT array_agg(timestamptz '2026-01-01 00:00:00Z' + i * i % 97 * interval '1 ms' + i * interval '0.3 s' ORDER BY i * i % 97 * interval '1 ms' + i * interval '0.3 s') AS times,
             array_agg(1 + i % 5::bigint) AS costs FROM generate_series(1, 1000) AS i) AS a;
SELECT is(fl_rate_backtest(1, '1 s', '{}')::text, '(0,0,0,,)', 'no requests');
SELECT is(fl_rate_backtest(0, '1 s', '{2026-01-01 00:00:00Z}')::text, ROW(1, 0, 1, timestamptz '2026-01-01 00:00:00Z', NULL::interval)::text, 'what can never be granted waits for nothing');
SELECT is((fl_rate_backtest(5, '1 s', '{2026-01-01 00:00:00Z}')).first_refused_at, NULL::timestamptz, 'no refusal, no date');
SELECT throws_ok($$ SELECT fl_rate_backtest(1, '1 s', ARRAY['2026-01-02', '2026-01-01']::timestamptz[]) $$, '22023', 'arrivals must be sorted', 'it wants what fl_rate_simulate() wants');
SELECT throws_ok($$ SELECT fl_rate_backtest(1, '1 s', NULL) $$, '22004', 'arrivals must not be null', 'and is not STRICT');

SELECT * FROM finish();
ROLLBACK;
