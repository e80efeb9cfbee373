/*-------------------------------------------------------------------------
 *
 * store.c
 *	  Shared memory for counters: blocks, stripes, entries, statistics.
 *
 * See store.h for the layout and the locking protocol.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "settings.h"
#include "store.h"

#define CONTROL_NAME	"fliplet_ratelimit"
#define CONTROL_MAGIC	0x666c7231

/* Raised with every change of what lies in shared memory. */
#ifndef FLR_LAYOUT_VERSION
#define FLR_LAYOUT_VERSION	1
#endif

/*
 * The way in.  Its size must never change: an older library's store is told
 * from ours by magic and layout, and a second store must not appear.
 */
typedef struct FlrControl
{
	uint32		magic;
	uint32		layout;
	LWLock		lock;			/* while the store is made */
	int			tranche;
	uint32		has_store;
	dsm_handle	store;			/* valid if has_store */
	char		reserved[20];
} FlrControl;

/* The first segment holds the store and a first slab. */
#define FIRST_SEGMENT	((size_t) 1024 * 1024)
#define STORE_SIZE		TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(FlrStore))

/* Slabs: the usual size, the least worth taking, the most that has names. */
#define USUAL_SLAB		((size_t) 1024 * 1024)
#define MIN_SLAB		((size_t) 128 * 1024)
#define MAX_SLAB		((size_t) FLR_SLAB_BLOCKS * FLR_BLOCK_SIZE)

/*
 * How long a busy stripe is waited for actively: its holder needs well below
 * a microsecond, a sleep and a wake-up cost many.
 */
#define SPIN_TRIES		100
#define SPIN_DELAYS		20

/* Entries of a page on average, before there is another page. */
#define PAGE_USUAL		20

/* The most entries that one split of a page distributes. */
#define MAX_SPLIT		(4 * FLR_PAGE_SLOTS)

/* Entries that the creation of another looks at. */
#define SWEEP_ENTRIES	3

FlrLocal	flr_local;

static FlrControl *control = NULL;

static FlrBlockId pool_take(FlrArena *arena);
static void pool_give(FlrArena *arena, FlrBlockId block);

/* ------------------------------------------------------------------------
 * Attaching and growing
 * ------------------------------------------------------------------------
 */

/*
 * Run a step that takes or maps shared memory.  True when it succeeded, false
 * when the system had no memory to give; any other error goes on.
 *
 * The step may raise with locks held, its own among them, so it runs in a
 * subtransaction, whose abort releases them.
 */
static bool
try_memory(bool (*step) (void))
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool done = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(TopMemoryContext);
	PG_TRY();
	{
		done = step();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) !=
			ERRCODE_INSUFFICIENT_RESOURCES)
			ReThrowError(error);
		ereport(DEBUG1,
				(errcode(error->sqlerrcode),
				 errmsg_internal("fliplet_ratelimit: no shared memory: %s",
								 error->message)));
		FreeErrorData(error);
		done = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return done;
}

/* Make the control struct of a fresh piece of shared memory. */
static void
init_control(void *segment)
{
	FlrControl *fresh = segment;

	memset(fresh, 0, sizeof(FlrControl));
	fresh->magic = CONTROL_MAGIC;
	fresh->layout = FLR_LAYOUT_VERSION;
	fresh->tranche = LWLockNewTrancheId();
	LWLockInitialize(&fresh->lock, fresh->tranche);
}

/* Fill in a zeroed store. */
static void
init_store(FlrStore *store)
{
	SpinLockInit(&store->pool_lock);
	pg_atomic_init_u32(&store->nslabs, 0);
	LWLockInitialize(&store->grow_lock, control->tranche);
	LWLockInitialize(&store->stats_lock, control->tranche);
	store->committed = FIRST_SEGMENT;
	pg_atomic_init_u64(&store->swept, 0);
	pg_atomic_init_u64(&store->refused_full, 0);
	pg_atomic_init_u64(&store->sweep_again, 0);
	pg_atomic_init_u32(&store->waiters, 0);
	store->since = GetCurrentTimestamp();
	for (int i = 0; i < FLR_STRIPES; i++)
		LWLockInitialize(&store->stripes[i].stripe.lock, control->tranche);
}

/*
 * Make so many bytes at the start of a slab, number n, available as blocks.
 * What is left of the slab before goes to the list of free blocks.
 */
static void
open_slab(FlrStore *store, uint32 n, size_t size)
{
	SpinLockAcquire(&store->pool_lock);
	while (store->fresh < store->fresh_end)
	{
		FlrBlockId	block = store->fresh++;

		*(FlrBlockId *) flr_block(flr_arena, block) = store->free;
		store->free = block;
	}
	/* block 0 names no block */
	store->fresh = (n << FLR_SLAB_SHIFT) + (n == 0 ? 1 : 0);
	store->fresh_end = (n << FLR_SLAB_SHIFT) + size / FLR_BLOCK_SIZE;
	store->nfree += store->fresh_end - store->fresh;
	pg_write_barrier();
	pg_atomic_write_u32(&store->nslabs, n + 1);
	SpinLockRelease(&store->pool_lock);
}

/*
 * Attach to a segment for as long as this backend lives.  NULL when it is
 * gone, which only a reset of shared memory can bring about.
 */
static void *
attach_segment(dsm_handle handle)
{
	dsm_segment *segment = dsm_find_mapping(handle);

	if (segment == NULL)
	{
		segment = dsm_attach(handle);
		if (segment == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the shared memory of rate limit counters is gone")));
		dsm_pin_mapping(segment);
	}
	return dsm_segment_address(segment);
}

/* Make a segment that outlives us; NULL when there are too many of them. */
static dsm_segment *
make_segment(size_t size)
{
	dsm_segment *segment = dsm_create(size, DSM_CREATE_NULL_IF_MAXSEGMENTS);

	if (segment != NULL)
	{
		dsm_pin_segment(segment);
		dsm_pin_mapping(segment);
	}
	return segment;
}

/* try_memory() step: attach to the store, and make it if there is none. */
static bool
attach_step(void)
{
	FlrStore   *store;
	bool		made = false;

	LWLockAcquire(&control->lock, LW_EXCLUSIVE);
	if (!control->has_store)
	{
		dsm_segment *segment = make_segment(FIRST_SEGMENT);

		if (segment == NULL)
		{
			LWLockRelease(&control->lock);
			return false;
		}
		store = dsm_segment_address(segment);
		memset(store, 0, sizeof(FlrStore));
		init_store(store);
		store->slabs[0] = dsm_segment_handle(segment);
		control->store = store->slabs[0];
		made = true;
	}
	else
		store = attach_segment(control->store);
	flr_local.slabs[0] = (char *) store + STORE_SIZE;
	flr_local.nslabs = 1;
	flr_local.store = store;
	if (made)
	{
		open_slab(store, 0, FIRST_SEGMENT - STORE_SIZE);
		control->has_store = 1;
	}
	LWLockRelease(&control->lock);
	return true;
}

/* try_memory() step: map the slabs that are not mapped yet. */
static bool
map_step(void)
{
	uint32		n = pg_atomic_read_u32(&flr_store->nslabs);

	pg_read_barrier();
	while (flr_local.nslabs < n)
	{
		flr_local.slabs[flr_local.nslabs] =
			attach_segment(flr_store->slabs[flr_local.nslabs]);
		flr_local.nslabs++;
	}
	return true;
}

/* How many free blocks grow_step() is to see to. */
static uint32 grow_wanted;

/*
 * try_memory() step: add a slab if the pool has fewer than grow_wanted blocks.
 * False: max_memory is reached, or there can be no more segments.
 */
static bool
grow_step(void)
{
	FlrStore   *store = flr_store;
	size_t		limit = (size_t) flr_max_memory * 1024;
	size_t		largest = Min(Max(limit / 64, USUAL_SLAB), MAX_SLAB);
	size_t		size = Min(Max(store->committed / 32, USUAL_SLAB), largest);
	bool		done = true;
	uint32		n;

	LWLockAcquire(&store->grow_lock, LW_EXCLUSIVE);
	n = pg_atomic_read_u32(&store->nslabs);

	/* another backend may have been faster; then look again first */
	if (store->nfree < grow_wanted && n == flr_local.nslabs)
	{
		size -= size % BLCKSZ;
		while (size >= MIN_SLAB && store->committed + size > limit)
			size /= 2;
		done = false;
		if (size >= MIN_SLAB && n < FLR_MAX_SLABS)
		{
			dsm_segment *segment = make_segment(size);

			if (segment != NULL)
			{
				store->slabs[n] = dsm_segment_handle(segment);
				store->committed += size;
				open_slab(store, n, size);
				done = true;
			}
		}
	}
	LWLockRelease(&store->grow_lock);
	return done;
}

/* Raise an error if the store is the work of another version. */
static void
check_layout(void)
{
	if (control->magic == CONTROL_MAGIC &&
		control->layout == FLR_LAYOUT_VERSION)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the counters in shared memory belong to another version of fliplet_ratelimit"),
			 errdetail("The library has layout version %u, shared memory has layout version %u.",
					   FLR_LAYOUT_VERSION, control->layout),
			 errhint("Restart the server to begin with empty counters of the new version.")));
}

/* flr_store_attach() for the first time in this backend. */
bool
flr_store_first_attach(void)
{
	if (control == NULL)
		control = flr_named_segment(CONTROL_NAME, sizeof(FlrControl),
									init_control);
	check_layout();
	LWLockRegisterTranche(control->tranche, CONTROL_NAME);
	flr_local.arena.slabs = flr_local.slabs;
	flr_local.arena.take = pool_take;
	flr_local.arena.give = pool_give;
	flr_local.attached = try_memory(attach_step);
	return flr_local.attached;
}

/* flr_store_map() when there is something to map. */
bool
flr_store_map_more(void)
{
	return try_memory(map_step);
}

/*
 * Map what there is to map while an error is being handled or the backend
 * exits, where no subtransaction can be started.  Raises if that fails.
 */
void
flr_store_map_now(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	(void) map_step();
	MemoryContextSwitchTo(old);
}

/*
 * See to it that the pool has so many blocks.  No stripe may be locked.
 * False: the store has reached max_memory, or the system has no more.
 */
bool
flr_store_grow(uint32 wanted)
{
	grow_wanted = wanted;
	return try_memory(grow_step);
}

/* ------------------------------------------------------------------------
 * The pool
 * ------------------------------------------------------------------------
 */

/* Take a block out of the pool; 0 when there is none that is mapped here. */
static FlrBlockId
pool_take(FlrArena *arena)
{
	FlrStore   *store = ((FlrLocal *) arena)->store;
	uint32		nslabs = ((FlrLocal *) arena)->nslabs;
	FlrBlockId	block;

	SpinLockAcquire(&store->pool_lock);
	block = store->free;
	if (block != 0)
	{
		if ((block >> FLR_SLAB_SHIFT) < nslabs)
		{
			store->free = *(FlrBlockId *) flr_block(arena, block);
			store->nfree--;
		}
		else
			block = 0;
	}
	else if (store->fresh < store->fresh_end &&
			 (store->fresh >> FLR_SLAB_SHIFT) < nslabs)
	{
		block = store->fresh++;
		store->nfree--;
	}
	SpinLockRelease(&store->pool_lock);
	return block;
}

/* Put a block back into the pool. */
static void
pool_give(FlrArena *arena, FlrBlockId block)
{
	FlrStore   *store = ((FlrLocal *) arena)->store;

	SpinLockAcquire(&store->pool_lock);
	*(FlrBlockId *) flr_block(arena, block) = store->free;
	store->free = block;
	store->nfree++;
	SpinLockRelease(&store->pool_lock);
}

/* ------------------------------------------------------------------------
 * Stripes and entries
 * ------------------------------------------------------------------------
 */

/* Wait for a stripe that is locked: actively for a moment, then asleep. */
void
flr_stripe_lock_busy(LWLock *lock)
{
	for (int try = 0; try < SPIN_TRIES; try++)
	{
		for (int delay = 0; delay < SPIN_DELAYS; delay++)
			pg_spin_delay();
		if (LWLockConditionalAcquire(lock, LW_EXCLUSIVE))
			return;
	}
	LWLockAcquire(lock, LW_EXCLUSIVE);
}

/* Find an entry of a locked stripe; NULL when there is none. */
FlrEntry *
flr_entry_find(FlrStripe *stripe, const FlrEntryId *id)
{
	uint64		hash = flr_entry_hash(id);
	uint8		tag = flr_tag_of(hash);
	FlrPage    *page;

	if (stripe->npages == 0)
		return NULL;
	page = flr_page(stripe->pages[flr_page_of(stripe, hash)]);
	for (;;)
	{
		for (uint32 first = 0; first < page->n; first += 8)
		{
			uint64		matches = flr_tag_matches(page, first, tag);

			for (; matches != 0; matches &= matches - 1)
			{
				uint32		slot = first +
				pg_rightmost_one_pos64(matches) / 8;
				FlrEntry   *entry;

				if (slot >= page->n)
					break;
				entry = flr_entry(page->blocks[slot]);
				if (flr_entry_is(entry, id))
					return entry;
			}
		}
		if (page->more == 0)
			return NULL;
		page = flr_page(page->more);
	}
}

/* Take an empty page out of the pool; 0 when there is no memory. */
static FlrBlockId
take_page(void)
{
	FlrBlockId	block = pool_take(flr_arena);

	if (block != 0)
		memset(flr_block(flr_arena, block), 0, FLR_BLOCK_SIZE);
	return block;
}

/*
 * Put an entry's block into a page, or into one that the page refers to; if
 * all are full, into another one.  False: no memory for that.
 */
static bool
put_into_page(FlrBlockId block, uint8 tag, FlrBlockId entry)
{
	FlrPage    *page = flr_page(block);

	while (page->n == FLR_PAGE_SLOTS)
	{
		if (page->more == 0)
			page->more = take_page();
		if (page->more == 0)
			return false;
		page = flr_page(page->more);
	}
	page->tags[page->n] = tag;
	page->blocks[page->n] = entry;
	page->n++;
	return true;
}

/*
 * Give a locked stripe one more page: the next one in line takes its share of
 * the one it belongs to.  Where there is no memory, or too much to do at
 * once, pages just get longer.
 */
static void
add_page(FlrStripe *stripe)
{
	uint32		number = stripe->npages;
	uint32		mask = number > stripe->mask ? stripe->mask * 2 + 1 :
	stripe->mask;
	uint8		tags[MAX_SPLIT];
	FlrBlockId	blocks[MAX_SPLIT];
	FlrBlockId	fresh;
	FlrBlockId	from;
	FlrPage    *page;
	uint32		n = 0;

	if (number >= FLR_STRIPE_PAGES)
		return;
	if (number == 0)
	{
		stripe->pages[0] = take_page();
		stripe->npages = stripe->pages[0] != 0;
		return;
	}

	from = stripe->pages[number & (mask >> 1)];
	for (page = flr_page(from);; page = flr_page(page->more))
	{
		if (n + page->n > MAX_SPLIT)
			return;
		for (uint32 i = 0; i < page->n; i++)
		{
			__builtin_prefetch(flr_entry(page->blocks[i]));
			tags[n] = page->tags[i];
			blocks[n++] = page->blocks[i];
		}
		if (page->more == 0)
			break;
	}

	/* as many pages as there are now are enough for either half */
	fresh = take_page();
	if (fresh == 0)
		return;
	for (uint32 i = FLR_PAGE_SLOTS; i < n; i += FLR_PAGE_SLOTS)
	{
		FlrBlockId	more = take_page();

		if (more == 0)
		{
			while (fresh != 0)
			{
				more = flr_page(fresh)->more;
				pool_give(flr_arena, fresh);
				fresh = more;
			}
			return;
		}
		flr_page(more)->more = fresh;
		fresh = more;
	}

	stripe->mask = mask;
	stripe->pages[number] = fresh;
	stripe->npages = number + 1;
	for (page = flr_page(from);; page = flr_page(page->more))
	{
		page->n = 0;
		if (page->more == 0)
			break;
	}
	for (uint32 i = 0; i < n; i++)
	{
		uint64		hash = flr_entry_hash(&flr_entry(blocks[i])->id);
		bool		put PG_USED_FOR_ASSERTS_ONLY;

		put = put_into_page(flr_page_of(stripe, hash) == number ?
							fresh : from, tags[i], blocks[i]);
		Assert(put);
	}
}

/* Add to, or take from, the number of keys in an entry's statistics. */
static inline void
count_key(const FlrEntry *entry, int64 by)
{
	if (entry->stats != 0)
		pg_atomic_fetch_add_u64(&flr_stats(entry->stats)->keys, by);
}

/*
 * Free the entry in a slot of a page of a locked stripe.  The page's last
 * entry moves into the slot.
 */
static void
remove_entry(FlrStripe *stripe, FlrPage *page, uint32 slot)
{
	FlrBlockId	block = page->blocks[slot];
	FlrEntry   *entry = flr_entry(block);

	page->n--;
	page->blocks[slot] = page->blocks[page->n];
	page->tags[slot] = page->tags[page->n];
	count_key(entry, -1);
	stripe->nentries--;
	flr_record_clear(flr_arena, &entry->state);
	if (entry->state.owner > FLR_KEY_INLINE)
		pool_give(flr_arena, entry->key.block);

	/* whoever remembers where it was does not take it for what it was */
	memset(&entry->id, 0, sizeof(FlrEntryId));
	pool_give(flr_arena, block);
}

/* Remove the entries of a locked stripe that the caller wants removed. */
int
flr_entries_remove(FlrStripe *stripe,
				   bool (*doomed) (const FlrEntry *entry, const void *arg),
				   const void *arg)
{
	int			removed = 0;

	for (uint32 number = 0; number < stripe->npages; number++)
	{
		FlrPage    *page = flr_page(stripe->pages[number]);

		for (;;)
		{
			for (uint32 slot = 0; slot < page->n; slot++)
				__builtin_prefetch(flr_entry(page->blocks[slot]));
			for (uint32 slot = page->n; slot-- > 0;)
			{
				if (!doomed(flr_entry(page->blocks[slot]), arg))
					continue;
				remove_entry(stripe, page, slot);
				removed++;
			}
			if (page->more == 0)
				break;
			page = flr_page(page->more);
		}
	}
	return removed;
}

/*
 * Look at the next few entries of a locked stripe, where the last call
 * stopped, and free those that are worth nothing any more.
 */
static void
sweep_some(FlrStripe *stripe, int64 now)
{
	int			freed = 0;
	FlrPage    *page;
	uint32		before = 0;		/* entries in pages of the chain passed over */
	uint32		first;
	uint32		end;

	if (stripe->npages == 0)
		return;
	if (stripe->hand >= stripe->npages)
		stripe->hand = 0;
	page = flr_page(stripe->pages[stripe->hand]);
	while (page->n <= stripe->hand_slot - before)
	{
		before += page->n;
		if (page->more == 0)
		{
			stripe->hand++;
			stripe->hand_slot = 0;
			return;
		}
		page = flr_page(page->more);
	}
	first = stripe->hand_slot - before;
	end = Min(first + SWEEP_ENTRIES, page->n);
	for (uint32 slot = first; slot < end; slot++)
		__builtin_prefetch(flr_entry(page->blocks[slot]));
	for (uint32 slot = end; slot-- > first;)
	{
		if (flr_entry(page->blocks[slot])->expiry > now)
			continue;
		remove_entry(stripe, page, slot);
		freed++;
	}
	stripe->hand_slot = before + end - freed;
	if (freed > 0)
		pg_atomic_fetch_add_u64(&flr_store->swept, freed);
}

/*
 * Create an entry, which must not exist, in a locked stripe.  NULL when there
 * is no memory.  It begins with nothing spent and the earliest expiry that
 * does not let it be swept at the same now.
 */
FlrEntry *
flr_entry_create(FlrStripe *stripe, const FlrEntryId *id, FlrBlockId stats,
				 const char *key, int key_size, int64 now)
{
	uint64		hash = flr_entry_hash(id);
	FlrBlockId	block;
	FlrBlockId	key_block = 0;
	FlrEntry   *entry;

	sweep_some(stripe, now);
	if (stripe->nentries >= stripe->npages * PAGE_USUAL)
		add_page(stripe);
	if (stripe->npages == 0)
		return NULL;
	block = pool_take(flr_arena);
	if (block == 0)
		return NULL;
	if (key_size > FLR_KEY_INLINE)
		key_block = pool_take(flr_arena);
	if ((key_size > FLR_KEY_INLINE && key_block == 0) ||
		!put_into_page(stripe->pages[flr_page_of(stripe, hash)],
					   flr_tag_of(hash), block))
	{
		if (key_block != 0)
			pool_give(flr_arena, key_block);
		pool_give(flr_arena, block);
		return NULL;
	}

	entry = flr_entry(block);
	memset(entry, 0, sizeof(FlrEntry));
	entry->id = *id;
	entry->stats = stats;
	entry->expiry = now + 1;
	entry->state.owner = key_size;
	if (key_block != 0)
	{
		entry->key.block = key_block;
		memcpy(flr_block(flr_arena, key_block), key, key_size);
	}
	else
		memcpy(entry->key.text, key, key_size);
	stripe->nentries++;
	count_key(entry, 1);
	return entry;
}

/* Have the next sweep of the whole store look at what expires then. */
static void
lower_sweep_again(int64 expiry)
{
	uint64		old = pg_atomic_read_u64(&flr_store->sweep_again);

	while (expiry < (int64) old &&
		   !pg_atomic_compare_exchange_u64(&flr_store->sweep_again, &old,
										   (uint64) expiry))
		;
}

/*
 * Set an entry's expiry to an instant that may lie before the old one, in a
 * locked stripe.
 */
void
flr_entry_set_expiry(FlrEntry *entry, int64 expiry)
{
	entry->expiry = expiry;
	lower_sweep_again(expiry);
}

/* Copy what is kept of an entry's key, as many bytes as its size says. */
void
flr_entry_key(const FlrEntry *entry, char *text)
{
	memcpy(text, entry->state.owner > FLR_KEY_INLINE ?
		   (const char *) flr_block(flr_arena, entry->key.block) :
		   entry->key.text,
		   entry->state.owner);
}

/* What a sweep of a whole stripe wants to know, and learns. */
typedef struct Sweep
{
	int64		now;
	int64		next_expiry;	/* the earliest among those that stay */
} Sweep;

/* flr_entries_remove() callback: has this entry expired? */
static bool
has_expired(const FlrEntry *entry, const void *arg)
{
	Sweep	   *sweep = unconstify(Sweep *, (const Sweep *) arg);

	if (entry->expiry <= sweep->now)
		return true;
	sweep->next_expiry = Min(sweep->next_expiry, entry->expiry);
	return false;
}

/*
 * Free every expired entry of the store, one stripe after the other; no
 * stripe may be locked.  Does nothing when the last such walk has shown that
 * there can be none yet.  Returns how many were freed.
 */
int64
flr_store_sweep(int64 now)
{
	int64		again = (int64) pg_atomic_read_u64(&flr_store->sweep_again);
	Sweep		sweep = {now, PG_INT64_MAX};
	int64		freed = 0;

	/* the maximum stands while somebody is at it: then help */
	if (now < again && again != PG_INT64_MAX)
		return 0;
	pg_atomic_write_u64(&flr_store->sweep_again, PG_INT64_MAX);
	for (uint32 i = 0; i < FLR_STRIPES; i++)
	{
		flr_stripe_lock(i);
		if (flr_store_is_mapped())
			freed += flr_entries_remove(flr_stripe(i), has_expired, &sweep);
		else
			sweep.next_expiry = now;
		flr_stripe_unlock(i);
		if (INTERRUPTS_PENDING_CONDITION())
		{
			lower_sweep_again(now);
			CHECK_FOR_INTERRUPTS();
		}
	}
	/* entries made meanwhile may have lowered it already */
	lower_sweep_again(sweep.next_expiry);
	pg_atomic_fetch_add_u64(&flr_store->swept, freed);
	return freed;
}

/* ------------------------------------------------------------------------
 * Statistics
 * ------------------------------------------------------------------------
 */

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

/*
 * Find or make the statistics of a limit's name in this backend's lane; 0
 * when there is no memory, and then nothing is counted.  No stripe may be
 * locked, and all slabs must be mapped.
 */
FlrBlockId
flr_stats_find(Oid relation, uint64 name_hash)
{
	FlrStore   *store = flr_store;
	uint32		lane = Min((uint32) flr_proc_number(), FLR_STATS_LANES);
	FlrBlockId	block;

	LWLockAcquire(&store->stats_lock, LW_EXCLUSIVE);
	block = flr_store_is_mapped() ?
		find_stats(relation, name_hash, lane) : 0;
	if (block == 0 && flr_store_is_mapped())
	{
		block = pool_take(flr_arena);
		if (block != 0)
		{
			FlrStats   *stats = flr_stats(block);
			FlrBlockId *head = &store->stats[name_hash % FLR_STATS_HEADS];

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
	}
	LWLockRelease(&store->stats_lock);
	return block;
}

/* Call a function for all statistics of this database, with stats_lock held. */
void
flr_stats_walk(void (*visit) (FlrStats *stats, void *arg), void *arg)
{
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
	for (int i = 0; i < FLR_STATS_HEADS; i++)
		for (FlrBlockId block = flr_store->stats[i]; block != 0;
			 block = flr_stats(block)->next)
			if (flr_stats(block)->database == MyDatabaseId)
				visit(flr_stats(block), arg);
	LWLockRelease(&flr_store->stats_lock);
}
