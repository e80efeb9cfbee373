
# CREATE EXTENSION is the whole installation; and the store after a crash

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', extension => 0, conf => 'restart_after_crash = on');
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');

is($node->safe_psql('postgres', 'SHOW shared_preload_libraries'), '', 'nothing is preloaded');
is($node->safe_psql('postgres', 'SHOW session_preload_libraries'), '', 'not by sessions either');
my $open = session($node);
$node->safe_psql('postgres', 'CREATE EXTENSION fliplet_ratelimit');
granted_ok($open, q{SELECT fl_rate_check('user', '1', 'data-sources')}, 199,
	'right after CREATE EXTENSION a session that was open before can check');
is($node->safe_psql('postgres', q{SELECT fl_rate_check('user', '1', 'data-sources')}),
	198, 'and so can others, on the same counters');
is( $node->safe_psql('postgres', 'SELECT since >= pg_postmaster_start_time() FROM fl_rate_store'),
	't', 'the store was made at first use');
is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'),
	$started, 'without a restart');

# Two sessions that both come first: in a new server each time
foreach my $round (1 .. 3)
{
	$node->restart;
	$node->pgbench(
		'--no-vacuum --client=8 --jobs=2 --transactions=3',
		0,
		[qr{processed: 24/24}],
		[qr{^$}],
		'eight sessions come first',
		{ "011_first_$round" => q{SELECT fl_rate_check('user', '1', 'data-sources')} });
	is($node->safe_psql('postgres', 'SELECT used FROM fl_rate_counters'),
		24, 'and find one store');
}

# Preloaded it works as well.
$node->append_conf('postgresql.conf', q{shared_preload_libraries = 'fliplet_ratelimit'});
$node->restart;
is($node->safe_psql('postgres', q{SELECT fl_rate_check('user', '1', 'data-sources')}),
	199, 'with shared_preload_libraries too');
$node->append_conf('postgresql.conf', q{shared_preload_libraries = ''});
$node->restart;

# A backend crashes: the postmaster makes shared memory anew.
$open = session($node);
granted_ok($open, q{SELECT fl_rate_check('user', '1', 'data-sources', 50)}, 150, 'some spending');
my $sleeper = session($node);
ask_ok($sleeper, q{SELECT fl_rate_define('slow', 'user', 'slow', 1, '1 h')});
ask_ok($sleeper, q{SELECT fl_rate_check('user', '1', 'slow')});
start_query($sleeper, q{SELECT fl_rate_wait('user', '1', 'slow', max_wait => '2 h')});
wait_until(sub { return ask_ok($open, 'SELECT waiters FROM fl_rate_store') eq '1' });
my $since = ask_ok($open, 'SELECT since FROM fl_rate_store');

my $victim = session($node);
my $pid = ask_ok($victim, 'SELECT pg_backend_pid()');
ask_ok($victim, q{SELECT fl_rate_check('user', '1', 'data-sources')});
my $offset = -s $node->logfile;
kill('KILL', $pid);
$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
wait_for_server($node) or die 'the server does not come back';
foreach ($victim, $sleeper, $open)
{
	eval { $_->{run}->kill_kill };
}

is($node->safe_psql('postgres', q{SELECT fl_rate_check('user', '1', 'data-sources')}),
	199, 'after the crash of a backend checks work');
is($node->safe_psql('postgres', "SELECT since > '$since', waiters, keys FROM fl_rate_store"),
	't|0|1', 'on a new store, in which nobody sleeps');
$node->pgbench(
	'--no-vacuum --client=4 --jobs=2 --transactions=25',
	0,
	[qr{processed: 100/100}],
	[qr{^$}],
	'and goes on to',
	{ '011_after' => q{SELECT fl_rate_check('user', '1', 'data-sources')} });
is($node->safe_psql('postgres', 'SELECT used FROM fl_rate_counters'),
	101, 'with exact counts');

$node->stop;
done_testing();
