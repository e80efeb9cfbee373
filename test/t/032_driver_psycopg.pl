
# examples/drivers/psycopg: psycopg hands on all fields of a refusal, and the
# program asks again at its date, not before.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRateDriver;
use PostgreSQL::Test::Utils;
use Test::More;

my $program = driver_example('psycopg/rate_limit.py');
# The first Python on the path need not be the one that Debian's packages are for.
my ($python) = grep { -x && system("'$_' -c 'import psycopg' 2>/dev/null") == 0 }
  map { "$_/python3" } split(/:/, $ENV{PATH}), '/usr/bin';
plan skip_all => 'there is no Python with psycopg 3 here' unless $python;

driver_ok([ $python, $program ]);
