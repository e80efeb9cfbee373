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
 * it loses a little memory each time that the system has none.)  Everything is
 * made of blocks: entries, the records behind them, pages of the table of entries,
 * statistics.  Free blocks form one pool.  Slabs are never returned; a block may
 * serve anything next time.  Pages take whole frames of blocks that were never
 * used, and lend their vacant places to the pool when there is no other memory.
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
#define FLR_STATS_HEADS		256
#define FLR_STATS_LANES		32

/* A key's text in the views: at most so many bytes, so many of them inline. */
#define FLR_KEY_SIZE		64
#define FLR_KEY_INLINE		16

/* What tells counters apart. */
typedef struct FlrEntryId
{
	FlrHash		subject;		/* keyed hash of scope and key */
	uint64		limit;			/* see flr_limit_id() */
} FlrEntryId;

/*
 * What one key has spent of one limit.  What few counters have is in a block of
 * its own, FlrExtra.
 */
typedef struct FlrEntry
{
	FlrEntryId	id;
	int64		expiry;			/* elapsed time at which it is worth nothing */
	int64		last_request;	/* elapsed time of the last one it judged; no
								 * request is judged by an earlier one */
	uint64		granted;
	int32		limit_id;		/* the definition that was last applied */
	FlrBlockId	stats;			/* counts this entry among its keys, and says
								 * whose it is */
	FlrState	state;			/* its owner byte: see below */
	union
	{
		char		text[FLR_KEY_INLINE];
		FlrBlockId	block;		/* an FlrExtra, where the key's text is too */
	}			key;
} FlrEntry;

/*
 * The owner byte of an entry's state: the size of the key in the entry, or 0 when
 * there is an FlrExtra; whether there may be a saved copy of the counter, whether
 * what was spent has changed since it was last saved, and whether it is being
 * saved by a transaction that has not committed.
 */
#define FLR_ENTRY_KEY_SIZE	0x1f
#define FLR_ENTRY_HAS_COPY	0x20
#define FLR_ENTRY_CHANGED	0x40
#define FLR_ENTRY_SAVING	0x80

/* What was refused or delayed of an entry, and a key that is too long for it. */
typedef struct FlrExtra
{
	uint64		refused;
	int64		last_refused;	/* elapsed time; 0: never */
	uint32		delayed;
	uint32		shadow_refused;
	uint8		key_size;
	char		key[FLR_KEY_SIZE];
} FlrExtra;

StaticAssertDecl(sizeof(FlrEntry) == FLR_BLOCK_SIZE, "an entry is a block");
StaticAssertDecl(FLR_KEY_INLINE <= FLR_ENTRY_KEY_SIZE, "a key's size fits");
StaticAssertDecl(sizeof(FlrExtra) <= FLR_BLOCK_SIZE, "what few have fits");
StaticAssertDecl(sizeof(FlrChain) == FLR_BLOCK_SIZE, "a chain link is a block");

/*
 * Blocks are as large as two lines of a cache, and so many of them, a frame, as
 * large as a page of memory, of which no two parts are far apart: whoever waits for
 * one has the address of the other.
 */
#define FLR_FRAME_BLOCKS	32

/*
 * A page of a stripe's hash table: a bucket, which is the first block of a frame,
 * with places for entries in the others.  Where an entry is sought follows
 * from its hash alone: in one of a few places of its page, so that it is found by
 * one access to memory.  Where these were taken it is in any other place; eight
 * bits of the hash of each entry in the page's block say where.  Where all
 * were taken, the entry is spilled: it is in a block of its own anywhere, of which
 * the page knows the number.
 *
 * A page without places is used where there is no frame for it: for the further
 * pages of a bucket, for a stripe of few entries, and in a store that is full.
 *
 * A vacant place can be lent: its block then is one like any other, and never
 * comes back to the page.
 */
#define FLR_PAGE_PLACES		(FLR_FRAME_BLOCKS - 1)
#define FLR_PAGE_TAGS		32
#define FLR_PAGE_SPILL		16

/* The places where an entry is sought first. */
#define FLR_PAGE_TRIES		4

/* Tags of places; those of entries are greater. */
#define FLR_TAG_VACANT		0
#define FLR_TAG_LENT		1

typedef struct FlrPage
{
	FlrBlockId	more;			/* the bucket's next page */
	uint32		nspilled;
	uint8		tags[FLR_PAGE_TAGS];	/* the one behind the places is lent */
	uint8		spilled_tags[FLR_PAGE_SPILL];
	FlrBlockId	spilled[FLR_PAGE_SPILL];
} FlrPage;

StaticAssertDecl(sizeof(FlrPage) <= FLR_BLOCK_SIZE, "a page is a block");
StaticAssertDecl(FLR_PAGE_SPILL % 8 == 0, "tags are compared by eights");
StaticAssertDecl(FLR_PAGE_PLACES <= FLR_PAGE_TAGS, "each place has a tag");

/*
 * The pages of a stripe by their numbers come in extents of so many.  One of
 * frames that follow each other is known by the first of them, which keeps short
 * what has to be read before any page is.  Those that are not in use yet are pages
 * nobody looks into, whose places are vacant.
 */
#define FLR_EXTENT_PAGES	4
#define FLR_STRIPE_EXTENTS	504
#define FLR_STRIPE_PAGES	(FLR_STRIPE_EXTENTS * FLR_EXTENT_PAGES)

/*
 * A listed extent, whose pages lie anywhere: the first one of each stripe, since
 * few keys are to take few bytes, and those for which no frames that follow each
 * other were to be had.
 */
typedef struct FlrPageList
{
	FlrBlockId	pages[FLR_EXTENT_PAGES];	/* 0: it is not there yet */
	uint32		bare;			/* those without places, as bits */
} FlrPageList;

StaticAssertDecl(sizeof(FlrPageList) <= FLR_BLOCK_SIZE, "a list is a block");

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
	uint32		nbare;			/* pages without places */
	uint32		nlisted;		/* extents, without the first one */
	uint32		nvacant;		/* places */
	uint32		next_split;		/* so many entries before another page is
								 * tried, after one that failed */
	uint32		hand;			/* the page, and the position in its bucket,
								 * where the search for expired entries goes
								 * on */
	uint32		hand_position;
	uint64		listed[(FLR_STRIPE_EXTENTS + 63) / 64];
	FlrBlockId	extents[FLR_STRIPE_EXTENTS];	/* the first page, or the list */
} FlrStripe;

/* No multiple of a power of two, or all would share few lines of a cache. */
#define FLR_STRIPE_SIZE		(2048 + PG_CACHE_LINE_SIZE)

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
	Oid			database;
	Oid			relation;
	uint64		name_hash;
	pg_atomic_uint64 since;		/* TimestampTz */
	pg_atomic_uint64 keys;		/* always atomic: any backend may free one */

	/* what counting touches; that of two blocks never lies on one cache line */
	uint32		lane;
	pg_atomic_uint64 granted;
	pg_atomic_uint64 refused;
	pg_atomic_uint64 delayed;
	pg_atomic_uint64 shadow_refused;
	pg_atomic_uint64 last_checked;	/* elapsed time; 0: never */
	pg_atomic_uint64 last_refused;

	pg_atomic_uint64 reset_granted; /* what the counters were when reset */
	pg_atomic_uint64 reset_refused;
	pg_atomic_uint64 reset_delayed;
	pg_atomic_uint64 reset_shadow_refused;
} FlrStats;

StaticAssertDecl(sizeof(FlrStats) <= FLR_BLOCK_SIZE, "statistics fit");
StaticAssertDecl(offsetof(FlrStats, reset_granted) - offsetof(FlrStats, lane) <=
				 FLR_BLOCK_SIZE - 64, "statistics do not share a line");

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
	FlrBlockId	fresh;			/* of the frames that are being cut into
								 * blocks */
	FlrBlockId	fresh_end;
	FlrBlockId	frame;			/* frames that were never used yet */
	FlrBlockId	frame_end;
	uint64		nfree;			/* all kinds together */
	bool		at_limit;		/* the last attempt to grow failed */
	bool		wants_frame;	/* there was none for a page */
	bool		may_lend;		/* there may be a vacant place somewhere */
	uint32		lender;			/* the stripe that is asked first */

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

	FlrStripePadded stripes[FLR_STRIPES] pg_attribute_aligned(PG_CACHE_LINE_SIZE);
} FlrStore;

/* How often a request has lacked memory; begins with zeros. */
typedef struct FlrShortage
{
	int			attempts;
	int			reclaims;
} FlrShortage;

/* This backend's view of the store. */
typedef struct FlrLocal
{
	FlrArena	arena;			/* first: its functions cast it back */
	FlrStore   *store;
	bool		attached;
	uint32		nslabs;			/* mapped slabs */
	char	   *slabs[FLR_MAX_SLABS];
	char	   *ends[FLR_MAX_SLABS];	/* of the slabs */
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
extern void flr_store_try_again(void);
extern void flr_store_grow_frames(void);
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

/* Take memory for pages with places, if there was no room for one. */
static inline void
flr_store_grow_if_wanted(void)
{
	if (unlikely(flr_store->wants_frame))
		flr_store_grow_frames();
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

/* The entry in a place of a page. */
static inline FlrEntry *
flr_place(const FlrPage *page, uint32 place)
{
	return (FlrEntry *) ((char *) page + (1 + (size_t) place) * FLR_BLOCK_SIZE);
}

/*
 * What tells the limits of a subject apart: the identity of the limit, and the
 * definitions table that it is in.  Doing it again gives the identity.
 */
static inline uint64
flr_limit_id(uint64 identity, Oid database, Oid relation)
{
	/* different for each table, since the factor is odd */
	return identity ^
		(((uint64) database << 32 | relation) * UINT64CONST(0x9e3779b97f4a7c15));
}

/* Does an entry belong to this definitions table of this database? */
static inline bool
flr_entry_belongs(const FlrEntry *entry, Oid database, Oid relation)
{
	const FlrStats *stats = flr_stats(entry->stats);

	return stats->database == database && stats->relation == relation;
}

/* The hash of an entry within its stripe. */
static inline uint64
flr_entry_hash(const FlrEntryId *id)
{
	return id->subject.hi ^ id->limit;
}

/* The bits of a hash that stand in a page. */
static inline uint8
flr_tag_of(uint64 hash)
{
	uint8		tag = (uint8) (hash >> 56);

	return tag > FLR_TAG_LENT ? tag : tag + FLR_TAG_LENT + 1;
}

/* The number of the page of a hash.  The stripe has at least one. */
static inline uint32
flr_page_of(const FlrStripe *stripe, uint64 hash)
{
	uint32		page = (uint32) hash & stripe->mask;

	return page < stripe->npages ? page : page & (stripe->mask >> 1);
}

/* Do the pages of this extent lie anywhere? */
static inline bool
flr_extent_is_listed(const FlrStripe *stripe, uint32 extent)
{
	return extent == 0 ||
		(unlikely(stripe->nlisted > 0) &&
		 (stripe->listed[extent / 64] >> (extent % 64) & 1) != 0);
}

/* The place where an entry of this hash is sought in try number 0, 1, ... */
static inline uint32
flr_place_of(uint64 hash, uint32 try)
{
	uint32		place = (uint32) (hash >> 40 & 0xffff) * FLR_PAGE_PLACES >> 16;

	place += try;
	return place < FLR_PAGE_PLACES ? place : place - FLR_PAGE_PLACES;
}

/*
 * The places among so many tags, a multiple of eight, that may have this tag, as
 * bits: see flr_place_of_match().  Some that do not have it may be among them; none
 * that has it is missing.  All at once, because where the tag is cannot be
 * foreseen, by a processor either.
 */
static inline uint64
flr_tag_matches(const uint8 *tags, int n, uint8 tag)
{
	uint64		ones = UINT64CONST(0x0101010101010101);
	uint64		matches = 0;

	for (int i = 0; i < n / 8; i++)
	{
		uint64		x = flr_read_le64(&tags[8 * i]) ^ (ones * tag);

		matches |= ((x - ones) & ~x & (ones << 7)) >> (7 - i);
	}
	return matches;
}

/* The place of the lowest match: bit 8 * i + j stands for place 8 * j + i. */
static inline uint32
flr_place_of_match(uint64 matches)
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

/* Have the memory of an entry on its way. */
static inline void
flr_entry_touch(const FlrEntry *entry)
{
	__builtin_prefetch(entry);
	__builtin_prefetch((const char *) entry + sizeof(FlrEntry) / 2);
}

/* Is what seems to be the first of so many blocks mapped, and all of them? */
static inline bool
flr_blocks_are_mapped(FlrBlockId block, int n)
{
	uint32		slab = block >> FLR_SLAB_SHIFT;

	return slab < flr_local.nslabs &&
		(char *) flr_block(flr_arena, block) + n * FLR_BLOCK_SIZE <=
		flr_local.ends[slab];
}

/*
 * The page of an entry, if it exists; 0 for none that is mapped.  Looks at the
 * stripe without a lock, as do the next four: whatever they read only decides what
 * is prefetched.
 */
static inline FlrBlockId
flr_page_foresee(const FlrStripe *stripe, const FlrEntryId *id)
{
	uint32		number;
	uint32		extent;
	FlrBlockId	block;

	if (stripe->npages == 0)
		return 0;
	number = flr_page_of(stripe, flr_entry_hash(id));
	extent = number / FLR_EXTENT_PAGES;

	/* volatile reads, which are not done twice */
	block = *(const volatile FlrBlockId *) &stripe->extents[extent];
	if (!flr_extent_is_listed(stripe, extent))
		block += number % FLR_EXTENT_PAGES * FLR_FRAME_BLOCKS;
	else if (flr_blocks_are_mapped(block, 1))
	{
		const FlrPageList *list = flr_block(flr_arena, block);

		block = *(const volatile FlrBlockId *)
			&list->pages[number % FLR_EXTENT_PAGES];
	}
	if (!flr_blocks_are_mapped(block, 1))
		return 0;
	flr_use_slab(block >> FLR_SLAB_SHIFT);
	return block;
}

/*
 * Have an entry on its way, and all that a search for it looks at, if it exists
 * and is where it is sought first.
 */
static inline void
flr_entry_prefetch(const FlrStripe *stripe, const FlrEntryId *id)
{
	FlrBlockId	block = flr_page_foresee(stripe, id);
	const FlrPage *page = flr_page(block);
	uint64		hash = flr_entry_hash(id);

	if (block == 0)
		return;
	__builtin_prefetch(page);
	for (uint32 try = 0; try < FLR_PAGE_TRIES; try++)
		flr_entry_touch(flr_place(page, flr_place_of(hash, try)));
}

/*
 * Have what stands in a page on its way: read it, and do nothing with it.  Many
 * that are asked for one after the other come sooner this way than by prefetching,
 * which processors may give up where the address is not in their tables.
 */
static inline void
flr_page_read_ahead(FlrBlockId block)
{
	(void) *(const volatile FlrBlockId *) &flr_page(block)->more;
}

/*
 * Have an entry on its way that is where its page says, and return it for
 * flr_entry_is() to be asked once the stripe is locked; NULL when it does not seem
 * to exist.  Waits for the page.
 */
static inline FlrEntry *
flr_entry_foresee(FlrBlockId block, const FlrEntryId *id)
{
	const FlrPage *page = flr_page(block);
	uint8		tag = flr_tag_of(flr_entry_hash(id));
	FlrEntry   *likely = NULL;

	if (flr_blocks_are_mapped(block, FLR_FRAME_BLOCKS))
		for (uint64 matches = flr_tag_matches(page->tags, FLR_PAGE_TAGS, tag);
			 matches != 0; matches &= matches - 1)
		{
			uint32		place = flr_place_of_match(matches);

			if (place == FLR_PAGE_PLACES)
				continue;
			flr_entry_touch(flr_place(page, place));
			if (likely == NULL)
				likely = flr_place(page, place);
		}
	for (uint64 matches = flr_tag_matches(page->spilled_tags, FLR_PAGE_SPILL, tag);
		 matches != 0; matches &= matches - 1)
	{
		uint32		slot = flr_place_of_match(matches);
		FlrBlockId	spilled;

		/* the same, and perhaps it is no page any more */
		spilled = *(const volatile FlrBlockId *) &page->spilled[slot];
		if (slot >= page->nspilled || !flr_blocks_are_mapped(spilled, 1))
			continue;
		flr_use_slab(spilled >> FLR_SLAB_SHIFT);
		flr_entry_touch(flr_entry(spilled));
		if (likely == NULL)
			likely = flr_entry(spilled);
	}
	return likely;
}

/*
 * Have the ends of the record of an entry on their way, if it is a long one.
 * Waits for the entry, which flr_entry_foresee() has returned.
 */
static inline void
flr_record_prefetch(const FlrEntry *entry)
{
	const volatile FlrState *state = &entry->state;
	FlrBlockId	ends[2] = {state->runs.chain.first, state->runs.chain.last};

	if ((state->flags & FLR_STATE_CHAINED) == 0)
		return;
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

/* What few entries have; NULL when this one does not. */
static inline FlrExtra *
flr_entry_extra(const FlrEntry *entry)
{
	return (entry->state.owner & FLR_ENTRY_KEY_SIZE) != 0 ? NULL :
		(FlrExtra *) flr_block(flr_arena, entry->key.block);
}

/* What was refused or delayed of an entry. */
static inline const FlrExtra *
flr_entry_counts(const FlrEntry *entry)
{
	static const FlrExtra nothing;
	const FlrExtra *extra = flr_entry_extra(entry);

	return extra != NULL ? extra : &nothing;
}

/* The size of what is kept of an entry's key, 1 to FLR_KEY_SIZE. */
static inline int
flr_entry_key_size(const FlrEntry *entry)
{
	const FlrExtra *extra = flr_entry_extra(entry);

	return extra != NULL ? extra->key_size :
		entry->state.owner & FLR_ENTRY_KEY_SIZE;
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
		entry->id.limit == id->limit;
}

extern FlrBlockId flr_store_take_frames(uint32 n);
extern FlrEntry *flr_entry_find(FlrStripe *stripe, const FlrEntryId *id);
extern bool flr_stripe_make_room(FlrStripe *stripe);
extern FlrExtra *flr_entry_need_extra(FlrEntry *entry);
extern void flr_entry_drop(FlrStripe *stripe, FlrEntry *entry);
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
extern bool flr_store_find_memory(FlrShortage *shortage, int64 now);
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
