
# An update of the extension, of its library and of its script, while the
# server runs: definitions and live counters stay, and sessions with the old
# library go on beside those with the new one.
#
# There is only one version yet, so this makes the next one: a function more in
# the library, and other shipped limits. It is installed into the server under
# test for as long as this test runs.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use File::Basename qw(dirname);
use File::Copy qw(copy);
use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# ---- what is installed, and is put back at the end

my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
chomp(my $extension = `'$pg_config' --sharedir`);
chomp(my $library = `'$pg_config' --pkglibdir`);
$extension .= '/extension/fliplet_ratelimit';
$library .= '/fliplet_ratelimit.so';

my $saved = PostgreSQL::Test::Utils::tempdir();
my %copy = (
	$library => "$saved/library",
	"$extension.control" => "$saved/control",
	"$extension--1.0.sql" => "$saved/script");

foreach my $file (keys %copy)
{
	plan skip_all => "\"$file\" cannot be replaced"
	  unless -w $file && -w dirname($file);
}
my $build = copy_source();
foreach my $file (keys %copy)
{
	copy($file, $copy{$file}) or die "could not copy \"$file\": $!";
}

sub put_back
{
	unlink "$extension--1.0--1.1.sql";
	foreach my $file (grep { -e $copy{$_} } keys %copy)
	{
		# Another file, not the same one with other contents: it may be loaded.
		unlink $file;
		copy($copy{$file}, $file) or die "could not put back \"$file\": $!";
		chmod 0755, $file if $file eq $library;
	}
	return;
}

END { put_back() }

# ---- the next version

my $script = slurp_file("$build/src/fliplet_ratelimit--1.0.sql");
my ($shipped) = $script =~ /^CREATE (FUNCTION \@extschema\@\.fl_rate_shipped\(\).*?^\$\$;\n)/ms
  or die 'no function fl_rate_shipped() in the script';
$shipped =~ s/'ai', +10::bigint/'ai', 12::bigint/ or die;
$shipped =~ s/(\n *\(-5, )/\n        (-6, 'user', 'media', 50::bigint, interval '1 h', 'Media APIs'),$1/
  or die;

append_to_file("$build/src/fliplet_ratelimit--1.0--1.1.sql", <<SQL);
CREATE FUNCTION \@extschema\@.fl_rate_next() RETURNS integer LANGUAGE c AS 'MODULE_PATHNAME';
CREATE OR REPLACE $shipped
ALTER TABLE \@extschema\@.fl_rate_limit DISABLE TRIGGER fl_rate_limit_1_guard;
DELETE FROM \@extschema\@.fl_rate_limit WHERE limit_id <= 0;
INSERT INTO \@extschema\@.fl_rate_limit SELECT * FROM \@extschema\@.fl_rate_shipped();
ALTER TABLE \@extschema\@.fl_rate_limit ENABLE ALWAYS TRIGGER fl_rate_limit_1_guard;
SQL
append_to_file("$build/src/next.c", <<'C');
#include "compat.h"
#include "fmgr.h"

PG_FUNCTION_INFO_V1(fl_rate_next);

Datum
fl_rate_next(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(11);
}
C
my $control = slurp_file("$build/fliplet_ratelimit.control");
$control =~ s/'1\.0'/'1.1'/ or die;
unlink "$build/fliplet_ratelimit.control";
append_to_file("$build/fliplet_ratelimit.control", $control);

# Install it; more arguments go to make.
sub install_next
{
	make_in($build, @_, 'install',
		'DATA=src/fliplet_ratelimit--1.0.sql src/fliplet_ratelimit--1.0--1.1.sql');
	return;
}

# ---- a server with 1.0

my $node = new_node('main');
$node->safe_psql('postgres', 'CREATE ROLE somebody; CREATE DATABASE second');
$node->safe_psql('postgres', <<'SQL');
GRANT ALL ON fl_rate_limit TO somebody;
GRANT ALL ON SEQUENCE fl_rate_limit_limit_id_seq TO somebody;
SELECT fl_rate_define('small', 'user', 'small', 3, '1 h'),
       fl_rate_define('small', 'user', 'small', 9, '1 h', plan => 'gold'),
       fl_rate_define('fliplet/communicate', 'user', 'communicate', 7, '1 h', comment => 'mine'),
       fl_rate_define('throttle', 'app', 'app-actions', 5, '1 h', on_limit => 'delay', max_delay => '3 s');
SET SESSION AUTHORIZATION somebody;
INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('bucket', 'user', 'bucket', 10, '1 h');
SQL
$node->safe_psql('second', <<'SQL');
CREATE EXTENSION fliplet_ratelimit;
SELECT fl_rate_define('small', 'user', 'small', 5, '1 h');
SQL

my %query = (
	'the definitions of the user' =>
	  'SELECT * FROM fl_rate_limit WHERE limit_id > 0 ORDER BY limit_id',
	'the identity sequence' =>
	  'SELECT last_value, is_called FROM fl_rate_limit_limit_id_seq',
	'the secret' => 'SELECT secret FROM fl_rate_secret',
	'how the triggers are enabled' => <<'SQL',
SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1
SQL
	'the counters' =>
	  'SELECT name, key, used, remaining, granted, refused FROM fl_rate_counters ORDER BY 1, 2',
	'the statistics' => <<'SQL',
SELECT name, granted, refused, keys FROM fl_rate_stats WHERE granted + refused > 0 ORDER BY 1
SQL
	'the store' => 'SELECT keys, memory_used, since FROM fl_rate_store');

sub state_now
{
	return map { $_ => $node->safe_psql('postgres', $query{$_}) } keys %query;
}

sub version_is
{
	my ($database, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is( $node->safe_psql($database,
			q{SELECT extversion FROM pg_extension WHERE extname = 'fliplet_ratelimit'}),
		$expected, $name);
}

my $small = q{SELECT fl_rate_check('user', '1', 'small')};
my $old = session($node);
granted_ok($old, $small, '2', 'a request');
is(spend($old, 9, 'user', '1', 'communicate'), '7', 'and more, up to refusals');
my $old_second = session($node, 'second');
granted_ok($old_second, $small, '4', 'a request in a second database');
my $before_library = session($node);
my %before = state_now();

# ---- the library is replaced

install_next();
is($node->safe_psql('postgres', $query{$_}), $before{$_}, "with the next library, and the script of 1.0: $_")
  foreach sort keys %query;
version_is('postgres', '1.0', 'which is still in place');
granted_ok($old, $small, '1', 'a session that has loaded the old library goes on');
granted_ok($before_library, $small, '0', 'with what one that loads the next has, too');
refused_ok($old, $small, 'and the other way round');
%before = state_now();

# ---- ALTER EXTENSION UPDATE

my $new = session($node);
ask_ok($new, 'BEGIN');
ask_ok($new, 'ALTER EXTENSION fliplet_ratelimit UPDATE');
ask_ok($new, 'ROLLBACK');
version_is('postgres', '1.0', 'an update that is rolled back');
is($node->safe_psql('postgres', $query{$_}), $before{$_}, "an update that is rolled back: $_")
  foreach sort keys %query;

ask_ok($new, 'ALTER EXTENSION fliplet_ratelimit UPDATE');
version_is('postgres', '1.1', 'an update');
is($node->safe_psql('postgres', $query{$_}), $before{$_}, "an update: $_")
  foreach sort keys %query;
granted_ok($new, 'SELECT fl_rate_next()', '11', 'a function of the next library');
my (undef, $err) = ask($old, 'SELECT fl_rate_next()');
is(sqlstate($err), '42883', 'is unknown to a session with the old one');

foreach ([ 'with the old library' => $old ], [ 'with the next library' => $new ])
{
	my ($name, $session) = @$_;

	refused_ok($session, $small, "a session $name: what was spent is spent");
	granted_ok($session, q{SELECT max_requests FROM fl_rate_peek('user', '2', 'small', plan => 'gold')},
		'9', "a session $name: a variant");
	granted_ok($session, q{SELECT max_requests FROM fl_rate_peek('user', '2', 'communicate')},
		'7', "a session $name: the user's row still replaces a shipped one");
	granted_ok($session, q{SELECT max_requests FROM fl_rate_peek('user', '2', 'ai')},
		'12', "a session $name: a shipped limit that the update has changed");
}
granted_ok($old, q{SELECT fl_rate_check('user', '1', 'media')}, '49',
	'a shipped limit that the update has brought');
granted_ok($new, q{SELECT fl_rate_check('user', '1', 'media')}, '48',
	'counts in sessions with either library');
granted_ok($old, q{SELECT fl_rate_define('small', 'user', 'small', 4, '1 h')}, '1',
	'a definition that one with the old library changes');
granted_ok($new, $small, '0', 'holds in one with the next');
(undef, $err) = ask($new, 'DELETE FROM fl_rate_limit WHERE limit_id = -6');
is(sqlstate($err), '55000', 'the new shipped limits are guarded');

version_is('second', '1.0', 'the second database');
granted_ok($old_second, $small, '3', 'goes on with 1.0');
is($node->safe_psql('second', $small), '2', 'also with the next library');

# ---- a library with another layout

%before = state_now();
install_next('-W', 'src/store.c', 'COPT=-DFLR_LAYOUT_VERSION=999');
my $other = session($node, 'second');
ask_ok($other, 'ALTER EXTENSION fliplet_ratelimit UPDATE');
version_is('second', '1.1', 'with another layout: an update without a restart');
(undef, $err) = ask($other, $small);
is(sqlstate($err), '55000', 'with another layout: a check fails');
like($err, qr/ERROR: .*the counters in shared memory belong to another version/,
	'with another layout: and says why');
like($err, qr/DETAIL: .*has layout version 999, shared memory has layout version \d+\./,
	'with another layout: of which versions');
like($err, qr/HINT: .*Restart the server/, 'with another layout: and what to do');
granted_ok($old_second, $small, '1', 'with another layout: sessions of before go on');
$_->quit foreach ($old, $old_second, $before_library, $new, $other);

$node->restart;
is($node->safe_psql('postgres', $query{$_}), $before{$_}, "after the restart: $_")
  foreach grep { !/counters|statistics|store/ } sort keys %query;
is($node->safe_psql('postgres', $small), '3', 'after the restart: counters begin empty');
is($node->safe_psql('second', $small), '4', 'after the restart: in both databases');
$node->stop;

# ---- as before

put_back();
$node->start;
is( $node->safe_psql('postgres', q{SELECT string_agg(version, ' ') FROM pg_available_extension_versions WHERE name = 'fliplet_ratelimit'}),
	'1.0', 'later tests find 1.0 and nothing else');
$node->stop;
done_testing();
