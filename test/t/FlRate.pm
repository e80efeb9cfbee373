
# FlRate.pm: what the TAP tests of fliplet_ratelimit share
#
# A cluster with the extension in it, sessions that stay open and report an
# error's fields, clients that stay busy while something happens to them,
# libraries that are preloaded into a server, and a few one-liners. Found by
# "use lib $FindBin::RealBin".

# Copyright (c) 2026, the fliplet_ratelimit developers

package FlRate;

use strict;
use warnings;

use Exporter qw(import);
use File::Copy qw(copy);
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(new_node session ask ask_ok start_query finish_query
  refused_ok granted_ok sqlstate spend seconds_since wait_until wait_for_server
  copy_source make_in build_shim start_with start_busy stop_busy crashed_ok
  find_pgbouncer start_pgbouncer);

# A cluster named $name. Options: conf (more configuration), start, extension
# (0 to leave that out), install_path (of another server than the one under
# test), anything else goes to Cluster's init().
sub new_node
{
	my ($name, %opt) = @_;
	my $conf = delete $opt{conf} // '';
	my $start = delete $opt{start} // 1;
	my $extension = delete $opt{extension} // 1;
	my @path = map { defined $_ ? (install_path => $_) : () } delete $opt{install_path};
	my $extra = delete $opt{extra} // [];

	my $node = PostgreSQL::Test::Cluster->new($name, @path);
	$node->init(
		extra => [ '--encoding=UTF8', '--locale=C', @$extra ],
		%opt);
	$node->append_conf('postgresql.conf', <<EOC);
max_connections = 40
log_statement = none
autovacuum = off
jit = off
timezone = 'UTC'
$conf
EOC
	if ($start)
	{
		$node->start;
		$node->safe_psql('postgres', 'CREATE EXTENSION fliplet_ratelimit')
		  if $extension;
	}
	return $node;
}

# A session that stays open, also after errors, and shows SQLSTATEs.
sub session
{
	my ($node, $dbname) = @_;
	my $session = $node->background_psql($dbname // 'postgres',
		on_error_stop => 0);

	$session->set_query_timer_restart;
	$session->query('\set VERBOSITY verbose');
	$session->query("SET lc_messages = 'C'");
	$session->{stderr} = '';
	return $session;
}

# Run one query in an open session; returns its output and its messages.
sub ask
{
	my ($session, $query) = @_;

	$session->{stderr} = '';
	my $out = $session->query($query);
	my $err = $session->{stderr};
	$session->{stderr} = '';
	return wantarray ? ($out, $err) : $out;
}

# The same, where an error ends the test.
sub ask_ok
{
	my ($session, $query) = @_;
	my ($out, $err) = ask($session, $query);

	die "query \"$query\" failed: $err" if $err =~ /ERROR|FATAL/;
	return $out;
}

# Send a query and return at once; finish_query() waits for its end. What marks
# the end is sent along: a session that was terminated cannot be written to. A
# quick query may be over already: its output stays, unlike query_until()'s.
sub start_query
{
	my ($session, $query) = @_;

	$session->{stderr} = '';
	$session->{timeout}->start;
	$session->{stdin} .= "\\echo on its way\n$query;\n\\echo all done\n\\warn all done\n";
	pump_until($session->{run}, $session->{timeout}, \$session->{stdout}, qr/on its way\n/)
	  or die "query \"$query\" could not be sent";
	$session->{stdout} =~ s/.*on its way\n//s;
	return;
}

# Wait for the end of what start_query() sent; returns output and messages. A
# session that was terminated meanwhile has no more than messages.
sub finish_query
{
	my ($session) = @_;

	$session->{timeout}->start;
	while (!($session->{stdout} =~ /all done\n/ && $session->{stderr} =~ /all done\n/))
	{
		my $pumped = eval { $session->{run}->pump; 1 };
		die 'query timed out' if $session->{timeout}->is_expired;
		last unless $pumped && $session->{run}->pumpable;
	}
	my ($out, $err) = ($session->{stdout}, $session->{stderr});
	($session->{stdout}, $session->{stderr}) = ('', '');
	s/all done\n// foreach ($out, $err);
	chomp $out;
	return ($out, $err);
}

# The SQLSTATE in the messages of a session, '' if all went well
sub sqlstate
{
	my ($messages) = @_;

	return $messages =~ /(?:ERROR|FATAL):  ([0-9A-Z]{5}):/ ? $1 : '';
}

# Query in an open session is refused with 429.
sub refused_ok
{
	my ($session, $query, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($out, $err) = ask($session, $query);

	return is(sqlstate($err), 'PT429', $name) || diag("answer: $out\n$err");
}

# Query in an open session answers this number.
sub granted_ok
{
	my ($session, $query, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($out, $err) = ask($session, $query);

	return is($out, $expected, $name) || diag($err);
}

# Make $n requests in one statement; returns how many were granted.
sub spend
{
	my ($where, $n, $scope, $key, $api, $more) = @_;
	my $sql = "SELECT count(*) FILTER (WHERE (v).allowed) FROM"
	  . " (SELECT fl_rate_try('$scope', '$key', '$api'"
	  . (defined $more ? ", $more" : '')
	  . ") AS v FROM generate_series(1, $n) OFFSET 0) AS s";

	return ref($where) =~ /Background/
	  ? ask_ok($where, $sql)
	  : $where->safe_psql('postgres', $sql);
}

# Build test/shim/$name.c, a library for start_with(). Returns its path, and that
# of the file by which it is told what to do; nothing where that cannot be.
sub build_shim
{
	my ($name) = @_;
	my $library = PostgreSQL::Test::Utils::tempdir() . "/$name.so";
	my $pg_config = $ENV{PG_CONFIG} // 'pg_config';

	return unless $^O eq 'linux';
	chomp(my $cc = `$pg_config --cc`);
	system_log(split(' ', $cc), qw(-Wall -Wextra -O2 -shared -fPIC -o),
		$library, "$FindBin::RealBin/../shim/$name.c", '-ldl');
	return -e $library ? ($library, "$library.file") : ();
}

# Start a cluster's server with more environment.
sub start_with
{
	my ($node, %env) = @_;

	local @ENV{ keys %env } = values %env;
	$node->start;
	return;
}

# Clients that stay busy: for each of the scripts, which are lists of pairs (a
# word, a query), psql runs it over and over, in new sessions when one was lost.
# The sessions' application_name is "busy". A client that hangs ends the test.
sub start_busy
{
	my ($node, $dbname, @scripts) = @_;
	my $base = PostgreSQL::Test::Utils::tempdir() . '/busy';
	my %busy = (go => "$base/go", logs => [], runs => []);

	mkdir $base or die "could not create \"$base\": $!";
	# it goes away at the latest with this test
	append_to_file($busy{go}, '');
	local $ENV{PGAPPNAME} = 'busy';
	foreach my $i (0 .. $#scripts)
	{
		append_to_file("$base/$i.sql",
			join('', map { "\\echo begin $_->[0]\n$_->[1];\n\\echo end :SQLSTATE :LAST_ERROR_MESSAGE\n" } @{ $scripts[$i] }));
		push @{ $busy{logs} }, "$base/$i.log";
		push @{ $busy{runs} },
		  IPC::Run::start(
			[ 'sh', '-c', 'while [ -e "$1" ]; do "$2" -XAtq -d "$3" -f "$4.sql" >>"$4.log" 2>>"$4.err" || sleep 0.05; done',
				'sh', $busy{go}, $node->installed_command('psql'), $node->connstr($dbname), "$base/$i" ],
			IPC::Run::timeout(2 * $PostgreSQL::Test::Utils::timeout_default));
	}
	return \%busy;
}

# Have the busy clients finish. Returns what became of each request, in hashes:
# kind, answer (undef for none), state (undef: cut off with the session), message.
sub stop_busy
{
	my ($busy) = @_;
	my @requests;

	unlink $busy->{go} or die "could not remove \"$busy->{go}\": $!";
	$_->finish foreach @{ $busy->{runs} };
	foreach my $log (grep { -e } @{ $busy->{logs} })
	{
		foreach my $line (split(/\n/, slurp_file($log)))
		{
			if ($line =~ /^begin (.*)/) { push @requests, { kind => $1 }; }
			elsif ($line =~ /^end (\S+) ?(.*)/) { @{ $requests[-1] }{qw(state message)} = ($1, $2); }
			else { $requests[-1]{answer} = $line; }
		}
		unlink $log;
	}
	return @requests;
}

# PgBouncer's program, or nothing
sub find_pgbouncer
{
	my ($program) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin';

	return $program;
}

# Start it in transaction mode, in front of the databases that these lines name,
# with more settings. Returns its folder, where its socket is, its port, and
# the process.
sub start_pgbouncer
{
	my ($program, $databases, $settings) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $user = getpwuid($<);

	append_to_file("$dir/users", qq("$user" ""\n));
	append_to_file("$dir/pgbouncer.ini", <<EOC);
[databases]
$databases

[pgbouncer]
listen_addr =
listen_port = $port
unix_socket_dir = $dir
auth_type = trust
auth_file = $dir/users
admin_users = $user
pool_mode = transaction
max_client_conn = 100
logfile = $PostgreSQL::Test::Utils::log_path/pgbouncer.log
pidfile = $dir/pid
$settings
EOC
	return ($dir, $port,
		IPC::Run::start([ $program, '-q', "$dir/pgbouncer.ini" ], '<', \undef, '>', \my $out, '2>', \my $err));
}

# The server's log tells of no crash (or of as many as are expected).
sub crashed_ok
{
	my ($node, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @crashes = slurp_file($node->logfile) =~ /(terminated by signal|PANIC: |TRAP: )/g;

	return is(scalar @crashes, $expected, $name);
}

sub seconds_since
{
	return Time::HiRes::time() - $_[0];
}

# Wait until the code says true, at most the test suite's time-out.
sub wait_until
{
	my ($code) = @_;

	foreach (1 .. 20 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if $code->();
		usleep(50_000);
	}
	return 0;
}

# Wait until a server answers that has been started, or starts over. A psql that
# finds none may end before it is told what to ask, which makes psql() die.
sub wait_for_server
{
	my ($node) = @_;
	return wait_until(sub { eval { $node->psql('postgres', 'SELECT 1') == 0 } });
}

# Copy the source to a temporary folder, to build another library there;
# returns the folder. Without a source the test is skipped.
sub copy_source
{
	my $source = "$FindBin::RealBin/../..";
	my $build = PostgreSQL::Test::Utils::tempdir();

	plan skip_all => 'there is no source to build another library from'
	  unless -e "$source/Makefile" && -e "$source/src/store.c";

	mkdir "$build/src" or die $!;
	foreach my $file (glob("$source/Makefile $source/*.control $source/src/*.[ch] $source/src/*.sql"))
	{
		my $to = $file =~ m{/src/([^/]+)$} ? "$build/src/$1"
		  : $file =~ m{/([^/]+)$} ? "$build/$1" : die;
		copy($file, $to) or die "could not copy \"$file\": $!";
	}
	return $build;
}

# Run make in that folder, without the flags of a make that runs this test.
sub make_in
{
	my ($build, @arguments) = @_;

	delete local @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS MAKEOVERRIDES COPT)};
	system_or_bail('make', '-s', '-C', $build,
		'PG_CONFIG=' . ($ENV{PG_CONFIG} // 'pg_config'),
		'with_llvm=no', @arguments);
	return;
}

1;
