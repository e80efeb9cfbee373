/*-------------------------------------------------------------------------
 *
 * keep.h
 *	  Counters kept in the table fl_rate_saved across restarts.
 *
 * That requests find the saved counters restored is counters.h's business, see
 * flr_keep_restore() there.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_KEEP_H
#define FLR_KEEP_H

#include "hash.h"

/* for this library only */
#pragma GCC visibility push(hidden)

extern void flr_keep_init(void);
extern void flr_keep_check_role(const char *what);
extern void flr_keep_lock(Oid relation);
extern Datum flr_subject_datum(FlrHash subject);

#pragma GCC visibility pop

#endif							/* FLR_KEEP_H */
