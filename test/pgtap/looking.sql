-- Looking at limits and counters, and changing them by hand

BEGIN;
SELECT plan(49);

SELECT fl_rate_reset_all() >= 0 AS begin_clean;
SET LOCAL client_min_messages = warning;
SELECT fl_rate_define('small', 'user', 'small', 3, '1 h'),
       fl_rate_define('small', 'user', 'small', 5, '1 h', plan => 'gold'),
       fl_rate_define('small', 'user', 'small', 9, '1 h', key => 'vip'),
       fl_rate_define('off', 'user', 'small', 1, '1 h', enabled => false),
       fl_rate_define('later', 'user', 'small', 1, '1 h', valid_from => now() + interval '1 day'),
       fl_rate_define('total', 'user', '*', 1000, '1 h');
SELECT fl_rate_stats_reset();

-- Every limit has statistics, also before its first use
SELECT is((granted, refused, delayed, shadow_refused, keys, last_checked_at)::text, '(0,0,0,0,0,)',
          'fl_rate_stats has a row for a limit that was never used') FROM fl_rate_stats WHERE name = 'small';
SELECT set_eq('SELECT name FROM fl_rate_stats', 'SELECT DISTINCT name FROM fl_rate_limit', 'one row for each name');

SELECT fl_rate_try('user', '1', 'small') FROM generate_series(1, 5);
SELECT fl_rate_try('user', '2', 'small');

-- Counters
SELECT is((used, remaining, granted, refused, delayed, shadow_refused)::text, '(3,0,3,2,0,0)', 'fl_rate_counters counts')
FROM fl_rate_counters WHERE name = 'small' AND key = '1';
SELECT is((scope, api)::text, '(user,small)', 'names scope and API') FROM fl_rate_counters WHERE name = 'small' AND key = '1';
SELECT is((used, api)::text, '(3,*)', 'has a counter for each limit, and refusals cost nothing') FROM fl_rate_counters WHERE name = 'total' AND key = '1';
SELECT ok(last_request_at BETWEEN now() AND clock_timestamp() AND last_refused_at BETWEEN now() AND clock_timestamp(), 'dates')
FROM fl_rate_counters WHERE name = 'small' AND key = '1';
SELECT ok(next_valid_at > now() + interval '59 min', 'and the next date') FROM fl_rate_counters WHERE name = 'small' AND key = '1';
SELECT ok(memory > 0, 'and memory') FROM fl_rate_counters WHERE name = 'small' AND key = '1';

-- Statistics
SELECT is((granted, refused, keys)::text, '(4,2,2)', 'fl_rate_stats counts over all keys') FROM fl_rate_stats WHERE name = 'small';
SELECT ok(last_checked_at BETWEEN now() AND clock_timestamp(), 'with dates') FROM fl_rate_stats WHERE name = 'small';
SELECT is((granted, refused)::text, '(4,0)', 'a refusal counts for the limit that refused') FROM fl_rate_stats WHERE name = 'total';

-- Store
SELECT is(keys, 4::bigint, 'fl_rate_store counts keys') FROM fl_rate_store;
SELECT ok(memory_used > 0 AND memory_used <= memory_limit, 'and memory') FROM fl_rate_store;
SELECT is((waiters, refused_full)::text, '(0,0)', 'and sleepers, and requests that found no room') FROM fl_rate_store;

-- Explain
SELECT is((SELECT count(*) FROM fl_rate_explain('user', '1', 'small')), 5::bigint, 'fl_rate_explain shows every candidate, not other keys'' rows');
SELECT is((SELECT count(*) FROM fl_rate_explain('user', 'vip', 'small')), 6::bigint, 'with its own for a key that has one');
SELECT is((SELECT array_agg(name ORDER BY name) FROM fl_rate_explain('user', '1', 'small') WHERE applies), '{small,total}', 'those that apply');
SELECT is((max_requests, used, remaining, granted, refused)::text, '(3,3,0,3,2)', 'with their counters')
FROM fl_rate_explain('user', '1', 'small') WHERE name = 'small' AND applies;
SELECT isnt(why, NULL, format('and why %s does not', name)) FROM fl_rate_explain('user', '1', 'small') WHERE NOT applies AND name IN ('off', 'later') ORDER BY name;
SELECT matches(why, 'key', 'a row that another one replaces: by key') FROM fl_rate_explain('user', 'vip', 'small') WHERE NOT applies AND name = 'small' AND max_requests = 3;
SELECT matches(why, 'plan', 'by plan') FROM fl_rate_explain('user', '1', 'small', 'gold') WHERE NOT applies AND name = 'small' AND max_requests = 3;
SELECT is((SELECT (used, remaining)::text FROM fl_rate_explain('user', 'fresh', 'small') WHERE name = 'small' AND applies), '(0,3)',
          'looking makes no counter');
SELECT is((SELECT count(*) FROM fl_rate_counters WHERE key = 'fresh'), 0::bigint, 'none');

-- Refund
SELECT is(fl_rate_refund('user', '1', 'small'), 1::bigint, 'fl_rate_refund gives back, and returns what remains');
SELECT is((fl_rate_try('user', '1', 'small')).allowed, true, 'which can be spent');
SELECT is(fl_rate_refund('user', '1', 'small', 100), 3::bigint, 'at most what is there');
SELECT is((SELECT used FROM fl_rate_counters WHERE name = 'total' AND key = '1'), 0::bigint, 'in every limit');
SELECT is(fl_rate_refund('user', 'never seen', 'small'), 3::bigint, 'nothing for who has spent nothing');

-- Age
SELECT is((fl_rate_try('user', '3', 'small', 3)).remaining, 0::bigint, 'all spent');
SELECT is(fl_rate_age('user', '3', 'small', '59 min'), 2::bigint, 'fl_rate_age moves counters into the past');
SELECT ok(next_valid_at - clock_timestamp() BETWEEN '50 s' AND '61 s', 'the date comes nearer') FROM fl_rate_peek('user', '3', 'small');
SELECT is((fl_rate_age('user', '3', 'small', '1 min'), fl_rate_check('user', '3', 'small'))::text, '(2,2)', 'until it is there');

-- Reset
SELECT is(fl_rate_reset('user', '3', 'small'), 2::bigint, 'fl_rate_reset clears what such a request spends from');
SELECT is(fl_rate_check('user', '3', 'small', 3), 0::bigint, 'all of it');
SELECT is((fl_rate_peek('user', '2', 'small')).remaining, 2::bigint, 'of that key alone');
SELECT is(fl_rate_forget('user', '3'), 2::bigint, 'fl_rate_forget erases a subject');
SELECT is((SELECT count(*) FROM fl_rate_counters WHERE key = '3'), 0::bigint, 'from the view too');

-- Keys that are not for everybody's eyes
SET LOCAL fliplet_ratelimit.store_keys = 'hash';
SELECT is(fl_rate_check('user', 'jane@example.com', 'small'), 2::bigint, 'store_keys = hash');
SELECT is((SELECT count(*) FROM fl_rate_counters WHERE key ~ 'jane'), 0::bigint, 'keeps keys out of the views');
SELECT is((SELECT count(*) FROM fl_rate_counters WHERE key !~ '^[0-9a-f]{32}$'), 0::bigint, 'shows digests, also of keys seen before');
SET LOCAL fliplet_ratelimit.store_keys = 'text';
SELECT is(fl_rate_check('user', 'jane@example.com', 'small'), 1::bigint, 'and finds the same counter');

-- Statistics begin anew
SELECT fl_rate_stats_reset();
SELECT is((granted, refused)::text, '(0,0)', 'fl_rate_stats_reset') FROM fl_rate_stats WHERE name = 'small';
SELECT ok(since BETWEEN now() AND clock_timestamp(), 'says since when') FROM fl_rate_stats WHERE name = 'small';
SELECT is((fl_rate_peek('user', '2', 'small')).remaining, 2::bigint, 'and leaves the counters');
SELECT ok(fl_rate_reset_all() >= 4, 'fl_rate_reset_all');
SELECT is((SELECT count(*) FROM fl_rate_counters), 0::bigint, 'leaves none');

-- The last request is one that a counter judged, whatever other limits said; looking is none
SELECT fl_rate_define('tight', 'user', 'small', 1, '1 h');
CREATE TEMPORARY TABLE look AS SELECT clock_timestamp() AS at FROM fl_rate_try('user', '3', 'small');
SELECT pg_sleep(0.2);
UPDATE look SET at = clock_timestamp();
SELECT fl_rate_try('user', '3', 'small');
SELECT ok(c.last_request_at >= look.at - interval '0.1 s', 'a request that another limit refused is a counter''s last')
FROM look, fl_rate_counters AS c WHERE c.name = 'total' AND c.key = '3';
SELECT pg_sleep(0.2);
UPDATE look SET at = clock_timestamp();
SELECT fl_rate_peek('user', '3', 'small');
SELECT ok(c.last_request_at < look.at, 'a peek is not')
FROM look, fl_rate_counters AS c WHERE c.name = 'total' AND c.key = '3';

SELECT * FROM finish();
ROLLBACK;
