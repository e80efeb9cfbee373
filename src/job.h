/*-------------------------------------------------------------------------
 *
 * job.h
 *	  A request on its way through decide.c.
 *
 * counters.c makes a job of a request; decide.c locks its stripes, judges and
 * spends.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_JOB_H
#define FLR_JOB_H

#include "counters.h"

/* for this library only */
#pragma GCC visibility push(hidden)


/* One limit of a request. */
typedef struct Target
{
	FlrLimit   *limit;
	const FlrRule *rule;
	const FlrPair *pair;
	int			pair_number;
	bool		shadow;
	bool		fits;			/* would be granted now */
	bool		spend;
	bool		lacks;			/* there is no memory to record it */
	bool		made;			/* its entry was made for this request */
	FlrEntryId	id;
	FlrEntry   *entry;			/* NULL: nothing spent yet */
	const FlrState *state;
	int64		offset;			/* the rule's time is ahead by this */
	int64		now;			/* in the rule's time */
	int64		available;
} Target;

/* A request on its way. */
typedef struct Job
{
	const FlrRequest *request;
	FlrMode		mode;
	int64		max_wait;
	int			n;
	int			nreal;			/* targets that are no shadows come first */
	bool		full;			/* there is no more memory */
	int64		now;
	int64		wall_offset;	/* of the calendar, if a limit follows it */
	int64		slot;
	int			nstripes;
	uint16		stripes[FLR_MAX_PAIRS];
	Target		targets[FLR_MAX_LIMITS];
} Job;

typedef enum JobStatus
{
	STATUS_DONE,
	STATUS_NO_MEMORY
} JobStatus;

extern bool flr_job_lock(const Job *job);
extern void flr_job_unlock(const Job *job);
extern void flr_job_note_stripes(Job *job);
extern void flr_job_resolve(Job *job);
extern FlrEntry *flr_job_create(const FlrEntryId *id, const FlrLimit *limit,
								const FlrPair *pair, int64 now);
extern JobStatus flr_job_decide(Job *job, FlrOutcome *outcome,
								FlrReservation *reservation);
extern void flr_job_store_full(Job *job, const Target *target,
							   FlrOutcome *outcome);

/* Note in an entry and in the statistics that a request was granted. */
static inline void
note_grant(FlrEntry *entry, const FlrLimit *limit, int64 now, int64 expiry,
		   bool delayed)
{
	if (unlikely(entry->granted == 0))
		flr_entry_set_expiry(entry, Max(entry->expiry, expiry));
	else if (expiry > entry->expiry)
		entry->expiry = expiry;
	entry->granted++;
	flr_entry_changed(entry);
	if (unlikely(delayed))
	{
		FlrExtra   *extra = flr_entry_need_extra(entry);

		if (extra != NULL)
			extra->delayed++;
	}
	entry->limit_id = limit->limit_id;
	if (limit->stats != 0)
	{
		FlrStats   *stats = flr_stats(limit->stats);

		flr_stats_count(stats, &stats->granted);
		if (delayed)
			flr_stats_count(stats, &stats->delayed);
		pg_atomic_write_u64(&stats->last_checked, now);
	}
}

/* The elapsed time at which an entry's state is worth nothing to a target. */
static inline int64
expiry_of(const Target *target)
{
	int64		expiry = flr_expiry(flr_arena, target->rule, target->state);

	/* never and always are the same in any time */
	return expiry == FLR_NEVER || expiry == PG_INT64_MIN ? expiry :
		expiry - target->offset;
}

/* Microseconds until more is available than now. */
static inline int64
time_to_reset(const FlrRule *rule, const FlrState *state, int64 now)
{
	int64		reset = flr_reset_at(flr_arena, rule, state, now);

	return reset == FLR_NEVER ? FLR_NEVER : reset - now;
}

#pragma GCC visibility pop

#endif							/* FLR_JOB_H */
