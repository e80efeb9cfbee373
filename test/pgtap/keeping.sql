-- Keeping: what maintenance saves, and what resetting and forgetting erase.

BEGIN;
SELECT plan(64);

SET LOCAL client_min_messages = warning;
SELECT fl_rate_reset_all();
SELECT fl_rate_define('hourly', 'user', 'hourly', 5, '1 h');
SELECT fl_rate_define('bucket', 'user', 'hourly', 100, '1 h', algorithm => 'token_bucket');
SELECT fl_rate_define('monthly', 'user', '*', 1000, '1 month', algorithm => 'fixed_window');
SELECT fl_rate_define('brief', 'user', 'brief', 5, '10 s');

-- What is saved
SELECT is(fl_rate_maintain(), 0::bigint, 'no counters, nothing is saved');
SELECT fl_rate_try('user', 'ann', 'hourly', 2);
SELECT fl_rate_try('user', 'bob', 'hourly');
SELECT fl_rate_try('user', 'ann', 'brief');
SELECT is(fl_rate_maintain(), 6::bigint, 'counters of long periods are saved');
SELECT results_eq($$ SELECT l.name, s.key FROM fl_rate_saved AS s JOIN fl_rate_limit AS l USING (limit_id) ORDER BY 1, 2 $$,
    $$ VALUES ('bucket'::text COLLATE "C", 'ann'::text COLLATE "C"), ('bucket', 'bob'), ('hourly', 'ann'), ('hourly', 'bob'), ('monthly', 'ann'), ('monthly', 'bob') $$,
    'of each algorithm, and none of a short period');
SELECT ok(expires_at BETWEEN now() + interval '59 min' AND clock_timestamp() + interval '1 h', 'for as long as they are worth something')
FROM fl_rate_saved JOIN fl_rate_limit AS l USING (limit_id) WHERE l.name = 'hourly' AND fl_rate_saved.key = 'ann';
SELECT is((SELECT count(DISTINCT subject) FROM fl_rate_saved), 2::bigint, 'a subject is one and the same in all of them');
SELECT is(fl_rate_maintain(), 6::bigint, 'what has not been committed is saved again');
SELECT is((SELECT count(*) FROM fl_rate_saved), 6::bigint, 'in the same rows');
SET LOCAL fliplet_ratelimit.save_min_period = '2 h';
SELECT is(fl_rate_maintain(), 2::bigint, 'save_min_period chooses which periods are long');
SET LOCAL fliplet_ratelimit.save_min_period = 0;
SELECT is(fl_rate_maintain(), 7::bigint, '0 saves those of all periods');
RESET fliplet_ratelimit.save_min_period;

-- Reset
SELECT is(fl_rate_reset('user', 'ann', 'brief'), 2::bigint, 'a reset clears the counters of a request');
SELECT set_eq($$ SELECT l.name FROM fl_rate_saved AS s JOIN fl_rate_limit AS l USING (limit_id) WHERE s.key = 'ann' $$,
    ARRAY['hourly', 'bucket'], 'and their saved copies, no other limit''s');
SELECT is((SELECT count(*) FROM fl_rate_saved WHERE key = 'bob'), 3::bigint, 'and no other key''s');
SELECT fl_rate_maintain();
SELECT is((SELECT count(*) FROM fl_rate_saved WHERE key = 'ann'), 2::bigint, 'which maintenance does not bring back');
SELECT fl_rate_try('user', 'ann', 'hourly');
SELECT fl_rate_maintain();
SELECT is((SELECT count(*) FROM fl_rate_saved WHERE key = 'ann'), 3::bigint, 'but the next request does');

-- Refund and age are saved
SELECT is(fl_rate_refund('user', 'bob', 'hourly'), 5::bigint, 'a refund of all there is');
SELECT fl_rate_maintain();
SELECT is((SELECT count(*) FROM fl_rate_saved WHERE key = 'bob'), 0::bigint, 'leaves nothing to be saved');
SELECT fl_rate_try('user', 'bob', 'hourly');
SELECT fl_rate_maintain();
SELECT is((SELECT count(*) FROM fl_rate_saved WHERE key = 'bob'), 3::bigint, 'a request does');
SELECT fl_rate_age('user', 'bob', 'hourly', '30 min');
SELECT fl_rate_maintain();
SELECT ok(expires_at < now() + interval '31 min', 'a counter that was aged is saved as that')
FROM fl_rate_saved JOIN fl_rate_limit AS l USING (limit_id) WHERE l.name = 'hourly' AND fl_rate_saved.key = 'bob';

-- History
SELECT is((SELECT count(*) FROM fl_rate_history WHERE name = 'brief'), 1::bigint, 'one row a minute and limit');
SELECT results_eq($$ SELECT sum(granted), sum(refused), max(keys) FROM fl_rate_history WHERE name = 'hourly' $$,
    $$ VALUES (4::numeric, 0::numeric, 2::bigint) $$, 'what was granted and refused, and how many keys there are');
SELECT is((SELECT sum(granted) FROM fl_rate_history WHERE name = 'brief'), 1::numeric, 'of short periods as well');
SELECT is((SELECT count(*) FROM fl_rate_history WHERE name LIKE 'fliplet/%'), 0::bigint, 'a limit without requests has no row');
SELECT fl_rate_stats_reset();
SELECT fl_rate_try('user', 'ann', 'brief');
SELECT fl_rate_maintain();
SELECT is((SELECT sum(granted) FROM fl_rate_history WHERE name = 'brief'), 2::numeric, 'resetting the statistics costs the history nothing');
SELECT ok(bool_and(minute = date_trunc('minute', minute) AND minute <= clock_timestamp() AND minute > now() - interval '2 min'), 'minutes are whole ones')
FROM fl_rate_history;

-- The most refused keys
SELECT count(fl_rate_try('user', 'key ' || i, 'brief', 5)) FROM generate_series(1, 12) AS i;
SELECT count(fl_rate_try('user', 'key ' || i, 'brief')) FROM generate_series(1, 12) AS i, generate_series(1, i);
SELECT fl_rate_maintain();
SELECT results_eq($$ SELECT key, refused FROM fl_rate_history_top WHERE name = 'brief' ORDER BY refused DESC $$,
    $$ SELECT ('key ' || i)::text COLLATE "C", i::bigint FROM generate_series(12, 3, -1) AS i $$, 'the ten most refused keys');
SELECT count(fl_rate_try('user', 'key 12', 'brief')) FROM generate_series(1, 5);
SELECT fl_rate_maintain();
SELECT is((SELECT sum(refused) FROM fl_rate_history_top WHERE name = 'brief' AND key = 'key 12'), 17::numeric, 'each refusal counts once');
SELECT is((SELECT total FROM fl_rate_history_top WHERE name = 'brief' AND key = 'key 12' ORDER BY minute DESC LIMIT 1), 17::bigint, 'beside the total');
SELECT fl_rate_maintain();
SELECT is((SELECT sum(refused) FROM fl_rate_history_top WHERE name = 'brief' AND key = 'key 12'), 17::numeric, 'and nothing is added without one');
SELECT is((SELECT count(*) FROM fl_rate_refused_keys('-infinity', 3) WHERE name = 'brief'), 3::bigint, 'fl_rate_refused_keys() returns as many as asked for');
SELECT is((SELECT count(*) FROM fl_rate_refused_keys(clock_timestamp() + interval '1 min', 3)), 0::bigint, 'and none that were refused before');
SELECT throws_ok($$ SELECT * FROM fl_rate_refused_keys(now(), 0) $$, '22023', NULL, 'not less than one');
SELECT throws_ok($$ SELECT * FROM fl_rate_refused_keys(NULL, 1) $$, '22004', NULL, 'NULL is an error');

-- Forget
SELECT fl_rate_try('user', 'ann', 'hourly', 6);
SELECT fl_rate_maintain();
SELECT is((SELECT count(*) FROM fl_rate_history_top WHERE key = 'ann'), 1::bigint, 'a key that was refused');
SELECT is(fl_rate_forget('user', 'ann'), 4::bigint, 'is forgotten');
SELECT is((SELECT count(*) FROM fl_rate_saved WHERE key = 'ann'), 0::bigint, 'by the table of saved counters');
SELECT is((SELECT count(*) FROM fl_rate_history_top WHERE key = 'ann'), 0::bigint, 'by the history');
SELECT is((SELECT count(*) FROM fl_rate_counters WHERE key = 'ann'), 0::bigint, 'and in memory');
SELECT fl_rate_maintain();
SELECT is((SELECT count(*) FROM fl_rate_saved WHERE key = 'ann') + (SELECT count(*) FROM fl_rate_history_top WHERE key = 'ann'), 0::bigint, 'for good');
SELECT ok((SELECT count(*) FROM fl_rate_saved WHERE key = 'bob') > 0, 'nobody else is');

-- store_keys = hash
SET LOCAL fliplet_ratelimit.store_keys = 'hash';
SELECT fl_rate_try('user', 'jane@example.com', 'hourly', 6);
SELECT fl_rate_try('user', 'jane@example.com', 'hourly', 1);
SELECT fl_rate_try('user', 'bob', 'hourly');
SELECT fl_rate_maintain();
SELECT is((SELECT count(*) FROM fl_rate_saved AS s WHERE s::text ~ 'jane'), 0::bigint, 'no text of a key is saved');
SELECT is((SELECT count(*) FROM fl_rate_history_top AS s WHERE s::text ~ 'jane'), 0::bigint, 'nor in the history');
SELECT is((SELECT count(*) FROM fl_rate_history_top WHERE name = 'hourly' AND key ~ '^[0-9a-f]{32}$'), 1::bigint, 'which has a digest');
SELECT is((SELECT count(*) FROM fl_rate_saved WHERE key = 'bob'), 0::bigint, 'a counter that is saved again loses the text it had');
SET LOCAL fliplet_ratelimit.store_keys = 'text';

-- Everything
SELECT ok(fl_rate_reset_all() > 0, 'fl_rate_reset_all');
SELECT is((SELECT count(*) FROM fl_rate_saved), 0::bigint, 'erases saved counters as well');

-- Pruning
INSERT INTO fl_rate_history VALUES (now() - interval '8 days', 'hourly', 1, 1, 1, 1, 1), (now() - interval '6 days', 'hourly', 1, 1, 1, 1, 1);
INSERT INTO fl_rate_history_top VALUES (now() - interval '8 days', 'hourly', 'x', 1, 1, gen_random_uuid()), (now() - interval '6 days', 'hourly', 'x', 1, 1, gen_random_uuid());
SELECT fl_rate_maintain();
SELECT is((SELECT count(*) FROM fl_rate_history WHERE minute < now() - interval '7 days'), 0::bigint, 'the history is kept for seven days');
SELECT is((SELECT count(*) FROM fl_rate_history WHERE minute < now() - interval '5 days'), 1::bigint, 'and no less');
SELECT is((SELECT count(*) FROM fl_rate_history_top WHERE minute < now() - interval '5 days'), 1::bigint, 'that of keys as well');
SET LOCAL fliplet_ratelimit.history_retention = '5 d';
SELECT fl_rate_maintain();
SELECT is((SELECT count(*) FROM fl_rate_history WHERE minute < now() - interval '5 days'), 0::bigint, 'or for history_retention');

-- Sweeping
SELECT fl_rate_define('blink', 'user', 'blink', 5, '1 ms');
SELECT fl_rate_try('user', i::text, 'blink') FROM generate_series(1, 100) AS i;
SELECT pg_sleep(0.01);
SELECT fl_rate_maintain();
SELECT is((SELECT keys FROM fl_rate_stats WHERE name = 'blink'), 0::bigint, 'expired counters are freed');
SELECT is((SELECT count(*) FROM fl_rate_counters WHERE name = 'monthly' AND key::integer BETWEEN 1 AND 100), 100::bigint, 'and no live ones');

-- Scheduling
SELECT throws_ok($$ SELECT fl_rate_schedule() $$, '55000', NULL, 'without pg_cron there is no schedule');
SELECT throws_ok($$ SELECT fl_rate_schedule(NULL) $$, '22004', NULL, 'NULL is no schedule');

-- Variants of one limit: each counter is kept by the rule that was last applied to it
SELECT fl_rate_reset_all();
SELECT fl_rate_define('variants', 'user', 'variants', 10, '2 min');
SELECT fl_rate_define('variants', 'user', 'variants', NULL, NULL, plan => 'free');
SELECT fl_rate_define('variants', 'user', 'variants', 1000, '1 day', key => 'vip');
SELECT fl_rate_define('variants', 'user', 'variants', 1, '1 h', plan => 'bucket', algorithm => 'token_bucket');
SELECT fl_rate_try('user', key, 'variants') FROM unnest('{somebody,vip}'::text[]) AS key;
SELECT is(fl_rate_maintain(), 4::bigint, 'an exempting variant exempts nobody else from being saved');
SELECT ok(s.expires_at > now() + interval '23 h', 'nor does a shorter period') FROM fl_rate_saved AS s JOIN fl_rate_limit AS l USING (limit_id) WHERE l.key = 'vip';
SET LOCAL fliplet_ratelimit.save_min_period = '1 h';
SELECT fl_rate_try('user', key, 'variants') FROM unnest('{somebody,vip}'::text[]) AS key;
SELECT is((SELECT count(*) FROM fl_rate_unsaved() JOIN fl_rate_limit AS l USING (limit_id) WHERE l.name = 'variants'), 1::bigint, 'not even where it is too short to be saved');
RESET fliplet_ratelimit.save_min_period;
SELECT count(fl_rate_try('user', 'twice', 'variants')) FROM generate_series(1, 12);
SELECT count(fl_rate_try('user', 'twice', 'variants', plan => 'bucket')) FROM generate_series(1, 4);
SELECT lives_ok($$ SELECT fl_rate_maintain() $$, 'one key with counters of two algorithms');
SELECT is((SELECT sum(refused) FROM fl_rate_history_top WHERE name = 'variants' AND key = 'twice'), 5::numeric, 'is one key');

-- What was given back stays so, whatever is swept
SELECT fl_rate_try('user', 'back', 'variants', 5);
SELECT fl_rate_maintain();
SELECT fl_rate_refund('user', 'back', 'variants', 5);
SELECT fl_rate_sweep();
SELECT fl_rate_maintain();
SELECT is((SELECT count(*) FROM fl_rate_saved WHERE key = 'back'), 0::bigint, 'a sweep does not bring back what was refunded');

-- A name that is deleted and made again is counted once
SELECT fl_rate_define('again', 'app', 'again', 10, '1 h');
SELECT count(fl_rate_try('app', 'a', 'again')) FROM generate_series(1, 5);
SELECT fl_rate_maintain();
SELECT fl_rate_undefine('again');
SELECT fl_rate_maintain();
SELECT fl_rate_define('again', 'app', 'again', 10, '1 h');
SELECT fl_rate_maintain();
SELECT is((SELECT sum(granted) FROM fl_rate_history WHERE name = 'again'), 5::numeric, 'a name that is deleted and made again is counted once');

-- Who poses as a replica cannot write these tables
SET LOCAL session_replication_role = 'replica';
SELECT throws_ok($$ SELECT fl_rate_maintain() $$, '55000', NULL, 'a session that poses as a replica cannot save');
SELECT throws_ok($$ SELECT fl_rate_forget('user', 'x') $$, '55000', NULL, 'or forget');
SELECT throws_ok($$ SELECT fl_rate_reset_all() $$, '55000', NULL, 'or reset all');
SET LOCAL session_replication_role = 'origin';

-- A limit that is gone
SELECT fl_rate_undefine('hourly');
SELECT lives_ok($$ SELECT fl_rate_maintain() $$, 'counters of a deleted limit do no harm');

SELECT * FROM finish();
ROLLBACK;
