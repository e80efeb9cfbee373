
# Counters that expire are freed by the creation of others: all of them, however
# the others are created, moved and forgotten meanwhile, and without anything else

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('sweep', conf => q{fliplet_ratelimit.max_memory = '256MB'});
$node->safe_psql('postgres', <<'SQL');
SELECT fl_rate_define('hourly', 'app', 'hourly', 5, '1 h'),
       fl_rate_define('blink', 'app', 'blink', 5, '30 ms'),
       fl_rate_define('short', 'app', 'short', 5, '600 ms'),
       fl_rate_define('later', 'app', 'later', 5, '1800 ms'),
       fl_rate_define('bucket', 'app', 'bucket', 5, '600 ms', algorithm => 'token_bucket');

-- Make one request each of n keys, which are called after the API.
CREATE FUNCTION touch(api text, round int, n int) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(fl_rate_check('app', api || ' ' || round || ' ' || i, api))
	FROM generate_series(1, n) AS i
$$;
SQL
my $s = session($node);

# What is there, and what was swept, since the last call
my ($keys, $swept) = (0, 0);

sub sweeps_ok
{
	my ($made, $expired, $what) = @_;
	granted_ok($s, "SELECT keys - $keys, swept - $swept FROM fl_rate_store", $made - $expired . "|$expired", $what);
	($keys, $swept) = split(/\|/, ask_ok($s, 'SELECT keys, swept FROM fl_rate_store'));
	return;
}

# Of those counters that expire between many that do not, there are one or two
# where there is a lock; whoever overlooks one of them finds no other soon after.
my $others = 0;
my $hourly = 0;
foreach my $round (1 .. 15)
{
	ask_ok($s, "SELECT touch(api, $round, 100) FROM unnest('{blink,short,bucket}'::text[]) AS api");
	ask_ok($s, "SELECT touch('hourly', $round, 1000)");
	ask_ok($s, 'SELECT pg_sleep(0.04)');

	# the search stops somewhere, and what it has passed is moved
	ask_ok($s, "SELECT touch('hourly', 100 + $round, 600)");
	my $forgotten = ask_ok($s, "SELECT sum(fl_rate_forget('app', 'hourly $round ' || i)) FROM generate_series(1, 700) AS i");
	ask_ok($s, "SELECT touch('hourly', 200 + $round, 2000)");
	$others += 300;
	$hourly += 3600 - $forgotten;
}
ask_ok($s, 'SELECT pg_sleep(0.7)');
ask_ok($s, 'SELECT touch(\'hourly\', 0, 120000)');
sweeps_ok($hourly + 120000 + $others, $others, 'all that have expired are gone, none else');

# What expires later is remembered while what has expired is freed around it.
ask_ok($s, 'SELECT fl_rate_reset_all()');
$keys = 0;
ask_ok($s, q{SELECT touch('hourly', 1, 4000), touch('blink', 0, 8000), touch('short', 0, 200), touch('hourly', 2, 1000), pg_sleep(0.04)});
ask_ok($s, q{SELECT touch('hourly', 3, 20000), pg_sleep(0.7)});
ask_ok($s, q{SELECT touch('hourly', 4, 75000)});
sweeps_ok(100000 + 8200, 8200, 'nothing is overlooked where others are freed');

# So is what is made where the search has already been, and what comes to lie there
# because others before it are forgotten. As many keys are forgotten first as are
# made later, so that the index does not grow, and the search has been everywhere
# once before it begins anew and is half-way through.
foreach my $moves (0, 1, 1)
{
	ask_ok($s, 'SELECT fl_rate_reset_all()');
	$keys = 0;
	ask_ok($s, q{SELECT touch('hourly', 5, 60000), touch('later', 1, 200)});
	ask_ok($s, q{SELECT sum(fl_rate_forget('app', 'hourly 5 ' || i)) FROM generate_series(1, 40000) AS i});
	ask_ok($s, q{SELECT touch('blink', 1, 600), pg_sleep(0.04), touch('hourly', 6, 20000)});
	ask_ok($s, q{SELECT touch('blink', 2, 600), pg_sleep(0.04), touch('hourly', 7, 7000)});
	ask_ok($s, $moves ?
		  q{SELECT sum(fl_rate_forget('app', 'hourly 5 ' || i)) FROM generate_series(40001, 60000) AS i} :
		  q{SELECT touch('short', 1, 200)});
	ask_ok($s, q{SELECT touch('hourly', 8, 10000), pg_sleep(1.9), touch('hourly', 9, 120000)});
	my $others = 1400 + ($moves ? 0 : 200);
	sweeps_ok(20000 + 20000 + 7000 + 10000 + 120000 - $moves * 20000 + $others, $others,
		$moves ? 'nor what was moved behind the search' : 'nor what was made behind the search');
}

# One that refuses only, one that was refunded
granted_ok($s, q{SELECT (fl_rate_try('app', 'too large', 'hourly', 6)).reason}, 'too_large', 'a refusal');
ask_ok($s, q{SELECT fl_rate_check('app', 'refunded', 'hourly'), fl_rate_refund('app', 'refunded', 'hourly')});
ask_ok($s, 'SELECT pg_sleep(0.01)');
ask_ok($s, q{SELECT touch('hourly', 10, 200000)});
sweeps_ok(200002, 2, 'nor do counters stay from which nothing is spent');

# Keys that come and go need no more memory than there are of them at a time, and
# half as much as those that stay.
ask_ok($s, 'SELECT fl_rate_reset_all()');
ask_ok($s, q{SELECT touch('hourly', 0, 10000)});
ask_ok($s, q{SELECT touch('blink', r, 5000), pg_sleep(0.03) FROM generate_series(1, 40) AS r});
my $gone = ask_ok($s, "SELECT swept - $swept FROM fl_rate_store");
cmp_ok($gone, '>', 150000, "of 200000 keys that came and went, $gone are gone");
granted_ok($s, 'SELECT keys FROM fl_rate_store', 210000 - $gone, 'and all others are there');

$s->quit;
$node->stop;
done_testing();
