-- A verdict, and what can be made of it for HTTP and for JavaScript

BEGIN;
SELECT plan(48);

SELECT fl_rate_reset_all() >= 0 AS begin_clean;
SET LOCAL client_min_messages = warning;
SELECT fl_rate_define('small', 'user', 'small', 3, '1 h'),
       fl_rate_define('wide', 'user', 'small', 100, '1 h');

-- A grant
CREATE TEMPORARY TABLE v AS SELECT 1 AS i, t.* FROM fl_rate_try('user', '1', 'small') AS t;
SELECT is((allowed, reason, remaining, delay)::text, '(t,ok,2,00:00:00)', 'a grant') FROM v WHERE i = 1;
SELECT is((scope, key, api)::text, '(user,1,small)', 'repeats the request') FROM v WHERE i = 1;
SELECT is((name, max_requests, period)::text, '(small,3,01:00:00)', 'names the limit with the least remaining') FROM v WHERE i = 1;
SELECT is(limit_id, (SELECT limit_id FROM fl_rate_limit WHERE name = 'small'), 'and its row') FROM v WHERE i = 1;
SELECT ok(next_valid_at BETWEEN now() AND clock_timestamp(), 'next_valid_at is now') FROM v WHERE i = 1;
SELECT ok(reset_at > now() + interval '59 min' AND reset_at <= clock_timestamp() + interval '1 h',
          'reset_at is when remaining grows') FROM v WHERE i = 1;
SELECT is(fl_rate_body(t), NULL, 'fl_rate_body is NULL when allowed') FROM fl_rate_peek('user', '1', 'small') AS t;
SELECT is(fl_rate_raise(t), t.remaining, 'fl_rate_raise returns what remains') FROM fl_rate_peek('user', '1', 'small') AS t;

-- A peek spends nothing
SELECT is((allowed, reason, remaining)::text, '(t,ok,2)', 'a peek') FROM fl_rate_peek('user', '1', 'small');
SELECT is((allowed, reason, remaining)::text, '(t,ok,2)', 'spends nothing') FROM fl_rate_peek('user', '1', 'small');
SELECT is((allowed, reason, remaining)::text, '(f,too_large,2)', 'and judges the cost') FROM fl_rate_peek('user', '1', 'small', 4);
SELECT is((SELECT refused FROM fl_rate_stats WHERE name = 'small'), 0::bigint, 'nor is it counted');

-- A refusal
SELECT is((allowed, remaining)::text, '(t,0)', 'the rest in one request') FROM fl_rate_try('user', '1', 'small', 2);
INSERT INTO v SELECT 2, t.* FROM fl_rate_try('user', '1', 'small', 2) AS t;
SELECT is((allowed, reason, remaining, name)::text, '(f,refused,0,small)', 'a refusal') FROM v WHERE i = 2;
SELECT ok(next_valid_at > now() + interval '59 min', 'has a date') FROM v WHERE i = 2;
SELECT ok(next_valid_at >= reset_at, 'not before remaining grows') FROM v WHERE i = 2;
SELECT is((SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(fl_rate_body(t)) AS k), '{message,nextValidRequestDate,referenceUrl}',
          'fl_rate_body has the documented keys') FROM fl_rate_try('user', '1', 'small') AS t;
SELECT throws_ok($$ SELECT fl_rate_raise(t) FROM fl_rate_try('user', '1', 'small') AS t $$, 'PT429', NULL,
                 'fl_rate_raise raises it');

-- Headers: draft-ietf-httpapi-ratelimit-headers-10
CREATE TEMPORARY TABLE h AS SELECT fl_rate_headers(t) AS h FROM fl_rate_try('user', '1', 'small') AS t;
SELECT is(h ->> 'RateLimit-Policy', '"small";q=3;w=3600', 'RateLimit-Policy') FROM h;
SELECT matches(h ->> 'RateLimit', '^"small";r=0;t=3(600|59\d)$', 'RateLimit') FROM h;
SELECT matches(h ->> 'Retry-After', '^3(600|59\d)$', 'Retry-After') FROM h;
SELECT is(array_length(ARRAY(SELECT jsonb_object_keys(h)), 1), 3, 'no others') FROM h;
SELECT is(ARRAY(SELECT jsonb_object_keys(fl_rate_headers(t)) AS k ORDER BY k), '{RateLimit,RateLimit-Policy}',
          'no Retry-After when allowed') FROM fl_rate_try('user', '2', 'small') AS t;
SELECT is(fl_rate_headers(t) ->> 'RateLimit', '"small";r=3', 'no t when nothing is spent')
FROM fl_rate_peek('user', '3', 'small') AS t;
SELECT fl_rate_define('tiny', 'user', 'tiny', 1, '1 ms') > 0 AS defined;
SELECT is(fl_rate_headers(t) ->> 'RateLimit-Policy', '"tiny";q=1;w=1', 'seconds are rounded up, at least 1')
FROM fl_rate_peek('user', '1', 'tiny') AS t;
SELECT fl_rate_define('huge', 'user', 'huge', 9223372036854775807, '1 h') > 0 AS defined;
SELECT is(fl_rate_headers(t) ->> 'RateLimit-Policy', '"huge";q=999999999999999;w=3600', 'numbers have at most 15 digits')
FROM fl_rate_peek('user', '1', 'huge') AS t;
SELECT is(fl_rate_headers(t) ->> 'RateLimit', '"huge";r=999999999999999', 'what remains too')
FROM fl_rate_peek('user', '1', 'huge') AS t;
SELECT is(fl_rate_headers(t), '{}', '{} when no limit applies') FROM fl_rate_try('device', '1', 'small') AS t;

-- JavaScript
CREATE TEMPORARY TABLE j AS SELECT fl_rate_json(t) AS j, t.* FROM fl_rate_try('user', '1', 'small') AS t;
SELECT is(j -> 'allowed', 'false'::jsonb, 'fl_rate_json: allowed') FROM j;
SELECT is(j ->> 'reason', 'refused', 'reason') FROM j;
SELECT is(jsonb_typeof(j -> 'remaining'), 'number', 'bigints are numbers') FROM j;
SELECT is(j -> 'delayMs', '0'::jsonb, 'delayMs') FROM j;
SELECT ok((j ->> 'retryAfterMs')::bigint BETWEEN 3590000 AND 3600001, 'retryAfterMs') FROM j;
SELECT is(jsonb_path_query_array(j, '$.*.type()') @> '["string"]', true, 'dates are strings') FROM j;
SELECT is((j ->> 'nextValidAt')::timestamptz, date_trunc('milliseconds', next_valid_at + interval '999 us'),
          'rounded up to the millisecond') FROM j;
SELECT is((j ->> 'name', j ->> 'scope', j ->> 'key', j ->> 'api')::text, '(small,user,1,small)', 'what it was about') FROM j;
SELECT is((j ->> 'maxRequests', j ->> 'limitId')::text, (3, limit_id)::text, 'and by which limit') FROM j;

-- Reasons
SELECT is((allowed, reason, remaining, name)::text, '(t,no_limit,,)', 'no_limit') FROM fl_rate_try('device', '1', 'small');
SELECT fl_rate_define('small', 'user', 'small', NULL, NULL, key => 'free'),
       fl_rate_define('wide', 'user', 'small', NULL, NULL, key => 'free'),
       fl_rate_define('small', 'user', 'small', 0, NULL, key => 'blocked');
SELECT is((allowed, reason, remaining)::text, '(t,unlimited,)', 'unlimited') FROM fl_rate_try('user', 'free', 'small');
SELECT is((allowed, reason, next_valid_at)::text, '(f,blocked,)', 'blocked') FROM fl_rate_try('user', 'blocked', 'small');
SELECT is((allowed, reason, next_valid_at)::text, '(f,too_large,)', 'too_large') FROM fl_rate_try('user', '9', 'small', 4);
SET LOCAL fliplet_ratelimit.enabled = off;
SELECT is((allowed, reason, remaining, next_valid_at, name)::text, '(t,off,,,)', 'off: the kill switch')
FROM fl_rate_try('user', '1', 'small');
SELECT is(fl_rate_check('user', '1', 'small'), NULL, 'with which fl_rate_check returns NULL');
SET LOCAL fliplet_ratelimit.enabled = on;

-- Several pairs, several requests
SELECT fl_rate_define('app', 'app', 'small', 2, '1 h') > 0 AS defined;
SELECT is((allowed, remaining, scope, key, name)::text, '(t,1,app,a,app)', 'of several pairs the one that decided is told')
FROM fl_rate_try_all('{user,app}', '{5,a}', 'small');
SELECT is(fl_rate_check_all('{user,app}', '{5,a}', 'small'), 0::bigint, 'fl_rate_check_all returns what remains under the tightest');
SELECT is((allowed, scope, name)::text, '(f,app,app)', 'a peek at several') FROM fl_rate_peek_all('{user,app}', '{5,a}', 'small');
SELECT is((SELECT array_agg((allowed, key, remaining)::text ORDER BY ordinality)
           FROM fl_rate_try_batch('{user,user,user,app}', '{b,b,c,a}', '{small,small,small,small}', '{2,2,1,1}')
                WITH ORDINALITY),
          ARRAY['(t,b,1)', '(f,b,1)', '(t,c,2)', '(f,a,0)'], 'a batch is answered in order, each request by itself');
SELECT is((SELECT count(*) FROM fl_rate_try_batch('{}', '{}', '{}')), 0::bigint, 'an empty batch has no answer');

SELECT * FROM finish();
ROLLBACK;
