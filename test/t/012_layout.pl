
# A library of another version meets the store of this one: a clear error,
# never two stores

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# ---- build the other library, in a copy of the source

my $build = copy_source();
my $library = "$build/fliplet_ratelimit.so";

make_in($build, 'COPT=-DFLR_LAYOUT_VERSION=999');
ok(-e $library, 'a library with another layout');

# ---- a database whose functions are in it

my $node = new_node('main');
$node->safe_psql('postgres', 'CREATE DATABASE newer');
$node->safe_psql('newer', <<SQL);
CREATE EXTENSION fliplet_ratelimit;
UPDATE pg_proc SET probin = '$library' WHERE probin = '\$libdir/fliplet_ratelimit';
SQL

my $open = session($node);
granted_ok($open, q{SELECT fl_rate_check('user', '1', 'ai')}, 9,
	'the store is made by the installed library');
my $store = ask_ok($open, 'SELECT since, memory_used FROM fl_rate_store');

my $newer = session($node, 'newer');
foreach (
	q{SELECT fl_rate_check('user', '1', 'ai')},
	q{SELECT * FROM fl_rate_try('user', '1', 'ai')},
	q{SELECT * FROM fl_rate_peek('user', '1', 'ai')},
	q{SELECT * FROM fl_rate_try_batch('{user}', '{1}', '{ai}')},
	q{SELECT fl_rate_wait('user', '1', 'ai')},
	q{SELECT fl_rate_refund('user', '1', 'ai')},
	q{SELECT fl_rate_reset('user', '1', 'ai')},
	q{SELECT fl_rate_reset_all()},
	q{SELECT fl_rate_forget('user', '1')},
	q{SELECT * FROM fl_rate_explain('user', '1', 'ai')},
	q{SELECT * FROM fl_rate_counters},
	q{SELECT * FROM fl_rate_stats},
	q{SELECT * FROM fl_rate_store},
	q{SELECT fl_rate_stats_reset()})
{
	my (undef, $err) = ask($newer, $_);
	is(sqlstate($err), '55000', "the other library raises 55000: $_") or diag($err);
}
ask_ok($newer, 'SET fliplet_ratelimit.when_full = allow');
my (undef, $err) = ask($newer, q{SELECT fl_rate_check('user', '1', 'ai')});
is(sqlstate($err), '55000', 'when_full = allow does not hide it');
like($err, qr/HINT:.*[Rr]estart/, 'and says what to do');
granted_ok($newer,
	q{SELECT count(*) FROM fl_rate_simulate(1, '1 s', ARRAY[now()])}, 1,
	'what needs no store works');

granted_ok($open, q{SELECT fl_rate_check('user', '1', 'ai')}, 8, 'old sessions go on');
is($node->safe_psql('postgres', q{SELECT fl_rate_check('user', '1', 'ai')}),
	7, 'and so do new ones of the old library');
is(ask_ok($open, 'SELECT since, memory_used FROM fl_rate_store'),
	$store, 'on the store that there was');

# ---- a restart is all that it takes

$_->quit foreach ($open, $newer);
$node->restart;
is($node->safe_psql('newer', q{SELECT fl_rate_check('user', '1', 'ai')}),
	9, 'after a restart the other library works');
$open = session($node);
(undef, $err) = ask($open, q{SELECT fl_rate_check('user', '1', 'ai')});
is(sqlstate($err), '55000', 'and the old one raises 55000');
$open->quit;

$node->stop;
done_testing();
