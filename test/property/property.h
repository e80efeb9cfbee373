/*-------------------------------------------------------------------------
 *
 * property.h
 *	  Random traces through src/algorithm.c, src/record.c, src/saved.c and
 *	  src/hash.h.
 *
 * property.c runs the traces and reports; traces.c and extremes.c make them up
 * from the limits, costs and times of rules.c and the numbers of random.c;
 * limit.c keeps one limit, its oracle and its history in step, and look.c
 * compares; arena.c hands out blocks and watches what becomes of them.
 * saving.c writes limits to bytes and reads them.  spread.c looks at the hash
 * of keys.
 *
 * Everything follows from a seed.  A trace is named by the run's seed, a group
 * and a number, and can be repeated alone.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef PROPERTY_H
#define PROPERTY_H

#include "algorithm.h"
#include "oracle.h"

/* Is this a build with the address sanitizer? */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WATCHED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define WATCHED
#endif

/* ---------- what is promised ---------- */

/* The promises that each algorithm makes; see promises[] in property.c. */
typedef enum Kind
{
	GRANTS,
	SLOT,
	AVAILABLE,
	RESET_AT,
	EXPIRY,
	RECORD,
	TAKE,
	HISTORY,
	REFUND,
	CANCEL,
	NUM_KINDS
} Kind;

#define OF(algorithm, kind) ((int) (algorithm) * NUM_KINDS + (int) (kind))
#define HERE(l, kind) OF((l)->rule.algorithm, kind)

typedef enum Promise
{
	BUCKET_GIVEBACK = OF(FLR_FIXED_WINDOW + 1, 0),
	COMMON_GRANTS,
	COMMON_SLOT,
	COMMON_HISTORY,
	COMMON_BUCKET,
	LARGE_EXACT,
	LARGE_NEVER_MORE,
	LARGE_RESERVED,
	LARGE_LATENESS,
	LARGE_MEMORY,
	SHARED_NEVER_EARLY,
	SHARED_LATENESS,
	SHARED_EXACT,
	SHARED_MEMORY,
	FULL_UNCHANGED,
	FULL_ROOM,
	FULL_NEVER_MORE,
	FULL_RESERVED,
	FULL_MERGE,
	SAVED_EXACT,
	SAVED_RESERVED,
	SAVED_NUMBERS,
	SAVED_BYTES,
	SAVED_BROKEN,
	SAVED_NO_MEMORY,
	BLOCKS_BALANCED,
	BLOCKS_UNTOUCHED,
	HASH_SPREAD,
	HASH_SECRET,
	NUM_PROMISES
} Promise;

extern bool verbose;			/* print the operations of the trace? */
extern bool trace_failed;		/* has a check of this trace failed? */
extern int64 steps_done;

extern bool check(int promise, bool holds, const char *format,...)
			pg_attribute_printf(3, 4);
extern void say(const char *format,...) pg_attribute_printf(1, 2);
extern const char *text128(int128 value);

/* The operations of a trace, for whoever has to repeat it by hand */
#define SAY(...) do { if (verbose) say(__VA_ARGS__); } while (0)

/* ---------- random.c ---------- */

extern void random_start(uint64 seed);
extern uint64 random_bits(void);
extern int64 below(int64 n);	/* 0 .. n - 1 */
extern bool chance(int percent);

/* ---------- arena.c ---------- */

typedef struct TestArena
{
	FlrArena	arena;			/* first, so that it can be cast */
	char	   *slabs[FLR_MAX_SLABS];
	int			nslabs;
	FlrBlockId *free;
	uint8	   *taken;			/* by index: is the block in use? */
	int			nfree;
	int			ntaken;
	int			refusals;		/* per cent of the calls of take() that fail */
	uint64		random;			/* its own, so that traces do not depend on
								 * what happened before */
} TestArena;

extern TestArena blocks;
extern FlrArena *arena;

extern void arena_init(void);
extern void arena_free(void);

/* ---------- rules.c, look.c, limit.c ---------- */

/* What really happened: a request served at a time, or a refund (cost < 0) */
typedef struct Event
{
	int64		time;
	int64		cost;
	int64		id;
} Event;

typedef struct Calendar
{
	int			n;
	int64		length[4];
	int64		origin;
} Calendar;

typedef struct Limit
{
	FlrRule		rule;
	FlrState	state;
	Oracle		oracle;
	Calendar	calendar;
	Event	   *events;
	int			nevents;
	int			size;
	int64		offset;			/* what its time is ahead of the trace's */
	int64		changes;		/* of the state, other than by time */
	int64		last_slot;		/* latest slot reserved since it was empty */
	bool		exact;			/* is the record equal to the oracle's? */
	bool		steady;			/* has the rule been the same all along? */
	bool		aged;
	bool		gave_back;		/* something, while reservations were there */
} Limit;

/* A reservation that has not been served or cancelled */
typedef struct Reservation
{
	int64		slot;
	int64		cost;
	int64		id;
	FlrDebt		debt;
	FlrRule		rule;			/* as it was, and so the calendar */
	Calendar	calendar;
	int64		changes;		/* of the limit, right after it was made */
	int128		level;			/* of the bucket, right before, ... */
	int64		now;			/* ... at this time */
} Reservation;

/* How many wait at a time */
#define MAX_WAITING 40

typedef struct Waiting
{
	int			n;
	Reservation list[MAX_WAITING];
} Waiting;

/* rules.c */
extern void limit_init(Limit *l, FlrAlgorithm algorithm);
extern void limit_free(Limit *l);
extern void limit_restart(Limit *l, FlrAlgorithm algorithm);
extern void limit_change(Limit *l, int64 now);
extern void limit_say(const Limit *l);
extern int64 limit_capacity(const Limit *l);
extern bool limit_beyond(const Limit *l, int64 now, int64 slot);
extern int64 limit_pick_cost(const Limit *l, int64 now);
extern int64 limit_pick_time(const Limit *l, int64 now);

/* look.c */
extern bool same_instant(int64 a, int64 b);
extern void state_clone(FlrState *copy, const FlrState *state);
extern int	limit_dump(const Limit *l, Spending **list);
extern void limit_advance(Limit *l, int64 now);
extern void limit_check_record(Limit *l);
extern void limit_look(Limit *l, int64 now);
extern int64 limit_slot(Limit *l, int64 from, int64 cost);

/* limit.c */
extern bool limit_spend(Limit *l, int64 now, int64 slot, int64 cost,
						bool merge, Reservation *reservation);
extern void limit_log(Limit *l, int64 slot, int64 cost, int64 id);
extern void limit_take(Limit *l, int64 now, int64 cost);
extern void limit_refund(Limit *l, int64 now, int64 cost);
extern void limit_cancel(Limit *l, int64 now, Reservation *reservation);
extern void limit_age(Limit *l, int64 by);
extern void limit_end(Limit *l, int promise);

/* ---------- traces.c, extremes.c, spread.c, saving.c ---------- */

extern int64 pick_start(void);
extern int64 pick_from(const Limit *l, int64 now);
extern void forget_served(Waiting *waiting, int64 until);
extern void cancel_any(Limit *l, Waiting *waiting, int64 now);
extern void large_trace(void);
extern void flood_trace(void);
extern void shared_trace(void);
extern void full_trace(void);
extern void full_step_trace(void);
extern void spread_trace(void);
extern void saved_trace(void);
extern void spend_without_memory(Limit *l, int64 now, int64 slot, int64 cost,
								 int refusals, Waiting *waiting);

typedef struct Group
{
	const char *name;
	void		(*trace) (void);
	int			share;			/* traces of 10 000 */
} Group;

extern const Group groups[];
extern const int ngroups;

#endif							/* PROPERTY_H */
