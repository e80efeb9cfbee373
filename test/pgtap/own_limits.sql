-- Your own limits: rows of fl_rate_limit, by SQL or by fl_rate_define

BEGIN;
SELECT plan(70);

CREATE FUNCTION pg_temp.granted(n integer, scope text, key text, api text, plan text DEFAULT NULL) RETURNS bigint
LANGUAGE sql AS $$
    SELECT count(*) FILTER (WHERE (v).allowed)
    FROM (SELECT fl_rate_try($2, $3, $4, plan => $5) AS v FROM generate_series(1, n) OFFSET 0) AS s
$$;
SELECT fl_rate_reset_all() >= 0 AS begin_clean;
SET LOCAL client_min_messages = warning;

-- A limit
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period)
VALUES ('reports', 'organisation', 'reports', 5, '1 min');
SELECT is(pg_temp.granted(7, 'organisation', 'o1', 'reports'), 5::bigint,
          'a row of fl_rate_limit is a limit');

-- One key exempt
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests)
VALUES ('reports', 'organisation', 'reports', 'ours', NULL);
SELECT is(pg_temp.granted(50, 'organisation', 'ours', 'reports'), 50::bigint,
          'a row with its key and max_requests NULL exempts an organisation');
SELECT is((SELECT (reason, remaining)::text FROM fl_rate_try('organisation', 'ours', 'reports')),
          '(unlimited,)', 'the reason is unlimited, and nothing is said to remain');
SELECT is(fl_rate_check('organisation', 'ours', 'reports'), NULL,
          'fl_rate_check returns NULL for it');
SELECT is(pg_temp.granted(7, 'organisation', 'o2', 'reports'), 5::bigint,
          'others are limited as before');

-- One organisation raised for a month
SELECT fl_rate_define('reports', 'organisation', 'reports', 20, '1 min', key => 'o1',
                      valid_from => now() - interval '1 day', valid_until => now() + interval '1 month') > 0 AS defined;
SELECT is((fl_rate_peek('organisation', 'o1', 'reports')).remaining, 15::bigint,
          'raising one organisation in mid-window keeps what it has spent');
SELECT is(pg_temp.granted(30, 'organisation', 'o1', 'reports'), 15::bigint,
          'and grants the difference');
UPDATE fl_rate_limit SET valid_until = now() - interval '1 hour' WHERE key = 'o1';
SELECT is((SELECT (allowed, max_requests, remaining)::text FROM fl_rate_peek('organisation', 'o1', 'reports')),
          '(f,5,0)', 'after valid_until everyone''s limit is back');
UPDATE fl_rate_limit SET valid_from = now() + interval '1 hour', valid_until = NULL WHERE key = 'o1';
SELECT is((fl_rate_peek('organisation', 'o1', 'reports')).max_requests, 5::bigint,
          'before valid_from too');
SELECT matches((SELECT why FROM fl_rate_explain('organisation', 'o1', 'reports') WHERE limit_id =
                    (SELECT limit_id FROM fl_rate_limit WHERE key = 'o1')),
               'not valid before', 'fl_rate_explain says so');
UPDATE fl_rate_limit SET valid_from = NULL, enabled = false WHERE key = 'o1';
SELECT is((fl_rate_peek('organisation', 'o1', 'reports')).max_requests, 5::bigint,
          'a disabled row hides nothing');
UPDATE fl_rate_limit SET enabled = true WHERE key = 'o1';
SELECT is((fl_rate_peek('organisation', 'o1', 'reports')).max_requests, 20::bigint,
          'until it is enabled');
DELETE FROM fl_rate_limit WHERE key = 'o1';
SELECT is((fl_rate_peek('organisation', 'o1', 'reports')).max_requests, 5::bigint,
          'deleting it is back to normal');

-- A plan
SELECT fl_rate_define('reports', 'organisation', 'reports', 10, '1 min', plan => 'gold') > 0 AS defined;
SELECT is(pg_temp.granted(20, 'organisation', 'o3', 'reports', 'gold'), 10::bigint,
          'a plan has its own limit');
SELECT is((SELECT (allowed, max_requests)::text FROM fl_rate_peek('organisation', 'o3', 'reports')),
          '(f,5)', 'which shares what was spent with everyone''s');
SELECT is(pg_temp.granted(20, 'organisation', 'o4', 'reports', 'no such plan'), 5::bigint,
          'a plan that no row names gets everyone''s limit');
SELECT is((fl_rate_try('organisation', 'ours', 'reports', plan => 'gold')).reason, 'unlimited',
          'a row for the key goes before one for the plan');

-- A shipped limit
SELECT fl_rate_define('fliplet/ai', 'user', 'ai', 15, '1 min') > 0 AS defined;
SELECT is(pg_temp.granted(20, 'user', 'u1', 'ai'), 15::bigint,
          'a row with its name replaces a shipped limit');
SELECT fl_rate_undefine('fliplet/ai') AS undefined;
SELECT is((SELECT (allowed, max_requests)::text FROM fl_rate_peek('user', 'u1', 'ai')),
          '(f,10)', 'and without the row the shipped one is back');
SELECT throws_ok('UPDATE fl_rate_limit SET max_requests = 11 WHERE limit_id = -4', '55000', NULL,
                 'a shipped limit cannot be edited');
SELECT throws_ok('DELETE FROM fl_rate_limit WHERE limit_id = -4', '55000', NULL,
                 'nor deleted');
SELECT throws_ok('TRUNCATE fl_rate_limit', '55000', NULL, 'nor truncated');
SET LOCAL fliplet_ratelimit.shipped_limits = off;
SELECT throws_ok($$ SELECT fl_rate_check('user', 'u1', 'audit-logs') $$, '42704', NULL,
                 'shipped_limits = off ignores them: then the API is unknown');
SET LOCAL fliplet_ratelimit.shipped_limits = on;

-- Two limits at once
SELECT fl_rate_define('search/min', 'user', 'search', 3, '1 min'),
       fl_rate_define('search/h', 'user', 'search', 8, '1 h');
SELECT is(pg_temp.granted(5, 'user', 'u1', 'search'), 3::bigint,
          'of two limits the tighter one decides');
SELECT is((SELECT (name, max_requests)::text FROM fl_rate_try('user', 'u1', 'search')), '(search/min,3)',
          'and is named');
SELECT is((SELECT array_agg(used ORDER BY name) FROM fl_rate_counters WHERE key = 'u1' AND api = 'search'),
          '{3,3}', 'a refusal has spent nothing in the other');
SELECT is(fl_rate_age('user', 'u1', 'search', '1 min'), 2::bigint, 'a minute later');
SELECT is(pg_temp.granted(5, 'user', 'u1', 'search'), 3::bigint, 'three more');
SELECT is(fl_rate_age('user', 'u1', 'search', '1 min'), 2::bigint, 'another minute later');
SELECT is(pg_temp.granted(5, 'user', 'u1', 'search'), 2::bigint, 'the rest of the hour');
SELECT is((fl_rate_try('user', 'u1', 'search')).name, 'search/h', 'now the other one decides');
SELECT ok(next_valid_at > clock_timestamp() + interval '50 min', 'with its date')
FROM fl_rate_peek('user', 'u1', 'search');

-- A total over all APIs
SELECT fl_rate_define('total', 'user', '*', 6, '1 h') > 0 AS defined;
SELECT is((SELECT array_agg(pg_temp.granted(3, 'user', 'u2', api)) FROM unnest('{ai,search,communicate}'::text[]) AS api),
          '{3,3,0}', 'a limit with api * is one total over all APIs');
SELECT is((SELECT (api, used)::text FROM fl_rate_counters WHERE name = 'total' AND key = 'u2'), '(*,6)',
          'it has one counter a key');
SELECT lives_ok($$ SELECT fl_rate_check('user', 'u3', 'whatever') $$,
                'under it every API of that scope is known');
SELECT throws_ok($$ SELECT fl_rate_check('app', 'a1', 'whatever') $$, '42704', NULL,
                 'but not of another one');
DELETE FROM fl_rate_limit WHERE name = 'total';

-- A shadow limit
SELECT fl_rate_define('strict', 'user', 'search', 1, '1 h', on_limit => 'count') > 0 AS defined;
SELECT is(pg_temp.granted(3, 'user', 'u4', 'search'), 3::bigint, 'a shadow limit never refuses');
SELECT is((fl_rate_peek('user', 'u4', 'search')).name, 'search/min', 'and never decides a verdict');
SELECT is((SELECT (granted, refused, shadow_refused)::text FROM fl_rate_stats WHERE name = 'strict'),
          '(1,0,2)', 'it counts what it would have refused');
SELECT fl_rate_define('only', 'user', 'shadowed', 1, '1 h', on_limit => 'count') > 0 AS defined;
SELECT is((SELECT array_agg((fl_rate_try('user', 'u4', 'shadowed')).reason) FROM generate_series(1, 2)),
          '{no_limit,no_limit}', 'with nothing but shadows no limit applies');

-- A throttle
SELECT fl_rate_define('throttle', 'user', 'export', 1, '10 s', on_limit => 'delay', max_delay => '25 s') > 0 AS defined;
CREATE TEMPORARY TABLE throttled AS SELECT 1 AS i, v.* FROM fl_rate_try('user', 'u5', 'export') AS v;
INSERT INTO throttled SELECT 2, v.* FROM fl_rate_try('user', 'u5', 'export') AS v;
INSERT INTO throttled SELECT 3, v.* FROM fl_rate_try('user', 'u5', 'export') AS v;
INSERT INTO throttled SELECT 4, v.* FROM fl_rate_try('user', 'u5', 'export') AS v;
SELECT is((SELECT array_agg(reason ORDER BY i) FROM throttled), '{ok,delayed,delayed,refused}',
          'a throttle slows down first and refuses after');
SELECT is((SELECT delay FROM throttled WHERE i = 1), interval '0', 'the first is served at once');
SELECT ok((SELECT delay > '5 s' AND delay <= '10 s' FROM throttled WHERE i = 2), 'the second after a period');
SELECT ok((SELECT delay > '15 s' AND delay <= '20 s' FROM throttled WHERE i = 3), 'the third after two');
SELECT ok((SELECT next_valid_at - clock_timestamp() BETWEEN '1 s' AND '5 s' FROM throttled WHERE i = 4),
          'the fourth may ask again when its slot is within max_delay');
SELECT throws_ok($$ SELECT fl_rate_check('user', 'u5', 'export') $$, 'PT429', NULL,
                 'fl_rate_check never sleeps: it refuses');
SELECT fl_rate_define('throttle', 'user', 'export', 1, '1 s', on_limit => 'delay') > 0 AS defined;
SELECT is((SELECT array_agg((fl_rate_try('user', 'u6', 'export')).reason) FROM generate_series(1, 3)),
          '{ok,delayed,refused}', 'max_delay is a second unless given');

-- A calendar quota
SELECT fl_rate_define('monthly', 'organisation', 'storage', 4, '1 month',
                      algorithm => 'fixed_window', time_zone => 'Europe/London') > 0 AS defined;
SELECT is(pg_temp.granted(6, 'organisation', 'o1', 'storage'), 4::bigint, 'a calendar quota');
SELECT is((fl_rate_peek('organisation', 'o1', 'storage')).next_valid_at,
          (date_trunc('month', now() AT TIME ZONE 'Europe/London') + interval '1 month') AT TIME ZONE 'Europe/London',
          'is granted anew when the next month begins there');
SELECT fl_rate_define('weekly', 'organisation', 'mail', 1, '7 days', algorithm => 'fixed_window') > 0 AS defined;
SELECT is(fl_rate_check('organisation', 'o1', 'mail'), 0::bigint, 'a weekly quota');
SELECT is((fl_rate_peek('organisation', 'o1', 'mail')).next_valid_at,
          (date_trunc('week', now() AT TIME ZONE 'UTC') + interval '7 days') AT TIME ZONE 'UTC',
          'begins on Mondays');
SELECT throws_ok($$ SELECT fl_rate_define('months', 'user', 'search', 1, '1 month') $$, '23514', NULL,
                 'months need fixed_window');

-- A token bucket
SELECT fl_rate_define('bucket', 'device', 'sync', 10, '10 s', algorithm => 'token_bucket', burst => 3) > 0 AS defined;
SELECT is(pg_temp.granted(5, 'device', 'd1', 'sync'), 3::bigint, 'a token bucket grants its burst');
SELECT is(fl_rate_age('device', 'd1', 'sync', '2 s'), 1::bigint, 'two seconds later');
SELECT is(pg_temp.granted(5, 'device', 'd1', 'sync'), 2::bigint, 'it has two tokens more');

-- Blocked, and more than could ever fit
SELECT fl_rate_define('search/min', 'user', 'search', 0, NULL, key => 'bad') > 0 AS defined;
SELECT is((SELECT (allowed, reason, next_valid_at)::text FROM fl_rate_try('user', 'bad', 'search')),
          '(f,blocked,)', 'max_requests 0 blocks a key');
SELECT is((SELECT (allowed, reason, next_valid_at)::text FROM fl_rate_try('user', 'u7', 'search', 4)),
          '(f,too_large,)', 'a cost above the maximum can never fit');

-- Definitions for migrations
SELECT is(fl_rate_define('reports', 'organisation', 'reports', 7, '1 min'),
          (SELECT limit_id FROM fl_rate_limit WHERE name = 'reports' AND key IS NULL AND plan IS NULL),
          'fl_rate_define updates the row of that name, key and plan');
SELECT is((SELECT count(*) FROM fl_rate_limit WHERE name = 'reports'), 3::bigint, 'and adds none');
SELECT ok(fl_rate_undefine('reports', 'ours'), 'fl_rate_undefine deletes one');
SELECT ok(NOT fl_rate_undefine('reports', 'ours'), 'and says when there is none');

-- No limit is off by accident
SELECT throws_ok($$ SELECT fl_rate_check('user', '1', 'data-source') $$, '42704', NULL,
                 'an unknown API is an error, not a pass');
SELECT throws_ok($$ SELECT fl_rate_check('users', '1', 'data-sources') $$, '42704', NULL,
                 'an unknown scope too');
SELECT is((SELECT (allowed, reason)::text FROM fl_rate_try('device', '1', 'ai')), '(t,no_limit)',
          'a known scope and a known API without a limit between them: no_limit');
SELECT throws_ok(format('SELECT fl_rate_check(%s)', args), '22004', NULL, format('NULL is an error: %s', args))
FROM unnest(ARRAY['NULL, ''1''::text, ''ai''', '''user'', NULL::text, ''ai''', '''user'', ''1''::text, NULL', '''user'', ''1''::text, ''ai'', NULL']) AS args;
SELECT throws_ok($$ INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('reports', 'user', 'reports', 1, '1 s') $$,
                 '23514', NULL, 'variants of a limit have one scope and one API');
SELECT throws_ok($$ INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('x', 'user', 'x', 1, '0') $$,
                 '23514', NULL, 'a definition that makes no sense cannot be stored');

SELECT * FROM finish();
ROLLBACK;
