-- The error of a refusal, field by field

BEGIN;
SELECT plan(46);

-- All fields of the error that a statement raises
CREATE FUNCTION pg_temp.error_of(statement text, OUT state text, OUT message text, OUT detail text,
                                 OUT hint text, OUT constraint_name text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
                            hint = PG_EXCEPTION_HINT, constraint_name = CONSTRAINT_NAME;
END
$$;
SELECT fl_rate_reset_all() >= 0 AS begin_clean;
SET LOCAL client_min_messages = warning;
-- Dates in JSON do not depend on any of these.
SET LOCAL TimeZone = 'Asia/Kathmandu';
SET LOCAL DateStyle = 'German';
SET LOCAL IntervalStyle = 'sql_standard';

SELECT fl_rate_define('small', 'user', 'small', 2, '1 h') > 0 AS defined;
SELECT is(fl_rate_check('user', '1', 'small'), 1::bigint, 'fl_rate_check returns what remains');
SELECT is(fl_rate_check('user', '1', 'small'), 0::bigint, 'down to nothing');

CREATE TEMPORARY TABLE refused AS SELECT * FROM pg_temp.error_of($$ SELECT fl_rate_check('user', '1', 'small') $$);
SELECT is(state, 'PT429', 'SQLSTATE is PT429') FROM refused;
SELECT is(message, 'You''ve made too many attempts in a short period of time, please try again in a few seconds. Read more about rate limiting and how you may be affected by reading our documentation.',
          'the message is the documented one') FROM refused;
SELECT is((SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(detail::jsonb) AS k),
          '{message,nextValidRequestDate,referenceUrl}', 'DETAIL is the documented JSON, these keys and no others') FROM refused;
SELECT is(detail::jsonb ->> 'message', message, 'with the message') FROM refused;
SELECT is(detail::jsonb ->> 'referenceUrl', 'https://developers.fliplet.com/Rate-limiting-for-API.html',
          'the address of the documentation') FROM refused;
SELECT matches(detail::jsonb ->> 'nextValidRequestDate', '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$',
               'and a date as JavaScript writes it') FROM refused;
SELECT is((detail::jsonb ->> 'nextValidRequestDate')::timestamptz,
          date_trunc('milliseconds', next_valid_at + interval '999 us'),
          'the date, rounded up to the millisecond')
FROM refused, fl_rate_peek('user', '1', 'small');
SELECT matches(hint, '^Retry after 3(600\.000|59\d\.\d{3}) seconds\.$', 'HINT says how long to wait') FROM refused;
SELECT is(constraint_name, 'small', 'CONSTRAINT NAME is the name of the limit') FROM refused;

-- A refusal costs nothing, and counts
SELECT is((SELECT (used, refused)::text FROM fl_rate_counters WHERE name = 'small'), '(2,1)',
          'a refusal costs nothing, and is counted');

-- The date is true: one microsecond before it, refused; then, granted
SELECT is((SELECT array_agg(allowed ORDER BY at) FROM fl_rate_simulate(2, '1 h',
              ARRAY['2026-01-01 00:00:00.000001+00', '2026-01-01 00:10+00', '2026-01-01 01:00:00+00', '2026-01-01 01:00:00.000001+00']::timestamptz[])),
          '{t,t,f,t}', 'to the microsecond');
SELECT is((SELECT next_valid_at FROM fl_rate_simulate(2, '1 h',
              ARRAY['2026-01-01 00:00:00.000001+00', '2026-01-01 00:10+00', '2026-01-01 01:00:00+00']::timestamptz[]) WHERE NOT allowed),
          '2026-01-01 01:00:00.000001+00'::timestamptz, 'which is the date that was told');

-- Live: the same request at the date is granted
SELECT fl_rate_define('short', 'user', 'short', 1, '1 s') > 0 AS defined;
SELECT is(fl_rate_check('user', '1', 'short'), 0::bigint, 'a short limit');
CREATE TEMPORARY TABLE waited AS SELECT next_valid_at AS date, allowed FROM fl_rate_try('user', '1', 'short');
SELECT ok(NOT allowed, 'is spent') FROM waited;
SELECT pg_sleep(extract(epoch FROM date - clock_timestamp())) FROM waited;
SELECT is(fl_rate_check('user', '1', 'short'), 0::bigint, 'and grants at the date');

-- What can never succeed
CREATE TEMPORARY TABLE never AS SELECT * FROM pg_temp.error_of($$ SELECT fl_rate_check('user', '1', 'small', 3) $$);
SELECT is(state, 'PT429', 'a request that could never fit is refused like any other') FROM never;
SELECT is(detail::jsonb -> 'nextValidRequestDate', 'null'::jsonb, 'with a null date') FROM never;
SELECT matches(hint, 'never', 'and a hint that says so') FROM never;
SELECT is(fl_rate_headers(v) ? 'Retry-After', false, 'and no Retry-After')
FROM fl_rate_try('user', '1', 'small', 3) AS v;

-- Several pairs
SELECT fl_rate_define('app', 'app', 'small', 100, '1 h') > 0 AS defined;
SELECT is(constraint_name, 'small', 'of several pairs the refusing limit is named')
FROM pg_temp.error_of($$ SELECT fl_rate_check_all('{app,user}', '{a,1}', 'small') $$);
SELECT is((SELECT count(*) FROM fl_rate_counters WHERE name = 'app' AND used > 0), 0::bigint,
          'and nothing is spent in the other');

-- PostgREST's other way
SET LOCAL fliplet_ratelimit.error_style = 'pgrst';
CREATE TEMPORARY TABLE pgrst AS SELECT * FROM pg_temp.error_of($$ SELECT fl_rate_check('user', '1', 'small') $$);
SELECT is(state, 'PGRST', 'error_style pgrst: SQLSTATE is PGRST') FROM pgrst;
SELECT is((SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(message::jsonb) AS k), '{code,details,hint,message}',
          'MESSAGE has code, message, details, hint') FROM pgrst;
SELECT is(message::jsonb ->> 'code', 'PT429', 'the code') FROM pgrst;
SELECT matches(message::jsonb ->> 'message', '^You''ve made too many attempts', 'the documented message') FROM pgrst;
SELECT is((SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys((message::jsonb ->> 'details')::jsonb) AS k),
          '{message,nextValidRequestDate,referenceUrl}', 'the documented JSON in details') FROM pgrst;
SELECT matches(message::jsonb ->> 'hint', '^Retry after [0-9.]+ seconds\.$', 'the hint') FROM pgrst;
SELECT is(detail::jsonb -> 'status', '429'::jsonb, 'DETAIL has the status') FROM pgrst;
SELECT is((SELECT array_agg(k || ' ' || jsonb_typeof(v) ORDER BY k) FROM jsonb_each(detail::jsonb -> 'headers') AS h(k, v)),
          '{"RateLimit string","RateLimit-Policy string","Retry-After string"}', 'and the headers, strings each') FROM pgrst;
SELECT is(constraint_name, 'small', 'and the name of the limit') FROM pgrst;
RESET fliplet_ratelimit.error_style;

-- Settings
SET LOCAL fliplet_ratelimit.message = 'Slow "down".';
SET LOCAL fliplet_ratelimit.reference_url = 'https://example.com/?a="b"';
SELECT is((message, detail::jsonb - 'nextValidRequestDate')::text,
          ('Slow "down".', '{"message": "Slow \"down\".", "referenceUrl": "https://example.com/?a=\"b\""}'::jsonb)::text,
          'message and referenceUrl are settings')
FROM pg_temp.error_of($$ SELECT fl_rate_check('user', '1', 'small') $$);
RESET fliplet_ratelimit.message;
RESET fliplet_ratelimit.reference_url;

-- Who catches what
SELECT throws_ok($$ SELECT fl_rate_wait('user', '1', 'small', max_wait => '0') $$, 'PT429', NULL,
                 'fl_rate_wait raises the same error');
SELECT lives_ok($$ SELECT fl_rate_try('user', '1', 'small') $$, 'fl_rate_try never raises');
SELECT throws_ok($$ SELECT fl_rate_raise(v) FROM fl_rate_try('user', '1', 'small') AS v $$, 'PT429', NULL,
                 'fl_rate_raise raises the refusal of a verdict');

-- Errors that are no refusals
SELECT is((state, hint ~ 'data-sources')::text, '(42704,t)', 'an unknown API: the hint names the close one')
FROM pg_temp.error_of($$ SELECT fl_rate_check('user', '1', 'datasources') $$);
SELECT is((state, hint ~ 'organisation')::text, '(42704,t)', 'an unknown scope likewise')
FROM pg_temp.error_of($$ SELECT fl_rate_check('organization', '1', 'ai') $$);
SELECT throws_ok(format('SELECT fl_rate_check(%s)', args), '22023', NULL, format('an error: %s', args))
FROM unnest(ARRAY['''user'', '''', ''ai''', '''user'', ''*'', ''ai''', '''user'', ''1''::text, ''''', ''''', ''1''::text, ''ai''',
                  '''user'', ''1''::text, ''*''', '''user'', ''1''::text, ''ai'', 0', '''user'', ''1''::text, ''ai'', -1']) AS args;
SELECT is((SELECT count(*) FROM fl_rate_counters WHERE api = 'ai'), 0::bigint, 'an error changes nothing');

SELECT * FROM finish();
ROLLBACK;
