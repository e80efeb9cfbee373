/*-------------------------------------------------------------------------
 *
 * upkeep.c
 *	  What else than requests may happen to counters.
 *
 * Taking reservations back, resetting, ageing, forgetting, looking.  Each locks
 * one stripe at a time.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "utils/timestamp.h"

#include "counters.h"


static const FlrState empty_state;

/* Lock one stripe with all memory mapped, or raise. */
FlrStripe *
flr_counters_lock(uint32 stripe)
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

/* Is all of an entry's record mapped here?  Its stripe is locked. */
static bool
record_is_mapped(const FlrEntry *entry)
{
	for (FlrBlockId block = flr_first_block(&entry->state); block != 0;
		 block = flr_block_after(flr_arena, block))
		if ((block >> FLR_SLAB_SHIFT) >= flr_local.nslabs)
			return false;
	return true;
}

/* A delayed request of an entry has been taken back. */
static void
forget_delay(FlrEntry *entry)
{
	FlrExtra   *extra = flr_entry_extra(entry);

	if (extra != NULL && extra->delayed > 0)
		extra->delayed--;
}

/*
 * Take back a reservation, or what is left of it.  It runs while an error is
 * being handled and while the backend exits, and raises only if there is memory
 * that another backend has added and that cannot be mapped, and the record has
 * grown into it, or the counter is not where it was.
 */
void
flr_counters_cancel(FlrReservation *reservation)
{
	while (reservation->n > 0)
	{
		int			part = reservation->n - 1;
		const FlrEntryId *id = &reservation->parts[part].id;
		uint32		stripe = flr_stripe_of(id->subject);
		FlrEntry   *entry = reservation->parts[part].entry;
		bool		mapped = true;

		flr_stripe_lock(stripe);
		if (!flr_entry_is(entry, id))
		{
			/* moved, or freed; where to cannot be told with less than all */
			mapped = flr_store_is_mapped();
			entry = mapped ? flr_entry_find(flr_stripe(stripe), id) : NULL;
		}
		if (!mapped || (entry != NULL && !record_is_mapped(entry)))
		{
			flr_stripe_unlock(stripe);
			flr_store_map_now();
			continue;
		}
		if (entry != NULL)
		{
			flr_cancel(flr_arena, &reservation->parts[part].rule,
					   &entry->state, reservation->parts[part].slot,
					   reservation->cost, reservation->parts[part].debt);
			flr_entry_changed(entry);
			if (entry->granted > 0)
				entry->granted--;
			if (reservation->parts[part].delayed)
				forget_delay(entry);
		}
		flr_stripe_unlock(stripe);

		/* the sum over all lanes is what counts, whatever becomes of one */
		if (reservation->parts[part].stats != 0)
		{
			FlrStats   *stats = flr_stats(reservation->parts[part].stats);

			pg_atomic_fetch_sub_u64(&stats->granted, 1);
			if (reservation->parts[part].delayed)
				pg_atomic_fetch_sub_u64(&stats->delayed, 1);
		}
		reservation->n--;
	}
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
			id->limit = flr_limit_id(flr_limits_identity(candidates[i].limit, a),
									 MyDatabaseId, flr_limits_relation());
			for (int j = 0; j < nids; j++)
				seen = seen || ids[j].limit == id->limit;
			algorithms[nids] = a;
			nids += !seen;
		}
	locked = flr_counters_lock(stripe);
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
	flr_entry_changed(entry);
	flr_entry_lower_expiry(entry, now);
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
	flr_entry_changed(entry);
	flr_entry_lower_expiry(entry, entry->expiry - by);
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
	const FlrHash *subject = arg;

	return entry->id.subject.lo == subject->lo &&
		entry->id.subject.hi == subject->hi &&
		flr_entry_belongs(entry, MyDatabaseId, flr_limits_relation());
}

/* flr_entries_remove() callback: is this entry one of this database? */
static bool
is_ours(const FlrEntry *entry, const void *arg)
{
	(void) arg;
	return flr_stats(entry->stats)->database == MyDatabaseId;
}

/* Remove every counter of a subject.  Returns how many there were. */
int64
flr_counters_forget(FlrHash subject)
{
	uint32		stripe = flr_stripe_of(subject);
	int64		count;

	count = flr_entries_remove(flr_counters_lock(stripe), is_subject, &subject);
	flr_stripe_unlock(stripe);
	return count;
}

/* Remove counters from all stripes, one after the other.  Returns how many. */
int64
flr_counters_remove(bool (*doomed) (const FlrEntry *entry, const void *arg),
					const void *arg)
{
	int64		count = 0;

	for (uint32 stripe = 0; stripe < FLR_STRIPES; stripe++)
	{
		count += flr_entries_remove(flr_counters_lock(stripe), doomed, arg);
		flr_stripe_unlock(stripe);
		CHECK_FOR_INTERRUPTS();
	}
	return count;
}

/* Remove every counter of this database.  Returns how many there were. */
int64
flr_counters_reset_all(void)
{
	return flr_counters_remove(is_ours, NULL);
}

/* The bytes of shared memory that an entry occupies. */
static int64
entry_memory(const FlrEntry *entry)
{
	int64		blocks = 1 + (flr_entry_extra(entry) != NULL);

	for (FlrBlockId block = flr_first_block(&entry->state); block != 0;
		 block = flr_block_after(flr_arena, block))
		blocks++;
	return blocks * FLR_BLOCK_SIZE;
}

/* Look at a limit's counter for a subject.  Raises only if memory is out. */
void
flr_counters_look(const FlrLimit *limit, FlrHash subject, FlrLook *look)
{
	FlrEntryId	id = {subject, 0};
	uint32		stripe = flr_stripe_of(subject);
	const FlrRule *rule = &limit->rule;
	const FlrState *state = &empty_state;
	FlrEntry   *entry;
	int64		elapsed;
	int64		now;
	int64		slot;

	memset(look, 0, sizeof(FlrLook));
	id.limit = flr_limit_id(limit->identity, MyDatabaseId, flr_limits_relation());
	entry = flr_entry_find(flr_counters_lock(stripe), &id);
	elapsed = now = flr_clock();
	if (rule->algorithm == FLR_FIXED_WINDOW)
		now = GetCurrentTimestamp();
	if (entry != NULL)
	{
		look->exists = true;
		look->granted = entry->granted;
		look->refused = flr_entry_counts(entry)->refused;
		look->delayed = flr_entry_counts(entry)->delayed;
		look->shadow_refused = flr_entry_counts(entry)->shadow_refused;
		look->last_request = entry->last_request;
		look->last_refused = flr_entry_counts(entry)->last_refused;
		look->memory = entry_memory(entry);
		if (!limit->unlimited)
			state = &entry->state;
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
