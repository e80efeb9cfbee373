
# Counters stay what they are while the table that they lie in grows around them,
# is full, lends its places and gets them back

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $setup = <<'SQL';
SELECT fl_rate_define('hourly', 'user', 'hourly', 100, '1 h'),
       fl_rate_define('daily', 'app', 'pair', 50, '1 d'),
       fl_rate_define('hourly, app', 'app', 'pair', 100, '1 h'),
       fl_rate_define('hourly, organisation', 'organisation', 'pair', 100000000, '1 h'),
       fl_rate_define('slow', 'user', 'slow', 1, '25 s'),
       fl_rate_define('large', 'device', 'large', 1000000000000, '20 min'),
       fl_rate_define('short', 'user', 'short', 100, '1 s'),
       fl_rate_define('bucket', 'user', 'bucket', 2, '1 h', algorithm => 'token_bucket');

-- Each key has its own cost, from 1 to 7.
CREATE FUNCTION cost(i int) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT i % 7 + 1';

-- Spend each key's cost; how many were granted
CREATE FUNCTION spend(low int, high int, prefix text) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(fl_rate_check('user', prefix || i, 'hourly', cost(i))) FROM generate_series(low, high) AS i
$$;

-- Keys of which something else was spent
CREATE FUNCTION wrong(low int, high int, prefix text, times int DEFAULT 1) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM generate_series(low, high) AS i, fl_rate_peek('user', prefix || i, 'hourly') AS v
	WHERE v.remaining IS DISTINCT FROM 100 - times * cost(i)
$$;
SQL

# ---- growing

my $node = new_node('growing', conf => q{fliplet_ratelimit.max_memory = '256MB'});
$node->safe_psql('postgres', $setup);
my $s = session($node);

# A sleeper's counter moves while it sleeps, perhaps to memory that was not there.
my $sleeper = session($node);
my $pid = ask_ok($sleeper, 'SELECT pg_backend_pid()');
ask_ok($s, q{SELECT fl_rate_check('user', 'sleeper', 'slow')});
start_query($sleeper, q{SELECT fl_rate_wait('user', 'sleeper', 'slow', max_wait => '5 min')});
ok(wait_until(sub { return ask_ok($s, 'SELECT waiters FROM fl_rate_store') eq 1; }), 'a session sleeps');
granted_ok($s, q{SELECT used, granted FROM fl_rate_counters WHERE key = 'sleeper'}, '1|2', 'it has reserved a slot');

my $made = 0;
foreach my $n (1, 30, 300, 2600, 10000, 50000, 120000)
{
	granted_ok($s, "SELECT spend($made + 1, $n, 'k')", $n - $made, "$n keys: new ones are granted");
	granted_ok($s, "SELECT wrong(1, $n, 'k'), (SELECT keys FROM fl_rate_store)", '0|' . ($n + 1),
		"$n keys: each has spent what it has spent");
	$made = $n;
}

ask_ok($s, "SELECT pg_cancel_backend($pid)");
my (undef, $err) = finish_query($sleeper);
is(sqlstate($err), '57014', 'the sleeper is woken up');
granted_ok($s, q{SELECT used, granted FROM fl_rate_counters WHERE key = 'sleeper'}, '1|1',
	'and its slot is given back, wherever its counter is now');

# Where its counter is gone, it gives nothing back of one that was made since.
ask_ok($s, q{SELECT fl_rate_check('user', 'sleeper', 'bucket', 2)});
start_query($sleeper, q{SELECT fl_rate_wait('user', 'sleeper', 'bucket', max_wait => '2 h')});
ok(wait_until(sub { return ask_ok($s, 'SELECT waiters FROM fl_rate_store') eq 1; }), 'a session sleeps');
ask_ok($s, q{SELECT fl_rate_forget('user', 'sleeper')});
# as many times as the other one was, or the two could be told apart by that
granted_ok($s, q{SELECT fl_rate_check('user', 'sleeper', 'bucket'), fl_rate_check('user', 'sleeper', 'bucket')}, '1|0', 'another counter of the same key is spent');
ask_ok($s, "SELECT pg_cancel_backend($pid)");
(undef, $err) = finish_query($sleeper);
is(sqlstate($err), '57014', 'the sleeper is woken up');
granted_ok($s, q{SELECT used FROM fl_rate_counters WHERE name = 'bucket'}, 2, 'and takes nothing back');

# Two limits of a key, and three keys of a request: found, or made, together
granted_ok($s, q{SELECT count(fl_rate_check_all('{app,organisation}', ARRAY['a' || i, 'o' || i % 10], 'pair', cost(i))) FROM generate_series(1, 30000) AS i},
	30000, 'requests over two scopes and three limits, new keys');
granted_ok($s, q{SELECT count(fl_rate_check_all('{app,organisation}', ARRAY['a' || i, 'o' || i % 10], 'pair', cost(i))) FROM generate_series(1, 60000) AS i},
	60000, 'the same, half of the keys new');
granted_ok($s, q{SELECT count(*) FROM generate_series(1, 60000) AS i, fl_rate_explain('app', 'a' || i, 'pair') AS e WHERE e.used IS DISTINCT FROM CASE WHEN i <= 30000 THEN 2 ELSE 1 END * cost(i)},
	0, 'each has spent in both of its limits');
granted_ok($s, q{SELECT sum(used) = (SELECT sum(cost(i)) FROM (SELECT generate_series(1, 30000) UNION ALL SELECT generate_series(1, 60000)) AS g (i)) FROM fl_rate_counters WHERE name = 'hourly, organisation'},
	't', 'and so has the organisation');

# In batches, with what is known about the table before it is locked
granted_ok($s, <<'SQL', 120000, 'batches of old keys');
SELECT sum((SELECT count(*) FROM fl_rate_try_batch(array_fill('user'::text, ARRAY[cardinality(keys)]), keys, array_fill('hourly'::text, ARRAY[cardinality(keys)]), costs) AS v WHERE v.allowed))
FROM (SELECT array_agg('k' || i) AS keys, array_agg(cost(i)) AS costs FROM generate_series(1, 120000) AS i GROUP BY i % 97) AS b
SQL
granted_ok($s, q{SELECT wrong(1, 120000, 'k', 2)}, 0, 'have spent once more');
granted_ok($s, <<'SQL', 40000, 'batches of old keys and new ones');
SELECT sum((SELECT count(*) FROM fl_rate_try_batch(array_fill('user'::text, ARRAY[cardinality(keys)]), keys, array_fill('hourly'::text, ARRAY[cardinality(keys)]), costs) AS v WHERE v.allowed))
FROM (SELECT array_agg('k' || i) AS keys, array_agg(cost(i)) AS costs FROM generate_series(100001, 140000) AS i GROUP BY i % 97) AS b
SQL
granted_ok($s, q{SELECT wrong(1, 100000, 'k', 2), wrong(100001, 120000, 'k', 3), wrong(120001, 140000, 'k', 1)}, '0|0|0',
	'each has spent what it has spent');

# Keys that do not fit into their counters, and refusals, are kept elsewhere.
my $long = 'a key that is longer than most ';
granted_ok($s, "SELECT spend(1, 20000, '$long')", 20000, 'long keys');
granted_ok($s, "SELECT count(*) FILTER (WHERE NOT (v).allowed) FROM (SELECT fl_rate_try('user', CASE WHEN i % 2 = 0 THEN 'k' ELSE '$long' END || i, 'hourly', 101) AS v FROM generate_series(1, 20000) AS i, generate_series(1, i % 4) AS j OFFSET 0) AS t",
	30000, 'refusals of long keys and of short ones');
granted_ok($s, "SELECT count(*), count(DISTINCT key), sum(refused), count(*) FILTER (WHERE refused <> i % 4 OR (last_refused_at IS NULL) <> (i % 4 = 0)), count(*) FILTER (WHERE used <> CASE WHEN i % 2 = 0 THEN 2 ELSE 1 END * cost(i)) FROM (SELECT *, substring(key FROM '\\d+\$')::int AS i FROM fl_rate_counters WHERE name = 'hourly') AS c WHERE i <= 20000 AND (key ~ '^k') = (i % 2 = 0)",
	'20000|20000|30000|0|0', 'each counter has its key and its refusals');

granted_ok($s, q{SELECT count(*) FROM generate_series(100001, 140000) AS i, fl_rate_try('user', 'k' || i, 'hourly', 101) AS v WHERE NOT v.allowed},
	40000, 'refusals that need more memory than is free');
granted_ok($s, q{SELECT count(*), sum(refused) FROM (SELECT *, substring(key FROM 2)::int AS i FROM fl_rate_counters WHERE name = 'hourly' AND key ~ '^k') AS c WHERE i > 100000},
	'40000|40000', 'are counted with their keys');
my $refused = ask_ok($s, q{SELECT refused FROM fl_rate_stats WHERE name = 'hourly'});
granted_ok($s, q{SELECT count(*) FROM generate_series(1, 40000) AS i, fl_rate_try('user', 'r' || i, 'hourly', 101) AS v WHERE NOT v.allowed},
	40000, 'as many of keys that have no counter yet');
ask_ok($s, 'SELECT fl_rate_maintain()');
granted_ok($s, qq{SELECT refused - $refused, (SELECT count(*) FROM fl_rate_counters WHERE key ~ '^r') FROM fl_rate_stats WHERE name = 'hourly'},
	'40000|0', 'are counted, and their counters go with the next sweep');

# Half of the keys go, others come
my $keys = ask_ok($s, 'SELECT keys FROM fl_rate_store');
granted_ok($s, q{SELECT sum(fl_rate_forget('user', 'k' || i)) FROM generate_series(1, 140000, 2) AS i}, 70000,
	'half of the keys are forgotten');
granted_ok($s, q{SELECT spend(1, 100000, 'n')}, 100000, 'others come');
granted_ok($s, q{SELECT wrong(1, 100000, 'n'), (SELECT keys FROM fl_rate_store)}, '0|' . ($keys + 30000), 'and have spent what they have spent');
granted_ok($s, q{SELECT count(*) FILTER (WHERE i % 2 = 1 AND v.remaining <> 100), count(*) FILTER (WHERE i % 2 = 0 AND v.remaining <> 100 - 2 * cost(i)) FROM generate_series(1, 100000) AS i, fl_rate_peek('user', 'k' || i, 'hourly') AS v},
	'0|0', 'as have those that stayed, and none that went');
$sleeper->quit;
$s->quit;
$node->stop;

# ---- a full store: places that are vacant serve whoever needs memory

$node = new_node('full', conf => q{fliplet_ratelimit.max_memory = '4MB'});
$node->safe_psql('postgres', $setup);
$s = session($node);
my $fit = ask_ok($s, <<'SQL');
SELECT count(*) FILTER (WHERE v.allowed) FROM generate_series(1, 60000) AS i, fl_rate_try('user', 'k' || i, 'hourly', cost(i)) AS v
SQL
# 128 bytes each, and a page's own block for 31 of them; 548 kB are the store's own
cmp_ok($fit * 128, '>', 0.93 * (4096 - 548) * 1024, "no place stays vacant: $fit keys fit into 4 MB");
granted_ok($s, q{SELECT count(*) FILTER (WHERE v.remaining = 100 - cost(i)), count(*) FILTER (WHERE v.remaining NOT IN (100, 100 - cost(i))) FROM generate_series(1, 60000) AS i, fl_rate_peek('user', 'k' || i, 'hourly') AS v},
	"$fit|0", 'each has spent what it has spent');

# Counters go, and their places serve a long record, and after that others.
my $kept = ask_ok($s, q{SELECT count(*) FROM fl_rate_counters WHERE substring(key FROM 2)::int % 2 = 0});
ask_ok($s, q{SELECT sum(fl_rate_forget('user', 'k' || i)) FROM generate_series(1, 60000, 2) AS i});
my $full = ask_ok($s, 'SELECT refused_full FROM fl_rate_store');
foreach my $round (1, 2)
{
	granted_ok($s, q{SELECT count(fl_rate_check('device', 'd', 'large')) FROM generate_series(1, 20000)}, 20000,
		"round $round: a long record finds room where counters were");
	granted_ok($s, "SELECT refused_full - $full FROM fl_rate_store", 0, "round $round: nothing is refused for it");
	granted_ok($s, q{SELECT count(*) FILTER (WHERE v.remaining = 100 - cost(i)), count(*) FILTER (WHERE v.remaining NOT IN (100, 100 - cost(i))) FROM generate_series(2, 60000, 2) AS i, fl_rate_peek('user', 'k' || i, 'hourly') AS v},
		"$kept|0", "round $round: the other counters are as they were");
	ask_ok($s, q{SELECT fl_rate_forget('device', 'd')});
	my $new = int(0.9 * ($fit - $kept));
	granted_ok($s, "SELECT spend(1, $new, 'n')", $new, "round $round: new keys find room where the record was");
	granted_ok($s, "SELECT wrong(1, $new, 'n')", 0, "round $round: and have spent what they have spent");
	ask_ok($s, "SELECT sum(fl_rate_forget('user', 'n' || i)) FROM generate_series(1, $new) AS i");
}

# So do the places of counters that expire, which are found by whoever needs memory.
ask_ok($s, 'SELECT fl_rate_reset_all()');
ask_ok($s, q{SELECT spend(1, 1000, 'k')});
ask_ok($s, q{SELECT count(*) FROM generate_series(1, 60000) AS i, fl_rate_try('user', 's' || i, 'short') AS v WHERE v.allowed});
ask_ok($s, 'SELECT pg_sleep(1.1)');
$full = ask_ok($s, 'SELECT refused_full FROM fl_rate_store');
granted_ok($s, "SELECT spend(1, 5000, '$long')", 5000, 'long keys find room where counters have expired');
granted_ok($s, q{SELECT count(fl_rate_check('device', 'd', 'large')) FROM generate_series(1, 20000)}, 20000,
	'so does a long record');
granted_ok($s, "SELECT refused_full - $full FROM fl_rate_store", 0, 'nothing is refused for it');

granted_ok($s, "SELECT wrong(1, 1000, 'k'), wrong(1, 5000, '$long')", '0|0', 'the other counters are as they were');

# All of them, however many blocks the sweep has brought by itself: a long key
# takes two, and half of the store is one place in two.
ask_ok($s, 'SELECT fl_rate_reset_all()');
my $brief = ask_ok($s, q{SELECT count(*) FROM generate_series(1, 60000) AS i, fl_rate_try('user', 's' || i, 'short') AS v WHERE v.allowed});
ask_ok($s, 'SELECT pg_sleep(1.1)');
my $half = int(0.45 * $brief);
granted_ok($s, "SELECT spend(1, $half, '$long')", $half, 'long keys find room in all places where counters have expired');

# A key that is only refused leaves nothing where there is no memory to count it.
ask_ok($s, q{SELECT count(*) FROM generate_series(1, 60000) AS i, fl_rate_try('user', 'x' || i, 'hourly') AS v WHERE v.allowed});
ask_ok($s, q{SELECT sum(fl_rate_forget('user', 'x' || i)) FROM generate_series(1, 400) AS i});
granted_ok($s, q{SELECT count(*) FROM generate_series(1, 400) AS i, fl_rate_try('user', 'y' || i, 'hourly', 101) AS v WHERE NOT v.allowed}, 400,
	'refusals of new keys');
granted_ok($s, "SELECT count(*) FROM fl_rate_counters WHERE key ~ '^y' AND refused = 0", 0, 'take no room where there is none to count them');

# max_memory is raised: what is refused is counted with its key at once.
$node->append_conf('postgresql.conf', q{fliplet_ratelimit.max_memory = '16MB'});
$node->reload;
ok(wait_until(sub { ask_ok($s, 'SHOW fliplet_ratelimit.max_memory') eq '16MB' }), 'there may be more memory');
granted_ok($s, "SELECT count(*) FROM generate_series(1, 2000) AS i, fl_rate_try('user', 'x' || i + 400, 'hourly', 101) AS v WHERE NOT v.allowed",
	2000, 'refusals of keys that have a counter');
granted_ok($s, q{SELECT count(*), sum(refused) FROM fl_rate_counters WHERE refused > 0 AND key ~ '^x'}, '2000|2000', 'are counted with them');

# Many blocks at once, of which few are free and most are places of counters that
# have gone: a long record is written anew for a cost that does not fit.
$s->quit;
$node->append_conf('postgresql.conf', q{fliplet_ratelimit.max_memory = '4MB'});
$node->restart;
$s = session($node);
ask_ok($s, q{SELECT count(fl_rate_check('device', 'd', 'large')) FROM generate_series(1, 20000)});
ask_ok($s, q{SELECT count(*) FROM generate_series(1, 60000) AS i, fl_rate_try('user', 'm' || i, 'hourly') AS v WHERE v.allowed});
ask_ok($s, q{SELECT sum(fl_rate_forget('user', 'm' || i)) FROM generate_series(1, 60000, 15) AS i});
$full = ask_ok($s, 'SELECT refused_full FROM fl_rate_store');
granted_ok($s, q{SELECT allowed, reason FROM fl_rate_try('device', 'd', 'large', 5000000000)}, 't|ok',
	'a long record is written anew where counters were');
granted_ok($s, "SELECT used, refused_full - $full FROM fl_rate_counters, fl_rate_store WHERE name = 'large'", '5000020000|0',
	'and nothing of it is lost');
$s->quit;
$node->stop;

done_testing();
