#!/usr/bin/perl
#
# count-tap.pl: count the test points in recorded TAP, one file an argument
#
# Prints "passed failed skipped". A point that the plan promised and that did
# not come has failed, and so has a file that makes no sense as TAP or that
# says nothing: each file counts for something. As for prove, a failure that is
# marked TODO is expected, and so is no failure.

# Copyright (c) 2026, the fliplet_ratelimit developers

use strict;
use warnings;

use TAP::Parser;

my ($passed, $failed, $skipped) = (0, 0, 0);

foreach my $file (@ARGV)
{
	open(my $fh, '<', $file) or die "could not open \"$file\": $!\n";
	my $tap = do { local $/; <$fh> };
	close($fh);

	# the parser does not take nothing for an answer, and neither do we
	if (!defined $tap || $tap eq '')
	{
		$failed++;
		next;
	}

	my $parser = TAP::Parser->new({ tap => $tap });
	my ($wrong, $bailed) = (0, 0);

	while (my $result = $parser->next)
	{
		$bailed = 1 if $result->is_bailout;
		next unless $result->is_test;
		if ($result->has_skip) { $skipped++; }
		elsif ($result->is_ok) { $passed++; }
		else { $wrong++; }
	}

	if ($parser->skip_all) { $skipped++; }
	else
	{
		my $missing = ($parser->tests_planned // 0) - $parser->tests_run;
		$wrong += $missing if $missing > 0;
		$wrong++ if $wrong == 0 && ($bailed || $parser->parse_errors);
	}
	$failed += $wrong;
}

print "$passed $failed $skipped\n";
