/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  Maintenance without a scheduler: a background worker for each database.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_WORKER_H
#define FLR_WORKER_H

/* for this library only */
#pragma GCC visibility push(hidden)

extern void flr_worker_init(void);

#pragma GCC visibility pop

#endif							/* FLR_WORKER_H */
