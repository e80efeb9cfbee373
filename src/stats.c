/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  Statistics of limits' names, and the homes of counters.
 *
 * Finding, making and walking them takes stats_lock, which is never taken under
 * a stripe; counting takes no lock.  See store.h.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "utils/timestamp.h"

#include "settings.h"
#include "store.h"


/* Find one lane's statistics in a chain; stats_lock is held. */
static FlrBlockId
find_stats(Oid relation, uint64 name_hash, uint32 lane)
{
	FlrBlockId	block = flr_store->stats[name_hash % FLR_STATS_HEADS];

	while (block != 0)
	{
		FlrStats   *stats = flr_stats(block);

		if (stats->name_hash == name_hash && stats->lane == lane &&
			stats->relation == relation && stats->database == MyDatabaseId)
			break;
		block = stats->next;
	}
	return block;
}

/* Make one lane's statistics, 0 when there is no memory; stats_lock is held. */
static FlrBlockId
make_stats(Oid relation, uint64 name_hash, uint32 lane)
{
	FlrBlockId	block = flr_arena->take(flr_arena);

	if (block != 0)
	{
		FlrStats   *stats = flr_stats(block);
		FlrBlockId *head = &flr_store->stats[name_hash % FLR_STATS_HEADS];

		memset(stats, 0, sizeof(FlrStats));
		stats->lane = lane;
		stats->database = MyDatabaseId;
		stats->relation = relation;
		stats->name_hash = name_hash;
		pg_atomic_init_u64(&stats->since, GetCurrentTimestamp());
		pg_atomic_init_u64(&stats->reset_granted, 0);
		pg_atomic_init_u64(&stats->reset_refused, 0);
		pg_atomic_init_u64(&stats->reset_delayed, 0);
		pg_atomic_init_u64(&stats->reset_shadow_refused, 0);
		pg_atomic_init_u64(&stats->granted, 0);
		pg_atomic_init_u64(&stats->refused, 0);
		pg_atomic_init_u64(&stats->delayed, 0);
		pg_atomic_init_u64(&stats->shadow_refused, 0);
		pg_atomic_init_u64(&stats->keys, 0);
		pg_atomic_init_u64(&stats->last_checked, 0);
		pg_atomic_init_u64(&stats->last_refused, 0);
		stats->next = *head;
		*head = block;
	}
	return block;
}

/*
 * Find or make the statistics of a limit's name in this backend's lane.  The
 * shared lane is made with the first one of a name, so that a backend which
 * comes when there is no memory left has somewhere to count.  0 when even that
 * cannot be had: then nothing is counted.  No stripe may be locked, and all
 * slabs must be mapped.
 */
FlrBlockId
flr_stats_find(Oid relation, uint64 name_hash)
{
	uint32		lane = Min((uint32) flr_proc_number(), FLR_STATS_LANES);
	FlrBlockId	shared = 0;
	FlrBlockId	block = 0;

	LWLockAcquire(&flr_store->stats_lock, LW_EXCLUSIVE);
	if (flr_store_is_mapped())
	{
		shared = find_stats(relation, name_hash, FLR_STATS_LANES);
		if (shared == 0)
			shared = make_stats(relation, name_hash, FLR_STATS_LANES);
		if (lane < FLR_STATS_LANES)
		{
			block = find_stats(relation, name_hash, lane);
			if (block == 0)
				block = make_stats(relation, name_hash, lane);
		}
	}
	LWLockRelease(&flr_store->stats_lock);
	return block != 0 ? block : shared;
}

/*
 * Call a function, with stats_lock held, for the statistics of this database:
 * all of them, or those in the chain of one name's hash.
 */
void
flr_stats_walk(const uint64 *name_hash,
			   void (*visit) (FlrStats *stats, void *arg), void *arg)
{
	int			first = name_hash != NULL ? *name_hash % FLR_STATS_HEADS : 0;
	int			end = name_hash != NULL ? first + 1 : FLR_STATS_HEADS;

	for (;;)
	{
		if (!flr_store_map())
			ereport(ERROR,
					(errcode(FLR_ERRCODE_STORE_FULL),
					 errmsg("could not map the shared memory of rate limit counters")));
		LWLockAcquire(&flr_store->stats_lock, LW_SHARED);
		if (flr_store_is_mapped())
			break;
		LWLockRelease(&flr_store->stats_lock);
	}
	for (int i = first; i < end; i++)
		for (FlrBlockId block = flr_store->stats[i]; block != 0;
			 block = flr_stats(block)->next)
			if (flr_stats(block)->database == MyDatabaseId)
				visit(flr_stats(block), arg);
	LWLockRelease(&flr_store->stats_lock);
}

/*
 * Find or make the home of this database's definitions table.  NULL when
 * there is no memory for it.  No stripe may be locked.
 */
FlrHome *
flr_home_find(Oid relation)
{
	FlrHome    *home = NULL;
	FlrBlockId	block;

	if (!flr_store_map())
		return NULL;
	LWLockAcquire(&flr_store->stats_lock, LW_EXCLUSIVE);
	if (flr_store_is_mapped())
	{
		for (block = flr_store->homes; block != 0; block = home->next)
		{
			home = flr_block(flr_arena, block);
			if (home->relation == relation && home->database == MyDatabaseId)
				break;
		}
		if (block == 0)
		{
			home = NULL;
			block = flr_arena->take(flr_arena);
			if (block != 0)
			{
				home = flr_block(flr_arena, block);
				home->next = flr_store->homes;
				home->database = MyDatabaseId;
				home->relation = relation;
				home->kept = FLR_KEPT_NOT_READ;
				flr_store->homes = block;
			}
		}
	}
	LWLockRelease(&flr_store->stats_lock);
	return home;
}

/* Free the homes of databases that are gone. */
void
flr_homes_free(const Oid *databases, int n)
{
	FlrBlockId *link;

	LWLockAcquire(&flr_store->stats_lock, LW_EXCLUSIVE);
	link = &flr_store->homes;
	while (*link != 0 && flr_store_is_mapped())
	{
		FlrBlockId	block = *link;
		FlrHome    *home = flr_block(flr_arena, block);
		bool		gone = false;

		for (int i = 0; i < n; i++)
			gone = gone || home->database == databases[i];
		if (gone)
		{
			*link = home->next;
			flr_arena->give(flr_arena, block);
		}
		else
			link = &home->next;
	}
	LWLockRelease(&flr_store->stats_lock);
}
