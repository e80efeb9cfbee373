/*-------------------------------------------------------------------------
 *
 * refusal.h
 *	  A verdict for clients: as an error, as JSON, as HTTP.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_REFUSAL_H
#define FLR_REFUSAL_H

#include "verdict.h"

/* for this library only */
#pragma GCC visibility push(hidden)

extern void flr_raise_refusal(const FlrVerdict *verdict);
extern Datum flr_verdict_result(FunctionCallInfo fcinfo,
								const FlrVerdict *verdict);
extern void flr_refusal_init(void);

#pragma GCC visibility pop

#endif							/* FLR_REFUSAL_H */
