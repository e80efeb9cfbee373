-- Which limits apply: variants of one name, the most specific stands for it; all names together.
\getenv directory PG_ABS_SRCDIR
\set answer :directory /test/answer.sql
\i :answer
-- What the request would be judged by, and what would remain
CREATE FUNCTION pg_temp.spend(scope text, key text, api text, cost bigint DEFAULT 1, plan text DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', v.reason, v.remaining, 'of', v.max_requests, 'by', v.name) FROM fl_rate_try($1, $2, $3, $4, $5) AS v
$$;

-- A row that brings a new scope or API raises a NOTICE.
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('orders', 'user', 'orders', 5, '1 h');
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('tenant', 'tenant', 'orders', 50, '1 h');
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('tenant and carts', 'cart', 'carts', 50, '1 h');
UPDATE fl_rate_limit SET api = 'card' WHERE name = 'tenant and carts';
DELETE FROM fl_rate_limit WHERE name LIKE 'tenant%';
-- ... and what is known does not.
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('device total', 'device', '*', 50, '1 h');
DELETE FROM fl_rate_limit WHERE name = 'device total';

-- Everyone, a plan, one key: the most specific row of a name stands for it.
INSERT INTO fl_rate_limit (name, scope, api, plan, max_requests, period) VALUES ('orders', 'user', 'orders', 'pro', 10, '1 h');
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests, period) VALUES ('orders', 'user', 'orders', 'k3', 20, '1 h');
SELECT pg_temp.spend('user', 'k1', 'orders');
SELECT pg_temp.spend('user', 'k2', 'orders', plan => 'pro');
SELECT pg_temp.spend('user', 'k3', 'orders');
SELECT pg_temp.spend('user', 'k3', 'orders', plan => 'pro');
-- A plan that no row names gets everyone's limit.
SELECT pg_temp.spend('user', 'k4', 'orders', plan => 'gold');
SELECT pg_temp.spend('user', 'k4', 'orders', plan => 'Pro');
-- Variants share what was spent.
SELECT pg_temp.spend('user', 'k1', 'orders', plan => 'pro');
SELECT pg_temp.spend('user', 'k2', 'orders');
-- Another key that looks alike has everyone's.
SELECT pg_temp.spend('user', 'k3 ', 'orders');
SELECT pg_temp.spend('user', 'K3', 'orders');

-- A row that is disabled or outside its dates is absent: it hides nothing.
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests, period, enabled, valid_from, valid_until) VALUES
	('orders', 'user', 'orders', 'd1', 0, NULL, false, NULL, NULL),
	('orders', 'user', 'orders', 'd2', 0, NULL, true, now() + interval '1 day', NULL),
	('orders', 'user', 'orders', 'd3', 0, NULL, true, NULL, now() - interval '1 day'),
	('orders', 'user', 'orders', 'd4', 0, NULL, true, now() - interval '1 day', now() + interval '1 day'),
	('orders', 'user', 'orders', 'd5', 0, NULL, true, '-infinity', 'infinity'),
	('orders', 'user', 'orders', 'd6', 0, NULL, true, 'infinity', NULL);
SELECT k || ': ' || pg_temp.spend('user', k, 'orders') FROM unnest('{d1,d2,d3,d4,d5,d6}'::text[]) AS k;
-- The same for everyone's row: without it the key's row and the plan's still stand.
UPDATE fl_rate_limit SET enabled = false WHERE name = 'orders' AND key IS NULL AND plan IS NULL;
SELECT pg_temp.spend('user', 'k1', 'orders');
SELECT pg_temp.spend('user', 'k1', 'orders', plan => 'pro');
SELECT pg_temp.spend('user', 'k3', 'orders');
UPDATE fl_rate_limit SET enabled = true WHERE name = 'orders' AND key IS NULL AND plan IS NULL;
SELECT pg_temp.spend('user', 'k1', 'orders');

-- Exempt: max_requests NULL. Blocked: max_requests 0. Neither needs a period.
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests) VALUES ('orders', 'user', 'orders', 'free', NULL), ('orders', 'user', 'orders', 'banned', 0);
SELECT v.allowed, v.reason, v.remaining, v.name, v.reset_at FROM fl_rate_try('user', 'free', 'orders', 1000000) AS v;
SELECT fl_rate_check('user', 'free', 'orders') IS NULL;
SELECT v.allowed, v.reason, v.remaining, v.name, v.next_valid_at FROM fl_rate_try('user', 'banned', 'orders') AS v;
SELECT pg_temp.answer($$SELECT fl_rate_check('user', 'banned', 'orders')$$);

-- All names together: 2 a second and 3 an hour, and 8 an hour over all APIs.
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES
	('reports/hour', 'user', 'reports', 3, '1 h'), ('reports/burst', 'user', 'reports', 2, '50 min'), ('total', 'user', '*', 8, '1 h');
SELECT pg_temp.spend('user', 'm1', 'reports');
SELECT pg_temp.spend('user', 'm1', 'reports');
SELECT pg_temp.spend('user', 'm1', 'reports');
SELECT fl_rate_age('user', 'm1', 'reports', '55 min');
SELECT pg_temp.spend('user', 'm1', 'reports');
SELECT pg_temp.spend('user', 'm1', 'reports');
SELECT fl_rate_age('user', 'm1', 'reports', '5 min');
-- '*' is one counter a key over all APIs; it makes every API of that scope known.
SELECT pg_temp.spend('user', 'm1', 'orders', 5);
SELECT pg_temp.spend('user', 'm1', 'orders', 2);
SELECT pg_temp.spend('user', 'm1', 'never heard of', 3);
SELECT pg_temp.spend('user', 'm1', 'another', 1);
SELECT pg_temp.spend('user', 'm1', 'data-sources', 1);
SELECT pg_temp.answer($$SELECT fl_rate_check('device', 'm1', 'never heard of')$$);
-- An exemption from one name is no exemption from another.
SELECT pg_temp.spend('user', 'free', 'orders', 8);
SELECT pg_temp.spend('user', 'free', 'orders', 1);
-- The smallest remaining decides a grant; of equals the lowest limit_id.
INSERT INTO fl_rate_limit (limit_id, name, scope, api, max_requests, period) VALUES
	(9003, 'tie c', 'app', 'ties', 5, '1 h'), (9001, 'tie a', 'app', 'ties', 5, '1 h'), (9002, 'tie b', 'app', 'ties', 5, '1 h');
SELECT v.name, v.limit_id, v.remaining FROM fl_rate_try('app', 't', 'ties') AS v;
-- The longest wait decides a refusal.
UPDATE fl_rate_limit SET period = '2 h' WHERE name = 'tie b';
SELECT v.name, v.reason, v.remaining, v.period FROM fl_rate_try('app', 't', 'ties', 5) AS v;
DELETE FROM fl_rate_limit WHERE name LIKE 'tie%' OR name IN ('total', 'reports/hour', 'reports/burst');

-- Shadow: counts, never refuses, never decides.
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period, on_limit) VALUES ('shadow', 'user', 'orders', 1, '1 h', 'count');
SELECT pg_temp.spend('user', 's1', 'orders') FROM generate_series(1, 4);
SELECT granted, refused, shadow_refused FROM fl_rate_stats WHERE name = 'shadow';
SELECT used, granted, refused, shadow_refused FROM fl_rate_counters WHERE name = 'shadow' AND key = 's1';
-- Alone it is as if there were no limit; blocked in shadow passes, too.
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period, on_limit) VALUES ('shadow alone', 'user', 'shadowed', 1, '1 h', 'count'), ('shadow block', 'user', 'shadowed', 0, NULL, 'count');
SELECT v.allowed, v.reason, v.remaining, v.name FROM generate_series(1, 3) AS i, fl_rate_try('user', 's1', 'shadowed', least(i, 1)) AS v;
-- A request that another limit refuses spends nothing in the shadow either.
SELECT fl_rate_check('user', 's2', 'orders', 5);
SELECT pg_temp.spend('user', 's2', 'orders');
SELECT used, granted FROM fl_rate_counters WHERE name = 'shadow' AND key = 's2';
-- Out of the shadow: what was counted counts.
SELECT fl_rate_reset('user', 's1', 'orders');
SELECT pg_temp.spend('user', 's1', 'orders');
UPDATE fl_rate_limit SET on_limit = 'refuse' WHERE name = 'shadow';
SELECT pg_temp.spend('user', 's1', 'orders');
DELETE FROM fl_rate_limit WHERE name LIKE 'shadow%';

-- A user's row replaces the shipped one of its name, for whom it names; without it the shipped one is back.
SELECT pg_temp.spend('user', 'u1', 'ai');
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests, period) VALUES ('fliplet/ai', 'user', 'ai', 'u1', 100, '1 min');
SELECT pg_temp.spend('user', 'u1', 'ai');
SELECT pg_temp.spend('user', 'u2', 'ai');
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('fliplet/ai', 'user', 'ai', 3, '1 min');
SELECT pg_temp.spend('user', 'u1', 'ai');
SELECT pg_temp.spend('user', 'u2', 'ai');
UPDATE fl_rate_limit SET enabled = false WHERE name = 'fliplet/ai' AND limit_id > 0;
SELECT pg_temp.spend('user', 'u1', 'ai');
SELECT pg_temp.spend('user', 'u2', 'ai');
DELETE FROM fl_rate_limit WHERE name = 'fliplet/ai' AND limit_id > 0;
SELECT pg_temp.spend('user', 'u1', 'ai');
-- Beside it, not instead of it: another name.
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('my ai', 'user', 'ai', 4, '1 min');
SELECT pg_temp.spend('user', 'u3', 'ai');
DELETE FROM fl_rate_limit WHERE name = 'my ai';

-- Changing max_requests, period or on_limit keeps what was spent; so does DELETE and INSERT.
SELECT pg_temp.spend('user', 'c1', 'orders', 4);
UPDATE fl_rate_limit SET max_requests = 6 WHERE name = 'orders' AND key IS NULL AND plan IS NULL;
SELECT pg_temp.spend('user', 'c1', 'orders');
UPDATE fl_rate_limit SET period = '2 h' WHERE name = 'orders' AND key IS NULL AND plan IS NULL;
SELECT pg_temp.spend('user', 'c1', 'orders');
UPDATE fl_rate_limit SET max_requests = 3 WHERE name = 'orders' AND key IS NULL AND plan IS NULL;
SELECT pg_temp.spend('user', 'c1', 'orders');
DELETE FROM fl_rate_limit WHERE name = 'orders' AND key IS NULL AND plan IS NULL;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('orders', 'user', 'orders', 8, '1 h');
SELECT pg_temp.spend('user', 'c1', 'orders');
UPDATE fl_rate_limit SET on_limit = 'delay' WHERE name = 'orders' AND key IS NULL AND plan IS NULL;
SELECT pg_temp.spend('user', 'c1', 'orders');
UPDATE fl_rate_limit SET on_limit = 'refuse' WHERE name = 'orders' AND key IS NULL AND plan IS NULL;
-- Changing the algorithm starts the limit's counters afresh.
UPDATE fl_rate_limit SET algorithm = 'token_bucket' WHERE name = 'orders' AND key IS NULL AND plan IS NULL;
SELECT pg_temp.spend('user', 'c1', 'orders');

-- An own change in an open transaction is seen there, and gone with the rollback.
BEGIN;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('brief', 'user', 'orders', 1, '1 h');
SELECT pg_temp.spend('user', 'b1', 'orders');
SAVEPOINT s;
DELETE FROM fl_rate_limit WHERE name = 'brief';
SELECT pg_temp.spend('user', 'b1', 'orders');
ROLLBACK TO s;
SELECT pg_temp.spend('user', 'b1', 'orders');
ROLLBACK;
SELECT pg_temp.spend('user', 'b1', 'orders');

-- Dates come and go without a change of the table.
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests, period, valid_from, valid_until) VALUES
	('orders', 'user', 'orders', 'later', 21, '1 h', clock_timestamp() + interval '1 s', NULL), ('orders', 'user', 'orders', 'until', 22, '1 h', NULL, clock_timestamp() + interval '1 s');
SELECT k || ': ' || pg_temp.spend('user', k, 'orders') FROM unnest('{later,until}'::text[]) AS k;
SELECT pg_sleep(1);
SELECT k || ': ' || pg_temp.spend('user', k, 'orders') FROM unnest('{later,until}'::text[]) AS k;

-- fl_rate_define: insert or update by name, key and plan; what is left out is the default.
SELECT fl_rate_define('defined', 'app', 'orders', 7, '1 min', comment => 'first') AS id \gset
SELECT limit_id = :id, name, scope, api, key, plan, max_requests, period, algorithm, burst, anchor, time_zone, on_limit, max_delay, enabled, valid_from, valid_until, comment
FROM fl_rate_limit WHERE name = 'defined';
SELECT fl_rate_define('defined', 'app', 'orders', 8, '2 min', algorithm => 'token_bucket', burst => 3, on_limit => 'delay', max_delay => '3 s',
                      enabled => false, valid_from => '2020-01-01 00:00+00', valid_until => '2030-01-01 00:00+00') = :id;
SELECT limit_id = :id, max_requests, period, algorithm, burst, anchor, time_zone, on_limit, max_delay, enabled, valid_from, valid_until, comment
FROM fl_rate_limit WHERE name = 'defined';
SELECT fl_rate_define('defined', 'app', 'orders', 8, '1 month', algorithm => 'fixed_window', anchor => '2020-01-01 00:00+00', time_zone => 'Europe/London') = :id;
SELECT limit_id = :id, max_requests, period, algorithm, burst, anchor, time_zone, on_limit, max_delay, enabled, valid_from, valid_until
FROM fl_rate_limit WHERE name = 'defined';
SELECT fl_rate_define('defined', 'app', 'orders', NULL, NULL, key => 'k') <> :id;
SELECT fl_rate_define('defined', 'app', 'orders', 0, NULL, plan => 'p') <> :id;
SELECT fl_rate_define('fliplet/ai', 'user', 'ai', 12, '1 min') > 0;
SELECT name, key, plan, max_requests FROM fl_rate_limit WHERE name IN ('defined', 'fliplet/ai') AND limit_id > 0 ORDER BY name, key, plan, max_requests;
-- The same twice changes nothing and is no error: it is for migrations.
SELECT fl_rate_define('fliplet/ai', 'user', 'ai', 12, '1 min') = limit_id FROM fl_rate_limit WHERE name = 'fliplet/ai' AND limit_id > 0;
-- fl_rate_undefine deletes one variant, never a shipped row.
SELECT fl_rate_undefine('defined');
SELECT fl_rate_undefine('defined');
SELECT fl_rate_undefine('defined', key => 'k'), fl_rate_undefine('defined', plan => 'p');
SELECT fl_rate_undefine('fliplet/ai'), fl_rate_undefine('fliplet/ai');
SELECT fl_rate_undefine('no such name');
SELECT name, max_requests FROM fl_rate_limit WHERE name IN ('defined', 'fliplet/ai');

-- Who last wrote a row, and when
SELECT fl_rate_define('written', 'app', 'orders', 7, '1 min') > 0;
SELECT updated_by = session_user, updated_at < now() FROM fl_rate_limit WHERE name = 'written';
UPDATE fl_rate_limit SET comment = 'x' WHERE name = 'written' RETURNING updated_by = session_user, updated_at = now();

-- 16 limits apply to one request, 17 do not.
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) SELECT 'n' || i, 'device', 'many', 100 + i, '1 h' FROM generate_series(1, 16) AS i;
SELECT pg_temp.spend('device', 'd', 'many');
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('n17', 'device', '*', 100, '1 h');
SELECT pg_temp.answer($$SELECT fl_rate_check('device', 'd', 'many')$$);
SELECT sum(used) FROM fl_rate_counters WHERE scope = 'device';
UPDATE fl_rate_limit SET enabled = false WHERE name = 'n1';
SELECT pg_temp.spend('device', 'd', 'many');

SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
