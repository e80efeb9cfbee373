
# examples/nginx: nginx asks the database before it passes a request on. What
# fits reaches the application, the rest gets the documented 429, and without
# the database or the authorizer the answer is the documented one.

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

my $examples = "$FindBin::RealBin/../../examples/nginx";
plan skip_all => 'there are no examples here' unless -e $examples;
my ($nginx) = grep { -x } map { "$_/nginx" } split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin';
plan skip_all => 'there is no nginx here' unless $nginx;
plan skip_all => 'this nginx has no auth_request' unless `'$nginx' -V 2>&1` =~ /http_auth_request_module/;

my $dir = PostgreSQL::Test::Utils::tempdir();
plan skip_all => 'there is no npm here to bring the driver of PostgreSQL'
  if system("cd '$dir' && npm install --no-audit --no-fund --ignore-scripts pg >npm.log 2>&1") != 0;

my $node = new_node('main');
$node->safe_psql('postgres', q{SELECT fl_rate_define('device-data', 'device', 'data-sources', 3, '1 h')});

# ---- an application, the authorizer, and nginx before both

my %port = map { $_ => PostgreSQL::Test::Cluster::get_free_port() } qw(application authorizer nginx);
my $conf = slurp_file("$examples/ratelimit.conf");
foreach ([ 3000 => 'application' ], [ 9090 => 'authorizer' ], [ 8080 => 'nginx' ])
{
	my ($from, $to) = @$_;
	$conf =~ s/127\.0\.0\.1:$from;/127.0.0.1:$port{$to};/ or die "no port $from in ratelimit.conf";
}
append_to_file("$dir/ratelimit.conf", $conf);
append_to_file("$dir/nginx.conf", <<EOC);
daemon off;
worker_processes 1;
pid $dir/nginx.pid;
events {}
http {
	access_log off;
	client_body_temp_path $dir/body;
	proxy_temp_path $dir/proxy;
	fastcgi_temp_path $dir/fastcgi;
	uwsgi_temp_path $dir/uwsgi;
	scgi_temp_path $dir/scgi;
	server {
		listen 127.0.0.1:$port{application};
		location / { return 200 served; }
		location /v1/data-sources/forbidden { return 403 "by the application"; }
	}
	include $dir/ratelimit.conf;
}
EOC
append_to_file("$dir/authorizer.js", slurp_file("$examples/authorizer.js"));

my %running;

sub start
{
	my ($name, %env) = @_;
	my @command = $name eq 'nginx'
	  ? ($nginx, '-e', 'stderr', '-p', $dir, '-c', "$dir/nginx.conf")
	  : ('node', "$dir/authorizer.js");

	local @ENV{ keys %env } = values %env;
	$running{$name} = IPC::Run::start(\@command, '<', \undef,
		'>>', "$PostgreSQL::Test::Utils::log_path/$name.log", '2>&1');
	return;
}

sub stop
{
	my ($name) = @_;

	eval { $running{$name}->signal('TERM'); $running{$name}->finish };
	delete $running{$name};
	return;
}

END
{
	local $?;
	stop($_) foreach keys %running;
}

sub get
{
	my ($path, %opt) = @_;

	return HTTP::Tiny->new(local_address => $opt{from} // '127.0.0.1', keep_alive => 0)
	  ->get("http://127.0.0.1:$port{nginx}/v1/data-sources$path", { headers => $opt{headers} // {} });
}

my %environment = (
	PORT => $port{authorizer}, PGHOST => $node->host, PGPORT => $node->port,
	PGUSER => scalar getpwuid($<), PGDATABASE => 'postgres');

start('authorizer', %environment);
start('nginx');
# An address of its own, so that waiting costs the others nothing
ok(wait_until(sub { get('', from => '127.0.0.9')->{status} =~ /^(200|429)$/ }), 'nginx and the authorizer are there');

# ---- granted, refused

my $response = get('');
is($response->{status} . ' ' . $response->{content}, '200 served', 'a request reaches the application');
is($response->{headers}{'ratelimit-policy'}, '"device-data";q=3;w=3600', 'the response has the policy');
like($response->{headers}{ratelimit}, qr/^"device-data";r=2;t=\d+$/, 'and what is left');
ok(!exists $response->{headers}{'retry-after'}, 'and nothing about retrying');
$response = get('/forbidden');
is($response->{status} . ' ' . $response->{content}, '403 by the application', 'an error of the application is passed on');
is(get('', headers => { 'X-RateLimit-Key' => 'x', 'X-RateLimit-Api' => 'y', 'X-RateLimit-Scope' => 'z' })->{status},
	200, 'the third is granted');

$response = get('', headers => { 'X-RateLimit-Key' => 'x', 'X-RateLimit-Api' => 'y', 'X-RateLimit-Scope' => 'z' });
is($response->{status}, 429, 'the fourth is refused, whatever its headers claim');
is($response->{headers}{'content-type'}, 'application/json', 'with JSON');
my $body = decode_json($response->{content});
is(join(' ', sort keys %$body), 'message nextValidRequestDate referenceUrl', 'which is the documented one');
like($body->{message}, qr/^You've made too many attempts/, 'its message');
like($body->{nextValidRequestDate}, qr/^\d{4}-\d\d-\d\dT[\d:.]+Z$/, 'its date');
like($response->{headers}{'retry-after'}, qr/^[1-9]\d*$/, 'with Retry-After');
like($response->{headers}{ratelimit}, qr/^"device-data";r=0;t=\d+$/, 'with RateLimit');
is($response->{headers}{'ratelimit-policy'}, '"device-data";q=3;w=3600', 'with RateLimit-Policy');
is(HTTP::Tiny->new->post("http://127.0.0.1:$port{nginx}/v1/data-sources", { content => 'x' x 10_000 })->{status},
	429, 'a POST is refused likewise');
is($node->safe_psql('postgres', q{SELECT granted, refused FROM fl_rate_counters WHERE key = '127.0.0.1'}), '3|2',
	'and all of that is counted');
is(get('', from => '127.0.0.2')->{status}, 200, 'another address has a quota of its own');
is(HTTP::Tiny->new->get("http://127.0.0.1:$port{nginx}/_authorizer")->{status}, 404, 'nobody reaches the authorizer from outside');

# A message that is not ASCII passes through a header.
$node->safe_psql('postgres', q{LOAD 'fliplet_ratelimit'; ALTER SYSTEM SET fliplet_ratelimit.message = E'Zu viele Anfragen \u00fc'});
$node->reload;
ok(wait_until(sub { decode_json(get('')->{content})->{message} eq "Zu viele Anfragen \x{fc}" }), 'the message of the setting');

# ---- no verdict

$node->stop;
$response = get('', from => '127.0.0.2');
is($response->{status}, 503, 'without the database: 503');
like(decode_json($response->{content})->{message}, qr/cannot be checked/, 'with a message');
stop('authorizer');
start('authorizer', %environment, FAIL_OPEN => 1);
ok(wait_until(sub { get('')->{status} == 200 }), 'or all is served, where that was asked for');
stop('authorizer');
is(get('', from => '127.0.0.2')->{status}, 503, 'without the authorizer: 503');
$node->start;
start('authorizer', %environment);
ok(wait_until(sub { get('', from => '127.0.0.2')->{status} == 200 }), 'with both it goes on');

done_testing();
