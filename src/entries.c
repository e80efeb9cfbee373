/*-------------------------------------------------------------------------
 *
 * entries.c
 *	  Stripes and the entries in them.
 *
 * Every function that takes a stripe expects it to be locked, with all memory
 * mapped, and neither raises nor allocates in the backend.  See store.h for the
 * locking protocol.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "store.h"


/*
 * How long a busy stripe is waited for actively: its holder needs well below
 * a microsecond, a sleep and a wake-up cost many.
 */
#define SPIN_TRIES		50
#define SPIN_DELAYS		100

/* Entries of a page on average, before there is another page. */
#define PAGE_USUAL		20

/* The most entries that one split of a page distributes. */
#define MAX_SPLIT		(4 * FLR_PAGE_SLOTS)

/* Entries that the creation of another looks at. */
#define SWEEP_ENTRIES	3

/*
 * Wait for a stripe that is locked: actively for a moment, then asleep.
 * Returns the elapsed time at which it was free.
 */
int64
flr_stripe_lock_busy(LWLock *lock)
{
	for (int try = 0; try < SPIN_TRIES; try++)
	{
		int64		now;

		for (int delay = 0; delay < SPIN_DELAYS; delay++)
			pg_spin_delay();
		now = flr_clock();
		if (LWLockConditionalAcquire(lock, LW_EXCLUSIVE))
			return now;
	}
	LWLockAcquire(lock, LW_EXCLUSIVE);
	return flr_clock();
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
		for (uint64 matches = flr_tag_matches(page, tag); matches != 0;
			 matches &= matches - 1)
		{
			uint32		slot = flr_slot_of_match(matches);
			FlrEntry   *entry;

			if (slot >= page->n)
				continue;
			entry = flr_entry(page->blocks[slot]);
			if (flr_entry_is(entry, id))
				return entry;
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
	FlrBlockId	block = flr_store_take_page();

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
 * Entries of a locked stripe move, some perhaps from before the hand to
 * behind it.  It goes on from where it is, but does not know any more
 * what it has passed.
 */
static inline void
lose_hand(FlrStripe *stripe)
{
	stripe->hand_expiry = PG_INT64_MIN;
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
				flr_arena->give(flr_arena, fresh);
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
	lose_hand(stripe);
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
	if (flr_entry_key_size(entry) > FLR_KEY_INLINE)
		flr_arena->give(flr_arena, entry->key.block);

	/* whoever remembers where it was does not take it for what it was */
	memset(&entry->id, 0, sizeof(FlrEntryId));
	flr_arena->give(flr_arena, block);
}

/* Show each entry of a locked stripe to the caller. */
void
flr_entries_visit(FlrStripe *stripe,
				  void (*visit) (FlrEntry *entry, void *arg), void *arg)
{
	for (uint32 number = 0; number < stripe->npages; number++)
	{
		const FlrPage *page = flr_page(stripe->pages[number]);

		for (;;)
		{
			for (uint32 slot = 0; slot < page->n; slot++)
				__builtin_prefetch(flr_entry(page->blocks[slot]));
			for (uint32 slot = 0; slot < page->n; slot++)
			{
				FlrEntry   *entry = flr_entry(page->blocks[slot]);

				Assert(entry->expiry >= stripe->quiet_until);
				visit(entry, arg);
			}
			if (page->more == 0)
				break;
			page = flr_page(page->more);
		}
	}
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
				const FlrEntry *entry = flr_entry(page->blocks[slot]);

				Assert(entry->expiry >= stripe->quiet_until);
				if (!doomed(entry, arg))
					continue;
				remove_entry(stripe, page, slot);
				removed++;
			}
			if (page->more == 0)
				break;
			page = flr_page(page->more);
		}
	}
	if (removed > 0)
		lose_hand(stripe);
	return removed;
}

/*
 * The hand has passed all entries of a locked stripe.  Where it knows when the
 * first of them expires, there is nothing to look for until then.
 */
static void
end_round(FlrStripe *stripe)
{
	stripe->quiet_until = stripe->hand_expiry;
	stripe->hand_expiry = PG_INT64_MAX;
	stripe->hand = 0;
	stripe->hand_slot = 0;
}

/*
 * Look at the next few entries of a locked stripe, where the last call
 * stopped, and free those that are worth nothing any more.
 */
static void
sweep_some(FlrStripe *stripe, int64 now)
{
	FlrPage    *page;
	uint32		before = 0;		/* entries in pages of the chain passed over */
	uint32		slot;
	int			freed = 0;

	if (stripe->hand >= stripe->npages)
	{
		end_round(stripe);
		return;
	}
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
	slot = stripe->hand_slot - before;
	for (uint32 i = slot; i < Min(slot + SWEEP_ENTRIES, page->n); i++)
		__builtin_prefetch(flr_entry(page->blocks[i]));
	for (int looks = 0; looks < SWEEP_ENTRIES && slot < page->n; looks++)
	{
		int64		expiry = flr_entry(page->blocks[slot])->expiry;

		if (expiry <= now)
		{
			/* the page's last entry moves here, and is the next to look at */
			remove_entry(stripe, page, slot);
			freed++;
			continue;
		}
		stripe->hand_expiry = Min(stripe->hand_expiry, expiry);
		slot++;
	}
	stripe->hand_slot = before + slot;
	if (freed > 0)
		pg_atomic_fetch_add_u64(&flr_store->swept, freed);
}

/*
 * Create an entry, which must not exist, in a locked stripe.  NULL when there
 * is no memory.  It begins with nothing spent, now as its last request, and the
 * earliest expiry that does not let it be swept at the same now, until
 * flr_entry_set_expiry() is called.
 */
FlrEntry *
flr_entry_create(FlrStripe *stripe, const FlrEntryId *id, FlrBlockId stats,
				 const char *key, int key_size, int64 now)
{
	if (now >= stripe->quiet_until)
		sweep_some(stripe, now);
	return flr_entry_add(stripe, id, stats, key, key_size, now);
}

/* The same, for one of many: without a look for expired entries. */
FlrEntry *
flr_entry_add(FlrStripe *stripe, const FlrEntryId *id, FlrBlockId stats,
			  const char *key, int key_size, int64 now)
{
	uint64		hash = flr_entry_hash(id);
	FlrBlockId	block;
	FlrBlockId	key_block = 0;
	FlrEntry   *entry;

	if (stripe->nentries >= stripe->npages * PAGE_USUAL)
		add_page(stripe);
	if (stripe->npages == 0)
		return NULL;
	block = flr_arena->take(flr_arena);
	if (block == 0)
		return NULL;
	if (key_size > FLR_KEY_INLINE)
		key_block = flr_arena->take(flr_arena);
	if ((key_size > FLR_KEY_INLINE && key_block == 0) ||
		!put_into_page(stripe->pages[flr_page_of(stripe, hash)],
					   flr_tag_of(hash), block))
	{
		if (key_block != 0)
			flr_arena->give(flr_arena, key_block);
		flr_arena->give(flr_arena, block);
		return NULL;
	}

	entry = flr_entry(block);
	memset(entry, 0, sizeof(FlrEntry));
	entry->id = *id;
	entry->stats = stats;
	entry->expiry = now + 1;
	entry->last_request = now;
	entry->state.owner = key_size - 1;
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
 * locked stripe.  Who creates an entry calls this before the stripe is unlocked;
 * later instants can just be written.
 */
void
flr_entry_set_expiry(FlrEntry *entry, int64 expiry)
{
	FlrStripe  *stripe = flr_stripe(flr_stripe_of(entry->id.subject));

	entry->expiry = expiry;
	stripe->quiet_until = Min(stripe->quiet_until, expiry);
	stripe->hand_expiry = Min(stripe->hand_expiry, expiry);
	lower_sweep_again(expiry);
}

/*
 * The same, after something was taken out of what was spent.  An entry that may
 * have a saved copy keeps its expiry, for the copy to be overwritten before
 * the entry is swept.
 */
void
flr_entry_lower_expiry(FlrEntry *entry, int64 expiry)
{
	if (!entry->has_copy)
		flr_entry_set_expiry(entry, expiry);
}

/* Copy what is kept of an entry's key, as many bytes as its size says. */
void
flr_entry_key(const FlrEntry *entry, char *text)
{
	int			size = flr_entry_key_size(entry);

	memcpy(text, size > FLR_KEY_INLINE ?
		   (const char *) flr_block(flr_arena, entry->key.block) :
		   entry->key.text,
		   size);
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
	int64		next_expiry = PG_INT64_MAX;
	int64		freed = 0;

	/* the maximum stands while somebody is at it: then help */
	if (now < again && again != PG_INT64_MAX)
		return 0;
	pg_atomic_write_u64(&flr_store->sweep_again, PG_INT64_MAX);
	for (uint32 i = 0; i < FLR_STRIPES; i++)
	{
		FlrStripe  *stripe = flr_stripe(i);
		Sweep		sweep = {now, PG_INT64_MAX};

		flr_stripe_lock(i);
		if (flr_store_is_mapped())
		{
			freed += flr_entries_remove(stripe, has_expired, &sweep);
			stripe->hand_expiry = sweep.next_expiry;
			end_round(stripe);
		}
		else
			sweep.next_expiry = now;
		flr_stripe_unlock(i);
		next_expiry = Min(next_expiry, sweep.next_expiry);
		if (INTERRUPTS_PENDING_CONDITION())
		{
			lower_sweep_again(now);
			CHECK_FOR_INTERRUPTS();
		}
	}
	/* entries made meanwhile may have lowered it already */
	lower_sweep_again(next_expiry);
	pg_atomic_fetch_add_u64(&flr_store->swept, freed);
	return freed;
}
