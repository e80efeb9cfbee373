/*-------------------------------------------------------------------------
 *
 * store.h
 *	  Shared memory for counters: blocks, stripes, entries, statistics.
 *
 * The store appears when it is first used, needs no preloading, and lives as
 * long as the postmaster does not reset shared memory.  A small control
 * struct of fixed name and size leads to a pinned segment of dynamic shared
 * memory, which holds an FlrStore and the first slab.
 *
 * Memory.  The store is grown in slabs, each a pinned segment of its own,
 * which are cut into blocks of FLR_BLOCK_SIZE bytes.  (A DSA area would double
 * its segments, and whoever makes one waits while it is filled with zeros; and
 * it loses a little memory each time that the system has none.)  Everything that grows is made of blocks: entries,
 * the records behind them, pages of the index, statistics.  Free blocks form one
 * pool.  Slabs are never returned; a block may serve anything next time.
 * Blocks of statistics stay blocks of statistics, so that a backend may keep
 * a pointer to one.
 *
 * Locks, in the order in which they are taken:
 *	1. grow_lock, while a slab is added; never together with a stripe;
 *	2. stripe locks in ascending order, at most FLR_MAX_PAIRS of them;
 *	3. stats_lock, to find or make a block of statistics or a home; never
 *	   under 2;
 *	4. pool_lock, a spinlock around a few instructions.
 * While a stripe is locked nothing may raise, allocate in the backend, touch
 * the catalogs or map memory.  Each backend maps slabs before it locks, and
 * looks again once it has locked: an entry of a stripe can only come to lie
 * in a new slab under that stripe's lock.
 *
 * An ERROR while a lock is held (grow_lock or stats_lock; under a stripe there
 * is none) is cleaned up by the abort of the surrounding (sub)transaction.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_STORE_H
#define FLR_STORE_H

#include <time.h>

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/dsm.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#include "algorithm.h"
#include "hash.h"

/* for this library only */
#pragma GCC visibility push(hidden)

#define FLR_STRIPES			256
#define FLR_STRIPE_SIZE		2048
#define FLR_STATS_HEADS		256
#define FLR_STATS_LANES		32

/* A key's text in the views: at most so many bytes, so many of them inline. */
#define FLR_KEY_SIZE		64
#define FLR_KEY_INLINE		16

/* What tells counters apart. */
typedef struct FlrEntryId
{
	FlrHash		subject;		/* keyed hash of scope and key */
	uint64		identity;		/* of the limit: name, scope, api, algorithm */
	Oid			database;
	Oid			relation;		/* the definitions table */
} FlrEntryId;

/*
 * What one key has spent of one limit.  What a grant touches comes first, so
 * that it lies on as few cache lines as possible.
 */
typedef struct FlrEntry
{
	FlrEntryId	id;
	int64		expiry;			/* elapsed time at which it is worth nothing */
	int64		last_request;	/* elapsed time of the last one it judged; no
								 * request is judged by an earlier one */
	uint64		granted;
	int32		limit_id;		/* the definition that was last applied */
	FlrBlockId	stats;			/* counts this entry among its keys; or 0 */
	FlrState	state;			/* its owner byte: see below */
	uint64		refused:63;
	uint64		has_copy:1;		/* there may be a saved copy of it */
	uint32		delayed;
	uint32		shadow_refused;
	int64		last_refused;
	union
	{
		char		text[FLR_KEY_INLINE];
		FlrBlockId	block;		/* when key_size > FLR_KEY_INLINE */
	}			key;
} FlrEntry;

/*
 * The owner byte of an entry's state: the size of its key less one, whether
 * what was spent has changed since it was last saved, and whether it is being
 * saved by a transaction that has not committed.
 */
#define FLR_ENTRY_KEY_SIZE	0x3f
#define FLR_ENTRY_CHANGED	0x40
#define FLR_ENTRY_SAVING	0x80

StaticAssertDecl(sizeof(FlrEntry) == FLR_BLOCK_SIZE, "an entry is a block");
StaticAssertDecl(FLR_KEY_SIZE <= FLR_ENTRY_KEY_SIZE + 1, "a key's size fits");
StaticAssertDecl(sizeof(FlrChain) == FLR_BLOCK_SIZE, "a chain link is a block");

/*
 * A page of a stripe's index: a bucket, with entries' blocks and eight bits of
 * their hashes, so that a search rarely looks at an entry that is not the one.
 */
#define FLR_PAGE_SLOTS		32

typedef struct FlrPage
{
	FlrBlockId	more;			/* where this page was too small */
	uint32		n;
	uint8		tags[FLR_PAGE_SLOTS];
	FlrBlockId	blocks[FLR_PAGE_SLOTS];
} FlrPage;

StaticAssertDecl(sizeof(FlrPage) <= FLR_BLOCK_SIZE, "a page is a block");

#define FLR_STRIPE_PAGES	496

/*
 * A stripe: a lock and the entries under it, in a hash table that grows one
 * page at a time (W. Litwin, "Linear hashing", 1980), so that no check ever
 * waits for a resize.
 */
typedef struct FlrStripe
{
	LWLock		lock;
	int64		quiet_until;	/* none of its entries expires earlier */
	int64		hand_expiry;	/* none that the hand has passed does */
	uint32		nentries;
	uint32		npages;			/* without those that others refer to */
	uint32		mask;			/* 2^k - 1, npages <= 2^k < 2 * npages */
	uint32		hand;			/* the page, and the slot in it or in those it
								 * refers to, where the search for expired
								 * entries goes on */
	uint32		hand_slot;
	FlrBlockId	pages[FLR_STRIPE_PAGES];
} FlrStripe;

StaticAssertDecl(sizeof(FlrStripe) <= FLR_STRIPE_SIZE, "a stripe fits");

typedef union FlrStripePadded
{
	FlrStripe	stripe;
	char		pad[FLR_STRIPE_SIZE];
} FlrStripePadded;

/*
 * Statistics of one limit's name, in lanes; a reader adds up.  A lane below
 * FLR_STATS_LANES belongs to one backend at a time, which alone writes its
 * counters, so that counting is an addition and no cache line is fought for.
 * All further backends share the last lane and count atomically.  Whoever
 * resets the statistics writes what is to be subtracted, and no counter.
 */
typedef struct FlrStats
{
	FlrBlockId	next;			/* in its chain */
	uint32		lane;
	Oid			database;
	Oid			relation;
	uint64		name_hash;
	pg_atomic_uint64 since;		/* TimestampTz */
	pg_atomic_uint64 reset_granted; /* what the counters were when reset */
	pg_atomic_uint64 reset_refused;
	pg_atomic_uint64 reset_delayed;
	pg_atomic_uint64 reset_shadow_refused;
	pg_atomic_uint64 granted;
	pg_atomic_uint64 refused;
	pg_atomic_uint64 delayed;
	pg_atomic_uint64 shadow_refused;
	pg_atomic_uint64 last_checked;	/* elapsed time; 0: never */
	pg_atomic_uint64 last_refused;
	pg_atomic_uint64 keys;		/* always atomic: any backend may free one */
} FlrStats;

StaticAssertDecl(sizeof(FlrStats) <= FLR_BLOCK_SIZE, "statistics fit");

/* What became of the saved counters of a definitions table. */
typedef enum FlrKept
{
	FLR_KEPT_NOT_READ,
	FLR_KEPT_READ_IN_RECOVERY,	/* to be read again after promotion */
	FLR_KEPT_READ
} FlrKept;

/* A definitions table that has counters here. */
typedef struct FlrHome
{
	FlrBlockId	next;
	Oid			database;
	Oid			relation;
	FlrKept		kept;			/* changed under a lock of keep.c's */
} FlrHome;

StaticAssertDecl(sizeof(FlrHome) <= FLR_BLOCK_SIZE, "a home is a block");

typedef struct FlrStore
{
	/* the pool of free blocks */
	slock_t		pool_lock;
	FlrBlockId	free;			/* a list, linked by the first word */
	FlrBlockId	fresh;			/* never used yet, up to fresh_end */
	FlrBlockId	fresh_end;
	FlrBlockId	page_next;		/* set aside for pages of the index */
	FlrBlockId	page_end;
	uint64		nfree;			/* all kinds together */

	pg_atomic_uint32 nslabs;
	LWLock		grow_lock;
	uint64		committed;		/* bytes taken from the system */
	dsm_handle	slabs[FLR_MAX_SLABS];	/* slab 0 is behind this struct */

	LWLock		stats_lock;
	FlrBlockId	homes;			/* a list, under stats_lock as well */
	FlrBlockId	stats[FLR_STATS_HEADS];

	pg_atomic_uint64 swept;
	pg_atomic_uint64 refused_full;
	pg_atomic_uint64 sweep_again;	/* elapsed time before which a sweep of
									 * the whole store finds nothing */
	pg_atomic_uint32 waiters;
	TimestampTz since;

	FlrStripePadded stripes[FLR_STRIPES];
} FlrStore;

/* This backend's view of the store. */
typedef struct FlrLocal
{
	FlrArena	arena;			/* first: its functions cast it back */
	FlrStore   *store;
	bool		attached;
	uint32		nslabs;			/* mapped slabs */
	char	   *slabs[FLR_MAX_SLABS];
	uint8		uses[FLR_MAX_SLABS];	/* up to FLR_POPULATE_AT */
} FlrLocal;

/*
 * So many times a backend finds something in a slab before all of the slab is
 * brought into its page tables.
 */
#define FLR_POPULATE_AT		4

extern FlrLocal flr_local;

/* Shorthands. */
#define flr_store		(flr_local.store)
#define flr_arena		(&flr_local.arena)

static inline FlrStripe *
flr_stripe(uint32 stripe)
{
	return &flr_store->stripes[stripe].stripe;
}

static inline uint32
flr_stripe_of(FlrHash subject)
{
	return (uint32) subject.lo % FLR_STRIPES;
}

static inline FlrEntry *
flr_entry(FlrBlockId block)
{
	return (FlrEntry *) flr_block(flr_arena, block);
}

static inline FlrStats *
flr_stats(FlrBlockId block)
{
	return (FlrStats *) flr_block(flr_arena, block);
}

/* Has another backend added slabs that are not mapped here? */
static inline bool
flr_store_is_mapped(void)
{
	return pg_atomic_read_u32(&flr_store->nslabs) == flr_local.nslabs;
}


extern bool flr_store_first_attach(void);
extern bool flr_store_map_more(void);
extern void flr_store_map_now(void);
extern bool flr_store_grow(uint32 wanted);
extern void flr_store_use_slab(uint32 slab);

/*
 * Attach to the store, which is made if this is the first use of it.  False
 * when there is no memory for it; raises when it is another version's.
 */
static inline bool
flr_store_attach(void)
{
	return likely(flr_local.attached) || flr_store_first_attach();
}

/* Map the slabs that other backends have added.  False: no memory. */
static inline bool
flr_store_map(void)
{
	return likely(flr_store_is_mapped()) || flr_store_map_more();
}

/*
 * Elapsed time in microseconds.  It never steps, and where the system can
 * tell, it goes on while the machine is suspended.
 */
static inline int64
flr_clock(void)
{
	struct timespec now;

#ifdef CLOCK_BOOTTIME
	clock_gettime(CLOCK_BOOTTIME, &now);
#else
	clock_gettime(CLOCK_MONOTONIC, &now);
#endif
	return (int64) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

extern int64 flr_stripe_lock_busy(LWLock *lock);

/* Lock a stripe: actively for a moment, then asleep. */
static inline void
flr_stripe_lock(uint32 stripe)
{
	LWLock	   *lock = &flr_stripe(stripe)->lock;

	if (unlikely(!LWLockConditionalAcquire(lock, LW_EXCLUSIVE)))
		(void) flr_stripe_lock_busy(lock);
}

/*
 * Lock a stripe.  now is the elapsed time as it was shortly before, which keeps
 * the clock out of the time for which the lock is held.  Returns that, or a later
 * time if the stripe had to be waited for.
 */
static inline int64
flr_stripe_lock_timed(uint32 stripe, int64 now)
{
	LWLock	   *lock = &flr_stripe(stripe)->lock;

	if (unlikely(!LWLockConditionalAcquire(lock, LW_EXCLUSIVE)))
		now = flr_stripe_lock_busy(lock);
	return now;
}

/* Unlock a stripe. */
static inline void
flr_stripe_unlock(uint32 stripe)
{
	LWLockRelease(&flr_stripe(stripe)->lock);
}


static inline FlrPage *
flr_page(FlrBlockId block)
{
	return (FlrPage *) flr_block(flr_arena, block);
}

/* The hash of an entry within its stripe. */
static inline uint64
flr_entry_hash(const FlrEntryId *id)
{
	return id->subject.hi ^ id->identity;
}

/* The bits of a hash that stand in a page. */
static inline uint8
flr_tag_of(uint64 hash)
{
	return (uint8) (hash >> 56);
}

/* The page of a hash.  The stripe has at least one. */
static inline uint32
flr_page_of(const FlrStripe *stripe, uint64 hash)
{
	uint32		page = (uint32) hash & stripe->mask;

	return page < stripe->npages ? page : page & (stripe->mask >> 1);
}

/*
 * The slots of a page that may have this tag, as bits: see flr_slot_of_match().
 * Some that do not have it may be among them, also unused ones; none that has
 * it is missing.  All slots at once, because where the tag is cannot be
 * foreseen, by a processor either.
 */
static inline uint64
flr_tag_matches(const FlrPage *page, uint8 tag)
{
	uint64		ones = UINT64CONST(0x0101010101010101);
	uint64		matches = 0;

	for (int i = 0; i < FLR_PAGE_SLOTS / 8; i++)
	{
		uint64		x = flr_read_le64(&page->tags[8 * i]) ^ (ones * tag);

		matches |= ((x - ones) & ~x & (ones << 7)) >> (7 - i);
	}
	return matches;
}

/* The slot of the lowest match: bit 8 * i + j stands for slot 8 * j + i. */
static inline uint32
flr_slot_of_match(uint64 matches)
{
	uint32		bit = pg_rightmost_one_pos64(matches);

	return bit % 8 * 8 + bit / 8;
}

/* A slab that is mapped is about to be used; see flr_store_use_slab(). */
static inline void
flr_use_slab(uint32 slab)
{
	if (unlikely(flr_local.uses[slab] < FLR_POPULATE_AT))
		flr_store_use_slab(slab);
}

/*
 * Have the page of an entry, if there is one, on its way.  Looks at the stripe
 * without a lock: whatever it reads there only decides what is prefetched.
 */
static inline const FlrPage *
flr_page_prefetch(const FlrStripe *stripe, const FlrEntryId *id)
{
	FlrBlockId	block;
	const FlrPage *page;

	if (stripe->npages == 0)
		return NULL;
	block = stripe->pages[flr_page_of(stripe, flr_entry_hash(id))];
	if ((block >> FLR_SLAB_SHIFT) >= flr_local.nslabs)
		return NULL;
	flr_use_slab(block >> FLR_SLAB_SHIFT);
	page = flr_page(block);
	__builtin_prefetch(page);
	__builtin_prefetch((const char *) page + 64);
	__builtin_prefetch((const char *) page + FLR_BLOCK_SIZE - 1);
	return page;
}

/*
 * Have the memory of an entry, if it exists, on its way while its stripe is
 * being locked; the same applies.  Waits for the page.  Returns where the entry
 * seems to be, for flr_entry_is() to be asked once the stripe is locked; NULL when
 * it does not seem to exist.
 */
static inline FlrEntry *
flr_entry_prefetch(const FlrStripe *stripe, const FlrEntryId *id)
{
	uint64		hash = flr_entry_hash(id);
	const FlrPage *page = flr_page_prefetch(stripe, id);
	FlrEntry   *likely = NULL;
	FlrBlockId	block;
	uint32		n;

	if (page == NULL)
		return NULL;

	/* a volatile read, or compilers find that all this has no effect */
	n = *(const volatile uint32 *) &page->n;
	for (uint64 matches = flr_tag_matches(page, flr_tag_of(hash));
		 matches != 0; matches &= matches - 1)
	{
		uint32		slot = flr_slot_of_match(matches);
		char	   *entry;

		if (slot >= n)
			continue;
		block = *(const volatile FlrBlockId *) &page->blocks[slot];
		if ((block >> FLR_SLAB_SHIFT) >= flr_local.nslabs)
			continue;
		flr_use_slab(block >> FLR_SLAB_SHIFT);
		entry = flr_block(flr_arena, block);
		__builtin_prefetch(entry);
		__builtin_prefetch(entry + 64);
		__builtin_prefetch(entry + offsetof(FlrEntry, state) + sizeof(FlrState) - 1);
		if (likely == NULL)
			likely = (FlrEntry *) entry;
	}
	return likely;
}

/*
 * Have the ends of the record of an entry on their way, if it is a long one;
 * the same applies.  Waits for the entry, which flr_entry_prefetch() has
 * returned.
 */
static inline void
flr_record_prefetch(const FlrEntry *entry)
{
	const volatile FlrState *state = &entry->state;
	FlrBlockId	ends[2] = {state->first, state->last};

	for (int i = 0; i < 2; i++)
		if (ends[i] != 0 && (ends[i] >> FLR_SLAB_SHIFT) < flr_local.nslabs)
		{
			const char *block = flr_block(flr_arena, ends[i]);
			uint32		place = i == 0 ? state->head : state->tail;

			__builtin_prefetch(block);
			__builtin_prefetch(block + offsetof(FlrChain, runs) +
							   place % FLR_CHAIN_NARROW * sizeof(FlrNarrowRun));
		}
}

/* The size of what is kept of an entry's key, 1 to FLR_KEY_SIZE. */
static inline int
flr_entry_key_size(const FlrEntry *entry)
{
	return (entry->state.owner & FLR_ENTRY_KEY_SIZE) + 1;
}

/* What was spent has changed: it is to be saved again. */
static inline void
flr_entry_changed(FlrEntry *entry)
{
	entry->state.owner |= FLR_ENTRY_CHANGED;
}

/* Is this the entry of that id? */
static inline bool
flr_entry_is(const FlrEntry *entry, const FlrEntryId *id)
{
	return entry->id.subject.hi == id->subject.hi &&
		entry->id.subject.lo == id->subject.lo &&
		entry->id.identity == id->identity &&
		entry->id.relation == id->relation &&
		entry->id.database == id->database;
}

extern FlrBlockId flr_store_take_page(void);
extern FlrEntry *flr_entry_find(FlrStripe *stripe, const FlrEntryId *id);
extern FlrEntry *flr_entry_create(FlrStripe *stripe, const FlrEntryId *id,
								  FlrBlockId stats,
								  const char *key, int key_size,
								  int64 now);
extern FlrEntry *flr_entry_add(FlrStripe *stripe, const FlrEntryId *id,
							   FlrBlockId stats,
							   const char *key, int key_size, int64 now);
extern int	flr_entries_remove(FlrStripe *stripe,
							   bool (*doomed) (const FlrEntry *entry,
											   const void *arg),
							   const void *arg);
extern void flr_entries_visit(FlrStripe *stripe,
							  void (*visit) (FlrEntry *entry, void *arg),
							  void *arg);
extern int64 flr_store_sweep(int64 now);
extern void flr_entry_set_expiry(FlrEntry *entry, int64 expiry);
extern void flr_entry_lower_expiry(FlrEntry *entry, int64 expiry);
extern void flr_entry_key(const FlrEntry *entry, char *text);

/* Count something in a lane of this backend's. */
static inline void
flr_stats_count(const FlrStats *stats, pg_atomic_uint64 *counter)
{
	if (likely(stats->lane < FLR_STATS_LANES))
		pg_atomic_write_u64(counter, pg_atomic_read_u64(counter) + 1);
	else
		pg_atomic_fetch_add_u64(counter, 1);
}

extern void flr_stats_walk(const uint64 *name_hash,
						   void (*visit) (FlrStats *stats, void *arg),
						   void *arg);
extern FlrBlockId flr_stats_find(Oid relation, uint64 name_hash);
extern FlrHome *flr_home_find(Oid relation);
extern void flr_homes_free(const Oid *databases, int n);

#pragma GCC visibility pop

#endif							/* FLR_STORE_H */
