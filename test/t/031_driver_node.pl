
# examples/drivers/node: pg hands on all fields of a refusal, and the program
# asks again at its date, not before.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use FlRateDriver;
use PostgreSQL::Test::Utils;
use Test::More;

my $program = driver_example('node/rate-limit.js');
my $dir = PostgreSQL::Test::Utils::tempdir();
plan skip_all => 'there is no npm here to bring the driver'
  if system("cd '$dir' && npm install --no-audit --no-fund --ignore-scripts pg >npm.log 2>&1") != 0;
# node looks for it beside the program
append_to_file("$dir/rate-limit.js", slurp_file($program));

driver_ok([ 'node', "$dir/rate-limit.js" ]);
