
# The server log: refusals stay out of it unless asked for; settings that are
# changed while the server runs

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main');
my $s = session($node);

# What has been logged by running a query
sub logged
{
	my ($query, $state) = @_;
	my $offset = -s $node->logfile;
	my (undef, $err) = ask($s, $query);

	is(sqlstate($err), $state, "$state: $query") or diag($err);
	# The client has its answer after the log has its line: the collector is
	# off, so both are written by the backend, in that order.
	my $log = slurp_file($node->logfile, $offset);
	return $log;
}

ask_ok($s, <<'SQL');
SELECT fl_rate_define('none', 'user', 'none', 0, NULL);
CREATE TABLE entries (id int);
CREATE TRIGGER limited BEFORE INSERT ON entries
    FOR EACH STATEMENT EXECUTE FUNCTION fl_rate_trigger('user', 'none', 'setting:app.user_id');
SET app.user_id = 'classified';
CREATE FUNCTION nested(key text) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN RETURN fl_rate_check('user', key, 'none'); END $$
SQL

my @refusals = (
	q{SELECT fl_rate_check('user', 'classified', 'none')},
	q{SELECT fl_rate_check_all('{user}', '{classified}', 'none')},
	q{SELECT nested('classified')},
	q{SELECT fl_rate_wait('user', 'classified', 'none')},
	q{SELECT fl_rate_raise(v) FROM fl_rate_try('user', 'classified', 'none') AS v},
	q{INSERT INTO entries VALUES (1)});

# ---- off

is(logged($_, 'PT429'), '', 'a refusal leaves nothing in the server log')
  foreach @refusals;
ask_ok($s, q{SET fliplet_ratelimit.error_style = 'pgrst'});
is(logged($refusals[0], 'PGRST'), '', 'nor does one in the other style');
ask_ok($s, 'RESET fliplet_ratelimit.error_style');

# ---- a flood, by statements of their own and by one that goes on and on

my $flood = join('', map { "$_;\n" } (@refusals[ 0 .. 4 ]) x 200);

# A new session makes 1000 refused requests; returns what has been logged, and
# what it was told.
sub flood
{
	my (%settings) = @_;
	my $offset = -s $node->logfile;
	my ($out, $err);

	local $ENV{PGOPTIONS} = join(' ', map { "-c $_=$settings{$_}" } sort keys %settings);
	$node->psql('postgres', "\\set VERBOSITY verbose\n$flood",
		stdout => \$out, stderr => \$err, on_error_stop => 0);
	my @refused = $err =~ /ERROR:  (?:PT429|PGRST):/g;
	is(scalar(@refused), 1000, 'a flood of 1000 refusals');
	return slurp_file($node->logfile, $offset);
}

is(flood(), '', 'leaves the server log as it was');
is(flood('fliplet_ratelimit.error_style' => 'pgrst'), '', 'in the other style too');
my $size = -s $node->logfile;
granted_ok($s, <<'SQL', 'DO', 'a flood of 100 000 refusals in one statement');
DO $$
DECLARE
	refused int := 0;
BEGIN
	FOR i IN 1 .. 100000 LOOP
		BEGIN
			PERFORM fl_rate_check('user', 'classified', 'none');
		EXCEPTION WHEN SQLSTATE 'PT429' THEN
			refused := refused + 1;
		END;
	END LOOP;
	ASSERT refused = 100000;
END $$;
\echo DO
SQL
is(-s $node->logfile, $size, 'leaves it as it was');

# ---- not ours

my $log = logged(q{DO $$ BEGIN RAISE 'mine' USING ERRCODE = 'PT429'; END $$}, 'PT429');
like($log, qr/ERROR:  mine/, q{somebody else's PT429 is logged});
like($log, qr/STATEMENT:  DO/, 'with its statement');
$log = logged(q{DO $$ BEGIN RAISE 'mine' USING ERRCODE = 'PGRST'; END $$}, 'PGRST');
like($log, qr/ERROR:  mine/, q{and somebody else's PGRST});
$log = logged('SELECT 1 / 0', '22012');
like($log, qr/ERROR:  division by zero/, 'and any other error');

# ---- on

ask_ok($s, 'SET fliplet_ratelimit.log_refusals = on');
foreach my $query (@refusals)
{
	$log = logged($query, 'PT429');
	like($log, qr/ERROR:  You've made too many attempts/, 'log_refusals logs it');
	unlike($log, qr/STATEMENT|CONTEXT/, 'without statement and context');
	unlike($log, qr/classified/, q{and without the subject's key});
}
ask_ok($s, q{SET fliplet_ratelimit.error_style = 'pgrst'});
$log = logged($refusals[2], 'PGRST');
like($log, qr/ERROR:  \{"code"/, 'log_refusals logs the other style');
unlike($log, qr/STATEMENT|CONTEXT|classified/, 'likewise');
ask_ok($s, 'RESET fliplet_ratelimit.error_style');
ask_ok($s, 'RESET fliplet_ratelimit.log_refusals');

# However much the server is asked to log of an error, and however the key
# comes: what a refusal logs is its own message, detail and hint.
foreach my $settings (
	{},
	{ log_min_error_statement => 'debug5' },
	{ log_min_error_statement => 'debug5', log_error_verbosity => 'verbose' })
{
	$log = flood(%$settings, 'fliplet_ratelimit.log_refusals' => 'on');
	my @lines = $log =~ /^.*ERROR:  .*$/mg;
	is(scalar(@lines), 1000, 'log_refusals logs each once, with ' . join(' ', map { "$_=$settings->{$_}" } sort keys %$settings));
	unlike($log, qr/STATEMENT|CONTEXT|QUERY/, 'without statement and context');
	unlike($log, qr/classified/, q{and without the subject's key});
}
foreach my $mode ('extended', 'prepared')
{
	my $offset = -s $node->logfile;

	local $ENV{PGOPTIONS} =
	  '-c fliplet_ratelimit.log_refusals=on -c log_min_error_statement=debug5 -c log_parameter_max_length_on_error=-1';
	$node->pgbench(
		"--no-vacuum --protocol=$mode --transactions=1 --define=key=classified",
		2,
		[qr{processed: 0/1}],
		[qr{You've made too many attempts}],
		"a refusal in the $mode protocol",
		{ "007_$mode" => q{SELECT fl_rate_check('user', :key, 'none')} });
	$log = slurp_file($node->logfile, $offset);
	like($log, qr/ERROR:  You've made too many attempts/, 'is logged');
	unlike($log, qr/STATEMENT|CONTEXT|classified/, 'without its parameters');
}

# Statements that are logged for their own sake are: that is the server's, and
# a refusal adds nothing.
$log = flood(log_statement => 'all');
my @statements = $log =~ /LOG:  statement: /g;
is(scalar(@statements), 1000, 'log_statement logs statements, refused or not');
unlike($log, qr/ERROR|DETAIL|HINT|STATEMENT/, 'but no refusals');

# No text of the extension contains a key: what the client gets
foreach (
	$refusals[0],
	q{SELECT fl_rate_check('user', 'classified', 'unknown')},
	q{SELECT fl_rate_check('unknown', 'classified', 'none')},
	q{SELECT fl_rate_check('user', 'classified', 'none', 0)},
	q{SELECT fl_rate_check_all('{user,user}', '{classified,classified}', 'none')})
{
	my (undef, $err) = ask($s, $_);
	# psql itself repeats the statement's line where there is a position
	my ($text) = $err =~ /^(.*?)(?:^LINE|\z)/ms;
	unlike($text, qr/classified/, "no message contains the key: $_");
	like($err, qr/ERROR/, 'of the error');
}

# Statements that fail otherwise are logged as ever, by the server.

# ---- settings that change while the server runs

my $open = session($node);
granted_ok($open, 'SELECT memory_limit FROM fl_rate_store', 32 * 1024 * 1024,
	'max_memory is 32 MB');
ask_ok($s, q{LOAD 'fliplet_ratelimit'});
my (undef, $err) = ask($s, q{SET fliplet_ratelimit.max_memory = '4MB'});
is(sqlstate($err), '55P02', 'max_memory cannot be changed by a session');
ask_ok($s, q{ALTER SYSTEM SET fliplet_ratelimit.max_memory = '4MB'});
ask_ok($s, q{ALTER SYSTEM SET fliplet_ratelimit.log_refusals = on});
$node->reload;
ok( wait_until(
		sub {
			return ask_ok($open, 'SELECT memory_limit FROM fl_rate_store') eq 4 * 1024 * 1024;
		}),
	'max_memory changes with a reload, in an open session');
is( $node->safe_psql('postgres', 'SELECT memory_limit FROM fl_rate_store'),
	4 * 1024 * 1024, 'and in a new one');
wait_until(sub { return ask_ok($s, 'SHOW fliplet_ratelimit.log_refusals') eq 'on' });
$log = logged($refusals[0], 'PT429');
like($log, qr/ERROR:  You've made/, 'ALTER SYSTEM works after LOAD for the others');
(undef, $err) = ask($s, q{ALTER SYSTEM SET fliplet_ratelimit.max_memory = '1MB'});
is(sqlstate($err), '22023', 'max_memory is at least 2 MB');
(undef, $err) = ask($s, q{SET fliplet_ratelimit.typo = 1});
is(sqlstate($err), '42602', 'the prefix is reserved');

# A server that starts with settings for a library that is loaded later
$node->restart;
is( $node->safe_psql('postgres', 'SELECT memory_limit FROM fl_rate_store'),
	4 * 1024 * 1024, 'the setting outlives a restart');

# Rights on settings
$node->safe_psql('postgres', 'CREATE ROLE app');
my $user = session($node);
ask_ok($user, q{LOAD 'fliplet_ratelimit'});
ask_ok($user, 'SET SESSION AUTHORIZATION app');
foreach (
	'enabled = off', 'shipped_limits = off', 'when_full = allow', 'undefined_limit = allow',
	q{message = 'x'}, q{reference_url = 'x'}, 'log_refusals = on', 'max_waiters = 1',
	'store_keys = hash', q{history_retention = '1d'}, q{save_min_period = '1s'})
{
	(undef, $err) = ask($user, "SET fliplet_ratelimit.$_");
	is(sqlstate($err), '42501', "an ordinary user cannot SET $_");
}
(undef, $err) = ask($user, q{SET fliplet_ratelimit.error_style = 'pgrst'});
is($err, '', 'but error_style');

$_->quit foreach ($open, $user);
$node->stop;
done_testing();
