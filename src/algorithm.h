/*-------------------------------------------------------------------------
 *
 * algorithm.h
 *	  The three rate-limiting algorithms, as functions of integers.
 *
 * Nothing here knows PostgreSQL's shared memory, catalogs, time zones or
 * errors.  A caller brings a rule (what a definition asks for), a state (what
 * one key has spent), a time in microseconds and a cost, and gets integers
 * back.  The functions neither raise nor allocate, apart from taking blocks
 * from the arena they are given, and they keep no state of their own, so the
 * same code runs under a lock in the server, in fl_rate_simulate() and in a
 * plain C program.
 *
 * Calling order: flr_state_init() once; then, for every request,
 * flr_advance() to "now", and any of the other functions with that same now.
 * Concurrent use of one state needs a lock of the caller's.
 *
 * Time may be any monotonic count of microseconds for the sliding window and
 * the token bucket; it is the time of the calendar for the fixed window.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_ALGORITHM_H
#define FLR_ALGORITHM_H

#include "record.h"

/* for this library only */
#pragma GCC visibility push(hidden)

/* "no such instant" */
#define FLR_NEVER		PG_INT64_MAX

typedef enum FlrAlgorithm
{
	FLR_SLIDING_WINDOW,
	FLR_TOKEN_BUCKET,
	FLR_FIXED_WINDOW
} FlrAlgorithm;

/*
 * What a definition asks for.
 *
 * The calendar function, where there is one, finds the fixed window
 * [*start, *end) that holds t; without it windows are period long and aligned
 * to anchor.
 */
typedef struct FlrRule FlrRule;

typedef void (*FlrCalendar) (const FlrRule *rule, int64 t,
							 int64 *start, int64 *end);

struct FlrRule
{
	FlrAlgorithm algorithm;
	int64		max_requests;	/* cost units per period, >= 0 */
	int64		period;			/* microseconds, > 0 */
	int64		burst;			/* token bucket: capacity, >= 0 */
	int64		retention;		/* how far back the rules that share the state
								 * look, >= period */
	int64		second;			/* sliding window: how far back they look but
								 * for those that look furthest; else, if they
								 * all do, that */
	int64		shortest;		/* sliding window: how far back those look
								 * that look least far, <= period */
	int64		drain;			/* token bucket: microseconds in which the
								 * slowest of the rules that share the state
								 * drains a token; 0: none of them ever does */
	int64		tentative;		/* there may be others that look further back,
								 * those that are known so many microseconds:
								 * no runs are to be forgotten by this one,
								 * nor the state before that; 0: there are
								 * none */
	int64		anchor;			/* fixed window: an instant at an edge */
	FlrCalendar calendar;		/* fixed window: NULL, or see above */
	const void *calendar_arg;	/* for the calendar's own use */
};

/* For how long after it was spent something may be worth something. */
static inline int64
flr_life(const FlrRule *rule)
{
	return Max(rule->retention, rule->tentative);
}

/* What a reservation did to a token bucket. */
typedef struct FlrDebt
{
	int128		units;			/* added to the level, 1/period tokens */
	uint64		stamp;			/* the bucket's, right after */
} FlrDebt;

/* The longest period of a definition: 200 Julian years. */
#define FLR_MAX_PERIOD	(INT64CONST(200) * 36525 * 864 * 1000000)

/* Exact up to so many requests a period, and so many steps above that. */
#define FLR_EXACT_RUNS	4096

extern void flr_state_init(FlrState *state);
extern void flr_rule_set_period(FlrRule *rule, int64 period);
extern void flr_rule_share(FlrRule *rule, const FlrRule *other);
extern void flr_advance(FlrArena *arena, const FlrRule *rule,
						FlrState *state, int64 now);
extern int64 flr_capacity(const FlrRule *rule);
extern int64 flr_available(FlrArena *arena, const FlrRule *rule,
						   const FlrState *state, int64 now);
extern int64 flr_used_by_any(FlrArena *arena, const FlrRule *rule,
							 const FlrState *state, int64 now);
extern int64 flr_used(FlrArena *arena, const FlrRule *rule,
					  const FlrState *state, int64 now);
extern int64 flr_slot(FlrArena *arena, const FlrRule *rule,
					  const FlrState *state, int64 from, int64 cost);
extern int64 flr_common_slot(FlrArena *arena, const FlrRule *const *rules,
							 const FlrState *const *states,
							 const int64 *offsets, int n,
							 int64 from, int64 cost);
extern int64 flr_reset_at(FlrArena *arena, const FlrRule *rule,
						  const FlrState *state, int64 now);
extern bool flr_reserve_room(FlrArena *arena, const FlrRule *rule,
							 FlrState *state, int64 slot, int64 cost);
extern bool flr_spend(FlrArena *arena, const FlrRule *rule, FlrState *state,
					  int64 now, int64 slot, int64 cost, bool merge,
					  FlrDebt *debt);
extern bool flr_take(FlrArena *arena, const FlrRule *rule, FlrState *state,
					 int64 now, int64 cost, int64 *remaining);
extern bool flr_can_merge(FlrArena *arena, const FlrRule *rule,
						  const FlrState *state, int64 now, int64 slot,
						  int64 cost);
extern int64 flr_refund(FlrArena *arena, const FlrRule *rule,
						FlrState *state, int64 now, int64 cost);
extern int64 flr_cancel(FlrArena *arena, const FlrRule *rule,
						FlrState *state, int64 slot, int64 cost,
						FlrDebt debt);
extern int64 flr_expiry(FlrArena *arena, const FlrRule *rule,
						const FlrState *state);
extern void flr_clear(FlrArena *arena, FlrAlgorithm algorithm,
					  FlrState *state);
extern void flr_age(FlrArena *arena, const FlrRule *rule, FlrState *state,
					int64 by);

#pragma GCC visibility pop

#endif							/* FLR_ALGORITHM_H */
