/*-------------------------------------------------------------------------
 *
 * request.c
 *	  Reading the arguments that all functions share.
 *
 * No function is STRICT: for a strict function NULL in means NULL out, which
 * a caller could take for a pass.  Here NULL is an error, plan aside.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "request.h"

/* Raise the error for a NULL argument. */
void
flr_null_argument(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", name)));
}

/* An interval argument as microseconds; not NULL, negative or infinite. */
int64
flr_interval_arg(FunctionCallInfo fcinfo, int number, const char *name)
{
	Interval   *interval;
	int64		usecs;

	if (PG_ARGISNULL(number))
		flr_null_argument(name);
	interval = PG_GETARG_INTERVAL_P(number);
	usecs = flr_interval_usecs(interval);
	if (usecs < 0 || usecs > FLR_MAX_PERIOD ||
		!flr_interval_is_finite(interval))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be between 0 and 200 years", name)));
	return usecs;
}

/* Raise the error for an empty argument. */
void
flr_empty_argument(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s must not be empty", name)));
}

/* Raise the error for a cost that is none. */
void
flr_bad_cost(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("cost must be at least 1")));
}

/* Raise the error for a key that cannot be one. */
void
flr_bad_key(FlrText key)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 key.size == 0 ? errmsg("key must not be empty") :
			 errmsg("the key of a request must not be \"*\"")));
}

/* The elements of a one-dimensional text array without NULLs. */
static Datum *
array_arg(FunctionCallInfo fcinfo, int number, const char *name, int *n)
{
	ArrayType  *array;
	Datum	   *elements;
	bool	   *nulls;

	if (PG_ARGISNULL(number))
		flr_null_argument(name);
	array = PG_GETARG_ARRAYTYPE_P(number);
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s must be a one-dimensional array", name)));
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, n);
	if (*n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s must not be empty", name)));
	for (int i = 0; i < *n; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain nulls", name)));
	return elements;
}

/* Read scopes and keys from two arrays. */
static void
read_arrays(FunctionCallInfo fcinfo, FlrRequest *request)
{
	int			nscopes;
	int			nkeys;
	Datum	   *scopes = array_arg(fcinfo, 0, "scopes", &nscopes);
	Datum	   *keys = array_arg(fcinfo, 1, "keys", &nkeys);

	if (nscopes != nkeys)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("scopes and keys must have the same number of elements"),
				 errdetail("There are %d scopes and %d keys.",
						   nscopes, nkeys)));
	if (nscopes > FLR_MAX_PAIRS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a request has at most %d pairs of scope and key",
						FLR_MAX_PAIRS)));
	request->npairs = nscopes;
	for (int i = 0; i < nscopes; i++)
	{
		FlrPair    *pair = &request->pairs[i];

		pair->scope = flr_text_of(scopes[i]);
		pair->key = flr_text_of(keys[i]);
		flr_check_key(pair->key);
		for (int j = 0; j < i; j++)
		{
			const FlrPair *other = &request->pairs[j];

			if (other->scope.size == pair->scope.size &&
				other->key.size == pair->key.size &&
				memcmp(other->scope.data, pair->scope.data,
					   pair->scope.size) == 0 &&
				memcmp(other->key.data, pair->key.data, pair->key.size) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("pair %d of scope and key is the same as pair %d",
								i + 1, j + 1)));
		}
	}
}

/*
 * Read the first two arguments.  buffer has FLR_BIGINT_SIZE bytes and lives as
 * long as the request.
 */
void
flr_read_pairs(FunctionCallInfo fcinfo, FlrSignature signature,
			   FlrRequest *request, char *buffer)
{
	FlrPair    *pair = &request->pairs[0];

	request->npairs = 1;
	switch (signature)
	{
		case FLR_TEXT_KEY:
			pair->scope = flr_text_arg(fcinfo, 0, "scope");
			pair->key = flr_text_arg(fcinfo, 1, "key");
			flr_check_key(pair->key);
			break;
		case FLR_BIGINT_KEY:
			pair->scope = flr_text_arg(fcinfo, 0, "scope");
			if (PG_ARGISNULL(1))
				flr_null_argument("key");
			pair->key.data = buffer;
			pair->key.size = pg_lltoa(PG_GETARG_INT64(1), buffer);
			break;
		case FLR_ARRAYS:
			read_arrays(fcinfo, request);
			break;
	}
}

/* ------------------------------------------------------------------------
 * Many requests in one call
 * ------------------------------------------------------------------------
 */

/* Take an array argument apart; it must be one-dimensional. */
static void
batch_arg(FunctionCallInfo fcinfo, int number, const char *name,
		  Oid type, bool may_be_null, FlrBatchArray *result)
{
	ArrayType  *array;

	memset(result, 0, sizeof(FlrBatchArray));
	if (PG_ARGISNULL(number))
	{
		if (may_be_null)
			return;
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
	}
	array = PG_GETARG_ARRAYTYPE_P(number);
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s must be a one-dimensional array", name)));
	if (type == TEXTOID)
		deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT,
						  &result->elements, &result->nulls, &result->n);
	else
		deconstruct_array(array, INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
						  TYPALIGN_DOUBLE,
						  &result->elements, &result->nulls, &result->n);
}

/* Raise an error unless two arrays are equally long. */
static void
same_length(const FlrBatchArray *a, const FlrBatchArray *b, const char *name)
{
	if (b->elements != NULL && a->n != b->n)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("scopes and %s must have the same number of elements",
						name),
				 errdetail("There are %d scopes and %d %s.",
						   a->n, b->n, name)));
}

/* Read the five arrays of a batch, and check all but their elements. */
void
flr_read_batch(FunctionCallInfo fcinfo, FlrBatch *batch)
{
	batch_arg(fcinfo, 0, "scopes", TEXTOID, false, &batch->scopes);
	batch_arg(fcinfo, 1, "keys", TEXTOID, false, &batch->keys);
	batch_arg(fcinfo, 2, "apis", TEXTOID, false, &batch->apis);
	batch_arg(fcinfo, 3, "costs", INT8OID, true, &batch->costs);
	batch_arg(fcinfo, 4, "plans", TEXTOID, true, &batch->plans);
	same_length(&batch->scopes, &batch->keys, "keys");
	same_length(&batch->scopes, &batch->apis, "apis");
	same_length(&batch->scopes, &batch->costs, "costs");
	same_length(&batch->scopes, &batch->plans, "plans");
}

/* Text number i of an array that must not contain NULL. */
static FlrText
batch_text(const FlrBatchArray *array, int i, const char *name)
{
	if (array->nulls[i])
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not contain nulls", name)));
	return flr_text_of(array->elements[i]);
}

/*
 * Read request number i of a batch, or raise.  item has room for one pair and
 * no more.
 */
void
flr_batch_item(const FlrBatch *batch, int i, FlrRequest *item)
{
	FlrPair    *pair = &item->pairs[0];

	item->npairs = 1;
	pair->scope = batch_text(&batch->scopes, i, "scopes");
	pair->key = batch_text(&batch->keys, i, "keys");
	flr_check_key(pair->key);
	item->api = batch_text(&batch->apis, i, "apis");
	item->cost = 1;
	if (batch->costs.elements != NULL)
	{
		if (batch->costs.nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("costs must not contain nulls")));
		item->cost = DatumGetInt64(batch->costs.elements[i]);
		if (item->cost < 1)
			flr_bad_cost();
	}
	item->plan.data = NULL;
	item->plan.size = 0;
	if (batch->plans.elements != NULL && !batch->plans.nulls[i])
	{
		item->plan = batch_text(&batch->plans, i, "plans");
		if (item->plan.size == 0)
			flr_empty_argument("plan");
	}
}
