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

/* No number of one of several requests. */
#define NOBODY			0xff

/* Where the counter of a subject and a limit is looked for. */
static inline void
make_id(FlrEntryId *id, FlrHash subject, const FlrLimit *limit)
{
	id->subject = subject;
	id->limit = flr_limit_id(limit->identity, MyDatabaseId, limit->relation);
}

/* The same for limit number i of a request. */
static inline void
set_id(FlrEntryId *id, const FlrRequest *request, int i)
{
	const FlrLimitSet *set = &request->set;

	make_id(id, request->pairs[set->pairs[i]].subject, set->limits[i]);
}

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
	set_id(&target->id, job->request, i);
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

/* Find the statistics blocks of all targets where there are any. */
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
 * Judge a usual request, and spend, with its stripe locked: one limit that
 * grants now, whose counter has room, or is new and there is memory for it.
 * Does what flr_job_decide() does, without its loops.  NULL, and nothing is
 * spent, when the request turns out to be another one; else its counter.
 * entry is where that seems to be, or NULL.
 */
static pg_attribute_always_inline FlrEntry *
spend_locked(const FlrRequest *request, FlrMode mode, const FlrEntryId *id,
			 FlrEntry *entry, int64 now, FlrOutcome *outcome)
{
	const FlrLimit *limit = request->set.limits[0];
	const FlrRule *rule = &limit->rule;
	int64		expiry;

	if (!flr_store_is_mapped())
		return NULL;
	if (entry == NULL || !flr_entry_is(entry, id))
		entry = flr_entry_find(flr_stripe(flr_stripe_of(id->subject)), id);
	if (entry == NULL)
	{
		/* one that could never be granted is no usual one */
		if (request->cost > flr_capacity(rule) ||
			!flr_stripe_make_room(flr_stripe(flr_stripe_of(id->subject))))
			return NULL;

		/*
		 * There may have been a counter when the clock was read, which
		 * another backend has found to be expired since.
		 */
		now = Max(now, flr_clock());
		entry = flr_job_create(id, limit,
							   &request->pairs[request->set.pairs[0]], now);
		if (entry == NULL)
			return NULL;
	}
	now = entry->last_request = Max(now, entry->last_request);
	if (!flr_take(flr_arena, rule, &entry->state, now, request->cost,
				  &outcome->remaining))
	{
		if (entry->granted == 0)
			flr_entry_set_expiry(entry, entry->expiry);
		return NULL;
	}
	expiry = rule->algorithm == FLR_SLIDING_WINDOW ? now + flr_life(rule) :
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
	return entry;
}

/* Where the last usual request found its counter; what was asked for already. */
static FlrEntry *last_entry = NULL;
static FlrEntryId foreseen;

/*
 * A request for this key has come, of which nothing else is known yet.  If it is
 * like the last one, its counter is this: have it on its way, since it takes memory
 * longer to answer than everything else takes.
 */
void
flr_counters_foresee(const FlrText *key)
{
	FlrHash		subject;
	const FlrLimit *limit = flr_limits_foresee(key, &subject);

	if (limit == NULL || last_entry == NULL ||
		last_entry->id.subject.lo == subject.lo)
		return;
	make_id(&foreseen, subject, limit);
	flr_entry_prefetch(flr_stripe(flr_stripe_of(subject)), &foreseen);
}

/* The same, and locks its stripe. */
static inline bool
spend_one(const FlrRequest *request, FlrMode mode, FlrOutcome *outcome)
{
	FlrEntryId	id;
	FlrEntry   *entry = last_entry;
	uint32		stripe;
	int64		now;

	set_id(&id, request, 0);
	stripe = flr_stripe_of(id.subject);

	/* is it the last one again?  Looked at without the lock, so only a hint */
	if (entry == NULL || entry->id.subject.lo != id.subject.lo)
	{
		if (foreseen.subject.lo != id.subject.lo || foreseen.limit != id.limit)
			flr_entry_prefetch(flr_stripe(stripe), &id);
		entry = NULL;
	}
	now = flr_stripe_lock_timed(stripe, flr_clock());
	entry = spend_locked(request, mode, &id, entry, now, outcome);
	flr_stripe_unlock(stripe);
	if (entry == NULL)
		return false;
	last_entry = entry;
	return true;
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
	FlrShortage shortage = {0};

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
	for (int i = 0; i < job.n; i++)
		flr_entry_prefetch(flr_stripe(flr_stripe_of(job.targets[i].id.subject)),
						   &job.targets[i].id);
	for (;;)
	{
		JobStatus	status;

		flr_store_grow_if_wanted();
		if (flr_store_map())
			set_stats(&job);
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
		job.full = !flr_store_find_memory(&shortage, job.now);
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
				 !spend_one(request, mode, outcome)))
		request_slowly(request, mode, max_wait, outcome, reservation);
}

/*
 * A part of flr_counters_try_together(): judge a request, and those after it
 * that are of the same stripe.  Returns the elapsed time: now, unless one of
 * them took long.
 */
static int64
judge_stripe(FlrRequest *const *requests, uint8 number, const uint8 *next,
			 FlrEntry *const *likely, int64 now, bool *judged,
			 FlrOutcome *outcomes)
{
	uint32		stripe = flr_stripe_of(requests[number]->pairs[0].subject);
	bool		locked = false;

	for (; number != NOBODY; number = next[number])
	{
		FlrRequest *request = requests[number];

		judged[number] = true;
		if (may_be_usual(request, FLR_MODE_TRY))
		{
			FlrEntryId	id;

			set_id(&id, request, 0);
			if (!locked)
				now = flr_stripe_lock_timed(stripe, now);
			locked = true;
			if (spend_locked(request, FLR_MODE_TRY, &id, likely[number], now,
							 &outcomes[number]))
				continue;
		}
		if (locked)
			flr_stripe_unlock(stripe);
		locked = false;
		request_slowly(request, FLR_MODE_TRY, 0, &outcomes[number], NULL);
		now = flr_clock();
	}
	if (locked)
		flr_stripe_unlock(stripe);
	return now;
}

/*
 * Judge several independent requests of one pair each in FLR_MODE_TRY, and
 * spend; at most FLR_MAX_TOGETHER.  Each has its own outcome, and those of one
 * key are judged in order.
 *
 * Faster than one after the other: they wait for memory together, the clock is
 * read once, after the call of the SQL function has begun, and a stripe is
 * locked once for all the usual ones in it.
 */
void
flr_counters_try_together(FlrRequest *const *requests, int n,
						  FlrOutcome *outcomes)
{
	uint8		first[FLR_STRIPES]; /* request of a stripe */
	uint8		next[FLR_MAX_TOGETHER]; /* request of the same stripe */
	bool		judged[FLR_MAX_TOGETHER] = {0};
	FlrEntryId	ids[FLR_MAX_TOGETHER];
	FlrBlockId	pages[FLR_MAX_TOGETHER] = {0};
	FlrEntry   *likely[FLR_MAX_TOGETHER] = {0};
	int64		now;

	StaticAssertStmt(FLR_MAX_TOGETHER <= NOBODY, "a request's number fits");
	Assert(n <= FLR_MAX_TOGETHER);

	/*
	 * Ask for pages, for the counters in them, then for their records.
	 * Addresses are not found out in the loop that asks: many of them then
	 * are on their way through the page tables at once.
	 */
	for (int i = 0; flr_local.attached && i < n; i++)
		for (int j = requests[i]->set.n; j-- > 0;)
		{
			FlrStripe  *stripe;

			set_id(&ids[i], requests[i], j);
			stripe = flr_stripe(flr_stripe_of(ids[i].subject));
			if (j == 0)
				pages[i] = flr_page_foresee(stripe, &ids[i]);
			else
				flr_entry_prefetch(stripe, &ids[i]);
		}
	for (int i = 0; i < n; i++)
		if (pages[i] != 0)
			flr_page_read_ahead(pages[i]);
	for (int i = 0; i < n; i++)
		if (pages[i] != 0)
			likely[i] = flr_entry_foresee(pages[i], &ids[i]);
	memset(first, NOBODY, sizeof(first));
	for (int i = n; i-- > 0;)
	{
		uint32		stripe;

		next[i] = NOBODY;
		if (requests[i]->set.n == 0)
			continue;			/* no limit, no counter, no stripe */
		stripe = flr_stripe_of(requests[i]->pairs[0].subject);
		next[i] = first[stripe];
		first[stripe] = i;
		if (likely[i] != NULL)
			flr_record_prefetch(likely[i]);
	}

	now = flr_clock();
	for (int i = 0; i < n; i++)
		if (!judged[i])
			now = judge_stripe(requests, i, next, likely, now, judged, outcomes);
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
			if (target->rule->tentative == 0)
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
