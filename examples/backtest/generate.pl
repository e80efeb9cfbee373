#!/usr/bin/perl
#
# generate.pl: print an access log of one day, in combined format
#
#   generate.pl [LINES [SEED]]      1000000 lines of seed 1 by default
#
# The same arguments give the same lines on every machine. What makes the log
# like a real one: few users make most of the requests; they come in sessions,
# more of them by day than by night; pages ask for many things at once; now and
# then a script loops over single requests; and a few lines are not what a
# program that reads a log would like to find.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use constant DAY => 24 * 3600;

my $lines = shift // 1000000;
my $seed = shift // 1;
die "usage: generate.pl [LINES [SEED]]\n"
  if @ARGV || "$lines $seed" !~ /^[1-9][0-9]* [0-9]+$/;
srand($seed);
binmode STDOUT;

# ---- who

# Few lines are few users: each has some requests.
my $users = 20 + int($lines / 250);
my $total = 0;
my @upto = map { $total += heavy(1.1, 1000) } 1 .. $users;
my @agents = (
	'Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0',
	'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15',
	'Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36',
	'python-requests/2.32.3',
);

# ---- what: a path's beginning, and how many of 100 requests have it

my @paths = (
	[ '/v1/data-sources/', 76 ], [ '/v1/app-actions/', 6 ], [ '/v1/communicate/', 5 ],
	[ '/v1/audit-logs/', 4 ], [ '/v1/ai/', 4 ], [ '/assets/', 5 ]);
my @path = map { my $i = $_; ($i) x $paths[$i][1] } 0 .. $#paths;

# ---- the requests, each one number: milliseconds, user and path, so that
# sorting numbers sorts the log

my @hostile = hostile_lines();
my $hostile = @hostile + int($lines / 50000);
$hostile = 0 if $hostile >= $lines;
my @requests;
while (@requests < $lines - $hostile)
{
	my $user = pick_user();
	my $at = pick_start();
	my $kind = rand();
	my ($n, $gap, $path);

	if ($kind < 0.003)
	{
		# a script, as fast as the answers come
		($n, $gap, $path) = (heavy(60, 1.1, 4000), 0.01 + rand(0.19), 0);
	}
	elsif ($kind < 0.2) { ($n, $gap) = (5 + rand(25), 0.1); }    # a page
	else { ($n, $gap) = (1 + waiting(8), 6); }    # somebody who reads
	for (1 .. $n)
	{
		last if $at >= DAY || @requests >= $lines - $hostile;
		push @requests, int($at * 1000) << 28 | $user << 4 | ($path // $path[ rand(@path) ]);
		$at += waiting($gap);
	}
}
@requests = sort { $a <=> $b } @requests;

# ---- the log

my $every = $hostile ? int($lines / $hostile) : $lines + 1;
my $printed = 0;
foreach my $request (@requests)
{
	if (++$printed % $every == 0 && $hostile > 0)
	{
		print hostile(--$hostile, stamp(second_of($request))), "\n";
		$printed++;
	}
	request($request);
}
print hostile($hostile, '09/Nov/2026:23:59:59 +0000'), "\n" while $hostile-- > 0;

# A number of at least 1 that is small as a rule, and large now and then: a
# scale if there are three arguments, the exponent (the less, the heavier the
# tail), the largest.
sub heavy
{
	my ($scale, $exponent, $max) = @_ == 3 ? @_ : (1, @_);
	my $value = $scale * (1 - rand())**(-1 / $exponent);
	return $value < $max ? $value : $max;
}

# The time until something that happens once in so long on average
sub waiting { return -$_[0] * log(1 - rand()) }

# A user, the busy ones more often
sub pick_user
{
	my $x = rand($total);
	my ($low, $high) = (0, $#upto);
	while ($low < $high)
	{
		my $middle = int(($low + $high) / 2);
		if ($upto[$middle] > $x) { $high = $middle; }
		else { $low = $middle + 1; }
	}
	return $low;
}

# A second of the day: most are in the afternoon, few in the small hours.
sub pick_start
{
	my $second;
	do { $second = rand(DAY) } while rand() > 0.52 - 0.48 * cos(2 * 3.14159265358979 * ($second / 3600 - 3) / 24);
	return $second;
}

sub second_of { return int(($_[0] >> 28) / 1000) }

# The time of a log, of a second of the day
sub stamp
{
	my ($second) = @_;
	return sprintf '09/Nov/2026:%02d:%02d:%02d +0000', int($second / 3600), int($second / 60) % 60, $second % 60;
}

# Print the line of a request. One user in thirty has not logged in.
sub request
{
	my ($request) = @_;
	my $path = $paths[ $request & 0xf ][0];
	my $user = $request >> 4 & 0xffffff;
	my $post = $path ne '/assets/' && rand() < 0.3;

	printf qq(%s - %s [%s] "%s %s%d HTTP/1.1" %d %d "-" "%s"\n),
	  join('.', 198, 18 + ($user >> 16 & 1), $user >> 8 & 255, $user & 255),
	  $user % 30 == 29 ? '-' : "user$user",
	  stamp(second_of($request)),
	  $post ? 'POST' : 'GET', $path, 1 + rand(500),
	  $post ? 201 : rand() < 0.02 ? 404 : 200, 80 + rand(4000), $agents[ $user % @agents ];
	return;
}

# A line that is not like the others: its number, a time
sub hostile
{
	my ($number, $time) = @_;
	my $line = $hostile[ $number % @hostile ];
	$line =~ s/TIME/$time/;
	return $line;
}

sub hostile_lines
{
	return (
		# these are requests all the same
		'203.0.113.9 - - [TIME] "\x16\x03\x01\x02\x00\x01" 400 157 "-" "-"',
		qq{203.0.113.9 - mallory [TIME] "GET /v1/data-sources/\xff\xfe HTTP/1.1" 404 12 "-" "\x01\x02\r\0"},
		q{203.0.113.9 - mallory [TIME] "GET /v1/data-sources/1 HTTP/1.1" 200 12 "-" "\"'); DROP TABLE users; --"},
		q{203.0.113.9 - a [b] c [TIME] "GET /v1/data-sources/1 HTTP/1.1" 401 12 "-" "-"},
		# and these are not
		'203.0.113.9 - mallory [30/Feb/2026:12:00:00 +0000] "GET /v1/data-sources/1 HTTP/1.1" 200 12 "-" "-"',
		'203.0.113.9 - mallory [TI',
		'203.0.113.9 - mallory [TIME] "GET /v1/data-sources/1 HTTP/1.1',
		'\.',
		'',
	);
}
