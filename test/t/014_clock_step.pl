
# A clock that steps by an hour, either way: no more than N per W of real time,
# and no key is blocked for longer than W
#
# The server runs under libfaketime, which moves its wall clock by what a file
# says and leaves the clock of elapsed time alone, as a step of a real machine's
# clock does. This script has the real time.

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

my ($library) = glob('/usr/lib/*/faketime/libfaketime.so.1 /usr/lib*/faketime/libfaketime.so.1');
my $file = PostgreSQL::Test::Utils::tempdir() . '/clock';
my %faked = (
	LD_PRELOAD => $library,
	FAKETIME_TIMESTAMP_FILE => $file,
	FAKETIME_NO_CACHE => 1,
	FAKETIME_DONT_FAKE_MONOTONIC => 1);

# Set the wall clock to so many seconds beside the real one.
sub set_clock
{
	my ($offset) = @_;
	my $new = "$file.new";

	# in one go: it is read all the time
	append_to_file($new, sprintf("%+d\n", $offset));
	rename($new, $file) or die "could not rename \"$new\": $!";
	return;
}

# Is the wall clock moved, and the clock of elapsed time (7 is CLOCK_BOOTTIME)
# not?
sub clocks_are_fit
{
	local @ENV{ keys %faked } = values %faked;
	my $boot = clock_gettime(7);
	# no shell between: libfaketime would leave memory of it behind
	open(my $probe, '-|', $^X, '-MTime::HiRes=clock_gettime',
		'-e', 'print clock_gettime(7), " ", clock_gettime(0)')
	  or die "could not run perl: $!";
	my $faked = <$probe>;
	close($probe);
	my ($boot_there, $wall_there) = split(/ /, $faked);

	return abs($boot_there - $boot) < 600
	  && abs($wall_there - Time::HiRes::time() - 3600) < 600;
}

plan skip_all => 'there is no libfaketime (Debian package faketime) here' unless $library;
set_clock(3600);
plan skip_all => 'this libfaketime moves all clocks or none' unless clocks_are_fit();
set_clock(0);

my $node = new_node('main', start => 0);
{
	local @ENV{ keys %faked } = values %faked;
	$node->start;
}
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION fliplet_ratelimit;
SELECT fl_rate_define('window', 'user', 'window', 5, '30 min'),
       fl_rate_define('bucket', 'user', 'bucket', 5, '30 min', algorithm => 'token_bucket'),
       fl_rate_define('throttle', 'user', 'throttle', 1, '30 min', on_limit => 'delay', max_delay => '1 h'),
       fl_rate_define('short window', 'user', 'short window', 5, '1500 ms'),
       fl_rate_define('short bucket', 'user', 'short bucket', 5, '1500 ms', algorithm => 'token_bucket'),
       fl_rate_define('slow', 'user', 'slow', 1, '2 s'),
       fl_rate_define('hammered', 'user', 'hammered', 20, '1 s');
SQL
my $s = session($node);

# By how many hours the server's clock is ahead
sub hours_ahead
{
	return ask_ok($s, 'SELECT round(extract(epoch FROM clock_timestamp()) / 3600 - '
		  . Time::HiRes::time() . ' / 3600.0)');
}

my $key = 0;
foreach my $step (1, -1)
{
	my $name = $step > 0 ? 'an hour forward' : 'an hour back';

	$key++;
	set_clock(0);
	is(hours_ahead(), 0, "$name: the clock is right");
	foreach my $api ('window', 'bucket')
	{
		is(spend($s, 7, 'user', $key, $api), 5, "$name: the $api is spent");
		set_clock(3600 * $step);
		is(hours_ahead(), $step, "$name: the clock steps");
		is(spend($s, 5, 'user', $key, $api), 0, "$name: nothing more of the $api is granted");
		granted_ok($s, "SELECT next_valid_at - clock_timestamp() BETWEEN '1 min' AND '30 min' FROM fl_rate_try('user', '$key', '$api')",
			't', "$name: the date is no further away than the period, by the new clock");
		granted_ok($s, "SELECT next_valid_at - clock_timestamp() BETWEEN '1 min' AND '30 min' FROM fl_rate_counters WHERE name = '$api' AND key = '$key'",
			't', "$name: the counter says so too");
		set_clock(0);
		is(spend($s, 5, 'user', $key, $api), 0, "$name: nor when the clock steps back to where it was");
		is(spend($s, 7, 'user', "$key, new", $api), 5, "$name: a new key has its quota");
	}

	# a reservation keeps its distance
	ask_ok($s, "SELECT fl_rate_try('user', '$key', 'throttle')");
	granted_ok($s, "SELECT delay BETWEEN '29 min' AND '30 min' FROM fl_rate_try('user', '$key', 'throttle')",
		't', "$name: a slot in half an hour is reserved");
	set_clock(3600 * $step);
	granted_ok($s, "SELECT delay BETWEEN '58 min' AND '60 min' FROM fl_rate_try('user', '$key', 'throttle')",
		't', "$name: and counts for the next one");
	set_clock(0);

	# nobody is locked out
	foreach my $api ('short window', 'short bucket')
	{
		cmp_ok(spend($s, 7, 'user', $key, $api), '>=', 5, "$name: the $api is spent");
	}
	set_clock(3600 * $step);
	usleep(1_600_000);
	foreach my $api ('short window', 'short bucket')
	{
		cmp_ok(spend($s, 7, 'user', $key, $api), '>=', 5,
			"$name: the $api is granted anew after the period of real time");
	}
	set_clock(0);

	# a sleeper
	my $sleeper = session($node);
	my $pid = ask_ok($sleeper, 'SELECT pg_backend_pid()');
	granted_ok($s, "SELECT fl_rate_check('user', '$key', 'slow')", 0, "$name: the slot is taken");
	my $start = clock_gettime(CLOCK_MONOTONIC);
	start_query($sleeper, "SELECT fl_rate_wait('user', '$key', 'slow', max_wait => '1 min')");
	ok(wait_until(sub { return ask_ok($s, 'SELECT waiters FROM fl_rate_store') eq 1 }),
		"$name: a session sleeps");
	set_clock(3600 * $step);
	my ($out, $err) = finish_query($sleeper);
	my $took = clock_gettime(CLOCK_MONOTONIC) - $start;
	unless (like($out, qr/^00:00:0\d\.\d+$/, "$name: it sleeps on, and is told how long: $out"))
	{
		diag($err);
		ask_ok($s, "SELECT pg_terminate_backend($pid)");
	}
	cmp_ok($took, '>', 1, "$name: for as long as the slot is away");
	cmp_ok($took, '<', 60, "$name: and no longer");
	$sleeper->quit;
}

# Request after request while the clock steps to and fro. A grant happened at
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
