
# Shared memory that is refused at every place where it is taken or mapped: a
# clear answer, all or nothing, no lock left behind, and all is well as soon as
# there is memory again
#
# A library that is preloaded (test/shim/memory.c) lets the n-th call of a
# session fail; the tests walk n = 1, 2, 3 ... until a run meets no failure.
# Then two real shortages: a /dev/shm of 6 MB, and a limited address space.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRate;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $setup = <<'SQL';
SELECT fl_rate_define('device', 'device', 'three', 1000, '100 d'),
       fl_rate_define('user', 'user', 'three', 1000, '100 d', algorithm => 'token_bucket'),
       fl_rate_define('app', 'app', 'three', 1000, '100 d', algorithm => 'fixed_window'),
       fl_rate_define('turn', 'user', 'turn', 1, '1 h'),
       fl_rate_define('turn, longer', 'user', 'turn', 100, '1 d');

-- n requests over three new keys each: "granted, full", and an error if
-- anything else was answered
CREATE FUNCTION many(n int, prefix text) RETURNS text LANGUAGE sql AS $$
	SELECT count(*) FILTER (WHERE (v).reason = 'ok') || ' ' || count(*) FILTER (WHERE (v).reason = 'store_full')
	       || CASE WHEN count(*) FILTER (WHERE (v).reason NOT IN ('ok', 'store_full')) > 0 THEN ' and others' ELSE '' END
	FROM (SELECT fl_rate_try_all('{device,user,app}', ARRAY[prefix || i, prefix || i, prefix || i], 'three') AS v
	      FROM generate_series(1, n) AS i OFFSET 0) AS s
$$;

-- What is spent of keys with this prefix, by each limit
CREATE FUNCTION spent(prefix text) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(coalesce(used, 0)::text, ' ')
	FROM unnest('{app,device,user}'::text[]) AS n (name)
	     LEFT JOIN (SELECT name, sum(used) AS used FROM fl_rate_counters WHERE starts_with(key, prefix) GROUP BY name) AS c USING (name)
$$;

-- Make requests with new keys until the store has grown.
CREATE FUNCTION grow(prefix text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	before bigint := memory_used FROM fl_rate_store;
BEGIN
	FOR i IN 1 .. 100 LOOP
		EXIT WHEN (SELECT memory_used FROM fl_rate_store) > before;
		PERFORM many(200, prefix || i || ' ');
	END LOOP;
END $$;
SQL

# So many requests for keys with this prefix were spent, by each of the limits.
sub all_or_nothing
{
	my ($session, $prefix, $granted, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return granted_ok($session, "SELECT spent('$prefix')", "$granted $granted $granted", $name);
}

# ---- the n-th call fails

my $memory = 'fliplet_ratelimit.max_memory = 512MB';
my ($library, $file) = build_shim('memory');

# The calls of a process with numbers from $first to $last fail from now on.
my $generation = 0;

sub refuse
{
	my ($pid, $first, $last) = @_;

	unlink "$file.hits";
	append_to_file("$file.new", join(' ', ++$generation, $pid, $first, $last) . "\n");
	rename("$file.new", $file) or die "could not rename \"$file.new\": $!";
	return;
}

# There is memory again. Returns the calls that have failed, each once; what
# was made and could not be used is gone.
sub refused
{
	my $hits = -e "$file.hits" ? slurp_file("$file.hits") : '';

	refuse(0, 1, 0);
	my %calls;
	foreach (split(/\n/, $hits))
	{
		my ($call, $segment) = split(/ /);
		$calls{$call} = $segment;
	}
	return \%calls;
}

# Walk n, or with $all everything from n on: $body is called with a session
# that is fresh, and a name; between $begin and $end of it calls fail. Returns
# the names of all calls that have failed.
sub walk
{
	my ($node, $what, $all, $body) = @_;
	my %failed;

	foreach my $n (1 .. 100)
	{
		my $s = session($node);
		my $pid = ask_ok($s, 'SELECT pg_backend_pid()');
		my $calls;
		my $name = "$what, call $n" . ($all ? ' and all after' : '');

		$body->($s, $name,
			sub { refuse($pid, $n, $all ? 1_000_000 : $n) },
			sub { $calls = refused() });
		$s->quit;
		return join(' ', sort keys %failed) unless %$calls;
		$failed{$_} = 1 foreach keys %$calls;
	}
	die "$what: there is no end of calls";
}

SKIP:
{
	skip 'there is no preloading a library here', 1 unless $library;
	my $node = new_node('refused', start => 0, conf => $memory);
	start_with($node, LD_PRELOAD => $library, FLR_SHIM_FILE => $file);
	$node->safe_psql('postgres', 'CREATE EXTENSION fliplet_ratelimit');
	$node->safe_psql('postgres', $setup);
	my $other = session($node);
	skip 'this server does not use POSIX shared memory', 1
	  unless ask_ok($other, 'SHOW dynamic_shared_memory_type') eq 'posix';
	my $three = q{SELECT fl_rate_check_all('{device,user,app}', '{%1$s,%1$s,%1$s}', 'three')};

	# -- the store itself

	my $keys = 0;
	my $failed = walk($node, 'the first use', 0,
		sub {
			my ($s, $name, $begin, $end) = @_;

			$begin->();
			my ($out, $err) = ask($s, sprintf($three, 'first'));
			my $calls = $end->();
			is(sqlstate($err), %$calls ? 'PT503' : '', "$name: " . (%$calls ? "PT503 (@{[ %$calls ]})" : 'granted'))
			  or diag($err);
			is($out, %$calls ? '' : 999, "$name: nothing was spent before");
			is(scalar(grep { -e "/dev/shm$_" } values %$calls), 0, "$name: no segment is left");
			$keys++ unless %$calls;
		});
	like($failed, qr/^(ftruncate )?mmap posix_fallocate shm_open$/, "the first use: $failed have failed");
	granted_ok($other, sprintf($three, 'first'), 998, 'the first use: others find the store');
	is($keys, 1, 'the first use: it was made once');

	# -- attaching to it, by everything that attaches

	my $turn = q{SELECT fl_rate_wait('user', 'first', 'turn') < '1 s'};
	ask_ok($other, $turn);
	foreach (
		[ sprintf($three, 'attach'), 'grants' ],
		[ q{SELECT reason FROM fl_rate_try('user', 'attach', 'three')}, 'store_full' ],
		[ q{SELECT reason FROM fl_rate_peek_all('{device,user}', '{attach,attach}', 'three')}, 'store_full' ],
		[ q{SELECT string_agg(reason, ' ') FROM fl_rate_try_batch('{user,user}', '{attach,attach}', '{three,three}')}, 'store_full' ],
		[ q{SELECT fl_rate_refund('user', 'attach', 'three')}, '' ],
		[ q{SELECT fl_rate_reset('user', 'none', 'three')}, '' ],
		[ q{SELECT fl_rate_forget('user', 'none')}, '' ],
		[ q{SELECT fl_rate_age('user', 'none', 'three', '1 s')}, '' ],
		[ q{SELECT count(*) FROM fl_rate_explain('user', 'none', 'three')}, '' ],
		[ q{SELECT count(*) FROM fl_rate_counters}, '' ],
		[ q{SELECT count(*) FROM fl_rate_stats}, '' ],
		[ q{SELECT count(*) FROM fl_rate_store}, '' ])
	{
		my ($query, $reason) = @$_;

		$failed = walk($node, "attaching: $query", 0,
			sub {
				my ($s, $name, $begin, $end) = @_;

				$begin->();
				my ($out, $err) = ask($s, $query);
				my $calls = $end->();
				if (!%$calls)
				{
					is(sqlstate($err), '', "$name: none fails");
					unlike($out, qr/store_full/, "$name: and it answers");
					return;
				}
				ok(sqlstate($err) eq 'PT503' || ($reason ne '' && $out =~ /$reason/), "$name: it says so (@{[ %$calls ]})")
				  or diag("answer: $out\n$err");
				($out, $err) = ask($s, $query);
				is(sqlstate($err), '', "$name: and the same session goes on once there is memory");
			});
		is($failed, 'mmap shm_open', "attaching: $query: $failed have failed");
	}

	# -- growing it

	foreach my $all (0, 1)
	{
		my $round = 0;

		$failed = walk($node, 'growing', $all,
			sub {
				my ($s, $name, $begin, $end) = @_;
				my $prefix = "grow $all-" . $round++ . ' ';

				# all that there is has been mapped; 2500 requests need more, and where
				# that cannot be had they find room for a while in places between others
				ask_ok($s, q{SELECT fl_rate_check('user', 'mapped', 'three')});
				$begin->();
				my ($granted, $full, $n) = (0, 0, 0);
				do
				{
					my $answer = ask_ok($s, "SELECT many(2500, '$prefix@{[ $n++ ]} ')");
					my ($these, $others) = split(/ /, $answer);
					is($answer, $these . ' ' . (2500 - $these), "$name: granted or without memory: $answer");
					$granted += $these;
					$full += $others;
				} while ($all && $full <= 1 && $n < (-e "$file.hits" ? 60 : 3));
				my $calls = $end->();
				all_or_nothing($other, $prefix, $granted, "$name: a request spends everywhere or nowhere");
				is($full, 0, "$name: no failure, none without memory") unless %$calls;
				cmp_ok($full, '<=', 1, "$name: the next request takes what it needs") if %$calls && !$all;
				cmp_ok($full, '>', 1, "$name: many find none") if %$calls && $all;
				is(scalar(grep { -e "/dev/shm$_" } values %$calls), 0, "$name: no segment is left");
				is(ask_ok($s, "SELECT many(100, '$prefix, later ')"), '100 0', "$name: the session goes on");
				is(ask_ok($other, "SELECT many(100, '$prefix, others ')"), '100 0', "$name: and others do");
			});
		like($failed, qr/^(ftruncate )?mmap posix_fallocate shm_open$/, "growing: $failed have failed");
	}

	# -- mapping what another session has added

	my $number = 0;
	my $grow = sub {
		ask_ok($other, "SELECT grow('added @{[ ++$number ]} ')");
	};
	foreach (
		[ sprintf($three, 'first'), qr/^$/ ],
		[ q{SELECT reason FROM fl_rate_try('user', 'first', 'three')}, qr/^store_full$/ ],
		[ q{SELECT string_agg(reason, ' ') FROM fl_rate_try_batch('{user,app}', '{first,first}', '{three,three}')}, qr/^(store_full ok|store_full store_full)$/ ],
		[ q{SELECT fl_rate_wait('user', 'first', 'three') < '1 s'}, qr/^$/ ],
		[ q{SELECT fl_rate_refund('user', 'first', 'three')}, qr/^$/ ],
		[ q{SELECT fl_rate_forget('user', 'nobody')}, qr/^$/ ],
		[ q{SELECT count(*) > 0 FROM fl_rate_counters}, qr/^$/ ],
		[ q{SELECT count(*) > 0 FROM fl_rate_stats}, qr/^$/ ])
	{
		my ($query, $expected) = @$_;

		$failed = walk($node, "mapping: $query", 0,
			sub {
				my ($s, $name, $begin, $end) = @_;

				ask_ok($s, q{SELECT fl_rate_check('user', 'first', 'three')});
				$grow->();
				my $before = ask_ok($other, q{SELECT spent('first')});
				$begin->();
				my ($out, $err) = ask($s, $query);
				my $calls = $end->();
				is(sqlstate($err), '', "$name: none fails") unless %$calls;
				return unless %$calls;
				like($out, $expected, "$name: it says so (@{[ %$calls ]})") or diag($err);
				is(sqlstate($err), $expected eq qr/^$/ ? 'PT503' : '', "$name: by PT503, or by store_full");
				is(ask_ok($other, q{SELECT spent('first')}), $before, "$name: nothing is spent")
				  unless $query =~ /batch/;
				($out, $err) = ask($s, $query);
				is(sqlstate($err), '', "$name: and the same session goes on once there is memory");
			});
		is($failed, 'mmap shm_open', "mapping: $query: $failed have failed");
	}

	# -- and giving a slot back, with memory that cannot be mapped

	foreach my $how ('pg_cancel_backend', 'pg_terminate_backend')
	{
		foreach my $n (1, 2)
		{
			my $used;

			# One in a dozen finds a counter moved to where it cannot look, and
			# leaves the slot to be taken: then another key has its turn.
			foreach my $try (1 .. 6)
			{
				my $name = "$how of a sleeper, call $n" . ($try > 1 ? ", try $try" : '');
				my $s = session($node);
				my $pid = ask_ok($s, 'SELECT pg_backend_pid()');

				my $waiters = ask_ok($other, 'SELECT waiters FROM fl_rate_store');
				ask_ok($s, "SELECT fl_rate_check('user', '$name', 'turn')");
				start_query($s, "SELECT fl_rate_wait('user', '$name', 'turn', max_wait => '2 h')");
				ok(wait_until(sub { return ask_ok($other, 'SELECT waiters FROM fl_rate_store') eq $waiters + 1 }),
					"$name: a session sleeps");
				$grow->();
				refuse($pid, $n, 1_000_000);
				ask_ok($other, "SELECT $how($pid)");
				my (undef, $err) = finish_query($s);
				my $calls = refused();
				ok(%$calls > 0, "$name: memory could not be mapped (@{[ %$calls ]})");
				isnt(sqlstate($err), '', "$name: the sleep ends: " . sqlstate($err));
				ok(wait_until(sub { return ask_ok($other, "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND state = 'active'") eq '0' }),
					"$name: the session has ended its statement");
				granted_ok($other, 'SELECT waiters FROM fl_rate_store', $waiters, "$name: it sleeps no more");
				if ($how =~ /cancel/)
				{
					my ($out, $error) = ask($s, "SELECT fl_rate_check('user', '$name', 'three')");
					is($out, 999, "$name: the session goes on once there is memory") or diag($error);
				}
				granted_ok($other, "SELECT fl_rate_check('user', '$name', 'three') IS NOT NULL", 't', "$name: and others do");
				$used = ask_ok($other, "SELECT sum(used) FROM fl_rate_counters WHERE key = '$name' AND name ~ 'turn'");
				eval { $s->quit };
				last if $used == 2;
			}
			is($used, 2, "$how of a sleeper, call $n: the slot is given back in both limits");
		}
	}
	$other->quit;
	crashed_ok($node, 0, 'no backend has crashed');
	$node->stop;
}

# ---- a /dev/shm of 6 MB

# A command in front of pg_ctl, for the start of a server
sub start_behind
{
	my ($node, @command) = @_;
	my $folder = PostgreSQL::Test::Utils::tempdir();

	my ($pg_ctl) = grep { -x } map { "$_/pg_ctl" } split(/:/, $ENV{PATH});
	append_to_file("$folder/pg_ctl", "#!/bin/sh\nPATH=\${PATH#*:}\n" . join(' ', @command) . " $pg_ctl \"\$@\"\n");
	chmod(0755, "$folder/pg_ctl") or die $!;
	local $ENV{PATH} = "$folder:$ENV{PATH}";
	$node->start;
	return;
}

# What holds in a server whose memory is used up before max_memory is reached.
# The second session is there to look; returns what was granted, and the SQLSTATE
# of a request over two old keys and a new one.
sub short_of_memory
{
	my ($s, $watch, $what) = @_;
	my $answer = ask_ok($s, q{SELECT many(30000, 'fill ')});
	my ($granted, $full) = split(/ /, $answer);

	is($answer, $granted . ' ' . (30000 - $granted), "$what: granted or without memory: $answer");
	cmp_ok($granted, '>', 500, "$what: there was room for some");
	cmp_ok($full, '>', 1000, "$what: but not for all");
	all_or_nothing($watch, 'fill ', $granted, "$what: a request spends everywhere or nowhere");
	granted_ok($s, q{SELECT fl_rate_check_all('{device,user,app}', '{old,old,old}', 'three')},
		998, "$what: existing counters go on");
	# the last block, too
	ask_ok($s, q{SELECT count(fl_rate_try('device', 'rest ' || i, 'three')) FROM generate_series(1, 1000) AS i});
	my (undef, $err) = ask($s, q{SELECT fl_rate_check_all('{device,user,app}', '{old,old,new}', 'three')});
	granted_ok($watch, q{SELECT spent('old')}, $err =~ /PT503/ ? '2 2 2' : '2 3 3',
		"$what: so does one over old keys and a new one");
	return ($granted, sqlstate($err));
}

SKIP:
{
	my $unshare = 'unshare --map-root-user --mount';

	skip 'there is no mount namespace of our own to be had here', 1
	  if system("$unshare mount -t tmpfs -o size=6m tmpfs /dev/shm >/dev/null 2>&1") != 0
	  || system("$unshare unshare --user --map-user=\$(id -u) --map-group=\$(id -g) true >/dev/null 2>&1") != 0;

	my $node = new_node('small', start => 0, conf => "$memory\ndynamic_shared_memory_type = posix");
	# a server does not run as root, not even as one without its powers
	start_behind($node, $unshare, q{sh -c 'mount -t tmpfs -o size=6m,mode=1777 tmpfs /dev/shm && exec "$@"' sh},
		"unshare --user --map-user=$> --map-group=" . (split(/ /, $)))[0]);
	$node->safe_psql('postgres', 'CREATE EXTENSION fliplet_ratelimit');
	$node->safe_psql('postgres', $setup);
	my $s = session($node);

	# something else has taken it all
	my (undef, $err) = ask($s, q{COPY (SELECT repeat('x', 1000000) FROM generate_series(1, 10)) TO '/dev/shm/other'});
	is(sqlstate($err), '53100', 'small /dev/shm: something else fills it');
	(undef, $err) = ask($s, q{SELECT fl_rate_check_all('{device,user,app}', '{old,old,old}', 'three')});
	is(sqlstate($err), 'PT503', 'small /dev/shm: there is no room for the store');
	ask_ok($s, q{COPY (SELECT) TO '/dev/shm/other'});
	granted_ok($s, q{SELECT fl_rate_check_all('{device,user,app}', '{old,old,old}', 'three')},
		999, 'small /dev/shm: there is, when that is gone');
	is((short_of_memory($s, session($node), 'small /dev/shm'))[1], 'PT503', 'small /dev/shm: which is refused');
	granted_ok($s, 'SELECT memory_used BETWEEN 3000000 AND 6291456, refused_full > 1000 FROM fl_rate_store',
		't|t', 'small /dev/shm: the store has what there was');
	granted_ok($s, 'SELECT fl_rate_reset_all() > 1000', 't', 'small /dev/shm: with counters reset');
	is(ask_ok($s, q{SELECT many(1000, 'after ')}), '1000 0', 'small /dev/shm: others have room');
	$s->quit;
	crashed_ok($node, 0, 'small /dev/shm: no backend has crashed');
	$node->stop;
}

# ---- an address space that is used up

SKIP:
{
	my $node = new_node('addresses', conf => $memory);
	$node->safe_psql('postgres', $setup);
	my $s = session($node);
	ask_ok($s, q{SELECT many(100, 'warm '), spent('warm')});
	my $pid = ask_ok($s, 'SELECT pg_backend_pid()');
	skip 'the size of a process cannot be seen or limited here', 1
	  unless -r "/proc/$pid/status"
	  && slurp_file("/proc/$pid/status") =~ /VmPeak:\s+(\d+) kB/
	  && system('sh -c "ulimit -S -v 10000000" && prlimit --version >/dev/null') == 0;

	# what a session needs that has made a request, and room for three slabs
	my $limit = $1 + 3500;
	$s->quit;
	$node->stop;
	start_behind($node, "ulimit -S -v $limit;");
	$s = session($node);
	granted_ok($s, q{SELECT fl_rate_check_all('{device,user,app}', '{old,old,old}', 'three')},
		999, 'small address space: it works');
	# (what a process has freed may serve it later: the new key may be granted)
	my $unlimit = sub {
		system_or_bail('prlimit', '--pid=' . ask_ok($_[0], 'SELECT pg_backend_pid()'), '--as=unlimited:');
	};
	my $watch = session($node);
	$unlimit->($watch);
	my ($granted) = short_of_memory($s, $watch, 'small address space');
	$unlimit->($s);
	is(ask_ok($s, q{SELECT many(3000, 'after ')}), '3000 0', 'small address space: with a larger one the store grows');
	all_or_nothing($watch, 'fill ', $granted, 'small address space: and nothing is lost');
	$s->quit;
	crashed_ok($node, 0, 'small address space: no backend has crashed');
	$node->stop;
}

done_testing();
