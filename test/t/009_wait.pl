
# fl_rate_wait: first come, first served; whoever leaves gives the slot back

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main');
$node->safe_psql('postgres', <<'SQL');
SELECT fl_rate_define('slow', 'user', 'slow', 1, '25 s'),
       fl_rate_define('queue', 'user', 'queue', 1, '1.2 s');
SQL

my $watch = session($node);
my $wait = q{SELECT fl_rate_wait('user', '1', 'slow', max_wait => '5 min')};

sub waiters
{
	my ($n) = @_;
	return wait_until(
		sub { return ask_ok($watch, 'SELECT waiters FROM fl_rate_store') eq $n; });
}

# When key 1 may make the next request, in periods after the first one
my $date;

sub next_slot
{
	my ($periods, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return granted_ok($watch, "SELECT round(extract(epoch FROM next_valid_at - '$date') / 25, 3)"
		  . q{ FROM fl_rate_counters WHERE name = 'slow' AND key = '1'},
		sprintf('%.3f', $periods - 1), $name);
}

# ---- a slot is given back

granted_ok($watch, q{SELECT fl_rate_wait('user', '1', 'slow') < '1 s'}, 't',
	'a free slot is not waited for');
$date = ask_ok($watch, q{SELECT next_valid_at FROM fl_rate_counters WHERE key = '1'});
my $sleeper = session($node);
my $pid = ask_ok($sleeper, 'SELECT pg_backend_pid()');

foreach (
	[ 'statement_timeout', '57014', sub { } ],
	[ 'pg_cancel_backend', '57014',
		sub { ask_ok($watch, "SELECT pg_cancel_backend($pid)") } ],
	[ 'lock_timeout and statement_timeout within a transaction', '57014', sub { } ],
	[ 'pg_terminate_backend', '57P01',
		sub { ask_ok($watch, "SELECT pg_terminate_backend($pid)") } ])
{
	my ($how, $state, $end) = @$_;

	ask_ok($sleeper, q{SET statement_timeout = '1500ms'}) if $how =~ /statement_timeout/;
	ask_ok($sleeper, 'BEGIN') if $how =~ /transaction/;
	start_query($sleeper, $wait);
	ok(waiters(1), "$how: a session sleeps");
	# others use the counter meanwhile: no lock is held
	next_slot(2, "$how: it has reserved a slot");
	granted_ok($watch, q{SELECT allowed, reason FROM fl_rate_try('user', '1', 'slow')},
		'f|refused', "$how: others are refused, and not held up");
	granted_ok($watch, 'SELECT waiters FROM fl_rate_store', 1,
		"$how: while it sleeps");
	$end->();
	my (undef, $err) = finish_query($sleeper);
	is(sqlstate($err), $state, "$how: ends the sleep") or diag($err);
	ok(waiters(0), "$how: nobody sleeps");
	next_slot(1, "$how: gives the slot back");
	if ($state eq '57014')
	{
		ask_ok($sleeper, 'ROLLBACK') if $how =~ /transaction/;
		ask_ok($sleeper, 'RESET statement_timeout');
	}
}

# A sleeper within several limits, one of them cancelled: all are given back
ask_ok($watch, <<'SQL');
SELECT fl_rate_define('slow, longer', 'user', 'slow', 100, '1 h'),
       fl_rate_define('slow, bucket', 'user', 'slow', 100, '1 h', algorithm => 'token_bucket')
SQL
ask_ok($watch, q{SELECT fl_rate_check('user', '2', 'slow')});
$sleeper = session($node);
$pid = ask_ok($sleeper, 'SELECT pg_backend_pid()');
ask_ok($sleeper, q{SET statement_timeout = '700ms'});
ask($sleeper, q{SELECT fl_rate_wait('user', '2', 'slow', max_wait => '1 h')});
ask_ok($sleeper, 'RESET statement_timeout');
granted_ok($watch,
	q{SELECT string_agg(name || ' ' || used, ', ' ORDER BY name) FROM fl_rate_counters WHERE key = '2'},
	'slow 1, slow, bucket 1, slow, longer 1', 'a cancelled wait gives back in every limit');

# An EXCEPTION block catches neither a cancel nor a timeout unless it says so;
# one that does keeps the transaction, and the slot has been given back.
ask_ok($sleeper, q{SET statement_timeout = '400ms'});
is( ask_ok($sleeper, <<'SQL'), '', 'a wait that is cancelled can be caught');
DO $$
BEGIN
	PERFORM fl_rate_wait('user', '2', 'slow', max_wait => '1 h');
EXCEPTION WHEN query_canceled THEN
	NULL;
END $$
SQL
ask_ok($sleeper, 'RESET statement_timeout');
granted_ok($watch, q{SELECT used FROM fl_rate_counters WHERE name = 'slow, longer' AND key = '2'},
	1, 'and has given its slot back');

# ---- refusals at once, spending nothing

refused_ok($watch, q{SELECT fl_rate_wait('user', '2', 'slow', max_wait => '1 s')},
	'a slot further away than max_wait is refused at once');
granted_ok($watch, q{SELECT used FROM fl_rate_counters WHERE name = 'slow' AND key = '2'},
	1, 'spending nothing');
refused_ok($watch, q{SELECT fl_rate_wait('user', '2', 'slow', max_wait => '0')},
	'max_wait 0 never sleeps');

start_query($sleeper, q{SELECT fl_rate_wait('user', '2', 'slow', max_wait => '1 h')});
ok(waiters(1), 'a sleeper');
ask_ok($watch, 'SET fliplet_ratelimit.max_waiters = 1');
refused_ok($watch, q{SELECT fl_rate_wait('user', '2', 'slow', max_wait => '1 h')},
	'more sleepers than max_waiters are refused at once');
granted_ok($watch, q{SELECT used FROM fl_rate_counters WHERE name = 'slow, longer' AND key = '2'},
	2, 'spending nothing');
granted_ok($watch, q{SELECT fl_rate_wait('user', '3', 'slow') < '1 s'}, 't',
	'whoever needs no sleep is served');
ask_ok($watch, 'RESET fliplet_ratelimit.max_waiters');

# A reset, a new definition and the end of it, while somebody sleeps
ask_ok($watch, q{SELECT fl_rate_reset('user', '2', 'slow')});
ask_ok($watch, q{DELETE FROM fl_rate_limit WHERE name ~ '^slow'});
ask_ok($watch, 'SELECT fl_rate_reset_all()');
ask_ok($watch, "SELECT pg_cancel_backend($pid)");
my (undef, $err) = finish_query($sleeper);
is(sqlstate($err), '57014', 'a sleeper whose counter is gone can be cancelled');
ok(waiters(0), 'and nobody sleeps');
granted_ok($sleeper, q{SELECT fl_rate_check('user', '2', 'ai')}, 9, 'all is well');

# ---- first come, first served

my @queue = map { session($node) } 1 .. 5;
my @pids = map { ask_ok($_, 'SELECT pg_backend_pid()') } @queue;
granted_ok($watch, q{SELECT fl_rate_check('user', '1', 'queue') IS NULL}, 'f', 'the slot is taken');
my $start = ask_ok($watch, q{SELECT extract(epoch FROM last_request_at) FROM fl_rate_counters WHERE name = 'queue'});
foreach my $i (0 .. 4)
{
	start_query($queue[$i],
		q{SELECT fl_rate_wait('user', '1', 'queue'), extract(epoch FROM clock_timestamp())});
	# the next one comes when this one has got its place
	wait_until(
		sub {
			return ask_ok($watch, q{SELECT granted FROM fl_rate_counters WHERE name = 'queue'}) eq 2 + $i;
		});
}
my @served = map { [ finish_query($_) ] } @queue;
my $last = 0;
foreach my $i (0 .. 4)
{
	my ($slept, $when) = split(/\|/, $served[$i][0]);

	is(sqlstate($served[$i][1]), '', "session $i is served");
	cmp_ok($when, '>', $last, "session $i is served in its turn");
	# Its slot is that many periods after the first, whoever wakes up late.
	cmp_ok($when - $start, '>=', 1.2 * ($i + 1) - 0.001,
		"session $i has waited for its slot");
	like($slept, qr/^00:00:0/, "session $i is told how long it slept");
	$last = $when;
}
ok(waiters(0), 'nobody sleeps any more');
granted_ok($watch, q{SELECT granted, delayed > 0 FROM fl_rate_counters WHERE name = 'queue'},
	'6|t', 'everybody was counted');

# A gap that a cancelled wait leaves in the middle may be used.
ask_ok($watch, 'SELECT fl_rate_reset_all()');
ask_ok($watch, q{SELECT fl_rate_define('gap', 'user', 'gap', 1, '30 s')});
ask_ok($watch, q{SELECT fl_rate_check('user', '1', 'gap')});
my $gap = q{SELECT fl_rate_wait('user', '1', 'gap', max_wait => '1 h')};
foreach my $i (0 .. 1)
{
	start_query($queue[$i], $gap);
	ok(waiters($i + 1), 'a place in the queue');
}
granted_ok($watch, q{SELECT round(extract(epoch FROM next_valid_at - last_request_at)) BETWEEN 88 AND 91 FROM fl_rate_counters WHERE name = 'gap'},
	't', 'two reservations push the next date to the third slot');
ask_ok($watch, "SELECT pg_cancel_backend($pids[0])");
(undef, $err) = finish_query($queue[0]);
is(sqlstate($err), '57014', 'the first leaves');
granted_ok($watch, q{SELECT round(extract(epoch FROM next_valid_at - last_request_at)) BETWEEN 25 AND 31 FROM fl_rate_counters WHERE name = 'gap'},
	't', 'the next request may have its slot');
granted_ok($watch, 'SELECT waiters FROM fl_rate_store', 1, 'the second sleeps on');
ask_ok($watch, "SELECT pg_cancel_backend($pids[1])");
finish_query($queue[1]);
ok(waiters(0), 'until it leaves too');

# A sleeper gives its slot back also when other sessions have made the store
# grow meanwhile: that is memory which it has not seen yet.
ask_ok($watch, 'SELECT fl_rate_reset_all()');
ask_ok($watch, q{SELECT fl_rate_define('grow', 'user', 'grow', 1, '1 h'), fl_rate_define('grow, bucket', 'user', 'grow', 1, '1 h', algorithm => 'token_bucket')});
foreach (
	[ 'pg_cancel_backend', '57014' ],
	[ 'pg_terminate_backend', '57P01' ])
{
	my ($how, $state) = @$_;

	$sleeper->quit;
	$sleeper = session($node);
	$pid = ask_ok($sleeper, 'SELECT pg_backend_pid()');
	granted_ok($sleeper, "SELECT fl_rate_check('user', '$how', 'grow')", 0, "$how, growth: the slot is taken");
	start_query($sleeper, "SELECT fl_rate_wait('user', '$how', 'grow', max_wait => '2 h')");
	ok(waiters(1), "$how, growth: a session sleeps");
	my $memory = ask_ok($watch, 'SELECT memory_used FROM fl_rate_store');
	ask_ok($watch, "SELECT count(fl_rate_check('user', '$how ' || i, 'ai')) FROM generate_series(1, 20000) AS i");
	granted_ok($watch, "SELECT memory_used > $memory + 1000000 FROM fl_rate_store", 't',
		"$how, growth: others make the store grow");
	granted_ok($watch, "SELECT string_agg(granted::text, ' ') FROM fl_rate_counters WHERE key = '$how'",
		'2 2', "$how, growth: it sleeps on");
	ask_ok($watch, "SELECT $how($pid)");
	(undef, $err) = finish_query($sleeper);
	is(sqlstate($err), $state, "$how, growth: ends the sleep") or diag($err);
	ok(waiters(0), "$how, growth: nobody sleeps");
	granted_ok($watch, "SELECT string_agg(used || ' ' || granted, ', ') FROM fl_rate_counters WHERE key = '$how'",
		'1 1, 1 1', "$how, growth: the slot is given back in every limit");
}

$_->quit foreach (@queue, $watch, $sleeper);
$node->stop;
done_testing();
