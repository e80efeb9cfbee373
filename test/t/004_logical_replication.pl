
# Definitions that arrive by replication: session_replication_role, and a real
# subscription to another server's definitions

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $shipped = q{SELECT string_agg(limit_id || ' ' || name || ' ' || max_requests || ' ' || period, ', ' ORDER BY limit_id DESC)
	FROM fl_rate_limit WHERE limit_id <= 0};
my $expected = '-1 fliplet/data-sources 200 00:00:10, -2 fliplet/communicate 20 00:00:30,'
  . ' -3 fliplet/audit-logs 30 00:00:10, -4 fliplet/ai 10 00:01:00,'
  . ' -5 fliplet/app-actions 60 00:01:00';
my $max = q{SELECT max_requests FROM fl_rate_peek('user', '1', 'small')};

# ---- session_replication_role = replica

my $a = new_node('a', allows_streaming => 'logical');
is($a->safe_psql('postgres', $shipped), $expected, 'the shipped limits');

my $open = session($a);
my $replica = session($a);
ask_ok($replica, 'SET session_replication_role = replica');
ask_ok($open, q{SELECT fl_rate_check('user', '1', 'ai')});

ask_ok($replica, q{INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('small', 'user', 'small', 3, '1 h')});
granted_ok($open, $max, 3, 'a row inserted under session_replication_role = replica reaches an open session');
ask_ok($replica, q{UPDATE fl_rate_limit SET max_requests = 4 WHERE name = 'small'});
granted_ok($open, $max, 4, 'an update does');
my (undef, $err) = ask($replica, q{UPDATE fl_rate_limit SET max_requests = -1 WHERE name = 'small'});
is(sqlstate($err), '23514', 'a definition that makes no sense is refused there too');

ask_ok($replica, q{UPDATE fl_rate_limit SET max_requests = 1 WHERE limit_id = -1});
ask_ok($replica, q{DELETE FROM fl_rate_limit WHERE limit_id = -2});
ask_ok($replica, q{INSERT INTO fl_rate_limit (limit_id, name, scope, api, max_requests, period) VALUES (-1, 'x', 'user', 'x', 3, '1 h'), (-99, 'y', 'user', 'y', 3, '1 h')});
granted_ok($open, $shipped, $expected, 'changes of shipped rows are skipped under that role');

ask_ok($replica, 'TRUNCATE fl_rate_limit');
granted_ok($open, $shipped, $expected, 'a TRUNCATE under that role leaves the shipped rows');
granted_ok($open, q{SELECT count(*) FROM fl_rate_limit}, 5, 'and only these');
(undef, $err) = ask($open, $max);
is(sqlstate($err), '42704', 'which reaches an open session');

(undef, $err) = ask($open, 'TRUNCATE fl_rate_limit');
is(sqlstate($err), '55000', 'without that role TRUNCATE is refused');
(undef, $err) = ask($open, 'DELETE FROM fl_rate_limit WHERE limit_id = -1');
is(sqlstate($err), '55000', 'and so is deleting a shipped row');
granted_ok($open, $shipped, $expected, 'without effect');
$replica->quit;

# ---- a subscription

my $b = new_node('b');
$a->safe_psql('postgres', <<'SQL');
SELECT fl_rate_define('small', 'user', 'small', 5, '1 h'),
       fl_rate_define('small', 'user', 'small', 50, '1 h', key => 'big'),
       fl_rate_define('fliplet/ai', 'user', 'ai', 1000, '1 h', plan => 'gold');
CREATE PUBLICATION definitions FOR TABLE fl_rate_limit;
SQL
my $b_open = session($b);
ask_ok($b_open, q{SELECT fl_rate_check('user', '1', 'ai')});

my $connstr = $a->connstr . ' dbname=postgres';
$b->safe_psql('postgres',
	"CREATE SUBSCRIPTION from_a CONNECTION '$connstr' PUBLICATION definitions");
$b->wait_for_subscription_sync($a, 'from_a');
is($b->safe_psql('postgres', $shipped), $expected,
	'the initial copy does not collide with the shipped rows');
is( $b->safe_psql('postgres', 'SELECT * FROM fl_rate_limit WHERE limit_id > 0 ORDER BY limit_id'),
	$a->safe_psql('postgres', 'SELECT * FROM fl_rate_limit WHERE limit_id > 0 ORDER BY limit_id'),
	q{and brings the user's rows, with who wrote them and when});
granted_ok($b_open, $max, 5, 'an open session has them');

sub changed
{
	my ($sql, $query, $result, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$a->safe_psql('postgres', $sql);
	$a->wait_for_catchup('from_a');
	return granted_ok($b_open, $query, $result, $name);
}

my $big = q{SELECT max_requests FROM fl_rate_peek('user', 'big', 'small')};
granted_ok($b_open, $big, 50, 'rows for one key too');
changed(q{INSERT INTO fl_rate_limit (name, scope, api, max_requests, period) VALUES ('tiny', 'user', 'small', 1, '1 h')},
	$max, 1, 'a replicated INSERT reaches an open session');
changed(q{UPDATE fl_rate_limit SET max_requests = 2 WHERE name = 'tiny'},
	$max, 2, 'a replicated UPDATE does');
changed(q{DELETE FROM fl_rate_limit WHERE name = 'tiny'},
	$max, 5, 'a replicated DELETE does');
changed(q{UPDATE fl_rate_limit SET max_requests = 51 WHERE key = 'big'},
	$big, 51, 'an UPDATE of a row for one key does');

ask_ok($b_open, 'BEGIN ISOLATION LEVEL REPEATABLE READ');
ask_ok($b_open, 'SELECT count(*) FROM fl_rate_limit');
changed(q{UPDATE fl_rate_limit SET max_requests = 6 WHERE name = 'small' AND key IS NULL},
	$max, 6, 'also one in a REPEATABLE READ transaction');
ask_ok($b_open, 'COMMIT');

# TRUNCATE there is only possible for whoever sets the role on purpose.
changed(q{SET session_replication_role = replica; TRUNCATE fl_rate_limit},
	$shipped, $expected, 'a replicated TRUNCATE leaves the shipped rows');
granted_ok($b_open, 'SELECT count(*) FROM fl_rate_limit', 5, 'and removes all others');
(undef, $err) = ask($b_open, $max);
is(sqlstate($err), '42704', 'an open session knows');
granted_ok($b_open, q{SELECT max_requests FROM fl_rate_peek('user', 'x', 'ai')},
	10, 'and uses the shipped rows');
changed(q{SELECT fl_rate_define('small', 'user', 'small', 8, '1 h')},
	$max, 8, 'and replication goes on');
is( join("\n", grep { /ERROR: / && !/unknown rate limit API/ }
		  split(/\n/, slurp_file($b->logfile))),
	'', 'no worker has failed meanwhile');

# ---- everything published: what belongs to one server stays there

my $secret = $b->safe_psql('postgres', 'SELECT * FROM fl_rate_secret');
isnt($secret, $a->safe_psql('postgres', 'SELECT * FROM fl_rate_secret'),
	'two servers have two secrets');
$b->safe_psql('postgres', 'DROP SUBSCRIPTION from_a');
$b->safe_psql('postgres', 'DELETE FROM fl_rate_limit WHERE limit_id > 0');
$a->safe_psql('postgres', <<'SQL');
DROP PUBLICATION definitions;
CREATE PUBLICATION everything FOR ALL TABLES;
SELECT fl_rate_try('user', 'kept', 'small', 9) FROM generate_series(1, 2);
SELECT fl_rate_maintain();
SQL
my $kept = q{SELECT (SELECT count(*) FROM fl_rate_saved) || ' ' || (SELECT count(*) FROM fl_rate_history) || ' '
	|| (SELECT count(*) FROM fl_rate_history_top) || ' ' || (SELECT count(*) FROM fl_rate_rolled WHERE granted + refused > 0)};
like($a->safe_psql('postgres', $kept), qr/^[1-9]\d* [1-9]\d* [1-9]\d* [1-9]\d*$/, 'maintenance writes tables that are published');
$b->safe_psql('postgres',
	"CREATE SUBSCRIPTION all_of_a CONNECTION '$connstr' PUBLICATION everything");
$b->wait_for_subscription_sync($a, 'all_of_a');
granted_ok($b_open, $max, 8, 'FOR ALL TABLES copies the definitions');
is($b->safe_psql('postgres', $shipped), $expected, 'and not the shipped ones');
is($b->safe_psql('postgres', 'SELECT * FROM fl_rate_secret'),
	$secret, 'nor the secret');
is($b->safe_psql('postgres', $kept), '0 0 0 0', 'nor what was saved, or what happened there');
$a->safe_psql('postgres', <<'SQL');
INSERT INTO fl_rate_secret SELECT sha256('another');
SELECT fl_rate_define('small', 'user', 'small', 9, '1 h');
SELECT fl_rate_try('user', 'kept', 'small');
SELECT fl_rate_maintain();
SQL
$a->wait_for_catchup('all_of_a');
granted_ok($b_open, $max, 9, 'later changes arrive');
is($b->safe_psql('postgres', 'SELECT * FROM fl_rate_secret'),
	$secret, 'those of the secret do not');
is($b->safe_psql('postgres', $kept), '0 0 0 0', 'nor those of what was saved');
$b->safe_psql('postgres', q{SELECT fl_rate_check('user', 'own', 'small')});
$b->safe_psql('postgres', 'SELECT fl_rate_maintain()');
is($b->safe_psql('postgres', q{SELECT count(*) FROM fl_rate_saved WHERE key = 'own'}), 1, 'the other server maintains its own');

$_->quit foreach ($open, $b_open);
$b->stop;
$a->stop;
done_testing();
