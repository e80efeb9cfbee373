-- The documented limits work right after CREATE EXTENSION, in every scope.

BEGIN;
SELECT plan(50);

CREATE FUNCTION pg_temp.granted(n integer, scope text, key text, api text) RETURNS bigint
LANGUAGE sql AS $$
    SELECT count(*) FILTER (WHERE (v).allowed)
    FROM (SELECT fl_rate_try($2, $3, $4) AS v FROM generate_series(1, n) OFFSET 0) AS s
$$;

CREATE TEMPORARY TABLE documented (scope text, api text, max_requests integer, period interval);
INSERT INTO documented VALUES
    ('user', 'data-sources', 200, '10 s'),
    ('user', 'communicate',   20, '30 s'),
    ('user', 'audit-logs',    30, '10 s'),
    ('user', 'ai',            10, '60 s'),
    ('app',  'app-actions',   60, '60 s');

SELECT fl_rate_reset_all() >= 0 AS begin_clean;
SET LOCAL client_min_messages = warning;

SELECT set_eq(
    $$ SELECT name, scope, api, max_requests, period FROM fl_rate_limit WHERE limit_id < 0 $$,
    $$ SELECT 'fliplet/' || api, scope, api, max_requests::bigint, period FROM documented $$,
    'the shipped limits are the documented ones');

-- One window of each
SELECT is(pg_temp.granted(max_requests, scope, '42', api), max_requests::bigint,
          format('%s grants %s requests of one %s', api, max_requests, scope))
FROM documented;

SELECT is((SELECT (allowed, reason, remaining)::text FROM fl_rate_try(scope, '42', api)),
          '(f,refused,0)', format('%s refuses the next one', api))
FROM documented;

SELECT throws_ok(format('SELECT fl_rate_check(%L, %L, %L)', scope, '42', api), 'PT429',
    'You''ve made too many attempts in a short period of time, please try again in a few seconds. Read more about rate limiting and how you may be affected by reading our documentation.',
    format('%s: the documented error', api))
FROM documented;

SELECT is((fl_rate_try(scope, '43', api)).remaining, max_requests - 1::bigint,
          format('%s: another %s is not affected', api, scope))
FROM documented;

-- The date: the first request of the window, and a period
SELECT ok(v.next_valid_at > now() AND v.next_valid_at <= clock_timestamp() + d.period,
          format('%s: the date is less than %s ahead', d.api, d.period))
FROM documented AS d, LATERAL fl_rate_peek(d.scope, '42', d.api) AS v;

SELECT is((v.name, v.max_requests, v.period)::text,
          ('fliplet/' || d.api, d.max_requests, d.period)::text,
          format('%s: the verdict names the limit', d.api))
FROM documented AS d, LATERAL fl_rate_peek(d.scope, '42', d.api) AS v;

-- Almost a period later, and a period later
SELECT is((SELECT count(*) FROM fl_rate_age(scope, '42', api, period / 2)), 1::bigint,
          format('%s: half a period passes', api))
FROM documented;
SELECT is((fl_rate_peek(scope, '42', api)).allowed, false,
          format('%s: still refused then', api))
FROM documented;
SELECT is(pg_temp.granted(max_requests + 5, scope, '42', api), max_requests::bigint,
          format('%s grants as many again when the period is over', d.api))
FROM documented AS d, LATERAL fl_rate_age(d.scope, '42', d.api, d.period / 2);

-- Scopes
SELECT lives_ok($$ SELECT fl_rate_define('per ' || s, s, 'anything', 3, '1 min')
    FROM unnest('{device,user,app,organisation}'::text[]) AS s $$,
    'limits can apply to a device, a user, an app, an organisation');
SELECT is((SELECT array_agg(pg_temp.granted(5, s, '7', 'anything'))
           FROM unnest('{device,user,app,organisation}'::text[]) AS s),
          '{3,3,3,3}', 'the same key in four scopes is four subjects');
SELECT is(fl_rate_check('user', 8, 'anything'), 2::bigint,
          'a key may be a bigint');
SELECT is(fl_rate_check('user', '8', 'anything'), 1::bigint,
          'which is the same key as its text');
SELECT * FROM finish();
ROLLBACK;
