/*-------------------------------------------------------------------------
 *
 * counters.h
 *	  A request against the counters of all its limits, as one step.
 *
 * flr_counters_request() locks the stripes of all pairs of the request,
 * decides, spends in all limits or in none, and unlocks.  Nothing between
 * lock and unlock raises, allocates in the backend or looks at the catalogs;
 * whatever needs that (attaching, mapping, growing, statistics blocks) happens
 * before, and the request starts over when it turns out to be needed.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_COUNTERS_H
#define FLR_COUNTERS_H

#include "access/xlog.h"

#include "limits.h"
#include "store.h"

/* for this library only */
#pragma GCC visibility push(hidden)

/* The facts of a request. */
typedef struct FlrRequest
{
	int			npairs;
	FlrText		api;
	FlrText		plan;			/* data is NULL: none */
	int64		cost;
	FlrLimitSet set;
	FlrPair		pairs[FLR_MAX_PAIRS];
} FlrRequest;

typedef enum FlrMode
{
	FLR_MODE_CHECK,				/* spend now or refuse */
	FLR_MODE_TRY,				/* spend now, or later if the limit delays */
	FLR_MODE_PEEK,				/* answer like try, spend nothing */
	FLR_MODE_WAIT				/* spend now, or later up to a maximum */
} FlrMode;

typedef enum FlrReason
{
	FLR_REASON_OK,
	FLR_REASON_DELAYED,
	FLR_REASON_NO_LIMIT,
	FLR_REASON_UNLIMITED,
	FLR_REASON_REFUSED,
	FLR_REASON_TOO_LARGE,
	FLR_REASON_BLOCKED,
	FLR_REASON_STORE_FULL,
	FLR_REASON_OFF,
	FLR_REASON_UNAVAILABLE		/* nobody could judge */
} FlrReason;

/* The answer.  Times are microseconds from now on, FLR_NEVER for none. */
typedef struct FlrOutcome
{
	bool		allowed;
	FlrReason	reason;
	const FlrLimit *limit;		/* the one that decided, or NULL */
	int			pair;			/* that brought it in */
	int64		remaining;		/* of that limit */
	int64		delay;			/* serve the request after this */
	int64		wait;			/* until the request would be granted */
	int64		reset;			/* until more remains than now */
	int64		now;			/* elapsed time of the decision */
	int64		wall_offset;	/* what the calendar that a limit follows was
								 * ahead of that; 0: none does */
} FlrOutcome;

/* So many requests are judged together. */
#define FLR_MAX_TOGETHER	128

/* What fl_rate_wait() reserved, to be given back if it does not come to it. */
typedef struct FlrReservation
{
	int			n;
	int64		cost;
	struct
	{
		FlrEntryId	id;
		FlrEntry   *entry;		/* of that id, unless it was moved or freed
								 * since */
		FlrRule		rule;
		FlrCalendarArg calendar;
		int64		slot;
		int64		offset;
		FlrDebt		debt;
		FlrBlockId	stats;
		bool		delayed;	/* it was counted as delayed */
	}			parts[FLR_MAX_LIMITS];
} FlrReservation;

/* What a counter looks like from outside. */
typedef struct FlrLook
{
	bool		exists;
	int64		used;
	int64		available;
	int64		wait;			/* until a request of cost 1 is granted */
	int64		granted;
	int64		refused;
	int64		delayed;
	int64		shadow_refused;
	TimestampTz last_request;	/* 0: never */
	TimestampTz last_refused;
	int64		memory;			/* bytes */
} FlrLook;

/* keep.c: for which definitions table saved counters are known to be there */
typedef struct FlrKeepReady
{
	Oid			relation;
	bool		in_recovery;	/* then they are to be read after promotion */
} FlrKeepReady;

extern FlrKeepReady flr_keep_ready;

/* Are the saved counters of a definitions table there? */
static inline bool
flr_keep_is_ready(Oid relation)
{
	return likely(flr_keep_ready.relation == relation) &&
		(likely(!flr_keep_ready.in_recovery) || RecoveryInProgress());
}

extern void flr_keep_read(Oid relation);

/* See to it that they are.  May raise; no lock of ours may be held. */
static inline void
flr_keep_restore(Oid relation)
{
	if (unlikely(!flr_keep_is_ready(relation)))
		flr_keep_read(relation);
}

extern void flr_counters_foresee(const FlrText *key);
extern void flr_counters_request(FlrRequest *request, FlrMode mode,
								 int64 max_wait, FlrOutcome *outcome,
								 FlrReservation *reservation);
extern void flr_counters_try_together(FlrRequest *const *requests, int n,
									  FlrOutcome *outcomes);
extern void flr_counters_cancel(FlrReservation *reservation);
extern void flr_counters_wait_over(void);
extern bool flr_counters_refund(FlrRequest *request, int64 *remaining);
extern int64 flr_counters_reset(FlrHash subject,
								const FlrCandidate *candidates, int n);
extern int64 flr_counters_age(FlrHash subject,
							  const FlrCandidate *candidates, int n,
							  int64 by);
extern int64 flr_counters_forget(FlrHash subject);
extern int64 flr_counters_remove(bool (*doomed) (const FlrEntry *entry,
												 const void *arg),
								 const void *arg);
extern int64 flr_counters_reset_all(void);
extern void flr_counters_look(const FlrLimit *limit, FlrHash subject,
							  FlrLook *look);

extern void flr_counters_attach(void);
extern FlrStripe *flr_counters_lock(uint32 stripe);
extern TimestampTz flr_counters_date(int64 elapsed);

#pragma GCC visibility pop

#endif							/* FLR_COUNTERS_H */
