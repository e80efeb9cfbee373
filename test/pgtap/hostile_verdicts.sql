-- Verdicts made by hand: whatever stands in one, the functions that everybody
-- may call answer with valid JSON and harmless headers, or with a clear error

BEGIN;
SELECT plan(24);

SET LOCAL client_min_messages = warning;
CREATE ROLE flr_nobody;

-- What each column may hold that no verdict of ours does
CREATE TEMPORARY TABLE hostile AS SELECT
    ARRAY[true, false]                                              AS allowed,
    ARRAY[NULL, '', 'ok', 'refused', 'store_full', 'blocked', E'x"\r\nSet-Cookie: a=b', E'\x01\\u0000%s%n', repeat('"', 5000)] AS texts,
    ARRAY[NULL, '', '*', 'small', E'x\r\nSet-Cookie: a=b', E'x\n', 'x"', '"', 'x\', E'\x7f', E'\x1b[2J', 'é€😀', '%s%n%s%n', 'a;q=0', repeat('n', 63), repeat('n', 64), repeat('n', 5000)] AS names,
    ARRAY[NULL, 0, 1, -1, 999999999999999, 1000000000000000, 9223372036854775807, -9223372036854775808]::bigint[] AS numbers,
    ARRAY[NULL, -1, 0, 1, 2147483647, -2147483648]                  AS ids,
    ARRAY[NULL, '0', '1 us', '-1 us', '1 s', '-5 s', '1 month -30 days', '178000000 years', '-178000000 years', '178000000 years 2147483647 days']::interval[] AS intervals,
    ARRAY[NULL, 'infinity', '-infinity', '294276-12-31 23:59:59.999999+00', '4714-11-24 00:00:00+00 BC', '0001-12-31 23:59:59.999999+00 BC',
          '1970-01-01 00:00:00+00', '2000-01-01 00:00:00+00', now(), now() + interval '1 us', now() + interval '10 s']::timestamptz[] AS dates;

-- One of an array's values, drawn by lot, the same in every run
CREATE FUNCTION pg_temp.any_of(choices anyarray) RETURNS anyelement LANGUAGE sql VOLATILE AS $$
    SELECT choices[1 + floor(random() * cardinality(choices))::integer]
$$;
SELECT setseed(0.5) AS begin_the_same;
CREATE TEMPORARY TABLE verdicts AS
    SELECT ROW(pg_temp.any_of(allowed), pg_temp.any_of(texts), pg_temp.any_of(numbers), pg_temp.any_of(intervals), pg_temp.any_of(dates), pg_temp.any_of(dates),
               pg_temp.any_of(texts), pg_temp.any_of(texts), pg_temp.any_of(texts), pg_temp.any_of(names), pg_temp.any_of(ids), pg_temp.any_of(numbers), pg_temp.any_of(intervals))::fl_rate_verdict AS v
    FROM hostile, generate_series(1, 5000);
-- and all names with everything else as it should be
INSERT INTO verdicts
    SELECT ROW(r.allowed, reason, 1, '0', now() + interval '5 s', now() + interval '5 s', 'user', 'k', 'small', name, 1, 3, '10 s')::fl_rate_verdict
    FROM hostile AS h, unnest(h.names) AS name, (VALUES (true, 'ok'), (false, 'refused')) AS r (allowed, reason);

-- Everything that comes of a verdict, as one row; the fields of an error too
CREATE FUNCTION pg_temp.answers(v fl_rate_verdict, call text, style text DEFAULT 'plain',
    OUT state text, OUT answer text, OUT message text, OUT detail text, OUT hint text, OUT name text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('fliplet_ratelimit.error_style', style, true);
    EXECUTE format('SELECT %s($1)::text', call) INTO answer USING v;
    state := '00000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT, name = CONSTRAINT_NAME;
END
$$;
CREATE FUNCTION pg_temp.array_of(v fl_rate_verdict) RETURNS json LANGUAGE sql AS $$ SELECT fl_rate_json(v, 'array') $$;
GRANT SELECT ON verdicts TO flr_nobody;
SET LOCAL SESSION AUTHORIZATION flr_nobody;
CREATE TEMPORARY TABLE called AS
    SELECT (v.v).allowed, v.v AS verdict, call, style, a.*
    FROM verdicts AS v, (VALUES ('fl_rate_json', 'plain'), ('pg_temp.array_of', 'plain'), ('fl_rate_body', 'plain'), ('fl_rate_headers', 'plain'), ('fl_rate_raise', 'plain'), ('fl_rate_raise', 'pgrst')) AS c (call, style),
         pg_temp.answers(v.v, call, style) AS a;
RESET SESSION AUTHORIZATION;

-- A clear error is one for an argument that makes no sense.
SELECT is((SELECT array_agg(DISTINCT state) FROM called WHERE call <> 'fl_rate_raise' AND state NOT IN ('00000', '22023', '22004')), NULL,
          'fl_rate_json, fl_rate_body and fl_rate_headers answer, or say what is wrong with the verdict');
SELECT is((SELECT array_agg(DISTINCT state) FROM called WHERE call = 'fl_rate_raise' AND NOT allowed AND state NOT IN ('PT429', 'PT503', 'PGRST', '22023', '22004')), NULL,
          'fl_rate_raise raises whatever is not allowed');
SELECT is((SELECT array_agg(DISTINCT state) FROM called WHERE call = 'fl_rate_raise' AND allowed AND state NOT IN ('00000', '22023', '22004')), NULL, 'and no grant');
SELECT cmp_ok((SELECT count(*) FROM called WHERE state IN ('PT429', 'PGRST')), '>', 1000::bigint, 'many were refusals');

-- JSON
CREATE FUNCTION pg_temp.members(document text) RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg(k ORDER BY k COLLATE "C") FROM jsonb_object_keys(document::jsonb) AS k
$$;
SELECT is((SELECT answer FROM called WHERE call = 'fl_rate_json' AND state = '00000' AND cardinality(pg_temp.members(answer)) <> 14 LIMIT 1), NULL,
          'fl_rate_json always has its 14 members');
SELECT is((SELECT (verdict).key FROM called WHERE call = 'fl_rate_json' AND state = '00000' AND (answer::jsonb ->> 'key') IS DISTINCT FROM (verdict).key LIMIT 1), NULL,
          'texts arrive in it as they were');
SELECT is((SELECT string_agg(DISTINCT k || ' ' || jsonb_typeof(value), ', ') FROM called, jsonb_each(answer::jsonb) AS e (k, value)
           WHERE call = 'fl_rate_json' AND state = '00000' AND jsonb_typeof(value) NOT IN ('null', CASE WHEN k ~ 'Ms$|Requests$|^remaining$|^limitId$' THEN 'number' WHEN k = 'allowed' THEN 'boolean' ELSE 'string' END)), NULL,
          'members have their types');
SELECT is((SELECT answer FROM called WHERE call = 'fl_rate_json' AND state = '00000'
           AND EXISTS (SELECT FROM jsonb_each_text(answer::jsonb) AS e WHERE e.key ~ 'At$' AND e.value !~ '^(\d{4}|[+-]\d{6})-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$') LIMIT 1), NULL,
          'dates are ISO 8601 or null');
SELECT is((SELECT answer FROM called WHERE call = 'fl_rate_json' AND state = '00000'
           AND ((answer::jsonb ->> 'delayMs')::numeric < 0 OR (answer::jsonb ->> 'retryAfterMs')::numeric < 0) LIMIT 1), NULL, 'nobody is told to wait for less than nothing');
SELECT is((SELECT answer FROM called WHERE call = 'fl_rate_body' AND NOT allowed AND state = '00000'
           AND (pg_temp.members(answer) <> '{message,nextValidRequestDate,referenceUrl}' OR answer::jsonb ->> 'nextValidRequestDate' !~ '^(\d{4}|[+-]\d{6})-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$') LIMIT 1), NULL,
          'fl_rate_body has the three documented keys, and a date or null');
SELECT is((SELECT answer FROM called WHERE call = 'fl_rate_body' AND allowed AND answer IS NOT NULL LIMIT 1), NULL, 'and is NULL when allowed');

SELECT is((SELECT answer FROM called WHERE call = 'pg_temp.array_of' AND state = '00000'
           AND ARRAY(SELECT CASE json_typeof(e) WHEN 'null' THEN ' ' ELSE left(json_typeof(e), 1) END FROM json_array_elements(answer::json) AS e)::text
               !~ '^{b,(s|" "),(n|" "),(n|" "),(n|" "),(n|" "),(s|" "),(n|" "),(n|" "),(n|" "),(n|" ")}$' LIMIT 1), NULL,
          'as an array it always has its 11 elements, each of its type or null');
SELECT is((SELECT answer FROM called WHERE call = 'pg_temp.array_of' AND state = '00000' AND isfinite((verdict).next_valid_at) AND abs(extract(year FROM (verdict).next_valid_at)) < 9999
           AND (answer::json ->> 4)::numeric IS DISTINCT FROM extract(epoch FROM (verdict).next_valid_at) * 1000000 LIMIT 1), NULL,
          'and dates to the microsecond');

-- Headers: strings, integers and parameters of RFC 8941, section 3.3
CREATE FUNCTION pg_temp.bad_headers(headers jsonb) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(format('%s: %s', e.key, to_json(left(e.value, 80))), ', ') FROM jsonb_each_text(headers) AS e
    WHERE e.value !~ (CASE e.key WHEN 'RateLimit-Policy' THEN '^"[ !#-[\]-~]{1,63}";q=\d{1,15}(;w=\d{1,15})?$'
                                 WHEN 'RateLimit' THEN '^"[ !#-[\]-~]{1,63}";r=\d{1,15}(;t=\d{1,15})?$'
                                 WHEN 'Retry-After' THEN '^\d{1,15}$'
                                 ELSE 'no such header' END)
       OR e.value ~ '[\r\n]'
$$;
SELECT is((SELECT bad FROM called, pg_temp.bad_headers(answer::jsonb) AS bad WHERE call = 'fl_rate_headers' AND state = '00000' AND bad IS NOT NULL ORDER BY bad ~ '\\r' DESC LIMIT 1), NULL,
          'fl_rate_headers: no header is injected, and none is malformed');
SELECT is((SELECT bad FROM called, pg_temp.bad_headers(detail::jsonb -> 'headers') AS bad WHERE state = 'PGRST' AND bad IS NOT NULL ORDER BY bad ~ '\\r' DESC LIMIT 1), NULL,
          'nor by the error in the style of PostgREST');
SELECT cmp_ok((SELECT count(*) FROM called WHERE call = 'fl_rate_headers' AND answer ~ 'RateLimit-Policy'), '>', 500::bigint, 'many verdicts have headers');
SELECT is((SELECT (verdict).next_valid_at FROM called WHERE call = 'fl_rate_headers' AND state = '00000' AND answer::jsonb ? 'Retry-After' AND NOT isfinite((verdict).next_valid_at) LIMIT 1), NULL,
          'a date that never comes is none to retry after');

-- Errors
SELECT is((SELECT detail FROM called WHERE state = 'PT429' AND pg_temp.members(detail) <> '{message,nextValidRequestDate,referenceUrl}' LIMIT 1), NULL,
          'DETAIL is the documented body');
SELECT is((SELECT message FROM called WHERE state = 'PGRST' AND (pg_temp.members(message) <> '{code,details,hint,message}'
           OR pg_temp.members(detail) <> '{headers,status}' OR jsonb_typeof((message::jsonb ->> 'details')::jsonb) <> 'object') LIMIT 1), NULL,
          'in the style of PostgREST, MESSAGE and DETAIL are JSON');
SELECT is((SELECT hint FROM called WHERE state = 'PT429' AND hint !~ '^(Retry after \d+\.\d{3} seconds\.|This can never succeed: [a-z ]+\.)$' LIMIT 1), NULL, 'HINT is one of three sentences');
SELECT is((SELECT to_json(left(name, 80)) FROM called WHERE state IN ('PT429', 'PGRST') AND name !~ '^[ !#-[\]-~]{0,63}$' LIMIT 1)::text, NULL, 'CONSTRAINT NAME is the name of a limit, or none');

-- Large texts, most of it to be escaped
SELECT is((SELECT state FROM pg_temp.answers(ROW(false, big, 1, '0', now(), now(), big, big, big, 'small', 1, 3, '10 s')::fl_rate_verdict, call)), state, 'four texts of a megabyte: ' || call)
FROM repeat(E'\x01"', 500000) AS big, (VALUES ('fl_rate_json', '00000'), ('fl_rate_headers', '00000'), ('fl_rate_raise', 'PT429')) AS c (call, state);

SELECT * FROM finish();
ROLLBACK;
