/*-------------------------------------------------------------------------
 *
 * router.h
 *	  The same calls, answered by other servers.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_ROUTER_H
#define FLR_ROUTER_H

/* for this library only */
#pragma GCC visibility push(hidden)

extern void flr_router_init(void);

#pragma GCC visibility pop

#endif							/* FLR_ROUTER_H */
