
# What a transaction cannot do, it cannot do to a counter: read-only
# transactions, ROLLBACK, savepoints, errors, two-phase commit; and no WAL

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', conf => 'max_prepared_transactions = 2');
my $check = q{SELECT fl_rate_check('user', '%s', 'small')};

sub check { return sprintf($check, $_[0]); }

$node->safe_psql('postgres', q{SELECT fl_rate_define('small', 'user', 'small', 3, '1 h')});
my $session = session($node);

# Read-only transactions. A new session: nothing may have been prepared by a
# transaction that can write.
ask_ok($session, 'BEGIN READ ONLY');
granted_ok($session, check('readonly'), 2, 'a check works in a read-only transaction');
granted_ok($session, q{SELECT remaining FROM fl_rate_try('user', 'readonly', 'small')},
	1, 'fl_rate_try works in a read-only transaction');
granted_ok($session, q{SELECT fl_rate_refund('user', 'readonly', 'small')},
	2, 'fl_rate_refund works in a read-only transaction');
granted_ok($session,
	q{SELECT fl_rate_wait('user', 'readonly', 'small') < '1 s'},
	't', 'fl_rate_wait works in a read-only transaction');
granted_ok($session, q{SELECT fl_rate_reset('user', 'readonly', 'small')},
	1, 'fl_rate_reset works in a read-only transaction');
ask_ok($session, 'ROLLBACK');

ask_ok($session, 'SET default_transaction_read_only = on');
granted_ok($session, check('readonly'), 2,
	'a check works with default_transaction_read_only');
ask_ok($session, 'RESET default_transaction_read_only');

ask_ok($session, 'BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE');
granted_ok($session, check('readonly'), 1,
	'a check works in a SERIALIZABLE READ ONLY DEFERRABLE transaction');
ask_ok($session, 'COMMIT');

# ROLLBACK
ask_ok($session, 'BEGIN');
ask_ok($session, check('rollback')) foreach 1 .. 2;
ask_ok($session, 'ROLLBACK');
granted_ok($session, check('rollback'), 0, 'ROLLBACK does not give quota back');

# Savepoints
ask_ok($session, 'BEGIN');
ask_ok($session, 'SAVEPOINT s');
ask_ok($session, check('savepoint'));
ask_ok($session, 'ROLLBACK TO s');
granted_ok($session, check('savepoint'), 1,
	'ROLLBACK TO SAVEPOINT does not give quota back');
ask_ok($session, 'RELEASE s');
ask_ok($session, 'COMMIT');
granted_ok($session, check('savepoint'), 0, 'and COMMIT spends nothing');

# Errors
my (undef, $err) = ask($session,
	q{SELECT 1 / (fl_rate_check('user', 'error', 'small') - 2)});
is(sqlstate($err), '22012', 'a statement fails after a grant');
granted_ok($session, check('error'), 1, 'an error after a grant keeps the spending');

ask_ok($session, check('refused')) foreach 1 .. 3;
ask_ok($session, 'BEGIN');
refused_ok($session, check('refused'), 'a refusal is an error');
(undef, $err) = ask($session, 'SELECT 1');
is(sqlstate($err), '25P02', 'that aborts the transaction');
ask_ok($session, 'ROLLBACK');
granted_ok($session,
	q{SELECT refused FROM fl_rate_counters WHERE key = 'refused'},
	1, q{and its ERROR does not undo what it recorded});
granted_ok($session,
	q{SELECT refused FROM fl_rate_stats WHERE name = 'small'},
	1, 'in the statistics too');
granted_ok($session,
	q{SELECT used FROM fl_rate_counters WHERE key = 'refused'},
	3, 'a refusal costs nothing');

# A refusal that is caught
ask_ok($session, <<'SQL');
CREATE FUNCTION politely(key text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	name text;
BEGIN
	RETURN 'granted ' || fl_rate_check('user', key, 'small');
EXCEPTION WHEN SQLSTATE 'PT429' THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, name = CONSTRAINT_NAME;
	RETURN 'refused by ' || name || ': '
	       || array_to_string(ARRAY(SELECT json_object_keys(detail::json)), ',');
END $$
SQL
ask_ok($session, q{CREATE TABLE kept (answer text)});
ask_ok($session, 'BEGIN');
ask_ok($session, q{INSERT INTO kept SELECT politely('caught') FROM generate_series(1, 5)});
ask_ok($session, 'COMMIT');
is( ask_ok($session, 'SELECT * FROM kept'),
	"granted 2\ngranted 1\ngranted 0\n"
	  . "refused by small: message,referenceUrl,nextValidRequestDate\n"
	  . 'refused by small: message,referenceUrl,nextValidRequestDate',
	'an EXCEPTION block catches a refusal, and the transaction goes on');

# Two-phase commit
ask_ok($session, 'BEGIN');
ask_ok($session, check('prepared'));
ask_ok($session, q{PREPARE TRANSACTION 'one'});
granted_ok($session, check('prepared'), 1, 'a prepared transaction has spent');
ask_ok($session, q{ROLLBACK PREPARED 'one'});
granted_ok($session, check('prepared'), 0, 'ROLLBACK PREPARED gives nothing back');

ask_ok($session, 'BEGIN');
ask_ok($session, q{SELECT fl_rate_define('small', 'user', 'small', 4, '1 h')});
ask_ok($session, q{PREPARE TRANSACTION 'two'});
refused_ok($session, check('prepared'),
	'a definition in a prepared transaction has no effect');
ask_ok($session, q{COMMIT PREPARED 'two'});
granted_ok($session, check('prepared'), 0, 'until COMMIT PREPARED');

# No WAL, no table written. Another session's WAL would be counted as well:
# there is none, with autovacuum off and no checkpoint due.
my $counts = <<'SQL';
SELECT pg_current_wal_insert_lsn(),
       (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_all_tables)
SQL
my $reader = session($node);
ask_ok($reader, check('wal'));
$node->safe_psql('postgres', 'CHECKPOINT');

# The server may write WAL of its own at any time (pruning, hint bits, a
# standby snapshot), a check that wrote some would do so every time.
my $silent = 0;
for my $attempt (1 .. 10)
{
	my $before = $node->safe_psql('postgres', $counts);
	ask_ok($reader, 'BEGIN READ ONLY');
	ask_ok($reader, qq{SELECT fl_rate_try('user', '$attempt-' || i, 'small') FROM generate_series(1, 1000) AS i});
	ask_ok($reader, q{SELECT fl_rate_peek('user', 'wal', 'data-sources'), fl_rate_refund('user', 'wal', 'small')});
	refused_ok($reader, q{SELECT fl_rate_check('user', 'wal', 'small', 5)}, 'a refusal');
	ask_ok($reader, 'ROLLBACK');
	granted_ok($reader, qq{SELECT count(*) FROM fl_rate_counters WHERE key ~ '^$attempt-\\d+\$' AND used = 1},
		1000, 'a thousand checks have spent');
	$silent = $node->safe_psql('postgres', $counts) eq $before;
	last if $silent;
}
$reader->quit;
ok($silent, 'and written no WAL and no table');

$session->quit;
$node->stop;
done_testing();
