
# Hot standby: checks, definitions that arrive by replay, locks, promotion

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_node('primary', allows_streaming => 1);
$primary->safe_psql('postgres',
	q{SELECT fl_rate_define('small', 'user', 'small', 3, '1 h')});
$primary->backup('backup');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby);

sub replay
{
	# What an open transaction has logged is not flushed by itself.
	$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
	$primary->wait_for_catchup($standby);
	return;
}

# Nobody has made a request on the primary so far.
my $reader = session($standby);
is( ask_ok($reader, q{SELECT pg_is_in_recovery()}), 't', 'a standby');
granted_ok($reader, q{SELECT fl_rate_check('user', '1', 'small')},
	2, 'a check works on a standby whose primary has never made one');
granted_ok($reader, q{SELECT fl_rate_check('user', '1', 'data-sources')},
	199, 'the shipped limits work there');
is(spend($reader, 5, 'user', '1', 'small'), 2, 'and refuse there');
refused_ok($reader, q{SELECT fl_rate_check('user', '1', 'small')},
	'with the same error');
granted_ok($reader, q{SELECT used, refused FROM fl_rate_counters WHERE name = 'small'},
	'3|4', 'the views work there');
granted_ok($reader, q{SELECT fl_rate_reset('user', '1', 'small')}, 1, 'and resets');
granted_ok($reader, q{SELECT fl_rate_check('user', '1', 'small')}, 2, 'which clear');

is( $primary->safe_psql('postgres', q{SELECT fl_rate_check('user', '1', 'small')}),
	2, 'a standby has counters of its own');
is( $primary->safe_psql('postgres', 'SELECT * FROM fl_rate_secret'),
	$standby->safe_psql('postgres', 'SELECT * FROM fl_rate_secret'),
	'but the secret of its primary');

# Definitions by replay: into an idle session, and into an open transaction
# that keeps its snapshot
my $repeatable = session($standby);
ask_ok($repeatable, 'BEGIN ISOLATION LEVEL REPEATABLE READ');
granted_ok($repeatable,
	q{SELECT max_requests FROM fl_rate_peek('user', '2', 'small')}, 3, 'before');
my $writer = session($primary);
ask_ok($writer, 'BEGIN');
ask_ok($writer, q{SELECT fl_rate_define('small', 'user', 'small', 7, '1 h')});
replay();
granted_ok($reader,
	q{SELECT max_requests FROM fl_rate_peek('user', '2', 'small')},
	3, 'a change that has not committed on the primary has no effect on the standby');
ask_ok($writer, 'COMMIT');
replay();
granted_ok($reader,
	q{SELECT max_requests FROM fl_rate_peek('user', '2', 'small')},
	7, 'a committed change reaches an open session on the standby');
granted_ok($repeatable,
	q{SELECT max_requests FROM fl_rate_peek('user', '2', 'small')},
	7, 'also one within a REPEATABLE READ transaction');
granted_ok($repeatable,
	q{SELECT max_requests FROM fl_rate_limit WHERE name = 'small'},
	3, 'which still sees the old row');

# A new row, one for a key, a deleted one
$primary->safe_psql('postgres', <<'SQL');
SELECT fl_rate_define('small', 'user', 'small', 11, '1 h', key => '2'),
       fl_rate_define('more', 'user', 'small', 1, '1 h');
SQL
replay();
granted_ok($repeatable,
	q{SELECT name, max_requests FROM fl_rate_peek('user', '2', 'small')},
	'more|1', 'a new limit reaches the standby');
$primary->safe_psql('postgres', q{DELETE FROM fl_rate_limit WHERE name = 'more'});
replay();
granted_ok($repeatable,
	q{SELECT name, max_requests FROM fl_rate_peek('user', '2', 'small')},
	'small|11', 'a deleted one goes there too, and a row for one key counts');
my (undef, $err) = ask($repeatable, q{SELECT fl_rate_check('user', '2', 'smal')});
is(sqlstate($err), '42704', 'an unknown API is an error there');
ask_ok($repeatable, 'ROLLBACK');

# A lock on the definitions that is replayed
ask_ok($repeatable, 'BEGIN ISOLATION LEVEL REPEATABLE READ');
ask_ok($repeatable, q{SELECT fl_rate_check('user', '3', 'small')});
ask_ok($reader, q{SELECT fl_rate_check('user', '3', 'small')});
my $prober = session($primary);
ask_ok($prober, q{SELECT fl_rate_check('user', '3', 'small')});
ask_ok($writer, 'BEGIN');
ask_ok($writer, 'LOCK TABLE fl_rate_limit IN ACCESS EXCLUSIVE MODE');
replay();
is( $standby->safe_psql('postgres', <<'SQL'),
SELECT count(*) FROM pg_locks
WHERE relation = 'fl_rate_limit'::regclass AND mode = 'AccessExclusiveLock' AND granted
SQL
	1, 'a lock on the definitions is replayed');
ask_ok($_, q{SET statement_timeout = '60 s'}) foreach ($reader, $prober);
granted_ok($reader, q{SELECT fl_rate_check('user', '3', 'small')},
	4, 'a session with a copy answers on the standby meanwhile');
granted_ok($repeatable, q{SELECT fl_rate_check('user', '3', 'small')},
	3, 'one in an open transaction too');
granted_ok($reader, q{SELECT allowed, max_requests FROM fl_rate_try('user', '333', 'small')},
	't|7', 'and for a key that it has not seen yet');
granted_ok($prober, q{SELECT fl_rate_check('user', '3', 'small')},
	5, 'a session with a copy answers on the primary meanwhile');
ask_ok($writer, 'ALTER TABLE fl_rate_limit SET (fillfactor = 90)');
ask_ok($writer, q{UPDATE fl_rate_limit SET max_requests = 20 WHERE name = 'small' AND key IS NULL});
replay();
granted_ok($reader, q{SELECT max_requests FROM fl_rate_peek('user', '3', 'small')},
	7, 'with the definitions as they were');
ask_ok($writer, 'COMMIT');
replay();
granted_ok($reader, q{SELECT max_requests FROM fl_rate_peek('user', '3', 'small')},
	20, 'until the lock is gone');
granted_ok($repeatable, q{SELECT max_requests FROM fl_rate_peek('user', '3', 'small')},
	20, 'in the open transaction too');
granted_ok($prober, q{SELECT max_requests FROM fl_rate_peek('user', '3', 'small')},
	20, 'and on the primary');
ask_ok($repeatable, 'COMMIT');

# A change that these sessions have not looked at yet, and then the lock: they
# know that their copy is old, and must not wait for a new one.
ask_ok($writer, q{UPDATE fl_rate_limit SET max_requests = 21 WHERE name = 'small' AND key IS NULL});
ask_ok($writer, 'BEGIN');
ask_ok($writer, 'LOCK TABLE fl_rate_limit IN ACCESS EXCLUSIVE MODE');
replay();
foreach ([ $reader, 'on the standby' ], [ $prober, 'on the primary' ])
{
	my ($session, $where) = @$_;

	granted_ok($session, q{SELECT max_requests FROM fl_rate_peek('user', '3', 'small')},
		20, "a session with an old copy does not wait for the lock $where");
	granted_ok($session, q{SELECT allowed FROM fl_rate_try('user', '3', 'small')},
		't', "and spends $where");
}
ask_ok($writer, 'COMMIT');
replay();
granted_ok($_, q{SELECT max_requests FROM fl_rate_peek('user', '3', 'small')},
	21, 'it reads the change as soon as it can')
  foreach ($reader, $prober);

# The table itself is exchanged in an open transaction. Who has a copy goes on
# with it, who has none has to wait.
foreach (
	[ 'ALTER TABLE', 'ALTER TABLE fl_rate_limit ALTER COLUMN max_requests TYPE bigint USING max_requests + 1', 22 ],
	[ 'TRUNCATE', 'SET LOCAL session_replication_role = replica; TRUNCATE fl_rate_limit', undef ])
{
	my ($what, $command, $after) = @$_;
	my @sessions = ([ $reader, "$what on the standby" ], [ $prober, "$what on the primary" ]);
	my $before = ask_ok($prober, q{SELECT max_requests FROM fl_rate_peek('user', '5', 'small')});

	ask_ok($writer, "BEGIN; $command");
	replay();
	foreach (@sessions)
	{
		my ($session, $where) = @$_;

		granted_ok($session, q{SELECT allowed, max_requests FROM fl_rate_try('user', '5', 'small')},
			"t|$before", "$where: a session with a copy answers");
		granted_ok($session, q{SELECT allowed, max_requests FROM fl_rate_try('user', 'not seen yet', 'small')},
			"t|$before", "$where: also for another key");
	}
	foreach ([ $primary, 'primary' ], [ $standby, 'standby' ])
	{
		my $fresh = session($_->[0]);

		ask_ok($fresh, q{SET lock_timeout = '100ms'});
		my (undef, $error) = ask($fresh, q{SELECT fl_rate_check('user', '5', 'small')});
		is(sqlstate($error), '55P03', "$what: a session without a copy waits on the $_->[1]");
		$fresh->quit;
	}
	ask_ok($writer, 'ROLLBACK');
	replay();
	granted_ok($_->[0], q{SELECT max_requests FROM fl_rate_peek('user', '5', 'small')}, $before,
		"$_->[1]: rolled back, nothing has changed")
	  foreach @sessions;

	ask_ok($writer, "BEGIN; $command");
	replay();
	granted_ok($_->[0], q{SELECT max_requests FROM fl_rate_peek('user', '5', 'small')}, $before,
		"$_->[1]: once more")
	  foreach @sessions;
	ask_ok($writer, 'COMMIT');
	replay();
	foreach (@sessions)
	{
		my ($session, $where) = @$_;

		if (defined $after)
		{
			granted_ok($session, q{SELECT max_requests FROM fl_rate_peek('user', '5', 'small')}, $after,
				"$where: it counts when it commits");
			next;
		}
		my (undef, $error) = ask($session, q{SELECT fl_rate_check('user', '5', 'small')});
		is(sqlstate($error), '42704', "$where: it counts when it commits: the limit is gone");
		granted_ok($session, q{SELECT max_requests FROM fl_rate_peek('user', '5', 'data-sources')}, 200,
			"$where: the shipped ones are there");
	}
}
ask_ok($writer, q{SELECT fl_rate_define('small', 'user', 'small', 21, '1 h')});
replay();

# Promotion
ask_ok($reader, q{SELECT fl_rate_check('user', '4', 'small')});
$primary->stop;
$standby->promote;
granted_ok($reader, q{SELECT fl_rate_check('user', '4', 'small')},
	19, 'promotion keeps the counters and the sessions');
$standby->safe_psql('postgres',
	q{SELECT fl_rate_define('small', 'user', 'small', 30, '1 h')});
granted_ok($reader, q{SELECT fl_rate_check('user', '4', 'small')},
	27, 'and definitions can be changed then');
is( $standby->safe_psql('postgres', q{SELECT fl_rate_check('user', '4', 'small')}),
	26, 'for new sessions too');

$_->quit foreach ($reader, $repeatable);
$standby->stop;
done_testing();
