
# Requests inside of other things: subtransactions that are taken back, EXCEPTION
# blocks, parallel queries, triggers that recurse, prepared transactions. Each
# grant is spent once, and nothing that is taken back takes the store or the
# copy of the definitions along.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', conf => <<'EOC');
max_prepared_transactions = 4
fliplet_ratelimit.max_memory = '64MB'
EOC
$node->safe_psql('postgres', <<'SQL');
SELECT fl_rate_define('small', 'user', 'small', 3, '1 h'),
       fl_rate_define('large', 'user', 'large', 1000, '1 h'),
       fl_rate_define('huge', 'user', 'huge', 1000000, '1 h'),
       fl_rate_define('turn', 'user', 'turn', 1, '1 s');
SQL

sub check { return "SELECT fl_rate_check('user', '$_[0]', '$_[1]')"; }

# ---- subtransactions

# All that a session does at its first request, in one that is taken back: in
# the first session of the server, too, which makes the store.
foreach my $n (1, 2)
{
	my $s = session($node);
	my $name = $n == 1 ? 'the first session' : 'another session';

	ask_ok($s, 'BEGIN; SAVEPOINT a; SAVEPOINT b');
	granted_ok($s, check('savepoint', 'large'), 1000 - 2 * $n + 1, "$name: its first request, in a subtransaction");
	ask_ok($s, 'ROLLBACK TO a');
	granted_ok($s, check('savepoint', 'large'), 1000 - 2 * $n, "$name: goes on when that is taken back");
	ask_ok($s, 'ROLLBACK');
	granted_ok($s, q{SELECT used FROM fl_rate_counters WHERE key = 'savepoint'}, 2 * $n, "$name: and then the transaction");

	# the store grows, and others' memory is mapped
	ask_ok($s, 'BEGIN; SAVEPOINT a');
	my $memory = ask_ok($s, 'SELECT memory_used FROM fl_rate_store');
	is(ask_ok($s, "SELECT count(fl_rate_check('user', '$n: ' || i, 'small')) FROM generate_series(1, 10000) AS i"),
		10000, "$name: makes the store grow in a subtransaction");
	ask_ok($s, 'ROLLBACK TO a');
	granted_ok($s, "SELECT memory_used > $memory + 1000000 FROM fl_rate_store", 't', "$name: which is not taken back");
	granted_ok($s, "SELECT count(*), min(used), max(used) FROM fl_rate_counters WHERE starts_with(key, '$n: ')",
		'10000|1|1', "$name: nor is what was spent");
	ask_ok($s, 'ROLLBACK');
	$s->quit;
}

my $s = session($node);
my $other = session($node);

# What a session has changed itself goes when that is taken back.
ask_ok($s, 'BEGIN; SAVEPOINT a');
ask_ok($s, q{SELECT fl_rate_define('small', 'user', 'small', 7, '1 h')});
granted_ok($s, q{SELECT max_requests FROM fl_rate_peek('user', 'own', 'small')}, 7, 'a change of the definitions, seen by who made it');
granted_ok($other, q{SELECT max_requests FROM fl_rate_peek('user', 'own', 'small')}, 3, 'and by nobody else');
ask_ok($s, 'ROLLBACK TO a');
granted_ok($s, q{SELECT max_requests FROM fl_rate_peek('user', 'own', 'small')}, 3, 'not any more when it was taken back');
ask_ok($s, 'SAVEPOINT b');
ask_ok($s, q{SELECT fl_rate_define('small', 'user', 'small', 8, '1 h')});
ask_ok($s, 'RELEASE b; SAVEPOINT c');
ask($s, 'SELECT 1 / 0');
ask_ok($s, 'ROLLBACK TO c');
granted_ok($s, q{SELECT max_requests FROM fl_rate_peek('user', 'own', 'small')}, 8, 'one that was kept stays through an error after it');
ask_ok($s, 'ROLLBACK');
granted_ok($s, q{SELECT max_requests FROM fl_rate_peek('user', 'own', 'small')}, 3, 'until the transaction rolls back');

# EXCEPTION blocks in EXCEPTION blocks, more of them than a backend's array of
# subtransactions holds (64), around grants, refusals and other errors
ask_ok($s, <<'SQL');
CREATE FUNCTION nested(key text, depth int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	refused int := 0;
BEGIN
	BEGIN
		PERFORM fl_rate_check('user', key, 'large');
		IF depth > 0 THEN
			refused := nested(key, depth - 1);
		END IF;
		IF depth % 3 = 0 THEN
			RAISE division_by_zero;
		END IF;
	EXCEPTION
		WHEN SQLSTATE 'PT429' THEN
			RETURN refused + 1;
		WHEN division_by_zero THEN
			RETURN refused;
	END;
	RETURN refused;
END $$;
SQL
granted_ok($s, q{SELECT nested('nested', 99)}, 0, 'a hundred nested blocks, some of them taken back');
granted_ok($s, q{SELECT used, granted, refused FROM fl_rate_counters WHERE key = 'nested'}, '100|100|0', 'have spent a hundred');
granted_ok($s, q{SELECT sum(nested('nested', 99)) FROM generate_series(1, 10)}, 1, 'a thousand more: all but nine hundred are too many');
granted_ok($s, q{SELECT used, granted, refused FROM fl_rate_counters WHERE key = 'nested'}, '1000|1000|1',
	'the innermost refusal ends its query, and costs nothing');
ask_ok($s, <<'SQL');
CREATE FUNCTION in_turn(key text, n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	granted int := 0;
	refused int := 0;
BEGIN
	FOR i IN 1 .. n LOOP
		BEGIN
			PERFORM fl_rate_check('user', key, 'large');
			granted := granted + 1;
		EXCEPTION WHEN SQLSTATE 'PT429' THEN
			refused := refused + 1;
		END;
	END LOOP;
	RETURN granted || ' granted, ' || refused || ' refused';
END $$;
SQL
granted_ok($s, q{SELECT in_turn('in turn', 1500)}, '1000 granted, 500 refused', 'one block after the other: each grant and each refusal is told');
granted_ok($s, q{SELECT used, granted, refused FROM fl_rate_counters WHERE key = 'in turn'}, '1000|1000|500', 'and counted');

# ---- parallel queries

# 16 has given the setting another name.
my $force = $node->pg_version >= 16 ? 'debug_parallel_query' : 'force_parallel_mode';
granted_ok($s, q{SELECT string_agg(DISTINCT proname::text, ' ') FROM pg_proc WHERE proname ~ '^fl_rate_(check|try|peek|wait|refund|reset|counter_rows|stats_of|explain)' AND proparallel <> 'u'},
	'', 'whatever looks at counters is PARALLEL UNSAFE');
ask_ok($s, <<"SQL");
CREATE TABLE many AS SELECT i FROM generate_series(1, 50000) AS i;
ALTER TABLE many SET (parallel_workers = 2);
ANALYZE many;
SET $force = on;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SQL
like(ask_ok($s, 'EXPLAIN SELECT count(i) FROM many'), qr/Gather/, 'a query that would run in parallel');
unlike(ask_ok($s, q{EXPLAIN SELECT count(fl_rate_check('user', 'parallel', 'huge')) FROM many}), qr/Gather/, 'does not if it makes requests');
granted_ok($s, q{SELECT count(fl_rate_check('user', 'parallel ' || i % 10, 'huge')) FROM many}, 50000, 'fifty thousand of them');
granted_ok($s, q{SELECT count(*), min(used), max(used) FROM fl_rate_counters WHERE starts_with(key, 'parallel ')}, '10|5000|5000', 'are spent once each');

# A wrapper that claims to be safe is its maker's mistake. Its answer may be an
# error, and must not be a wrong number.
ask_ok($s, q{CREATE FUNCTION wrong(key text) RETURNS bigint LANGUAGE plpgsql PARALLEL SAFE AS $$ BEGIN RETURN fl_rate_check('user', key, 'huge'); END $$});
my ($out, $err) = ask($s, q{SELECT count(wrong('wrong')) FROM many});
is(sqlstate($err) . $out, $err =~ /ERROR/ ? '25000' : '50000', 'a function that is wrongly labelled PARALLEL SAFE: an error, or all are granted');
granted_ok($s, q{SELECT used FROM fl_rate_counters WHERE key = 'wrong'}, 50000, 'and spent') unless $err =~ /ERROR/;
ask_ok($s, "RESET $force; SET max_parallel_workers_per_gather = 0");
granted_ok($s, check('after', 'huge'), 999999, 'the session goes on');
is(spend($s, 5, 'user', 'after parallel', 'small'), 3, 'exactly');
ask_ok($s, 'RESET ALL');

# ---- triggers that recurse

ask_ok($s, <<'SQL');
CREATE TABLE entries (depth int);
CREATE FUNCTION insert_more() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.depth > 0 THEN
		INSERT INTO entries VALUES (NEW.depth - 1);
	END IF;
	RETURN NULL;
END $$;
SELECT fl_rate_define('entries', 'user', 'entries', 10, '1 h');
CREATE TRIGGER limit_entries BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'entries', 'setting:app.key');
CREATE TRIGGER more_entries AFTER INSERT ON entries FOR EACH ROW EXECUTE FUNCTION insert_more();
SET app.key = 'recursion';
SQL
ask_ok($s, 'INSERT INTO entries VALUES (3)');
granted_ok($s, q{SELECT (SELECT count(*) FROM entries), used FROM fl_rate_counters WHERE key = 'recursion'}, '4|4', 'a trigger that inserts into its own table: each INSERT is a request');
refused_ok($s, 'INSERT INTO entries VALUES (1000000)', 'one that would do so without end is stopped by the limit');
granted_ok($s, q{SELECT (SELECT count(*) FROM entries), used, refused FROM fl_rate_counters WHERE key = 'recursion'}, '4|10|1', 'when it is spent; and the rows are gone');
ask_ok($s, q{SET app.key = 'recursion, caught'});
ask_ok($s, q{DO $$ BEGIN INSERT INTO entries VALUES (1000000); EXCEPTION WHEN SQLSTATE 'PT429' THEN NULL; END $$});
granted_ok($s, q{SELECT (SELECT count(*) FROM entries), used, refused FROM fl_rate_counters WHERE key = 'recursion, caught'}, '4|10|1', 'also where the refusal is caught');

# The table of definitions can have one, too: it reads what is being changed.
ask_ok($s, q{SET app.key = 'definitions'});
ask_ok($s, q{CREATE TRIGGER limit_definitions BEFORE INSERT OR UPDATE ON fl_rate_limit FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'entries', 'setting:app.key')});
ask_ok($s, q{UPDATE fl_rate_limit SET max_requests = 2 WHERE name = 'entries'});
ask_ok($s, q{UPDATE fl_rate_limit SET comment = 'second' WHERE name = 'entries'});
refused_ok($s, q{UPDATE fl_rate_limit SET max_requests = 100 WHERE name = 'entries'}, 'a limit on changes of the definitions holds for itself');
ask_ok($s, 'DROP TRIGGER limit_definitions ON fl_rate_limit');

# ---- two-phase commit

ask_ok($s, 'BEGIN');
granted_ok($s, q{SELECT fl_rate_wait('user', 'prepared', 'turn') < '1 s'}, 't', 'a wait that needs no sleep');
granted_ok($s, q{SELECT fl_rate_wait('user', 'prepared', 'turn') > '0'}, 't', 'and one that sleeps');
granted_ok($s, check('prepared', 'small'), 2, 'and a check');
ask_ok($s, q{PREPARE TRANSACTION 'waited'});
granted_ok($other, q{SELECT granted FROM fl_rate_counters WHERE name = 'turn'}, 2, 'PREPARE TRANSACTION after fl_rate_wait: both are spent');
granted_ok($other, 'SELECT waiters FROM fl_rate_store', 0, 'nobody sleeps');

ask_ok($s, 'BEGIN');
ask_ok($s, q{SELECT fl_rate_define('small', 'user', 'small', 5, '1 h')});
granted_ok($s, check('prepared', 'small'), 3, 'a change of the definitions, and a check by it');
ask_ok($s, q{PREPARE TRANSACTION 'changed'});
granted_ok($s, q{SELECT max_requests FROM fl_rate_peek('user', 'prepared', 'small')}, 3, 'PREPARE TRANSACTION: it has no effect yet');

# a prepared transaction survives a restart, also one by a crash
$_->quit foreach ($s, $other);
$node->stop('immediate');
$node->start;
$s = session($node);
$other = session($node);
granted_ok($s, check('prepared', 'small'), 2, 'after a crash: counters start afresh, and the change has no effect yet');
granted_ok($other, check('prepared', 'small'), 1, 'for nobody');
ask_ok($s, q{COMMIT PREPARED 'changed'; COMMIT PREPARED 'waited'});
granted_ok($s, check('prepared', 'small'), 2, 'COMMIT PREPARED: it takes effect');
granted_ok($other, check('prepared', 'small'), 1, 'in every session');
ask_ok($s, q{BEGIN; SELECT fl_rate_undefine('small'); PREPARE TRANSACTION 'undefined'});
granted_ok($other, check('prepared', 'small'), 0, 'a deletion that is prepared');
ask_ok($s, q{ROLLBACK PREPARED 'undefined'});
refused_ok($_, check('prepared', 'small'), 'has none after ROLLBACK PREPARED') foreach ($s, $other);

$_->quit foreach ($s, $other);
crashed_ok($node, 0, 'no backend has crashed');
$node->stop;
done_testing();
