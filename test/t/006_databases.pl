
# Two databases of one server have nothing to do with each other.

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
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION fliplet_ratelimit');
# A copy has the same secret, and the same OIDs.
$node->safe_psql('postgres', 'CREATE DATABASE twin TEMPLATE other');

my %s = map { $_ => session($node, $_) } ('postgres', 'other', 'twin');
my $ai = q{SELECT fl_rate_check('user', '1', 'ai')};

granted_ok($s{postgres}, $ai, 9, 'a request in one database');
granted_ok($s{other}, $ai, 9, 'spends nothing in another');
granted_ok($s{twin}, $ai, 9, 'nor in one that is a copy of it');
granted_ok($s{other}, $ai, 8, 'each counts its own');
granted_ok($s{postgres}, $ai, 8, 'each');

ask_ok($s{other}, q{SELECT fl_rate_define('small', 'user', 'small', 3, '1 h')});
granted_ok($s{other}, q{SELECT fl_rate_check('user', 'in other', 'small')},
	2, 'a definition of one database');
my (undef, $err) = ask($s{postgres}, q{SELECT fl_rate_check('user', '1', 'small')});
is(sqlstate($err), '42704', 'is unknown in another');

granted_ok($s{postgres}, 'SELECT name, key, used FROM fl_rate_counters',
	'fliplet/ai|1|2', 'fl_rate_counters shows one database');
granted_ok($s{other}, 'SELECT name, key, used FROM fl_rate_counters ORDER BY 1',
	"fliplet/ai|1|2\nsmall|in other|1", 'each its own');
granted_ok($s{postgres}, 'SELECT sum(granted), sum(keys) FROM fl_rate_stats',
	'2|1', 'fl_rate_stats counts one database');
granted_ok($s{other}, 'SELECT sum(granted), sum(keys) FROM fl_rate_stats',
	'3|2', 'each its own');
granted_ok($s{postgres}, 'SELECT keys FROM fl_rate_store', '1',
	'fl_rate_store counts the keys of one database');
granted_ok($s{other}, 'SELECT keys FROM fl_rate_store', '2', 'each its own');

granted_ok($s{other}, q{SELECT fl_rate_reset('user', '1', 'ai') > 0}, 't', 'a reset');
granted_ok($s{other}, $ai, 9, 'clears in its database');
granted_ok($s{postgres}, $ai, 7, 'and only there');
granted_ok($s{other}, q{SELECT fl_rate_forget('user', '1') > 0}, 't', 'fl_rate_forget');
granted_ok($s{postgres}, $ai, 6, 'stays in its database');

ask_ok($s{other}, 'SELECT fl_rate_stats_reset()');
granted_ok($s{other}, 'SELECT sum(granted) FROM fl_rate_stats', '0',
	'fl_rate_stats_reset');
granted_ok($s{postgres}, 'SELECT sum(granted) FROM fl_rate_stats', '4',
	'stays in its database');

granted_ok($s{twin}, $ai, 8, 'the copy has counted on');
granted_ok($s{other}, 'SELECT fl_rate_reset_all()', '1',
	'fl_rate_reset_all says how many counters of its database there were');
granted_ok($s{other}, 'SELECT count(*) FROM fl_rate_counters', '0', 'it clears all of these');
granted_ok($s{postgres}, $ai, 5, 'and none of another database');
granted_ok($s{twin}, $ai, 7, 'nor of a copy');

# A database that is dropped, and one of the same name
$s{twin}->quit;
$node->safe_psql('postgres', 'DROP DATABASE twin');
$node->safe_psql('postgres', 'CREATE DATABASE twin TEMPLATE template0');
$node->safe_psql('twin', 'CREATE EXTENSION fliplet_ratelimit');
is($node->safe_psql('twin', $ai), '9', 'a new database of an old name begins clean');

$_->quit foreach @s{ 'postgres', 'other' };
$node->stop;
done_testing();
