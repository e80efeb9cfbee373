
# A full store: live counters stay, work, and hold; expired ones make room;
# the policy answers; and nothing is left behind when the server stops

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', conf => q{fliplet_ratelimit.max_memory = '2MB'});
my $s = session($node);

ask_ok($s, <<'SQL');
SELECT fl_rate_define('long', 'app', 'long', 5, '1 h'),
       fl_rate_define('many', 'app', 'many', 1000, '1 h'),
       fl_rate_define('bucket', 'app', 'bucket', 3, '1 h', algorithm => 'token_bucket'),
       fl_rate_define('wider', 'organisation', 'long', 1000000, '1 h'),
       fl_rate_define('brief', 'app', 'brief', 5, '3 s');

-- Take all memory that there is with fresh keys; returns how many there were.
-- A key may need two blocks, one of them for the index, where another needs
-- only one: the store is full when several in a row find no room.
CREATE FUNCTION fill(api text, prefix text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	reason text;
	n int := 0;
	in_a_row int := 0;
BEGIN
	FOR i IN 1 .. 1000000 LOOP
		reason := (fl_rate_try('app', prefix || i, api)).reason;
		IF reason <> 'store_full' THEN
			n := n + 1;
			in_a_row := 0;
			CONTINUE;
		END IF;
		in_a_row := in_a_row + 1;
		IF in_a_row = 20 THEN
			RETURN n;
		END IF;
	END LOOP;
	RAISE 'the store is never full';
END $$
SQL

# Counters of some history
ask_ok($s, q{SELECT fl_rate_check('app', 'old', 'long') FROM generate_series(1, 2)});
ask_ok($s, q{SELECT fl_rate_check('app', 'busy', 'many') FROM generate_series(1, 300)});
ask_ok($s, q{SELECT fl_rate_check('app', 'old', 'bucket')});
ask_ok($s, q{SELECT fl_rate_check('organisation', 'old', 'long')});

my $n = ask_ok($s, q{SELECT fill('long', 'first ')});
cmp_ok($n, '>', 5000, "2 MB are full after $n keys");
granted_ok($s, 'SELECT memory_limit, memory_used <= memory_limit FROM fl_rate_store',
	'2097152|t', 'memory is bounded');

my $refused = ask_ok($s, 'SELECT refused_full FROM fl_rate_store');
my ($out, $err) = ask($s, q{SELECT fl_rate_check('app', 'classified', 'long')});
is(sqlstate($err), 'PT503', 'a new key is refused by PT503');
unlike($err, qr/classified/, 'without the key in it');
granted_ok($s, q{SELECT allowed, reason, next_valid_at FROM fl_rate_try('app', 'new', 'long')},
	'f|store_full|', 'by fl_rate_try with the reason store_full');
granted_ok($s, "SELECT refused_full - $refused FROM fl_rate_store", '2',
	'refused_full counts that');
granted_ok($s, 'SELECT swept FROM fl_rate_store', '0', 'nothing was swept for it');

# Existing counters
granted_ok($s, q{SELECT count(*), min(used), max(used) FROM fl_rate_counters WHERE key ~ '^first'},
	"$n|1|1", 'no live counter was dropped');
is(spend($s, 10, 'app', 'old', 'long'), 3,
	'an existing counter goes on, and its limit holds exactly');
granted_ok($s, q{SELECT reason FROM fl_rate_try('app', 'old', 'long')}, 'refused',
	'it refuses as ever');
is(spend($s, 10, 'app', 'first 7', 'long'), 4, 'one with little room too');
is(spend($s, 1200, 'app', 'busy', 'many'), 700,
	'one whose record has to grow goes on to its limit');
is(spend($s, 10, 'app', 'old', 'bucket'), 2, 'a bucket too');
granted_ok($s, q{SELECT used FROM fl_rate_counters WHERE key = 'busy'}, 1000,
	'used says so');
(undef, $err) = ask($s, q{SELECT fl_rate_check_all('{organisation,app}', '{old,new}', 'long')});
is(sqlstate($err), 'PT503', 'a request over an old and a new key is refused');
granted_ok($s, q{SELECT used FROM fl_rate_counters WHERE scope = 'organisation'}, 1,
	'and has spent nothing in the old one');

# From other sessions
my $other = session($node);
is(spend($other, 10, 'app', 'first 8', 'long'), 4, 'the same in another session');
(undef, $err) = ask($other, q{SELECT fl_rate_check('app', 'new', 'long')});
is(sqlstate($err), 'PT503', 'and PT503');

# Policy
ask_ok($s, 'SET fliplet_ratelimit.when_full = allow');
granted_ok($s, q{SELECT allowed FROM fl_rate_try('app', 'new', 'long')}, 't',
	'when_full = allow grants');
($out, $err) = ask($s, q{SELECT fl_rate_check('app', 'new', 'long')});
is(sqlstate($err), '', 'and raises nothing') or diag($err);
granted_ok($s, q{SELECT reason FROM fl_rate_try('app', 'old', 'long')}, 'refused',
	'existing counters refuse none the less');
granted_ok($s, q{SELECT allowed FROM fl_rate_try_all('{organisation,app}', '{old,new}', 'long')}, 't',
	'a request over an old and a new key');
granted_ok($s, q{SELECT used FROM fl_rate_counters WHERE scope = 'organisation'}, 2,
	'is recorded where it can be');
ask_ok($s, 'RESET fliplet_ratelimit.when_full');

# A wait takes no slot that it cannot record
(undef, $err) = ask($s, q{SELECT fl_rate_wait('app', 'new', 'long')});
is(sqlstate($err), 'PT503', 'fl_rate_wait answers likewise');
granted_ok($s, 'SELECT waiters FROM fl_rate_store', 0, 'and nobody sleeps');

# Room again
ask_ok($s, q{SELECT fl_rate_forget('app', 'first ' || i) FROM generate_series(1, 100) AS i});
is(spend($s, 100, 'app', 'reborn', 'many'), 100,
	'memory that was freed serves a longer record');
granted_ok($s, 'SELECT fl_rate_reset_all() > 5000', 't', 'fl_rate_reset_all');
granted_ok($s, q{SELECT fl_rate_check('app', 'new', 'long')}, 4, 'makes room');
granted_ok($s, 'SELECT count(*) FROM fl_rate_counters', 1, 'there is nothing else');

# Expired counters go first, however many, and live ones stay
granted_ok($s, q{SELECT sum(fl_rate_check('app', 'live ' || i, 'long')) FROM generate_series(1, 3000) AS i},
	12000, 'three thousand live counters');
my $brief = ask_ok($s, q{SELECT fill('brief', 'second ')});
cmp_ok($brief, '>', 2000, "and $brief brief ones");
# The brief ones can be full by their own expiring only: wait for that.
ask_ok($s, 'SELECT pg_sleep(3.1)');
granted_ok($s, q{SELECT fl_rate_check('app', 'after', 'long')}, 4,
	'expired counters make room for a new key');
granted_ok($s,
	q{SELECT count(*) FILTER (WHERE (fl_rate_try('app', 'third ' || i, 'long')).allowed) FROM generate_series(1, 2000) AS i},
	2000, 'for many');
granted_ok($s, 'SELECT swept > 0 FROM fl_rate_store', 't', 'swept counts them');
granted_ok($s, q{SELECT count(*) FROM fl_rate_counters WHERE key ~ '^live' AND used = 1},
	3000, 'no live counter was dropped to make room');
granted_ok($s, 'SELECT memory_used <= memory_limit FROM fl_rate_store', 't',
	'in the same memory');

# Raising the limit, by a reload
ask_ok($s, q{SELECT fill('long', 'fourth ')});
$node->append_conf('postgresql.conf', q{fliplet_ratelimit.max_memory = '8MB'});
$node->reload;
ok(wait_until(sub { return ask_ok($s, 'SHOW fliplet_ratelimit.max_memory') eq '8MB' }),
	'more memory');
granted_ok($s, q{SELECT fl_rate_check('app', 'room', 'long')}, 4,
	'a reload that raises max_memory makes room');
granted_ok($other, q{SELECT fl_rate_check('app', 'room', 'long')}, 3,
	'which other sessions find');

# /dev/shm: which files are ours is in the backend's map of memory.
sub segments
{
	my $pid = ask_ok($s, 'SELECT pg_backend_pid()');
	return () unless -r "/proc/$pid/maps";
	my %seen;
	return sort grep { !$seen{$_}++ }
	  map { m{(/dev/shm/PostgreSQL\.\d+)} ? $1 : () }
	  split(/\n/, slurp_file("/proc/$pid/maps"));
}

SKIP:
{
	my @ours = segments();
	skip 'the files of dynamic shared memory cannot be seen here', 4
	  unless @ours > 1 && -e $ours[0];
	$_->quit foreach ($s, $other);
	$node->stop;
	is(join(' ', grep { -e } @ours), '', 'a stopped server leaves nothing in /dev/shm');

	# An immediate stop is a crash: the next start cleans up.
	$node->start;
	$s = session($node);
	granted_ok($s, q{SELECT fl_rate_check('app', 'old', 'long')}, 4, 'it starts anew');
	@ours = segments();
	$s->{run}->kill_kill;
	$node->stop('immediate');
	$node->start;
	$node->stop;
	is(join(' ', grep { -e } @ours), '', 'nor does a crashed one, once it was started again');
}

done_testing();
