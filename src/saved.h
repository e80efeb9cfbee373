/*-------------------------------------------------------------------------
 *
 * saved.h
 *	  A counter as bytes, to be kept in a table across restarts.
 *
 * The bytes mean the same on every machine and in every version: times are
 * those of the wall clock (microseconds since 2000-01-01 00:00 UTC), and
 * numbers have no fixed width and no byte order.  Whoever reads them trusts
 * nothing.
 *
 * Like the algorithms, this knows neither shared memory nor errors.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_SAVED_H
#define FLR_SAVED_H

#include "algorithm.h"

/* for this library only */
#pragma GCC visibility push(hidden)

/* What is saved of a counter beside what it has spent. */
typedef struct FlrSaved
{
	FlrAlgorithm algorithm;
	uint64		granted;
	uint64		refused;
	uint32		delayed;
	uint32		shadow_refused;
	int64		last_request;	/* wall clock */
	int64		last_refused;	/* FLR_NEVER: never */
} FlrSaved;

extern size_t flr_saved_room(const FlrState *state);
extern size_t flr_saved_encode(const FlrArena *arena, const FlrSaved *saved,
							   const FlrState *state, int64 offset,
							   uint8 *bytes);
extern bool flr_saved_decode(const uint8 *bytes, size_t size,
							 FlrSaved *saved);
extern bool flr_saved_load(FlrArena *arena, const uint8 *bytes, size_t size,
						   int64 offset, int64 latest, FlrState *state);

#pragma GCC visibility pop

#endif							/* FLR_SAVED_H */
