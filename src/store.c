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

#include <sys/mman.h>

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
#define FLR_LAYOUT_VERSION	3
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
#define FRAME_SIZE		((size_t) FLR_FRAME_BLOCKS * FLR_BLOCK_SIZE)
#define STORE_SIZE		TYPEALIGN(FRAME_SIZE, sizeof(FlrStore))

/* Slabs: the usual size, the least worth taking, the most that has names. */
#define USUAL_SLAB		((size_t) 1024 * 1024)
#define MIN_SLAB		((size_t) 128 * 1024)
#define MAX_SLAB		((size_t) FLR_SLAB_BLOCKS * FLR_BLOCK_SIZE)

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
	{
		FlrStripe  *stripe = &store->stripes[i].stripe;

		LWLockInitialize(&stripe->lock, control->tranche);
		stripe->quiet_until = PG_INT64_MAX;
		stripe->hand_expiry = PG_INT64_MAX;
	}
}

/* Put a block into the list of free ones; pool_lock is held. */
static inline void
put_free(FlrStore *store, FlrBlockId block)
{
	*(FlrBlockId *) flr_block(flr_arena, block) = store->free;
	store->free = block;
}

/*
 * Make so many bytes at the start of a slab, number n, available as frames.
 * What is left of the slab before serves as blocks.
 */
static void
open_slab(FlrStore *store, uint32 n, size_t size)
{
	uint32		nblocks = size / FRAME_SIZE * FLR_FRAME_BLOCKS;

	SpinLockAcquire(&store->pool_lock);
	if (store->frame < store->frame_end)
	{
		/* those of the frame that was being cut are few */
		while (store->fresh < store->fresh_end)
			put_free(store, store->fresh++);
		store->fresh = store->frame;
		store->fresh_end = store->frame_end;
	}
	store->frame = n << FLR_SLAB_SHIFT;
	store->frame_end = store->frame + nblocks;
	store->nfree += nblocks;
	if (n == 0)
	{
		/* block 0 names no block */
		store->fresh = 1;
		store->fresh_end = store->frame = FLR_FRAME_BLOCKS;
		store->nfree--;
	}
	pg_write_barrier();
	pg_atomic_write_u32(&store->nslabs, n + 1);
	SpinLockRelease(&store->pool_lock);
}

/*
 * Have this process's page tables filled for a segment in one go.  Where the
 * system cannot, each first touch of a page is a page fault, as ever.
 */
static void
populate(dsm_segment *segment)
{
#ifdef MADV_POPULATE_WRITE
	(void) madvise(dsm_segment_address(segment),
				   dsm_segment_map_length(segment), MADV_POPULATE_WRITE);
#endif
}

/*
 * Count that a check is about to use a slab that this backend has rarely used
 * yet, and populate it when that happens often enough.  A backend with few
 * checks does not pay for a store of many slabs; a busy one does not fault its
 * way through them.  No lock of ours may be held.
 */
void
flr_store_use_slab(uint32 slab)
{
	dsm_segment *segment;

	if (++flr_local.uses[slab] < FLR_POPULATE_AT)
		return;
	segment = dsm_find_mapping(flr_store->slabs[slab]);
	if (segment != NULL)
		populate(segment);
}

/*
 * Attach to a segment for as long as this backend lives, and note its end.
 * Raises when it is gone, which only a reset of shared memory can bring about.
 */
static void *
attach_segment(dsm_handle handle, char **end)
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
	*end = (char *) dsm_segment_address(segment) +
		dsm_segment_map_length(segment);
	return dsm_segment_address(segment);
}

/*
 * Make a segment that outlives us; NULL when there are too many of them.  This
 * backend is about to fill it, so its pages had better be there.
 */
static dsm_segment *
make_segment(size_t size)
{
	dsm_segment *segment = dsm_create(size, DSM_CREATE_NULL_IF_MAXSEGMENTS);

	if (segment != NULL)
	{
		dsm_pin_segment(segment);
		dsm_pin_mapping(segment);
		populate(segment);
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
		flr_local.ends[0] = (char *) store + FIRST_SEGMENT;
		control->store = store->slabs[0];
		made = true;
	}
	else
		store = attach_segment(control->store, &flr_local.ends[0]);
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
			attach_segment(flr_store->slabs[flr_local.nslabs],
						   &flr_local.ends[flr_local.nslabs]);
		flr_local.nslabs++;
	}
	return true;
}

/* How many free blocks grow_step() is to see to, and whether as frames. */
static uint32 grow_wanted;
static bool grow_frames;

/* Has the pool what grow_step() is to see to? */
static bool
has_wanted(const FlrStore *store)
{
	return (grow_frames ? store->frame_end - store->frame : store->nfree) >=
		grow_wanted;
}

/*
 * try_memory() step: add a slab if the pool has not what is wanted.
 * False: max_memory is reached, or there can be no more segments.
 */
static bool
grow_step(void)
{
	FlrStore   *store = flr_store;
	size_t		limit = (size_t) flr_max_memory * 1024;
	size_t		largest = Min(Max(limit / 64, USUAL_SLAB), MAX_SLAB);
	size_t		size = Min(Max(store->committed / 48, USUAL_SLAB), largest);
	bool		done = true;
	uint32		n;

	LWLockAcquire(&store->grow_lock, LW_EXCLUSIVE);
	n = pg_atomic_read_u32(&store->nslabs);

	/* another backend may have been faster; then look again first */
	if (!has_wanted(store) && n == flr_local.nslabs)
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
				store->at_limit = false;
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

/* try_memory() step: find or make the control struct. */
static bool
control_step(void)
{
	control = flr_named_segment(CONTROL_NAME, sizeof(FlrControl),
								init_control);
	return true;
}

/* flr_store_attach() for the first time in this backend. */
bool
flr_store_first_attach(void)
{
	if (control == NULL && !try_memory(control_step))
		return false;
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

/* Grow, and note if the store cannot. */
static bool
grow(uint32 wanted, bool frames)
{
	uint32		nslabs = pg_atomic_read_u32(&flr_store->nslabs);
	bool		done;

	grow_wanted = wanted;
	grow_frames = frames;
	done = try_memory(grow_step);

	/* unless another backend could, whose max_memory is a newer one */
	if (!done && pg_atomic_read_u32(&flr_store->nslabs) == nslabs)
		flr_store->at_limit = true;
	return done;
}

/* There may be more memory than when an attempt to grow failed. */
void
flr_store_try_again(void)
{
	if (flr_local.attached)
		flr_store->at_limit = false;
}

/*
 * See to it that the pool has so many blocks.  No stripe may be locked.
 * False: the store has reached max_memory, or the system has no more.
 */
bool
flr_store_grow(uint32 wanted)
{
	return grow(wanted, false);
}

/*
 * See to it that the pool has room for pages with places, if the store can still
 * grow; if not, there will be no more of them.  No stripe may be locked.
 */
void
flr_store_grow_frames(void)
{
	flr_store->wants_frame = false;
	if (!flr_store->at_limit && flr_store_map())
		(void) grow(FLR_EXTENT_PAGES * FLR_FRAME_BLOCKS, true);
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
	else
	{
		if (store->fresh == store->fresh_end && store->frame < store->frame_end)
		{
			store->fresh = store->frame;
			store->frame += FLR_FRAME_BLOCKS;
			store->fresh_end = store->frame;
		}
		if (store->fresh < store->fresh_end &&
			(store->fresh >> FLR_SLAB_SHIFT) < nslabs)
		{
			block = store->fresh++;
			store->nfree--;
		}
	}
	SpinLockRelease(&store->pool_lock);
	return block;
}

/*
 * Take so many frames that follow each other out of the pool; 0 when there are
 * none that are mapped here.
 */
FlrBlockId
flr_store_take_frames(uint32 n)
{
	FlrStore   *store = flr_store;
	FlrBlockId	block = 0;

	SpinLockAcquire(&store->pool_lock);
	if (store->frame_end - store->frame >= n * FLR_FRAME_BLOCKS &&
		(store->frame >> FLR_SLAB_SHIFT) < flr_local.nslabs)
	{
		block = store->frame;
		store->frame += n * FLR_FRAME_BLOCKS;
		store->nfree -= n * FLR_FRAME_BLOCKS;
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
	put_free(store, block);
	store->nfree++;
	SpinLockRelease(&store->pool_lock);
}
