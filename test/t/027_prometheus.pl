
# examples/prometheus: postgres_exporter shows what the views say, to a role that
# may read no more than numbers; Prometheus accepts the rules, whose unit tests
# pass, scrapes the exporter, and finds something for each query of the
# dashboard; and alerts are raised by what they are about.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use HTTP::Tiny;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $examples = "$FindBin::RealBin/../../examples/prometheus";
plan skip_all => 'there are no examples here' unless -e $examples;
foreach my $program (qw(prometheus-postgres-exporter prometheus promtool))
{
	plan skip_all => "there is no $program here" unless grep { -x "$_/$program" } split(/:/, $ENV{PATH});
}

my $dir = PostgreSQL::Test::Utils::tempdir();
my %running;

# Run a program with more environment until the end of the test.
sub start
{
	my ($name, $env, @command) = @_;

	local @ENV{ keys %$env } = values %$env;
	$running{$name} = IPC::Run::start(\@command, '<', \undef,
		'>>', "$PostgreSQL::Test::Utils::log_path/027_$name.log", '2>&1');
	return;
}

END
{
	local $?;
	foreach (values %running) { eval { $_->signal('KILL'); $_->finish }; }
}

sub get
{
	my ($port, $path) = @_;

	return HTTP::Tiny->new(timeout => 20)->get("http://127.0.0.1:$port/$path");
}

# ---- what the exporter exposes

# The samples of our own metrics: a hash of "metric database limit" and numbers,
# and one of metrics and their types.
sub scrape
{
	my ($port) = @_;
	my ($text, %value, %type) = (get($port, 'metrics')->{content});

	$type{$1} = $2 while $text =~ /^# TYPE (\S+) (\S+)/mg;
	while ($text =~ /^(fl_rate_\w+)\{(.*)\} (\S+)$/mg)
	{
		my ($metric, $labels, $value) = ($1, $2, $3);
		my %label = $labels =~ /(\w+)="([^"]*)"/g;
		$value{ join(' ', $metric, grep { defined } @label{qw(datname name)}) } = 0 + $value;
	}
	return (\%value, \%type, $text);
}

# The same from the views, as a superuser
sub from_views
{
	my ($node, $dbname) = @_;
	my %value = split(/[|\n]/, $node->safe_psql($dbname // 'postgres', <<'SQL'));
SELECT concat_ws(' ', 'fl_rate_stats_' || m.key, current_database(), s.name), m.value
FROM fl_rate_stats AS s,
	 LATERAL (VALUES ('granted_total', s.granted), ('refused_total', s.refused), ('delayed_total', s.delayed),
					 ('shadow_refused_total', s.shadow_refused), ('keys', s.keys)) AS m (key, value)
UNION ALL
SELECT concat_ws(' ', m.key, current_database()), m.value
FROM fl_rate_store AS s,
	 LATERAL (VALUES ('fl_rate_store_keys', s.keys), ('fl_rate_store_memory_used_bytes', s.memory_used),
					 ('fl_rate_store_memory_limit_bytes', s.memory_limit), ('fl_rate_store_swept_total', s.swept),
					 ('fl_rate_store_refused_full_total', s.refused_full), ('fl_rate_store_waiters', s.waiters),
					 ('fl_rate_settings_enabled', current_setting('fliplet_ratelimit.enabled')::boolean::integer),
					 ('fl_rate_settings_max_waiters', current_setting('fliplet_ratelimit.max_waiters')::integer)) AS m (key, value)
UNION ALL
SELECT concat_ws(' ', 'fl_rate_history_last_timestamp_seconds', current_database()),
	   (SELECT coalesce(extract(epoch FROM max(minute))::bigint, 0) FROM fl_rate_history)
SQL
	$_ += 0 foreach values %value;
	return \%value;
}

my $node = new_node('main', allows_streaming => 1, conf => <<EOC);
fliplet_ratelimit.max_memory = 2MB
fliplet_ratelimit.max_waiters = 1
EOC
$node->safe_psql('postgres', <<'SQL');
SELECT fl_rate_define('orders', 'user', 'orders', 5, '1 h'),
       fl_rate_define('a/b {c}=$d, %e', 'user', 'export', 2, '1 min', on_limit => 'delay', max_delay => '1 h'),
       fl_rate_define('trial', 'user', 'trial', 3, '1 h', on_limit => 'count'),
       fl_rate_define('flood', 'user', 'flood', 3, '1 h'),
       fl_rate_define('wait', 'user', 'wait', 1, '1 h');
CREATE ROLE prometheus LOGIN;
GRANT pg_monitor TO prometheus;
SQL
is(spend($node, 7, 'user', 'Alice-Secret', 'orders'), 5, 'of seven requests two are refused');
is(spend($node, 2, 'user', 'Bob-Secret', 'orders'), 2, 'none of somebody else');
is(spend($node, 5, 'user', 'Alice-Secret', 'export'), 5, 'five are granted, three of them with a delay');
is(spend($node, 5, 'user', 'Alice-Secret', 'trial'), 5, 'of five a shadow would refuse two');

my %port = map { $_ => PostgreSQL::Test::Cluster::get_free_port() } qw(exporter other prometheus);
my $source = 'user=prometheus host=' . $node->host . ' port=' . $node->port;
my @options = qw(--disable-default-metrics --disable-settings-metrics);
start('exporter',
	{ DATA_SOURCE_NAME => "$source dbname=postgres", PG_EXPORTER_EXTEND_QUERY_PATH => "$examples/queries.yaml" },
	'prometheus-postgres-exporter', "--web.listen-address=127.0.0.1:$port{exporter}", @options);
ok(wait_until(sub { get($port{exporter}, 'metrics')->{status} == 200 }), 'the exporter is there');

my ($value, $type, $text) = scrape($port{exporter});
is_deeply($value, from_views($node), 'the exporter exposes what the views say');
is_deeply([ @$value{ map { "fl_rate_stats_$_ postgres orders" } qw(granted_total refused_total delayed_total shadow_refused_total keys) } ],
	[ 7, 2, 0, 0, 2 ], 'what was granted and refused, and the keys');
is($value->{'fl_rate_stats_delayed_total postgres a/b {c}=$d, %e'}, 3, 'what was delayed, under a name of many signs');
is($value->{'fl_rate_stats_shadow_refused_total postgres trial'}, 2, 'what a shadow would have refused');
is($value->{'fl_rate_stats_granted_total postgres fliplet/ai'}, 0, 'and limits that were never used');
is($value->{'fl_rate_store_memory_limit_bytes postgres'}, 2 * 1024 * 1024, 'memory is in bytes');
like($text, qr/^pg_exporter_last_scrape_error 0$/m, 'no query failed');
unlike($text, qr/Secret/, 'no key is exposed');
my @ours = grep { /^fl_rate_/ } sort keys %$type;
is(join(' ', map { "$_ $type->{$_}" } @ours), join(' ', map { "$_ " . (/_total$/ ? 'counter' : 'gauge') } @ours),
	'totals are counters, all else gauges');
append_to_file("$dir/metrics", join('', map { "$_\n" } grep { m{^(?:# (?:HELP|TYPE) )?fl_rate_} } split(/\n/, $text)));
command_like([ 'sh', '-c', 'promtool check metrics <"$1" 2>&1', 'sh', "$dir/metrics" ], qr/^$/, 'promtool finds nothing wrong with their names');
my %documented = slurp_file("$examples/README.md") =~ /^\| `(fl_rate_\w+)` \| (\w+) \|/mg;
is_deeply(\%documented, { map { $_ => $type->{$_} } @ours }, 'README.md lists them, and no others');

# ---- a role that is a member of pg_monitor, and no more

foreach my $query ('TABLE fl_rate_counters', 'TABLE fl_rate_limit', 'TABLE fl_rate_saved', 'TABLE fl_rate_history_top',
	'TABLE fl_rate_secret', 'SELECT fl_rate_stats_reset()', q{SELECT fl_rate_check('user', '1', 'orders')})
{
	my ($rc, $out, $err) = $node->psql('postgres', $query, extra_params => [ '-U', 'prometheus' ]);
	like($err, qr/permission denied/, "the exporter's role is denied: $query");
}

# ---- Prometheus, by the files as they are but for paths, ports and times

copy_to($_) foreach qw(rules.yaml rules_test.yaml prometheus.yaml);

sub copy_to
{
	my ($name) = @_;
	my $content = slurp_file("$examples/$name");

	if ($name eq 'prometheus.yaml')
	{
		$content =~ s{/etc/prometheus/fliplet_ratelimit/}{$dir/} or die "no path in $name";
		$content =~ s{127\.0\.0\.1:9187}{127.0.0.1:$port{exporter}} or die "no port in $name";
		$content =~ s{scrape_interval: \w+}{scrape_interval: 3s} or die "no interval in $name";
		$content = "global:\n  evaluation_interval: 1s\n$content";
	}
	append_to_file("$dir/$name", $content);
	return;
}

command_like([ 'promtool', 'check', 'config', "$dir/prometheus.yaml" ], qr/SUCCESS: 1 rule files found/, 'promtool accepts the configuration');
command_like([ 'promtool', 'check', 'rules', "$dir/rules.yaml" ], qr/SUCCESS: [1-9]\d* rules found/, 'and the rules');
command_ok([ 'promtool', 'test', 'rules', "$dir/rules_test.yaml" ], 'whose unit tests pass');

start('prometheus', {}, 'prometheus', "--config.file=$dir/prometheus.yaml", "--storage.tsdb.path=$dir/data",
	"--web.listen-address=127.0.0.1:$port{prometheus}");

# What Prometheus answers, undef while it does not
sub prometheus
{
	my ($path, %parameter) = @_;
	my $response = get($port{prometheus}, "api/v1/$path?" . HTTP::Tiny->new->www_form_urlencode(\%parameter));
	my $answer = eval { decode_json($response->{content}) } // {};

	return ($answer->{status} // '') eq 'success' ? $answer->{data} : undef;
}

# A query's samples; none for one that Prometheus does not understand
sub samples
{
	my $data = prometheus('query', query => $_[0]);

	return $data ? @{ $data->{result} } : ();
}

# rate() needs two scrapes.
ok(wait_until(sub { samples('rate(fl_rate_stats_granted_total{job="fliplet_ratelimit"}[5m])') }), 'Prometheus scrapes the exporter');
is_deeply({ map { join(' ', @{ $_->{metric} }{qw(datname name)}) => 0 + $_->{value}[1] } samples('fl_rate_stats_granted_total') },
	{ map { /^fl_rate_stats_granted_total (.*)/ ? ($1 => $value->{$_}) : () } keys %$value }, 'and has its numbers');

my @rules;
ok(wait_until(sub
	{
		@rules = map { @{ $_->{rules} } } @{ (prometheus('rules') // {})->{groups} // [] };
		return @rules && !grep { $_->{health} eq 'unknown' } @rules;
	}), 'Prometheus evaluates the rules');
is(join(' ', map { "$_->{name}: $_->{lastError}" } grep { $_->{health} ne 'ok' } @rules), '', 'all of them');
my $unit_tests = slurp_file("$examples/rules_test.yaml");
foreach my $rule (@rules)
{
	my @expected = $unit_tests =~ /alertname: $rule->{name}\n +exp_alerts:(.*)/g;
	ok((grep { /\[\]/ } @expected) && (grep { !/\[\]/ } @expected), "$rule->{name} is tested to fire, and not to");
}

# ---- the dashboard

# The metrics that a query names
sub metrics_in
{
	my ($query) = @_;

	$query =~ s/\{[^}]*\}|\[[^]]*\]//g;
	$query =~ s/\b(?:by|without|on|ignoring|group_left|group_right) *\([^)]*\)//g;
	$query =~ s/\b(?:and|or|unless)\b|\b[a-z_]\w*(?= *\()//g;
	return $query =~ /\b([a-zA-Z_:][\w:]*)/g;
}

my $dashboard = decode_json(slurp_file("$examples/dashboard.json"));
my @panels = @{ $dashboard->{panels} };
my %variable = map { $_->{name} => $_ } @{ $dashboard->{templating}{list} };
my @queries = map { my $panel = $_; map { [ $panel->{title}, $_->{expr} ] } @{ $panel->{targets} } } @panels;
my %id = map { $_->{id} => 1 } @panels;
is(scalar keys %id, scalar @panels, 'the panels have ids of their own');
is(scalar(grep { !@{ $_->{targets} } } @panels), 0, 'and queries');

my %exposed = map { $_ => 1 } (keys %$type, 'up');
my @named = map { metrics_in($_) } (map { $_->[1] } @queries), map { $_->{query} } @rules;
foreach my $variable (grep { $_->{type} eq 'query' } values %variable)
{
	my ($metric, $matchers, $label) = $variable->{query}{query} =~ /^label_values\((\w+)(\{.*\})?, (\w+)\)$/;
	push @named, $metric;
	isnt(scalar(samples($metric . "{$label!=\"\"}")), 0, "the dashboard's variable \"$variable->{name}\" has values");
}
is(join(' ', grep { !$exposed{$_} } @named), '', 'each metric that dashboard and rules name is exposed');
my %named = map { $_ => 1 } @named;
is(join(' ', grep { !$named{$_} } @ours), '', 'and each that is exposed is named');

foreach (@queries)
{
	my ($title, $query) = @$_;
	my @used = $query =~ /\$\{?(\w+)/g;

	is(join(' ', grep { !/^__/ && !$variable{$_} } @used), '', "the dashboard has the variables of \"$title\"");
	$query =~ s/\$__(?:rate_interval|range)\b/5m/g;
	$query =~ s/\$(\w+)/$variable{$1}{allValue}/ge;
	isnt(scalar(samples($query)), 0, "and there is something to show: $query");
}

# ---- alerts, by what they are about. They are pending until their time is over.

sub alert_ok
{
	my ($name, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(wait_until(sub { grep { $_->{labels}{alertname} eq $name } @{ (prometheus('alerts') // {})->{alerts} // [] } }),
		"$what: $name");
}

sub no_alert_ok
{
	my ($name, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(wait_until(sub { my $data = prometheus('alerts'); $data && !grep { $_->{labels}{alertname} eq $name } @{ $data->{alerts} } }),
		"$what: no $name");
}

no_alert_ok('FlRateRefusals', 'few refusals');
spend($node, 40, 'user', 'Alice-Secret', 'orders');
alert_ok('FlRateRefusals', 'many refusals');

no_alert_ok('FlRateStoreFull', 'as long as there is memory');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE v.reason = 'store_full') FROM generate_series(1, 20000) AS i, fl_rate_try('user', i, 'flood') AS v}),
	'>', 0, 'more keys than memory');
alert_ok('FlRateStoreFull', 'the store is full');
alert_ok('FlRateMemoryNearLimit', 'and its memory taken');

# A session that nobody had before finds no memory for a lane of its own to
# count in.
my @sessions = map { session($node) } 1 .. 4;
my $refused = q{SELECT refused FROM fl_rate_stats WHERE name = 'orders'};
my $before = $node->safe_psql('postgres', $refused);
is(spend($sessions[-1], 3, 'user', 'Alice-Secret', 'orders'), 0, 'keys that have a counter are refused as before');
is($node->safe_psql('postgres', $refused), $before + 3, 'and refusals are counted, in new sessions too');
$_->quit foreach @sessions;

# what was never maintained, with requests
alert_ok('FlRateMaintenanceLate', 'nobody maintains');
$node->safe_psql('postgres', 'SELECT fl_rate_maintain()');
no_alert_ok('FlRateMaintenanceLate', 'somebody does');
($value) = scrape($port{exporter});
cmp_ok($value->{'fl_rate_history_last_timestamp_seconds postgres'}, '>', time - 3600, 'when that was');
is_deeply($value, from_views($node), 'the exporter still exposes what the views say');

$node->safe_psql('postgres', 'SELECT fl_rate_reset_all()');
my $sleeper = session($node);
ask_ok($sleeper, q{SELECT fl_rate_check('user', '1', 'wait')});
no_alert_ok('FlRateWaitersAtLimit', 'nobody sleeps');
start_query($sleeper, q{SELECT fl_rate_wait('user', '1', 'wait', max_wait => '2 h')});
alert_ok('FlRateWaitersAtLimit', 'as many sleep as may');
$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT fl_rate_wait%'});
finish_query($sleeper);
no_alert_ok('FlRateWaitersAtLimit', 'nobody sleeps any more');
$sleeper->quit;

no_alert_ok('FlRateSwitchedOff', 'while limits are enforced');
$node->safe_psql('postgres', q{LOAD 'fliplet_ratelimit'; ALTER SYSTEM SET fliplet_ratelimit.enabled = off});
$node->reload;
alert_ok('FlRateSwitchedOff', 'the kill switch');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET fliplet_ratelimit.enabled');
$node->reload;
no_alert_ok('FlRateSwitchedOff', 'and back');

no_alert_ok('FlRateMetricsMissing', 'while all is there');
$node->safe_psql('postgres', 'REVOKE SELECT ON fl_rate_stats FROM pg_monitor');
alert_ok('FlRateMetricsMissing', 'a grant is missing');
$node->safe_psql('postgres', 'GRANT SELECT ON fl_rate_stats TO pg_monitor');
no_alert_ok('FlRateMetricsMissing', 'granted again');

# ---- counters begin anew, and so do the metrics

spend($node, 1, 'user', 'Alice-Secret', 'orders');
$node->safe_psql('postgres', 'SELECT fl_rate_stats_reset()');
($value) = scrape($port{exporter});
is($value->{'fl_rate_stats_granted_total postgres orders'}, 0, 'fl_rate_stats_reset() resets the counters');
is_deeply($value, from_views($node), 'as in the views');
spend($node, 1, 'user', 'Alice-Secret', 'orders');
$node->stop;
alert_ok('FlRateMetricsMissing', 'the server is away');
$node->start;
ok(wait_until(sub { ($value) = scrape($port{exporter}); exists $value->{'fl_rate_store_keys postgres'} }),
	'when it is back the exporter finds it');
is($value->{'fl_rate_stats_granted_total postgres orders'}, 0, 'a restart resets the counters');
cmp_ok($value->{'fl_rate_history_last_timestamp_seconds postgres'}, '>', 0, 'the history stays');
is_deeply($value, from_views($node), 'all as in the views');

# ---- another database, in another schema

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', <<'SQL');
CREATE SCHEMA limits;
CREATE EXTENSION fliplet_ratelimit SCHEMA limits;
GRANT USAGE ON SCHEMA limits TO prometheus;
ALTER ROLE prometheus IN DATABASE other SET search_path = limits;
ALTER DATABASE other SET search_path = limits;
SQL
is(spend_in_other(3), 3, 'three requests in another database');
start('other', { DATA_SOURCE_NAME => "$source dbname=other" }, 'prometheus-postgres-exporter',
	"--web.listen-address=127.0.0.1:$port{other}", "--extend.query-path=$examples/queries.yaml", @options);
ok(wait_until(sub { ($value) = scrape($port{other}); keys %$value }), 'an exporter of its own');
is_deeply($value, from_views($node, 'other'), 'exposes what the views there say');
is($value->{'fl_rate_stats_granted_total other fliplet/ai'}, 3, 'with the name of the database');

sub spend_in_other
{
	return $node->safe_psql('other',
		"SELECT count(*) FROM generate_series(1, $_[0]) AS i, fl_rate_try('user', '1', 'ai', 1 + 0 * i) AS v WHERE v.allowed");
}

# ---- a standby has no maintenance of its own to be late

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', history_query()), '', 'on a standby there is nothing to say about maintenance');
isnt($node->safe_psql('postgres', history_query()), '', 'on its primary there is');

# The query of fl_rate_history, from the file
sub history_query
{
	my ($query) = slurp_file("$examples/queries.yaml") =~ /^fl_rate_history:\n  query: \|\n((?: {4}.*\n)+)/m or die;
	return $query;
}

$running{exporter}->signal('KILL');
alert_ok('FlRateExporterDown', 'the exporter is away');

unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC/, 'and the server had no trouble');
done_testing();
