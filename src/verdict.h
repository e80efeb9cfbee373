/*-------------------------------------------------------------------------
 *
 * verdict.h
 *	  The answer to a request: as fl_rate_verdict, as an error, as HTTP.
 *
 * Runs after all locks are released; may allocate and raise.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_VERDICT_H
#define FLR_VERDICT_H

#include "access/htup.h"
#include "fmgr.h"

#include "counters.h"

/* for this library only */
#pragma GCC visibility push(hidden)

/* A verdict, independent of where it comes from.  Strings may be NULL. */
typedef struct FlrVerdict
{
	bool		allowed;
	const char *reason;
	bool		has_remaining;
	int64		remaining;
	bool		has_delay;
	int64		delay;			/* microseconds */
	bool		has_next;
	TimestampTz next_valid_at;
	bool		has_reset;
	TimestampTz reset_at;
	const char *scope;
	const char *key;
	const char *api;
	const char *name;
	int32		limit_id;		/* valid if name is not NULL */
	bool		has_max;
	int64		max_requests;
	bool		has_period;
	Interval	period;
} FlrVerdict;

extern void flr_verdict_fill(FlrVerdict *verdict, const FlrRequest *request,
							 const FlrOutcome *outcome);
extern void flr_outcome_values(const FlrOutcome *outcome, int64 wall_offset,
							   Datum scope, Datum key, Datum api,
							   Datum *values, bool *nulls);
extern Datum flr_text_datum(FlrText text);
extern Datum flr_outcome_datum(FunctionCallInfo fcinfo,
							   const FlrRequest *request,
							   const FlrOutcome *outcome);
extern void flr_verdict_read(HeapTupleHeader header, FlrVerdict *verdict);
extern void flr_raise_refusal(const FlrVerdict *verdict);
extern void flr_verdict_init(void);

#define FLR_VERDICT_COLUMNS		13

#pragma GCC visibility pop

#endif							/* FLR_VERDICT_H */
