
# Statements that are cancelled and sessions that are ended at any moment: what
# clients were granted is what was counted, a request over several keys has
# spent in all of them or in none, and no lock is left behind
#
# FLR_INTERRUPTS_SECONDS=60 goes on for a minute; without it, a fixed number of
# signals is sent.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use List::Util qw(sum0);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = new_node('main',
	conf => "max_connections = 60\nrestart_after_crash = on");
$node->safe_psql('postgres', <<'SQL');
SELECT fl_rate_define('device', 'device', 'busy', 1000000000, '1 h'),
       fl_rate_define('user', 'user', 'busy', 1000000000, '1 h'),
       fl_rate_define('user, all APIs', 'user', '*', 1000000, '100 d', algorithm => 'token_bucket'),
       fl_rate_define('app', 'app', 'busy', 1000000000, '100 d', algorithm => 'fixed_window'),
       fl_rate_define('turn', 'organisation', 'turn', 40, '1 s'),
       fl_rate_define('turn, longer', 'organisation', 'turn', 1000000000, '1 h'),
       fl_rate_define('batch', 'organisation', 'batch', 1000000000, '1 h'),
       fl_rate_define('stripes', 'app', 'stripes', 10, '1 h');

-- Send so many signals to clients that are busy, every third of which ends a
-- session; says how many were sent.
CREATE FUNCTION disturb(n int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	victim int;
	sent bigint := 0;
BEGIN
	FOR i IN 1 .. n LOOP
		PERFORM pg_sleep(0.03 * random()), pg_stat_clear_snapshot();
		SELECT pid INTO victim FROM pg_stat_activity WHERE application_name = 'busy' ORDER BY random() LIMIT 1;
		IF victim IS NOT NULL THEN
			sent := sent + (CASE WHEN i % 3 = 0 THEN pg_terminate_backend(victim) ELSE pg_cancel_backend(victim) END)::int;
		END IF;
	END LOOP;
	RETURN sent;
END $$;
SQL

# What the clients ask for; the answer of each is how much it was granted.
my $elements = 60;
my %queries = (
	all => q{SELECT fl_rate_check_all('{device,user,app}', ARRAY['d%1$d', 'u%2$d', 'a'], 'busy') IS NOT NULL},
	wait => q{SELECT fl_rate_wait('organisation', 'o', 'turn', max_wait => '5 s') IS NOT NULL},
	batch => qq{SELECT count(*) FILTER (WHERE allowed) FROM fl_rate_try_batch(array_fill('organisation'::text, ARRAY[$elements]), (SELECT array_agg('o' || i %% 7) FROM generate_series(1, $elements) AS i), array_fill('batch'::text, ARRAY[$elements]))});
my %most = (all => 1, wait => 1, batch => $elements);
my %limits = (
	all => [ 'device', 'user', 'user, all APIs', 'app' ],
	wait => [ 'turn', 'turn, longer' ],
	batch => ['batch']);

srand(4711);

sub script
{
	return [
		map {
			my $kind = (qw(all all all wait batch))[ rand(5) ];
			[ $kind, sprintf($queries{$kind}, rand(9), rand(5)) ]
		} 1 .. 100 ];
}

# Nothing of what happened before stands in the way of anybody.
sub no_lock_is_held
{
	my ($what) = @_;
	my $s = session($node);

	ok(wait_until(sub { return ask_ok($s, q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'busy'}) eq '0' }),
		"$what: no session hangs");
	ask_ok($s, q{SET statement_timeout = '60 s'});
	granted_ok($s, 'SELECT waiters FROM fl_rate_store', 0, "$what: nobody sleeps");
	granted_ok($s, q{SELECT count(*), min(n), max(n) FROM (SELECT fl_rate_check('app', i::text, 'stripes') AS n FROM generate_series(1, 4000) AS i) AS s},
		'4000|9|9', "$what: checks of 4000 keys find every stripe unlocked");
	is(spend($s, 12, 'app', '1', 'stripes'), 9, "$what: and limits hold");
	granted_ok($s, 'SELECT count(*) >= 4000, (SELECT sum(granted) >= 4000 FROM fl_rate_stats) FROM fl_rate_counters',
		't|t', "$what: the views find them unlocked, too");
	$s->quit;
	return;
}

# The numbers of a kind's limits, in the statistics or in the counters
sub granted
{
	my ($view, $kind) = @_;
	my @names = grep { $view eq 'fl_rate_stats' || $_ ne 'turn' } @{ $limits{$kind} };

	# (a counter of one second may have been forgotten)
	return split(/\n/, $node->safe_psql('postgres',
			"SELECT coalesce(sum(granted), 0) FROM unnest('{" . join(',', map { qq("$_") } @names)
			  . "}'::text[]) AS n (name) LEFT JOIN $view USING (name) GROUP BY name"));
}

# ---- cancelled and ended at any moment

my $busy = start_busy($node, 'postgres', map { script() } 1 .. 8);
my $seconds = $ENV{FLR_INTERRUPTS_SECONDS} || 0;
my $start = Time::HiRes::time();
my $sent = 0;
do
{
	$sent += $node->safe_psql('postgres', 'SELECT disturb(150)');
} while (seconds_since($start) < $seconds);
my @requests = stop_busy($busy);

note(scalar @requests . " requests, $sent signals");
my @strange = grep { defined $_->{state} && $_->{state} !~ /^(00000|PT429|57014)$/ } @requests;
is(join(', ', map { "$_->{kind}: $_->{state} $_->{message}" } @strange),
	'', 'requests are granted, refused or cancelled');
my $all_cut = 0;
foreach my $kind (sort keys %queries)
{
	my @mine = grep { $_->{kind} eq $kind } @requests;
	my $seen = sum0(map { !defined $_->{answer} ? 0 : $_->{answer} eq 't' ? 1 : $_->{answer} } @mine);
	my $cut = grep { ($_->{state} // '57P01') =~ /^57/ } @mine;

	cmp_ok($seen, '>', 0, "$kind: clients were granted $seen");
	note("$kind: $cut statements were cut off");
	$all_cut += $cut;
	my %total;
	foreach my $view ('fl_rate_stats', 'fl_rate_counters')
	{
		my ($first, @more) = granted($view, $kind);

		$total{$view} = $first;
		cmp_ok($first, '>=', $seen, "$kind: $view has all of it");
		cmp_ok($first, '<=', $seen + $cut * $most{$kind},
			"$kind: and no more than the statements that were cut off can explain");
		is(join(' ', @more), join(' ', ($first) x @more), "$kind: the same in all of its limits")
		  if @more;
	}
	is($total{fl_rate_stats}, $total{fl_rate_counters}, "$kind: statistics and counters agree");
}
cmp_ok($all_cut, '>', 0, "$all_cut statements were cut off");
is( $node->safe_psql('postgres', q{SELECT count(*) FROM fl_rate_counters WHERE used <> granted AND name IN ('device', 'user', 'turn, longer', 'batch')}),
	'0', 'and what was granted is what is used');
no_lock_is_held('signals');
crashed_ok($node, 0, 'no backend has crashed');

# ---- killed at any moment: the postmaster resets shared memory

# Whoever is answered says by which store.
$queries{all} =~ s/$/, since FROM fl_rate_store/;

foreach my $round (1 .. 2)
{
	my $what = "kill -9, round $round";
	my $old = $node->safe_psql('postgres', 'SELECT since FROM fl_rate_store');
	my $offset = -s $node->logfile;

	$busy = start_busy($node, 'postgres', map { script() } 1 .. 4);
	my $victim = '';
	wait_until(
		sub {
			$victim = $node->safe_psql('postgres',
				q{SELECT pid FROM pg_stat_activity WHERE application_name = 'busy' AND state = 'active' ORDER BY random() LIMIT 1});
			return $victim ne '';
		});
	usleep(200_000);
	kill('KILL', $victim) == 1
	  or kill('KILL', $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE application_name = 'busy' LIMIT 1}));
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
	$node->poll_query_until('postgres', q{SELECT granted > 20 FROM fl_rate_stats WHERE name = 'device'})
	  or die 'clients do not get on';
	@requests = stop_busy($busy);
	@strange = grep { defined $_->{state} && $_->{state} !~ /^(00000|PT429)$/ } @requests;
	is(join(', ', map { "$_->{kind}: $_->{state} $_->{message}" } @strange),
		'', "$what: no error but lost connections");
	my $new = $node->safe_psql('postgres', 'SELECT since FROM fl_rate_store');
	isnt($new, $old, "$what: the store is a fresh one");
	my ($first, @more) = granted('fl_rate_counters', 'all');
	is($first, scalar(grep { ($_->{answer} // '') eq "t|$new" } @requests),
		"$what: and has counted what clients were granted since then, $first");
	is(join(' ', @more), join(' ', ($first) x @more), "$what: and counts in all limits or in none");
	no_lock_is_held($what);
}
crashed_ok($node, 2, 'nothing else has crashed');

$node->stop;
done_testing();
