
# Shared memory that is short for a while, comes back, and is handed out to the
# last block; and what holds in the meantime

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# The limits of every server here, and helpers. Functions are made in advance:
# a starved session must not write WAL.
my $setup = <<'SQL';
SELECT fl_rate_define('hourly', 'app', 'hourly', 5, '1 h'),
       fl_rate_define('hourly, organisation', 'organisation', 'hourly', 1000, '1 h'),
       fl_rate_define('total', 'user', '*', 1000, '1 h'),
       fl_rate_define('one', 'user', 'one', 5, '1 h'),
       fl_rate_define('two', 'user', 'two', 5, '1 h'),
       fl_rate_define('shadow', 'device', 'shadow', 5, '1 h', on_limit => 'count'),
       fl_rate_define('blocked', 'app', 'blocked', 0, NULL),
       fl_rate_define('large', 'device', 'large', 1000000000000, '20 min'),
       fl_rate_define('calendar', 'app', 'calendar', 100, '4 s', algorithm => 'fixed_window');

-- Make n requests with fresh keys; returns how many were granted, how many
-- found the store full.
CREATE FUNCTION many(n int, api text, prefix text) RETURNS text LANGUAGE sql AS $$
	SELECT count(*) FILTER (WHERE (v).allowed) || ' granted, '
	       || count(*) FILTER (WHERE (v).reason = 'store_full') || ' full'
	FROM (SELECT fl_rate_try('app', prefix || i, api) AS v
	      FROM generate_series(1, n) AS i OFFSET 0) AS s
$$;

-- Take all memory that there is with fresh keys; returns how many there were.
-- One that finds no room does not say that there is none: it may need a page of
-- the table where the next one does not.
CREATE FUNCTION fill(api text, prefix text, cost int DEFAULT 1, refund int DEFAULT 0) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	granted int := 0;
	missed  int := 0;
BEGIN
	FOR i IN 1 .. 1000000 LOOP
		IF (fl_rate_try('app', prefix || i, api, cost)).reason = 'store_full' THEN
			missed := missed + 1;
			IF missed = 20 THEN
				RETURN granted;
			END IF;
			CONTINUE;
		END IF;
		granted := granted + 1;
		missed := 0;
		IF refund > 0 THEN
			PERFORM fl_rate_refund('app', prefix || i, api, refund);
		END IF;
	END LOOP;
	RAISE 'the store is never full';
END $$;

-- Everything that is spent, in one value
CREATE FUNCTION spent() RETURNS text LANGUAGE sql AS $$
	SELECT count(*) || ' counters, ' || sum(used) || ' used, ' || md5(string_agg(name || scope || key || api || used, ',' ORDER BY name, scope, key, api))
	FROM fl_rate_counters WHERE used > 0
$$;
SQL

# A starved session gets no more shared memory from the system, as if /dev/shm
# were full: it may not make files larger than this.
sub starve
{
	my ($pid) = @_;
	system_or_bail('prlimit', "--pid=$pid", '--fsize=100000:unlimited');
	return;
}

sub feed
{
	my ($pid) = @_;
	system_or_bail('prlimit', "--pid=$pid", '--fsize=unlimited:unlimited');
	return;
}

# One column or row of fl_rate_store
sub store
{
	my ($session, $columns) = @_;
	return ask_ok($session, "SELECT $columns FROM fl_rate_store");
}

# ---- the system has no memory

my $node = new_node('starved', conf => q{fliplet_ratelimit.max_memory = '4MB'});
$node->safe_psql('postgres', $setup);
my $s = session($node);
my $pid = ask_ok($s, 'SELECT pg_backend_pid()');

SKIP:
{
	skip 'shared memory cannot be taken away here', 1
	  unless ask_ok($s, 'SHOW dynamic_shared_memory_type') eq 'posix'
	  && eval { feed($pid); 1 };

	# none for the store itself, at its first use
	starve($pid);
	foreach (
		q{SELECT fl_rate_check('app', 'a', 'hourly')},
		q{SELECT fl_rate_check('app', 'a', 'hourly')},
		q{SELECT fl_rate_check_all('{app,organisation}', '{a,o}', 'hourly')},
		q{SELECT fl_rate_wait('app', 'a', 'hourly')},
		q{SELECT fl_rate_refund('app', 'a', 'hourly')})
	{
		my (undef, $err) = ask($s, $_);
		is(sqlstate($err), 'PT503', "no memory for the store: PT503: $_") or diag($err);
	}
	granted_ok($s, q{SELECT allowed, reason, next_valid_at FROM fl_rate_try('app', 'a', 'hourly')},
		'f|store_full|', 'no memory for the store: fl_rate_try says store_full');
	granted_ok($s, q{SELECT allowed, reason FROM fl_rate_try('device', 'd', 'shadow')},
		't|no_limit', 'no memory for the store: a shadow limit refuses nothing');
	granted_ok($s, q{SELECT fl_rate_check('device', 'd', 'shadow') IS NULL}, 't',
		'no memory for the store: nor does it raise');
	granted_ok($s, q{SELECT array_agg(reason) FROM fl_rate_try_batch('{app,device}', '{a,d}', '{hourly,shadow}')},
		'{store_full,no_limit}', 'no memory for the store: in a batch too');

	ask_ok($s, 'SET fliplet_ratelimit.when_full = allow');
	granted_ok($s, <<'SQL', 't|ok|00:00:00|t',
SELECT allowed, reason, delay, next_valid_at BETWEEN now() AND clock_timestamp() + interval '1 s'
FROM fl_rate_try('app', 'a', 'hourly')
SQL
		'no memory for the store: when_full = allow grants, with now as the date');
	granted_ok($s, <<'SQL', 't|ok|t',
SELECT allowed, reason, next_valid_at BETWEEN now() AND clock_timestamp() + interval '1 s'
FROM fl_rate_try_all('{app,organisation}', '{a,o}', 'hourly')
SQL
		'no memory for the store: when_full = allow grants several pairs');
	granted_ok($s, q{SELECT (fl_rate_json(v) ->> 'nextValidAt')::timestamptz BETWEEN now() - interval '1 s' AND clock_timestamp() + interval '1 s' FROM fl_rate_try('app', 'a', 'hourly') AS v},
		't', 'no memory for the store: the date in JSON is as plausible')
	  if ask_ok($s, q{SELECT fl_rate_json(v) ? 'nextValidAt' FROM fl_rate_try('app', 'a', 'hourly') AS v}) eq 't';
	my (undef, $err) = ask($s, q{SELECT fl_rate_check('app', 'a', 'hourly')});
	is(sqlstate($err), '', 'no memory for the store: when_full = allow raises nothing')
	  or diag($err);
	granted_ok($s, q{SELECT fl_rate_wait('app', 'a', 'hourly') < '1 s'}, 't',
		'no memory for the store: when_full = allow does not sleep');
	granted_ok($s, q{SELECT allowed, reason FROM fl_rate_try('device', 'd', 'shadow')},
		't|no_limit', 'no memory for the store: a shadow limit under when_full = allow');
	ask_ok($s, 'RESET fliplet_ratelimit.when_full');

	feed($pid);
	granted_ok($s, q{SELECT fl_rate_check('app', 'a', 'hourly')}, 4,
		'the store is made as soon as there is memory: nothing was spent before');
	my $other = session($node);
	granted_ok($other, q{SELECT fl_rate_check('app', 'a', 'hourly')}, 3,
		'and other sessions find it');
	granted_ok($s, q{SELECT count(*) FROM fl_rate_counters}, 1, 'there is one store');

	# none for more counters, again and again
	starve($pid);
	like(ask_ok($s, q{SELECT many(20000, 'hourly', 'b')}), qr/^\d+ granted, [1-9]\d{3,} full$/,
		'no memory for more counters: thousands of requests find none');
	granted_ok($s, q{SELECT fl_rate_check('app', 'a', 'hourly')}, 2,
		'no memory for more counters: existing ones go on');
	my $taken = store($s, 'memory_used');
	cmp_ok($taken, '<', 2 * 1024 * 1024, 'no memory for more counters: none is taken');

	granted_ok($other, q{SELECT many(100, 'hourly', 'other')}, '100 granted, 0 full',
		'a session for which there is memory gets it');
	granted_ok($s, q{SELECT many(100, 'hourly', 'starved')}, '100 granted, 0 full',
		'and shares it with the one for which there was none');
	like(ask_ok($s, q{SELECT many(20000, 'hourly', 'c')}), qr/^\d+ granted, [1-9]\d{3,} full$/,
		'until that is used up');
	feed($pid);
	granted_ok($s, q{SELECT many(3000, 'hourly', 'd')}, '3000 granted, 0 full',
		'the store grows again as soon as there is memory');
	ask_ok($s, q{SELECT fill('hourly', 'e')});
	cmp_ok(store($s, 'memory_used'), '>', 0.95 * 4 * 1024 * 1024,
		'up to max_memory');
	granted_ok($s, q{SELECT used FROM fl_rate_counters WHERE key = 'a'}, 3,
		'and what was spent is still there');
	$other->quit;
}
$s->quit;
$node->stop;

# ---- memory that the server has reserved for this at its start: taken first

$node = new_node('reserved', conf => <<'CONF');
min_dynamic_shared_memory = '8MB'
fliplet_ratelimit.max_memory = '16MB'
restart_after_crash = on
CONF
$node->safe_psql('postgres', $setup);
$s = session($node);
$pid = ask_ok($s, 'SELECT pg_backend_pid()');

SKIP:
{
	skip 'shared memory cannot be taken away here', 1
	  unless ask_ok($s, 'SHOW dynamic_shared_memory_type') eq 'posix'
	  && eval { feed($pid); 1 };

	starve($pid);
	granted_ok($s, q{SELECT fl_rate_check('app', 'a', 'hourly')}, 4,
		'reserved memory: the store is made where the system has none');
	granted_ok($s, q{SELECT many(20000, 'hourly', 'b')}, '20000 granted, 0 full',
		'reserved memory: counters find room');
	like(ask_ok($s, "SELECT many(20000, 'hourly', '$_')"), $_ eq 'z' ? qr/^0 granted, 20000 full$/ : qr/^\d+ granted, \d+ full$/,
		"reserved memory: until it is used up ($_)")
	  foreach 'x', 'y', 'z';
	# the server itself has put something there too, more of it in some versions
	cmp_ok(store($s, 'memory_used'), '>=', 5 * 1024 * 1024, 'reserved memory: most of it');
	cmp_ok(store($s, 'memory_used'), '<', 8 * 1024 * 1024, 'reserved memory: and no more');
	feed($pid);
	granted_ok($s, q{SELECT many(20000, 'hourly', 'c')}, '20000 granted, 0 full',
		'reserved memory: then the store grows in the system\'s');
	my $spent = ask_ok($s, 'SELECT spent()');
	my $other = session($node);
	granted_ok($other, 'SELECT spent()', $spent, 'reserved memory: another session finds all of it');
	granted_ok($other, q{SELECT many(20000, 'hourly', 'd')}, '20000 granted, 0 full',
		'reserved memory: and takes more');
	granted_ok($s, q{SELECT count(*) FROM generate_series(1, 20000) AS i, fl_rate_peek('app', 'd' || i, 'hourly') AS v WHERE v.remaining = 4},
		20000, 'reserved memory: which the first one finds');
	$other->quit;

	my $offset = -s $node->logfile;
	kill('KILL', $pid);
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
	wait_for_server($node) or die 'the server does not come back';
	eval { $s->{run}->kill_kill };
	$s = session($node);
	granted_ok($s, q{SELECT fl_rate_check('app', 'a', 'hourly')}, 4,
		'reserved memory: after a crash of a backend the store is another');
}
$s->quit;
$node->stop;

# ---- a full store, filled by several sessions at once: nothing is lost on the
# way, and a request spends in all of its counters or in none

$node = new_node('full', conf => q{fliplet_ratelimit.max_memory = '3MB'});
$node->safe_psql('postgres', $setup);
$s = session($node);
ask_ok($s, q{SELECT fl_rate_check('user', 'u' || i, 'one'), fl_rate_check('app', 'old' || i, 'hourly'), fl_rate_check('organisation', 'old' || i, 'hourly') FROM generate_series(1, 50) AS i});
$node->pgbench(
	'--no-vacuum --client=6 --jobs=2 --transactions=1',
	0,
	[qr{processed: 6/6}],
	[qr{^$}],
	'six clients fill the store at once',
	{ '013_fill' => q{SELECT fill('hourly', 'c' || :client_id || ' ')} });
my ($keys, $used, $limit) = split(/\|/, store($s, 'keys, memory_used, memory_limit'));
cmp_ok($used, '<=', $limit, 'memory is bounded');
cmp_ok($used, '>', 0.95 * $limit, 'and used up');
my $before = ask_ok($s, 'SELECT spent()');
my $pairs = q{FROM generate_series(1, 50) AS i};
foreach (
	[ 'an old key and a new one', q{'{organisation,app}', ARRAY['old' || i, 'new' || i], 'hourly'} ],
	[ 'a new key and an old one', q{'{organisation,app}', ARRAY['new' || i, 'old' || i], 'hourly'} ],
	[ 'two old keys around a new one', q{'{app,app,organisation}', ARRAY['old' || i, 'new' || i, 'old' || i], 'hourly'} ],
	[ 'a key of which one limit has no counter yet', q{'{user}', ARRAY['u' || i], 'two'} ])
{
	my ($what, $arguments) = @$_;
	granted_ok($s, "SELECT DISTINCT (fl_rate_try_all($arguments)).reason $pairs", 'store_full',
		"a full store refuses a request over $what");
	my ($out, $err) = ask($s, "SELECT fl_rate_check_all($arguments) FROM generate_series(7, 7) AS i");
	is(sqlstate($err), 'PT503', 'by PT503');
	is(ask_ok($s, 'SELECT spent()'), $before, 'and it has spent nowhere');
}
my (undef, $error) = ask($s, q{SELECT fl_rate_wait('user', 'u1', 'two')});
is(sqlstate($error), 'PT503', 'a full store refuses to wait');
is(ask_ok($s, 'SELECT spent()'), $before, 'and that has spent nowhere');
granted_ok($s, q{SELECT string_agg(reason, ' ') FROM fl_rate_try_batch('{app,app,organisation,user}', '{old1,new,old1,u1}', '{hourly,hourly,hourly,two}')},
	'ok store_full ok store_full', 'a batch is of independent requests');
granted_ok($s, q{SELECT string_agg(name || ' ' || used, ', ' ORDER BY name) FROM fl_rate_counters WHERE key IN ('old1', 'u1')},
	'hourly 2, hourly, organisation 2, one 1, total 1', 'each of which spends everywhere or nowhere');

# One block is free, and two are needed: the one is free again afterwards.
my $counted = ask_ok($s, 'SELECT count(*) FROM fl_rate_counters WHERE used > 0');
like(ask_ok($s, q{SELECT sum(fl_rate_forget('app', key)), string_agg(DISTINCT (fl_rate_try_all('{app,organisation}', ARRAY['one ' || key, 'other ' || key], 'hourly')).reason, ' ')
FROM (SELECT key FROM fl_rate_counters WHERE scope = 'app' AND key ~ '^c' LIMIT 10) AS k}), qr/^10\|(ok )?store_full$/,
	'requests that found memory for one of their counters only are refused');
ask_ok($s, q{SELECT fill('hourly', 'again ')});
cmp_ok(ask_ok($s, 'SELECT count(*) FROM fl_rate_counters WHERE used > 0'), '>', $counted - 5,
	'and leave it to others');

# A restart empties the store.
$s->quit;
$node->restart;
$s = session($node);
my $alone = ask_ok($s, q{SELECT fill('hourly', 'alone ')});
cmp_ok($keys, '>=', 0.98 * $alone, "six clients found room for $keys counters, one alone for $alone");
$s->quit;
$node->stop;

# ---- what counts no longer makes room

$node = new_node('room', conf => q{fliplet_ratelimit.max_memory = '2MB'});
$node->safe_psql('postgres', $setup);
$s = session($node);

# Counters that only ever refused keep nobody out, and push nobody out.
granted_ok($s, q{SELECT many(1000, 'hourly', 'live ')}, '1000 granted, 0 full',
	'a thousand live counters');
granted_ok($s, q{SELECT DISTINCT (fl_rate_try('app', 'flood ' || i, 'blocked')).reason FROM generate_series(1, 30000) AS i},
	'blocked', 'a flood of keys that are refused is refused as ever');
granted_ok($s, q{SELECT DISTINCT (fl_rate_try('app', 'flood ' || i, 'hourly', 6)).reason FROM generate_series(1, 30000) AS i},
	'too_large', 'whatever the reason');
granted_ok($s, q{SELECT count(*), min(used), max(used) FROM fl_rate_counters WHERE key ~ '^live'},
	'1000|1|1', 'it pushes no live counter out');
granted_ok($s, q{SELECT many(3000, 'hourly', 'later ')}, '3000 granted, 0 full',
	'and keeps no new one out');
my $room = ask_ok($s, q{SELECT fill('hourly', 'rest ')});
granted_ok($s, q{SELECT DISTINCT (fl_rate_try('app', 'flood ' || i, 'blocked')).reason FROM generate_series(1, 10000) AS i},
	'blocked', 'a full store refuses them for what they are');
granted_ok($s, q{SELECT count(*), min(used), max(used) FROM fl_rate_counters WHERE key ~ '^(live|later|rest)'},
	4000 + $room . '|1|1', 'and no live counter goes for it');

# A counter of which everything was given back makes room at once, one of which
# a part was given back with the end of its window.
ask_ok($s, 'SELECT fl_rate_reset_all()');
foreach my $api ('hourly', 'calendar')
{
	granted_ok($s, "SELECT count(fl_rate_check('app', '$api ' || i, '$api')), count(fl_rate_refund('app', '$api ' || i, '$api')) FROM generate_series(1, 30000) AS i",
		'30000|30000', "$api: counters that were refunded keep nobody out");
}
ask_ok($s, 'SELECT fl_rate_reset_all()');
# from the beginning of a window of 4 s on, so that none of it expires meanwhile
ask_ok($s, 'SELECT pg_sleep(4.02 - extract(epoch FROM clock_timestamp())::numeric % 4)');
my $first = ask_ok($s, q{SELECT fill('calendar', 'first ', 2, 1)});
cmp_ok($first, '>', 3000, "calendar windows: $first counters, a part of each refunded");
my $swept = store($s, 'swept');
ask_ok($s, 'SELECT pg_sleep(4.1)');
my $second = ask_ok($s, q{SELECT fill('hourly', 'second ')});
cmp_ok($second, '>', 0.95 * $first, "calendar windows: when they are over, as many others fit: $second");
cmp_ok(store($s, 'swept'), '>=', $swept + 0.9 * $first, 'calendar windows: swept counts them');
$s->quit;
$node->stop;

# ---- nothing is refused for lack of memory while there is some

# A record of thousands of small costs is written anew when the first large one
# comes, which takes hundreds of blocks at once. Forty records one after the
# other use up more than the store takes from the system at a time: some of them
# find fewer free blocks than they need, however many are left in the beginning.
$node = new_node('wide', conf => q{fliplet_ratelimit.max_memory = '16MB'});
$node->safe_psql('postgres', $setup);
$s = session($node);
ask_ok($s, q{SELECT count(fl_rate_check('device', 'k' || i, 'large')) FROM generate_series(1, 40) AS i, generate_series(1, 20000)});
granted_ok($s, q{SELECT count(*), min(memory) > 20000 FROM fl_rate_counters WHERE name = 'large'},
	'40|t', 'forty long records');
granted_ok($s, q{SELECT array_agg(DISTINCT (fl_rate_try('device', 'k' || i, 'large', 5000000000)).reason) FROM generate_series(1, 40) AS i},
	'{ok}', 'have room to become wide ones');
granted_ok($s, q{SELECT min(used), max(used) FROM fl_rate_counters WHERE name = 'large'},
	'5000020000|5000020000', 'nothing of them is lost');
granted_ok($s, q{SELECT refused_full, memory_used < 0.9 * memory_limit FROM fl_rate_store},
	'0|t', 'and no request was refused while memory was left');
$s->quit;
$node->stop;

done_testing();
