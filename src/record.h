/*-------------------------------------------------------------------------
 *
 * record.h
 *	  What one key has spent: a sorted sequence of runs, kept in blocks.
 *
 * A run is a time and the cost spent at that time.  Runs are kept in rising
 * order of time, no two with the same time.  The first few live in the state
 * itself, the others in a chain of blocks of one size that an arena hands
 * out.  A run is either narrow (8 bytes: microseconds since the state's base,
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

#ifndef PG_INT128_TYPE
#error "fliplet_ratelimit needs a compiler with 128-bit integers"
#endif

/*
 * Blocks.  A block is named by 32 bits, a slab's number and a place in it, so
 * that the name means the same in every process; 0 names no block.
 */
#define FLR_BLOCK_SIZE		176
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
#define FLR_CHAIN_NARROW	21
#define FLR_CHAIN_WIDE		10

/* A block of a record's chain. */
typedef struct FlrChain
{
	FlrBlockId	next;
	uint32		unused;
	union
	{
		FlrNarrowRun narrow[FLR_CHAIN_NARROW];
		FlrWideRun	wide[FLR_CHAIN_WIDE];
	}			runs;
} FlrChain;

#define FLR_STATE_WIDE		0x01	/* runs are wide */
#define FLR_STATE_CHAINED	0x02	/* the first run is in the chain, not here */

typedef struct FlrState
{
	uint64		total;			/* cost of all runs, modulo 2^64; token
								 * bucket: whole tokens missing */
	int64		base;			/* time of offset 0; token bucket: when the
								 * level was right */
	FlrBlockId	first;			/* the chain's first and last block */
	FlrBlockId	last;
	uint32		nruns;
	uint8		head;			/* place of the first run in its block */
	uint8		tail;			/* places used in the last block */
	uint8		flags;
	uint8		unused;
	union
	{
		FlrNarrowRun narrow[FLR_INLINE_NARROW];
		FlrWideRun	wide[FLR_INLINE_WIDE];
		struct
		{
			int64		remainder;	/* missing beyond total, 1/period tokens */
			int64		period; /* the period that remainder is a part of */
		}			bucket;
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

extern void flr_record_init(FlrState *state);
extern void flr_record_clear(FlrArena *arena, FlrState *state);
extern void flr_record_start(FlrCursor *cursor, const FlrArena *arena,
							 const FlrState *state);
extern void flr_record_next(FlrCursor *cursor);
extern int64 flr_record_last_time(const FlrArena *arena,
								  const FlrState *state);
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
extern void flr_record_subtract(FlrArena *arena, FlrCursor *cursor,
								int64 cost);
extern void flr_record_shift(FlrArena *arena, FlrState *state, int64 by);

#endif							/* FLR_RECORD_H */
