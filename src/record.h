/*-------------------------------------------------------------------------
 *
 * record.h
 *	  What one key has spent: a sorted sequence of runs, kept in blocks.
 *
 * A run is a time and the cost spent at that time.  Runs are kept in rising
 * order of time, no two with the same time.  A few live in the state itself;
 * more of them all live in a chain of blocks of one size that an arena hands
 * out, until none is left.  A run is either narrow (8 bytes: microseconds since the state's base,
 * and cost, both below 2^32) or wide (16 bytes: any time, any cost); all runs
 * of a state are of one kind, and a state is widened when a run does not fit.
 *
 * A token bucket has no runs; its level is kept in the same state.
 *
 * The caller holds whatever lock protects the state.  Nothing here raises;
 * where a block is not to be had, a function answers false and leaves the
 * state as it was.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_RECORD_H
#define FLR_RECORD_H

/* for this library only */
#pragma GCC visibility push(hidden)

#ifndef PG_INT128_TYPE
#error "fliplet_ratelimit needs a compiler with 128-bit integers"
#endif

/*
 * Blocks.  A block is named by 32 bits, a slab's number and a place in it, so
 * that the name means the same in every process; 0 names no block.
 */
#define FLR_BLOCK_SIZE		128
#define FLR_SLAB_SHIFT		22
#define FLR_SLAB_BLOCKS		(1U << FLR_SLAB_SHIFT)
#define FLR_MAX_SLABS		(1U << (32 - FLR_SLAB_SHIFT))

typedef uint32 FlrBlockId;

typedef struct FlrArena FlrArena;

struct FlrArena
{
	char	  **slabs;			/* where this process has mapped each slab */
	FlrBlockId	(*take) (FlrArena *arena);	/* 0: none to be had */
	void		(*give) (FlrArena *arena, FlrBlockId block);
};

/* The address of a block. */
static inline void *
flr_block(const FlrArena *arena, FlrBlockId block)
{
	return arena->slabs[block >> FLR_SLAB_SHIFT] +
		(size_t) (block & (FLR_SLAB_BLOCKS - 1)) * FLR_BLOCK_SIZE;
}

typedef struct FlrNarrowRun
{
	uint32		offset;			/* microseconds since the state's base */
	uint32		cost;
} FlrNarrowRun;

typedef struct FlrWideRun
{
	int64		time;
	int64		cost;
} FlrWideRun;

#define FLR_INLINE_NARROW	4
#define FLR_INLINE_WIDE		2
#define FLR_CHAIN_NARROW	15
#define FLR_CHAIN_WIDE		7

/* A block of a record's chain. */
typedef struct FlrChain
{
	FlrBlockId	next;
	uint32		begun;			/* how many blocks the record has begun since
								 * runs were joined, when it began this one */
	union
	{
		FlrNarrowRun narrow[FLR_CHAIN_NARROW];
		FlrWideRun	wide[FLR_CHAIN_WIDE];
	}			runs;
} FlrChain;

#define FLR_STATE_WIDE		0x01	/* runs are wide */
#define FLR_STATE_CHAINED	0x02	/* the runs are in a chain, not here */

typedef struct FlrState
{
	uint64		total;			/* cost of all runs, modulo 2^64; token
								 * bucket: whole tokens missing */
	int64		base;			/* time of offset 0; token bucket: when the
								 * level was right */
	uint32		nruns;
	uint8		head;			/* place of the first run in its block */
	uint8		tail;			/* places used in the last block */
	uint8		flags;
	uint8		owner;			/* for the owner of the state, never touched */
	union
	{
		FlrNarrowRun narrow[FLR_INLINE_NARROW];
		FlrWideRun	wide[FLR_INLINE_WIDE];
		struct
		{
			int64		remainder;	/* missing beyond total, 1/period tokens */
			int64		period; /* the period that remainder is a part of */
			int64		waits_until;	/* the latest slot there was */
			uint64		stamp;	/* changes with every change of the level */
		}			bucket;
		struct
		{
			FlrBlockId	first;
			FlrBlockId	last;	/* of those in which there are runs */
		}			chain;
	}			runs;
} FlrState;

/* A place in a record.  Valid while left > 0 and the record is unchanged. */
typedef struct FlrCursor
{
	const FlrArena *arena;
	FlrState   *state;
	FlrBlockId	block;			/* 0: in the state itself */
	uint32		place;
	uint32		left;			/* runs from here on, this one included */
	int64		time;
	int64		cost;
} FlrCursor;

#define FLR_NARROW_LIMIT	(INT64CONST(1) << 32)

/* Are this state's runs wide? */
static inline bool
flr_is_wide(const FlrState *state)
{
	return (state->flags & FLR_STATE_WIDE) != 0;
}

/* The block in which a record begins; 0: the state itself. */
static inline FlrBlockId
flr_first_block(const FlrState *state)
{
	return state->flags & FLR_STATE_CHAINED ? state->runs.chain.first : 0;
}

/* The block in which it ends; 0: the state itself. */
static inline FlrBlockId
flr_last_block(const FlrState *state)
{
	return state->flags & FLR_STATE_CHAINED ? state->runs.chain.last : 0;
}

/* How many runs a block (0: the state itself) has room for. */
static inline uint32
flr_places_in(const FlrState *state, FlrBlockId block)
{
	if (block == 0)
		return flr_is_wide(state) ? FLR_INLINE_WIDE : FLR_INLINE_NARROW;
	return flr_is_wide(state) ? FLR_CHAIN_WIDE : FLR_CHAIN_NARROW;
}

/* The block that follows a block (0: the state itself), or 0. */
static inline FlrBlockId
flr_block_after(const FlrArena *arena, FlrBlockId block)
{
	return block == 0 ? 0 : ((FlrChain *) flr_block(arena, block))->next;
}

/* Read the run at a place. */
static inline void
flr_get_run(const FlrArena *arena, const FlrState *state, FlrBlockId block,
			uint32 place, int64 *time, int64 *cost)
{
	const FlrChain *chain = block ? flr_block(arena, block) : NULL;

	if (flr_is_wide(state))
	{
		const FlrWideRun *run = chain ? &chain->runs.wide[place] :
		&state->runs.wide[place];

		*time = run->time;
		*cost = run->cost;
	}
	else
	{
		const FlrNarrowRun *run = chain ? &chain->runs.narrow[place] :
		&state->runs.narrow[place];

		*time = state->base + run->offset;
		*cost = run->cost;
	}
}

/* Write the run at a place.  The caller knows that it fits. */
static inline void
flr_put_run(const FlrArena *arena, FlrState *state, FlrBlockId block,
			uint32 place, int64 time, int64 cost)
{
	FlrChain   *chain = block ? flr_block(arena, block) : NULL;

	if (flr_is_wide(state))
	{
		FlrWideRun *run = chain ? &chain->runs.wide[place] :
		&state->runs.wide[place];

		run->time = time;
		run->cost = cost;
	}
	else
	{
		FlrNarrowRun *run = chain ? &chain->runs.narrow[place] :
		&state->runs.narrow[place];

		Assert(time >= state->base && time - state->base < FLR_NARROW_LIMIT);
		Assert(cost < FLR_NARROW_LIMIT);
		run->offset = (uint32) (time - state->base);
		run->cost = (uint32) cost;
	}
}

/* The time of the first run of a record that has one. */
static inline int64
flr_record_first_time(const FlrArena *arena, const FlrState *state)
{
	int64		time;
	int64		cost;

	flr_get_run(arena, state, flr_first_block(state), state->head, &time, &cost);
	return time;
}

/* The time of the last run of a record that has one. */
static inline int64
flr_record_last_time(const FlrArena *arena, const FlrState *state)
{
	int64		time;
	int64		cost;

	Assert(state->nruns > 0);
	flr_get_run(arena, state, flr_last_block(state), state->tail - 1, &time,
				&cost);
	return time;
}

/* Largest multiple of step that is not above t, also for negative t. */
static inline int64
flr_floor_to(int64 t, int64 step)
{
	int64		rest = t % step;

	return t - (rest < 0 ? rest + step : rest);
}

/*
 * The usual cases of flr_record_add(), and nothing else: a narrow run behind
 * the last one in a block that has room, or one that joins the last one,
 * because it stands at the same time or, with a step, in the same step.
 */
static inline bool
flr_record_append(const FlrArena *arena, FlrState *state, int64 time,
				  int64 cost, int64 step)
{
	FlrBlockId	block = flr_last_block(state);
	FlrChain   *chain;
	FlrNarrowRun *last;
	int64		offset = time - state->base;

	if (state->nruns == 0 || flr_is_wide(state) ||
		offset < 0 || offset >= FLR_NARROW_LIMIT || cost >= FLR_NARROW_LIMIT)
		return false;
	chain = block ? flr_block(arena, block) : NULL;
	last = &(chain ? chain->runs.narrow : state->runs.narrow)[state->tail - 1];
	if (last->offset > offset)
		return false;
	if (last->offset == offset ||
		(step > 0 && state->base + last->offset >= flr_floor_to(time, step)))
	{
		if (cost >= FLR_NARROW_LIMIT - last->cost)
			return false;
		last->offset = (uint32) offset;
		last->cost += (uint32) cost;
	}
	else
	{
		if (state->tail == (chain ? FLR_CHAIN_NARROW : FLR_INLINE_NARROW))
			return false;
		last[1].offset = (uint32) offset;
		last[1].cost = (uint32) cost;
		state->tail++;
		state->nruns++;
	}
	state->total += (uint64) cost;
	return true;
}

extern void flr_record_init(FlrState *state);
extern void flr_record_clear(FlrArena *arena, FlrState *state);
extern void flr_record_start(FlrCursor *cursor, const FlrArena *arena,
							 const FlrState *state);
extern void flr_record_next(FlrCursor *cursor);
extern uint64 flr_record_seek(FlrCursor *cursor, const FlrArena *arena,
							  const FlrState *state, int64 time);
extern void flr_record_pop(FlrArena *arena, FlrState *state);
extern bool flr_record_reserve(FlrArena *arena, FlrState *state,
							   int64 time, int64 cost, bool wide);
extern bool flr_record_add(FlrArena *arena, FlrState *state, int64 time,
						   int64 cost, bool wide, int64 not_before);
extern bool flr_record_can_merge(const FlrArena *arena,
								 const FlrState *state,
								 int64 time, int64 cost);
extern bool flr_record_merge(FlrArena *arena, FlrState *state,
							 int64 time, int64 cost);
extern uint32 flr_record_grown(const FlrArena *arena, const FlrState *state);
extern void flr_record_join(FlrArena *arena, FlrState *state,
							bool (*may_join) (const void *arg, int64 first,
											  int64 last),
							const void *arg);
extern int64 flr_record_withdraw(FlrArena *arena, FlrState *state, int64 after,
								 int64 until, int64 cost);
extern void flr_record_subtract(FlrArena *arena, FlrCursor *cursor,
								int64 cost);
extern void flr_record_shift(FlrArena *arena, FlrState *state, int64 by);

#pragma GCC visibility pop

#endif							/* FLR_RECORD_H */
