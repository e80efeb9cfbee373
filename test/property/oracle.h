/*-------------------------------------------------------------------------
 *
 * oracle.h
 *	  The definitions of the three algorithms, at the pace of a proof.
 *
 * Written from the definitions alone: plain arrays of what was spent, scanned
 * as often as the definition says, all sums and products in 128 bits.  Slow
 * and obvious on purpose; src/algorithm.c is fast, and must agree.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ORACLE_H
#define ORACLE_H

#include "algorithm.h"

/* the C library's own will do: nothing here is linked with libpgport */
#undef vsnprintf
#undef snprintf
#undef vsprintf
#undef sprintf
#undef vfprintf
#undef fprintf
#undef vprintf
#undef printf
#undef qsort

/* From here on sums overflow; an instant out there is as good as never. */
#define FAR_AWAY (INT64CONST(1) << 62)

typedef struct Spending
{
	int64		time;
	int64		cost;
} Spending;

typedef struct Oracle
{
	/* the windows: what was spent and when, in no particular order */
	Spending   *spent;
	int			n;
	int			size;

	/* token bucket: what is missing at time "base", in 1/period tokens */
	int128		level;
	int64		base;
	int64		period;
} Oracle;

extern void oracle_init(Oracle *o);
extern void oracle_free(Oracle *o);
extern void oracle_reset(Oracle *o);

extern void oracle_window(const FlrRule *rule, int64 t, int64 *start,
						  int64 *end);

/* What would be decided; none of these changes anything. */
extern int128 oracle_used(const Oracle *o, const FlrRule *rule, int64 t);
extern int64 oracle_available(const Oracle *o, const FlrRule *rule, int64 t);
extern bool oracle_grants(const Oracle *o, const FlrRule *rule, int64 t,
						  int64 cost);
extern int	oracle_candidates(const Oracle *o, const FlrRule *rule,
							  int64 from, int64 cost, int64 **list);
extern int64 oracle_first(const Oracle *o, const FlrRule *rule, int64 from,
						  int64 cost);
extern int64 oracle_common(const Oracle *const *o,
						   const FlrRule *const *rules, const int64 *offsets,
						   int n, int64 from, int64 cost);
extern int64 oracle_reset_at(const Oracle *o, const FlrRule *rule, int64 now);
extern int64 oracle_last(const Oracle *o);
extern int128 oracle_meter(const Oracle *o, const FlrRule *rule, int64 t);
extern int128 oracle_there(const Oracle *o, const FlrRule *rule, int64 slot);

/* What happens. */
extern void oracle_advance(Oracle *o, const FlrRule *rule, int64 now);
extern void oracle_set_meter(Oracle *o, int128 level, int64 base,
							 int64 period);
extern void oracle_spend(Oracle *o, const FlrRule *rule, int64 slot,
						 int64 cost);
extern int64 oracle_refund(Oracle *o, const FlrRule *rule, int64 now,
						   int64 cost);
extern int64 oracle_cancel(Oracle *o, const FlrRule *rule, int64 slot,
						   int64 cost);
extern void oracle_age(Oracle *o, int64 by);

#endif							/* ORACLE_H */
