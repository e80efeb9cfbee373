-- The trigger: a statement is a request, however many rows it changes

BEGIN;
SELECT plan(37);

SELECT fl_rate_reset_all() >= 0 AS begin_clean;
SET LOCAL client_min_messages = warning;
SELECT fl_rate_define('writes', 'user', 'writes', 20, '1 h') > 0 AS defined;

CREATE FUNCTION pg_temp.used(key text) RETURNS bigint
LANGUAGE sql AS $$ SELECT coalesce(sum(c.used), 0)::bigint FROM fl_rate_counters AS c WHERE c.name = 'writes' AND c.key = $1 $$;

CREATE TABLE entries (id integer, owner text, amount integer);
CREATE TABLE entries_by_row (LIKE entries);
CREATE TABLE entries_by_rows (LIKE entries);

-- A statement is one request
CREATE TRIGGER limited BEFORE INSERT OR UPDATE OR DELETE ON entries
    FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'setting:app.user_id');
SET LOCAL app.user_id = 'statement';
SELECT lives_ok('INSERT INTO entries SELECT i FROM generate_series(1, 500) AS i', 'an INSERT of 500 rows');
SELECT is(pg_temp.used('statement'), 1::bigint, 'is one request');
SELECT lives_ok('UPDATE entries SET amount = 1', 'an UPDATE of 500 rows');
SELECT is(pg_temp.used('statement'), 2::bigint, 'is one request');
SELECT lives_ok('DELETE FROM entries WHERE id > 10', 'so is a DELETE');
SELECT is(pg_temp.used('statement'), 3::bigint, 'of any number of rows');
DO $$ BEGIN FOR i IN 1 .. 17 LOOP INSERT INTO entries VALUES (i); END LOOP; END $$;
SELECT is(pg_temp.used('statement'), 20::bigint, '17 INSERTs are 17 requests');
SELECT throws_ok('INSERT INTO entries VALUES (1)', 'PT429', NULL, 'the next one is refused');
SELECT is((SELECT count(*) FROM entries), 27::bigint, 'and inserts nothing');
SET LOCAL app.user_id = 'another';
SELECT lives_ok('INSERT INTO entries VALUES (1)', 'another key is free');
SET LOCAL app.user_id = 'none';
SELECT lives_ok('UPDATE entries SET amount = 2 WHERE false', 'a statement that changes no row');
SELECT is(pg_temp.used('none'), 1::bigint, 'is a request for a statement trigger');

-- Clear errors for a key that is not there
SET LOCAL app.user_id = '';
SELECT throws_matching('INSERT INTO entries VALUES (1)', 'limited', 'an empty setting is an error that names the trigger');
RESET app.user_id;
SELECT throws_matching('INSERT INTO entries VALUES (1)', 'limited', 'an unset one too');
CREATE TRIGGER never_set BEFORE INSERT ON entries_by_row
    FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'setting:app.never_set');
SELECT throws_matching('INSERT INTO entries_by_row VALUES (1)', 'never_set', 'and one that nobody has ever heard of');
DROP TRIGGER never_set ON entries_by_row;

-- Role
CREATE TRIGGER by_role BEFORE INSERT ON entries_by_row
    FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'role');
SELECT lives_ok('INSERT INTO entries_by_row VALUES (1)', 'the key may be the current role');
SELECT is(pg_temp.used(current_user), 1::bigint, 'which then has spent');
DROP TRIGGER by_role ON entries_by_row;

-- A row is a request
CREATE TRIGGER each_row BEFORE INSERT OR UPDATE OR DELETE ON entries_by_row
    FOR EACH ROW EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'column:owner');
SELECT lives_ok($$ INSERT INTO entries_by_row SELECT i, 'row' FROM generate_series(1, 7) AS i $$, 'a row trigger');
SELECT is(pg_temp.used('row'), 7::bigint, 'spends one for each row');
SELECT lives_ok($$ UPDATE entries_by_row SET owner = 'new' WHERE id <= 3 AND owner = 'row' $$, 'an UPDATE');
SELECT is(pg_temp.used('new'), 3::bigint, 'is for whom the new row says');
SELECT lives_ok($$ DELETE FROM entries_by_row WHERE owner = 'new' $$, 'a DELETE');
SELECT is(pg_temp.used('new'), 6::bigint, 'for whom the old row says');
SELECT lives_ok($$ UPDATE entries_by_row SET amount = 1 WHERE false $$, 'zero rows');
SELECT is(pg_temp.used('row'), 7::bigint, 'spend nothing');
SELECT is((SELECT array_agg(amount) FROM entries_by_row WHERE owner = 'row'), '{NULL,NULL,NULL,NULL}',
          'the rows are what they were');
SELECT throws_ok($$ INSERT INTO entries_by_row SELECT i, 'row' FROM generate_series(1, 14) AS i $$, 'PT429', NULL,
                 'too many rows are refused');
SELECT throws_matching('INSERT INTO entries_by_row VALUES (1, NULL)', 'each_row', 'a NULL key is an error that names the trigger');
CREATE TRIGGER no_column BEFORE INSERT ON entries_by_row
    FOR EACH ROW EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'column:owners');
SELECT throws_matching($$ INSERT INTO entries_by_row VALUES (1, 'x') $$, 'no_column', 'a missing column too');
DROP TRIGGER no_column ON entries_by_row;

-- The number of rows is the cost
CREATE TRIGGER by_rows AFTER INSERT ON entries_by_rows REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'setting:app.user_id', 'rows');
CREATE TRIGGER by_rows_deleted AFTER DELETE ON entries_by_rows REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'writes', 'setting:app.user_id', 'rows');
SET LOCAL app.user_id = 'rows';
SELECT lives_ok('INSERT INTO entries_by_rows SELECT i FROM generate_series(1, 12) AS i', 'with a transition table and "rows"');
SELECT is(pg_temp.used('rows'), 12::bigint, 'the number of rows is the cost');
SELECT throws_ok('INSERT INTO entries_by_rows SELECT i FROM generate_series(1, 9) AS i', 'PT429', NULL, 'more than what remains is refused');
SELECT is(pg_temp.used('rows'), 12::bigint, 'as a whole');
SELECT lives_ok('INSERT INTO entries_by_rows SELECT 1 WHERE false', 'zero rows');
SELECT is(pg_temp.used('rows'), 12::bigint, 'spend nothing');
SELECT lives_ok('DELETE FROM entries_by_rows WHERE id <= 3', 'a DELETE likewise');
SELECT is(pg_temp.used('rows'), 15::bigint, 'by its old rows');

SELECT * FROM finish();
ROLLBACK;
