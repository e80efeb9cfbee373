
# Counters of long windows survive restarts, crashes and promotion

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('keep', allows_streaming => 1, conf => <<EOC);
restart_after_crash = on
max_prepared_transactions = 2
EOC

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub remaining { return sql("SELECT remaining FROM fl_rate_peek('user', '$_[0]', '$_[1]')") }

sql(q{SELECT fl_rate_define('hourly', 'user', 'hourly', 10, '1 h'),
	fl_rate_define('bucket', 'user', 'bucket', 1000, '1000 h', algorithm => 'token_bucket'),
	fl_rate_define('monthly', 'user', 'monthly', 10, '1 month', algorithm => 'fixed_window'),
	fl_rate_define('shadow', 'user', 'shadow', 10, '1 h', on_limit => 'count'),
	fl_rate_define('many', 'user', 'many', 100000, '1 h'),
	fl_rate_define('brief', 'user', 'brief', 10, '10 s')});
sql(qq{SELECT fl_rate_check('user', 'u', '$_', 3)}) foreach qw(hourly bucket monthly shadow brief);

# A long record, with runs in blocks of their own, and costs beyond 32 bits
sql(q{SELECT count(fl_rate_check('user', 'u', 'many', 1 + i % 3)) FROM generate_series(1, 3000) AS i});
sql(q{SELECT fl_rate_define('large', 'user', 'large', 9000000000000000000, '1 h')});
sql(q{SELECT fl_rate_check('user', 'u', 'large', 5000000000000000000)});

# ------------------------------------------------ nothing is saved before the commit

my $session = session($node);
ask_ok($session, 'BEGIN');
granted_ok($session, 'SELECT fl_rate_maintain()', 6, 'six counters are to be saved');
ask_ok($session, 'ROLLBACK');
is(sql('SELECT count(*) FROM fl_rate_saved'), 0, 'a rollback leaves none');
granted_ok($session, 'SELECT fl_rate_maintain()', 6, 'and they are saved the next time');
granted_ok($session, 'SELECT fl_rate_maintain()', 0, 'after a commit they are not');
is(sql('SELECT count(*) FROM fl_rate_saved'), 6, 'and are there');
sql(q{SELECT fl_rate_check('user', 'u', 'hourly')});
ask_ok($session, 'BEGIN');
ask_ok($session, 'SAVEPOINT s');
granted_ok($session, 'SELECT fl_rate_maintain()', 1, 'one has changed');
ask_ok($session, 'ROLLBACK TO s');
ask_ok($session, 'COMMIT');
granted_ok($session, 'SELECT fl_rate_maintain()', 1, 'rolling back to a savepoint does not count as saved');
sql(q{SELECT fl_rate_check('user', 'u', 'hourly')});
ask_ok($session, 'BEGIN');
ask_ok($session, 'SAVEPOINT s');
ask_ok($session, 'SELECT fl_rate_maintain()');
ask_ok($session, 'RELEASE s');

# what is spent between the saving and the commit
sql(q{SELECT fl_rate_check('user', 'u', 'bucket')});
start_query($session, 'COMMIT');
finish_query($session);
granted_ok($session, 'SELECT fl_rate_maintain()', 1, 'a change before the commit is saved the next time');
sql(q{SELECT fl_rate_check('user', 'u', 'hourly')});
my ($out, $err) = ask($session,
	"BEGIN; SELECT fl_rate_maintain(); PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p'");
granted_ok($session, 'SELECT fl_rate_maintain()', 1, 'a prepared transaction that is rolled back saved nothing');

# One at a time
ask_ok($session, 'BEGIN');
ask_ok($session, 'SELECT fl_rate_maintain()');
my $second = session($node);
ask_ok($second, "SET statement_timeout = '200ms'");
($out, $err) = ask($second, 'SELECT fl_rate_maintain()');
is(sqlstate($err), '57014', 'a second maintenance waits for the first, interruptibly');
($out, $err) = ask($second, q{SELECT fl_rate_check('user', 'v', 'hourly')});
is($out, 9, 'a check does not');
ask_ok($session, 'COMMIT');
ask_ok($second, 'SET statement_timeout = 0');
granted_ok($second, 'SELECT fl_rate_maintain()', 1, 'and then it gets its turn');

# ------------------------------------------------ restarts

my %left = map { $_ => remaining('u', $_) } qw(hourly bucket monthly many large);
is($left{hourly}, 4, 'what is left of the hourly limit');
my $next_valid = sql(q{SELECT next_valid_at FROM fl_rate_try('user', 'u', 'hourly', 5)});

sub as_before
{
	my ($how) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $api (sort keys %left)
	{
		is(remaining('u', $api), $left{$api}, "$how: $api is as it was");
	}
	is(remaining('v', 'hourly'), 9, "$how: another key too");
	is(remaining('u', 'brief'), 10, "$how: ten seconds do not pretend to be kept");
	is(sql(q{SELECT allowed FROM fl_rate_try('user', 'u', 'hourly', 5)}), 'f', "$how: a quota is still used up");
	return;
}

$node->restart;
granted_ok(session($node), q{BEGIN READ ONLY; SELECT remaining FROM fl_rate_peek('user', 'u', 'hourly'); COMMIT},
	4, 'the first request after a restart may be a read-only one');
as_before('restart');
is(sql(qq{SELECT next_valid_at - '$next_valid' BETWEEN '-1 s' AND '1 s' FROM fl_rate_peek('user', 'u', 'hourly', 5)}),
	't', 'restart: the date of the next valid request is the same');
is(sql(q{SELECT granted || ' ' || refused FROM fl_rate_counters WHERE name = 'hourly' AND key = 'u'}),
	'4 1', 'restart: what was counted as well');
is(sql(q{SELECT used FROM fl_rate_counters WHERE name = 'shadow'}), 3, 'restart: a shadow too');
is(sql('SELECT fl_rate_maintain()'), 0, 'what was restored is not saved again');
is(sql(q{SELECT sum(granted) FROM fl_rate_history WHERE name = 'many'}), 3000, 'nor counted again by the history');

sql(q{SELECT fl_rate_check('user', 'u', 'hourly')});
sql('SELECT fl_rate_maintain()');
$left{hourly} = 3;
sql(q{SELECT fl_rate_check('user', 'u', 'hourly')});
$node->stop('immediate');
$node->start;
as_before('pg_ctl stop -m immediate, what came after the last maintenance aside');

my $victim = session($node);
my $pid = ask_ok($victim, 'SELECT pg_backend_pid()');
sql(q{SELECT fl_rate_check('user', 'u', 'hourly')});
kill 'KILL', $pid;
ok(wait_until(sub { !kill(0, $pid) }) && wait_for_server($node),
	'a backend was killed, and the server has started over');
as_before('kill -9 of a backend');

# What was erased does not come back
sql(q{SELECT fl_rate_reset('user', 'v', 'hourly')});
sql(q{SELECT fl_rate_forget('user', 'u')});
$node->stop('immediate');
$node->start;
is(remaining('v', 'hourly'), 10, 'what was reset does not come back');
is(remaining('u', 'hourly'), 10, 'nor what was forgotten');

# A reset in a read-only transaction reaches the saved copy with the next maintenance
sql(q{SELECT fl_rate_check('user', 'w', 'hourly')});
sql('SELECT fl_rate_maintain()');
sql(q{BEGIN READ ONLY; SELECT fl_rate_reset('user', 'w', 'hourly'); COMMIT});
sql('SELECT fl_rate_sweep()');
is(sql('SELECT count(*) FROM fl_rate_saved'), 1, 'a reset that may not write');
sql('SELECT fl_rate_maintain()');
is(sql('SELECT count(*) FROM fl_rate_saved'), 0, 'is made good by maintenance');

# What was saved after a transaction's snapshot was taken is forgotten nevertheless
my $repeatable = session($node);
ask_ok($repeatable, 'BEGIN ISOLATION LEVEL REPEATABLE READ');
ask_ok($repeatable, 'SELECT count(*) FROM fl_rate_saved');
sql(q{SELECT fl_rate_check('user', 'x', 'hourly')});
sql('SELECT fl_rate_maintain()');
granted_ok($repeatable, q{SELECT fl_rate_forget('user', 'x')}, 1, 'forgetting in a REPEATABLE READ transaction');
ask_ok($repeatable, 'COMMIT');
is(sql(q{SELECT count(*) FROM fl_rate_saved WHERE key = 'x'}), 0, 'erases what was saved after its snapshot');

# A reset never waits for a row that another transaction has locked
sql(q{SELECT fl_rate_check('user', i, 'hourly') FROM unnest('{y,z}'::text[]) AS i});
sql('SELECT fl_rate_maintain()');
ask_ok($repeatable, 'BEGIN');
granted_ok($repeatable, q{SELECT fl_rate_reset('user', 'y', 'hourly')}, 1, 'a reset in an open transaction');
is(sql(q{SET statement_timeout = '10s'; SELECT fl_rate_reset('user', 'y', 'hourly') + fl_rate_reset('user', 'z', 'hourly')}), 1, 'holds up no other one');
ask_ok($repeatable, 'ROLLBACK');
is(sql(q{SELECT string_agg(key, ' ') FROM fl_rate_saved}), 'y', 'what a rollback brought back');
sql('SELECT fl_rate_maintain()');
is(sql(q{SELECT count(*) FROM fl_rate_saved}), 0, 'goes with the next maintenance');

# ------------------------------------------------ the first request, and those that wait for it

sql(q{SELECT fl_rate_check('user', i::text, 'hourly', 6) FROM generate_series(1, 2000) AS i});
is(sql('SELECT fl_rate_maintain()'), 2000, 'two thousand counters');
$node->restart;
my $holder = session($node);
my $first = session($node);
my $other = session($node);
ask_ok($holder, 'BEGIN');
ask_ok($holder, 'LOCK TABLE fl_rate_saved');
ask_ok($other, 'LOAD \'fliplet_ratelimit\'');
start_query($first, q{SELECT remaining FROM fl_rate_try('user', '1', 'hourly')});
ok(wait_until(sub { sql(q{SELECT count(*) FROM pg_locks WHERE NOT granted}) == 1 }),
	'the first request after a restart waits for the saved counters');
ask_ok($other, "SET statement_timeout = '200ms'");
($out, $err) = ask($other, q{SELECT fl_rate_check('user', '2', 'hourly')});
is(sqlstate($err), '57014', 'another one waits for the first, interruptibly');
ask_ok($other, 'SET statement_timeout = 0');
start_query($other, q{SELECT remaining FROM fl_rate_try('user', '2', 'hourly')});
ok(wait_until(sub { sql(q{SELECT count(*) FROM pg_locks WHERE NOT granted}) == 2 }), 'again');
sql(q{SELECT pg_cancel_backend(pid) FROM pg_locks WHERE NOT granted AND locktype = 'relation'});
($out, $err) = finish_query($first);
is(sqlstate($err), '57014', 'the first one is cancelled');
ok(wait_until(sub { sql(q{SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'}) == 1 }),
	'and another one takes over');
ask_ok($holder, 'COMMIT');
($out, $err) = finish_query($other);
is($out, 3, 'finds its counter');
is(sql(q{SELECT count(*) FROM fl_rate_counters WHERE used >= 6}), 2000, 'and all the others are there');

# ------------------------------------------------ limits for single keys only, too many to be copied

sql(q{SELECT fl_rate_define('single', 'user', 'single', 10, '1 h', key => i::text) FROM generate_series(1, 300) AS i});
sql(q{SELECT fl_rate_check('user', i::text, 'single', 4) FROM generate_series(1, 300) AS i});
is(sql('SELECT fl_rate_maintain()'), 301, 'counters of limits for single keys are saved');
sql(q{SELECT fl_rate_undefine('single', key => '300')});
$node->restart;
is(sql(q{SELECT count(*) FILTER (WHERE (fl_rate_peek('user', i::text, 'single')).remaining = 6) FROM generate_series(1, 299) AS i}),
	299, 'and restored');
is(sql(q{SELECT count(*) FROM fl_rate_counters WHERE name = 'single'}), 300, 'all that share a name, whatever became of a row');
sql(q{SELECT fl_rate_undefine('single', key => i::text) FROM generate_series(1, 299) AS i});

# ------------------------------------------------ rows that are no counters

sql(q{UPDATE fl_rate_saved SET record = substr(record, 1, 9) WHERE key = '7'});
sql(q{UPDATE fl_rate_saved SET record = record || '\x00' WHERE key = '8'});
sql(q{UPDATE fl_rate_saved SET record = '' WHERE key = '9'});
sql(q{UPDATE fl_rate_saved SET key = repeat('x', 100) WHERE key = '10'});
$node->restart;
my ($stdout, $stderr) = ('', '');
$node->psql('postgres', q{SELECT remaining FROM fl_rate_peek('user', '11', 'hourly')},
	stdout => \$stdout, stderr => \$stderr);
is($stdout, 4, 'bad rows do not keep good ones from being restored');
is(() = $stderr =~ /WARNING:  a row of table "fl_rate_saved" is not a saved counter/g, 4, 'each is told of');
is(sql(q{SELECT count(*) FROM fl_rate_counters}), 1996, 'and ignored');
sql('SELECT fl_rate_reset_all()');

# ------------------------------------------------ counters that belong nowhere any more

sql('CREATE DATABASE gone');
$node->safe_psql('gone', 'CREATE EXTENSION fliplet_ratelimit');
$node->safe_psql('gone', q{SELECT fl_rate_check('user', i::text, 'communicate') FROM generate_series(1, 50) AS i});
is(sql('SELECT fl_rate_sweep()'), 0, 'counters of another database stay');
sql('DROP DATABASE gone');
is(sql('SELECT fl_rate_sweep()'), 50, 'those of a dropped one go');
sql('CREATE DATABASE anew');
$node->safe_psql('anew', 'CREATE EXTENSION fliplet_ratelimit');
$node->safe_psql('anew', q{SELECT fl_rate_check('user', i::text, 'communicate') FROM generate_series(1, 50) AS i});
$node->safe_psql('anew', 'DROP EXTENSION fliplet_ratelimit; CREATE EXTENSION fliplet_ratelimit');
is($node->safe_psql('anew', q{SELECT fl_rate_check('user', '1', 'communicate')}), 19, 'a recreated extension begins anew');
is($node->safe_psql('anew', 'SELECT fl_rate_sweep()'), 50, 'and what it counted before goes');

# ------------------------------------------------ a bucket that nothing drains any more

sql('SELECT fl_rate_reset_all()');
sql(q{SELECT fl_rate_check('user', 'blocked', 'bucket', 500)});
sql(q{UPDATE fl_rate_limit SET max_requests = 0, burst = NULL WHERE name = 'bucket'});
is(sql(q{SELECT reason FROM fl_rate_try('user', 'blocked', 'bucket')}), 'blocked', 'a limit that allows nothing');
sql('SELECT fl_rate_maintain()');
my $expires = q{SELECT key, expires_at BETWEEN now() + interval '100 h' AND now() + interval '1001 h' FROM fl_rate_saved};
is(sql($expires), 'blocked|t', 'what was spent before is saved until it would have drained');
$node->restart;
sql('SELECT fl_rate_sweep()');
is(sql(q{SELECT used FROM fl_rate_counters}), 500, 'and is there after a restart');
sql(q{SELECT fl_rate_refund('user', 'blocked', 'bucket', 100)});
is(sql('SELECT fl_rate_maintain()'), 1, 'it is saved again when it changes');
is(sql($expires), 'blocked|t', 'and still not for ever');
sql(q{UPDATE fl_rate_limit SET max_requests = 1000 WHERE name = 'bucket'});

# ------------------------------------------------ variants that do not look back equally far

sql('SELECT fl_rate_reset_all()');
sql(q{SELECT fl_rate_define('shared', 'user', 'shared', 100, '1 s'), fl_rate_define('shared', 'user', 'shared', 1000, '1 day', plan => 'pro'),
	fl_rate_define('calendar', 'user', 'calendar', 100, '1 s', algorithm => 'fixed_window'),
	fl_rate_define('calendar', 'user', 'calendar', 1000, '10000 days', plan => 'pro', algorithm => 'fixed_window'),
	fl_rate_define('shared', 'user', 'shared', 100, '1 s', key => 'keyed')});
foreach my $key (qw(u keyed))
{
	sql(qq{SELECT fl_rate_check('user', '$key', 'shared', 90), fl_rate_check('user', '$key', 'calendar', 90), pg_sleep(1.1)});
	sql(qq{SELECT fl_rate_check('user', '$key', 'shared'), fl_rate_check('user', '$key', 'calendar')});
}
my $used = q{SELECT string_agg(remaining::text, ' ') FROM unnest('{shared,calendar}'::text[]) AS api, fl_rate_peek('user', '%s', api, 1, 'pro')};
is(sql(sprintf($used, 'u')), '909 909', 'the longer one has all of it');
sql('SELECT fl_rate_maintain()');
$node->restart;
is(sql(sprintf($used, 'u')), '909 909', 'after a restart too, when the shorter one has spent last');
sql(q{DELETE FROM fl_rate_limit WHERE key = 'keyed'});
is(sql(sprintf($used, 'keyed')), '909 909', 'or the row of the key');

# ------------------------------------------------ promotion

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
sql(q{SELECT fl_rate_check('user', 'p', 'hourly', 6)});
sql('SELECT fl_rate_maintain()');
sql(q{SELECT fl_rate_check('user', 'q', 'hourly', 2)});
$node->wait_for_catchup($standby);
my $open = session($standby);
granted_ok($open, q{SELECT remaining FROM fl_rate_peek('user', 'p', 'hourly')}, 4,
	'a standby reads what its primary has saved');
granted_ok($open, q{SELECT remaining FROM fl_rate_try('user', 'p', 'hourly', 1)}, 3, 'and goes on from there');
granted_ok($open, q{SELECT remaining FROM fl_rate_try('user', 'q', 'hourly', 1)}, 9, 'what is saved after that');
($out, $err) = ask($open, 'SELECT fl_rate_maintain()');
is(sqlstate($err), '25006', 'maintenance is for servers that can write');
sql(q{SELECT fl_rate_check('user', 'p', 'hourly', 3)});
sql('SELECT fl_rate_maintain()');
sql(q{SELECT fl_rate_check('user', 'p', 'hourly', 1)});
$node->wait_for_catchup($standby);
$node->stop('immediate');
$standby->promote;
granted_ok($open, q{SELECT remaining FROM fl_rate_peek('user', 'q', 'hourly')}, 8,
	'is read when the standby is promoted, by an open session too');
granted_ok($open, q{SELECT remaining FROM fl_rate_peek('user', 'p', 'hourly')}, 1,
	'the larger spending stays, and at most what came after the last maintenance is lost');
granted_ok($open, 'SELECT fl_rate_maintain() >= 0', 't', 'and maintenance works there');

done_testing();
