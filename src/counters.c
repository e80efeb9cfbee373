/*-------------------------------------------------------------------------
 *
 * counters.c
 *	  A request against the counters of all its limits, as one step.
 *
 * See counters.h for the contract and store.h for the locks.
 *
 * A limit whose on_limit is "count" is a shadow: it is spent from if it would
 * have granted the request, counts a shadow refusal if not, and never decides.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "mb/pg_wchar.h"
#include "utils/timestamp.h"

#include "counters.h"

/* Rounds of looking for an instant that suits delaying and other limits. */
#define MAX_ROUNDS		1000

/* A request starts over at most so often before memory counts as used up. */
#define MAX_ATTEMPTS	8

/* Blocks that are enough for a request, unless it widens a long record. */
#define ENOUGH_BLOCKS	128

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

typedef enum Status
{
	STATUS_DONE,
	STATUS_NO_MEMORY
} Status;

static const FlrState empty_state;

/* What is kept of a key for the views. */
typedef struct KeptKey
{
	const char *data;
	int			size;
	char		digest[2 * sizeof(FlrHash) + 1];
} KeptKey;

/* Compute what is to be kept of a key.  Raises nothing, allocates nothing. */
static void
keep_key(const FlrPair *pair, KeptKey *kept)
{
	if (flr_store_keys == FLR_KEYS_HASH)
	{
		static const char hex[] = "0123456789abcdef";

		for (int i = 0; i < 16; i++)
		{
			kept->digest[i] = hex[(pair->subject.lo >> (60 - 4 * i)) & 15];
			kept->digest[16 + i] =
				hex[(pair->subject.hi >> (60 - 4 * i)) & 15];
		}
		kept->data = kept->digest;
		kept->size = 32;
		return;
	}
	kept->data = pair->key.data;
	kept->size = pair->key.size <= FLR_KEY_SIZE ? pair->key.size :
		pg_mbcliplen(pair->key.data, pair->key.size, FLR_KEY_SIZE);
}

/* ------------------------------------------------------------------------
 * Locks
 * ------------------------------------------------------------------------
 */

/* Note the stripes of a request, each once, in ascending order. */
static void
note_stripes(Job *job)
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
static inline void
unlock_stripes(const Job *job)
{
	for (int i = job->nstripes; --i >= 0;)
		flr_stripe_unlock(job->stripes[i]);
}

/*
 * Lock all stripes of a request, with all memory mapped that they may lead
 * to.  False, and nothing is locked, if that cannot be mapped.
 */
static bool
lock_stripes(const Job *job)
{
	for (;;)
	{
		if (!flr_store_map())
			return false;
		for (int i = 0; i < job->nstripes; i++)
			flr_stripe_lock(job->stripes[i]);
		if (flr_store_is_mapped())
			return true;
		unlock_stripes(job);
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

/* Bring a target's counter up to now, and judge the cost by it. */
static inline void
judge_counter(const Job *job, Target *target)
{
	target->now = job->now + target->offset;
	if (target->entry != NULL)
	{
		/* it may have expired, but is not to be swept for another target */
		if (target->entry->expiry <= job->now)
			target->entry->expiry = job->now + 1;
		flr_advance(flr_arena, target->rule, &target->entry->state,
					target->now);
	}
	target->available = flr_available(flr_arena, target->rule, target->state,
									  target->now);
	target->fits = job->request->cost <= target->available;
}

/* Find all counters and judge the cost by them. */
static void
resolve(Job *job)
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

			if (target->limit->on_limit == FLR_ON_LIMIT_DELAY &&
				flr_slot(flr_arena, target->rule, target->state, at,
						 cost) != at)
				max_delay = Min(max_delay, target->limit->max_delay);
		}
		if (slot - from <= max_delay)
			return from;
		from = slot - max_delay;
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

/* Find a target's entry, or make it.  False: no memory. */
static bool
have_entry(const Job *job, Target *target)
{
	KeptKey		kept;

	if (target->entry != NULL)
		return true;
	keep_key(target->pair, &kept);
	target->entry = flr_entry_create(flr_stripe(flr_stripe_of(target->id.subject)),
									 &target->id, target->limit->stats,
									 kept.data, kept.size, job->now);
	if (target->entry == NULL)
		return false;
	target->state = &target->entry->state;
	return true;
}

/* Count a refusal by one limit. */
static void
count_refusal(const Job *job, Target *target)
{
	FlrStats   *stats = stats_of(target);

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
	if (target->entry == NULL)
	{
		/* a counter that only counts refusals makes room for any other */
		if (!have_entry(job, target))
			return;
		flr_entry_set_expiry(target->entry, job->now + 1);
	}
	if (target->shadow)
		target->entry->shadow_refused++;
	else
	{
		target->entry->refused++;
		target->entry->last_refused = job->now;
	}
	target->entry->last_request = job->now;
	target->entry->limit_id = target->limit->limit_id;
}

/* Microseconds until more is available than now. */
static inline int64
time_to_reset(const FlrRule *rule, const FlrState *state, int64 now)
{
	int64		reset = flr_reset_at(flr_arena, rule, state, now);

	return reset == FLR_NEVER ? FLR_NEVER : reset - now;
}

/* Describe the refusal, and count it unless this is only a peek. */
static void
refuse(Job *job, int64 wait, FlrOutcome *outcome)
{
	int64		cost = job->request->cost;
	int64		longest = -1;
	const Target *decider = NULL;

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
}

/* Describe that the store is full. */
static void
store_full(Job *job, const Target *target, FlrOutcome *outcome)
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
	entry->delayed += delayed;
	entry->last_request = now;
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
	reservation->parts[n].rule = *target->rule;
	reservation->parts[n].calendar = target->limit->calendar;
	if (target->rule->calendar != NULL)
		reservation->parts[n].rule.calendar_arg =
			&reservation->parts[n].calendar;
	reservation->parts[n].slot = slot + target->offset;
	reservation->parts[n].offset = target->offset;
	reservation->parts[n].debt = debt;
	reservation->parts[n].stats = target->limit->stats;
}

/*
 * Spend in all limits at job->slot, or in none.  STATUS_NO_MEMORY asks for
 * another attempt with more memory; once there is no more, *lacking is the
 * limit that cannot be recorded, and the caller says what follows.
 */
static Status
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
static Status
decide(Job *job, FlrOutcome *outcome, FlrReservation *reservation)
{
	int64		wait;
	bool		sleeps = false;
	const Target *lacking = NULL;
	bool		spends = job->mode != FLR_MODE_PEEK;

	resolve(job);
	outcome->now = job->now;
	outcome->wall_offset = job->wall_offset;
	if (must_refuse(job, &wait))
	{
		refuse(job, wait, outcome);
		return STATUS_DONE;
	}
	if (job->mode == FLR_MODE_WAIT && job->slot > job->now)
	{
		sleeps = may_sleep();
		if (!sleeps)
		{
			refuse(job, wait, outcome);
			return STATUS_DONE;
		}
	}
	if (spends)
	{
		Status		status = spend(job, reservation, &lacking);

		if (status != STATUS_DONE ||
			(lacking != NULL && flr_when_full == FLR_ANSWER_ERROR))
		{
			if (sleeps)
				flr_counters_wait_over();
			if (status == STATUS_DONE)
				store_full(job, lacking, outcome);
			return status;
		}
	}
	grant(job, spends, outcome);
	return STATUS_DONE;
}

/* ------------------------------------------------------------------------
 * Requests
 * ------------------------------------------------------------------------
 */

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
	note_stripes(job);
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
		store_full(job, &job->targets[0], outcome);
	}
	else
		outcome->reason = FLR_REASON_OK;
}

/*
 * The usual request: one limit that grants now, whose counter exists and has
 * room.  Does what decide() does, without its loops; false, and nothing is
 * done, when the request turns out to be another one.
 */
static bool
spend_one(const FlrRequest *request, FlrMode mode, FlrOutcome *outcome)
{
	static FlrEntry *last_entry = NULL;
	const FlrLimit *limit = request->set.limits[0];
	const FlrRule *rule = &limit->rule;
	FlrEntryId	id;
	FlrEntry   *entry;
	uint32		stripe;
	int64		now;
	int64		expiry;
	bool		done = false;

	id.subject = request->pairs[request->set.pairs[0]].subject;
	id.identity = limit->identity;
	id.database = MyDatabaseId;
	id.relation = limit->relation;
	stripe = flr_stripe_of(id.subject);

	/* is it the last one again?  Looked at without the lock, so only a hint */
	entry = last_entry;
	if (entry == NULL || entry->id.subject.lo != id.subject.lo)
	{
		entry = NULL;
		flr_entry_prefetch(flr_stripe(stripe), &id);
	}
	flr_stripe_lock(stripe);
	if (flr_store_is_mapped() &&
		((entry != NULL && flr_entry_is(entry, &id)) ||
		 (entry = flr_entry_find(flr_stripe(stripe), &id)) != NULL))
	{
		last_entry = entry;
		now = Max(flr_clock(), entry->last_request);
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
	if (!flr_store_attach() || !flr_store_map())
	{
		no_memory(&job, outcome);
		return;
	}
	set_stats(&job);
	for (int attempt = 0;; attempt++)
	{
		Status		status;

		if (!lock_stripes(&job))
		{
			no_memory(&job, outcome);
			return;
		}
		if (reservation != NULL)
			reservation->n = 0;
		status = decide(&job, outcome, reservation);
		unlock_stripes(&job);
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
	if (outcome->reason == FLR_REASON_STORE_FULL)
		pg_atomic_fetch_add_u64(&flr_store->refused_full, 1);
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
	const FlrLimit *limit = request->set.limits[0];

	if (unlikely(request->set.n != 1 ||
				 (mode != FLR_MODE_CHECK && mode != FLR_MODE_TRY) ||
				 limit->on_limit == FLR_ON_LIMIT_COUNT ||
				 limit->rule.algorithm == FLR_FIXED_WINDOW ||
				 limit->stats == 0 || !flr_local.attached ||
				 !spend_one(request, mode, outcome)))
		request_slowly(request, mode, max_wait, outcome, reservation);
}

/*
 * Have the counters of a request that is to follow soon on their way into the
 * processor's cache.
 */
void
flr_counters_prefetch(FlrHash subject, const FlrLimitSet *set)
{
	FlrEntryId	id = {.subject = subject};

	if (!flr_local.attached)
		return;
	for (int i = 0; i < set->n; i++)
	{
		id.identity = set->limits[i]->identity;
		flr_entry_prefetch(flr_stripe(flr_stripe_of(subject)), &id);
	}
}

/* Attach to the store, or raise. */
void
flr_counters_attach(void)
{
	if (!flr_store_attach() || !flr_store_map())
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

/* ------------------------------------------------------------------------
 * What else may happen to counters
 * ------------------------------------------------------------------------
 */

/* Lock one stripe with all memory mapped, or raise. */
static FlrStripe *
lock_one(uint32 stripe)
{
	flr_counters_attach();
	for (;;)
	{
		if (!flr_store_map())
			flr_counters_attach();
		flr_stripe_lock(stripe);
		if (flr_store_is_mapped())
			return flr_stripe(stripe);
		flr_stripe_unlock(stripe);
	}
}

/*
 * Take back a reservation, or what is left of it.  It runs while an error is
 * being handled and while the backend exits, and raises only if memory that
 * another backend has added cannot be mapped.
 */
void
flr_counters_cancel(FlrReservation *reservation)
{
	while (reservation->n > 0)
	{
		int			part = reservation->n - 1;
		const FlrEntryId *id = &reservation->parts[part].id;
		uint32		stripe = flr_stripe_of(id->subject);
		FlrEntry   *entry;

		flr_stripe_lock(stripe);
		if (!flr_store_is_mapped())
		{
			flr_stripe_unlock(stripe);
			flr_store_map_now();
			continue;
		}
		entry = flr_entry_find(flr_stripe(stripe), id);
		if (entry != NULL)
		{
			flr_cancel(flr_arena, &reservation->parts[part].rule,
					   &entry->state, reservation->parts[part].slot,
					   reservation->cost, reservation->parts[part].debt);
			if (entry->granted > 0)
				entry->granted--;
		}
		flr_stripe_unlock(stripe);

		/* the sum over all lanes is what counts, whatever becomes of one */
		if (reservation->parts[part].stats != 0)
			pg_atomic_fetch_sub_u64(&flr_stats(reservation->parts[part].stats)->granted,
									1);
		reservation->n--;
	}
}

/*
 * Give back what a request has spent, as far as it is still there.  False
 * when no limit applies; else *remaining is what the tightest limit has.
 */
bool
flr_counters_refund(FlrRequest *request, int64 *remaining)
{
	Job			job;

	job.mode = FLR_MODE_CHECK;
	set_targets(&job, request);
	if (job.n == 0)
		return false;
	do
		flr_counters_attach();
	while (!lock_stripes(&job));
	resolve(&job);
	*remaining = PG_INT64_MAX;
	for (int i = 0; i < job.n; i++)
	{
		Target	   *target = &job.targets[i];

		if (target->entry != NULL)
		{
			flr_refund(flr_arena, target->rule, &target->entry->state,
					   target->now, request->cost);
			flr_entry_set_expiry(target->entry,
								 Max(job.now, expiry_of(target)));
		}
		if (!target->shadow)
			*remaining = Min(*remaining,
							 flr_available(flr_arena, target->rule,
										   target->state, target->now));
	}
	unlock_stripes(&job);
	return job.nreal > 0;
}

/* Do something to every counter of a subject that candidates may have. */
static int64
for_candidates(FlrHash subject, const FlrCandidate *candidates, int n,
			   bool (*act) (FlrEntry *entry, FlrAlgorithm algorithm,
							int64 arg),
			   int64 arg)
{
	uint32		stripe = flr_stripe_of(subject);
	FlrStripe  *locked;
	int			nids = 0;
	int64		count = 0;
	FlrEntryId *ids = palloc(3 * Max(n, 1) * sizeof(FlrEntryId));
	FlrAlgorithm *algorithms = palloc(3 * Max(n, 1) * sizeof(FlrAlgorithm));

	for (int i = 0; i < n; i++)
		for (int a = FLR_SLIDING_WINDOW; a <= FLR_FIXED_WINDOW; a++)
		{
			FlrEntryId *id = &ids[nids];
			bool		seen = false;

			id->subject = subject;
			id->identity = flr_limits_identity(candidates[i].limit, a);
			id->database = MyDatabaseId;
			id->relation = flr_limits_relation();
			for (int j = 0; j < nids; j++)
				seen = seen || ids[j].identity == id->identity;
			algorithms[nids] = a;
			nids += !seen;
		}
	locked = lock_one(stripe);
	for (int i = 0; i < nids; i++)
	{
		FlrEntry   *entry = flr_entry_find(locked, &ids[i]);

		if (entry != NULL && act(entry, algorithms[i], arg))
			count++;
	}
	flr_stripe_unlock(stripe);
	pfree(ids);
	pfree(algorithms);
	return count;
}

/* for_candidates() action: nothing is spent any more. */
static bool
reset_entry(FlrEntry *entry, FlrAlgorithm algorithm, int64 now)
{
	bool		spent = entry->state.nruns > 0 || entry->state.total > 0 ||
	(algorithm == FLR_TOKEN_BUCKET &&
	 entry->state.runs.bucket.remainder > 0);

	flr_clear(flr_arena, algorithm, &entry->state);
	flr_entry_set_expiry(entry, now);
	return spent;
}

/* Clear a subject's counters.  Returns in how many anything was spent. */
int64
flr_counters_reset(FlrHash subject, const FlrCandidate *candidates, int n)
{
	return for_candidates(subject, candidates, n, reset_entry, flr_clock());
}

/* for_candidates() action: everything was spent earlier than it was. */
static bool
age_entry(FlrEntry *entry, FlrAlgorithm algorithm, int64 by)
{
	FlrRule		rule = {.algorithm = algorithm};

	flr_age(flr_arena, &rule, &entry->state, by);
	flr_entry_set_expiry(entry, entry->expiry - by);
	return true;
}

/* Move a subject's counters into the past.  Returns how many there were. */
int64
flr_counters_age(FlrHash subject, const FlrCandidate *candidates, int n,
				 int64 by)
{
	return for_candidates(subject, candidates, n, age_entry, by);
}

/* flr_entries_remove() callback: is this entry one of this subject? */
static bool
is_subject(const FlrEntry *entry, const void *arg)
{
	const FlrEntryId *id = arg;

	return entry->id.subject.lo == id->subject.lo &&
		entry->id.subject.hi == id->subject.hi &&
		entry->id.database == id->database &&
		entry->id.relation == id->relation;
}

/* flr_entries_remove() callback: is this entry one of this database? */
static bool
is_ours(const FlrEntry *entry, const void *arg)
{
	const FlrEntryId *id = arg;

	return entry->id.database == id->database;
}

/* Remove every counter of a subject.  Returns how many there were. */
int64
flr_counters_forget(FlrHash subject)
{
	FlrEntryId	id = {.subject = subject,.database = MyDatabaseId};
	uint32		stripe = flr_stripe_of(subject);
	int64		count;

	id.relation = flr_limits_relation();
	count = flr_entries_remove(lock_one(stripe), is_subject, &id);
	flr_stripe_unlock(stripe);
	return count;
}

/* Remove every counter of this database.  Returns how many there were. */
int64
flr_counters_reset_all(void)
{
	FlrEntryId	id = {.database = MyDatabaseId};
	int64		count = 0;

	for (uint32 stripe = 0; stripe < FLR_STRIPES; stripe++)
	{
		count += flr_entries_remove(lock_one(stripe), is_ours, &id);
		flr_stripe_unlock(stripe);
		CHECK_FOR_INTERRUPTS();
	}
	return count;
}

/* The bytes of shared memory that an entry occupies. */
static int64
entry_memory(const FlrEntry *entry)
{
	int64		blocks = 1 + (entry->state.owner > FLR_KEY_INLINE);

	for (FlrBlockId block = entry->state.first; block != 0;
		 block = ((FlrChain *) flr_block(flr_arena, block))->next)
		blocks++;
	return blocks * FLR_BLOCK_SIZE;
}

/* Look at a limit's counter for a subject.  Raises only if memory is out. */
void
flr_counters_look(const FlrLimit *limit, FlrHash subject, FlrLook *look)
{
	FlrEntryId	id = {subject, limit->identity, MyDatabaseId, 0};
	uint32		stripe = flr_stripe_of(subject);
	const FlrRule *rule = &limit->rule;
	const FlrState *state = &empty_state;
	FlrEntry   *entry;
	int64		elapsed;
	int64		now;
	int64		slot;

	memset(look, 0, sizeof(FlrLook));
	id.relation = flr_limits_relation();
	entry = flr_entry_find(lock_one(stripe), &id);
	elapsed = now = flr_clock();
	if (rule->algorithm == FLR_FIXED_WINDOW)
		now = GetCurrentTimestamp();
	if (entry != NULL)
	{
		look->exists = true;
		look->granted = entry->granted;
		look->refused = entry->refused;
		look->delayed = entry->delayed;
		look->shadow_refused = entry->shadow_refused;
		look->last_request = entry->last_request;
		look->last_refused = entry->last_refused;
		look->memory = entry_memory(entry);
		if (!limit->unlimited)
		{
			flr_advance(flr_arena, rule, &entry->state, now);
			state = &entry->state;
		}
	}
	if (!limit->unlimited)
	{
		look->used = flr_used(flr_arena, rule, state, now);
		look->available = flr_available(flr_arena, rule, state, now);
		slot = flr_slot(flr_arena, rule, state, now, 1);
		look->wait = slot == FLR_NEVER ? FLR_NEVER : slot - now;
	}
	flr_stripe_unlock(stripe);
	now = flr_counters_date(elapsed);
	if (look->last_request != 0)
		look->last_request += now - elapsed;
	if (look->last_refused != 0)
		look->last_refused += now - elapsed;
}
