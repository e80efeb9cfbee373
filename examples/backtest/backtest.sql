-- backtest.sql: what limits would have done to the log that load.sql has loaded
--
--   psql -d scratch -f backtest.sql
--   psql -d scratch -v api=ai -v limit='10 in 60 s' -f backtest.sql
--
-- api:   whose requests are judged; data-sources if it is not given
-- limit: the candidate, by its name, to look at closely; the last one if it is
--        not given
--
-- What each candidate would have done to each key is in backtest.result
-- afterwards.

-- Copyright (c) 2026, the fliplet_ratelimit developers

\set ON_ERROR_STOP on
\set QUIET on
\pset footer off
\if :{?api}
\else
	\set api data-sources
\endif
SET client_min_messages = warning;
BEGIN;
DROP TABLE IF EXISTS backtest.candidate, backtest.arrivals, backtest.result;

-- Adapt these: the limits to compare.
CREATE TABLE backtest.candidate (
    number       integer GENERATED ALWAYS AS IDENTITY,
    name         text PRIMARY KEY,
    max_requests bigint NOT NULL,
    period       interval NOT NULL,
    algorithm    text NOT NULL DEFAULT 'sliding_window',
    burst        bigint
);
INSERT INTO backtest.candidate (name, max_requests, period, algorithm, burst) VALUES
    ('10 in 60 s', 10, '60 s', 'sliding_window', NULL),
    ('50 in 10 s', 50, '10 s', 'sliding_window', NULL),
    ('1000 in 10 min', 1000, '10 min', 'sliding_window', NULL),
    ('20 a second, burst 50', 20, '1 s', 'token_bucket', 50),
    ('200 in 10 s, fixed', 200, '10 s', 'fixed_window', NULL),
    ('100 in 10 s', 100, '10 s', 'sliding_window', NULL),
    ('200 in 10 s', 200, '10 s', 'sliding_window', NULL);

-- Each key has counters of its own, so each is a log of its own, in order.
CREATE TABLE backtest.arrivals AS
    SELECT key, array_agg(at ORDER BY at, number) AS at
    FROM backtest.request WHERE api = :'api' GROUP BY key;

CREATE TABLE backtest.result AS
    SELECT c.number, c.name, a.key, b.*
    FROM backtest.candidate AS c, backtest.arrivals AS a,
         fl_rate_backtest(c.max_requests, c.period, a.at, algorithm => c.algorithm, burst => c.burst) AS b;
COMMIT;
ANALYZE backtest.candidate, backtest.arrivals, backtest.result;

\if :{?limit}
\else
	SELECT name AS limit FROM backtest.candidate ORDER BY number DESC LIMIT 1 \gset
\endif

\echo Requests of :api, and what limits would have done to them
SELECT name AS limit, sum(arrivals) AS requests, sum(refused) AS refused, round(100 * sum(refused) / sum(arrivals), 2) AS "%",
       count(*) FILTER (WHERE refused > 0) AS keys, count(*) AS "of keys", max(longest_wait) AS "longest wait"
FROM backtest.result GROUP BY name, number ORDER BY number;

SELECT format('"%s" would have refused %s %% of %s requests, and %s of %s keys would have noticed.', name,
              round(100 * sum(refused) / sum(arrivals), 2), sum(arrivals), count(*) FILTER (WHERE refused > 0), count(*)) AS sentence
FROM backtest.result WHERE name = :'limit' GROUP BY name
UNION ALL
SELECT format('There are no requests of %s, or no candidate "%s".', :'api', :'limit')
LIMIT 1 \gset
\echo :sentence

\echo
\echo Which keys
SELECT key, arrivals AS requests, refused, round(100.0 * refused / arrivals, 2) AS "%", first_refused_at AS "first refused", longest_wait AS "longest wait"
FROM backtest.result WHERE name = :'limit' AND refused > 0 ORDER BY refused DESC, key LIMIT 10;

\echo The first of these, in the minutes in which it would have been refused
SELECT date_trunc('minute', s.at) AS minute, count(*) AS requests, count(*) FILTER (WHERE NOT s.allowed) AS refused
FROM backtest.candidate AS c,
     (SELECT key FROM backtest.result WHERE name = :'limit' AND refused > 0 ORDER BY refused DESC, key LIMIT 1) AS k
     JOIN backtest.arrivals AS a USING (key),
     fl_rate_simulate(c.max_requests, c.period, a.at, algorithm => c.algorithm, burst => c.burst) AS s
WHERE c.name = :'limit' GROUP BY minute HAVING bool_or(NOT s.allowed) ORDER BY minute LIMIT 10;

\echo To try it on live requests without refusing any:
\pset format unaligned
\pset tuples_only on
SELECT format('SELECT fl_rate_define(%L, ''user'', %L, %s, %L, algorithm => %L, burst => %s, on_limit => ''count'');',
              :'api' || '-next', :'api', max_requests, period, algorithm, coalesce(burst::text, 'NULL'))
FROM backtest.candidate WHERE name = :'limit';
