-- load.sql: an access log in combined format, into tables
--
--   zcat -f access.log* | psql -d scratch -f load.sql
--
-- Makes the schema backtest. Every line of the log is either in
-- backtest.request or in backtest.bad_line; how many are in each is the last
-- thing that this prints. To load another log, DROP SCHEMA backtest CASCADE
-- first.

-- Copyright (c) 2026, the fliplet_ratelimit developers

\set ON_ERROR_STOP on
\set QUIET on
\pset footer off
BEGIN;
CREATE SCHEMA backtest;
SET LOCAL search_path = backtest, public;
SET LOCAL client_min_messages = warning;

-- A log may hold any byte. As LATIN1 each of them is a character; four of them
-- would end a column, a line or a string, and are made question marks; a line
-- that would end the data gets a blank before it.
CREATE UNLOGGED TABLE line (
    number bigint GENERATED ALWAYS AS IDENTITY,
    line   text NOT NULL
);
\copy line (line) FROM PROGRAM 'LC_ALL=C tr "\000\001\002\015" "????" | LC_ALL=C sed "s/^[\\][.]/ &/"' WITH (FORMAT csv, DELIMITER E'\x01', QUOTE E'\x02', FORCE_NOT_NULL (line), ENCODING 'LATIN1')

-- A time of the log, NULL if there is no such time
CREATE FUNCTION time_of(t text) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE STRICT SET datestyle = 'ISO, DMY' AS $$
BEGIN
    RETURN overlay(t PLACING ' ' FROM 12 FOR 1)::timestamptz;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

-- Adapt these two: whose request it is, and of which API (NULL: of none, so
-- that no limit counts it).
CREATE FUNCTION key_of(address text, remote_user text, request text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$ SELECT CASE remote_user WHEN '-' THEN address ELSE remote_user END $$;

CREATE FUNCTION api_of(request text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$ SELECT substring(request FROM '^[A-Z]+ /v1/([a-z-]+)') $$;

-- Address, identity, user, [time], "request", status, bytes, "referrer",
-- "agent"; what a log has behind these is of no interest. A quote inside of
-- quotes has a backslash before it. A regular expression says whether a line is
-- like this, and nothing more: to have it cut the line up takes a hundred times
-- as long.
CREATE UNLOGGED TABLE parsed AS
SELECT number, combined,
       CASE WHEN combined THEN time_of(left(right(head, 28), 26)) END AS at,
       CASE WHEN combined THEN key_of(address, substr(head, length(address || identity) + 3, length(head) - length(address || identity) - 32), request) END AS key,
       CASE WHEN combined THEN api_of(request) END AS api
FROM (SELECT number, split_part(line, '"', 1) AS head, split_part(line, '"', 2) AS request,
             split_part(line, ' ', 1) AS address, split_part(line, ' ', 2) AS identity,
             line ~ '^[^ "]+ [^ "]+ [^"]+ \[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "([^"\\]|\\.)*" \d{3} (\d+|-) "([^"\\]|\\.)*" "([^"\\]|\\.)*"( |$)' AS combined
      FROM line OFFSET 0) AS l;

CREATE VIEW request AS
    SELECT number, at, key, api FROM parsed WHERE at IS NOT NULL;
CREATE VIEW bad_line AS
    SELECT number, CASE WHEN combined THEN 'no such time' ELSE 'not in combined format' END AS why, line
    FROM parsed JOIN line USING (number) WHERE at IS NULL;
COMMIT;
ANALYZE backtest.line, backtest.parsed;

\echo 'Lines'
SELECT (SELECT count(*) FROM backtest.line) AS lines, count(*) AS requests, count(api) AS "of an API", count(DISTINCT key) AS keys,
       min(at) AS from, max(at) AS until, (SELECT count(*) FROM backtest.bad_line) AS "bad lines"
FROM backtest.request;
\echo 'Requests of each API'
SELECT coalesce(api, '(none)') AS api, count(*) AS requests, count(DISTINCT key) AS keys FROM backtest.request GROUP BY api ORDER BY requests DESC, api LIMIT 20;
\echo 'Bad lines, which are in backtest.bad_line and in no figure below'
SELECT why, count(*) AS lines, min(number) AS "the first", max(number) AS "the last" FROM backtest.bad_line GROUP BY why ORDER BY why;
\echo 'The first of them'
SELECT number, left(line, 100) AS line FROM backtest.bad_line ORDER BY number LIMIT 5;
