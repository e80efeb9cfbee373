/*-------------------------------------------------------------------------
 *
 * counters.c
 *	  A request against the counters of all its limits, as one step.
 *
 * See counters.h for the contract and store.h for the locks.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "utils/timestamp.h"

#include "job.h"

/* A request starts over at most so often before memory counts as used up. */
#define MAX_ATTEMPTS	8

/* Blocks that are enough for a request, unless it widens a long record. */
#define ENOUGH_BLOCKS	128

/* Make the next target of a job from limit number i of its request. */
static inline void
add_target(Job *job, int i)
{
	const FlrLimitSet *set = &job->request->set;
	Target	   *target = &job->targets[job->n++];

	target->limit = set->limits[i];
	target->rule = &target->limit->rule;
	target->pair_number = set->pairs[i];
	target->pair = &job->request->pairs[set->pairs[i]];
	target->shadow = target->limit->on_limit == FLR_ON_LIMIT_COUNT;
	target->id.subject = target->pair->subject;
	target->id.identity = target->limit->identity;
	target->id.database = MyDatabaseId;
	target->id.relation = target->limit->relation;
	job->nreal += !target->shadow;
}

/* Turn the limits of a request into targets, shadows last. */
static inline void
set_targets(Job *job, const FlrRequest *request)
{
	const FlrLimitSet *set = &request->set;

	job->request = request;
	job->n = 0;
	job->nreal = 0;
	if (set->n == 1)
	{
		add_target(job, 0);
		job->nstripes = 1;
		job->stripes[0] = flr_stripe_of(job->targets[0].id.subject);
		return;
	}
	for (int i = 0; i < set->n; i++)
		if (set->limits[i]->on_limit != FLR_ON_LIMIT_COUNT)
			add_target(job, i);
	for (int i = 0; i < set->n; i++)
		if (set->limits[i]->on_limit == FLR_ON_LIMIT_COUNT)
			add_target(job, i);
	flr_job_note_stripes(job);
}

/* Find the statistics blocks of all targets.  All memory is mapped. */
static void
set_stats(const Job *job)
{
	for (int i = 0; i < job->n; i++)
	{
		FlrLimit   *limit = job->targets[i].limit;

		if (limit->stats == 0)
			limit->stats = flr_stats_find(flr_limits_relation(),
										  limit->name_hash);
	}
}

/* There is no memory to look at any counter of a request: what then? */
static void
no_memory(Job *job, FlrOutcome *outcome)
{
	job->now = flr_clock();
	outcome->now = job->now;
	if (flr_local.attached)
		pg_atomic_fetch_add_u64(&flr_store->refused_full, 1);
	if (job->nreal == 0)
		return;					/* shadows never refuse */
	if (flr_when_full == FLR_ANSWER_ERROR)
	{
		job->targets[0].available = flr_capacity(job->targets[0].rule);
		flr_job_store_full(job, &job->targets[0], outcome);
	}
	else
		outcome->reason = FLR_REASON_OK;
}

/*
 * The usual request: one limit that grants now, whose counter exists and has
 * room.  Does what flr_job_decide() does, without its loops; false, and nothing is
 * done, when the request turns out to be another one.  entry is where its
 * counter seems to be, or NULL; now the time to judge it at, or 0 for the clock's.
 */
static pg_attribute_always_inline bool
spend_one(const FlrRequest *request, FlrMode mode, FlrEntry *entry, int64 now,
		  FlrOutcome *outcome)
{
	static FlrEntry *last_entry = NULL;
	const FlrLimit *limit = request->set.limits[0];
	const FlrRule *rule = &limit->rule;
	FlrEntryId	id;
	uint32		stripe;
	int64		expiry;
	bool		done = false;

	id.subject = request->pairs[request->set.pairs[0]].subject;
	id.identity = limit->identity;
	id.database = MyDatabaseId;
	id.relation = limit->relation;
	stripe = flr_stripe_of(id.subject);

	/* is it the last one again?  Looked at without the lock, so only a hint */
	if (entry == NULL)
	{
		entry = last_entry;
		if (entry == NULL || entry->id.subject.lo != id.subject.lo)
			entry = flr_entry_prefetch(flr_stripe(stripe), &id);
	}
	now = flr_stripe_lock_timed(stripe, now != 0 ? now : flr_clock());
	if (flr_store_is_mapped() &&
		((entry != NULL && flr_entry_is(entry, &id)) ||
		 (entry = flr_entry_find(flr_stripe(stripe), &id)) != NULL))
	{
		last_entry = entry;
		now = entry->last_request = Max(now, entry->last_request);
		if (flr_take(flr_arena, rule, &entry->state, now, request->cost,
					 &outcome->remaining))
		{
			expiry = rule->algorithm == FLR_SLIDING_WINDOW ?
				now + rule->retention :
				flr_expiry(flr_arena, rule, &entry->state);
			note_grant(entry, limit, now, expiry, false);
			outcome->allowed = true;
			outcome->limit = limit;
			if (mode != FLR_MODE_CHECK)
			{
				outcome->reason = FLR_REASON_OK;
				outcome->wall_offset = 0;
				outcome->pair = request->set.pairs[0];
				outcome->delay = 0;
				outcome->wait = 0;
				outcome->now = now;
				outcome->reset = time_to_reset(rule, &entry->state, now);
			}
			done = true;
		}
	}
	flr_stripe_unlock(stripe);
	return done;
}

/* May this be a request for spend_one()? */
static inline bool
may_be_usual(const FlrRequest *request, FlrMode mode)
{
	const FlrLimit *limit = request->set.limits[0];

	return request->set.n == 1 &&
		(mode == FLR_MODE_CHECK || mode == FLR_MODE_TRY) &&
		limit->on_limit != FLR_ON_LIMIT_COUNT &&
		limit->rule.algorithm != FLR_FIXED_WINDOW &&
		limit->stats != 0 && flr_keep_is_ready(limit->relation);
}

/* flr_counters_request() for all but the usual request. */
static pg_noinline void
request_slowly(FlrRequest *request, FlrMode mode, int64 max_wait,
			   FlrOutcome *outcome, FlrReservation *reservation)
{
	Job			job;
	bool		swept = false;

	outcome->wall_offset = 0;
	outcome->allowed = true;
	outcome->reason = request->set.unlimited ? FLR_REASON_UNLIMITED :
		FLR_REASON_NO_LIMIT;
	outcome->limit = request->set.unlimited;
	outcome->pair = 0;
	outcome->remaining = 0;
	outcome->delay = 0;
	outcome->wait = 0;
	outcome->reset = FLR_NEVER;
	if (reservation != NULL)
	{
		reservation->n = 0;
		reservation->cost = request->cost;
	}
	if (request->set.n == 0)
	{
		outcome->now = flr_clock();
		return;
	}

	job.mode = mode;
	job.max_wait = mode == FLR_MODE_WAIT ? max_wait : PG_INT64_MAX;
	job.full = false;
	set_targets(&job, request);
	if (flr_store_attach())
		flr_keep_restore(flr_limits_relation());
	if (!flr_local.attached || !flr_store_map())
	{
		no_memory(&job, outcome);
		return;
	}
	set_stats(&job);
	for (int i = 0; i < job.n; i++)
		flr_entry_prefetch(flr_stripe(flr_stripe_of(job.targets[i].id.subject)),
						   &job.targets[i].id);
	for (int attempt = 0;; attempt++)
	{
		JobStatus	status;

		if (!flr_job_lock(&job))
		{
			no_memory(&job, outcome);
			return;
		}
		if (reservation != NULL)
			reservation->n = 0;
		status = flr_job_decide(&job, outcome, reservation);
		flr_job_unlock(&job);
		if (status == STATUS_DONE)
			break;
		if (attempt < MAX_ATTEMPTS && flr_store_grow(ENOUGH_BLOCKS << attempt))
			continue;
		if (!swept)
		{
			swept = true;
			if (flr_store_sweep(job.now) > 0)
				continue;
		}
		job.full = true;
	}
	if (job.nreal == 0)
		outcome->reason = request->set.unlimited ? FLR_REASON_UNLIMITED :
			FLR_REASON_NO_LIMIT;
}

/*
 * Judge a request by its limits, and spend unless mode says otherwise.
 *
 * FLR_MODE_CHECK fills in no more of a grant's outcome than allowed, limit
 * and remaining.  max_wait (microseconds) bounds FLR_MODE_WAIT.  A
 * reservation, which only FLR_MODE_WAIT needs, is filled in if the request is
 * to be served later; the caller then has a place among the sleepers, and
 * leaves it with flr_counters_wait_over().
 */
void
flr_counters_request(FlrRequest *request, FlrMode mode, int64 max_wait,
					 FlrOutcome *outcome, FlrReservation *reservation)
{
	if (unlikely(!may_be_usual(request, mode) ||
				 !spend_one(request, mode, NULL, 0, outcome)))
		request_slowly(request, mode, max_wait, outcome, reservation);
}

/*
 * Have the pages of the index for a request that is to follow soon on their way
 * into the processor's cache: the first of three steps to be taken with each of
 * several requests, so that they wait for memory together.
 */
void
flr_counters_prefetch_pages(FlrHash subject, const FlrLimitSet *set)
{
	FlrEntryId	id = {.subject = subject};

	if (!flr_local.attached)
		return;
	for (int i = 0; i < set->n; i++)
	{
		id.identity = set->limits[i]->identity;
		(void) flr_page_prefetch(flr_stripe(flr_stripe_of(subject)), &id);
	}
}

/*
 * The second step: have the counters on their way.  Returns where that of the
 * last limit seems to be, or NULL.
 */
FlrEntry *
flr_counters_prefetch(FlrHash subject, const FlrLimitSet *set)
{
	FlrEntryId	id = {.subject = subject};
	FlrEntry   *likely = NULL;

	if (!flr_local.attached)
		return NULL;
	for (int i = 0; i < set->n; i++)
	{
		id.identity = set->limits[i]->identity;
		likely = flr_entry_prefetch(flr_stripe(flr_stripe_of(subject)), &id);
	}
	return likely;
}

/* The third step: have the ends of long records on their way. */
void
flr_counters_prefetch_record(const FlrEntry *likely)
{
	if (likely != NULL)
		flr_record_prefetch(likely);
}

/*
 * flr_counters_request() in FLR_MODE_TRY, for one of several requests.  likely
 * is what flr_counters_prefetch() has returned for it.  now is an elapsed time
 * since the call of the SQL function began, and as good as any other
 * until it returns: the request is judged at that, or later.
 */
void
flr_counters_try(FlrRequest *request, FlrEntry *likely, int64 now,
				 FlrOutcome *outcome)
{
	if (unlikely(!may_be_usual(request, FLR_MODE_TRY) ||
				 !spend_one(request, FLR_MODE_TRY, likely, now, outcome)))
		request_slowly(request, FLR_MODE_TRY, 0, outcome, NULL);
}

/*
 * Attach to the store, and see to it that the saved counters of the current
 * call's definitions are there, or raise.
 */
void
flr_counters_attach(void)
{
	if (flr_store_attach())
		flr_keep_restore(flr_limits_relation());
	if (!flr_local.attached || !flr_store_map())
		ereport(ERROR,
				(errcode(FLR_ERRCODE_STORE_FULL),
				 errmsg("no shared memory for rate limit counters"),
				 errhint("Make room for dynamic shared memory (on Linux, usually /dev/shm).")));
}

/* The date of an elapsed time. */
TimestampTz
flr_counters_date(int64 elapsed)
{
	int64		now = flr_clock();

	return GetCurrentTimestamp() - (now - elapsed);
}

/*
 * Give back what a request has spent, as far as it is still there.  False
 * when no limit applies; else *remaining is what the tightest limit has.
 */
bool
flr_counters_refund(FlrRequest *request, int64 *remaining)
{
	Job			job;

	job.mode = FLR_MODE_PEEK;	/* no request to be judged, only a look */
	set_targets(&job, request);
	if (job.n == 0)
		return false;
	do
		flr_counters_attach();
	while (!flr_job_lock(&job));
	flr_job_resolve(&job);
	*remaining = PG_INT64_MAX;
	for (int i = 0; i < job.n; i++)
	{
		Target	   *target = &job.targets[i];

		if (target->entry != NULL)
		{
			flr_refund(flr_arena, target->rule, &target->entry->state,
					   target->now, request->cost);
			flr_entry_changed(target->entry);
			flr_entry_lower_expiry(target->entry,
								   Max(job.now, expiry_of(target)));
		}
		if (!target->shadow)
			*remaining = Min(*remaining,
							 flr_available(flr_arena, target->rule,
										   target->state, target->now));
	}
	flr_job_unlock(&job);
	return job.nreal > 0;
}
