
# FlRateDriver.pm: what the tests of examples/drivers share
#
# The programs there do the same and print the same, whatever their language. So
# they pass one test: driver_ok().

# Copyright (c) 2026, the fliplet_ratelimit developers

package FlRateDriver;

use strict;
use warnings;

use Exporter qw(import);
use FindBin;
use FlRate;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(driver_example driver_ok);

# What the message is here. A program that looks for the date in DETAIL by other
# means than a reader of JSON, or takes it for ASCII, stumbles over this.
my $message = qq(Trop t\x{f4}t: "nextValidRequestDate": "2001-01-01T00:00:00.000Z"} \\ "nextValidRequestDate": null});

# The path of a program; without it the test is skipped.
sub driver_example
{
	my ($file) = @_;
	my $path = "$FindBin::RealBin/../../examples/drivers/$file";

	plan skip_all => 'there are no examples here' unless -e $path;
	return $path;
}

# A date to the millisecond, the trailing zeros of some languages put back
sub milliseconds
{
	my ($date) = @_;

	return ($date // '') =~ /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{3})\d*)?Z$/
	  ? "$1." . ($2 // '000') . 'Z'
	  : 'no date';
}

# Run a program; returns its exit status, its steps as pairs of a name and what
# was printed, and its messages.
sub run_driver
{
	my ($command, @arguments) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ @$command, @arguments ], '<', \undef, '>', \$out, '2>', \$err,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	my $status = $? >> 8;
	note($out, $err);
	return ($status, [ map { %{ decode_json($_) } } split(/\n/, $out) ], $err);
}

# The names of the steps
sub names_of
{
	my ($steps) = @_;

	return join(' ', map { $steps->[ 2 * $_ ] } 0 .. $#$steps / 2);
}

# What was printed at the steps of a name
sub seen
{
	my ($steps, $name) = @_;

	return map { $steps->[ 2 * $_ + 1 ] } grep { $steps->[ 2 * $_ ] eq $name } 0 .. $#$steps / 2;
}

# How often requests for a key were granted and refused, as the server knows
sub counted
{
	my ($node, $key) = @_;

	return $node->safe_psql('postgres', "SELECT granted, refused FROM fl_rate_counters WHERE key = '$key'");
}

# The program's fields of a refusal by the limit $limit are the documented ones.
sub fields_ok
{
	my ($refused, $limit) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $body = $refused->{body};

	is($refused->{sqlstate}, 'PT429', 'of a refusal: SQLSTATE');
	is($refused->{message}, $message, 'the message');
	is($refused->{limit}, $limit, 'the name of the limit');
	is(join(' ', sort keys %$body), 'message nextValidRequestDate referenceUrl', 'in the body three keys and no others');
	is($body->{message}, $message, 'its message');
	is($body->{referenceUrl}, 'https://developers.fliplet.com/Rate-limiting-for-API.html', 'its address');
	return;
}

# A program shows what it should. It runs as $command, which may be a function
# that makes it of the node.
sub driver_ok
{
	my ($command) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	# Not all drivers know Unix sockets.
	my $node = new_node('main', conf => "listen_addresses = '127.0.0.1'");
	$command = $command->($node) if ref $command eq 'CODE';
	local @ENV{qw(PGHOST PGPORT PGDATABASE PGUSER PGCLIENTENCODING)} =
	  ($node->host, $node->port, 'postgres', scalar getpwuid($<), 'UTF8');
	utf8::encode(my $utf8 = $message);
	$node->safe_psql('postgres', <<"SQL");
LOAD 'fliplet_ratelimit';
ALTER DATABASE postgres SET fliplet_ratelimit.message = '$utf8';
SELECT fl_rate_define('many', 'user', 'many', 3, '1 h'), fl_rate_define('few', 'user', 'few', 3, '2 s');
SQL

	# ---- what is refused for an hour, which is more than the second that the
	# program would wait

	my ($status, $steps, $err) = run_driver($command, 'user', 'a', 'many', 1, 1);
	is($status, 0, 'the program ends well') || diag($err);
	is(names_of($steps), 'connected granted granted granted refused gaveUp tried afterwards',
		'three requests are granted, none is refused before, and none after it is waited for');
	is(encode_json([ seen($steps, 'granted') ]), '[2,1,0]', 'what remains is a number');
	my ($refused) = seen($steps, 'refused');
	fields_ok($refused, 'many');
	like($refused->{hint}, qr/^Retry after 3[56]\d\d\.\d{3} seconds\.$/, 'the hint');
	like($refused->{body}{nextValidRequestDate}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'the date');
	is(milliseconds($refused->{retryAt}), $refused->{body}{nextValidRequestDate}, 'which the program has read');
	my ($gave_up) = seen($steps, 'gaveUp');
	is($gave_up->{attempts}, 1, 'a date that is too far away is not waited for');
	ok(defined $gave_up->{retryAt}, 'and told to the caller');
	my ($tried) = seen($steps, 'tried');
	is("$tried->{allowed} $tried->{reason} $tried->{limit}", '0 refused many', 'without an error: refused');
	isnt(milliseconds($tried->{nextValidAt}), 'no date', 'with its date');
	is_deeply([ seen($steps, 'afterwards') ], [ seen($steps, 'connected') ],
		'the connection is of use after a refusal, and the transaction after the other');
	is(counted($node, 'a'), '3|3', 'the server has counted the same');

	# ---- what is refused for two seconds at most. How many are granted before
	# that depends on how slow this machine is.

	($status, $steps, $err) = run_driver($command, 'user', 'b', 'few', 1, 60);
	is($status, 0, 'the program ends well') || diag($err);
	like(names_of($steps), qr/^connected (granted ){3,}refused retried tried afterwards$/, 'a request is refused, then granted');
	($refused) = seen($steps, 'refused');
	fields_ok($refused, 'few');
	my ($retried) = seen($steps, 'retried');
	cmp_ok(milliseconds($retried->{at}), 'ge', $refused->{body}{nextValidRequestDate}, 'not before the date');
	cmp_ok($retried->{attempts}, '<=', 2, 'at the date, and not once in between');
	($tried) = seen($steps, 'tried');
	my $granted = () = seen($steps, 'granted');
	is(counted($node, 'b'), join('|', $granted + 1 + !!$tried->{allowed}, $retried->{attempts} + !$tried->{allowed}),
		'the server has counted the same');

	# ---- what is refused for good

	($status, $steps, $err) = run_driver($command, 'user', 'c', 'few', 4, 60);
	is($status, 0, 'the program ends well') || diag($err);
	is(names_of($steps), 'connected refused gaveUp tried afterwards', 'a request that is too large is refused');
	($refused) = seen($steps, 'refused');
	fields_ok($refused, 'few');
	is($refused->{hint}, 'This can never succeed: the cost exceeds what the limit allows at once.', 'the hint');
	is_deeply([ $refused->{body}{nextValidRequestDate}, $refused->{retryAt} ], [ undef, undef ], 'without a date');
	is_deeply([ seen($steps, 'gaveUp') ], [ { attempts => 1, retryAt => undef } ], 'not made again');
	is_deeply([ seen($steps, 'tried') ],
		[ { allowed => JSON::PP::false, reason => 'too_large', limit => 'few', nextValidAt => undef } ],
		'without an error: likewise');
	is_deeply([ seen($steps, 'afterwards') ], [ seen($steps, 'connected') ], 'the connection is of use afterwards');

	# ---- the other style of errors is none of the program's

	$node->safe_psql('postgres', q{ALTER DATABASE postgres SET fliplet_ratelimit.error_style = 'pgrst'});
	($status, $steps, $err) = run_driver($command, 'user', 'a', 'many', 1, 60);
	like("$status " . names_of($steps) . " $err", qr/^1 connected .*"status": 429, "headers": /s, 'an error of the other style is an error');

	$node->stop;
	done_testing();
	return;
}

1;
