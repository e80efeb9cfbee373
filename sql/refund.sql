-- Giving back: refund, reset, forget, age, reset_all.
\getenv directory PG_ABS_SRCDIR
\set answer :directory /test/answer.sql
\i :answer
SET client_min_messages = warning;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period, algorithm) VALUES ('jobs', 'user', 'jobs', 10, '1 h', 'sliding_window'), ('bucket', 'user', 'bucket', 10, '1 h', 'token_bucket'), ('calendar', 'user', 'calendar', 10, '100 years', 'fixed_window');
RESET client_min_messages;

-- A refund gives back at most what is there, and returns what remains.
SELECT a, fl_rate_check('user', 'r1', a, 6), fl_rate_refund('user', 'r1', a, 2), fl_rate_refund('user', 'r1', a), fl_rate_refund('user', 'r1', a, 100), fl_rate_refund('user', 'r1', a), fl_rate_check('user', 'r1', a, 10)
FROM unnest('{jobs,bucket,calendar}'::text[]) AS a;
SELECT a, v.allowed FROM unnest('{jobs,bucket,calendar}'::text[]) AS a, fl_rate_try('user', 'r1', a) AS v;
-- Of a key that has spent nothing there is nothing to give back.
SELECT fl_rate_refund('user', 'never seen', 'jobs', 5);
SELECT fl_rate_refund('user', 42, 'jobs', 5), fl_rate_check('user', 42, 'jobs'), fl_rate_refund('user', '42', 'jobs');
SELECT fl_rate_refund('device', 'd', 'ai') IS NULL;
-- It gives back the oldest spending that is still in the window: the date of the rest stays.
SELECT fl_rate_check('user', 'r2', 'jobs', 5);
SELECT fl_rate_age('user', 'r2', 'jobs', '40 min');
SELECT fl_rate_check('user', 'r2', 'jobs', 5);
SELECT fl_rate_refund('user', 'r2', 'jobs', 4);
SELECT fl_rate_check('user', 'r2', 'jobs', 4);
SELECT date_trunc('minute', v.next_valid_at - clock_timestamp() + interval '30 s') FROM fl_rate_peek('user', 'r2', 'jobs', 1) AS v;
SELECT date_trunc('minute', v.next_valid_at - clock_timestamp() + interval '30 s') FROM fl_rate_peek('user', 'r2', 'jobs', 2) AS v;
-- Expired spending is not there to be given back.
SELECT fl_rate_age('user', 'r2', 'jobs', '1 h');
SELECT fl_rate_refund('user', 'r2', 'jobs', 4), fl_rate_check('user', 'r2', 'jobs', 10);
-- All limits of such a request get it back.
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('total', 'user', '*', 100, '1 h');
SELECT fl_rate_check('user', 'r3', 'jobs', 3), fl_rate_check('user', 'r3', 'ai', 4), fl_rate_refund('user', 'r3', 'jobs', 2);
SELECT name, used FROM fl_rate_counters WHERE key = 'r3' ORDER BY name;
-- A plan's variant
INSERT INTO fl_rate_limit (name, scope, api, plan, max_requests, period) VALUES ('jobs', 'user', 'jobs', 'pro', 20, '1 h');
SELECT fl_rate_check('user', 'r4', 'jobs', 15, plan => 'pro'), fl_rate_refund('user', 'r4', 'jobs', 5, plan => 'pro'), fl_rate_refund('user', 'r4', 'jobs', 1);

-- Reset clears what such a request would spend from, nothing else, and counts it.
SELECT fl_rate_check('user', 's1', 'jobs', 10), fl_rate_check('user', 's1', 'bucket', 10), fl_rate_check('user', 's2', 'jobs', 10);
SELECT fl_rate_reset('user', 's1', 'jobs'), fl_rate_reset('user', 'never seen', 'jobs');
SELECT fl_rate_check('user', 's1', 'jobs', 10);
SELECT v.allowed FROM fl_rate_try('user', 's1', 'bucket', 1) AS v;
SELECT v.allowed FROM fl_rate_try('user', 's2', 'jobs', 1) AS v;
SELECT fl_rate_reset('user', 1234567, 'jobs'), fl_rate_check('user', 1234567, 'jobs', 10), fl_rate_reset('user', 1234567, 'jobs'), fl_rate_check('user', '1234567', 'jobs', 10);

-- Age moves a record into the past, as if the time had passed.
SELECT fl_rate_reset_all() > 0;
SELECT a, fl_rate_check('user', 'a1', a, 10), fl_rate_age('user', 'a1', a, '30 min') FROM unnest('{jobs,bucket}'::text[]) AS a;
SELECT a, v.allowed, v.remaining FROM unnest('{jobs,bucket}'::text[]) AS a, fl_rate_try('user', 'a1', a, 6) AS v;
SELECT a, fl_rate_age('user', 'a1', a, '30 min') FROM unnest('{jobs,bucket}'::text[]) AS a;
SELECT a, fl_rate_check('user', 'a1', a, 10) FROM unnest('{jobs,bucket}'::text[]) AS a;
SELECT fl_rate_age('user', 'a1', 'jobs', '0'), fl_rate_age('user', 'nobody', 'jobs', '1 h');
SELECT v.allowed FROM fl_rate_try('user', 'a1', 'jobs') AS v;
SELECT fl_rate_age('user', 'a1', 'jobs', '100 years');
SELECT fl_rate_check('user', 'a1', 'jobs', 10);
-- Also a calendar's window is over when it would be.
SELECT fl_rate_check('user', 'a2', 'calendar', 10), fl_rate_age('user', 'a2', 'calendar', '150 years'), fl_rate_check('user', 'a2', 'calendar', 10);

-- Forget erases a subject of a scope: every API, nothing else.
SELECT fl_rate_reset_all() > 0;
SELECT fl_rate_check('user', 'f1', a, 2) FROM unnest('{jobs,bucket,ai}'::text[]) AS a;
SELECT fl_rate_check('user', 'f2', 'jobs', 2), fl_rate_check('app', 'f1', 'app-actions', 2);
SELECT scope, key, name, used FROM fl_rate_counters ORDER BY scope, key, name;
SELECT fl_rate_forget('user', 'f1'), fl_rate_forget('user', 'f1'), fl_rate_forget('device', 'f1');
SELECT scope, key, name, used FROM fl_rate_counters ORDER BY scope, key, name;
-- Also what no definition speaks of any more
SELECT fl_rate_check('user', 'f3', 'bucket');
DELETE FROM fl_rate_limit WHERE name IN ('bucket', 'total');
SELECT fl_rate_forget('user', 'f3') >= 1;
SELECT count(*) FROM fl_rate_counters WHERE key = 'f3';

-- reset_all
SELECT fl_rate_reset_all() > 0, fl_rate_reset_all();
SELECT count(*) FROM fl_rate_counters;

SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
