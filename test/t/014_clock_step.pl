
# Clocks that step and clocks that are read out of order: no more than N per W
# of real time, and no key is blocked for longer than W
#
# The server runs with a library (test/shim/clock.c) that moves its wall clock
# by what a file says, as a step of a real machine's clock does; it moves the
# clock of elapsed time as well, so that no test has to wait for a period to
# pass; and it stalls a session between reading the clock and locking.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use List::Util qw(max min);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(clock_gettime usleep CLOCK_MONOTONIC);

my ($library, $file) = build_shim('clock');
plan skip_all => 'there is no preloading a library here' unless $library;

# One of the numbers in the file, by its place
my ($WALL, $ELAPSED, $STALL, $STALLED) = (0 .. 3);
append_to_file($file, pack('q4', 0, 0, 0, 0));

sub put
{
	my ($place, $value) = @_;

	open(my $fh, '+<:raw', $file) or die "could not open \"$file\": $!";
	sysseek($fh, 8 * $place, 0);
	syswrite($fh, pack('q', $value)) == 8 or die "could not write \"$file\": $!";
	close($fh);
	return;
}

# Set the wall clock to so many seconds beside the real one.
sub set_clock
{
	put($WALL, 1_000_000 * $_[0]);
	return;
}

# Let seconds pass, on both clocks: nothing steps.
my $passed = 0;

sub elapse
{
	$passed += 1_000_000 * $_[0];
	put($ELAPSED, $passed);
	return;
}

my $node = new_node('main', start => 0);
start_with($node, LD_PRELOAD => $library, FLR_SHIM_FILE => $file);
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION fliplet_ratelimit;
SELECT fl_rate_define('window', 'user', 'window', 5, '30 min'),
       fl_rate_define('bucket', 'user', 'bucket', 5, '30 min', algorithm => 'token_bucket'),
       fl_rate_define('throttle', 'user', 'throttle', 1, '30 min', on_limit => 'delay', max_delay => '1 h'),
       fl_rate_define('slow', 'user', 'slow', 1, '2 s'),
       fl_rate_define('order', 'user', 'order', 5, '10 s'),
       fl_rate_define('order, bucket', 'user', 'order, bucket', 5, '10 s', algorithm => 'token_bucket'),
       fl_rate_define('hour', 'user', 'hour', 5, '1 h', algorithm => 'fixed_window'),
       fl_rate_define('month', 'user', 'month', 5, '1 month', algorithm => 'fixed_window'),
       fl_rate_define('hammered', 'user', 'hammered', 20, '1 s');

-- The date in the error that refuses a request
CREATE FUNCTION date_of_refusal(key text, api text) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	PERFORM fl_rate_check('user', key, api);
	RETURN NULL;
EXCEPTION WHEN SQLSTATE 'PT429' THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN detail::json ->> 'nextValidRequestDate';
END $$;
SQL
my $s = session($node);

# By how many seconds the server's clock is ahead, to the minute
sub ahead
{
	return 60 * ask_ok($s, 'SELECT round((extract(epoch FROM clock_timestamp()) - '
		  . Time::HiRes::time() . ') / 60)');
}

# ---- the wall clock steps

my $hour = 3600;
my $key = 0;
foreach (
	[ $hour, 'an hour forward' ],
	[ -$hour, 'an hour back' ],
	[ 24 * $hour, 'a day forward' ],
	[ -24 * $hour, 'a day back' ],
	[ 946684800 - 200 * 24 * $hour - int(Time::HiRes::time() / 60) * 60, 'before the year 2000' ])
{
	my ($step, $name) = @$_;

	$key++;
	set_clock(0);
	is(ahead(), 0, "$name: the clock is right");
	foreach my $api ('window', 'bucket')
	{
		is(spend($s, 7, 'user', $key, $api), 5, "$name: the $api is spent");
		set_clock($step);
		is(ahead(), $step, "$name: the clock steps");
		is(spend($s, 5, 'user', $key, $api), 0, "$name: nothing more of the $api is granted");
		granted_ok($s, "SELECT next_valid_at - clock_timestamp() BETWEEN '1 min' AND '30 min' FROM fl_rate_try('user', '$key', '$api')",
			't', "$name: the date is no further away than the period, by the new clock");
		granted_ok($s, "SELECT next_valid_at - clock_timestamp() BETWEEN '1 min' AND '30 min' FROM fl_rate_counters WHERE name = '$api' AND key = '$key'",
			't', "$name: the counter says so too");
		granted_ok($s, "SELECT date_of_refusal('$key', '$api') - clock_timestamp() BETWEEN '1 min' AND '30 min'",
			't', "$name: and the error");
		set_clock(0);
		is(spend($s, 5, 'user', $key, $api), 0, "$name: nor when the clock steps back to where it was");
		is(spend($s, 7, 'user', "$key, new", $api), 5, "$name: a new key has its quota");

		# nobody is locked out: the period is the one of real time
		set_clock($step);
		is(spend($s, 7, 'user', "$key, stepped", $api), 5, "$name: one that comes after the step, too");
		elapse(1801);
		is(spend($s, 7, 'user', $key, $api), 5, "$name: the $api is granted anew after the period");
		set_clock(0);
		is(spend($s, 7, 'user', "$key, stepped", $api), 5, "$name: also when the clock has stepped back by then");
	}

	# a reservation keeps its distance
	ask_ok($s, "SELECT fl_rate_try('user', '$key', 'throttle')");
	granted_ok($s, "SELECT delay BETWEEN '29 min' AND '30 min' FROM fl_rate_try('user', '$key', 'throttle')",
		't', "$name: a slot in half an hour is reserved");
	set_clock($step);
	granted_ok($s, "SELECT delay BETWEEN '58 min' AND '60 min' FROM fl_rate_try('user', '$key', 'throttle')",
		't', "$name: and counts for the next one");

	# the calendar's windows are those of the new clock
	foreach my $unit ('hour', 'month')
	{
		is(spend($s, 7, 'user', "$key, calendar", $unit), 5, "$name: the $unit by the new clock is spent");
		granted_ok($s, "SELECT v = date_trunc('$unit', v) AND v > clock_timestamp() AND v <= clock_timestamp() + interval '1 $unit' FROM date_of_refusal('$key, calendar', '$unit') AS v",
			't', "$name: until the end of the $unit by that clock");
	}
	set_clock($step + $hour);
	cmp_ok(spend($s, 7, 'user', "$key, calendar", 'hour'), '==', 5, "$name: the next hour has its own five");
	set_clock(0);

	# a sleeper
	my $sleeper = session($node);
	my $pid = ask_ok($sleeper, 'SELECT pg_backend_pid()');
	granted_ok($s, "SELECT fl_rate_check('user', '$key', 'slow')", 0, "$name: the slot is taken");
	my $start = clock_gettime(CLOCK_MONOTONIC);
	start_query($sleeper, "SELECT fl_rate_wait('user', '$key', 'slow', max_wait => '1 min')");
	ok(wait_until(sub { return ask_ok($s, 'SELECT waiters FROM fl_rate_store') eq 1 }),
		"$name: a session sleeps");
	set_clock($step);
	my ($out, $err) = finish_query($sleeper);
	my $took = clock_gettime(CLOCK_MONOTONIC) - $start;
	unless (like($out, qr/^00:00:0\d\.\d+$/, "$name: it sleeps on, and is told how long: $out"))
	{
		diag($err);
		ask_ok($s, "SELECT pg_terminate_backend($pid)");
	}
	cmp_ok($took, '>', 1, "$name: for as long as the slot is away");
	$sleeper->quit;
}
set_clock(0);

# ---- clocks that are read out of order

# A session reads the clock, and stalls before it locks the counter; others,
# whose clocks are seconds ahead by then, spend; then it goes on. Its request is
# judged as the last one, because it is.
my $late = session($node);
my $late_pid = ask_ok($late, 'SELECT pg_backend_pid()');
foreach my $api ('order', 'order, bucket')
{
	# the last request of a key, in seconds after the first look
	my $base;
	my $last = sub {
		my $at = ask_ok($s, "SELECT extract(epoch FROM last_request_at) FROM fl_rate_counters WHERE key = 'k' AND name = '$api'");
		$base //= $at;
		return $at - $base;
	};
	my $try = "SELECT allowed FROM fl_rate_try('user', 'k', '$api')";
	my $stalled = sub {
		my ($name, $seconds, $then) = @_;

		put($STALL, $late_pid);
		start_query($late, $try);
		ok(wait_until(sub { return unpack('q', substr(slurp_file($file), 8 * $STALLED, 8)) == $late_pid }),
			"$api, $name: a session has read the clock and stalls");
		# (what it sees of the time that passes now is for dates alone)
		elapse($seconds);
		$then->();
		my $before = $last->();
		put($STALL, 0);
		my ($answer, $err) = finish_query($late);
		is(sqlstate($err), '', "$api, $name: it goes on");
		cmp_ok($last->(), '>', $before - 1, "$api, $name: the last request is no earlier than it was");
		return $answer;
	};

	# the session knows the limit and the counter
	ask_ok($late, $try);
	elapse(60);

	is( $stalled->('all is spent meanwhile', 5,
			sub { is(spend($s, 7, 'user', 'k', $api), 5, "$api: another session spends all") }),
		'f', "$api: what was spent after its look at the clock counts");

	elapse(60);
	is(spend($s, 7, 'user', 'k', $api), 5, "$api: all is spent");
	is( $stalled->('a new window meanwhile', 11,
			sub { is(spend($s, 7, 'user', 'k', $api), 5, "$api: and once more, a period later") }),
		'f', "$api: the one that looked in the period before gets nothing of the new one");

	elapse(60);
	is( $stalled->('the last one', 5,
			sub { is(spend($s, 4, 'user', 'k', $api), 4, "$api: another session leaves one") }),
		't', "$api: it gets that one");
	is(spend($s, 1, 'user', 'k', $api), 0, "$api: and there is none left");
	next if $api =~ /bucket/;
	elapse(7);
	is(spend($s, 1, 'user', 'k', $api), 0, "$api: recorded when it was spent, not when the clock was read");
	elapse(4);
	is(spend($s, 7, 'user', 'k', $api), 5, "$api: all are granted anew a period after that");
}

# The counter that there was when it read the clock expires meanwhile and is
# swept: the one that it makes begins when it is made.
is(spend($s, 7, 'user', 'swept', 'order'), 5, 'swept meanwhile: all is spent');
elapse(8);
put($STALL, $late_pid);
start_query($late, "SELECT allowed FROM fl_rate_try('user', 'swept', 'order')");
ok(wait_until(sub { return unpack('q', substr(slurp_file($file), 8 * $STALLED, 8)) == $late_pid }),
	'swept meanwhile: a session has read the clock and stalls');
elapse(3);
ask_ok($s, 'SELECT fl_rate_maintain()');
granted_ok($s, q{SELECT count(*) FROM fl_rate_counters WHERE key = 'swept'}, 0, 'swept meanwhile: the counter goes');
put($STALL, 0);
is((finish_query($late))[0], 't', 'swept meanwhile: then it goes on, and is granted');
is(spend($s, 7, 'user', 'swept', 'order'), 4, 'swept meanwhile: which leaves four');
elapse(8);
is(spend($s, 1, 'user', 'swept', 'order'), 0, 'swept meanwhile: none of them is granted anew before a period has passed');
$late->quit;

# ---- to and fro

# Request after request while the clock steps. A grant happened at
# some moment between the times before and after it, so more than 20 are proven
# for a window when they lie within it with both their times; and a refusal was
# wrong when even with the benefit of the doubt fewer are in its window.
my @offsets = map { 3600 * $_ } (0, 1, 0, -1, 1, -1);
my (@grants, @refusals);
my $start = clock_gettime(CLOCK_MONOTONIC);
my $steps = 0;
while ((my $before = clock_gettime(CLOCK_MONOTONIC)) < $start + 4)
{
	set_clock($offsets[ $steps++ % @offsets ]) if $before > $start + 0.23 * $steps;
	my $answer = ask_ok($s, q{SELECT allowed FROM fl_rate_try('user', 'k', 'hammered')});
	my $after = clock_gettime(CLOCK_MONOTONIC);
	push @{ $answer eq 't' ? \@grants : \@refusals }, [ $before, $after ];
	usleep(2_000);
}
set_clock(0);
cmp_ok($steps, '>', 10, "the clock has stepped $steps times");
my $most = 0;
foreach my $grant (@grants)
{
	$most = max($most,
		scalar grep { $_->[0] >= $grant->[0] && $_->[1] < $grant->[0] + 1 } @grants);
}
cmp_ok($most, '<=', 20, "never more than 20 grants in a second: $most");
my $fewest = min(
	map {
		my $refusal = $_;
		scalar grep { $_->[0] <= $refusal->[1] && $_->[1] > $refusal->[0] - 1 } @grants
	} @refusals);
cmp_ok(scalar @refusals, '>', 50, 'many were refused');
cmp_ok($fewest, '>=', 20, "and none with fewer than 20 in the second before: $fewest");

$s->quit;
$node->stop;
done_testing();
