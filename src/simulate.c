/*-------------------------------------------------------------------------
 *
 * simulate.c
 *	  fl_rate_simulate(): replay arrivals through the algorithms.
 *
 * The very code that judges live requests runs here in private memory and
 * with the time that the caller gives, so that a limit can be tried against a
 * log before it is switched on, and an algorithm be tested without sleeping.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "limits.h"
#include "request.h"

/* Blocks of a private slab. */
#define SLAB_BLOCKS		1024

/* An arena in private memory. */
typedef struct PrivateArena
{
	FlrArena	arena;			/* first: its functions cast it back */
	char	   *slabs[FLR_MAX_SLABS];
	uint32		nslabs;
	uint32		used;			/* blocks of the last slab */
	FlrBlockId	free;
	MemoryContext context;
} PrivateArena;

/* Take a block, allocating a slab when there is none. */
static FlrBlockId
private_take(FlrArena *arena)
{
	PrivateArena *private = (PrivateArena *) arena;
	FlrBlockId	block = private->free;

	if (block != 0)
	{
		private->free = *(FlrBlockId *) flr_block(arena, block);
		return block;
	}
	if (private->nslabs == 0 || private->used == SLAB_BLOCKS)
	{
		if (private->nslabs == FLR_MAX_SLABS)
			return 0;
		private->slabs[private->nslabs++] =
			MemoryContextAlloc(private->context,
							   SLAB_BLOCKS * FLR_BLOCK_SIZE);
		private->used = private->nslabs == 1 ? 1 : 0;
	}
	return ((private->nslabs - 1) << FLR_SLAB_SHIFT) + private->used++;
}

/* Put a block back. */
static void
private_give(FlrArena *arena, FlrBlockId block)
{
	PrivateArena *private = (PrivateArena *) arena;

	*(FlrBlockId *) flr_block(arena, block) = private->free;
	private->free = block;
}

/* Raise the error for an argument that makes no sense. */
static void
invalid(const char *message)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message)));
}

/* Turn the arguments into a rule, or raise. */
static void
read_rule(FunctionCallInfo fcinfo, FlrRule *rule, FlrCalendarArg *calendar)
{
	FlrText		algorithm = flr_text_arg(fcinfo, 4, "algorithm");
	Interval   *period;

	memset(rule, 0, sizeof(FlrRule));
	memset(calendar, 0, sizeof(FlrCalendarArg));
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("max_requests must not be null")));
	rule->max_requests = PG_GETARG_INT64(0);
	if (rule->max_requests < 0)
		invalid("max_requests must not be negative");
	rule->period = flr_interval_arg(fcinfo, 1, "period");
	rule->retention = rule->period;
	if (rule->period == 0)
		invalid("period must be positive");
	period = PG_GETARG_INTERVAL_P(1);

	if (algorithm.size == 14 &&
		memcmp(algorithm.data, "sliding_window", 14) == 0)
		rule->algorithm = FLR_SLIDING_WINDOW;
	else if (algorithm.size == 12 &&
			 memcmp(algorithm.data, "token_bucket", 12) == 0)
		rule->algorithm = FLR_TOKEN_BUCKET;
	else if (algorithm.size == 12 &&
			 memcmp(algorithm.data, "fixed_window", 12) == 0)
		rule->algorithm = FLR_FIXED_WINDOW;
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown rate limit algorithm \"%.*s\"",
						algorithm.size, algorithm.data),
				 errhint("The algorithms are \"sliding_window\", \"token_bucket\" and \"fixed_window\".")));

	if (rule->algorithm == FLR_FIXED_WINDOW)
	{
		if (!flr_calendar_setup(rule, calendar, period, pg_tzset("UTC"),
								false, 0))
			invalid("a period of months must have neither days nor hours");
	}
	else if (period->month != 0)
		invalid("only fixed_window takes a period of months");

	rule->burst = rule->max_requests;
	if (!PG_ARGISNULL(5))
	{
		if (rule->algorithm != FLR_TOKEN_BUCKET)
			invalid("only token_bucket takes a burst");
		rule->burst = PG_GETARG_INT64(5);
		if (rule->burst < 1)
			invalid("burst must be at least 1");
	}
}

/* The elements of a one-dimensional array of 8-byte values without NULLs. */
static Datum *
read_array(FunctionCallInfo fcinfo, int number, const char *name, Oid type,
		   int *n)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(number);
	Datum	   *elements;
	bool	   *nulls;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s must be a one-dimensional array", name)));
	deconstruct_array(array, type, sizeof(int64), FLOAT8PASSBYVAL,
					  TYPALIGN_DOUBLE, &elements, &nulls, n);
	for (int i = 0; i < *n; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain nulls", name)));
	return elements;
}

PG_FUNCTION_INFO_V1(fl_rate_simulate);

/*
 * fl_rate_simulate(max_requests, period, arrivals, costs, algorithm, burst):
 * one row per arrival, in order.
 */
Datum
fl_rate_simulate(PG_FUNCTION_ARGS)
{
	PrivateArena arena = {.arena = {.take = private_take,.give = private_give}};
	FlrCalendarArg calendar;
	FlrRule		rule;
	FlrState	state;
	Datum	   *arrivals;
	Datum	   *costs = NULL;
	int			n;
	int			ncosts;
	int64		last = PG_INT64_MIN;

	read_rule(fcinfo, &rule, &calendar);
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("arrivals must not be null")));
	arrivals = read_array(fcinfo, 2, "arrivals", TIMESTAMPTZOID, &n);
	if (!PG_ARGISNULL(3))
	{
		costs = read_array(fcinfo, 3, "costs", INT8OID, &ncosts);
		if (ncosts != n)
			ereport(ERROR,
					(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					 errmsg("arrivals and costs must have the same number of elements"),
					 errdetail("There are %d arrivals and %d costs.",
							   n, ncosts)));
	}
	InitMaterializedSRF(fcinfo, 0);
	arena.arena.slabs = arena.slabs;
	arena.context = CurrentMemoryContext;
	flr_state_init(&state);

	for (int i = 0; i < n; i++)
	{
		ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
		TimestampTz at = DatumGetTimestampTz(arrivals[i]);
		int64		cost = costs ? DatumGetInt64(costs[i]) : 1;
		int64		slot;
		bool		allowed;
		Datum		values[5];
		bool		nulls[5] = {0};
		FlrDebt		debt;

		CHECK_FOR_INTERRUPTS();
		if (TIMESTAMP_NOT_FINITE(at))
			invalid("arrivals must be finite");
		if (at < last)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("arrivals must be sorted"),
					 errdetail("Arrival %d is before arrival %d.", i + 1, i)));
		if (cost < 1)
			invalid("costs must be at least 1");
		last = at;

		flr_advance(&arena.arena, &rule, &state, at);
		slot = flr_slot(&arena.arena, &rule, &state, at, cost);
		allowed = slot == at;
		if (allowed &&
			!flr_spend(&arena.arena, &rule, &state, at, at, cost, false,
					   &debt))
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("out of memory for simulated requests")));
		values[0] = TimestampTzGetDatum(at);
		values[1] = Int64GetDatum(cost);
		values[2] = BoolGetDatum(allowed);
		values[3] = Int64GetDatum(flr_available(&arena.arena, &rule, &state,
												at));
		nulls[4] = slot == FLR_NEVER || !IS_VALID_TIMESTAMP(slot);
		values[4] = TimestampTzGetDatum(slot);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values,
							 nulls);
	}
	return (Datum) 0;
}
