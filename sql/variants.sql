-- Variants of one limit share what was spent: it lives as long as any of them looks at it, whichever judged last.
\getenv directory PG_ABS_SRCDIR
\set answer :directory /test/answer.sql
\i :answer
SET client_min_messages = warning;
SELECT fl_rate_define('bucket', 'user', 'bucket', 1, '10 s', burst => 10, algorithm => 'token_bucket') > 0, fl_rate_define('bucket', 'user', 'bucket', 10, '1 s', plan => 'pro', algorithm => 'token_bucket') > 0,
	fl_rate_define('slower', 'user', 'slower', 10, '1 s', algorithm => 'token_bucket') > 0, fl_rate_define('blocked', 'user', 'blocked', 10, '1 s', algorithm => 'token_bucket') > 0,
	fl_rate_define('banned', 'user', 'banned', 10, '10 min', algorithm => 'token_bucket') > 0, fl_rate_define('banned', 'user', 'banned', 0, '10 min', plan => 'banned', algorithm => 'token_bucket') > 0,
	fl_rate_define('window', 'user', 'window', 10, '10 s') > 0, fl_rate_define('window', 'user', 'window', 1000, '1 day', plan => 'pro') > 0;
RESET client_min_messages;

-- A bucket that is full again by the rate of one plan may not be so by everyone's.
SELECT fl_rate_check('user', 'b', 'bucket', 10, 'pro');
SELECT fl_rate_age('user', 'b', 'bucket', '1500 ms');
SELECT fl_rate_sweep() >= 0;
SELECT v.remaining FROM fl_rate_peek('user', 'b', 'bucket') AS v;
SELECT fl_rate_age('user', 'b', 'bucket', '100 s');
SELECT fl_rate_sweep() > 0;
SELECT count(*) FROM fl_rate_counters WHERE name = 'bucket';

-- Nor by a rate that is lower since: a request that is refused by it is enough.
SELECT fl_rate_check('user', 's', 'slower', 10);
UPDATE fl_rate_limit SET max_requests = 1, period = '10 s', burst = 10 WHERE name = 'slower';
SELECT v.reason FROM fl_rate_try('user', 's', 'slower') AS v;
SELECT fl_rate_age('user', 's', 'slower', '1500 ms');
SELECT fl_rate_sweep() >= 0;
SELECT v.remaining FROM fl_rate_peek('user', 's', 'slower') AS v;

-- A limit that allows nothing any more keeps no counter for ever.
SELECT fl_rate_check('user', 'z', 'blocked', 5);
UPDATE fl_rate_limit SET max_requests = 0, burst = NULL WHERE name = 'blocked';
SELECT fl_rate_refund('user', 'z', 'blocked');
SELECT fl_rate_age('user', 'z', 'blocked', '90 s');
SELECT fl_rate_sweep() > 0;
SELECT count(*) FROM fl_rate_counters WHERE name = 'blocked';

-- What is saved is what any of them looks at, until when it does.
SELECT fl_rate_check('user', 'p', 'window', 1000, 'pro'), fl_rate_check('user', 'q', 'window', 1000, 'pro'), fl_rate_check('user', 'good', 'banned', 5), fl_rate_check('user', 'bad', 'banned', 5);
SELECT v.reason FROM fl_rate_try('user', 'q', 'window') AS v;
SELECT v.reason FROM fl_rate_try('user', 'bad', 'banned', 1, 'banned') AS v;
SELECT fl_rate_maintain();
SELECT key, expires_at BETWEEN now() + interval '4 min' AND now() + interval '25 h' AS expires FROM fl_rate_saved ORDER BY key;

-- Of a long record each sees what suits its own period: a request by the longer one moves nothing that the shorter one has let go,
-- and what only the longer one looks at is kept in fewer pieces.
SET client_min_messages = warning;
SELECT fl_rate_define('record', 'user', 'record', 1000000, '1 min') > 0, fl_rate_define('record', 'user', 'record', 1000000000, '366 days', plan => 'pro') > 0;
RESET client_min_messages;
DO $$
BEGIN
	FOR i IN 1 .. 6000 LOOP
		PERFORM fl_rate_check('user', 'r', 'record'), fl_rate_age('user', 'r', 'record', '10 ms');
		IF i = 4200 THEN
			PERFORM fl_rate_check('user', 'r', 'record', 1000), fl_rate_age('user', 'r', 'record', '61 s'), fl_rate_check('user', 'r', 'record', 1, 'pro');
			RAISE NOTICE '% left, % of pro', (fl_rate_peek('user', 'r', 'record')).remaining, (fl_rate_peek('user', 'r', 'record', 1, 'pro')).remaining;
		END IF;
	END LOOP;
END
$$;
SELECT v.remaining FROM fl_rate_peek('user', 'r', 'record', 1, 'pro') AS v;
SELECT memory < 50000 FROM fl_rate_counters WHERE key = 'r';

-- A row for one key keeps what everyone's row looks back at, which applies again after it: while rows for single keys are few, and when
-- they are so many that they are looked up.
SET client_min_messages = warning;
SELECT fl_rate_define('keyed', 'user', 'keyed', 100, '1 day') > 0, fl_rate_define('keyed', 'user', 'keyed', 100, '1 s', key => 'k') > 0;
RESET client_min_messages;
SELECT fl_rate_check('user', 'k', 'keyed', 50), fl_rate_age('user', 'k', 'keyed', '2 min'), fl_rate_check('user', 'k', 'keyed', 1);
UPDATE fl_rate_limit SET enabled = false WHERE key = 'k';
SELECT v.remaining FROM fl_rate_peek('user', 'k', 'keyed') AS v;
UPDATE fl_rate_limit SET enabled = true WHERE key = 'k';
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests, period) SELECT 'keyed', 'user', 'keyed', i, 100, '1 s' FROM generate_series(1, 300) AS i;
SELECT fl_rate_age('user', 'k', 'keyed', '2 min'), fl_rate_check('user', 'k', 'keyed', 1);
UPDATE fl_rate_limit SET enabled = false WHERE key = 'k';
SELECT v.remaining FROM fl_rate_peek('user', 'k', 'keyed') AS v;

SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
