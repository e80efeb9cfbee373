
# Maintenance by itself: pg_cron, and a background worker

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# ------------------------------------------------ the worker

my $node = new_node('worker');
$node->safe_psql('postgres', 'CREATE DATABASE "Other db"');
$node->safe_psql('postgres', 'CREATE DATABASE plain');
$node->safe_psql('Other db', 'CREATE SCHEMA "of its own"');
$node->safe_psql('Other db', 'CREATE EXTENSION fliplet_ratelimit SCHEMA "of its own"');
$node->safe_psql('postgres', q{SELECT fl_rate_define('hourly', 'user', 'hourly', 10, '1 h')});
$node->safe_psql('Other db', q{SET search_path = "of its own"; SELECT fl_rate_define('hourly', 'user', 'hourly', 10, '1 h')});
$node->append_conf('postgresql.conf', <<EOC);
shared_preload_libraries = 'fliplet_ratelimit'
fliplet_ratelimit.worker_databases = 'postgres, "Other db", plain'
fliplet_ratelimit.worker_interval = 1s
EOC
$node->restart;
is($node->safe_psql('postgres', q{SELECT fl_rate_check('user', '1', 'hourly', 3)}), 7, 'the store is made while the library is preloaded');
$node->safe_psql('Other db', q{SET search_path = "of its own"; SELECT fl_rate_check('user', '1', 'hourly', 4)});
ok(wait_until(sub { $node->safe_psql('postgres', 'SELECT count(*) FROM fl_rate_saved') == 1 }),
	'a background worker saves counters');
ok(wait_until(sub { $node->safe_psql('Other db', 'SELECT count(*) FROM "of its own".fl_rate_saved') == 1 }),
	'one for each database, wherever the extension is');
is($node->safe_psql('postgres', q{SELECT sum(granted) FROM fl_rate_history}), 1, 'and keeps the history');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'fliplet_ratelimit maintenance'}),
	3, 'and does no harm where the extension is not');
$node->adjust_conf('postgresql.conf', 'fliplet_ratelimit.worker_interval', '1h');
$node->reload;
ok(wait_until(sub { $node->safe_psql('postgres', 'SHOW fliplet_ratelimit.worker_interval') eq '1h' }), 'how often can be changed');
$node->safe_psql('postgres', q{SELECT fl_rate_check('user', '1', 'hourly', 2)});
$node->restart;
is($node->safe_psql('postgres', q{SELECT remaining FROM fl_rate_peek('user', '1', 'hourly')}),
	5, 'an orderly restart loses nothing');
my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'fliplet_ratelimit maintenance'};
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'fliplet_ratelimit maintenance' AND datname = 'postgres'});
ok(wait_until(sub { $node->safe_psql('postgres', $workers) == 2 }), 'a worker that is terminated');
ok(wait_until(sub { $node->safe_psql('postgres', $workers) == 3 }), 'comes back');
unlike(slurp_file($node->logfile), qr/ERROR|FATAL|PANIC/, 'all of that without an error');
$node->stop;

# ------------------------------------------------ pg_cron

my $cron = new_node('cron', extension => 0, start => 0, conf => <<EOC);
cron.database_name = 'postgres'
cron.use_background_workers = on
max_worker_processes = 20
EOC
SKIP:
{
	my ($sharedir) = run_command(['pg_config', '--sharedir']);
	skip 'pg_cron is not installed', 12 unless -e "$sharedir/extension/pg_cron.control";

	$cron->start;
	$cron->safe_psql('postgres', 'CREATE EXTENSION fliplet_ratelimit');
	my ($rc, $out, $err) = $cron->psql('postgres', 'SELECT fl_rate_schedule()');
	like($err, qr/needs the extension pg_cron in this database/, 'without pg_cron there is no schedule');
	like($err, qr/HINT: .*shared_preload_libraries|HINT: .*There, call/, 'and a hint');
	$cron->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_cron'");
	$cron->restart;
	$cron->safe_psql('postgres', 'CREATE DATABASE elsewhere');
	$cron->safe_psql('elsewhere', 'CREATE EXTENSION fliplet_ratelimit');
	($rc, $out, $err) = $cron->psql('elsewhere', 'SELECT fl_rate_schedule()');
	like($err, qr/DETAIL:  pg_cron is for the database "postgres"/, 'pg_cron is in another database');
	my ($call) = $err =~ /call (cron\.schedule_in_database\(.*\))\./;
	ok($call, 'the hint says what to call there');

	$cron->safe_psql('postgres', 'CREATE EXTENSION pg_cron');
	$cron->safe_psql('postgres', q{SELECT fl_rate_define('hourly', 'user', 'hourly', 10, '1 h')});
	$cron->safe_psql('postgres', q{SELECT fl_rate_check('user', '1', 'hourly', 3)});
	my $job = $cron->safe_psql('postgres', 'SELECT fl_rate_schedule()');
	is($cron->safe_psql('postgres', "SELECT schedule || ' ' || jobname || ' ' || active FROM cron.job WHERE jobid = $job"),
		'* * * * * fliplet_ratelimit/postgres true', 'a job a minute');
	is($cron->safe_psql('postgres', q{SELECT fl_rate_schedule('*/5 * * * *')}), $job, 'another schedule');
	is($cron->safe_psql('postgres', 'SELECT string_agg(schedule, $$|$$) FROM cron.job'), '*/5 * * * *', 'replaces the first');
	($rc, $out, $err) = $cron->psql('postgres', q{SELECT fl_rate_schedule('now and then')});
	isnt($rc, 0, 'a schedule that makes no sense is an error');
	$cron->safe_psql('postgres', 'SELECT fl_rate_schedule()');
	$cron->safe_psql('postgres', "SELECT $call");
	is($cron->safe_psql('postgres', q{SELECT count(*) FROM cron.job WHERE command = 'SELECT public.fl_rate_maintain()'}),
		2, 'a job for each database');

	# pg_cron knows no schedule shorter than a minute
	ok(wait_until(sub { $cron->safe_psql('postgres', 'SELECT count(*) FROM fl_rate_saved') == 1 }),
		'pg_cron runs maintenance');
	ok(wait_until(sub { $cron->safe_psql('postgres', q{SELECT count(DISTINCT database) FROM cron.job_run_details WHERE status = 'succeeded'}) == 2 }),
		'and says so, for both');
	is($cron->safe_psql('postgres', q{SELECT count(*) FROM cron.job_run_details WHERE status NOT IN ('succeeded', 'running', 'starting')}),
		0, 'without a failure');
	$cron->stop;
}

done_testing();
