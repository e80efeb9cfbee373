
# The extension, its database, or the rights in it go away under busy clients:
# clear errors, no crash, nobody hangs, and what is created anew starts afresh

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', conf => 'max_connections = 60');
my $create = <<'SQL';
CREATE EXTENSION fliplet_ratelimit;
SELECT fl_rate_define('own', 'user', 'own', 1000000, '1 h'),
       fl_rate_define('turn', 'user', 'turn', 1, '1 h');
SQL
my $check = q{SELECT fl_rate_check('user', 'k', 'own')};

# What busy clients ask for; the last one through a function that keeps a plan
my @script = map { @$_ } ([
	[ check => $check ],
	[ all => q{SELECT fl_rate_check_all('{user,user}', '{k,l}', 'own')} ],
	[ batch => q{SELECT count(*) FROM fl_rate_try_batch('{user,user}', '{k,l}', '{own,own}')} ],
	[ views => q{SELECT count(*) FROM fl_rate_counters} ],
	[ planned => q{SELECT planned()} ] ]) x 20;
my $planned = <<'SQL';
CREATE FUNCTION planned() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN fl_rate_check('user', 'k', 'own'); END $$;
SQL

# Every answer is one of the states that are expected.
sub states_ok
{
	my ($requests, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %strange;

	foreach (grep { defined $_->{state} } @$requests)
	{
		$strange{"$_->{kind}: $_->{state} $_->{message}"} = 1 unless $_->{state} =~ $expected;
	}
	return is(join("\n", sort keys %strange), '', $name);
}

# ---- DROP EXTENSION

$node->safe_psql('postgres', 'CREATE DATABASE dropped');
$node->safe_psql('dropped', 'CREATE EXTENSION fliplet_ratelimit');
$node->safe_psql('dropped', q{SELECT fl_rate_define('own', 'user', 'own', 1000000, '1 h'), fl_rate_define('turn', 'user', 'turn', 1, '1 h')});
$node->safe_psql('dropped', $planned);
$node->safe_psql('postgres', q{SELECT fl_rate_define('own', 'user', 'own', 1000000, '1 h'), fl_rate_define('turn', 'user', 'turn', 1, '1 h')});
ok($node->safe_psql('postgres', $check) eq '999999', 'a counter of another database');

my $sleeper = session($node, 'dropped');
my $prepared = session($node, 'dropped');
my $watch = session($node);
my $pid = ask_ok($sleeper, 'SELECT pg_backend_pid()');
ask_ok($sleeper, q{SELECT fl_rate_check('user', 'k', 'turn')});
ask_ok($prepared, "PREPARE p AS $check");
ask_ok($prepared, 'EXECUTE p');
start_query($sleeper, q{SELECT fl_rate_wait('user', 'k', 'turn', max_wait => '2 h')});
ok(wait_until(sub { return ask_ok($watch, 'SELECT waiters FROM fl_rate_store') eq '1' }), 'a session sleeps');

my $busy = start_busy($node, 'dropped', (\@script) x 2);
foreach my $round (1 .. 3)
{
	ok($node->poll_query_until('dropped', q{SELECT sum(granted) > 20 FROM fl_rate_counters}),
		"DROP EXTENSION, round $round: clients are busy");
	# it does not wait for anybody
	$node->safe_psql('dropped', q{SET lock_timeout = '60 s'; DROP EXTENSION fliplet_ratelimit});
	my (undef, $err) = ask($prepared, 'EXECUTE p');
	is(sqlstate($err), '42883', "DROP EXTENSION, round $round: a prepared statement finds no function");
	$node->safe_psql('dropped', $create);
	(undef, $err) = ask($prepared, 'EXECUTE p');
	is(sqlstate($err), '', "CREATE EXTENSION, round $round: it finds the new one");
}
my @requests = stop_busy($busy);

# (XX000 is the server's own answer to a statement whose function or view went
# away between its planning and its execution: it takes no lock on functions.)
states_ok(\@requests, qr/^(00000|42883|42P01|42704|42P17|55000|XX000)$/, 'clients get clear errors meanwhile');
my @internal = grep { ($_->{state} // '') eq 'XX000' && $_->{message} !~ /^(cache lookup failed|could not open relation)/ } @requests;
is(join(', ', map { $_->{message} } @internal), '', 'and no internal ones but the server\'s own');
cmp_ok(scalar(grep { ($_->{state} // '') eq '42883' } @requests), '>', 0, 'some of them met the gap');
granted_ok($watch, 'SELECT waiters FROM fl_rate_store', 1, 'the session sleeps on');
ask_ok($watch, "SELECT pg_cancel_backend($pid)");
my (undef, $error) = finish_query($sleeper);
is(sqlstate($error), '57014', 'until it is cancelled');
granted_ok($watch, 'SELECT waiters FROM fl_rate_store', 0, 'then nobody sleeps');

$node->safe_psql('dropped', "DROP EXTENSION fliplet_ratelimit; $create");
granted_ok($prepared, 'SELECT count(*), (SELECT sum(granted) FROM fl_rate_stats) FROM fl_rate_counters', '0|0',
	'what is created anew starts afresh');
granted_ok($prepared, 'EXECUTE p', 999999, 'also in an old session');
granted_ok($sleeper, $check, 999998, 'and the sleeper\'s');
granted_ok($sleeper, q{SELECT fl_rate_check('user', 'k', 'turn')}, 0, 'whose slots were others');
granted_ok($watch, $check, 999998, 'a counter of another database is not touched');

# ---- DROP OWNED

$node->safe_psql('dropped', <<'SQL');
CREATE ROLE client LOGIN;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO client;
GRANT SELECT ON fl_rate_counters TO client;
SQL
{
	local $ENV{PGUSER} = 'client';
	$busy = start_busy($node, 'dropped', (\@script) x 2);
}
ok($node->poll_query_until('dropped', q{SELECT sum(granted) > 20 FROM fl_rate_counters}), 'DROP OWNED: clients are busy');
my $before = $node->safe_psql('dropped', 'SELECT count(*) FROM fl_rate_counters');
$node->safe_psql('dropped', 'DROP OWNED BY client');
$node->safe_psql('dropped', 'SELECT pg_sleep(0.2)');
my $spent = $node->safe_psql('dropped', q{SELECT sum(granted) FROM fl_rate_counters});
$node->safe_psql('dropped', 'SELECT pg_sleep(0.2)');
is($node->safe_psql('dropped', q{SELECT sum(granted) FROM fl_rate_counters}), $spent, 'DROP OWNED: a role that lost its grants spends no more');
@requests = stop_busy($busy);
states_ok(\@requests, qr/^(00000|42501)$/, 'DROP OWNED: it may not do this, it is told');
cmp_ok(scalar(grep { ($_->{state} // '') eq '42501' } @requests), '>', 0, 'DROP OWNED: several times');

# ... by the role that has the extension
$node->safe_psql('dropped', <<SQL);
DROP EXTENSION fliplet_ratelimit;
CREATE ROLE owner SUPERUSER;
SET ROLE owner;
$create
RESET ROLE;
SQL
$busy = start_busy($node, 'dropped', (\@script) x 2);
ok($node->poll_query_until('dropped', q{SELECT sum(granted) > 20 FROM fl_rate_counters}), 'DROP OWNED by the owner: clients are busy');
$node->safe_psql('dropped', 'DROP OWNED BY owner');
$node->safe_psql('dropped', 'SELECT pg_sleep(0.2)');
@requests = stop_busy($busy);
states_ok(\@requests, qr/^(00000|42883|42P01|XX000)$/, 'DROP OWNED by the owner: clients get clear errors');
$node->safe_psql('dropped', $create);
granted_ok($prepared, 'EXECUTE p', 999999, 'DROP OWNED by the owner: what is created anew starts afresh');

# ---- DROP DATABASE ... WITH (FORCE)

start_query($sleeper, q{SELECT fl_rate_check('user', 'k', 'turn'), fl_rate_wait('user', 'k', 'turn', max_wait => '2 h')});
ok(wait_until(sub { return ask_ok($watch, 'SELECT waiters FROM fl_rate_store') eq '1' }), 'DROP DATABASE: a session sleeps');
$busy = start_busy($node, 'dropped', (\@script) x 2);
my $others = start_busy($node, 'postgres', [ [ check => $check ] ]);
ok($node->poll_query_until('dropped', q{SELECT sum(granted) > 20 FROM fl_rate_counters}), 'DROP DATABASE: clients are busy');
$node->safe_psql('postgres', 'DROP DATABASE dropped WITH (FORCE)');
(undef, $error) = finish_query($sleeper);
is(sqlstate($error), '57P01', 'DROP DATABASE: the sleeper is told');
ok(wait_until(sub { return ask_ok($watch, 'SELECT waiters FROM fl_rate_store') eq '0' }), 'DROP DATABASE: nobody sleeps');
$node->safe_psql('postgres', 'CREATE DATABASE dropped');
$node->safe_psql('dropped', $create);
$node->safe_psql('dropped', $planned);
ok($node->poll_query_until('dropped', q{SELECT sum(granted) > 20 FROM fl_rate_counters}), 'DROP DATABASE: clients come back to a new one');
@requests = stop_busy($busy);
# 42704: between CREATE EXTENSION and the definition
states_ok(\@requests, qr/^(00000|42883|42P01|42704)$/, 'DROP DATABASE: clients get clear errors');
my $granted = grep { $_->{kind} =~ /check/ && ($_->{state} // '') eq '00000' } stop_busy($others);
granted_ok($watch, q{SELECT used FROM fl_rate_counters WHERE name = 'own'}, 2 + $granted,
	"DROP DATABASE: clients of another database have lost none of $granted requests");
ok(ask_ok($watch, q{SELECT count(*) FROM fl_rate_counters}) eq '1', 'and see no counter of the old one');

$_->quit foreach ($watch);
crashed_ok($node, 0, 'no backend has crashed');
$node->stop;
done_testing();
