
# Floods by a caller who makes up keys, plans and APIs as fast as it can: no
# live counter goes for them, the store keeps within its memory and the backend
# within its own, and the server log stays as it was

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# What a backend may grow by, whatever floods it has been through: its memory
# contexts together (it remembers 20 000 keys, and 1024 sets of scope, API and
# plan), and the memory that the system counts, which malloc gives back
# reluctantly
use constant {
	REQUESTS => 25000,
	CONTEXTS_MAY_GROW => 5 * 1024 * 1024,
	PROCESS_MAY_GROW => 16 * 1024 * 1024,
};

my $node = new_node('main', conf => q{fliplet_ratelimit.max_memory = '2MB'});
$node->safe_psql('postgres', <<'SQL');
SELECT fl_rate_define('live', 'app', 'live', 5, '1 h'),
       fl_rate_define('live bucket', 'app', 'live', 5, '1 h', algorithm => 'token_bucket'),
       fl_rate_define('total', 'user', '*', 1000000, '1 h');

-- more of them than a session copies: others are asked for one by one
SELECT count(fl_rate_define('live', 'app', 'live', 5, '1 h', key => 'special ' || i)) FROM generate_series(1, 500) AS i;

-- Make requests with fresh keys, plans or APIs, as a caller would who knows
-- that errors can be caught; returns how they ended.
CREATE FUNCTION flood(statement text, n int, prefix text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	granted int := 0;
	other int := 0;
	states text[] := '{}';
BEGIN
	FOR i IN 1 .. n LOOP
		BEGIN
			EXECUTE statement USING prefix || ' ' || i;
			granted := granted + 1;
		EXCEPTION WHEN OTHERS THEN
			other := other + 1;
			IF SQLSTATE <> ALL (states) THEN
				states := states || SQLSTATE;
			END IF;
		END;
	END LOOP;
	RETURN granted || ' granted, ' || other || ' not: ' || array_to_string(states, ' ');
END $$;
CREATE ROLE caller;
GRANT EXECUTE ON FUNCTION fl_rate_check(text, text, text, bigint, text), fl_rate_try(text, text, text, bigint, text),
	fl_rate_try_batch(text[], text[], text[], bigint[], text[]) TO caller;
SQL

my $s = session($node);
my $caller = session($node);
my $pid = ask_ok($caller, 'SELECT pg_backend_pid()');
ask_ok($caller, 'SET SESSION AUTHORIZATION caller');

# Private memory of the caller's backend: its contexts, and the process (0 where
# the system does not say)
sub memory
{
	my $offset = -s $node->logfile;
	my $status = "/proc/$pid/status";
	my ($process) = -r $status ? slurp_file($status) =~ /^RssAnon:\s+(\d+) kB/m : ();

	# the backend says it when it next looks
	ask_ok($s, "SELECT pg_log_backend_memory_contexts($pid)");
	ask_ok($caller, 'SELECT 1');
	my ($total) = slurp_file($node->logfile, $offset) =~ /Grand total: (\d+) bytes/;
	return ($total, 1024 * ($process // 0));
}

my @in_the_beginning;

# The caller makes a flood of requests, or one statement that is one.
sub flood_ok
{
	my ($what, $statement, $expected) = @_;
	my $size = -s $node->logfile;
	my $answer = ask_ok($caller,
		$statement =~ /\$1/ ? "SELECT flood(\$\$$statement\$\$, ${\ REQUESTS}, '$what')" : $statement);

	is(-s $node->logfile, $size, "$what: nothing is logged");
	like($answer, $expected, "$what: $answer");
	my @now = memory();
	my ($contexts, $process) = map { $now[$_] - $in_the_beginning[$_] } (0, 1);
	cmp_ok($contexts, '<=', CONTEXTS_MAY_GROW, "$what: the backend's memory contexts have grown by $contexts bytes");
	cmp_ok($process, '<=', PROCESS_MAY_GROW, "$what: the process has grown by $process bytes");
	return;
}

# Live counters, and a store that is full of others
granted_ok($s, q{SELECT sum(fl_rate_check('app', 'live ' || i, 'live', 2)) FROM generate_series(1, 500) AS i},
	1500, 'five hundred live counters of each kind');

ask_ok($caller, q{SELECT flood('SELECT fl_rate_try(''app'', $1, ''live'')', 10, 'first')});
@in_the_beginning = memory();

# Names that nobody has defined
my $all = REQUESTS;
flood_ok('unknown APIs', q{SELECT fl_rate_try('app', 'live 1', left(md5($1), 20))}, qr/^0 granted, $all not: 42704$/);
flood_ok('unknown scopes', q{SELECT fl_rate_try(left(md5($1), 20), 'live 1', 'live')}, qr/^0 granted, $all not: 42704$/);

# Keys that nobody has used
flood_ok('keys', q{SELECT fl_rate_check('app', $1, 'live')}, qr/^\d+ granted, \d{5} not: PT503$/);
granted_ok($s, "SELECT memory_used <= memory_limit, refused_full > $all / 2 FROM fl_rate_store", 't|t',
	'the store is within its memory, and full');
flood_ok('verdicts', q{SELECT fl_rate_try('app', $1, 'live')}, qr/^$all granted/);
flood_ok('a batch',
	"SELECT count(*) FROM fl_rate_try_batch(array_fill('app'::text, '{$all}'), ARRAY(SELECT 'batch ' || i FROM generate_series(1, $all) AS i), array_fill('live'::text, '{$all}'))",
	qr/^$all$/);

# Plans that no row names, and APIs that are known because of a "*" row
flood_ok('plans', q{SELECT fl_rate_try('app', 'live 1', 'live', 5, left(md5($1), 20))}, qr/^$all granted/);
flood_ok('APIs', q{SELECT fl_rate_try('user', 'live 1', left(md5($1), 20))}, qr/^$all granted/);
flood_ok('long keys', q{SELECT fl_rate_try('app', repeat($1, 1000), 'live')}, qr/^$all granted/);
flood_ok('keys again', q{SELECT fl_rate_try('app', $1, 'live')}, qr/^$all granted/);

# From several sessions at once, with errors that nobody catches
my $size = -s $node->logfile;
my $flood = join('', map { "SELECT fl_rate_check('app', 'alone $_', 'live');\n" } (1 .. 1000));
my ($out, $err);
$node->psql('postgres', "\\set VERBOSITY verbose\n$flood", stdout => \$out, stderr => \$err, on_error_stop => 0);
my @refused = $err =~ /ERROR:  PT503:/g;
cmp_ok(scalar(@refused), '>', 900, 'a thousand fresh keys by statements of their own: PT503');
my $log = slurp_file($node->logfile, $size);
unlike($log, qr/alone|STATEMENT|CONTEXT/, 'none of the keys is logged');
is(length($log), 0, 'nothing is logged');
$node->pgbench(
	'--no-vacuum --client=4 --jobs=2 --transactions=1',
	0,
	[qr{processed: 4/4}],
	[qr{^$}],
	'four clients at once',
	{ '017_flood' => q{SELECT flood($$SELECT fl_rate_check('app', $1, 'live')$$, 5000, 'client ' || :client_id)} });

# What was there has not changed by a single request.
granted_ok($s, q{SELECT name, count(*), min(used), max(used) FROM fl_rate_counters WHERE key ~ '^live ' AND scope = 'app' GROUP BY name ORDER BY name},
	"live|500|2|2\nlive bucket|500|2|2", 'live counters are as they were');
granted_ok($s, <<'SQL', '1500|1000|{refused}', 'and exact: three requests of each are left, and no more');
SELECT count(*) FILTER (WHERE (v).allowed), count(*) FILTER (WHERE NOT (v).allowed), array_agg(DISTINCT (v).reason) FILTER (WHERE NOT (v).allowed)
FROM (SELECT fl_rate_try('app', 'live ' || i, 'live') AS v FROM generate_series(1, 5) AS j, generate_series(1, 500) AS i OFFSET 0) AS t
SQL
granted_ok($s, 'SELECT memory_used <= memory_limit FROM fl_rate_store', 't', 'in the same memory');

$_->quit foreach ($s, $caller);
$node->stop;
done_testing();
