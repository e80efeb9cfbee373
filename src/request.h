/*-------------------------------------------------------------------------
 *
 * request.h
 *	  Reading the arguments that all functions share.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_REQUEST_H
#define FLR_REQUEST_H

#include "fmgr.h"

#include "counters.h"

/* for this library only */
#pragma GCC visibility push(hidden)

/* How a function takes its scopes and keys. */
typedef enum FlrSignature
{
	FLR_TEXT_KEY,				/* scope text, key text */
	FLR_BIGINT_KEY,				/* scope text, key bigint */
	FLR_ARRAYS					/* scopes text[], keys text[] */
} FlrSignature;

/* Room for a bigint as text. */
#define FLR_BIGINT_SIZE		24

/* The bytes of a text datum, which is detoasted if need be. */
static inline FlrText
flr_text_of(Datum datum)
{
	struct varlena *value = (struct varlena *) DatumGetPointer(datum);
	FlrText		result;

	if (likely(!VARATT_IS_EXTENDED(value)))
	{
		result.data = VARDATA(value);
		result.size = VARSIZE(value) - VARHDRSZ;
		return result;
	}
	if (!VARATT_IS_SHORT(value) || VARATT_IS_EXTERNAL(value))
		value = pg_detoast_datum_packed(value);
	result.data = VARDATA_ANY(value);
	result.size = VARSIZE_ANY_EXHDR(value);
	return result;
}

pg_noreturn extern void flr_null_argument(const char *name);
pg_noreturn extern void flr_empty_argument(const char *name);
pg_noreturn extern void flr_bad_key(FlrText key);
pg_noreturn extern void flr_bad_cost(void);

/* A text argument that must not be NULL. */
static inline FlrText
flr_text_arg(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (unlikely(PG_ARGISNULL(number)))
		flr_null_argument(name);
	return flr_text_of(PG_GETARG_DATUM(number));
}

/* Raise an error unless this can be a key. */
static inline void
flr_check_key(FlrText key)
{
	if (unlikely(key.size == 0 || (key.size == 1 && key.data[0] == '*')))
		flr_bad_key(key);
}

extern void flr_read_pairs(FunctionCallInfo fcinfo, FlrSignature signature,
						   FlrRequest *request, char *buffer);
extern int64 flr_interval_arg(FunctionCallInfo fcinfo, int number,
							  const char *name);

/*
 * Read the five facts of a request, arguments 0 to 4.  That names are well
 * formed is checked only where they are not the last request's.
 */
static inline void
flr_read_request(FunctionCallInfo fcinfo, FlrSignature signature,
				 FlrRequest *request, char *buffer)
{
	if (signature == FLR_TEXT_KEY)
	{
		request->npairs = 1;
		request->pairs[0].scope = flr_text_arg(fcinfo, 0, "scope");
		request->pairs[0].key = flr_text_arg(fcinfo, 1, "key");
		flr_check_key(request->pairs[0].key);
	}
	else
		flr_read_pairs(fcinfo, signature, request, buffer);
	request->api = flr_text_arg(fcinfo, 2, "api");
	if (unlikely(PG_ARGISNULL(3)))
		flr_null_argument("cost");
	request->cost = PG_GETARG_INT64(3);
	if (unlikely(request->cost < 1))
		flr_bad_cost();
	request->plan.data = NULL;
	request->plan.size = 0;
	if (unlikely(!PG_ARGISNULL(4)))
	{
		request->plan = flr_text_of(PG_GETARG_DATUM(4));
		if (request->plan.size == 0)
			flr_empty_argument("plan");
	}
}

/* Find the limits that apply to a request. */
static inline void
flr_find_limits(FlrRequest *request, Oid function)
{
	request->set.n = 0;
	request->set.unlimited = NULL;
	flr_limits_begin(function);
	for (int i = 0; i < request->npairs; i++)
		flr_limits_find(&request->pairs[i], &request->api, &request->plan, i,
						&request->set);
}

/* An array argument of fl_rate_try_batch(), taken apart. */
typedef struct FlrBatchArray
{
	int			n;
	Datum	   *elements;		/* NULL: the argument is NULL */
	bool	   *nulls;
} FlrBatchArray;

/* The arrays of a batch. */
typedef struct FlrBatch
{
	FlrBatchArray scopes;
	FlrBatchArray keys;
	FlrBatchArray apis;
	FlrBatchArray costs;
	FlrBatchArray plans;
} FlrBatch;

extern void flr_read_batch(FunctionCallInfo fcinfo, FlrBatch *batch);
extern void flr_batch_item(const FlrBatch *batch, int i, FlrRequest *item);

#pragma GCC visibility pop

#endif							/* FLR_REQUEST_H */
