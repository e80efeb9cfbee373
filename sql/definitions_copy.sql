-- The copy of the definitions that each session keeps: it is whole and right, or the check is an error.
\getenv directory PG_ABS_SRCDIR
\set answer :directory /test/answer.sql
\i :answer
-- Every function that judges
CREATE FUNCTION pg_temp.all_forms(scope text, key text, api text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT DISTINCT pg_temp.answer(format(form, scope, key, api)) FROM unnest(ARRAY['SELECT fl_rate_check(%L, %L, %L)', 'SELECT v.reason FROM fl_rate_try(%L, %L, %L) AS v', 'SELECT v.reason FROM fl_rate_peek(%L, %L, %L) AS v',
		'SELECT fl_rate_wait(%L, %L, %L, max_wait => ''0'')', 'SELECT v.reason FROM fl_rate_try_all(ARRAY[%L], ARRAY[%L], %L) AS v', 'SELECT v.reason FROM fl_rate_try_batch(ARRAY[%L], ARRAY[%L], ARRAY[%L]) AS v']) AS form ORDER BY 1
$$;
SET client_min_messages = warning;

-- A table that has lost a column, or whose columns have other types, cannot be read: that is an error, not a pass.
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('altered', 'user', 'altered', 0, NULL);
SELECT pg_temp.all_forms('user', 'k', 'altered');
CREATE FUNCTION pg_temp.altered(change text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		EXECUTE 'ALTER TABLE fl_rate_limit ' || change;
		RETURN NEXT change;
		RETURN QUERY SELECT pg_temp.all_forms('user', 'k', 'altered');
		RAISE 'undone' USING ERRCODE = 'XX999';
	EXCEPTION WHEN SQLSTATE 'XX999' THEN
		RETURN;
	END;
END
$$;
SELECT pg_temp.altered(c) FROM unnest(ARRAY['DROP COLUMN max_requests CASCADE', 'DROP COLUMN period CASCADE', 'DROP COLUMN key CASCADE', 'DROP COLUMN valid_until CASCADE', 'ALTER COLUMN enabled DROP DEFAULT, ALTER COLUMN enabled TYPE text', 'ALTER COLUMN on_limit TYPE varchar(20)', 'ALTER COLUMN valid_from TYPE date']) AS c;
-- ... which is over when it is undone.
SELECT pg_temp.all_forms('user', 'k', 'altered');
-- A column of one's own is no trouble.
SELECT pg_temp.altered('ADD COLUMN ours text DEFAULT ''x''');
-- The same for what is committed, in this session and in a new one.
ALTER TABLE fl_rate_limit ALTER COLUMN max_requests TYPE numeric;
SELECT pg_temp.all_forms('user', 'k', 'altered');
SELECT pg_temp.all_forms('user', 'k', 'ai');
SELECT current_database() AS home \gset
\c :home
\set VERBOSITY terse
SELECT fl_rate_check('user', 'k', 'altered');
SELECT fl_rate_check('user', 'k', 'altered');
ALTER TABLE fl_rate_limit ALTER COLUMN max_requests TYPE bigint;
SELECT v.reason FROM fl_rate_try('user', 'k', 'altered') AS v;
SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
CREATE EXTENSION fliplet_ratelimit;

-- More than 16 limits from a date on: an error every time, spending nothing, never a pass.
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) SELECT 'n' || i, 'device', 'dated', 100, '1 h' FROM generate_series(1, 16) AS i;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period, valid_from) VALUES ('block', 'device', 'dated', 0, NULL, clock_timestamp() + interval '2 s');
SELECT fl_rate_check('device', 'k', 'dated');
SELECT pg_sleep(2.1);
SELECT fl_rate_check('device', 'k', 'dated');
SELECT fl_rate_check('device', 'k', 'dated');
SELECT v.reason FROM fl_rate_try('device', 'k', 'dated') AS v;
SELECT v.reason FROM fl_rate_try('device', 'k', 'dated') AS v;
SELECT v.reason FROM fl_rate_try('device', 'another', 'dated') AS v;
SELECT DISTINCT used FROM fl_rate_counters WHERE scope = 'device';
UPDATE fl_rate_limit SET enabled = false WHERE name = 'n1';
SELECT v.reason, v.name FROM fl_rate_try('device', 'k', 'dated') AS v;
-- ... and where they are too many from the beginning
UPDATE fl_rate_limit SET enabled = true WHERE name = 'n1';
SELECT v.reason FROM fl_rate_try('device', 'k', 'dated') AS v;
SELECT v.reason FROM fl_rate_try('device', 'k', 'dated') AS v;
DELETE FROM fl_rate_limit WHERE limit_id > 0;

-- Rows for single keys: few are copied at once, many when they are asked for. Either way a key has its own.
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests, period) SELECT 'own', 'app', 'app-actions', 'key' || i, 5, '10 s' FROM generate_series(1, 200) AS i;
SELECT k, v.name, v.max_requests FROM unnest('{key1,key200,key201}'::text[]) AS k, fl_rate_peek('app', k, 'app-actions') AS v;
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests, period) SELECT 'own', 'app', 'app-actions', 'key' || i, 5, '10 s' FROM generate_series(201, 300) AS i;
SELECT k, v.name, v.max_requests FROM unnest('{key1,key200,key201,key301,key1,key301}'::text[]) AS k, fl_rate_peek('app', k, 'app-actions') AS v;
-- Long keys that have no row leave nothing behind in the session: a hundred kilobytes each would be thirty megabytes.
SELECT count(fl_rate_check('app', repeat('x', 100000) || i, 'app-actions')) FROM generate_series(1, 10) AS i;
SELECT sum(total_bytes) AS before FROM pg_backend_memory_contexts \gset
SELECT count(fl_rate_check('app', repeat('x', 100000) || i, 'app-actions')) FROM generate_series(1, 300) AS i;
SELECT sum(total_bytes) - :before < 5000000 FROM pg_backend_memory_contexts;
-- Nor do short ones in any number.
SELECT count(fl_rate_check('app', 'short' || i, 'app-actions')) FROM generate_series(1, 30000) AS i;
SELECT sum(total_bytes) - :before < 5000000 FROM pg_backend_memory_contexts;
-- A row whose key is stored compressed is one for that key.
INSERT INTO fl_rate_limit (name, scope, api, key, max_requests, period, comment) VALUES ('own', 'app', 'app-actions', repeat('k', 1024), 3, '10 s', repeat(md5('c'), 200));
SELECT v.name, v.max_requests FROM fl_rate_peek('app', repeat('k', 1024), 'app-actions') AS v;
SELECT v.name, v.max_requests FROM fl_rate_peek('app', repeat('k', 1025), 'app-actions') AS v;

-- A row that makes no sense (it got in past the constraints) is an error for whom it concerns, every time: never half of a key's rows.
ALTER TABLE fl_rate_limit DROP CONSTRAINT fl_rate_limit_algorithm_is_known;
INSERT INTO fl_rate_limit (limit_id, name, scope, api, key, max_requests, period) VALUES (901, 'vip 1', 'app', 'app-actions', 'vip', 1000, '1 h');
INSERT INTO fl_rate_limit (limit_id, name, scope, api, key, max_requests, period, algorithm) VALUES (902, 'vip 2', 'app', 'app-actions', 'vip', 1, '1 h', 'senseless');
INSERT INTO fl_rate_limit (limit_id, name, scope, api, key, max_requests, period) VALUES (903, 'vip 3', 'app', 'app-actions', 'vip', 1000, '1 h');
SELECT fl_rate_check('app', 'vip', 'app-actions');
SELECT fl_rate_check('app', 'vip', 'app-actions');
SELECT v.reason FROM fl_rate_try('app', 'vip', 'app-actions') AS v;
SELECT v.reason, v.name FROM fl_rate_try('app', 'key1', 'app-actions') AS v;
SELECT v.reason, v.name FROM fl_rate_try('app', 'nobody', 'app-actions') AS v;
-- ... nor half of all rows, where they are few
DELETE FROM fl_rate_limit WHERE name = 'own';
SELECT fl_rate_check('app', 'vip', 'app-actions');
SELECT fl_rate_check('app', 'vip', 'app-actions');
UPDATE fl_rate_limit SET algorithm = 'sliding_window' WHERE limit_id = 902;
SELECT v.reason, v.name, v.remaining FROM fl_rate_try('app', 'vip', 'app-actions') AS v;
SELECT v.reason, v.name FROM fl_rate_try('app', 'vip', 'app-actions') AS v;
DELETE FROM fl_rate_limit WHERE limit_id > 0;

-- A trigger of the table that does not always fire lets sessions miss changes: whoever reads the definitions says so.
\set VERBOSITY default
SELECT v.allowed FROM fl_rate_try('app', 'k', 'app-actions') AS v;
ALTER TABLE fl_rate_limit ENABLE TRIGGER fl_rate_limit_2_changed;
SELECT v.allowed FROM fl_rate_try('app', 'k', 'app-actions') AS v;
SELECT v.allowed FROM fl_rate_try('app', 'k', 'app-actions') AS v;
ALTER TABLE fl_rate_limit ENABLE REPLICA TRIGGER fl_rate_limit_2_changed;
SELECT v.allowed FROM fl_rate_try('app', 'k', 'app-actions') AS v;
ALTER TABLE fl_rate_limit DISABLE TRIGGER fl_rate_limit_2_changed;
SELECT v.allowed FROM fl_rate_try('app', 'k', 'app-actions') AS v;
ALTER TABLE fl_rate_limit ENABLE ALWAYS TRIGGER fl_rate_limit_2_changed;
SELECT v.allowed FROM fl_rate_try('app', 'k', 'app-actions') AS v;
ALTER TABLE fl_rate_limit ENABLE TRIGGER fl_rate_limit_1_guard;
SELECT v.allowed FROM fl_rate_try('app', 'k', 'app-actions') AS v;
ALTER TABLE fl_rate_limit ENABLE ALWAYS TRIGGER fl_rate_limit_1_guard;
SELECT v.allowed FROM fl_rate_try('app', 'k', 'app-actions') AS v;

DROP EXTENSION fliplet_ratelimit CASCADE;
