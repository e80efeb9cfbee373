/*-------------------------------------------------------------------------
 *
 * decide.c
 *	  Judging a request and spending it, under the locks.
 *
 * Nothing here raises, allocates in the backend or looks at the catalogs.
 *
 * A limit whose on_limit is "count" is a shadow: it is spent from if it would
 * have granted the request, counts a shadow refusal if not, and never decides.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "utils/timestamp.h"

#include "job.h"

/* Rounds of looking for an instant that suits delaying and other limits. */
#define MAX_ROUNDS		1000

static const FlrState empty_state;

/* What is kept of a key for the views. */
typedef struct KeptKey
{
	const char *data;
	int			size;
	char		digest[FLR_DIGEST_SIZE];
} KeptKey;

/* Compute what is to be kept of a key.  Raises nothing, allocates nothing. */
static void
keep_key(const FlrPair *pair, KeptKey *kept)
{
	if (flr_store_keys == FLR_KEYS_HASH)
	{
		kept->size = flr_hash_digest(pair->subject, kept->digest);
		kept->data = kept->digest;
		return;
	}
	kept->data = pair->key.data;
	kept->size = flr_clip_key(pair->key, FLR_KEY_SIZE);
}

/* ------------------------------------------------------------------------
 * Locks
 * ------------------------------------------------------------------------
 */

/* Note the stripes of a request, each once, in ascending order. */
void
flr_job_note_stripes(Job *job)
{
	job->nstripes = 0;
	for (int i = 0; i < job->n; i++)
	{
		uint16		stripe = flr_stripe_of(job->targets[i].id.subject);
		int			place = job->nstripes;

		while (place > 0 && job->stripes[place - 1] > stripe)
			place--;
		if (place > 0 && job->stripes[place - 1] == stripe)
			continue;
		memmove(&job->stripes[place + 1], &job->stripes[place],
				(job->nstripes - place) * sizeof(uint16));
		job->stripes[place] = stripe;
		job->nstripes++;
	}
}

/* Unlock all stripes of a request. */
void
flr_job_unlock(const Job *job)
{
	for (int i = job->nstripes; --i >= 0;)
		flr_stripe_unlock(job->stripes[i]);
}

/*
 * Lock all stripes of a request, with all memory mapped that they may lead
 * to.  False, and nothing is locked, if that cannot be mapped.
 */
bool
flr_job_lock(const Job *job)
{
	for (;;)
	{
		if (!flr_store_map())
			return false;
		for (int i = 0; i < job->nstripes; i++)
			flr_stripe_lock(job->stripes[i]);
		if (flr_store_is_mapped())
		{
			/* before any counter is found, since counters may move */
			for (int i = 0; i < job->nstripes; i++)
				(void) flr_stripe_make_room(flr_stripe(job->stripes[i]));
			return true;
		}
		flr_job_unlock(job);
	}
}

/* ------------------------------------------------------------------------
 * Deciding and spending, under the locks
 * ------------------------------------------------------------------------
 */

/* Find a target's counter, and see that now is not before its last request. */
static inline void
find_counter(Job *job, Target *target)
{
	target->made = false;
	target->entry = flr_entry_find(flr_stripe(flr_stripe_of(target->id.subject)),
								   &target->id);
	if (target->entry == NULL)
		target->state = &empty_state;
	else
	{
		/* another processor may have read the clock a moment later */
		job->now = Max(job->now, target->entry->last_request);
		target->state = &target->entry->state;
	}
}

/*
 * Judge the cost by a target's counter, which is brought up to now unless the
 * request only looks.
 */
static inline void
judge_counter(const Job *job, Target *target)
{
	target->now = job->now + target->offset;
	if (target->entry != NULL && job->mode != FLR_MODE_PEEK)
	{
		/* it may have expired, but is not to be swept for another target */
		if (target->entry->expiry <= job->now)
			target->entry->expiry = job->now + 1;
		target->entry->last_request = job->now;
		flr_advance(flr_arena, target->rule, &target->entry->state,
					target->now);

		/* a bucket may have been drained faster by the rule that spent last */
		if (target->rule->algorithm == FLR_TOKEN_BUCKET)
		{
			int64		expiry = expiry_of(target);

			if (expiry > target->entry->expiry && expiry != FLR_NEVER)
				flr_entry_set_expiry(target->entry, expiry);
		}
	}
	target->available = flr_available(flr_arena, target->rule, target->state,
									  target->now);
	target->fits = job->request->cost <= target->available;
}

/* Find all counters and judge the cost by them. */
void
flr_job_resolve(Job *job)
{
	job->now = flr_clock();
	job->wall_offset = 0;
	for (int i = 0; i < job->n; i++)
	{
		Target	   *target = &job->targets[i];

		target->offset = 0;
		if (target->rule->algorithm == FLR_FIXED_WINDOW)
		{
			if (job->wall_offset == 0)
				job->wall_offset = GetCurrentTimestamp() - job->now;
			target->offset = job->wall_offset;
		}
		find_counter(job, target);
	}
	for (int i = 0; i < job->n; i++)
		judge_counter(job, &job->targets[i]);
}

/*
 * The first instant at which all limits but the shadows grant the request, or
 * all but those and the delaying ones.
 */
static int64
common_slot(const Job *job, int64 from, bool but_delaying)
{
	const FlrRule *rules[FLR_MAX_LIMITS];
	const FlrState *states[FLR_MAX_LIMITS];
	int64		offsets[FLR_MAX_LIMITS];
	int			n = 0;

	for (int i = 0; i < job->nreal; i++)
	{
		const Target *target = &job->targets[i];

		if (but_delaying && target->limit->on_limit == FLR_ON_LIMIT_DELAY)
			continue;
		rules[n] = target->rule;
		states[n] = target->state;
		offsets[n++] = target->offset;
	}
	return flr_common_slot(flr_arena, rules, states, offsets, n, from,
						   job->request->cost);
}

/*
 * The first instant at which fl_rate_try() grants the request, perhaps with a
 * delay: then all limits but the delaying ones grant it as it stands, and its
 * slot is no further away than those which do not allow.
 */
static int64
first_answer(const Job *job)
{
	int64		cost = job->request->cost;
	int64		from = job->now;

	for (int round = 0; round < MAX_ROUNDS; round++)
	{
		int64		max_delay = PG_INT64_MAX;
		int64		earliest = PG_INT64_MAX;	/* that one of them grants */
		int64		slot;

		from = common_slot(job, from, true);
		if (from == FLR_NEVER)
			return FLR_NEVER;
		slot = common_slot(job, from, false);
		if (slot == FLR_NEVER)
			return FLR_NEVER;
		for (int i = 0; i < job->nreal; i++)
		{
			const Target *target = &job->targets[i];
			int64		at = from + target->offset;
			int64		own;

			if (target->limit->on_limit != FLR_ON_LIMIT_DELAY)
				continue;
			own = flr_slot(flr_arena, target->rule, target->state, at, cost);
			if (own == at)
				continue;
			max_delay = Min(max_delay, target->limit->max_delay);
			earliest = Min(earliest, own - target->offset);
		}
		if (slot - from <= max_delay)
			return from;
		from = Min(slot - max_delay, earliest);
	}
	return common_slot(job, job->now, false);
}

/*
 * Does the request have to be refused?  Sets job->slot to when it can be
 * served, and *wait to how long to wait before asking again.
 */
static bool
must_refuse(Job *job, int64 *wait)
{
	bool		fits = true;
	bool		delays = job->mode != FLR_MODE_CHECK;
	int64		max_delay = job->max_wait;

	*wait = 0;
	job->slot = job->now;
	for (int i = 0; i < job->nreal; i++)
	{
		const Target *target = &job->targets[i];

		if (target->fits)
			continue;
		fits = false;
		if (job->mode == FLR_MODE_WAIT)
			continue;
		if (target->limit->on_limit == FLR_ON_LIMIT_DELAY)
			max_delay = Min(max_delay, target->limit->max_delay);
		else
			delays = false;
	}
	if (fits)
		return false;

	job->slot = common_slot(job, job->now, false);
	*wait = FLR_NEVER;
	if (job->slot == FLR_NEVER)
		return true;
	*wait = job->slot - job->now;
	if (delays && *wait <= max_delay)
		return false;
	if (job->mode == FLR_MODE_TRY || job->mode == FLR_MODE_PEEK)
	{
		int64		answer = first_answer(job);

		*wait = answer == FLR_NEVER ? FLR_NEVER : answer - job->now;
	}
	return true;
}

/* The statistics in which this backend counts a target; NULL for none. */
static inline FlrStats *
stats_of(const Target *target)
{
	return target->limit->stats != 0 ? flr_stats(target->limit->stats) : NULL;
}

/*
 * Make the counter of a limit and a pair, which must not exist; NULL when there
 * is no memory.  See flr_entry_create() for what the caller owes to it.
 */
FlrEntry *
flr_job_create(const FlrEntryId *id, const FlrLimit *limit,
			   const FlrPair *pair, int64 now)
{
	KeptKey		kept;
	FlrEntry   *entry;

	if (limit->stats == 0)
		return NULL;
	keep_key(pair, &kept);
	entry = flr_entry_create(flr_stripe(flr_stripe_of(id->subject)), id,
							 limit->stats, kept.data, kept.size, now);

	/* so that what was reserved in one before is not taken back from this one */
	if (entry != NULL && limit->rule.algorithm == FLR_TOKEN_BUCKET)
		entry->state.runs.bucket.stamp = (uint64) now;
	return entry;
}

/* Find a target's entry, or make it.  False: no memory. */
static bool
have_entry(const Job *job, Target *target)
{
	if (target->entry != NULL)
		return true;
	target->entry = flr_job_create(&target->id, target->limit, target->pair,
								   job->now);
	if (target->entry == NULL)
		return false;
	target->state = &target->entry->state;
	target->made = true;
	return true;
}

/*
 * See to it that what is refused or delayed of a target can be counted with its
 * key, or that it will not be because there is no memory.  False: there is
 * none yet, but the store may grow.
 */
static bool
have_extra_or_none(const Job *job, Target *target)
{
	return (have_entry(job, target) &&
			flr_entry_need_extra(target->entry) != NULL) ||
		job->full || flr_store->at_limit;
}

/* Will spending count something of a target in its FlrExtra? */
static inline bool
needs_extra(const Job *job, const Target *target)
{
	if (target->spend)
		return job->slot > job->now && !target->fits;
	return target->shadow;
}

/* Count a refusal by one limit. */
static void
count_refusal(const Job *job, Target *target)
{
	FlrStats   *stats = stats_of(target);
	FlrExtra   *extra;

	if (stats != NULL)
	{
		if (target->shadow)
			flr_stats_count(stats, &stats->shadow_refused);
		else
		{
			flr_stats_count(stats, &stats->refused);
			pg_atomic_write_u64(&stats->last_refused, job->now);
		}
		pg_atomic_write_u64(&stats->last_checked, job->now);
	}
	if (!have_entry(job, target))
		return;
	target->entry->limit_id = target->limit->limit_id;
	extra = flr_entry_need_extra(target->entry);
	if (extra == NULL)
		return;					/* drop_unspent() has the entry if it is new */

	/* a counter that only counts refusals makes room for any other */
	if (target->made)
		flr_entry_set_expiry(target->entry, job->now + 1);
	if (target->shadow)
		extra->shadow_refused++;
	else
	{
		extra->refused++;
		extra->last_refused = job->now;
	}
}

/* Free the entries that were made for this request, and not spent from. */
static void
drop_unspent(Job *job)
{
	for (int i = 0; i < job->n; i++)
	{
		Target	   *target = &job->targets[i];

		if (!target->made || target->entry->granted > 0 ||
			flr_entry_counts(target->entry)->refused > 0 ||
			flr_entry_counts(target->entry)->shadow_refused > 0)
			continue;
		flr_entry_drop(flr_stripe(flr_stripe_of(target->id.subject)),
					   target->entry);
		target->entry = NULL;
		target->state = &empty_state;
		target->made = false;
	}
}

/*
 * Describe the refusal, and count it unless this is only a peek.
 * STATUS_NO_MEMORY asks for another attempt with more memory.
 */
static JobStatus
refuse(Job *job, int64 wait, FlrOutcome *outcome)
{
	int64		cost = job->request->cost;
	int64		longest = -1;
	const Target *decider = NULL;

	/* first whatever may fail */
	for (int i = 0; job->mode != FLR_MODE_PEEK && i < job->nreal; i++)
		if (!job->targets[i].fits && !have_extra_or_none(job, &job->targets[i]))
		{
			drop_unspent(job);
			return STATUS_NO_MEMORY;
		}
	for (int i = 0; i < job->nreal; i++)
	{
		Target	   *target = &job->targets[i];
		int64		own;

		if (target->fits)
			continue;
		own = flr_slot(flr_arena, target->rule, target->state, target->now,
					   cost);
		if (own != FLR_NEVER)
			own -= target->now;
		if (own > longest ||
			(own == longest &&
			 target->limit->limit_id < decider->limit->limit_id))
		{
			longest = own;
			decider = target;
		}
		if (job->mode != FLR_MODE_PEEK)
			count_refusal(job, target);
	}
	Assert(decider != NULL);
	outcome->allowed = false;
	if (cost > flr_capacity(decider->rule))
		outcome->reason = flr_capacity(decider->rule) == 0 ?
			FLR_REASON_BLOCKED : FLR_REASON_TOO_LARGE;
	else
		outcome->reason = FLR_REASON_REFUSED;
	outcome->limit = decider->limit;
	outcome->pair = decider->pair_number;
	outcome->remaining = decider->available;
	outcome->wait = wait;
	outcome->reset = time_to_reset(decider->rule, decider->state,
								   decider->now);

	/* those that there was no memory to count it in are worth nothing */
	drop_unspent(job);
	return STATUS_DONE;
}

/* Describe that the store is full. */
void
flr_job_store_full(Job *job, const Target *target, FlrOutcome *outcome)
{
	outcome->allowed = false;
	outcome->reason = FLR_REASON_STORE_FULL;
	outcome->limit = target->limit;
	outcome->pair = target->pair_number;
	outcome->remaining = target->available;
	outcome->wait = FLR_NEVER;
	outcome->reset = FLR_NEVER;
	outcome->now = job->now;
}

/* The request has been granted: record it for one limit. */
static void
count_grant(const Job *job, Target *target)
{
	note_grant(target->entry, target->limit, job->now, expiry_of(target),
			   job->slot > job->now && !target->fits);
}

/* Remember one part of a reservation. */
static void
note_reservation(FlrReservation *reservation, const Target *target,
				 int64 slot, FlrDebt debt)
{
	int			n = reservation->n++;

	reservation->parts[n].id = target->id;
	reservation->parts[n].entry = target->entry;
	reservation->parts[n].rule = *target->rule;
	reservation->parts[n].calendar = target->limit->calendar;
	if (target->rule->calendar != NULL)
		reservation->parts[n].rule.calendar_arg =
			&reservation->parts[n].calendar;
	reservation->parts[n].slot = slot + target->offset;
	reservation->parts[n].offset = target->offset;
	reservation->parts[n].debt = debt;
	reservation->parts[n].stats = target->limit->stats;
	reservation->parts[n].delayed = !target->fits;
}

/*
 * Spend in all limits at job->slot, or in none.  STATUS_NO_MEMORY asks for
 * another attempt with more memory; once there is no more, *lacking is the
 * limit that cannot be recorded, and the caller says what follows.
 */
static JobStatus
spend(Job *job, FlrReservation *reservation, const Target **lacking)
{
	int64		cost = job->request->cost;

	/* first whatever may fail */
	for (int i = 0; i < job->n; i++)
	{
		Target	   *target = &job->targets[i];
		int64		slot = job->slot + target->offset;

		target->lacks = false;
		target->spend = !target->shadow || target->fits;
		if (target->shadow && job->slot > job->now)
			target->spend = flr_slot(flr_arena, target->rule, target->state,
									 slot, cost) == slot;
		if (needs_extra(job, target) && !have_extra_or_none(job, target))
			return STATUS_NO_MEMORY;
		if (!target->spend)
			continue;
		if (have_entry(job, target) &&
			flr_reserve_room(flr_arena, target->rule, &target->entry->state,
							 slot, cost))
			continue;
		if (!job->full)
			return STATUS_NO_MEMORY;
		if (target->entry != NULL &&
			flr_can_merge(flr_arena, target->rule, target->state, target->now,
						  slot, cost))
			continue;
		target->spend = false;
		target->lacks = true;
		if (!target->shadow)
			*lacking = target;
	}
	if (*lacking != NULL && flr_when_full == FLR_ANSWER_ERROR)
		return STATUS_DONE;

	/* then nothing fails any more */
	for (int i = 0; i < job->n; i++)
	{
		Target	   *target = &job->targets[i];
		FlrDebt		debt;

		if (target->spend)
		{
			bool		spent PG_USED_FOR_ASSERTS_ONLY;

			spent = flr_spend(flr_arena, target->rule, &target->entry->state,
							  target->now, job->slot + target->offset, cost,
							  true, &debt);
			Assert(spent);
			count_grant(job, target);
			if (reservation != NULL && job->slot > job->now)
				note_reservation(reservation, target, job->slot, debt);
		}
		else if (target->shadow && !target->lacks)
			count_refusal(job, target);
	}
	return STATUS_DONE;
}

/* Describe a grant, by the limit of which the least remains. */
static void
grant(const Job *job, bool spent, FlrOutcome *outcome)
{
	int64		least = PG_INT64_MAX;
	const Target *decider = NULL;

	for (int i = 0; i < job->nreal; i++)
	{
		const Target *target = &job->targets[i];
		int64		remaining = target->available;

		if (spent && target->spend)
			remaining = job->slot == job->now ?
				remaining - job->request->cost :
				flr_available(flr_arena, target->rule, target->state,
							  target->now);
		if (decider == NULL || remaining < least ||
			(remaining == least &&
			 target->limit->limit_id < decider->limit->limit_id))
		{
			least = remaining;
			decider = target;
		}
	}
	outcome->allowed = true;
	outcome->reason = job->slot > job->now ? FLR_REASON_DELAYED :
		FLR_REASON_OK;
	outcome->delay = job->slot - job->now;
	outcome->wait = 0;
	if (decider == NULL)
		return;
	outcome->limit = decider->limit;
	outcome->pair = decider->pair_number;
	outcome->remaining = least;
	if (job->mode == FLR_MODE_CHECK)
		return;
	outcome->reset = time_to_reset(decider->rule, decider->state,
								   decider->now);
}

/* Take a place among the sleepers; false if there are enough of them. */
static bool
may_sleep(void)
{
	if (pg_atomic_fetch_add_u32(&flr_store->waiters, 1) <
		(uint32) flr_max_waiters)
		return true;
	flr_counters_wait_over();
	return false;
}

/* Leave the sleepers. */
void
flr_counters_wait_over(void)
{
	pg_atomic_fetch_sub_u32(&flr_store->waiters, 1);
}

/* Decide and spend, with the stripes locked. */
JobStatus
flr_job_decide(Job *job, FlrOutcome *outcome, FlrReservation *reservation)
{
	int64		wait;
	bool		sleeps = false;
	const Target *lacking = NULL;
	bool		spends = job->mode != FLR_MODE_PEEK;

	flr_job_resolve(job);
	outcome->now = job->now;
	outcome->wall_offset = job->wall_offset;
	if (must_refuse(job, &wait))
		return refuse(job, wait, outcome);
	if (job->mode == FLR_MODE_WAIT && job->slot > job->now)
	{
		sleeps = may_sleep();
		if (!sleeps)
			return refuse(job, wait, outcome);
	}
	if (spends)
	{
		JobStatus	status = spend(job, reservation, &lacking);

		drop_unspent(job);
		if (status == STATUS_DONE && lacking != NULL)
			pg_atomic_fetch_add_u64(&flr_store->refused_full, 1);
		if (status != STATUS_DONE ||
			(lacking != NULL && flr_when_full == FLR_ANSWER_ERROR))
		{
			if (sleeps)
				flr_counters_wait_over();
			if (status == STATUS_DONE)
				flr_job_store_full(job, lacking, outcome);
			return status;
		}
	}
	grant(job, spends, outcome);
	return STATUS_DONE;
}
