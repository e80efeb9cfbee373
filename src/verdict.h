/*-------------------------------------------------------------------------
 *
 * verdict.h
 *	  The answer to a request, made and read.
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
#include "utils/tuplestore.h"

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

/* The columns of fl_rate_verdict. */
#define FLR_VERDICT_COLUMNS		13

/* The longest tuple that FlrLastRow keeps. */
#define FLR_LAST_ROW_SIZE		256

/* The same as a row of fl_rate_verdict. */
typedef struct FlrVerdictRow
{
	Datum		values[FLR_VERDICT_COLUMNS];
	bool		nulls[FLR_VERDICT_COLUMNS];
} FlrVerdictRow;

/*
 * The last row that was put, if all of its columns were there: the next one
 * probably differs from it in its key and in numbers alone.  What values point to is
 * known by where it is, so the row is to be forgotten (size 0) before that changes.
 */
typedef struct FlrLastRow
{
	Size		size;			/* of its tuple */
	Datum		reason;
	Datum		api;
	Datum		period;
	Size		key_size;		/* without a header, which is a short one */
	uint16		remaining_at;	/* where columns are in its tuple */
	uint16		delay_at;
	uint16		next_at;
	uint16		reset_at;
	uint16		key_at;
	char		tuple[FLR_LAST_ROW_SIZE] pg_attribute_aligned(MAXIMUM_ALIGNOF);
} FlrLastRow;

/* Rows on their way into a tuplestore. */
typedef struct FlrRows
{
	TupleTableSlot slot;		/* first: its callback casts it back */
	Tuplestorestate *store;
	TupleDesc	desc;
	const FlrVerdictRow *row;	/* the row that is being put */
	uint32		present;		/* its columns that are not null, as bits */
	Size		room;			/* enough for its tuple */
	FlrLastRow	last;
} FlrRows;

extern const Oid flr_verdict_types[FLR_VERDICT_COLUMNS];

extern const char *flr_reason_name(FlrReason reason);
extern void flr_verdict_fill(FlrVerdict *verdict, const FlrRequest *request,
							 const FlrOutcome *outcome);
extern Datum flr_text_datum(FlrText text);
extern void flr_row_of_outcome(FlrVerdictRow *row, const FlrOutcome *outcome,
							   int64 wall_offset, Datum scope, Datum key,
							   Datum api);
extern Datum flr_row_datum(FunctionCallInfo fcinfo, const FlrVerdictRow *row);
extern Datum flr_outcome_datum(FunctionCallInfo fcinfo,
							   const FlrRequest *request,
							   const FlrOutcome *outcome);
extern FlrRows *flr_rows_begin(Tuplestorestate *store, TupleDesc desc);
extern void flr_rows_put(FlrRows *rows, const FlrVerdictRow *row);
extern void flr_verdict_of_row(FlrVerdict *verdict, const FlrVerdictRow *row);
extern void flr_row_read(HeapTupleHeader header, FlrVerdictRow *row);

#pragma GCC visibility pop

#endif							/* FLR_VERDICT_H */
