/*-------------------------------------------------------------------------
 *
 * entries.c
 *	  Stripes and the entries in them.
 *
 * Entries move: flr_stripe_make_room() may move any entry of its stripe, and
 * nothing else moves one.  Whoever keeps a pointer to an entry beyond its lock asks
 * flr_entry_is() before using it again.
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
#define PAGE_USUAL		25

/* Entries of a stripe's first page, before it gets places. */
#define BARE_USUAL		10

/* The most entries that are moved from one page to another at once. */
#define MAX_MOVED		16384

/* With fewer free blocks a store that cannot grow gets no more pages. */
#define SPLIT_BLOCKS	(3 * FLR_PAGE_PLACES)

/* So many entries more are waited for where a page could not be had. */
#define SPLIT_LATER		(PAGE_USUAL / 2)

/* Tags that are looked at before the others: FLR_PAGE_TRIES, and what is cheap. */
#define FIRST_TAGS		8

/* A page's positions: its tags, then the entries that are spilled. */
#define FIRST_SPILLED	FLR_PAGE_TAGS

/* A request starts over at most so often before memory counts as used up. */
#define MAX_ATTEMPTS	8

/* Blocks that are enough for a request, unless it widens a long record. */
#define ENOUGH_BLOCKS	128

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

/*
 * Find an entry of a locked stripe by what its page says; NULL when there is
 * none.
 */
static FlrEntry *
find_by_tag(const FlrPage *page, uint8 tag, const FlrEntryId *id)
{
	for (;;)
	{
		FlrEntry   *entry;

		for (uint64 matches = flr_tag_matches(page->tags, FLR_PAGE_TAGS, tag);
			 matches != 0; matches &= matches - 1)
		{
			uint32		place = flr_place_of_match(matches);

			if (page->tags[place] != tag)
				continue;
			entry = flr_place(page, place);
			if (flr_entry_is(entry, id))
				return entry;
		}
		for (uint64 matches = flr_tag_matches(page->spilled_tags,
											  sizeof(page->spilled_tags), tag);
			 matches != 0; matches &= matches - 1)
		{
			uint32		slot = flr_place_of_match(matches);

			if (slot >= page->nspilled)
				continue;
			entry = flr_entry(page->spilled[slot]);
			if (flr_entry_is(entry, id))
				return entry;
		}
		if (page->more == 0)
			return NULL;
		page = flr_page(page->more);
	}
}

/* The list of the pages of an extent of a locked stripe that is listed. */
static inline FlrPageList *
page_list(const FlrStripe *stripe, uint32 extent)
{
	return (FlrPageList *) flr_block(flr_arena, stripe->extents[extent]);
}

/* The page of this number of a locked stripe; 0 when it is not there. */
static inline FlrBlockId
page_block(const FlrStripe *stripe, uint32 number)
{
	uint32		extent = number / FLR_EXTENT_PAGES;

	if (stripe->extents[extent] == 0)
		return 0;
	if (flr_extent_is_listed(stripe, extent))
		return page_list(stripe, extent)->pages[number % FLR_EXTENT_PAGES];
	return stripe->extents[extent] + number % FLR_EXTENT_PAGES * FLR_FRAME_BLOCKS;
}

/* The same for one that is there. */
static inline FlrPage *
page_at(const FlrStripe *stripe, uint32 number)
{
	return flr_page(page_block(stripe, number));
}

/* Has this page of a locked stripe no places? */
static inline bool
is_bare(const FlrStripe *stripe, uint32 number)
{
	uint32		extent = number / FLR_EXTENT_PAGES;

	return unlikely(stripe->nbare > 0) &&
		flr_extent_is_listed(stripe, extent) &&
		(page_list(stripe, extent)->bare >> (number % FLR_EXTENT_PAGES) & 1) != 0;
}

/*
 * Find an entry of a locked stripe; NULL when there is none.  As a rule it is where
 * the first of some tags says.  Which one does is no branch that a processor would
 * have to foresee, so that it goes on while the entry is on its way.
 */
FlrEntry *
flr_entry_find(FlrStripe *stripe, const FlrEntryId *id)
{
	uint64		hash = flr_entry_hash(id);
	uint8		tag = flr_tag_of(hash);
	uint32		first = Min(flr_place_of(hash, 0), FLR_PAGE_TAGS - FIRST_TAGS);
	uint64		matches;
	FlrPage    *page;

	if (stripe->npages == 0)
		return NULL;
	page = page_at(stripe, flr_page_of(stripe, hash));
	matches = flr_tag_matches(&page->tags[first], FIRST_TAGS, tag);
	if (likely(matches != 0))
	{
		FlrEntry   *entry = flr_place(page, first + flr_place_of_match(matches));

		if (likely(flr_entry_is(entry, id)))
			return entry;
	}
	return find_by_tag(page, tag, id);
}

/* Take an empty page without places out of the pool; 0 when there is no memory. */
static FlrBlockId
take_bare_page(void)
{
	FlrBlockId	block = flr_arena->take(flr_arena);

	if (block != 0)
	{
		FlrPage    *page = flr_page(block);

		memset(page, 0, FLR_BLOCK_SIZE);
		memset(page->tags, FLR_TAG_LENT, FLR_PAGE_TAGS);
	}
	return block;
}

/* Count vacant places of a locked stripe. */
static inline void
count_vacant(FlrStripe *stripe, int32 by)
{
	stripe->nvacant += by;
	if (by <= 0)
		return;

	/* reclaim() does it the other way round */
	pg_memory_barrier();
	if (!flr_store->may_lend)
		flr_store->may_lend = true;
}

/*
 * Take so many empty pages with places for a locked stripe, one after the other.  0
 * when there are none.
 */
static FlrBlockId
take_pages(FlrStripe *stripe, uint32 n)
{
	FlrBlockId	first = flr_store_take_frames(n);

	if (first == 0)
		return 0;
	for (uint32 i = 0; i < n; i++)
	{
		FlrPage    *page = flr_page(first + i * FLR_FRAME_BLOCKS);

		memset(page, 0, FLR_FRAME_BLOCKS * FLR_BLOCK_SIZE);
		page->tags[FLR_PAGE_PLACES] = FLR_TAG_LENT;
	}
	count_vacant(stripe, n * FLR_PAGE_PLACES);
	return first;
}

/* Can the store still grow?  Then whoever needs pages had better wait for that. */
static bool
want_frames(void)
{
	if (flr_store->at_limit)
		return false;
	flr_store->wants_frame = true;
	return true;
}

/* The place of a locked stripe's page is not an entry's any more. */
static inline void
vacate_place(FlrStripe *stripe, FlrPage *page, uint32 place)
{
	page->tags[place] = FLR_TAG_VACANT;
	count_vacant(stripe, 1);
}

/*
 * A vacant place of a page for an entry of this hash: one where it is sought first,
 * if any of those is vacant.  FLR_PAGE_TAGS when no place is.
 */
static uint32
vacant_place(const FlrPage *page, uint64 hash)
{
	for (uint32 try = 0; try < FLR_PAGE_TRIES; try++)
	{
		uint32		place = flr_place_of(hash, try);

		if (page->tags[place] == FLR_TAG_VACANT)
			return place;
	}
	for (uint64 vacant = flr_tag_matches(page->tags, FLR_PAGE_TAGS, FLR_TAG_VACANT);
		 vacant != 0; vacant &= vacant - 1)
	{
		uint32		place = flr_place_of_match(vacant);

		if (page->tags[place] == FLR_TAG_VACANT)
			return place;
	}
	return FLR_PAGE_TAGS;
}

/*
 * Take a vacant place of a page of a locked stripe for an entry of this hash.
 * NULL when no place is vacant.
 */
static FlrEntry *
take_place(FlrStripe *stripe, FlrPage *page, uint64 hash)
{
	uint32		place = vacant_place(page, hash);

	if (place == FLR_PAGE_TAGS)
		return NULL;
	page->tags[place] = flr_tag_of(hash);
	count_vacant(stripe, -1);
	return flr_place(page, place);
}

/*
 * Note in a bucket that an entry lies in that block.  False: no memory for
 * another page.
 */
static bool
spill(FlrPage *page, uint8 tag, FlrBlockId entry)
{
	while (page->nspilled == FLR_PAGE_SPILL)
	{
		if (page->more == 0)
			page->more = take_bare_page();
		if (page->more == 0)
			return false;
		page = flr_page(page->more);
	}
	page->spilled_tags[page->nspilled] = tag;
	page->spilled[page->nspilled] = entry;
	page->nspilled++;
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

/* The entry in a position of a page; NULL when there is none. */
static inline FlrEntry *
entry_at(const FlrPage *page, uint32 position)
{
	if (position >= FIRST_SPILLED)
		return flr_entry(page->spilled[position - FIRST_SPILLED]);
	if (page->tags[position] > FLR_TAG_LENT)
		return flr_place(page, position);
	return NULL;
}

/* Forget an entry that is spilled; the page's last one moves into its slot. */
static void
unspill(FlrPage *page, uint32 slot)
{
	page->nspilled--;
	page->spilled[slot] = page->spilled[page->nspilled];
	page->spilled_tags[slot] = page->spilled_tags[page->nspilled];
}

/*
 * How many entries of a bucket of a locked stripe belong to a page number: in
 * places, and spilled?
 */
static void
count_moved(const FlrStripe *stripe, const FlrPage *page, uint32 number,
			uint32 *in_places, uint32 *spilled)
{
	*in_places = 0;
	*spilled = 0;
	for (;; page = flr_page(page->more))
	{
		for (uint32 i = 0; i < FIRST_SPILLED + page->nspilled; i++)
		{
			const FlrEntry *entry = entry_at(page, i);

			if (entry != NULL &&
				flr_page_of(stripe, flr_entry_hash(&entry->id)) == number)
				++* (i < FIRST_SPILLED ? in_places : spilled);
		}
		if (page->more == 0)
			return;
	}
}

/* Have all entries of a bucket on their way. */
static void
touch_bucket(const FlrPage *page)
{
	for (;; page = flr_page(page->more))
	{
		for (uint32 place = 0; place < FLR_PAGE_PLACES; place++)
			if (page->tags[place] > FLR_TAG_LENT)
				__builtin_prefetch(flr_place(page, place));
		for (uint32 i = 0; i < page->nspilled; i++)
			__builtin_prefetch(flr_entry(page->spilled[i]));
		if (page->more == 0)
			break;
	}
}

/* Give back a list of blocks that is linked like the pool's own. */
static void
give_list(FlrBlockId block)
{
	while (block != 0)
	{
		FlrBlockId	next = *(FlrBlockId *) flr_block(flr_arena, block);

		flr_arena->give(flr_arena, block);
		block = next;
	}
}

/*
 * Take so many blocks, or so many pages without places: a list, linked by the
 * first word.  False, and nothing is taken: no memory.
 */
static bool
take_list(uint32 n, FlrBlockId (*take) (void), FlrBlockId *list)
{
	*list = 0;
	for (uint32 i = 0; i < n; i++)
	{
		FlrBlockId	block = take();

		if (block == 0)
		{
			give_list(*list);
			return false;
		}
		*(FlrBlockId *) flr_block(flr_arena, block) = *list;
		*list = block;
	}
	return true;
}

/* Take a block for an entry. */
static FlrBlockId
take_block(void)
{
	return flr_arena->take(flr_arena);
}

/* How many places of a page are vacant? */
static uint32
count_vacant_places(const FlrPage *page)
{
	uint32		vacant = 0;

	for (uint32 place = 0; place < FLR_PAGE_PLACES; place++)
		vacant += page->tags[place] == FLR_TAG_VACANT;
	return vacant;
}

/*
 * Move what belongs to a page number of a locked stripe from a bucket into another
 * page, in which there is nothing: into its vacant places, the others spilled.
 * False, and nothing has happened, if there is no memory, or too much to do at
 * once.
 */
static bool
move_entries(FlrStripe *stripe, FlrBlockId from, FlrBlockId to, uint32 number)
{
	FlrPage    *page = flr_page(from);
	FlrPage    *target = flr_page(to);
	FlrBlockId	blocks;			/* for those in places that find no other */
	uint32		vacant = count_vacant_places(target);
	uint32		in_places;
	uint32		spilled;
	uint32		will_spill;

	count_moved(stripe, page, number, &in_places, &spilled);
	will_spill = Max(in_places + spilled, vacant) - vacant;
	if (in_places + spilled > MAX_MOVED ||
		!take_list(Max(in_places, vacant) - vacant, take_block, &blocks))
		return false;
	if (!take_list(will_spill == 0 ? 0 : (will_spill - 1) / FLR_PAGE_SPILL,
				   take_bare_page, &target->more))
	{
		give_list(blocks);
		return false;
	}

	/* nothing fails any more */
	for (;; page = flr_page(page->more))
	{
		/* those in places first, for whom there is no other block */
		for (uint32 i = 0; i < FLR_PAGE_PLACES; i++)
		{
			FlrEntry   *entry = entry_at(page, i);
			FlrEntry   *moved;
			uint64		hash;

			if (entry == NULL)
				continue;
			hash = flr_entry_hash(&entry->id);
			if (flr_page_of(stripe, hash) != number)
				continue;
			moved = take_place(stripe, target, hash);
			if (moved == NULL)
			{
				FlrBlockId	block = blocks;
				bool		done PG_USED_FOR_ASSERTS_ONLY;

				moved = flr_entry(block);
				blocks = *(FlrBlockId *) moved;
				done = spill(target, flr_tag_of(hash), block);
				Assert(done);
			}
			*moved = *entry;

			/* whoever remembers where it was does not find it there */
			memset(&entry->id, 0, sizeof(FlrEntryId));
			vacate_place(stripe, page, i);
		}

		/* from the last one on, so that none that is still to come moves */
		for (uint32 slot = page->nspilled; slot-- > 0;)
		{
			FlrBlockId	block = page->spilled[slot];
			FlrEntry   *entry = flr_entry(block);
			FlrEntry   *moved;
			uint64		hash = flr_entry_hash(&entry->id);

			if (flr_page_of(stripe, hash) != number)
				continue;
			unspill(page, slot);
			moved = take_place(stripe, target, hash);
			if (moved == NULL)
			{
				bool		done PG_USED_FOR_ASSERTS_ONLY;

				done = spill(target, flr_tag_of(hash), block);
				Assert(done);
				continue;
			}
			*moved = *entry;
			memset(&entry->id, 0, sizeof(FlrEntryId));
			flr_arena->give(flr_arena, block);
		}
		if (page->more == 0)
			break;
	}
	Assert(blocks == 0);
	return true;
}

/* Note whether a page of a listed extent of a stripe has places. */
static void
set_bare(FlrStripe *stripe, FlrPageList *list, uint32 place, bool bare)
{
	uint32		bit = 1U << place;

	stripe->nbare += (int) bare - ((list->bare & bit) != 0);
	if (bare)
		list->bare |= bit;
	else
		list->bare &= ~bit;
}

/*
 * Have a further extent of a locked stripe.  False when there is no memory for
 * it, or when whoever wants it had better wait until the store has grown.
 */
static bool
have_extent(FlrStripe *stripe, uint32 extent)
{
	FlrBlockId	block;

	if (stripe->extents[extent] != 0)
		return true;
	block = extent == 0 ? 0 : take_pages(stripe, FLR_EXTENT_PAGES);
	if (block == 0)
	{
		if (extent > 0 && want_frames())
			return false;
		block = flr_arena->take(flr_arena);
		if (block == 0)
			return false;
		memset(flr_block(flr_arena, block), 0, sizeof(FlrPageList));
		stripe->nlisted += extent > 0;
		stripe->listed[extent / 64] |= UINT64CONST(1) << (extent % 64);
	}
	stripe->extents[extent] = block;
	return true;
}

/*
 * Have a page of this number of a locked stripe, the next one in line: one
 * without places where there is no frame for it.  False as above.
 */
static bool
have_page(FlrStripe *stripe, uint32 number)
{
	uint32		place = number % FLR_EXTENT_PAGES;
	FlrPageList *list;
	FlrBlockId	block;

	if (!have_extent(stripe, number / FLR_EXTENT_PAGES))
		return false;
	if (page_block(stripe, number) != 0)
		return true;
	list = page_list(stripe, number / FLR_EXTENT_PAGES);

	/* few keys, few bytes */
	block = number == 0 ? 0 : take_pages(stripe, 1);
	if (block == 0)
	{
		if (number > 0 && want_frames())
			return false;
		block = take_bare_page();
		if (block == 0)
			return false;
		set_bare(stripe, list, place, true);
	}
	list->pages[place] = block;
	return true;
}

/* Give one of the pages of a locked stripe that have none places. */
static void
replace_bare_page(FlrStripe *stripe)
{
	uint32		number = 0;
	FlrPageList *list;
	FlrBlockId	old;
	FlrBlockId	fresh = take_pages(stripe, 1);

	if (fresh == 0)
		return;
	while (!is_bare(stripe, number))
		number++;
	old = page_block(stripe, number);
	touch_bucket(flr_page(old));
	if (!move_entries(stripe, old, fresh, number))
	{
		count_vacant(stripe, -FLR_PAGE_PLACES);
		for (uint32 i = 0; i < FLR_FRAME_BLOCKS; i++)
			flr_arena->give(flr_arena, fresh + i);
		stripe->next_split = stripe->nentries + SPLIT_LATER;
		return;
	}
	list = page_list(stripe, number / FLR_EXTENT_PAGES);
	list->pages[number % FLR_EXTENT_PAGES] = fresh;
	set_bare(stripe, list, number % FLR_EXTENT_PAGES, false);
	lose_hand(stripe);
	give_list(old);				/* the first word is the next page */
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
	uint32		old_mask = stripe->mask;
	uint32		mask = number > old_mask ? old_mask * 2 + 1 : old_mask;
	FlrBlockId	from = page_block(stripe, number & (mask >> 1));

	if (number >= FLR_STRIPE_PAGES || !have_page(stripe, number))
		return;
	touch_bucket(flr_page(from));
	stripe->mask = mask;
	stripe->npages = number + 1;
	if (!move_entries(stripe, from, page_block(stripe, number), number))
	{
		/* the page stays for the next attempt, which is not at once */
		stripe->mask = old_mask;
		stripe->npages = number;
		stripe->next_split = stripe->nentries + stripe->nentries / 8 + SPLIT_LATER;
		return;
	}
	lose_hand(stripe);
}

/*
 * See to it that a locked stripe has pages for one more entry.  Other entries of
 * the stripe may move.  False when it would be better to unlock, and to have the
 * store grow first, see flr_store_grow_if_wanted(); one more entry finds room all
 * the same.
 */
bool
flr_stripe_make_room(FlrStripe *stripe)
{
	if (stripe->npages == 0)
	{
		if (have_page(stripe, 0))
			stripe->npages = 1;
		return true;
	}
	if (stripe->nentries < stripe->next_split ||
		(flr_store->at_limit && flr_store->nfree < SPLIT_BLOCKS))
		return true;
	if (unlikely(stripe->nbare > 0))
	{
		if (stripe->nentries < BARE_USUAL)
			return true;
		if (flr_store->frame < flr_store->frame_end)
			replace_bare_page(stripe);
		else
			(void) want_frames();
	}
	if (stripe->nentries >= stripe->npages * PAGE_USUAL)
		add_page(stripe);
	return !flr_store->wants_frame;
}

/* Add to, or take from, the number of keys in an entry's statistics. */
static inline void
count_key(const FlrEntry *entry, int64 by)
{
	pg_atomic_fetch_add_u64(&flr_stats(entry->stats)->keys, by);
}

/* Free what an entry of a locked stripe has beside its own block. */
static void
empty_entry(FlrStripe *stripe, FlrEntry *entry)
{
	count_key(entry, -1);
	stripe->nentries--;
	flr_record_clear(flr_arena, &entry->state);
	if (flr_entry_extra(entry) != NULL)
		flr_arena->give(flr_arena, entry->key.block);

	/* whoever remembers where it was does not take it for what it was */
	memset(&entry->id, 0, sizeof(FlrEntryId));
}

/* Free the entry in a position of a page of a locked stripe. */
static void
remove_entry(FlrStripe *stripe, FlrPage *page, uint32 position)
{
	empty_entry(stripe, entry_at(page, position));
	if (position < FIRST_SPILLED)
		vacate_place(stripe, page, position);
	else
	{
		FlrBlockId	block = page->spilled[position - FIRST_SPILLED];

		unspill(page, position - FIRST_SPILLED);
		flr_arena->give(flr_arena, block);
	}
}

/* Free an entry of a locked stripe.  No other entry moves. */
void
flr_entry_drop(FlrStripe *stripe, FlrEntry *entry)
{
	uint32		number = flr_page_of(stripe, flr_entry_hash(&entry->id));
	FlrPage    *page = page_at(stripe, number);

	for (;; page = flr_page(page->more))
	{
		for (uint32 i = 0; i < FIRST_SPILLED + page->nspilled; i++)
			if (entry_at(page, i) == entry)
			{
				/* another may take its slot, which the hand may have passed */
				lose_hand(stripe);
				remove_entry(stripe, page, i);
				return;
			}
		Assert(page->more != 0);
	}
}

/* Show each entry of a locked stripe to the caller. */
void
flr_entries_visit(FlrStripe *stripe,
				  void (*visit) (FlrEntry *entry, void *arg), void *arg)
{
	for (uint32 number = 0; number < stripe->npages; number++)
	{
		const FlrPage *page = page_at(stripe, number);

		touch_bucket(page);
		for (;; page = flr_page(page->more))
		{
			for (uint32 i = 0; i < FIRST_SPILLED + page->nspilled; i++)
			{
				FlrEntry   *entry = entry_at(page, i);

				if (entry == NULL)
					continue;
				Assert(entry->expiry >= stripe->quiet_until);
				visit(entry, arg);
			}
			if (page->more == 0)
				break;
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
		FlrPage    *page = page_at(stripe, number);

		touch_bucket(page);
		for (;; page = flr_page(page->more))
		{
			for (uint32 i = FIRST_SPILLED + page->nspilled; i-- > 0;)
			{
				const FlrEntry *entry = entry_at(page, i);

				if (entry == NULL)
					continue;
				Assert(entry->expiry >= stripe->quiet_until);
				if (!doomed(entry, arg))
					continue;
				remove_entry(stripe, page, i);
				removed++;
			}
			if (page->more == 0)
				break;
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
	stripe->hand_position = 0;
}

/*
 * Look at the next few entries of a locked stripe, where the last call
 * stopped, and free those that are worth nothing any more.
 */
static void
sweep_some(FlrStripe *stripe, int64 now)
{
	FlrPage    *page;
	uint32		before = 0;		/* positions in pages of the bucket passed
								 * over */
	uint32		i;
	int			looks = 0;
	int			freed = 0;

	if (stripe->hand >= stripe->npages)
	{
		end_round(stripe);
		return;
	}
	page = page_at(stripe, stripe->hand);
	while (FIRST_SPILLED + page->nspilled <= stripe->hand_position - before)
	{
		before += FIRST_SPILLED + page->nspilled;
		if (page->more == 0)
		{
			stripe->hand++;
			stripe->hand_position = 0;
			return;
		}
		page = flr_page(page->more);
	}
	i = stripe->hand_position - before;
	while (looks < SWEEP_ENTRIES && i < FIRST_SPILLED + page->nspilled)
	{
		FlrEntry   *entry = entry_at(page, i);

		if (entry == NULL)
		{
			i++;
			continue;
		}
		looks++;
		if (entry->expiry <= now)
		{
			/* where it was spilled the last one moves here, and is the next */
			remove_entry(stripe, page, i);
			freed++;
			continue;
		}
		stripe->hand_expiry = Min(stripe->hand_expiry, entry->expiry);
		i++;
	}
	stripe->hand_position = before + i;
	if (freed > 0)
		pg_atomic_fetch_add_u64(&flr_store->swept, freed);
}

/* Make a block the extra one of an entry, with a key. */
static void
put_extra(FlrEntry *entry, FlrBlockId block, const char *key, int key_size)
{
	FlrExtra   *extra = flr_block(flr_arena, block);

	memset(extra, 0, sizeof(FlrExtra));
	extra->key_size = key_size;
	memcpy(extra->key, key, key_size);
	entry->key.block = block;
	entry->state.owner &= ~FLR_ENTRY_KEY_SIZE;
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

/*
 * Take room for an entry of this hash in a locked stripe: a place of its page, or
 * else a block that the page refers to.  NULL when there is no memory.
 */
static FlrEntry *
take_entry(FlrStripe *stripe, uint64 hash)
{
	FlrPage    *page;
	FlrEntry   *entry;
	FlrBlockId	block;

	if (stripe->npages == 0)
		return NULL;
	page = page_at(stripe, flr_page_of(stripe, hash));
	entry = take_place(stripe, page, hash);
	if (entry != NULL)
		return entry;
	block = flr_arena->take(flr_arena);
	if (block == 0)
		return NULL;
	if (!spill(page, flr_tag_of(hash), block))
	{
		flr_arena->give(flr_arena, block);
		return NULL;
	}
	return flr_entry(block);
}

/* The same, for one of many: without a look for expired entries. */
FlrEntry *
flr_entry_add(FlrStripe *stripe, const FlrEntryId *id, FlrBlockId stats,
			  const char *key, int key_size, int64 now)
{
	FlrBlockId	extra = 0;
	FlrEntry   *entry;

	Assert(stats != 0);
	if (key_size > FLR_KEY_INLINE)
	{
		extra = flr_arena->take(flr_arena);
		if (extra == 0)
			return NULL;
	}
	entry = take_entry(stripe, flr_entry_hash(id));
	if (entry == NULL)
	{
		if (extra != 0)
			flr_arena->give(flr_arena, extra);
		return NULL;
	}

	memset(entry, 0, sizeof(FlrEntry));
	entry->id = *id;
	entry->stats = stats;
	entry->expiry = now + 1;
	entry->last_request = now;
	if (extra != 0)
		put_extra(entry, extra, key, key_size);
	else
	{
		entry->state.owner = key_size;
		memcpy(entry->key.text, key, key_size);
	}
	stripe->nentries++;
	count_key(entry, 1);
	return entry;
}

/*
 * What few entries have, which is made if this one does not have it.  NULL when
 * there is no memory.  Its stripe is locked.
 */
FlrExtra *
flr_entry_need_extra(FlrEntry *entry)
{
	FlrExtra   *extra = flr_entry_extra(entry);
	FlrBlockId	block;
	char		key[FLR_KEY_INLINE];
	int			key_size = flr_entry_key_size(entry);

	if (extra != NULL)
		return extra;
	block = flr_arena->take(flr_arena);
	if (block == 0)
		return NULL;
	memcpy(key, entry->key.text, key_size);
	put_extra(entry, block, key, key_size);
	return flr_entry_extra(entry);
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
 * The same if it is earlier, after something was taken out of what was spent.  An
 * entry that may have a saved copy keeps its expiry, for the copy to be overwritten
 * before the entry is swept.
 */
void
flr_entry_lower_expiry(FlrEntry *entry, int64 expiry)
{
	if ((entry->state.owner & FLR_ENTRY_HAS_COPY) == 0)
		flr_entry_set_expiry(entry, Min(entry->expiry, expiry));
}

/* Copy what is kept of an entry's key, as many bytes as its size says. */
void
flr_entry_key(const FlrEntry *entry, char *text)
{
	const FlrExtra *extra = flr_entry_extra(entry);

	memcpy(text, extra != NULL ? extra->key : entry->key.text,
		   flr_entry_key_size(entry));
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

/* Lend vacant places of a locked stripe, at most so many. */
static void
lend_places(FlrStripe *stripe, uint32 wanted)
{
	for (uint32 number = 0; number < FLR_STRIPE_PAGES; number++)
	{
		FlrBlockId	block = page_block(stripe, number);
		FlrPage    *page = flr_page(block);

		/* those that are not in use yet lend theirs, too */
		if (block == 0)
			return;

		for (uint32 place = 0; place < FLR_PAGE_PLACES; place++)
		{
			if (wanted == 0)
				return;
			if (page->tags[place] != FLR_TAG_VACANT)
				continue;
			page->tags[place] = FLR_TAG_LENT;
			flr_arena->give(flr_arena, block + 1 + place);
			count_vacant(stripe, -1);
			wanted--;
		}
	}
}

/*
 * A request has found no memory, and the store cannot grow: free expired entries of
 * the whole store, the first time that it asks, and lend vacant places until the pool
 * has so many blocks more.  No stripe may be locked.  Returns how many entries were
 * freed, and places lent.
 */
static int64
reclaim(int64 now, uint32 wanted, bool first_time)
{
	uint64		goal = flr_store->nfree + wanted;
	int64		gained = first_time ? flr_store_sweep(now) : 0;

	if (!flr_store->may_lend || flr_store->nfree >= goal)
		return gained;
	flr_store->may_lend = false;
	pg_memory_barrier();
	for (int i = 0; i < FLR_STRIPES; i++)
	{
		uint32		number;
		FlrStripe  *stripe;

		if (flr_store->nfree >= goal)
		{
			/* the others were not asked */
			flr_store->may_lend = true;
			break;
		}
		number = flr_store->lender++ % FLR_STRIPES;
		stripe = flr_stripe(number);

		/* looked at without the lock: what it overlooks sets the flag again */
		if (stripe->nvacant == 0)
			continue;
		flr_stripe_lock(number);
		if (flr_store_is_mapped() && flr_store->nfree < goal)
		{
			/* some of each stripe's, so that none is left without any */
			uint32		n = Min((stripe->nvacant + 1) / 2,
								goal - flr_store->nfree);

			lend_places(stripe, n);
			gained += n;
		}
		flr_store->may_lend = true;
		flr_stripe_unlock(number);
	}
	return gained;
}

/*
 * A request has found no memory: have the store grow, or else reclaim some, more
 * each time.  No stripe may be locked.  False when memory is used up.
 */
bool
flr_store_find_memory(FlrShortage *shortage, int64 now)
{
	int			attempt = shortage->attempts++;
	int			reclaims = shortage->reclaims;

	if (attempt < MAX_ATTEMPTS && flr_store_grow(ENOUGH_BLOCKS << attempt))
		return true;
	if (reclaims == MAX_ATTEMPTS ||
		reclaim(now, ENOUGH_BLOCKS << reclaims, reclaims == 0) == 0)
		return false;
	shortage->reclaims++;
	return true;
}
