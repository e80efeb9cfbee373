/*-------------------------------------------------------------------------
 *
 * arena.c
 *	  Blocks for the tests, and a watch over them.
 *
 * Free blocks are filled with a pattern and handed out in random order, so
 * that whoever reads or writes a block after giving it back is found out.
 * The address sanitizer, where there is one, sees such an access at once.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "property.h"

#ifdef WATCHED
#include <sanitizer/asan_interface.h>
#define HIDE(block) ASAN_POISON_MEMORY_REGION(block, FLR_BLOCK_SIZE)
#define SHOW(block) ASAN_UNPOISON_MEMORY_REGION(block, FLR_BLOCK_SIZE)
#else
#define HIDE(block) ((void) 0)
#define SHOW(block) ((void) 0)
#endif

/* Small slabs: names of blocks soon differ in the slab as well. */
#define SLAB_BLOCKS 64

#define FREE_PATTERN 0xDB
#define NEW_PATTERN 0xA7

TestArena	blocks;
FlrArena   *arena = &blocks.arena;

static int
index_of(FlrBlockId block)
{
	return (int) (block >> FLR_SLAB_SHIFT) * SLAB_BLOCKS +
		(int) (block & (FLR_SLAB_BLOCKS - 1));
}

static void
add_slab(void)
{
	int			slab = blocks.nslabs++;
	size_t		n = (size_t) blocks.nslabs * SLAB_BLOCKS;

	if (slab >= (int) FLR_MAX_SLABS)
		abort();
	blocks.slabs[slab] = malloc(SLAB_BLOCKS * FLR_BLOCK_SIZE);
	blocks.free = realloc(blocks.free, n * sizeof(FlrBlockId));
	blocks.taken = realloc(blocks.taken, n);
	if (!blocks.slabs[slab] || !blocks.free || !blocks.taken)
		abort();
	memset(blocks.slabs[slab], FREE_PATTERN, SLAB_BLOCKS * FLR_BLOCK_SIZE);
	for (uint32 i = 0; i < SLAB_BLOCKS; i++)
	{
		FlrBlockId	block = ((FlrBlockId) slab << FLR_SLAB_SHIFT) | i;

		blocks.taken[index_of(block)] = false;
		if (block != 0)
			blocks.free[blocks.nfree++] = block;
		HIDE(flr_block(arena, block));
	}
}

static uint64
next_random(void)
{
	blocks.random = blocks.random * UINT64CONST(6364136223846793005) + 1;
	return blocks.random >> 33;
}

static FlrBlockId
take(FlrArena *unused)
{
	FlrBlockId	block;
	unsigned char *bytes;
	int			pick;
	bool		untouched = true;

	if (blocks.refusals > 0 && (int) (next_random() % 100) < blocks.refusals)
		return 0;
	if (blocks.nfree == 0)
		add_slab();
	pick = (int) (next_random() % (uint64) blocks.nfree);
	block = blocks.free[pick];
	blocks.free[pick] = blocks.free[--blocks.nfree];
	bytes = flr_block(arena, block);
	SHOW(bytes);
	for (int i = 0; i < FLR_BLOCK_SIZE; i++)
		untouched &= bytes[i] == FREE_PATTERN;
	check(BLOCKS_UNTOUCHED, untouched, "block %u was written while it was free",
		  block);
	memset(bytes, NEW_PATTERN, FLR_BLOCK_SIZE);
	blocks.taken[index_of(block)] = true;
	blocks.ntaken++;
	return block;
}

static void
give(FlrArena *unused, FlrBlockId block)
{
	if (block == 0 ||
		(int) (block >> FLR_SLAB_SHIFT) >= blocks.nslabs ||
		(block & (FLR_SLAB_BLOCKS - 1)) >= SLAB_BLOCKS ||
		!blocks.taken[index_of(block)])
	{
		check(BLOCKS_BALANCED, false, "block %u was given back, but not taken",
			  block);
		return;
	}
	blocks.taken[index_of(block)] = false;
	blocks.ntaken--;
	blocks.free[blocks.nfree++] = block;
	memset(flr_block(arena, block), FREE_PATTERN, FLR_BLOCK_SIZE);
	HIDE(flr_block(arena, block));
}

void
arena_init(void)
{
	blocks.arena.slabs = blocks.slabs;
	blocks.arena.take = take;
	blocks.arena.give = give;
	blocks.random = 1;
}

void
arena_free(void)
{
	for (int i = 0; i < blocks.nslabs; i++)
	{
		for (uint32 j = 0; j < SLAB_BLOCKS; j++)
			SHOW(flr_block(arena, ((FlrBlockId) i << FLR_SLAB_SHIFT) | j));
		free(blocks.slabs[i]);
	}
	free(blocks.free);
	free(blocks.taken);
	memset(&blocks, 0, sizeof(blocks));
}
