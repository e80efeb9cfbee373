#!/usr/bin/perl
#
# report.pl: from measurements to tables
#
#   report.pl text|markdown|svg FACTS SAMPLES ERRORS
#
# FACTS has lines of name, value; SAMPLES of name, round, value; ERRORS of
# rows, reason; all separated by tabs. What a row is, and its bar, is said in
# @ROWS below.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;
use utf8;

my ($style, @files) = @ARGV;
die "usage: report.pl text|markdown|svg FACTS SAMPLES ERRORS\n"
  unless @files == 3 && $style =~ /^(text|markdown|svg)$/;

my (%fact, %sample, %error);
for (lines($files[0]))
{
	my ($name, $value) = split /\t/;
	$fact{$name} = $value;
}
# A measurement that was repeated in a round (there is none) would count once.
for (lines($files[1]))
{
	my ($name, $round, $value) = split /\t/;
	$sample{$name}{$round} = $value;
}
for (lines($files[2]))
{
	my ($rows, $reason) = split /\t/;
	$error{$_} //= $reason for split / /, $rows;
}

my $million = $fact{keys} == 1000000 ? '1M' : grouped($fact{keys});
my $loop = $fact{loop} == 3000000 ? '3M' : grouped($fact{loop});

# Row, what it is, how one round's value follows from its measurements, "<="
# or ">=" or "" (shown only), the bar, the unit (of a ratio: none), and how
# rounds are joined: median, or best where a busy machine can only add.
my @ROWS = (
	[1, "loop of $loop granted checks of one key in the server ÷ the same over the empty function",
		sub { measured('loop.check') / measured('loop.empty') }, '<=', 1.8, ''],
	[2, "check of one of $million live keys, random order, above the empty function",
		sub { measured('many.check') - measured('many.empty') }, '<=', 350, 'ns'],
	[2, "the same ÷ the cost with one key",
		sub { (measured('many.check') - measured('many.empty')) / (measured('loop.check') - measured('loop.empty')) }, '<=', 5, ''],
	[2, 'the same with the store in huge pages',
		sub { measured('huge.check') - measured('huge.empty') }, '<=', 350, 'ns'],
	[2, 'with the store in huge pages ÷ the cost with one key',
		sub { (measured('huge.check') - measured('huge.empty')) / (measured('loop.check') - measured('loop.empty')) }, '<=', 5, ''],
	[2, 'the same, in pages of the usual size, of a function that looks up an entry in shared memory and adds to it, and no more: what can be reached',
		sub { measured('many.table') - measured('many.empty') }, '', undef, 'ns'],
	[2, 'the same of a function that does with memory, the clock and a lock what a check has to, and nothing else: what can be reached without a look-up',
		sub { measured('many.page') - measured('many.empty') }, '', undef, 'ns'],
	[2, 'the same of a function that adds to an entry whose place follows from the key: what one access to that much memory costs',
		sub { measured('many.access') - measured('many.empty') }, '', undef, 'ns'],
	[3, "check that creates its key, above the empty function ($million keys, from an empty store)",
		sub { (measured('create.check') - measured('create.empty')) / 1000 }, '<=', 1.2, 'µs'],
	[4, 'pgbench, 8 clients, one key: checks/s ÷ `SELECT 1`/s',
		sub { measured('tps.one') / measured('tps.select1') }, '>=', 0.95, ''],
	[4, 'the same, the key part of the statement, which then has no parameter',
		sub { measured('tps.literal') / measured('tps.select1') }, '', undef, ''],
	[4, 'the same of the empty function, key as a parameter: what can be reached',
		sub { measured('tps.empty_one') / measured('tps.select1') }, '', undef, ''],
	[5, 'pgbench, 8 clients, 100 000 random keys ÷ the empty function with the same arguments',
		sub { measured('tps.random') / measured('tps.empty') }, '>=', 0.90, ''],
	[5, 'the same of a function that looks up an entry in shared memory and adds to it: what can be reached',
		sub { measured('tps.table') / measured('tps.empty') }, '', undef, ''],
	[6, 'two backends on one hot key together ÷ one alone, relative to the same of the empty function',
		sub { hot('check', 2) }, '>=', 0.9, ''],
	[6, 'the same of a function that adds, under a spinlock, to the lines of memory that a counter consists of: what can be reached',
		sub { hot('lines', 2) }, '', undef, ''],
	[6, 'the same of a function that adds to one number under a spinlock', sub { hot('counter', 2) }, '', undef, ''],
	[6, 'the same with 8 backends', sub { hot('check', 8) }, '', undef, ''],
	[6, 'the lines of a counter under a spinlock with 8 backends', sub { hot('lines', 8) }, '', undef, ''],
	[6, 'the number under a spinlock with 8 backends', sub { hot('counter', 8) }, '', undef, ''],
	[6, 'two backends that add to a number in turn: one addition, which hands a line of the cache over',
		sub { 1e9 / measured('hot.turns') }, '', undef, 'ns'],
	[7, 'pgbench, 8 clients, random keys ÷ `INSERT … ON CONFLICT` counter in a logged table',
		sub { measured('tps.random') / measured('tps.upsert_random') }, '>=', 6, ''],
	[7, 'the empty function with random keys ÷ the counter with random keys: what can be reached',
		sub { measured('tps.empty') / measured('tps.upsert_random') }, '', undef, ''],
	[7, 'checks of one hot key ÷ the counter with one hot key', sub { measured('tps.one') / measured('tps.upsert_hot') }, '>=', 20, ''],
	[8, 'from Node, 8 concurrent, one query a check ÷ rate-limiter-flexible on PostgreSQL',
		sub { measured('node.check8') / measured('node.flexible_pg') }, '>=', 3, ''],
	[8, 'the same of the empty function: what can be reached',
		sub { measured('node.empty8') / measured('node.flexible_pg') }, '', undef, ''],
	[8, 'the same through `clients/node`', sub { measured('node.client8') / measured('node.flexible_pg') }, '', undef, ''],
	[9, 'from Node, 64 concurrent, `clients/node` ÷ rate-limiter-flexible on Redis',
		sub { measured('node.client64') / measured('node.flexible_redis') }, '>=', 2, ''],
	[10, 'what the statement trigger adds to a single-row INSERT, above a trigger that does nothing',
		sub { (measured('trigger.limited') - measured('trigger.nothing')) / 1000 }, '<=', 0.5, 'µs'],
	[11, "memory of a key of 16 bytes with 4 requests in its window, all of the store ÷ $million keys",
		sub { measured('memory.key') }, '<=', 192, 'bytes'],
	[11, 'memory of each further request (20 000 keys, 200 requests each)',
		sub { measured('memory.request') }, '<=', 12, 'bytes'],
	[12, "longest single check while the store grows from 0 to $million keys (least of the rounds)",
		sub { measured('latency.check.max') / 1000 }, '<=', 5, 'ms', 'best'],
	[12, 'the same of the empty function', sub { measured('latency.empty.max') / 1000 }, '', undef, 'ms', 'best'],
	[13, 'first check of a new connection above the first call of a built-in function',
		sub { measured('first.check.few') - measured('first.builtin.few') }, '<=', 3, 'ms'],
	[13, "the same with $million keys in the store",
		sub { measured('first.check.many') - measured('first.builtin.many') }, '<=', 3, 'ms'],
	[13, 'the first call of the empty function above the same: what loading a library costs',
		sub { measured('first.empty.few') - measured('first.builtin.again') }, '', undef, 'ms'],
	[13, 'the same of one whose library defines as many settings, and does nothing',
		sub { measured('first.settings.few') - measured('first.builtin.again') }, '', undef, 'ms'],
	[13, 'the same, and the function reads the table of definitions once: what can be reached',
		sub { measured('first.definitions.few') - measured('first.builtin.again') }, '', undef, 'ms'],
	['peers', 'pgbench, 8 clients, random keys ÷ `INSERT … ON CONFLICT` in an unlogged table',
		sub { measured('tps.random') / measured('tps.unlogged_random') }, '', undef, ''],
	['peers', 'the same, one hot key', sub { measured('tps.one') / measured('tps.unlogged_hot') }, '', undef, ''],
	['peers', 'random keys ÷ advisory lock and count(*) over a log table',
		sub { measured('tps.random') / measured('tps.log_random') }, '', undef, ''],
	['peers', 'random keys ÷ Redis, exact sliding log in Lua (redis-benchmark, 8 clients)',
		sub { measured('tps.random') / measured('redis.log') }, '', undef, ''],
	['peers', 'random keys ÷ Redis, GCRA in Lua (redis-benchmark, 8 clients)',
		sub { measured('tps.random') / measured('redis.gcra') }, '', undef, ''],
	['peers', 'from Node, 8 concurrent, one query a check ÷ store of express-rate-limit on PostgreSQL',
		sub { measured('node.check8') / measured('node.express_pg') }, '', undef, ''],
	['batch', '`fl_rate_try_batch`, 100 checks a call: each, above an empty call',
		sub { (measured('batch.100') - measured('batch.0')) / 100 }, '<=', 250, 'ns'],
	['batch', 'the same with the store in huge pages',
		sub { (measured('hugebatch.100') - measured('hugebatch.0')) / 100 }, '<=', 250, 'ns'],
	['batch', 'in pages of the usual size, above a function that answers 100 rows that it makes once',
		sub { (measured('batch.100') - measured('batch.rows')) / 100 }, '', undef, 'ns'],
	['batch', 'above an empty call, of a function that looks up 100 entries in shared memory, adds to them and answers 100 rows that it makes once: what can be reached',
		sub { (measured('batch.table') - measured('batch.0.again')) / 100 }, '', undef, 'ns'],
	['batch', 'checks above an empty call, the same 100 keys in every call',
		sub { (measured('batch.same') - measured('batch.0')) / 100 }, '', undef, 'ns'],
	['backtest', '`fl_rate_backtest` of ' . grouped($fact{arrivals}) . ' arrivals of one key, 200 in 10 s, above reading them: millions a second',
		sub { 1000 / (measured('backtest.replay') - measured('backtest.read')) }, '>=', 5, ''],
	['cluster', 'routed check, 1 client: time of one ÷ the same of a bare PL/Proxy call of the empty function',
		sub { measured('cluster.bare') / measured('cluster.routed') }, '<=', 1.1, ''],
	['cluster', 'the same of a PL/Proxy call that answers as many bytes as a verdict has: what can be reached',
		sub { measured('cluster.bare') / measured('cluster.bytes') }, '', undef, ''],
	['cluster', 'routed check ÷ that bare call, 8 clients',
		sub { measured('cluster.bare8') / measured('cluster.nodes1') }, '', undef, ''],
	['cluster', '1 client, ÷ the same of a check called directly',
		sub { measured('cluster.direct') / measured('cluster.routed') }, '', undef, ''],
	['cluster', '1 client, ÷ the same of a check called through dblink, connection kept',
		sub { measured('cluster.dblink') / measured('cluster.routed') }, '', undef, ''],
	['full', 'keys that come and go in a full store of 32 MB ÷ keys created in a store with room',
		sub { measured('full.coming') / measured('full.normal_create') }, '>=', 0.5, ''],
	['full', 'share of these that took the place of an expired one, without a scheduler',
		sub { measured('full.swept') / $fact{keys} / 3 }, '', undef, ''],
	['full', 'new keys in a store full of live ones (`when_full = allow`) ÷ keys created with room',
		sub { measured('full.new') / measured('full.normal_create') }, '>=', 0.5, ''],
	['full', 'live keys in a full store ÷ the same in a store with room',
		sub { measured('full.live') / measured('full.normal_live') }, '>=', 0.5, ''],
	['full', 'live keys lost, or with another count than before', sub { measured('full.lost') }, '<=', 0, 'keys'],
	['full', "new keys answered `store_full` (`when_full = error`) ÷ keys asked for",
		sub { measured('full.answer') / $fact{keys} }, '>=', 1, ''],
);

# Name, what it is, digits after the point
my @MEASURED = (
	['In the server, nanoseconds'],
	['loop.empty', 'empty function, one key', 1],
	['loop.check', '`fl_rate_check`, one key', 1],
	['create.empty', "empty function, $million keys, in order of creation", 1],
	['create.check', '`fl_rate_check` that creates its key', 1],
	['many.empty', "empty function, $million keys, random order", 1],
	['many.check', '`fl_rate_check`, live keys, random order', 1],
	['huge.empty', "empty function, $million keys, random order, store in huge pages", 1],
	['huge.check', '`fl_rate_check`, live keys, random order, store in huge pages', 1],
	['many.table', 'a look-up in shared memory and an addition, random order', 1],
	['many.page', 'clock, lock and an addition in a page, random order', 1],
	['many.access', 'an addition at a place that follows from the key, random order', 1],
	['trigger.none', 'single-row INSERT without a trigger', 1],
	['trigger.nothing', '… with a statement trigger that does nothing', 1],
	['trigger.limited', '… with `fl_rate_trigger`', 1],
	['batch.0', 'call of `fl_rate_try_batch` with no request', 0],
	['batch.100', '… with 100 requests, 100 000 random keys', 0],
	['hugebatch.100', '… store in huge pages', 0],
	['hugebatch.0', 'with no request, store in huge pages', 0],
	['batch.same', '… with the same 100 requests each time', 0],
	['batch.rows', 'call of a function that answers 100 rows that it makes once', 0],
	['backtest.read', 'reading an array of arrivals, an arrival', 1],
	['backtest.replay', '… with `fl_rate_backtest`', 1],
	['In the server, several backends on one key, calls/s together'],
	['hot.empty.1', 'empty function, 1 backend', 0],
	['hot.empty.2', '… 2 backends', 0],
	['hot.empty.8', '… 8 backends', 0],
	['hot.check.1', '`fl_rate_check`, 1 backend', 0],
	['hot.check.2', '… 2 backends', 0],
	['hot.check.8', '… 8 backends', 0],
	['hot.counter.1', 'a number under a spinlock, 1 backend', 0],
	['hot.counter.2', '… 2 backends', 0],
	['hot.counter.8', '… 8 backends', 0],
	['hot.lines.1', "the lines of a counter under a spinlock, 1 backend", 0],
	['hot.lines.2', '… 2 backends', 0],
	['hot.lines.8', '… 8 backends', 0],
	['hot.turns', 'two backends in turn, additions', 0],
	['pgbench -M prepared -c 8 -j 2, unix socket, requests/s'],
	['tps.select1', '`SELECT 1`', 0],
	['tps.one', '`fl_rate_check`, one hot key', 0],
	['tps.literal', '… part of the statement', 0],
	['tps.empty_one', 'empty function, one key', 0],
	['tps.random', '`fl_rate_check`, 100 000 random keys', 0],
	['tps.empty', 'empty function, 100 000 random keys', 0],
	['tps.table', 'a look-up in shared memory and an addition, 100 000 random keys', 0],
	['tps.upsert_random', '`INSERT … ON CONFLICT`, logged table, random keys', 0],
	['tps.upsert_hot', '… one hot key', 0],
	['tps.unlogged_random', '`INSERT … ON CONFLICT`, unlogged table, random keys', 0],
	['tps.unlogged_hot', '… one hot key', 0],
	['tps.log_random', 'advisory lock and count(*) over a log table, random keys', 0],
	['redis-benchmark -c 8, unix socket, 100 000 random keys, requests/s'],
	['redis.log', 'Redis, exact sliding log in Lua (sorted set)', 0],
	['redis.gcra', 'Redis, GCRA in Lua', 0],
	['Node, unix socket, 100 000 random keys, requests/s'],
	['node.check8', '`SELECT fl_rate_check(…)` by pg, 8 concurrent', 0],
	['node.empty8', '… of the empty function', 0],
	['node.client8', '`clients/node`, 8 concurrent', 0],
	['node.flexible_pg', 'rate-limiter-flexible on PostgreSQL, 8 concurrent', 0],
	['node.express_pg', 'store of express-rate-limit on PostgreSQL, 8 concurrent', 0],
	['node.client64', '`clients/node`, 64 concurrent', 0],
	['node.flexible_redis', 'rate-limiter-flexible on Redis (ioredis), 64 concurrent', 0],
	['A router and its nodes, all on this machine, 100 000 random keys, requests/s'],
	['cluster.direct', 'called directly, 1 client', 0],
	['cluster.routed', 'routed, 1 client', 0],
	['cluster.bare', 'PL/Proxy call of the empty function, 1 client', 0],
	['cluster.bytes', 'PL/Proxy call that answers as many bytes, 1 client', 0],
	['cluster.dblink', 'through dblink, 1 client', 0],
	['cluster.direct8', 'called directly, 8 clients', 0],
	['cluster.bare8', 'PL/Proxy call of the empty function, 8 clients', 0],
	['cluster.nodes1', 'routed to one node, 8 clients', 0],
	['cluster.nodes2', 'routed to two nodes, 8 clients', 0],
	['cluster.nodes4', 'routed to four nodes, 8 clients', 0],
	["While the store grows from 0 to $million keys, microseconds of a call"],
	(map { my $w = $_;
		map { ["latency.$w.$_->[0]", ($w eq 'check' ? '`fl_rate_check`' : 'empty function') . ", $_->[1]", 2] }
		  (['p50', 'p50'], ['p99', 'p99'], ['p999', 'p99.9'], ['max', 'longest']) } qw(check empty)),
	['First statement of a new connection, milliseconds'],
	['first.builtin.few', 'a built-in function', 3],
	['first.empty.few', 'the empty function', 3],
	['first.settings.few', '… whose library defines as many settings', 3],
	['first.definitions.few', '… and which reads the table of definitions', 3],
	['first.check.few', '`fl_rate_check`', 3],
	['first.builtin.many', "a built-in function, $million keys in the store", 3],
	['first.check.many', "`fl_rate_check`, $million keys in the store", 3],
	['Memory, bytes'],
	['memory.key', 'per key with 4 requests', 1],
	['memory.request', 'per further request', 1],
	['max_memory, in the server, checks/s'],
	['full.normal_create', 'keys created with room', 0],
	['full.coming', 'keys that come and go, store full', 0],
	['full.new', 'new keys, store full of live ones', 0],
	['full.normal_live', 'live keys, store with room', 0],
	['full.live', 'live keys, store full', 0],
	['full.swept', 'expired keys that made room (number)', 0],
);

our $round;

if ($style eq 'svg') { svg() }
else                 { report() }

# ------------------------------------------------------------- arithmetic

# A measurement in the round at hand; without it there is no value.
sub measured
{
	my ($name) = @_;
	return $sample{$name}{$round} // die "no $name\n";
}

sub hot
{
	my ($what, $n) = @_;
	return (measured("hot.$what.$n") / measured("hot.$what.1")) / (measured("hot.empty.$n") / measured('hot.empty.1'));
}

sub lines
{
	open my $in, '<:encoding(UTF-8)', $_[0] or die "$_[0]: $!\n";
	chomp(my @lines = <$in>);
	return @lines;
}

# Median, least, greatest; nothing if there are no values.
sub summary
{
	my @v = sort { $a <=> $b } @_;
	return unless @v;
	my $n = @v;
	my $median = $n % 2 ? $v[ $n / 2 ] : ($v[ $n / 2 - 1 ] + $v[ $n / 2 ]) / 2;
	return ($median, $v[0], $v[-1]);
}

# A row's value in every round that has all of it
sub values_of
{
	my ($of) = @_;
	my @values;
	for $round (1 .. $fact{rounds})
	{
		my $value = eval { $of->() };
		push @values, $value if defined $value;
	}
	return @values;
}

sub of_sample { return summary(values %{ $sample{ $_[0] } // {} }) }

# ------------------------------------------------------------- text

sub grouped
{
	my ($number) = @_;
	1 while $number =~ s/^(-?\d+)(\d{3})/$1 $2/;
	return $number;
}

# Three significant digits or so
sub figure
{
	my ($value) = @_;
	my $size = abs $value;
	return grouped(sprintf '%.0f', $value) if $size >= 100 || $value == int $value;
	return sprintf $size >= 10 ? '%.1f' : $size >= 0.1 ? '%.2f' : '%.3f', $value;
}

sub report
{
	binmode STDOUT, ':encoding(UTF-8)';
	my $md = $style eq 'markdown';
	my @table;
	my $short = 0;
	my %wanted = map { $_ => 1 } split / /, $fact{rows};
	for my $row (@ROWS)
	{
		my ($id, $what, $of, $sense, $bar, $unit, $join) = @$row;
		next unless $wanted{$id};
		my $space = $unit eq '' ? '' : " $unit";
		my $goal = $sense eq '' ? '' : ($sense eq '<=' ? '≤ ' : '≥ ') . figure($bar) . $space;
		my @values = values_of($of);
		if (!@values)
		{
			push @table, [$id, $what, $goal, '', '', 'error: ' . ($error{$id} // 'not measured')];
			$short++;
			next;
		}
		my ($median, $min, $max) = summary(@values);
		my $value = ($join // '') eq 'best' ? $min : $median;
		my $verdict = $sense eq '' ? '' : ($sense eq '<=' ? $value <= $bar : $value >= $bar) ? 'pass' : 'short';
		$short++ if $verdict eq 'short';
		push @table, [$id, $what, $goal, figure($value) . $space,
			figure($min) . ' … ' . figure($max), $verdict];
	}
	print $md ? "# Measured\n\n" : "\n";
	print "By `$fact{command}`; [README.md](README.md) says what is compared and how to read it.\n\n" if $md;
	print about($md), "\n\n";
	table($md, ['row', 'what', 'bar', 'median', 'min … max', ''], \@table) if @table;
	print "\n", $short ? "$short short." : 'All rows pass.', "\n" if @table;

	curves($md, \%wanted);

	print "\n", $md ? '## ' : '', "The figures behind the ratios\n";
	my ($title, @part);
	for my $m (@MEASURED, [''])
	{
		if (@$m == 1)
		{
			if (@part)
			{
				print "\n";
				table($md, [$title, 'median', 'min', 'max'], \@part);
			}
			($title, @part) = ($m->[0]);
			next;
		}
		my @s = of_sample($m->[0]) or next;
		push @part, [$m->[1], map { grouped(sprintf "%.$m->[2]f", $_) } @s];
	}
	return;
}

sub about
{
	my ($md) = @_;
	my @versions = map { "$_ $fact{$_}" } grep { $fact{$_} }
	  ('fliplet_ratelimit', 'PostgreSQL', 'Redis', 'Node', 'pg', 'ioredis', 'rate-limiter-flexible',
		'express-rate-limit', '@acpr/rate-limit-postgresql');
	return join "\n", map { $md ? "- $_" : "  $_" }
	  $fact{date} . ", $fact{cores} cores" . ($fact{processor} ? ", $fact{processor}" : '')
		. (defined $fact{seconds} ? ", $fact{seconds} s" : ''),
	  join(', ', @versions, $fact{compiler}),
	  "settings: $fact{settings}; fliplet_ratelimit.max_memory = 2GB, or as the row says; the others are defaults",
	  "$fact{rounds} interleaved rounds"
		. ($fact{quick} ? '. A smoke run with small sizes: these figures are not for quoting' : '');
}

sub table
{
	my ($md, $head, $rows) = @_;
	if ($md)
	{
		print '| ', join(' | ', map { s/\|/\\|/gr } @$_), " |\n" for $head;
		print '|', join('|', map { $_ == 0 || @$head > 5 && ($_ == 1 || $_ == $#$head) ? ' --- ' : ' ---: ' } 0 .. $#$head), "|\n";
		print '| ', join(' | ', map { s/\|/\\|/gr } @$_), " |\n" for @$rows;
		return;
	}
	my @width;
	for my $row ($head, @$rows)
	{
		for my $i (0 .. $#$row)
		{
			my $n = length $row->[$i];
			$width[$i] = $n if $n > ($width[$i] // 0);
		}
	}
	for my $row ($head, @$rows)
	{
		my @cells = map {
			my $pad = ' ' x ($width[$_] - length $row->[$_]);
			@$head > 5 && ($_ == 2 || $_ == 3) || @$head <= 5 && $_ > 0 ? $pad . $row->[$_] : $row->[$_] . $pad
		} 0 .. $#$row;
		print '  ' . (join('  ', @cells) =~ s/ +$//r), "\n";
	}
	return;
}

# ------------------------------------------------------------- curves

# Numbers that occur in names like curve.check.1000
sub steps
{
	my ($prefix) = @_;
	my %seen = map { /^\Q$prefix\E\.(\d+)$/ ? ($1 => 1) : () } keys %sample;
	my @steps = sort { $a <=> $b } keys %seen;
	return @steps;
}

# Nanoseconds above the empty function, round by round
sub cost_at
{
	my ($n) = @_;
	return summary(map { ($sample{"curve.check.$n"}{$_} // next) - ($sample{"curve.empty.$n"}{$_} // next) }
		  grep { defined $sample{"curve.empty.$n"}{$_} } keys %{ $sample{"curve.check.$n"} });
}

sub curves
{
	my ($md, $wanted) = @_;
	my @keys = steps('curve.check');
	my @clients = steps('clients.hot');
	for my $row (grep { $wanted->{$_} && $error{$_} } qw(peers keys clients))
	{
		print "\n$row: error: $error{$row}\n";
	}
	return unless @keys || @clients;
	print "\n", $md ? "## Curves\n\n![cost of a check by live keys; checks per second by clients](curves.svg)\n" : "Curves\n";
	if (@keys)
	{
		print "\n";
		table($md, ['live keys: a check above the empty function, ns', 'median', 'min', 'max'],
			[map { my $n = $_; [grouped($n), map { figure($_) } cost_at($n)] } @keys]);
	}
	if (@clients)
	{
		print "\n";
		table($md, ['clients: requests/s (pgbench)', '`SELECT 1`', 'one hot key', '100 000 random keys'],
			[map { my $n = $_;
				[$n, map { my ($v) = of_sample("clients.$_.$n"); defined $v ? grouped(sprintf '%.0f', $v) : 'error' }
					qw(select1 hot random)] } @clients]);
	}
	return;
}

# Two panels. Greys and colours that can be read on white and on black.
sub svg
{
	binmode STDOUT, ':encoding(UTF-8)';
	my @keys = steps('curve.check');
	my @clients = steps('clients.hot');
	print <<'SVG';
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 330" font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="Cost of a check by live keys, and requests per second by clients">
<style>
  text { fill: #6e7781 } .title { font-weight: 600; font-size: 13px } .grid { stroke: #8b949e; stroke-opacity: .35; fill: none }
  .a { stroke: #1f78e6; fill: #1f78e6 } .b { stroke: #cf5f10; fill: #cf5f10 } .c { stroke: #6e7781; fill: #6e7781 }
  polyline { fill: none !important; stroke-width: 2 } circle { stroke: none }
  text.a, text.b, text.c { stroke: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #b1bac4 } .a { stroke: #58a6ff; fill: #58a6ff } .b { stroke: #f0883e; fill: #f0883e } .c { stroke: #b1bac4; fill: #b1bac4 }
  }
</style>
SVG
	panel(50, 'Nanoseconds of a check above an empty one, by live keys',
		\@keys, ['a', '', [map { (cost_at($_))[0] } @keys]]);
	panel(490, 'Requests/s of pgbench, by clients', \@clients,
		map { my ($class, $name, $what) = @$_;
			[$class, $what, [map { (of_sample("clients.$name.$_"))[0] } @clients]] }
		  (['c', 'select1', 'SELECT 1'], ['a', 'hot', 'one hot key'], ['b', 'random', '100 000 random keys']));
	print "</svg>\n";
	return;
}

# A panel at x: title, steps (at equal distances), lines of class, name, values
sub panel
{
	my ($x, $title, $steps, @lines) = @_;
	my ($top, $width, $height) = (50, 350, 220);
	my ($max) = sort { $b <=> $a } map { grep { defined } @{ $_->[2] } } @lines;
	return unless @$steps && $max;
	my $unit = 10**int(log($max) / log(10));
	my ($step) = grep { $max / $_ <= 5 } map { $unit * $_ } (0.1, 0.2, 0.5, 1, 2, 5);
	my $high = $step * (int($max / $step) + 1);
	my $at_x = sub { sprintf '%.1f', $x + 20 + $_[0] * ($width - 40) / (@$steps > 1 ? $#$steps : 1) };
	my $at_y = sub { sprintf '%.1f', $top + $height * (1 - $_[0] / $high) };

	printf qq{<text class="title" x="%d" y="22">%s</text>\n}, $x, $title;
	for (my $v = 0; $v <= $high * 1.001; $v += $step)
	{
		my $y = $at_y->($v);
		my $label = $v >= 1000 ? grouped($v / 1000) . 'k' : $v;
		printf qq{<path class="grid" d="M%d %sH%d"/><text x="%d" y="%.1f" text-anchor="end">%s</text>\n},
		  $x, $y, $x + $width, $x - 6, $y + 4, $label;
	}
	for my $i (0 .. $#$steps)
	{
		my $n = $steps->[$i];
		my $label = $n >= 1000000 && $n % 1000000 == 0 ? $n / 1000000 . 'M' : $n >= 1000 ? $n / 1000 . 'k' : $n;
		printf qq{<text x="%s" y="%d" text-anchor="middle">%s</text>\n}, $at_x->($i), $top + $height + 18, $label;
	}
	my $legend = $x;
	for my $line (@lines)
	{
		my ($class, $name, $values) = @$line;
		my @points = map { defined $values->[$_] ? [$at_x->($_), $at_y->($values->[$_])] : () } 0 .. $#$steps;
		printf qq{<polyline class="%s" points="%s"/>\n}, $class, join ' ', map { "$_->[0],$_->[1]" } @points;
		printf qq{<circle class="%s" cx="%s" cy="%s" r="3"/>\n}, $class, @$_ for @points;
		next if $name eq '';
		printf qq{<text class="%s" x="%d" y="%d">%s</text>\n}, $class, $legend, $top + $height + 42, "● $name";
		$legend += 30 + 7 * length $name;
	}
	return;
}
