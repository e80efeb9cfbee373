-- A trigger spends by the statement, by the row, or by the number of rows.
\getenv directory PG_ABS_SRCDIR
\set answer :directory /test/answer.sql
\i :answer
SET client_min_messages = warning;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('writes', 'user', 'writes', 1000, '1 h');
RESET client_min_messages;
CREATE TABLE entries (id serial PRIMARY KEY, owner text, data text DEFAULT 'x');
CREATE TABLE log (owner int, data text);
CREATE VIEW pg_temp.spent AS SELECT scope || ' ' || key || ': ' || granted || ' for ' || used FROM fl_rate_counters WHERE granted > 0 ORDER BY scope, key;

-- One statement is one request, however many rows; 500 statements are 500.
CREATE TRIGGER limited BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'setting:app.user_id');
SET app.user_id = 's1';
INSERT INTO entries (owner) SELECT 'o' FROM generate_series(1, 500);
TABLE spent;
SET app.user_id = 's2';
DO $$ BEGIN FOR i IN 1 .. 500 LOOP INSERT INTO entries (owner) VALUES ('o'); END LOOP; END $$;
TABLE spent;
-- COPY is one statement, too.
SET app.user_id = 's3';
COPY entries (owner) FROM stdin;
a
b
c
\.
TABLE spent;
-- A refusal refuses the whole statement.
SET app.user_id = 's2';
SELECT fl_rate_check('user', 's2', 'writes', 500);
SELECT count(*) FROM entries;
SELECT pg_temp.answer($$INSERT INTO entries (owner) SELECT 'o' FROM generate_series(1, 3)$$);
SELECT count(*) FROM entries;
SELECT fl_rate_reset_all() > 0;
DROP TRIGGER limited ON entries;

-- UPDATE, DELETE and TRUNCATE
CREATE TRIGGER limited BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON entries FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'setting:app.user_id');
SET app.user_id = 'events';
INSERT INTO entries (owner) VALUES ('o');
UPDATE entries SET data = 'y';
DELETE FROM entries WHERE id % 2 = 0;
TRUNCATE entries;
TABLE spent;
-- INSERT ... ON CONFLICT DO UPDATE fires one trigger per kind of event.
INSERT INTO entries (id, owner) VALUES (-1, 'o') ON CONFLICT (id) DO UPDATE SET data = 'z';
TABLE spent;
SELECT fl_rate_reset_all();
DROP TRIGGER limited ON entries;

-- A row trigger spends one a row, by the column of that row; zero rows spend nothing.
CREATE TRIGGER limited BEFORE INSERT OR UPDATE OR DELETE ON entries FOR EACH ROW EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'column:owner');
INSERT INTO entries (owner) SELECT 'r' || i % 3 FROM generate_series(1, 10) AS i;
TABLE spent;
UPDATE entries SET data = 'y' WHERE owner = 'r0';
DELETE FROM entries WHERE owner = 'r1';
UPDATE entries SET data = 'y' WHERE false;
TABLE spent;
-- UPDATE charges the new row's key.
UPDATE entries SET owner = 'r9' WHERE owner = 'r2';
TABLE spent;
SELECT fl_rate_reset_all();
-- The row is stored as it is, by BEFORE and AFTER triggers, and DELETE deletes.
SELECT owner, count(*) FROM entries WHERE id > 0 GROUP BY 1 ORDER BY 1;
DROP TRIGGER limited ON entries;
CREATE TRIGGER limited AFTER INSERT OR DELETE ON log FOR EACH ROW EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'column:owner');
-- A column of any type is taken as text.
INSERT INTO log VALUES (42, 'a'), (42, 'b'), (7, 'c');
DELETE FROM log WHERE owner = 7;
TABLE spent;
DROP TRIGGER limited ON log;
SELECT fl_rate_reset_all();

-- AFTER STATEMENT with a transition table and 'rows' costs the number of rows; zero rows spend nothing.
CREATE TRIGGER limited_insert AFTER INSERT ON entries REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'setting:app.user_id', 'rows');
CREATE TRIGGER limited_update AFTER UPDATE ON entries REFERENCING OLD TABLE AS old NEW TABLE AS new FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'setting:app.user_id', 'rows');
CREATE TRIGGER limited_delete AFTER DELETE ON entries REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'setting:app.user_id', 'rows');
SET app.user_id = 'rows insert';
INSERT INTO entries (owner) SELECT 't' FROM generate_series(1, 500);
INSERT INTO entries (owner) SELECT 't' WHERE false;
SET app.user_id = 'rows update';
UPDATE entries SET data = 'u' WHERE id IN (SELECT id FROM entries WHERE owner = 't' LIMIT 100);
UPDATE entries SET data = 'u' WHERE false;
SET app.user_id = 'rows delete';
DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE owner = 't' LIMIT 20);
DELETE FROM entries WHERE false;
TABLE spent;
-- Refused: nothing is inserted, nothing is spent.
SET app.user_id = 'rows insert';
SELECT pg_temp.answer($$INSERT INTO entries (owner) SELECT 'refused' FROM generate_series(1, 501)$$);
SELECT count(*) FROM entries WHERE owner = 'refused';
SELECT pg_temp.answer($$INSERT INTO entries (owner) SELECT 'refused' FROM generate_series(1, 500) RETURNING 'inserted'$$);
SELECT fl_rate_reset_all();
-- Without 'rows' the transition table says only whether there were any.
CREATE TRIGGER limited_once AFTER INSERT ON log REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'setting:app.user_id');
SET app.user_id = 'once';
INSERT INTO log SELECT i, 'x' FROM generate_series(1, 500) AS i;
INSERT INTO log SELECT 1, 'x' WHERE false;
TABLE spent;
DROP TRIGGER limited_once ON log;
SELECT fl_rate_reset_all();
DROP TRIGGER limited_insert ON entries;
DROP TRIGGER limited_update ON entries;
DROP TRIGGER limited_delete ON entries;
TRUNCATE entries;

-- role is the current user. Ordinary users of the table need no grant on anything of the extension.
CREATE ROLE regress_fl_writer;
GRANT INSERT, SELECT, DELETE ON entries TO regress_fl_writer;
GRANT USAGE ON SEQUENCE entries_id_seq TO regress_fl_writer;
CREATE TRIGGER limited BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'role');
SET ROLE regress_fl_writer;
SELECT has_function_privilege('fl_rate_trigger()', 'EXECUTE'), has_table_privilege('fl_rate_limit', 'SELECT');
INSERT INTO entries (owner) VALUES ('w');
INSERT INTO entries (owner) VALUES ('w');
RESET ROLE;
TABLE spent;
SELECT fl_rate_reset_all();
DROP TRIGGER limited ON entries;

-- A key that is not there is a clear error that names the trigger, and the row is not stored.
CREATE TRIGGER limited_a BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'column:owner');
SELECT pg_temp.answers($$INSERT INTO entries (owner) VALUES (NULL)$$, $$INSERT INTO entries (owner) VALUES ('')$$, $$INSERT INTO entries (owner) VALUES ('*')$$, $$INSERT INTO entries (owner) VALUES ('o1'), (NULL) $$);
DROP TRIGGER limited_a ON entries;
CREATE TRIGGER limited_b BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'column:ownr');
SELECT pg_temp.answers($$INSERT INTO entries (owner) VALUES ('o')$$);
DROP TRIGGER limited_b ON entries;
CREATE TRIGGER limited_c BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'setting:app.unset_id');
SELECT pg_temp.answers($$INSERT INTO entries (owner) VALUES ('o')$$);
SET app.unset_id = '';
SELECT pg_temp.answers($$INSERT INTO entries (owner) VALUES ('o')$$);
SET app.unset_id = 'set';
SELECT pg_temp.answers($$INSERT INTO entries (owner) VALUES ('o') RETURNING 'inserted'$$);
DROP TRIGGER limited_c ON entries;
-- column: needs a row, rows a transition table.
CREATE TRIGGER limited_d BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'column:owner');
SELECT pg_temp.answers($$INSERT INTO entries (owner) VALUES ('o')$$);
DROP TRIGGER limited_d ON entries;
CREATE TRIGGER limited_e AFTER INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'role', 'rows');
SELECT pg_temp.answers($$INSERT INTO entries (owner) VALUES ('o')$$);
DROP TRIGGER limited_e ON entries;
CREATE TRIGGER limited_f BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'role', 'rows');
SELECT pg_temp.answers($$INSERT INTO entries (owner) VALUES ('o')$$);
DROP TRIGGER limited_f ON entries;
-- Arguments: too few, too many, unknown
CREATE TRIGGER limited_g BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger();
SELECT pg_temp.answers($$INSERT INTO entries (owner) VALUES ('o')$$);
DROP TRIGGER limited_g ON entries;
CREATE TRIGGER limited_h BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes');
SELECT pg_temp.answers($$INSERT INTO entries (owner) VALUES ('o')$$);
DROP TRIGGER limited_h ON entries;
CREATE TRIGGER limited_i BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'owner');
SELECT pg_temp.answers($$INSERT INTO entries (owner) VALUES ('o')$$);
DROP TRIGGER limited_i ON entries;
CREATE TRIGGER limited_j BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'role', 'row');
SELECT pg_temp.answers($$INSERT INTO entries (owner) VALUES ('o')$$);
DROP TRIGGER limited_j ON entries;
CREATE TRIGGER limited_k BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'role', 'rows', 'more');
SELECT pg_temp.answers($$INSERT INTO entries (owner) VALUES ('o')$$);
DROP TRIGGER limited_k ON entries;
CREATE TRIGGER limited_l BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'setting:');
SELECT pg_temp.answers($$INSERT INTO entries (owner) VALUES ('o')$$);
DROP TRIGGER limited_l ON entries;
-- An unknown scope or API
CREATE TRIGGER limited_m BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'wriets', 'role');
SELECT pg_temp.answers($$INSERT INTO entries (owner) VALUES ('o')$$);
DROP TRIGGER limited_m ON entries;
-- Not a trigger's context
SELECT pg_temp.answers($$SELECT fl_rate_trigger()$$);
SELECT owner, count(*) FROM entries GROUP BY 1 ORDER BY 1;
-- What was spent of it: the row o1 before the NULL, and what was inserted.
TABLE spent;

-- A column that was dropped or added is found by its name; a partition's own order does not matter.
CREATE TABLE parted (a int, owner text, b int) PARTITION BY LIST (b);
CREATE TABLE part1 (b int, junk int, owner text, a int);
ALTER TABLE part1 DROP COLUMN junk;
ALTER TABLE parted ATTACH PARTITION part1 FOR VALUES IN (1);
CREATE TRIGGER limited AFTER INSERT ON parted FOR EACH ROW EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'column:owner');
INSERT INTO parted VALUES (5, 'parted', 1), (6, 'parted', 1);
TABLE spent;
-- INSTEAD OF a view's row there is nothing that it could do.
CREATE VIEW entries_view AS SELECT * FROM entries;
CREATE TRIGGER limited INSTEAD OF INSERT ON entries_view FOR EACH ROW EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'column:owner');
INSERT INTO entries_view (owner) VALUES ('viewed');
TABLE spent;

DROP VIEW entries_view;
DROP TABLE parted, entries, log;
DROP ROLE regress_fl_writer;
SET client_min_messages = warning;
DROP EXTENSION fliplet_ratelimit CASCADE;
