
# examples/postgrest: the pre-request function limits what PostgREST serves, in
# read-only transactions too, and answers whatever a client sends as it is
# documented to: never by a 500, never by letting it pass uncounted
#
# There is no PostgREST here. http() below is a double of it, by its published
# rules: the same statements in the same order in one transaction of a session
# that stays open, and what it makes of settings and errors. It has no HTTP, no
# tokens and no schema cache.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $hook = "$FindBin::RealBin/../../examples/postgrest/hook.sql";
plan skip_all => 'there are no examples here' unless -e $hook;

my $json = JSON::PP->new->canonical->allow_nonref;
my $node = new_node('postgrest', extension => 0);

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql(<<'SQL');
CREATE ROLE authenticator LOGIN NOINHERIT;
CREATE ROLE web_anon;
CREATE ROLE web_user;
CREATE ROLE stranger;
GRANT web_anon, web_user, stranger TO authenticator;
CREATE SCHEMA api;
CREATE TABLE api.entries (id int GENERATED ALWAYS AS IDENTITY, data text);
INSERT INTO api.entries (data) VALUES ('first');
GRANT USAGE ON SCHEMA api TO web_anon, web_user, stranger;
GRANT SELECT, INSERT ON api.entries TO web_anon, web_user, stranger;
SQL
command_ok([ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'),
		'-v', 'roles=web_anon, web_user', '-f', $hook ],
	'hook.sql runs');
sql(<<'SQL');
SET search_path = ratelimit;
SELECT fl_rate_define('fliplet/data-sources', 'user', 'data-sources', 3, '1 h'),
       fl_rate_define('app-data', 'app', 'data-sources', 5, '2 h'),
       fl_rate_define('app-data', 'app', 'data-sources', NULL, NULL, key => '(no app)'),
       fl_rate_define('fliplet/communicate', 'user', 'communicate', 3, '1 h'),
       fl_rate_define('fliplet/audit-logs', 'user', 'audit-logs', 3, '1 h'),
       fl_rate_define('throttle', 'user', 'throttled', 1, '1 h', on_limit => 'delay', max_delay => '2 h');
SQL

# ---- the double

# A connection of PostgREST's pool. A statement is prepared when it is first
# used, by whatever role that is.
my $pool = do {
	local $ENV{PGUSER} = 'authenticator';
	session($node);
};
my @settings = qw(search_path role request.jwt.claims request.method request.path
  request.headers request.cookies app.settings.client_address_header);
my %unprepared = (
	variables => 'SELECT '
	  . join(', ', map { "set_config('$settings[$_]', \$" . ($_ + 1) . ', true)' } 0 .. $#settings),
	pre_request => 'SELECT "ratelimit_hook"."limit_request"()');

sub quoted
{
	my ($text) = @_;

	return 'NULL' unless defined $text;
	$text =~ s/'/''/g;
	return "'$text'";
}

# PostgREST's table of SQLSTATEs, as far as it has a 5xx or what we raise
sub status_of
{
	my ($state, $role) = @_;

	return $1 if $state =~ /^PT(\d{3})$/;
	return 503 if $state =~ /^(08|53)/;
	return 405 if $state eq '25006';
	return $role eq 'web_anon' ? 401 : 403 if $state eq '42501';
	return 404 if $state =~ /^(42883|42P01)$/;
	return 500 if $state =~ /^(09|25|2D|38|39|3B|40|54|55|57|58|F0|HV|P0|PT|XX|42P17)/ && $state ne 'P0001';
	return 400;
}

# A response made of what psql says about an error
sub error_response
{
	my ($messages, $role) = @_;
	my ($state, $message) = $messages =~ /^(?:psql:\S+ )?ERROR:  (\w{5}): (.*)$/m
	  or die "no error in \"$messages\"";
	my ($detail) = $messages =~ /^DETAIL:  (.*)$/m;
	my ($hint) = $messages =~ /^HINT:  (.*)$/m;

	if ($state eq 'PGRST')
	{
		my ($body, $response) = (eval { $json->decode($message) }, eval { $json->decode($detail) });

		return { status => 500, body => { code => 'PGRST121' } }
		  unless ref $body eq 'HASH' && ref $response eq 'HASH'
		  && defined $body->{code} && defined $body->{message}
		  && $response->{status} =~ /^\d+$/
		  && !grep { ref } values %{ $response->{headers} };
		return {
			status => $response->{status}, headers => $response->{headers},
			body => { map { $_ => $body->{$_} } qw(code message details hint) } };
	}
	return {
		status => status_of($state, $role), headers => {},
		body => { code => $state, message => $message, details => $detail, hint => $hint } };
}

# One request. Options: claims (a hash as in a token, or the text of the
# setting), headers, role, address_header, main (the query to be made).
sub http
{
	my ($method, $path, %opt) = @_;
	my $role = $opt{role} // (ref $opt{claims} && $opt{claims}{role} || 'web_anon');
	my $claims = ref $opt{claims} ? $json->encode({ %{ $opt{claims} }, role => $role }) : $opt{claims};
	my $headers = ref $opt{headers} ? $json->encode($opt{headers}) : $opt{headers} // '{}';
	my $access = $method =~ /^(GET|HEAD)$/ ? 'READ ONLY' : 'READ WRITE';
	my $main = $opt{main} // 'SELECT * FROM entries LIMIT 1';
	my ($out, $err);
	my @statements = (
		"BEGIN ISOLATION LEVEL READ COMMITTED $access",
		'EXECUTE variables(' . join(', ', map { quoted($_) }
			  '"api", "public"', $role, $claims, $method, $path, $headers, '{}', $opt{address_header} // '') . ')',
		$opt{pre_request} // 'EXECUTE pre_request',
		"WITH t AS ($main) SELECT json_build_object("
		. q{'body', coalesce((SELECT json_agg(t) FROM t), '[]'), }
		. q{'headers', nullif(current_setting('response.headers', true), ''), }
		. q{'status', nullif(current_setting('response.status', true), ''))});

	foreach my $statement (@statements)
	{
		my ($name) = $statement =~ /^EXECUTE (\w+)/;

		$statement = "PREPARE $name AS " . delete($unprepared{$name}) . "; $statement"
		  if defined $name && defined $unprepared{$name};
		($out, $err) = ask($pool, $statement);
		next unless $err =~ /ERROR|FATAL/;
		ask_ok($pool, 'ROLLBACK');
		return error_response($err, $role);
	}
	ask_ok($pool, 'COMMIT');

	my $row = $json->decode($out);
	my $set = defined $row->{headers} ? eval { $json->decode($row->{headers}) } : [];
	return { status => 500, body => { code => 'PGRST111' } }
	  unless ref $set eq 'ARRAY' && !grep { ref ne 'HASH' || keys %$_ != 1 || ref((values %$_)[0]) } @$set;
	return {
		status => $row->{status} // ($method eq 'POST' ? 201 : 200),
		headers => { map { %$_ } @$set },
		body => $row->{body} };
}

sub user { return { sub => $_[0], app_id => $_[1] // $_[0], role => 'web_user' } }

sub status_is
{
	my ($response, $status, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is($response->{status}, $status, $name) || diag($json->encode($response));
}

# The body of a response, without times
sub timeless
{
	my ($response) = @_;

	return $json->encode($response->{body}) =~ s/\d+\.\d{3} s|\d{4}-\d\d-[^"]*Z//gr;
}

# What has been spent for a key
sub used
{
	my ($scope, $key) = @_;

	return sql("SELECT coalesce(sum(used), 0) FROM ratelimit.fl_rate_counters WHERE scope = '$scope' AND key = "
		  . quoted($key));
}

# ---- granted

my $response = http('GET', '/entries', claims => user('1'));
status_is($response, 200, 'a GET is served');
is_deeply([ sort keys %{ $response->{headers} } ], [qw(RateLimit RateLimit-Policy)], 'with two headers more');
is($response->{headers}{'RateLimit-Policy'}, '"fliplet/data-sources";q=3;w=3600', 'the limit that is nearest');
like($response->{headers}{RateLimit}, qr/^"fliplet\/data-sources";r=2;t=\d+$/, 'and what it leaves');
is($response->{body}[0]{data}, 'first', 'and its rows');
$response = http('HEAD', '/entries', claims => user('1'));
status_is($response, 200, 'so is a HEAD');
like($response->{headers}{RateLimit}, qr/;r=1;/, 'which counts');
$response = http('POST', '/entries', claims => user('1'),
	main => q{INSERT INTO entries (data) VALUES ('second') RETURNING *});
status_is($response, 201, 'and a POST');
like($response->{headers}{RateLimit}, qr/;r=0;/, 'the last one says that nothing is left');
ok(!exists $response->{headers}{'Retry-After'}, 'and nothing about retrying');
is(used('user', '1') . used('app', '1'), '33', 'user and app have spent three each');
status_is(http('GET', '/entries', claims => user('writer'), main => q{INSERT INTO entries (data) VALUES ('x') RETURNING *}),
	405, 'GET requests are read-only, and stay so');

# ---- refused

my $refused = http('GET', '/entries', claims => user('1'));
status_is($refused, 429, 'the fourth is refused');
is($refused->{body}{code}, 'PT429', 'its code');
is(join(' ', sort keys %{ $json->decode($refused->{body}{details}) }),
	'message nextValidRequestDate referenceUrl', 'its details are the documented JSON');
like($refused->{body}{message}, qr/^You've made too many attempts/, 'its message');
like($refused->{body}{hint}, qr/^Retry after \d+\.\d{3} seconds\.$/, 'its hint');
is_deeply([ sort keys %{ $refused->{headers} } ], [qw(RateLimit RateLimit-Policy Retry-After)], 'its headers');
like($refused->{headers}{'Retry-After'}, qr/^[1-9]\d*$/, 'among them when to try again');
status_is(http('HEAD', '/entries', claims => user('1')), 429, 'a HEAD likewise');
status_is(http('POST', '/entries', claims => user('1'), main => q{INSERT INTO entries (data) VALUES ('third') RETURNING *}),
	429, 'a POST likewise');
is(sql(q{SELECT count(*) FROM api.entries WHERE data = 'third'}), 0, 'which does not get to its rows');

sql(q{ALTER FUNCTION ratelimit_hook.limit_request() SET fliplet_ratelimit.error_style = 'plain'});
my $plain = http('GET', '/entries', claims => user('1'));
status_is($plain, 429, 'the plain style refuses as well');
is(timeless($plain), timeless($refused), 'with the same body');
is_deeply($plain->{headers}, {}, 'and no headers');
sql(q{ALTER FUNCTION ratelimit_hook.limit_request() SET fliplet_ratelimit.error_style = 'pgrst'});

# Both scopes or none
status_is(http('GET', '/entries', claims => user("a$_", 'busy app')), 200, "request $_ of an app") foreach 1 .. 5;
$response = http('GET', '/entries', claims => user('a6', 'busy app'));
status_is($response, 429, 'the sixth is refused');
like($response->{headers}{RateLimit}, qr/^"app-data";r=0;/, 'by the limit of the app');
is(used('user', 'a6'), 0, 'and its user has spent nothing');
status_is(http('GET', '/entries', claims => user('a6', 'other app')), 200, 'in another app the user is served');

# A throttle reserves slots for those who wait; here nobody does.
sql(q{INSERT INTO ratelimit_hook.api_of VALUES ('/throttled', 'GET', 'throttled')});
status_is(http('GET', '/throttled', claims => user('t')), 200, 'at a throttle');
status_is(http('GET', '/throttled', claims => user('t')), 429, 'what would have to wait is refused');

# ---- who

# Requests of a pool's session after one another; the settings of the first
# must not be the second's.
status_is(http('GET', '/entries', claims => undef), 200, 'no claims at all');
status_is(http('GET', '/entries', claims => {}), 200, 'the claims of no token');
status_is(http('GET', '/entries', claims => { sub => undef, role => 'web_user' }), 200, 'a token without a user');
is(used('user', '(anonymous)'), 3, 'are counted under one key');
foreach my $header (qw(x-real-ip x-forwarded-for forwarded))
{
	status_is(http('GET', '/entries', claims => {}, headers => { $header => '192.0.2.1' }), 429,
		"which no header $header changes");
}

my @trusted = (claims => {}, address_header => 'X-Real-IP');
foreach (
	[ '192.0.2.1', '(anonymous) 192.0.2.1', 'an IPv4 address' ],
	[ '::ffff:192.0.2.1', '(anonymous) 192.0.2.1', 'the same as an IPv6 address' ],
	[ '::FFFF:C000:201', '(anonymous) 192.0.2.1', 'and in another spelling' ],
	[ '2001:db8:0:1::5', '(anonymous) 2001:db8:0:1::', 'an IPv6 address' ],
	[ '2001:DB8::1:0:0:0:6', '(anonymous) 2001:db8:0:1::', 'another one of its network' ])
{
	my ($address, $key, $name) = @$_;
	my $before = used('user', $key);

	status_is(http('GET', '/entries', @trusted, headers => { 'x-real-ip' => $address }), 200,
		"where the header is trusted: $name");
	is(used('user', $key), $before + 1, 'is the key');
}
status_is(http('GET', '/entries', @trusted, headers => { 'x-real-ip' => '192.0.2.1' }), 429, 'an address has a limit of its own');
my $keys = sql('SELECT count(*) FROM ratelimit.fl_rate_counters');
foreach (
	[ {}, 'no such header' ],
	[ { 'x-real-ip' => '' }, 'an empty one' ],
	[ { 'x-real-ip' => '192.0.2.7, 192.0.2.8' }, 'two addresses' ],
	[ { 'x-real-ip' => "'; DROP TABLE api.entries; --" }, 'SQL' ],
	[ { 'x-real-ip' => q{$$); SELECT 1/0; -- \\'} }, 'SQL in other quotes' ],
	[ { 'x-real-ip' => '1' x 1_000_000 }, 'a million digits' ],
	[ { 'x-real-ip' => "\x{1}\x{7f}" }, 'control characters' ],
	[ { 'x-real-ip' => [ '192.0.2.7' ] }, 'a list' ],
	[ '{"x-real-ip": "\u0000"}', 'a null byte' ],
	[ '{"x-real-ip": "192.0.2.7"', 'half of the headers' ],
	[ '["192.0.2.7"]', 'headers that are no object' ],
	[ '{"x": ' . ('[' x 100_000) . (']' x 100_000) . '}', 'headers that are nested deeply' ],
	[ '', 'no headers' ])
{
	my ($headers, $name) = @$_;

	status_is(http('GET', '/entries', @trusted, headers => $headers), 429, "$name: counted with all that have no address");
}
is(sql('SELECT count(*) FROM ratelimit.fl_rate_counters'), $keys, 'none of these has made a key');
is(sql('SELECT count(*) > 0 FROM api.entries'), 't', 'or dropped a table');

foreach (
	[ '{"sub": "x"', 'half an object' ],
	[ '["x"]', 'a list' ],
	[ '"x"', 'a string' ],
	[ 'null', 'null' ],
	[ '{"sub": "a\u0000b"}', 'a null byte' ],
	[ '{"sub": "a", "n": 1e999999}', 'a number too large' ],
	[ ('{"sub": ' x 100_000), 'nested deeply' ],
	[ '{"sub": ""}', 'an empty user' ],
	[ '{"sub": true}', 'a user who is true' ],
	[ '{"sub": {"id": 1}}', 'a user who is an object' ],
	[ '{"sub": ["1"]}', 'a user who is a list' ],
	[ '{"sub": "(anonymous)"}', 'a user of the name of the anonymous' ],
	[ '{"sub": "' . ('x' x 256) . '"}', 'a user with too long a name' ],
	[ '{"sub": "1", "app_id": "(no app)"}', 'an app of the name of no app' ],
	[ '{"sub": "1", "app_id": []}', 'an app that is a list' ])
{
	my ($claims, $name) = @$_;

	$response = http('GET', '/entries', claims => $claims, role => 'web_user');
	status_is($response, 401, "claims: $name");
	unlike($json->encode($response->{body}), qr/DROP|xxxx|SELECT/, 'and the answer repeats nothing of it');
}
is(sql('SELECT count(*) FROM ratelimit.fl_rate_counters'), $keys, 'none of these has made a key');

my $bobby = q{Robert'); DROP TABLE api.entries; --};
status_is(http('GET', '/entries', claims => user($bobby)), 200, 'a user whose name is SQL is a user');
is(used('user', $bobby), 1, 'of this name');
status_is(http('GET', '/entries', claims => '{"sub": 77, "role": "web_user"}', role => 'web_user'), 200, 'a number is a name');
is(used('user', '77'), 1, 'the same as its text');

# ---- what

my $api_of = q{SELECT string_agg(api || ' ' || used, ',' ORDER BY api)
FROM ratelimit.fl_rate_counters WHERE scope = 'user' AND key = 'p'};
foreach (
	[ POST => '/messages', 'communicate 1' ],
	[ GET => '/messages', 'communicate 1,data-sources 1', 'another method of that path' ],
	[ GET => '/nothing/here', 'communicate 1,data-sources 2', 'a path that no row names' ],
	[ POST => '/m%65ssag%65s', 'communicate 2,data-sources 2', 'a path in another spelling' ],
	[ GET => '/audit%5Flogs', 'audit-logs 1,communicate 2,data-sources 2', 'in capitals' ],
	[ GET => '/audit_logs%zz%ff%00%', 'audit-logs 1,communicate 2,data-sources 3', 'a path that is encoded badly' ])
{
	my ($method, $path, $expected, $name) = @$_;

	like(http($method, $path, claims => user('p', 'p app'))->{status}, qr/^20[01]$/, $name // 'a path of the mapping');
	is(sql($api_of), $expected, 'is a request of the right API');
}
foreach (
	[ undef, 'no path' ],
	[ '', 'an empty path' ],
	[ '*', 'the name of all others' ],
	[ "/entries' OR '1'='1", 'SQL' ],
	[ '/' . ('%41' x 100_000), 'a long one' ])
{
	my ($path, $name) = @$_;
	status_is(http('GET', $path, claims => user('p', 'p app')), 429, "path: $name: is one of all others");
}
sql(q{DELETE FROM ratelimit_hook.api_of WHERE path = '*'});
status_is(http('GET', '/entries', claims => user('q')), 404, 'without a row for all others they are not found');
is(used('user', 'q'), 0, 'and cost nothing');
sql(q{INSERT INTO ratelimit_hook.api_of VALUES ('*', '*', 'data-sauces')});
$response = http('GET', '/entries', claims => user('q'));
status_is($response, 400, 'an API without any limit is an error');
like($response->{body}{message}, qr/unknown rate limit API "data-sauces"/, 'that says so');
sql(q{UPDATE ratelimit_hook.api_of SET api = 'data-sources' WHERE path = '*'});

# ---- rights

status_is(http('GET', '/entries', role => 'stranger', claims => { sub => 's', role => 'stranger' }), 403,
	'a role that may not call the hook gets nowhere');
foreach my $call (
	q{SELECT ratelimit.fl_rate_check('user', '1', 'data-sources')},
	q{SELECT ratelimit_hook.key_of('{}', 'sub')},
	q{SELECT ratelimit_hook.object_setting('request.jwt.claims')},
	q{SELECT ratelimit_hook.decoded('/')},
	q{SELECT ratelimit_hook.anonymous_key()},
	q{SELECT * FROM ratelimit_hook.api_of})
{
	my (undef, $err) = ask($pool, "SET ROLE web_user; $call");
	is(sqlstate($err), '42501', 'not for the roles of requests: ' . $call =~ s/^SELECT (\* FROM )?//r);
}
ask_ok($pool, 'RESET ROLE');

# ---- in company

# Another pre-request function that has set a header, and calls the hook
sql(<<'SQL');
CREATE FUNCTION api.mine() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('response.headers', '[{"X-Mine": "1"}]', true);
	PERFORM ratelimit_hook.limit_request();
END $$;
SQL
is_deeply([ sort keys %{ http('GET', '/entries', claims => user('r'), pre_request => 'SELECT api.mine()')->{headers} } ],
	[qw(RateLimit RateLimit-Policy X-Mine)], 'headers that are there already stay');
is_deeply(http('GET', '/entries', claims => user('r'), pre_request => 'SELECT 1')->{headers}, {},
	'the next transaction has none of them');

sql(q{LOAD 'fliplet_ratelimit'; ALTER SYSTEM SET fliplet_ratelimit.enabled = off});
$node->reload;
ok(wait_until(sub { http('GET', '/entries', claims => user('1'))->{status} == 200 }), 'with the limits switched off all is served');
is_deeply(http('GET', '/entries', claims => user('1'))->{headers}, {}, 'without headers');
sql(q{LOAD 'fliplet_ratelimit'; ALTER SYSTEM RESET fliplet_ratelimit.enabled});
$node->reload;
ok(wait_until(sub { http('GET', '/entries', claims => user('1'))->{status} == 429 }), 'and on again');

# No memory for another counter
sql(q{LOAD 'fliplet_ratelimit'; ALTER SYSTEM SET fliplet_ratelimit.max_memory = '2MB'});
$node->reload;
sql(q{SELECT count(ratelimit.fl_rate_try('user', 'full' || i, 'data-sources')) FROM generate_series(1, 20000) AS i});
status_is(http('GET', '/entries', claims => user('new')), 503, 'a new user when memory is full');
status_is(http('GET', '/entries', claims => user('p', 'p app')), 429, 'one that has a counter');

crashed_ok($node, 0, 'the server has not crashed');
$node->stop;
done_testing();
