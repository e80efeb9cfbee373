
# Behind PgBouncer in transaction mode, where each transaction of a client may
# run in another session: the same answers, errors with all their fields, and
# exact limits; and the two things to know there: SET leaks to other clients,
# and fl_rate_wait() keeps a server connection while it sleeps.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $program = find_pgbouncer();
plan skip_all => 'there is no pgbouncer here' unless $program;
my ($version) = `'$program' --version` =~ /PgBouncer (\d+\.\d+)/;
my ($major, $minor) = split(/\./, $version);
my $keeps_prepared = $major > 1 || $minor >= 21;

# Sessions in SQL_ASCII would differ between the two ways.
$ENV{PGCLIENTENCODING} = 'UTF8';

my $node = new_node('main');
$node->safe_psql('postgres', <<'SQL');
SELECT fl_rate_define('hourly', 'user', 'hourly', 5, '1 h'),
       fl_rate_define('app-hourly', 'app', 'hourly', 50, '1 h'),
       fl_rate_define('many', 'user', 'many', 1000, '1 h'),
       fl_rate_define('wait', 'user', 'wait', 1, '1 h');
CREATE TABLE entries (data text);
CREATE TRIGGER limited BEFORE INSERT ON entries
    FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'hourly', 'setting:app.user_id');
CREATE TABLE seen (mode text, pid int, allowed bool);
CREATE FUNCTION request(mode text, key text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO seen SELECT mode, pg_backend_pid(), v.allowed FROM fl_rate_try('user', key, 'many') AS v
$$;
SQL

# ---- a pool of four server connections, and one of a single one

my $server = 'host=' . $node->host . ' port=' . $node->port . ' dbname=postgres';
my ($dir, $port, $bouncer) = start_pgbouncer($program,
	"postgres = $server pool_size=4\nsingle = $server pool_size=1",
	$keeps_prepared ? 'max_prepared_statements = 100' : '');

END
{
	local $?;
	eval { $bouncer->signal('KILL'); $bouncer->finish } if $bouncer;
}

# The same cluster, by way of PgBouncer
my $pooled = bless { %$node, _host => $dir, _port => $port }, ref $node;
ok(wait_for_server($pooled), "PgBouncer $version is there");

sub pools
{
	return $pooled->safe_psql('pgbouncer', 'SHOW POOLS', extra_params => ['-F=']);
}

# ---- the same answers, the same errors

# What a session is told, times and line numbers aside
sub answers
{
	my ($where) = @_;
	my $session = session($where);
	my @answers;

	$node->safe_psql('postgres', 'SELECT fl_rate_reset_all()');
	foreach my $query (
		q{SELECT fl_rate_check('user', '42', 'hourly')},
		q{SELECT fl_rate_check('user', 42, 'hourly')},
		q{SELECT v.* FROM fl_rate_try('user', '42', 'hourly', 2) AS v},
		q{SELECT fl_rate_json(v) FROM fl_rate_peek('user', '42', 'hourly') AS v},
		q{SELECT fl_rate_headers(v) FROM fl_rate_try_batch('{user,user}', '{42,43}', '{hourly,many}', '{1,1001}') AS v},
		q{SELECT fl_rate_check('user', '42', 'hourly')},
		q{SELECT fl_rate_check_all('{app,user}', '{7,42}', 'hourly')},
		q{SELECT used FROM fl_rate_explain('app', '7', 'hourly')},
		q{SELECT fl_rate_wait('user', '42', 'hourly', max_wait => '1 s')},
		q{SELECT fl_rate_check('user', '42', 'hourly', 6)},
		q{SELECT fl_rate_check('user', '42', 'hurly')},
		q{SELECT fl_rate_check('user', NULL::text, 'hourly')},
		q{SELECT fl_rate_check('user', repeat('x', 2000) || E'\u00e9', 'hourly')},
		q{BEGIN; SET LOCAL fliplet_ratelimit.error_style = 'pgrst'; SELECT fl_rate_check('user', '42', 'hourly')},
		q{ROLLBACK},
		q{BEGIN READ ONLY; SELECT fl_rate_check('user', '44', 'hourly'); ROLLBACK},
		q{SELECT fl_rate_check('user', '44', 'hourly')},
		q{BEGIN; SET LOCAL app.user_id = '45'; INSERT INTO entries VALUES ('x'), ('y'); COMMIT},
		q{INSERT INTO entries VALUES ('z')},
		q{SELECT fl_rate_refund('user', '42', 'hourly'), fl_rate_reset('user', '42', 'hourly')})
	{
		my ($out, $err) = ask($session, $query);

		push @answers, "$query\n$out\n$err" =~ s/psql:<stdin>:\d+: //gr =~ s/\d{4}-\d\d-\d\d[ T][^|"]*|\d\d:\d\d:\d\d\.\d+|\d+\.\d{3} s|\d{7}(?=[,}])|t=\d+|: "\d{4}"//gr;
	}
	$session->quit;
	return \@answers;
}

my ($direct, $through) = (answers($node), answers($pooled));
is_deeply($through, $direct, 'all answers are as without PgBouncer');
my ($refusal) = grep { /^SELECT fl_rate_check_all/ } @$through;
like($refusal, qr/ERROR:  PT429: You've made/, 'of a refusal: SQLSTATE and message');
like($refusal, qr/^DETAIL:  \{"message": .*"nextValidRequestDate": ".*"\}$/m, 'the detail');
like($refusal, qr/^HINT:  Retry after .*econds\.$/m, 'the hint');
like($refusal, qr/^CONSTRAINT NAME:  hourly$/m, 'the name of the limit');
my ($pgrst) = grep { /pgrst/ } @$through;
like($pgrst, qr/ERROR:  PGRST: .*^DETAIL:  \{"status": 429, "headers": \{.*^CONSTRAINT NAME:  hourly$/ms, 'and in the other style');

# ---- 64 clients over four server connections

foreach my $mode (qw(simple extended prepared))
{
	SKIP:
	{
		skip "PgBouncer $version does not keep prepared statements (1.21 and later do)", 6
		  if $mode eq 'prepared' && !$keeps_prepared;

		$pooled->pgbench("--no-vacuum --client=64 --jobs=1 --transactions=25 --protocol=$mode",
			0, [qr{processed: 1600/1600}], [qr{^$}], "64 clients make 1600 requests, protocol $mode",
			{ "025_$mode" => "SELECT request('$mode', '$mode');" });
		is($node->safe_psql('postgres', "SELECT count(*) FILTER (WHERE allowed), count(*) FROM seen WHERE mode = '$mode'"),
			'1000|1600', 'exactly 1000 are granted');
		is($node->safe_psql('postgres', "SELECT used, granted, refused FROM fl_rate_counters WHERE key = '$mode'"),
			'1000|1000|600', 'and counted');
		like($node->safe_psql('postgres', "SELECT count(DISTINCT pid) FROM seen WHERE mode = '$mode'"),
			qr/^[234]$/, 'by four sessions at most');
	}
}

# ---- SET leaks, SET LOCAL does not

my $a = session($pooled, 'single');
my $b = session($pooled, 'single');

ask_ok($a, q{BEGIN; SET LOCAL app.user_id = 'a'; INSERT INTO entries VALUES ('by a'); COMMIT});
my (undef, $err) = ask($b, q{INSERT INTO entries VALUES ('by b')});
is(sqlstate($err), '22004', 'after SET LOCAL another client has no key, and is told so');
ask_ok($a, q{BEGIN; SELECT set_config('app.user_id', 'a', true); INSERT INTO entries VALUES ('by a'); COMMIT});
(undef, $err) = ask($b, q{INSERT INTO entries VALUES ('by b')});
is(sqlstate($err), '22004', 'nor after set_config() of that kind');

ask_ok($a, q{SET app.user_id = 'a'});
ask_ok($b, q{INSERT INTO entries VALUES ('by b')});
is($node->safe_psql('postgres', q{SELECT used FROM fl_rate_counters WHERE key = 'a'}),
	3, 'after SET another client spends what is not its own');
ask_ok($a, q{SET fliplet_ratelimit.error_style = 'pgrst'});
(undef, $err) = ask($b, q{SELECT fl_rate_check('user', 'b', 'hourly', 6)});
is(sqlstate($err), 'PGRST', 'and gets errors in a style that it has not asked for');
ask_ok($a, q{RESET ALL});

# ---- fl_rate_wait() keeps the server connection

ask_ok($a, q{SELECT fl_rate_check('user', 'w', 'wait')});
start_query($a, q{SELECT fl_rate_wait('user', 'w', 'wait', max_wait => '2 h')});
ok(wait_until(sub { $node->safe_psql('postgres', 'SELECT waiters FROM fl_rate_store') == 1 }), 'a client sleeps until its slot');
start_query($b, q{SELECT 'b is served'});
my ($active, $waiting);
ok( wait_until(sub {
			my %pool = map { my @pool = split /=/; ($pool[0] => \@pool) } split(/\n/, pools());
			# database, user, then the clients that are active, and that wait
			($active, $waiting) = @{ $pool{single} }[2, 3];
			$active == 1 && $waiting == 1;
		}),
	'in a pool of one connection all others wait for it')
  or diag(pools());
is($node->safe_psql('postgres', 'SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query ~ $$^SELECT fl_rate_wait$$'),
	't', 'it is cancelled');
(undef, $err) = finish_query($a);
is(sqlstate($err), '57014', 'so it ends');
is((finish_query($b))[0], 'b is served', 'and the next one has the connection');
is($node->safe_psql('postgres', q{SELECT next_valid_at < now() + interval '90 min' FROM fl_rate_peek('user', 'w', 'wait')}),
	't', 'the slot was given back');

$_->quit foreach $a, $b;
crashed_ok($node, 0, 'the server has not crashed');
$node->stop;
done_testing();
