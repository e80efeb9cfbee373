
# Four nodes behind two routers, all of them real servers: a key lives on one
# node whichever router is asked; limits stay exact; errors are those of direct
# calls, field by field; a node that is dead, hung, foreign or moved does what
# the operator chose, and is named.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @nodes = map { new_node("node$_", allows_streaming => "logical", conf => "max_prepared_transactions = 2\n") } 1 .. 4;
my @routers = map { new_node("router$_", extension => 0, conf => "max_prepared_transactions = 2\n") } 1 .. 2;
my %strings = map { $_->name => 'host=' . $_->host . ' port=' . $_->port . ' dbname=postgres' } @nodes;
my @strings = map { $strings{ $_->name } } @nodes;
my $list = 'ARRAY[' . join(', ', map { "'$_'" } @strings) . ']';

my ($installed) = $routers[0]->safe_psql('postgres', "SELECT count(*) FROM pg_available_extensions WHERE name = 'plproxy'");
plan skip_all => 'there is no PL/Proxy here' unless $installed;

# What a call answers, or its error: SQLSTATE, message, detail, hint, constraint
sub fields
{
	my ($session, $query) = @_;
	my ($out, $err) = ask($session, $query);

	$err =~ s/^psql:<stdin>:\d+: //mg;
	$err =~ s/^LOCATION: .*\n?//mg;
	$err =~ s/^CONTEXT: .*\n?//mg;
	$err =~ s/"nextValidRequestDate": "[^"]*"/"nextValidRequestDate": "DATE"/;
	$err =~ s/Retry after 3[56]\d\d\.\d{3} seconds/Retry after an hour/;
	return "$out\n$err";
}

# ---- definitions, by built-in logical replication: one call on the first node,
# ---- one on each other

$nodes[0]->safe_psql('postgres', 'CREATE PUBLICATION fl_rate_limits FOR TABLE fl_rate_limit WHERE (limit_id > 0)');
$nodes[$_]->safe_psql('postgres', "CREATE SUBSCRIPTION fl_rate_limits_$_ CONNECTION '$strings[0]' PUBLICATION fl_rate_limits") foreach 1 .. 3;
$nodes[0]->safe_psql('postgres', <<'SQL');
SELECT fl_rate_define('hourly', 'user', 'hourly', 5, '1 h'),
       fl_rate_define('app-hourly', 'app', 'hourly', 3, '1 h'),
       fl_rate_define('many', 'user', 'many', 1000, '1 h'),
       fl_rate_define('slow', 'user', 'slow', 1, '1 h', on_limit => 'delay', max_delay => '2 h')
SQL
foreach my $node (@nodes)
{
	ok(wait_until(sub { $node->safe_psql('postgres', 'SELECT count(*) FROM fl_rate_limit WHERE limit_id > 0') == 4 }),
		'the definitions arrive on ' . $node->name);
}

# ---- a cluster, and what is none

foreach my $router (@routers)
{
	$router->safe_psql('postgres', 'CREATE EXTENSION plproxy; CREATE EXTENSION fliplet_ratelimit_router');
}
my $r1 = session($routers[0]);
my $r2 = session($routers[1]);
like(fields($r1, "SELECT fl_rate_check('user', '1', 'hourly')"), qr/55000: there is no cluster.*\nHINT:  Call fl_cluster_create/, 'a router without a cluster says so');
like(fields($r1, $_->[0]), $_->[1], "$_->[2]")
  foreach (
	[ "SELECT fl_cluster_create('{}')", qr/22023: a cluster needs at least one node/, 'a cluster of no nodes' ],
	[ 'SELECT fl_cluster_create(NULL)', qr/22023: a cluster needs at least one node/, 'nor of NULL' ],
	[ "SELECT fl_cluster_create($list, 48)", qr/22023: slots must be a power of two/, '48 slots' ],
	[ "SELECT fl_cluster_create($list, 2)", qr/22023: 4 nodes need at least as many slots/, 'fewer slots than nodes' ],
	[ "SELECT fl_cluster_create(ARRAY['$strings[0]', NULL])", qr/22023: a node must be a connection string/, 'a NULL node' ],
	[ "SELECT fl_cluster_create(ARRAY['$strings[0]', '$strings[0]'])", qr/22023: a node must be named only once/, 'the same node twice' ],
	[ "SELECT fl_cluster_create(ARRAY['dbname=x password=y'])", qr/22023: .*must not contain a password/, 'a password that all could read' ],
	[ "SELECT fl_cluster_create(ARRAY['host=/nowhere dbname=x'])", qr{PT503: rate limit node "host=/nowhere dbname=x" cannot be used: unreachable}, 'a node that is not there is named' ],
	[ "SELECT fl_cluster_create(ARRAY['$strings[0]', 'host=" . $routers[1]->host . ' port=' . $routers[1]->port . " dbname=template1'])",
		qr/55000: rate limit node ".*template1" cannot be used: error\nDETAIL:  .*has no extension "fliplet_ratelimit"/, 'a node without the extension is named' ]);
is(ask_ok($_, "SELECT fl_cluster_create($list)"), '', 'a cluster of four nodes') foreach $r1, $r2;
like(fields($r1, "SELECT fl_cluster_create($list)"), qr/42710: there is a cluster already/, 'a second one is refused');
is(ask_ok($r1, "SELECT string_agg(state || ' ' || cardinality(slots), ', ' ORDER BY slots[1]) FROM fl_cluster_status()"),
	'ok 16, ok 16, ok 16, ok 16', 'all nodes are well, with 16 slots each');

# ---- the hash is part of the interface: FNV-1a as published, folded

is(ask_ok($r1, q{SELECT fl_cluster_hash('', ''), fl_cluster_hash('user', '42'), fl_cluster_hash('user', 'é€'), fl_cluster_hash('organisation', repeat('x', 1000))}),
	join('|', map { route_hash(@$_) } [ '', '' ], [ 'user', '42' ], [ 'user', "\xc3\xa9\xe2\x82\xac" ], [ 'organisation', 'x' x 1000 ]),
	'the route hash is what it says it is');

# The same in another language, in pieces that fit a double nowhere: with bigint
sub route_hash
{
	my ($scope, $key) = @_;
	use Math::BigInt;
	my $mask = Math::BigInt->new('0xffffffffffffffff');
	my $hash = Math::BigInt->new('0xcbf29ce484222325');

	foreach my $byte (unpack('C*', "$scope\0$key"))
	{
		$hash->bxor($byte)->bmul('0x100000001b3')->band($mask);
	}
	return $hash->copy->bxor($hash->copy->brsft(32))->band('0x7fffffff')->bstr;
}
my $shares = ask_ok($r1, "SELECT min(n), max(n) FROM (SELECT count(*) AS n FROM generate_series(1, 64000) AS k GROUP BY fl_cluster_hash('user', k::text) & 63) AS s");
my ($least, $most) = split(/\|/, $shares);
ok($least > 850 && $most < 1150, "64000 keys are spread evenly over 64 slots: $least to $most");

# ---- one key, one node, from both routers

is(ask_ok($r1, "SELECT fl_rate_check('user', '1', 'hourly')"), 4, 'a check by the first router');
is(ask_ok($r2, "SELECT fl_rate_check('user', '1', 'hourly')"), 3, 'the second one counts on the same node');
is(ask_ok($r2, "SELECT fl_rate_check('user', 1, 'hourly', 2)"), 1, 'with a bigint for a key, too');
is(ask_ok($r1, "SELECT remaining FROM fl_rate_peek('user', '1', 'hourly')"), 1, 'a peek spends nothing');
is(ask_ok($r1, "SELECT fl_rate_refund('user', '1', 'hourly', 2)"), 3, 'a refund');
is(ask_ok($r1, "SELECT fl_rate_reset('user', '1', 'hourly')"), 1, 'a reset');
is(ask_ok($r2, "SELECT used, remaining FROM fl_rate_explain('user', '1', 'hourly')"), '0|5', 'an explanation');
$routers[1]->safe_psql('postgres', "CREATE FUNCTION fl_node_try(integer) RETURNS bytea LANGUAGE sql AS 'SELECT NULL::bytea'");
is(ask_ok($r2, "SELECT fl_rate_check('user', '1', 'hourly')"), 4, 'a function that only has the name of one of ours is not in the way');
is(ask_ok($r2, "SELECT fl_rate_reset('user', '1', 'hourly')"), 1, 'what it spent is cleared');
my @holders = grep { $_->safe_psql('postgres', "SELECT count(*) FROM fl_rate_counters WHERE key = '1'") > 0 } @nodes;
is(scalar @holders, 1, 'one node has a counter of that key');

# ---- errors, field by field, as when called directly

my $direct = session($nodes[0]);
my ($key) = ask_ok($r1, "SELECT k FROM generate_series(1, 1000) AS k WHERE fl_cluster_hash('user', k::text) & 63 >= 16 LIMIT 1");
ask_ok($_, "SELECT count(fl_rate_check('user', '$key', 'hourly')) FROM generate_series(1, 5)") foreach $direct, $r1;
foreach my $query (
	"SELECT fl_rate_check('user', '$key', 'hourly')",
	"SELECT fl_rate_check('user', '$key', 'hourly', 6)",
	"SET fliplet_ratelimit.error_style = pgrst; SELECT fl_rate_check('user', '$key', 'nothing')",
	'RESET fliplet_ratelimit.error_style',
	"SELECT fl_rate_check('user', '$key', 'hourli')",
	"SELECT fl_rate_check('usr', '$key', 'hourly')",
	"SELECT fl_rate_check('user', NULL::text, 'hourly')",
	"SELECT fl_rate_check('user', '', 'hourly')",
	"SELECT fl_rate_check('user', '*', 'hourly')",
	"SELECT fl_rate_check('user', '$key', NULL)",
	"SELECT fl_rate_check('user', '$key', 'hourly', 0)",
	"SELECT fl_rate_check('user', '$key', 'hourly', plan => '')",
	"SELECT fl_rate_check_all('{user,app}', '{a}', 'hourly')",
	"SELECT fl_rate_check_all('{user,user}', '{a,a}', 'hourly')",
	"SELECT fl_rate_try_batch('{user,user}', '{a,NULL}', '{hourly,hourly}')",
	"SELECT fl_rate_try_batch('{user}', '{a}', '{hourly}', '{0}')",
	"SELECT (v).reason, (v).remaining, (v).delay, (v).name, (v).limit_id FROM (SELECT fl_rate_try('user', '$key', 'hourly') AS v) AS s",
	"SELECT fl_rate_body(v) - 'nextValidRequestDate', fl_rate_headers(v) ->> 'RateLimit-Policy' FROM fl_rate_peek('user', '$key', 'hourly') AS v",
	"SELECT fl_rate_raise(v) FROM fl_rate_peek('user', '$key', 'hourly') AS v",
	"SELECT name, limit_id, applies, why, max_requests, period, used, remaining, granted FROM fl_rate_explain('user', '$key', 'hourly')",
	"SELECT * FROM fl_rate_explain('user', NULL, 'hourly')",
	"SELECT * FROM fl_rate_explain('user', '$key', 'hourli')",
	"SELECT * FROM fl_rate_explain('user', '$key', 'hourly', '')")
{
	is(fields($r1, $query), fields($direct, $query), "as when called directly: $query");
}
ask_ok($r1, 'BEGIN READ ONLY');
is(ask_ok($r1, "SELECT fl_rate_check('user', 'read-only', 'hourly')"), 4, 'in a read-only transaction');
ask_ok($r1, 'ROLLBACK');
is(ask_ok($r2, "SELECT remaining FROM fl_rate_peek('user', 'read-only', 'hourly')"), 4, 'whose rollback gives nothing back');
ask_ok($r1, 'BEGIN');
ask_ok($r1, "SELECT fl_rate_check('user', 'prepared', 'hourly')");
ask_ok($r1, "PREPARE TRANSACTION 'p'");
ask_ok($r1, "ROLLBACK PREPARED 'p'");
is(ask_ok($r2, "SELECT remaining FROM fl_rate_peek('user', 'prepared', 'hourly')"), 4, 'the same of a prepared transaction');
is(ask_ok($r1, "SET fliplet_ratelimit.enabled = off; SELECT reason FROM fl_rate_try('user', '$key', 'hourly')"), 'off', 'the kill switch of the router');
ask_ok($r1, 'RESET fliplet_ratelimit.enabled');

# ---- dates and intervals do not depend on how either side writes them, nor
# ---- texts on what the client's encoding is

my $asked = "SELECT (v).delay, (v).period, (v).next_valid_at - now() BETWEEN '59 min' AND '1 h', (v).key = U&'\\00e9' FROM (SELECT %s AS v) AS s";
$_->safe_psql('postgres', "ALTER SYSTEM SET datestyle = 'SQL, DMY'; ALTER SYSTEM SET intervalstyle = 'sql_standard'; ALTER SYSTEM SET timezone = 'Asia/Kolkata'") foreach @nodes;
$_->reload foreach @nodes;
my $styled = session($routers[0]);
ask_ok($styled, "SET datestyle = 'Postgres, MDY'; SET intervalstyle = 'iso_8601'; SET timezone = 'America/St_Johns'; SET client_encoding = 'LATIN1'");
ask_ok($styled, "SELECT count(fl_rate_check('user', U&'\\00e9', 'hourly')) FROM generate_series(1, 5)");
is(ask_ok($styled, "SELECT period, next_valid_at - now() BETWEEN '59 min' AND '1 h' FROM fl_rate_explain('user', U&'\\00e9', 'hourly')"), 'PT1H|t', 'so do those of an explanation');
is(ask_ok($styled, sprintf($asked, $_)), 'PT0S|PT1H|t|t', "dates and texts arrive as they were meant: $_")
  foreach "fl_rate_try('user', U&'\\00e9', 'hourly')", "fl_rate_peek_all('{user}', ARRAY[U&'\\00e9'], 'hourly')",
  "fl_rate_try_batch('{user}', ARRAY[U&'\\00e9'], '{hourly}')";
$styled->quit;
$_->safe_psql('postgres', 'ALTER SYSTEM RESET ALL') foreach @nodes;
$_->reload foreach @nodes;

# ---- rights: EXECUTE on one function is all that a caller needs

ask_ok($r1, "CREATE ROLE caller; GRANT EXECUTE ON FUNCTION fl_rate_check(text, text, text, bigint, text) TO caller; SET ROLE caller");
is(ask_ok($r1, "SELECT fl_rate_check('user', 'caller', 'hourly')"), 4, 'a caller needs EXECUTE on what it calls, and no more');
like(fields($r1, $_), qr/42501: permission denied/, "may not: $_")
  foreach "SELECT fl_rate_peek('user', 'caller'::text, 'hourly')", "SELECT fl_node_try(0, 'user', 'caller', 'hourly', 1, NULL)",
  "SELECT * FROM fl_cluster_status()", "SELECT fl_cluster_move(0, 'dbname=x')", 'SELECT fl_cluster_probe(0)';
ask_ok($r1, 'RESET ROLE');

# ---- several keys on several nodes

# a user and an app on different nodes
my ($user) = ask_ok($r1, "SELECT 'u' || k FROM generate_series(1, 1000) AS k WHERE fl_cluster_hash('user', 'u' || k) & 63 < 16 LIMIT 1");
my ($app) = ask_ok($r1, "SELECT 'a' || k FROM generate_series(1, 1000) AS k WHERE fl_cluster_hash('app', 'a' || k) & 63 >= 48 LIMIT 1");
my $both = "'{user,app}', '{$user,$app}', 'hourly'";
is(ask_ok($r1, "SELECT remaining, scope, name FROM fl_rate_try_all($both)"), '2|app|app-hourly', 'the tightest of two nodes decides');
is(ask_ok($r2, "SELECT remaining FROM fl_rate_peek_all($both)"), 2, 'a peek at both');
is(ask_ok($r1, "SELECT allowed, scope FROM fl_rate_try_all($both, 3)"), 'f|app', 'what one refuses');
is(ask_ok($r1, "SELECT remaining FROM fl_rate_peek('user', '$user', 'hourly')"), 4, 'costs nothing on the other');
is(ask_ok($r1, "SELECT fl_rate_check_all($both, 2)"), 0, 'what both grant');
like(fields($r1, "SELECT fl_rate_check_all($both)"), qr/PT429.*CONSTRAINT NAME:  app-hourly/s, 'and the refusal names the limit');
is(ask_ok($r1, "SELECT remaining FROM fl_rate_peek('user', '$user', 'hourly')"), 2, 'of which the other node knows nothing');
is(ask_ok($r1, "SELECT remaining, reason, delay > '50 min' FROM fl_rate_try_all('{user,app}', '{slowly,unlimited}', 'slow')"), '0|ok|f', 'a limit that delays, first');
is(ask_ok($r1, "SELECT reason, delay > '50 min' FROM fl_rate_try_all('{user,app}', '{slowly,unlimited}', 'slow')"), 'delayed|t', 'the delay is told');

# ---- a batch over all nodes, in order

is(ask_ok($r1, <<'SQL'), '1000|1000|0', 'a batch of 1000 over four nodes is answered in order, with costs and plans');
SELECT count(*), count(*) FILTER (WHERE v.key = 'b' || ordinality), count(*) FILTER (WHERE v.remaining <> 5 - 1 - ordinality % 3)
FROM fl_rate_try_batch((SELECT array_agg('user'::text) FROM generate_series(1, 1000)), (SELECT array_agg('b' || i) FROM generate_series(1, 1000) AS i),
    (SELECT array_agg('hourly'::text) FROM generate_series(1, 1000)), (SELECT array_agg(1 + i % 3) FROM generate_series(1, 1000) AS i),
    (SELECT array_agg(CASE WHEN i % 2 = 0 THEN 'gold' END) FROM generate_series(1, 1000) AS i)) WITH ORDINALITY AS v
SQL
is(ask_ok($r1, "SELECT count(*) FROM fl_rate_try_batch('{}', '{}', '{}')"), 0, 'an empty batch');

# ---- exact: eight clients, two routers, one key

my $busy = start_busy($routers[0], 'postgres', map { [ [ 'r1', "SELECT count(*) FILTER (WHERE (fl_rate_try('user', 'hot', 'many')).allowed) FROM generate_series(1, 50)" ] ] } 1 .. 4);
my $busy2_granted = 0;
foreach (1 .. 30)
{
	$busy2_granted += ask_ok($r2, "SELECT count(*) FILTER (WHERE (fl_rate_try('user', 'hot', 'many')).allowed) FROM generate_series(1, 50)");
}
wait_until(sub { ask_ok($r2, "SELECT remaining FROM fl_rate_peek('user', 'hot', 'many')") == 0 });
my $granted = $busy2_granted;
$granted += $_->{answer} foreach grep { defined $_->{answer} } stop_busy($busy);
is($granted, 1000, 'clients of two routers are granted exactly what the limit says');

# two keys on two nodes, hammered from both sides: neither is over-granted
$busy = start_busy($routers[0], 'postgres', map { [ [ 'both', "SELECT count(*) FILTER (WHERE (fl_rate_try_all('{user,user}', '{hot-$_->[0],hot-$_->[1]}', 'many')).allowed) FROM generate_series(1, 50)" ] ] } [ 'a', 'b' ], [ 'b', 'a' ], [ 'a', 'b' ]);
wait_until(sub { ask_ok($r2, "SELECT remaining FROM fl_rate_peek('user', 'hot-a', 'many')") == 0 });
$granted = 0;
$granted += $_->{answer} foreach grep { defined $_->{answer} } stop_busy($busy);
cmp_ok($granted, '<=', 1000, "never more than the limit, over two keys ($granted of 1000)");
is(ask_ok($r2, "SELECT fl_rate_refund('user', 'hot-a', 'many') - fl_rate_refund('user', 'hot-b', 'many')"), 0, 'what was refused was given back on both');

# ---- a node that refuses what is not its own

ask_ok($direct, 'SET fliplet_ratelimit.owner_check = \'64: 0-15\'');
like(fields($direct, "SELECT fl_rate_check('user', '$key', 'hourly')"), qr/55000: this node does not own slot \d+, to which the key belongs/, 'owner_check refuses a key of another node');
is(ask_ok($direct, "SELECT fl_rate_peek('user', '$user', 'hourly') IS NOT NULL"), 't', 'and lets its own keys pass');
like(fields($direct, "SELECT fl_rate_try_batch('{user}', '{$key}', '{hourly}')"), qr/55000: this node does not own/, 'in a batch, too');
like(fields($direct, "SET fliplet_ratelimit.owner_check = '$_'"), qr/22023: invalid value/, "is no such setting: $_")
  foreach '63: 0', '64', '64: 5-2', '64: 64', '64: 1,', '8192: 1', 'x';
is(ask_ok($direct, "SET fliplet_ratelimit.owner_check = ' 64 : 0 - 15 , 40 '; SET fliplet_ratelimit.owner_check = '64:'; RESET fliplet_ratelimit.owner_check; SELECT 1"), 1, 'these are');

# ---- a definition that one node lacks

$nodes[3]->safe_psql('postgres', "ALTER SUBSCRIPTION fl_rate_limits_3 DISABLE");
$nodes[0]->safe_psql('postgres', "SELECT fl_rate_define('new', 'user', 'new', 5, '1 h')");
my ($last) = ask_ok($r1, "SELECT k FROM generate_series(1, 1000) AS k WHERE fl_cluster_hash('user', k::text) & 63 >= 48 LIMIT 1");
ok(wait_until(sub { $nodes[1]->safe_psql('postgres', "SELECT count(*) FROM fl_rate_limit WHERE name = 'new'") == 1 }), 'a new definition');
my ($out, $err) = ask($r1, "SELECT fl_rate_check('user', '$last', 'new')");
like($err, qr/42704: unknown rate limit API "new".*CONTEXT:  rate limit node "\Q$strings[3]\E"/s, 'that one node lacks: its error names it');
ok(wait_until(sub { ask_ok($r1, "SELECT string_agg(state, ', ' ORDER BY slots[1]) FROM fl_cluster_status()") eq 'ok, ok, ok, other definitions' }), 'and so does the status');
$nodes[3]->safe_psql('postgres', "ALTER SUBSCRIPTION fl_rate_limits_3 ENABLE");
ok(wait_until(sub { ask_ok($r1, "SELECT bool_and(state = 'ok') FROM fl_cluster_status()") eq 't' }), 'until it has arrived');

# ---- a node of another version

$nodes[3]->safe_psql('postgres', <<'SQL');
ALTER FUNCTION fl_rate_try(text, text, text, bigint, text) RENAME TO fl_rate_try_of_this_version;
CREATE TYPE odd AS (allowed boolean, reason text);
CREATE FUNCTION fl_rate_try(scope text, key text, api text, cost bigint, plan text) RETURNS odd
LANGUAGE sql AS $$ SELECT CASE WHEN cost = 1 THEN ROW(true, 'ok')::odd END $$
SQL
like(fields($r1, "SELECT fl_rate_check('user', '$last', 'many')"), qr/55000: rate limit node "\Q$strings[3]\E" has another version of extension/, 'a node whose answers are others is named');
like(fields($r1, "SELECT fl_rate_check('user', '$last', 'many', 2)"), qr/22000: rate limit node "\Q$strings[3]\E" answered null/, 'so is one that answers nothing');
$nodes[3]->safe_psql('postgres', <<'SQL');
DROP FUNCTION fl_rate_try(text, text, text, bigint, text);
ALTER FUNCTION fl_rate_try_batch(text[], text[], text[], bigint[], text[]) RENAME TO fl_rate_try_batch_of_this_version;
CREATE FUNCTION fl_rate_try_batch(scopes text[], keys text[], apis text[], costs bigint[], plans text[]) RETURNS SETOF odd
LANGUAGE sql AS $$ SELECT NULL::odd $$;
ALTER FUNCTION fl_rate_explain(text, text, text, text) RENAME TO fl_rate_explain_of_this_version;
CREATE FUNCTION fl_rate_explain(scope text, key text, api text, plan text) RETURNS SETOF odd
LANGUAGE sql AS $$ SELECT NULL::odd $$
SQL
like(fields($r1, $_), qr/55000: rate limit node "\Q$strings[3]\E" has another version of extension/, "so is one with other rows: $_")
  foreach "SELECT fl_rate_try_batch('{user}', '{$last}', '{many}')", "SELECT fl_rate_explain('user', '$last', 'many')";
$nodes[3]->safe_psql('postgres', <<'SQL');
DROP FUNCTION fl_rate_try_batch(text[], text[], text[], bigint[], text[]), fl_rate_explain(text, text, text, text);
DROP TYPE odd;
ALTER FUNCTION fl_rate_try_batch_of_this_version(text[], text[], text[], bigint[], text[]) RENAME TO fl_rate_try_batch;
ALTER FUNCTION fl_rate_explain_of_this_version(text, text, text, text) RENAME TO fl_rate_explain
SQL
like(fields($r1, "SELECT fl_rate_check('user', '$last', 'many')"), qr/55000: rate limit node "\Q$strings[3]\E" has no extension "fliplet_ratelimit" in schema "public", or another version/, 'and one that lacks what is called');
$nodes[3]->safe_psql('postgres', 'ALTER FUNCTION fl_rate_try_of_this_version(text, text, text, bigint, text) RENAME TO fl_rate_try');
like(ask_ok($r1, "SELECT fl_rate_check('user', '$last', 'many')"), qr/^\d+$/, 'as before, it answers');

# ---- a dead node

my $on_last = "fl_rate_try('user', '$last', 'many')";
is(ask_ok($r1, "SELECT allowed FROM $on_last"), 't', 'a key of the last node');
$nodes[3]->stop('immediate');
like(fields($r1, "SELECT $on_last"), qr/PT503: rate limit node "\Q$strings[3]\E" does not answer\nDETAIL:  .*\n(.*\n)*HINT:  fl_cluster_status/, 'is answered by an error when it is dead, which names the node');
is(ask_ok($r1, "SELECT allowed FROM fl_rate_try('user', '$user', 'many')"), 't', 'keys of other nodes go on');
is(ask_ok($r1, "SELECT state FROM fl_cluster_status() WHERE slots[1] = 48"), 'unreachable', 'the status knows');
ask_ok($r1, 'SET fliplet_ratelimit.on_node_failure = open');
is(ask_ok($r1, "SELECT allowed, reason, key, remaining FROM $on_last"), "t|unavailable|$last|", 'open: it is granted');
is(ask_ok($r1, "SELECT fl_rate_check('user', '$last', 'many')"), '', 'by fl_rate_check, too');
like(fields($r1, "SELECT * FROM fl_rate_explain('user', '$last', 'many')"), qr/PT503: rate limit node "\Q$strings[3]\E" does not answer/, 'but nothing can be explained');
is(ask_ok($r1, "SELECT string_agg(reason, ',' ORDER BY ordinality) FROM fl_rate_try_batch('{user,user,user}', '{$user,$last,$user}', '{many,many,many}') WITH ORDINALITY"), 'ok,unavailable,ok', 'in a batch those of the dead node alone');
is(ask_ok($r1, "SELECT allowed, key FROM fl_rate_try_all('{user,user}', '{$user,$last}', 'many')"), "t|$user", 'of several keys the others decide');
is(ask_ok($r1, 'SELECT closed > 0, open >= 4, last_at IS NOT NULL FROM fl_cluster_failures()'), 't|t|t', 'all of it is counted');
ask_ok($r1, 'RESET fliplet_ratelimit.on_node_failure');
like(fields($r1, "SELECT fl_rate_try_all('{user,user}', '{$user,$last}', 'many')"), qr/PT503/, 'closed: several keys need all of their nodes');
$nodes[3]->start;
ok(wait_until(sub { ask($r1, "SELECT allowed FROM $on_last") eq 't' }), 'it is back, and so are its answers');
is((ask($r1, "SELECT allowed FROM $on_last"))[1], '', 'without a word to the client');

# ---- a hung node

my $pid = (split(/\n/, slurp_file($nodes[3]->data_dir . '/postmaster.pid')))[0];
my @stopped = ($pid, split(/\n/, $nodes[3]->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")));
ask_ok($r1, "SET fliplet_ratelimit.node_timeout = '300 ms'; SET fliplet_ratelimit.node_retry = '1 h'");
# a new session: PL/Proxy does not look whether a connection still stands that it
# used within the last two seconds
$r2->quit;
$r2 = session($routers[1]);
ask_ok($r2, "SET fliplet_ratelimit.node_timeout = '300 ms'; SET fliplet_ratelimit.node_retry = 0");
kill 'STOP', @stopped;
END { my $status = $?; kill 'CONT', @stopped if @stopped; $? = $status; }
like(fields($r1, "SELECT $on_last"), qr/PT503: .*DETAIL:  There was no answer within 300 ms/s, 'a hung node is left after node_timeout');
like(fields($r1, "SELECT $on_last"), qr/PT503: .*DETAIL:  It did not answer a moment ago/s, 'and not asked again before node_retry');
is(ask_ok($r1, "SELECT allowed FROM fl_rate_try('user', '$user', 'many')"), 't', 'other nodes answer');
like(fields($r2, "SELECT $on_last"), qr/PT503: .*no answer within 300 ms/s, 'the same of a router that has to connect first') foreach 1 .. 2;
is(ask_ok($r2, "SELECT pg_sleep(0.4) IS NOT NULL, allowed FROM fl_rate_try('user', '$user', 'many')"), 't|t', 'no deadline is left behind');
kill 'CONT', @stopped;
@stopped = ();
ok(wait_until(sub { ask($r2, "SELECT allowed FROM $on_last") eq 't' }), 'it goes on');
is((ask($r2, "SELECT allowed FROM $on_last"))[1], '', 'without a word to the client');
ask_ok($r1, 'SET fliplet_ratelimit.node_retry = 0');

# ---- a slot moves, under an open session

my ($slot) = ask_ok($r1, "SELECT fl_cluster_hash('user', '$last') & 63");
like(fields($r1, "SELECT fl_cluster_move(64, '$strings[0]')"), qr/22023: slot must be between 0 and 63/, 'there is no slot 64');
like(fields($r1, "SELECT fl_cluster_move($slot, 'host=/nowhere dbname=x')"), qr{PT503: rate limit node "host=/nowhere dbname=x" cannot be used}, 'a slot is not moved to nowhere');
is(ask_ok($r2, "SELECT remaining < 999 FROM fl_rate_peek('user', '$last', 'many')"), 't', 'a key with a history');
ask_ok($_, "SELECT fl_cluster_move($slot, '$strings[0]')") foreach $r1, $r2;
is(ask_ok($r2, "SELECT remaining FROM $on_last"), 999, 'begins afresh where it has been moved');
is($nodes[0]->safe_psql('postgres', "SELECT used FROM fl_rate_counters WHERE key = '$last' AND name = 'many'"), 1, 'on the new node');
is(ask_ok($r1, 'SELECT array_agg(cardinality(slots) ORDER BY slots[1]) FROM fl_cluster_status()'), '{17,16,16,15}', 'and no other slot was touched');

# ---- PgBouncer between router and node

SKIP:
{
	my $program = find_pgbouncer();
	skip 'there is no pgbouncer here', 5 unless $program;
	my ($dir, $port, $bouncer) = start_pgbouncer($program, "postgres = $strings[0] pool_size=2", '');
	my ($pooled) = ask_ok($r1, "SELECT k FROM generate_series(1, 1000) AS k WHERE fl_cluster_hash('user', k::text) & 63 = 1 LIMIT 1");
	ask_ok($r1, "SELECT fl_rate_reset('user', '$pooled', 'hourly')");
	ok(wait_until(sub { (ask($r1, "SELECT fl_cluster_move(1, 'host=$dir port=$port dbname=postgres')"))[1] eq '' }), 'a slot behind PgBouncer');
	is(ask_ok($r1, "SELECT array_agg(fl_rate_check('user', '$pooled', 'hourly')) FROM generate_series(1, 5)"), '{4,3,2,1,0}', 'is counted in the node');
	like(fields($r1, "SELECT fl_rate_check('user', '$pooled', 'hourly')"), qr/PT429.*\nDETAIL:  \{"message".*\nHINT:  Retry after an hour\.\nCONSTRAINT NAME:  hourly/, 'refuses with all fields');
	like(fields($r1, "SELECT fl_rate_check('user', '$pooled', 'hourli')"), qr/ERROR:  42704: unknown rate limit API "hourli"\nHINT:  Perhaps you meant "hourly"/, 'and raises as before');
	ask_ok($r1, "SELECT fl_cluster_move(1, '$strings[0]')");
	is(ask_ok($r1, "SELECT remaining FROM fl_rate_peek('user', '$pooled', 'hourly')"), 0, 'the node is the same without it');
	$bouncer->signal('KILL');
	$bouncer->finish;
}

# ---- a standby is promoted, under an open session

$nodes[1]->append_conf('postgresql.conf', "hot_standby = on\n");
$nodes[1]->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($nodes[1], 'base', has_streaming => 1);
$standby->start;
my $hosts = 'host=' . join(',', $nodes[1]->host, $standby->host) . ' port=' . join(',', $nodes[1]->port, $standby->port) . ' dbname=postgres target_session_attrs=primary';
my ($other) = ask_ok($r1, "SELECT k FROM generate_series(1, 1000) AS k WHERE fl_cluster_hash('user', k::text) & 63 = 20 LIMIT 1");
ask_ok($r1, "SELECT fl_cluster_move(20, '$hosts')");
is(ask_ok($r1, "SELECT allowed FROM fl_rate_try('user', '$other', 'many')"), 't', 'a slot with a primary and a standby');
$nodes[1]->stop('immediate');
$standby->promote;
ok(wait_until(sub { ask($r1, "SELECT allowed FROM fl_rate_try('user', '$other', 'many')") eq 't' }), 'goes on when the standby is promoted');

crashed_ok($_, 0, 'no crash of ' . $_->name) foreach @routers, $nodes[0], $nodes[2];
$r1->quit;
$r2->quit;
$direct->quit;
done_testing();
