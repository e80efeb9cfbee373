
# pg_dump and pg_restore keep exactly what the user has defined; DROP and
# CREATE EXTENSION begin clean

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', extension => 0);
my $dir = PostgreSQL::Test::Utils::tempdir();

sub user_rows
{
	my ($database, $schema) = @_;
	return $node->safe_psql($database,
		"SELECT * FROM $schema.fl_rate_limit WHERE limit_id > 0 ORDER BY limit_id");
}

# ---- dump and restore, in schema public and in another

my %database = (public => 'source', limits => 'elsewhere');
foreach my $schema ('public', 'limits')
{
	my $source = $database{$schema};

	$node->safe_psql('postgres', "CREATE DATABASE $source");
	$node->safe_psql('postgres', 'CREATE ROLE somebody') if $schema eq 'public';
	$node->safe_psql($source, 'CREATE SCHEMA limits') if $schema eq 'limits';
	$node->safe_psql($source, <<SQL);
CREATE EXTENSION fliplet_ratelimit SCHEMA $schema;
SET search_path = $schema;
GRANT ALL ON fl_rate_limit TO somebody;
GRANT ALL ON SEQUENCE fl_rate_limit_limit_id_seq TO somebody;
GRANT USAGE ON SCHEMA $schema TO somebody;
SELECT fl_rate_define('fliplet/ai', 'user', 'ai', 100, '1 min'),
       fl_rate_define('fliplet/ai', 'user', 'ai', NULL, NULL, key => 'trusted'),
       fl_rate_define('fliplet/ai', 'user', 'ai', 1000, '1 min', plan => 'gold'),
       fl_rate_define('month', 'organisation', '*', 100000, '1 mon', algorithm => 'fixed_window',
                      time_zone => 'Europe/London', anchor => '2026-01-01 00:00 Europe/London'),
       fl_rate_define('bucket', 'device', 'data-sources', 10, '1 s', algorithm => 'token_bucket', burst => 50),
       fl_rate_define('throttle', 'app', 'app-actions', 5, '1 s', on_limit => 'delay', max_delay => '3 s',
                      valid_from => '2026-01-01 UTC', valid_until => '2030-01-01 UTC', comment => 'it''s "slow"');
SELECT setval('fl_rate_limit_limit_id_seq', 1000);
SET SESSION AUTHORIZATION somebody;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period, on_limit, enabled)
VALUES ('shadow', 'user', 'shadow', 1, '1 h', 'count', false);
RESET SESSION AUTHORIZATION;
DELETE FROM fl_rate_limit WHERE name = 'month';
INSERT INTO fl_rate_limit (limit_id, name, scope, api, max_requests, period) VALUES (500, 'by hand', 'user', 'x', 0, NULL);
SELECT fl_rate_check('app', 'a', 'app-actions');
SQL
	my $expected = user_rows($source, $schema);
	is(scalar(split(/\n/, $expected)), 7, "schema $schema: seven rows of the user");
	like($expected, qr/^1001\|shadow\|.*\|somebody$/m,
		"schema $schema: one of them by somebody else");

	$node->command_ok(
		[ 'pg_dump', '--format=custom', "--file=$dir/$source.custom", $node->connstr($source) ],
		"schema $schema: pg_dump, custom format");
	$node->command_ok(
		[ 'pg_dump', "--file=$dir/$source.plain", $node->connstr($source) ],
		"schema $schema: pg_dump, plain format");
	unlike(slurp_file("$dir/$source.plain"), qr/^-\d+\t/m,
		"schema $schema: shipped rows are not dumped");
	unlike(slurp_file("$dir/$source.plain"), qr/COPY \w+\.fl_rate_secret/,
		"schema $schema: nor is the secret");

	# Once more from the copy: a dump of a restored database
	foreach my $way ('custom', 'plain', 'jobs', 'data last')
	{
		my $copy = "copy of $source, $way";
		my $name = "schema $schema, $way";
		my $target = $node->connstr . qq( dbname='$copy');

		$node->safe_psql('postgres', qq{CREATE DATABASE "$copy"});
		if ($way eq 'plain')
		{
			$node->command_ok(
				[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $target,
					'-f', "$dir/$source.plain" ],
				"$name: restored");
		}
		else
		{
			my @steps = $way eq 'custom' ? ([])
			  : $way eq 'jobs' ? (['--jobs=2'])
			  : ([ '--section=pre-data' ], [ '--section=data' ],
				 [ '--section=post-data' ]);
			$node->command_ok(
				[ 'pg_restore', '--exit-on-error', @$_, '-d', $target, "$dir/$source.custom" ],
				"$name: restored @$_")
			  foreach @steps;
		}

		is(user_rows($copy, $schema), $expected,
			"$name: exactly the user's rows, each once, as they were");
		is( $node->safe_psql($copy, "SELECT string_agg(limit_id::text, ' ' ORDER BY limit_id DESC) FROM $schema.fl_rate_limit WHERE limit_id <= 0"),
			'-1 -2 -3 -4 -5', "$name: the shipped rows once");
		is( $node->safe_psql($copy, <<SQL),
SELECT tgenabled, count(*) FROM pg_trigger
WHERE tgrelid IN ('$schema.fl_rate_limit'::regclass, '$schema.fl_rate_secret'::regclass)
  AND NOT tgisinternal GROUP BY 1
SQL
			$node->safe_psql($source, <<SQL), "$name: all triggers are enabled ALWAYS");
SELECT 'A', count(*) FROM pg_trigger
WHERE tgrelid IN ('$schema.fl_rate_limit'::regclass, '$schema.fl_rate_secret'::regclass)
  AND NOT tgisinternal
SQL
		is( $node->safe_psql($copy, "SELECT $schema.fl_rate_define('next', 'user', 'x', 1, '1 h')"),
			'1002', "$name: the next limit_id is generated where the old database was");
		is( $node->safe_psql($copy, "SELECT name, max_requests FROM $schema.fl_rate_peek('user', '1', 'ai', plan => 'gold')"),
			'fliplet/ai|1000', "$name: the definitions work");
		is( $node->safe_psql($copy, "SELECT count(*) FROM $schema.fl_rate_counters"),
			'0', "$name: nothing is spent there");
		isnt( $node->safe_psql($copy, "SELECT secret FROM $schema.fl_rate_secret"),
			$node->safe_psql($source, "SELECT secret FROM $schema.fl_rate_secret"),
			"$name: a secret of its own");
	}
}

# --disable-triggers enables all of them afterwards, but not ALWAYS: that
# cannot be prevented, so every session says so.
$node->safe_psql('postgres', 'CREATE DATABASE degraded');
my $degraded = $node->connstr('degraded');
$node->command_ok(
	[ 'pg_restore', '--exit-on-error', @$_, '-d', $degraded, "$dir/source.custom" ],
	"--disable-triggers: restored @$_")
  foreach ([ '--section=pre-data' ], [ '--section=data', '--disable-triggers' ],
	[ '--section=post-data' ]);
is(user_rows('degraded', 'public'), user_rows('source', 'public'),
	"--disable-triggers: exactly the user's rows");
my $warned = session($node, 'degraded');
my ($out, $messages) = ask($warned, q{SELECT fl_rate_check('user', '1', 'ai', plan => 'gold')});
is($out, '999', '--disable-triggers: checks work');
like($messages, qr/WARNING: .*ALWAYS/s,
	'--disable-triggers: a session warns that triggers are no longer enabled ALWAYS');
$warned->quit;

# A search_path that is out to get us, and none at all
$node->safe_psql('elsewhere', <<'SQL');
CREATE SCHEMA evil;
CREATE FUNCTION evil.equal(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE ''called''; END';
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.equal);
CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE ''called''; END';
CREATE TABLE evil.fl_rate_limit (name text);
SQL
foreach my $path ('pg_catalog', 'evil, pg_catalog')
{
	is( $node->safe_psql('elsewhere', <<SQL),
SET search_path = $path;
SELECT (limits.fl_rate_define('path', 'user', 'path', 3, '1 h') > 0)::text;
SELECT limits.fl_rate_check('user', '$path'::text, 'path'::text)::text;
SELECT limits.fl_rate_undefine('path'::text)::text;
SELECT pg_catalog.count(*) > 5 FROM limits.fl_rate_stats;
SQL
		"true\n2\ntrue\nt", "everything works with search_path = $path");
}

# ---- DROP EXTENSION and CREATE EXTENSION again

$node->safe_psql('postgres', 'CREATE DATABASE again');
$node->safe_psql('again', 'CREATE EXTENSION fliplet_ratelimit');
my $open = session($node, 'again');
ask_ok($open, q{SELECT fl_rate_define('small', 'user', 'small', 3, '1 h')});
is( ask_ok($open, q{SELECT fl_rate_check('user', '1', 'small'), fl_rate_check('user', '1', 'ai')}),
	'2|9', 'some spending');
is( ask_ok($open, q{SELECT fl_rate_check('user', '1', 'small'), fl_rate_check('user', '1', 'ai')}),
	'1|8', 'and some more');
$node->safe_psql('again', 'DROP EXTENSION fliplet_ratelimit');
my (undef, $err) = ask($open, q{SELECT fl_rate_check('user', '1', 'ai')});
is(sqlstate($err), '42883', 'without the extension there is no check');
$node->safe_psql('again', 'CREATE EXTENSION fliplet_ratelimit');
is( $node->safe_psql('again', 'SELECT count(*) FROM fl_rate_counters'),
	'0', 'DROP and CREATE EXTENSION begins clean: no counters');
is( $node->safe_psql('again', 'SELECT keys FROM fl_rate_store'),
	'0', 'also not in the number of keys');
is( $node->safe_psql('again', q{SELECT granted, keys FROM fl_rate_stats WHERE name = 'fliplet/ai'}),
	'0|0', 'no statistics');
granted_ok($open, q{SELECT fl_rate_check('user', '1', 'ai')}, '9',
	'nothing is spent, in a session that was open all the time');
(undef, $err) = ask($open, q{SELECT fl_rate_check('user', '1', 'small')});
is(sqlstate($err), '42704', 'and the old definitions are gone from it');
is( $node->safe_psql('again', q{SELECT fl_rate_check('user', '1', 'ai')}),
	'8', 'new sessions count with it');
ask_ok($open, 'DROP EXTENSION fliplet_ratelimit');
ask_ok($open, 'CREATE SCHEMA other');
ask_ok($open, 'CREATE EXTENSION fliplet_ratelimit SCHEMA other');
granted_ok($open, q{SELECT other.fl_rate_check('user', '1', 'ai')}, '9',
	'in another schema too');
(undef, $err) = ask($open, 'ALTER EXTENSION fliplet_ratelimit SET SCHEMA public');
is(sqlstate($err), '0A000', 'from which it cannot be moved');

# within a transaction that is rolled back
ask_ok($open, 'BEGIN');
ask_ok($open, 'DROP EXTENSION fliplet_ratelimit');
ask_ok($open, 'CREATE EXTENSION fliplet_ratelimit SCHEMA public');
granted_ok($open, q{SELECT fl_rate_check('user', '1', 'ai')}, '9', 'a new one');
ask_ok($open, 'ROLLBACK');
granted_ok($open, q{SELECT other.fl_rate_check('user', '1', 'ai')}, '8',
	'a DROP EXTENSION that is rolled back loses nothing');

$open->quit;
$node->stop;
done_testing();
