
# pg_upgrade keeps exactly what the user has defined, the shipped limits once,
# the triggers ALWAYS, and, other than a dump, the secret: it takes the
# extension's tables over as they are.
#
# The old server is the one of OLD_PG_CONFIG, in which the extension has to be
# installed; without that, it is the new one.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use File::Basename qw(dirname);
use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

sub bindir
{
	my ($pg_config) = @_;

	chomp(my $dir = `'$pg_config' --bindir`);
	die "could not run \"$pg_config\"" unless $dir;
	return $dir;
}

my $new_bin = bindir($ENV{PG_CONFIG} // 'pg_config');
my $old_bin = bindir($ENV{OLD_PG_CONFIG} // $ENV{PG_CONFIG} // 'pg_config');

# Both with checksums, or neither: their default differs between versions.
my %options = (extension => 0, start => 0, extra => ['--data-checksums']);
my $old = new_node('old', %options, install_path => dirname($old_bin));
my $new = new_node('new', %options);

# ---- what there is to keep

$old->start;
$old->safe_psql('postgres', <<'SQL');
CREATE ROLE somebody;
CREATE DATABASE defined;
CREATE DATABASE again;
SQL

# Definitions of all kinds, by two users, in a schema of their own; some were
# deleted, and the identity sequence is further on than any row.
$old->safe_psql('defined', <<'SQL');
CREATE SCHEMA limits;
CREATE EXTENSION fliplet_ratelimit SCHEMA limits;
SET search_path = limits;
GRANT ALL ON fl_rate_limit TO somebody;
GRANT ALL ON SEQUENCE fl_rate_limit_limit_id_seq TO somebody;
GRANT USAGE ON SCHEMA limits TO somebody;
SELECT fl_rate_define('fliplet/ai', 'user', 'ai', 100, '1 h'),
       fl_rate_define('fliplet/ai', 'user', 'ai', NULL, NULL, key => 'trusted'),
       fl_rate_define('fliplet/ai', 'user', 'ai', 1000, '1 min', plan => 'gold'),
       fl_rate_define('fliplet/communicate', 'user', 'communicate', 0, NULL, key => 'blocked'),
       fl_rate_define('gone', 'user', 'gone', 1, '1 h'),
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
DELETE FROM fl_rate_limit WHERE name = 'gone';
CREATE TABLE entries (owner text);
CREATE TRIGGER limited BEFORE INSERT ON entries
    FOR EACH ROW EXECUTE FUNCTION fl_rate_trigger('user', 'ai', 'column:owner');
INSERT INTO entries VALUES ('1');
SQL

# An extension that was dropped and made again: nothing of the first one
$old->safe_psql('again', <<'SQL');
CREATE EXTENSION fliplet_ratelimit;
SELECT fl_rate_define('first', 'user', 'first', 1, '1 h') FROM generate_series(1, 5);
DROP EXTENSION fliplet_ratelimit;
CREATE EXTENSION fliplet_ratelimit;
SELECT fl_rate_define('second', 'user', 'second', 2, '1 h'),
       fl_rate_check('user', '1', 'second');
SQL

my %schema = (defined => 'limits', again => 'public');

# What has to be the same afterwards
my %query = (
	'the definitions, shipped ones too' =>
	  'SELECT * FROM fl_rate_limit ORDER BY limit_id',
	'the identity sequence' =>
	  'SELECT last_value, is_called FROM fl_rate_limit_limit_id_seq',
	'the secret' => 'SELECT secret FROM fl_rate_secret',
	# of everybody but the owner; MAINTAIN is new in 17
	'the rights' => <<'SQL',
SELECT object, grantee, privilege_type
FROM (SELECT oid::regclass::text, relowner, coalesce(relacl, acldefault('r', relowner))
      FROM pg_class WHERE relname LIKE 'fl\_rate\_%'
      UNION ALL
      SELECT oid::regprocedure::text, proowner, coalesce(proacl, acldefault('f', proowner))
      FROM pg_proc WHERE proname LIKE 'fl\_rate\_%') AS o (object, owner, acl),
     aclexplode(acl)
WHERE grantee <> owner AND privilege_type <> 'MAINTAIN' ORDER BY 1, 2, 3
SQL
	'the triggers, and how they are enabled' => <<'SQL',
SELECT tgrelid::regclass, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2
SQL
	'what a dump contains' => <<'SQL');
SELECT extversion, extconfig::regclass[], extcondition FROM pg_extension WHERE extname = 'fliplet_ratelimit'
SQL

sub state_of
{
	my ($node, $database) = @_;

	return map {
		$_ => $node->safe_psql($database, "SET search_path = $schema{$database}; $query{$_}")
	} keys %query;
}

my %before = map { $_ => { state_of($old, $_) } } keys %schema;
is(scalar(() = $before{defined}{'the definitions, shipped ones too'} =~ /^-\d/mg),
	5, 'before: the shipped limits once');
is(scalar(() = $before{defined}{'the definitions, shipped ones too'} =~ /^\d/mg),
	8, 'before: eight rows of the user');

# A minor release of the old version that is later than the new server's may
# write into catalogs what that one does not know. Then no table at all can be
# upgraded, and there is nothing to learn about the extension.
if ($old_bin ne $new_bin)
{
	my $plain = PostgreSQL::Test::Utils::tempdir() . '/plain';

	$old->safe_psql('postgres', 'CREATE TABLE plain (a integer)');
	system_or_bail("$new_bin/pg_dump", '--table=plain', "--file=$plain", $old->connstr('postgres'));
	$old->safe_psql('postgres', 'DROP TABLE plain');
	$new->start;
	my $failed = $new->psql('postgres', "BEGIN;\n" . slurp_file($plain) . "ROLLBACK;\n",
		on_error_stop => 1, stderr => \my $why);
	$new->stop;
	if ($failed)
	{
	  SKIP:
		{
			skip $old->pg_version . ' to ' . $new->pg_version . " is not possible for any table: $why", 1;
		}
		$old->stop;
		done_testing();
		exit;
	}
}
$old->stop;

# ---- pg_upgrade

# It leaves files in the current folder.
chdir PostgreSQL::Test::Utils::tempdir() or die $!;
my $upgraded = run_log(
	[
		'pg_upgrade', '--no-sync',
		'--old-datadir' => $old->data_dir,
		'--new-datadir' => $new->data_dir,
		'--old-bindir' => $old_bin,
		'--new-bindir' => $new_bin,
		'--socketdir' => $new->host,
		'--old-port' => $old->port,
		'--new-port' => $new->port
	]);
unless (ok($upgraded, 'pg_upgrade from ' . $old->pg_version . ' to ' . $new->pg_version))
{
	# It says no more than the names of its logs.
	diag(slurp_file($_))
	  foreach glob($new->data_dir . '/pg_upgrade_output.d/*/log/pg_upgrade_dump_*.log');
	BAIL_OUT('there is no upgraded cluster to test');
}
$new->start;

foreach my $database (sort keys %schema)
{
	my %after = state_of($new, $database);
	is($after{$_}, $before{$database}{$_}, "database $database: $_") foreach sort keys %query;
	is( $new->safe_psql($database, <<'SQL'), 'A', "database $database: the extension's triggers are enabled ALWAYS");
SELECT DISTINCT tgenabled FROM pg_trigger
WHERE tgname LIKE 'fl\_rate\_%' AND NOT tgisinternal
SQL
}

# ---- it works

my $session = session($new, 'defined');
ask_ok($session, 'SET search_path = limits');
granted_ok($session, 'SELECT count(*) FROM fl_rate_counters', '0', 'nothing is spent there');
granted_ok($session, q{SELECT fl_rate_check('user', '1', 'data-sources')},
	'199', 'a shipped limit');
granted_ok($session, q{SELECT fl_rate_check('user', '1', 'ai')},
	'99', 'a variant of one, for everyone');
granted_ok($session, q{SELECT fl_rate_check('user', '2', 'ai', plan => 'gold')},
	'999', 'for a plan');
granted_ok($session, q{SELECT reason FROM fl_rate_try('user', 'trusted', 'ai')},
	'unlimited', 'for a key');
refused_ok($session, q{SELECT fl_rate_check('user', 'blocked', 'communicate')},
	'for a key that is blocked');
ask_ok($session, q{INSERT INTO entries VALUES ('1')});
granted_ok($session, q{SELECT fl_rate_check('user', '1', 'ai')},
	'97', 'a table that was limited is so still, by the same counter');
granted_ok($session, q{SELECT fl_rate_define('next', 'user', 'ai', 1, '1 h')},
	'1002', 'the next limit_id is generated where the old cluster was');
granted_ok($session, q{SELECT fl_rate_define('fliplet/ai', 'user', 'ai', 50, '1 min', key => 'trusted')},
	'2', 'a definition is found by its natural key');
my (undef, $err) = ask($session, 'DELETE FROM fl_rate_limit WHERE limit_id = -1');
is(sqlstate($err), '55000', 'shipped limits are guarded');

# A change reaches the session that has the definitions already.
$new->safe_psql('defined', q{SELECT limits.fl_rate_undefine('next')});
granted_ok($session, q{SELECT name, max_requests FROM fl_rate_peek('user', 'trusted', 'ai')},
	'fliplet/ai|50', 'a change');
$new->safe_psql('defined',
	q{SELECT limits.fl_rate_define('fliplet/ai', 'user', 'ai', 60, '1 min', key => 'trusted')});
granted_ok($session, q{SELECT name, max_requests FROM fl_rate_peek('user', 'trusted', 'ai')},
	'fliplet/ai|60', 'is announced to all sessions');
$session->quit;

# ---- a dump of the new cluster

my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$new->command_ok([ 'pg_dump', "--file=$dump", $new->connstr('defined') ], 'pg_dump');
$new->safe_psql('postgres', 'CREATE DATABASE copy');
$new->command_ok(
	[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $new->connstr('copy'), '-f', $dump ],
	'restored');
my $rows = 'SELECT * FROM limits.fl_rate_limit ORDER BY limit_id';
is( $new->safe_psql('copy', $rows), $new->safe_psql('defined', $rows),
	'the user\'s rows and the shipped ones, each once');

# ---- all of it still belongs to the extension

my $members = <<'SQL';
SELECT pg_describe_object(classid, objid, objsubid) FROM pg_depend
WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'fliplet_ratelimit')
  AND classid <> 'pg_type'::regclass
ORDER BY 1
SQL
my $after_upgrade = $new->safe_psql('again', $members);
$new->safe_psql('again', 'DROP EXTENSION fliplet_ratelimit');
is( $new->safe_psql('again', q{SELECT count(*) FROM pg_class WHERE relname LIKE 'fl\_rate\_%'}),
	'0', 'DROP EXTENSION leaves nothing');
$new->safe_psql('again', 'CREATE EXTENSION fliplet_ratelimit');
is($new->safe_psql('again', $members), $after_upgrade, 'it had the objects of one that is made there');
isnt($new->safe_psql('again', 'SELECT secret FROM fl_rate_secret'),
	$before{again}{'the secret'}, 'which has a secret of its own');
is($new->safe_psql('again', q{SELECT fl_rate_check('user', '1', 'ai')}), '9', 'and works');

$new->stop;
done_testing();
