/*-------------------------------------------------------------------------
 *
 * check.h
 *	  Spending a request from C: what the trigger needs of check.c.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_CHECK_H
#define FLR_CHECK_H

#include "verdict.h"

/* for this library only */
#pragma GCC visibility push(hidden)

extern bool flr_check_request(FlrRequest *request, Oid function,
							  int64 *remaining);

#pragma GCC visibility pop

#endif							/* FLR_CHECK_H */
