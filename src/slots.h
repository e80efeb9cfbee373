/*-------------------------------------------------------------------------
 *
 * slots.h
 *	  Which slot of a cluster a key belongs to.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_SLOTS_H
#define FLR_SLOTS_H

#include "counters.h"

/* for this library only */
#pragma GCC visibility push(hidden)

/* The most slots of a cluster. */
#define FLR_MAX_SLOTS	4096

extern uint32 flr_route_hash(FlrText scope, FlrText key);

/* The setting owner_check, read; NULL when it is empty. */
extern const struct FlrOwnedSlots *flr_owned_slots;

extern void flr_refuse_foreign(const FlrPair *pairs, int npairs);
extern void flr_slots_init(void);

/* Raise an error for a pair that another node owns, if that is to be checked. */
static inline void
flr_check_owner(const FlrPair *pairs, int npairs)
{
	if (unlikely(flr_owned_slots != NULL))
		flr_refuse_foreign(pairs, npairs);
}

#pragma GCC visibility pop

#endif							/* FLR_SLOTS_H */
