
# examples/drivers/jdbc: PgJDBC hands on all fields of a refusal, and the program
# asks again at its date, not before.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRateDriver;
use PostgreSQL::Test::Utils;
use Test::More;

my $program = driver_example('jdbc/RateLimit.java');
my $jar = '/usr/share/java/postgresql.jar';
plan skip_all => 'there is no PgJDBC here' unless -e $jar;
# A program that is one source file needs the compiler.
plan skip_all => 'there is no Java 17 or later with a compiler here'
  unless `java --list-modules 2>/dev/null` =~ /^jdk\.compiler\@(\d+)/m && $1 >= 17;

driver_ok(
	sub {
		my ($node) = @_;

		return [ qw(java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp), $jar, $program,
			'jdbc:postgresql://127.0.0.1:' . $node->port . '/postgres?user=' . getpwuid($<) ];
	});
