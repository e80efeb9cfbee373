/*-------------------------------------------------------------------------
 *
 * random.c
 *	  Where the traces take their choices from: splitmix64.
 *
 * test/fuzz has another random.c, which takes them from a fuzzer's input.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "property.h"

static uint64 state;

/* What follows is determined by this */
void
random_start(uint64 seed)
{
	state = seed;
}

uint64
random_bits(void)
{
	uint64		z = (state += UINT64CONST(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64CONST(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

int64
below(int64 n)
{
	return n <= 1 ? 0 : (int64) (random_bits() % (uint64) n);
}

bool
chance(int percent)
{
	return below(100) < percent;
}
