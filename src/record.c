/*-------------------------------------------------------------------------
 *
 * record.c
 *	  The sorted sequence of runs behind sliding and fixed windows.
 *
 * The runs are a queue: the oldest leave at the head, new ones arrive at the
 * tail, and only reservations are ever put in or taken out in between.  The
 * queue starts in the state itself and goes on in a chain of blocks; every
 * block but the first and the last is full, so a run's neighbours are found by
 * counting.  The last block may already have an empty successor, put there by
 * flr_record_reserve(), so that the next addition cannot fail.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "record.h"

/* Make an empty record of uninitialized memory. */
void
flr_record_init(FlrState *state)
{
	memset(state, 0, sizeof(FlrState));
}

/* Give back the blocks of a chain from this one (0: none) on. */
static void
give_chain(FlrArena *arena, FlrBlockId block)
{
	while (block != 0)
	{
		FlrBlockId	next = ((FlrChain *) flr_block(arena, block))->next;

		arena->give(arena, block);
		block = next;
	}
}

/* Empty a record and give its blocks back. */
void
flr_record_clear(FlrArena *arena, FlrState *state)
{
	uint8		owner = state->owner;

	give_chain(arena, flr_first_block(state));
	flr_record_init(state);
	state->owner = owner;
}

/* Load the run under the cursor. */
static inline void
cursor_load(FlrCursor *cursor)
{
	if (cursor->left > 0)
		flr_get_run(cursor->arena, cursor->state, cursor->block, cursor->place,
					&cursor->time, &cursor->cost);
}

/* Put a cursor on the first run. */
void
flr_record_start(FlrCursor *cursor, const FlrArena *arena,
				 const FlrState *state)
{
	cursor->arena = arena;
	cursor->state = unconstify(FlrState *, state);
	cursor->block = flr_first_block(state);
	cursor->place = state->head;
	cursor->left = state->nruns;
	cursor->time = 0;
	cursor->cost = 0;
	cursor_load(cursor);
}

/* Move a cursor, which stands on a run, to the next run or past the end. */
void
flr_record_next(FlrCursor *cursor)
{
	Assert(cursor->left > 0);
	cursor->left--;
	if (++cursor->place >= flr_places_in(cursor->state, cursor->block))
	{
		cursor->block = flr_block_after(cursor->arena, cursor->block);
		cursor->place = 0;
	}
	cursor_load(cursor);
}

/*
 * Of the n runs from a place of a block on, how many are not later than time?
 * Adds their costs to *sum.
 */
static inline uint32
sum_block(const FlrArena *arena, const FlrState *state, FlrBlockId block,
		  uint32 place, uint32 n, int64 time, uint64 *sum)
{
	const FlrChain *chain = block ? flr_block(arena, block) : NULL;
	uint32		i;

	if (flr_is_wide(state))
	{
		const FlrWideRun *runs = chain ? chain->runs.wide : state->runs.wide;

		for (i = 0; i < n && runs[place + i].time <= time; i++)
			*sum += (uint64) runs[place + i].cost;
	}
	else
	{
		const FlrNarrowRun *runs = chain ? chain->runs.narrow :
		state->runs.narrow;
		int64		offset = time - state->base;

		for (i = 0; i < n && runs[place + i].offset <= offset; i++)
			*sum += runs[place + i].cost;
	}
	return i;
}

/*
 * Put a cursor on the first run that is later than time, or past the end.  Returns
 * the cost of those before it, modulo 2^64.
 */
uint64
flr_record_seek(FlrCursor *cursor, const FlrArena *arena,
				const FlrState *state, int64 time)
{
	uint64		sum = 0;

	flr_record_start(cursor, arena, state);
	while (cursor->left > 0)
	{
		uint32		room = flr_places_in(state, cursor->block) - cursor->place;
		uint32		n = Min(cursor->left, room);
		uint32		passed = sum_block(arena, state, cursor->block,
									   cursor->place, n, time, &sum);

		cursor->place += passed;
		cursor->left -= passed;
		if (passed < n)
			break;
		cursor->block = flr_block_after(arena, cursor->block);
		cursor->place = 0;
	}
	cursor_load(cursor);
	return sum;
}

/* Drop the first run of a record that has one. */
void
flr_record_pop(FlrArena *arena, FlrState *state)
{
	FlrCursor	cursor;

	flr_record_start(&cursor, arena, state);
	Assert(cursor.left > 0);
	if (--state->nruns == 0)
	{
		flr_record_clear(arena, state);
		return;
	}
	state->total -= (uint64) cursor.cost;
	if (++state->head < flr_places_in(state, cursor.block))
		return;

	/* that was the last run of its block, and there are more */
	state->head = 0;
	state->runs.chain.first = flr_block_after(arena, cursor.block);
	arena->give(arena, cursor.block);
}

/*
 * Rewrite a record with another base, or with wide runs.  Widening needs
 * blocks: false, and nothing has changed, when they are not to be had.
 */
static bool
rewrite(FlrArena *arena, FlrState *state, int64 base, bool wide)
{
	FlrState	copy;
	FlrCursor	cursor;

	flr_record_init(&copy);
	copy.owner = state->owner;
	copy.base = base;
	copy.flags = wide ? FLR_STATE_WIDE : 0;

	if (!wide)
	{
		/* the same places with other offsets: in place */
		int64		old_base = state->base;

		for (flr_record_start(&cursor, arena, state); cursor.left > 0;
			 flr_record_next(&cursor))
		{
			state->base = base;
			flr_put_run(arena, state, cursor.block, cursor.place,
						cursor.time, cursor.cost);
			state->base = old_base;
		}
		state->base = base;
		return true;
	}

	for (flr_record_start(&cursor, arena, state); cursor.left > 0;
		 flr_record_next(&cursor))
	{
		if (!flr_record_add(arena, &copy, cursor.time, cursor.cost, true,
							PG_INT64_MAX))
		{
			flr_record_clear(arena, &copy);
			return false;
		}
	}
	flr_record_clear(arena, state);
	*state = copy;
	return true;
}

/*
 * Make a run of this time and this cost fit into the record's kind of run.
 * more_at is the cost that already stands at that very time.
 */
static bool
make_fit(FlrArena *arena, FlrState *state, int64 time, int64 cost,
		 int64 more_at)
{
	FlrCursor	cursor;
	int64		low;
	int64		high;

	if (flr_is_wide(state))
		return true;
	if (cost >= FLR_NARROW_LIMIT - more_at)
		return rewrite(arena, state, 0, true);
	if (time >= state->base && time - state->base < FLR_NARROW_LIMIT)
		return true;

	/* out of reach of the base: move it if the whole span allows that */
	flr_record_start(&cursor, arena, state);
	low = Min(cursor.time, time);
	high = Max(flr_record_last_time(arena, state), time);
	return rewrite(arena, state, low, high - low >= FLR_NARROW_LIMIT);
}

/*
 * Make sure that a record in the state itself has an empty place behind its last
 * run: its runs move down, or all of them into a chain.  False: no memory.
 */
static bool
make_room_inline(FlrArena *arena, FlrState *state)
{
	FlrState	copy = *state;
	FlrBlockId	fresh = 0;
	FlrCursor	cursor;

	if (state->head == 0)
	{
		fresh = arena->take(arena);
		if (fresh == 0)
			return false;
		((FlrChain *) flr_block(arena, fresh))->next = 0;
		((FlrChain *) flr_block(arena, fresh))->begun = 0;
		state->flags |= FLR_STATE_CHAINED;
		state->runs.chain.first = fresh;
		state->runs.chain.last = fresh;
	}
	state->head = 0;
	state->tail = 0;
	for (flr_record_start(&cursor, arena, &copy); cursor.left > 0;
		 flr_record_next(&cursor))
		flr_put_run(arena, state, fresh, state->tail++, cursor.time,
					cursor.cost);
	return true;
}

/* Make sure that the last block, or its successor, has an empty place. */
static bool
make_room(FlrArena *arena, FlrState *state)
{
	FlrBlockId	last = flr_last_block(state);
	FlrBlockId	fresh;

	if (state->tail < flr_places_in(state, last))
		return true;
	if (last == 0)
		return make_room_inline(arena, state);
	if (flr_block_after(arena, last) != 0)
		return true;
	fresh = arena->take(arena);
	if (fresh == 0)
		return false;
	((FlrChain *) flr_block(arena, fresh))->next = 0;
	((FlrChain *) flr_block(arena, last))->next = fresh;
	return true;
}

/* Choose the kind of run and the base of an empty record. */
static inline void
set_kind(FlrState *state, int64 time, int64 cost, bool wide)
{
	Assert(state->nruns == 0);
	state->base = time;
	if (wide || cost >= FLR_NARROW_LIMIT)
		state->flags |= FLR_STATE_WIDE;
}

/*
 * Put a cursor on the last run that is not later than time; left is 0 when
 * there is none.
 */
static void
find_at_or_before(FlrCursor *found, const FlrArena *arena,
				  const FlrState *state, int64 time)
{
	FlrCursor	cursor;

	if (state->nruns > 0 && flr_record_last_time(arena, state) <= time)
	{
		found->arena = arena;
		found->state = unconstify(FlrState *, state);
		found->block = flr_last_block(state);
		found->place = state->tail - 1;
		found->left = 1;
		cursor_load(found);
		return;
	}
	found->left = 0;
	for (flr_record_start(&cursor, arena, state);
		 cursor.left > 0 && cursor.time <= time; flr_record_next(&cursor))
		*found = cursor;
}

/*
 * See to it that flr_record_add() of the same time and cost cannot fail.
 * False when there is no memory for that; the record is as it was.
 */
bool
flr_record_reserve(FlrArena *arena, FlrState *state, int64 time, int64 cost,
				   bool wide)
{
	FlrCursor	cursor;
	int64		more_at = 0;

	if (state->nruns == 0)
	{
		state->flags &= ~FLR_STATE_WIDE;
		set_kind(state, time, cost, wide);
		return true;
	}
	find_at_or_before(&cursor, arena, state, time);
	if (cursor.left > 0 && cursor.time == time)
		more_at = cursor.cost;
	return make_fit(arena, state, time, cost, more_at) &&
		make_room(arena, state);
}

/* Append a run behind the last one.  There must be room, and it must fit. */
static void
append(FlrArena *arena, FlrState *state, int64 time, int64 cost)
{
	FlrBlockId	last = flr_last_block(state);

	if (state->tail == flr_places_in(state, last))
	{
		uint32		begun = ((FlrChain *) flr_block(arena, last))->begun;

		last = flr_block_after(arena, last);
		((FlrChain *) flr_block(arena, last))->begun = begun + 1;
		state->runs.chain.last = last;
		state->tail = 0;
	}
	flr_put_run(arena, state, last, state->tail, time, cost);
	state->tail++;
	state->nruns++;
}

/*
 * Add cost to the run under the cursor and move it to time, which lies
 * between it and the next run.  False when that does not fit.
 */
static bool
extend(FlrCursor *cursor, int64 time, int64 cost)
{
	FlrState   *state = cursor->state;

	if (flr_is_wide(state) ? cost > PG_INT64_MAX - cursor->cost :
		(cost >= FLR_NARROW_LIMIT - cursor->cost ||
		 time < state->base || time - state->base >= FLR_NARROW_LIMIT))
		return false;
	flr_put_run(cursor->arena, state, cursor->block, cursor->place, time,
				cursor->cost + cost);
	state->total += (uint64) cost;
	return true;
}

/*
 * Record cost at time.  It joins the run before it when that run stands at
 * the same time or not earlier than not_before, else it is a run of its own, as
 * it is where a run that is only not earlier cannot take it.
 * wide asks for wide runs if the record is empty.  False, and nothing has
 * changed, when there is no memory.
 */
bool
flr_record_add(FlrArena *arena, FlrState *state, int64 time, int64 cost,
			   bool wide, int64 not_before)
{
	FlrCursor	before;
	int64		carry_time = time;
	int64		carry_cost = cost;

	if (state->nruns == 0)
	{
		state->flags &= ~FLR_STATE_WIDE;
		set_kind(state, time, cost, wide);
	}
	find_at_or_before(&before, arena, state, time);
	if (before.left > 0 &&
		(before.time == time || before.time >= not_before))
	{
		if (extend(&before, time, cost))
			return true;
		if (make_fit(arena, state, time, cost, before.cost))
		{
			find_at_or_before(&before, arena, state, time);
			return extend(&before, time, cost);
		}
		if (before.time == time)
			return false;
		/* no memory to join it; for a run of its own there may be enough */
	}
	if (state->nruns > 0 && !make_fit(arena, state, time, cost, 0))
		return false;
	if (!make_room(arena, state))
		return false;

	if (before.left != 1)
	{
		/* not the last one: every later run moves up by one place */
		FlrCursor	cursor;

		for (flr_record_start(&cursor, arena, state); cursor.left > 0;
			 flr_record_next(&cursor))
		{
			if (cursor.time <= time)
				continue;
			flr_put_run(arena, state, cursor.block, cursor.place,
						carry_time, carry_cost);
			carry_time = cursor.time;
			carry_cost = cursor.cost;
		}
	}
	append(arena, state, carry_time, carry_cost);
	state->total += (uint64) cost;
	return true;
}

/* Would flr_record_merge() of this time and cost succeed? */
bool
flr_record_can_merge(const FlrArena *arena, const FlrState *state,
					 int64 time, int64 cost)
{
	FlrCursor	cursor;

	find_at_or_before(&cursor, arena, state, time);
	if (cursor.left == 0)
		return false;
	if (flr_is_wide(state))
		return cost <= PG_INT64_MAX - cursor.cost;
	return cost < FLR_NARROW_LIMIT - cursor.cost && time >= state->base &&
		time - state->base < FLR_NARROW_LIMIT;
}

/*
 * Record cost without memory: the run before takes it and moves to its time,
 * so that nothing is forgotten too soon.
 */
bool
flr_record_merge(FlrArena *arena, FlrState *state, int64 time, int64 cost)
{
	FlrCursor	cursor;

	find_at_or_before(&cursor, arena, state, time);
	return cursor.left > 0 && extend(&cursor, time, cost);
}

/* How many runs have been added behind the last one since runs were joined, or so. */
uint32
flr_record_grown(const FlrArena *arena, const FlrState *state)
{
	FlrBlockId	last = flr_last_block(state);

	if (last == 0)
		return 0;
	return ((FlrChain *) flr_block(arena, last))->begun *
		flr_places_in(state, last);
}

/* A record has n runs now, at least one, of which the last is at this place. */
static void
end_record(FlrArena *arena, FlrState *state, const FlrCursor *place, uint32 n)
{
	FlrChain   *chain;

	state->nruns = n;
	state->tail = place->place + 1;
	if (place->block == 0)
		return;
	state->runs.chain.last = place->block;
	chain = flr_block(arena, place->block);
	give_chain(arena, chain->next);
	chain->next = 0;
}

/*
 * Join neighbouring runs of a record that has a chain: those at times first to last
 * become one at last where may_join says so and the sum of their costs fits.
 */
void
flr_record_join(FlrArena *arena, FlrState *state,
				bool (*may_join) (const void *arg, int64 first, int64 last),
				const void *arg)
{
	FlrCursor	cursor;
	FlrCursor	place;			/* where the next joined run goes */
	int64		limit = flr_is_wide(state) ? PG_INT64_MAX : FLR_NARROW_LIMIT - 1;
	int64		first;
	int64		time;
	int64		cost;
	uint32		n = 1;

	Assert(state->nruns > 0 && flr_first_block(state) != 0);
	flr_record_start(&cursor, arena, state);
	place = cursor;
	first = time = cursor.time;
	cost = cursor.cost;
	for (flr_record_next(&cursor); cursor.left > 0; flr_record_next(&cursor))
	{
		if (cursor.cost <= limit - cost && may_join(arg, first, cursor.time))
			cost += cursor.cost;
		else
		{
			flr_put_run(arena, state, place.block, place.place, time, cost);
			flr_record_next(&place);
			first = cursor.time;
			cost = cursor.cost;
			n++;
		}
		time = cursor.time;
	}
	flr_put_run(arena, state, place.block, place.place, time, cost);
	end_record(arena, state, &place, n);
	((FlrChain *) flr_block(arena, place.block))->begun = 0;
}

/*
 * Take up to cost out of the runs later than after and not later than until, the
 * first of them first, in one pass.  Returns what was taken.
 */
int64
flr_record_withdraw(FlrArena *arena, FlrState *state, int64 after, int64 until,
					int64 cost)
{
	FlrCursor	cursor;
	FlrCursor	place;			/* where the last run went that stays */
	int64		left = cost;
	uint32		n = 0;

	flr_record_start(&cursor, arena, state);
	place = cursor;
	for (; cursor.left > 0; flr_record_next(&cursor))
	{
		int64		stays = cursor.cost;

		if (cursor.time > after && cursor.time <= until)
			stays -= Min(left, stays);
		left -= cursor.cost - stays;
		if (stays == 0)
			continue;
		if (n++ > 0)
			flr_record_next(&place);
		flr_put_run(arena, state, place.block, place.place, cursor.time, stays);
	}
	if (n == 0)
		flr_record_clear(arena, state);
	else
	{
		state->total -= (uint64) (cost - left);
		end_record(arena, state, &place, n);
	}
	return cost - left;
}

/*
 * Take cost, at most what is there, out of the run under the cursor.  A run
 * that has nothing left goes away, and the cursor is not to be used again.
 */
void
flr_record_subtract(FlrArena *arena, FlrCursor *cursor, int64 cost)
{
	FlrState   *state = cursor->state;
	FlrCursor	hole = *cursor;
	FlrBlockId	block;
	FlrBlockId	last;

	Assert(cursor->left > 0 && cost <= cursor->cost);
	if (cost < cursor->cost)
	{
		flr_put_run(arena, state, cursor->block, cursor->place, cursor->time,
					cursor->cost - cost);
		state->total -= (uint64) cost;
		return;
	}
	if (cursor->left == state->nruns)
	{
		flr_record_pop(arena, state);
		return;
	}

	/* close the gap: every later run moves down by one place */
	for (flr_record_next(cursor); cursor->left > 0; flr_record_next(cursor))
	{
		flr_put_run(arena, state, hole.block, hole.place, cursor->time,
					cursor->cost);
		flr_record_next(&hole);
	}
	state->total -= (uint64) cost;
	state->nruns--;
	if (--state->tail > 0)
		return;

	/*
	 * The last block is empty; it stays as the spare successor of the one
	 * before it, and a spare behind it goes.
	 */
	last = flr_last_block(state);
	block = flr_block_after(arena, last);
	if (block != 0)
	{
		((FlrChain *) flr_block(arena, last))->next = 0;
		arena->give(arena, block);
	}
	block = flr_first_block(state);
	while (flr_block_after(arena, block) != last)
		block = flr_block_after(arena, block);
	state->runs.chain.last = block;
	state->tail = flr_places_in(state, block);
}

/* Move every run by so many microseconds into the past. */
void
flr_record_shift(FlrArena *arena, FlrState *state, int64 by)
{
	FlrCursor	cursor;

	if (!flr_is_wide(state))
	{
		state->base -= by;
		return;
	}
	for (flr_record_start(&cursor, arena, state); cursor.left > 0;
		 flr_record_next(&cursor))
		flr_put_run(arena, state, cursor.block, cursor.place,
					cursor.time - by, cursor.cost);
}
