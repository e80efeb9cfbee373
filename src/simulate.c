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
	flr_rule_set_period(rule, flr_interval_arg(fcinfo, 1, "period"));
	if (rule->period == 0)
		invalid("period must be positive");
	period = PG_GETARG_INTERVAL_P(1);

	if (flr_text_equals("sliding_window", algorithm))
		rule->algorithm = FLR_SLIDING_WINDOW;
	else if (flr_text_equals("token_bucket", algorithm))
		rule->algorithm = FLR_TOKEN_BUCKET;
	else if (flr_text_equals("fixed_window", algorithm))
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

/* Arrivals that are being replayed. */
typedef struct Replay
{
	PrivateArena arena;
	FlrCalendarArg calendar;
	FlrRule		rule;
	FlrState	state;
	int			n;
	Datum	   *arrivals;
	Datum	   *costs;			/* NULL: 1 each */
	int64		last;
} Replay;

/* Read the arguments of a replay, and begin with nothing spent; or raise. */
static void
replay_begin(FunctionCallInfo fcinfo, Replay *replay)
{
	int			ncosts;

	memset(replay, 0, sizeof(Replay));
	read_rule(fcinfo, &replay->rule, &replay->calendar);
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("arrivals must not be null")));
	replay->arrivals = read_array(fcinfo, 2, "arrivals", TIMESTAMPTZOID,
								  &replay->n);
	if (!PG_ARGISNULL(3))
	{
		replay->costs = read_array(fcinfo, 3, "costs", INT8OID, &ncosts);
		if (ncosts != replay->n)
			ereport(ERROR,
					(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					 errmsg("arrivals and costs must have the same number of elements"),
					 errdetail("There are %d arrivals and %d costs.",
							   replay->n, ncosts)));
	}
	replay->arena.arena.take = private_take;
	replay->arena.arena.give = private_give;
	replay->arena.arena.slabs = replay->arena.slabs;
	replay->arena.context = CurrentMemoryContext;
	flr_state_init(&replay->state);
	replay->last = PG_INT64_MIN;
}

/*
 * Replay arrival number i, which is spent if it is granted.  Returns the first
 * instant at which it is granted: its own time if it is now.
 */
static int64
replay_one(Replay *replay, int i, TimestampTz *at, int64 *cost)
{
	FlrArena   *arena = &replay->arena.arena;
	int64		slot;
	FlrDebt		debt;

	CHECK_FOR_INTERRUPTS();
	*at = DatumGetTimestampTz(replay->arrivals[i]);
	*cost = replay->costs ? DatumGetInt64(replay->costs[i]) : 1;
	if (TIMESTAMP_NOT_FINITE(*at))
		invalid("arrivals must be finite");
	if (*at < replay->last)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("arrivals must be sorted"),
				 errdetail("Arrival %d is before arrival %d.", i + 1, i)));
	if (*cost < 1)
		invalid("costs must be at least 1");
	replay->last = *at;

	flr_advance(arena, &replay->rule, &replay->state, *at);
	slot = flr_slot(arena, &replay->rule, &replay->state, *at, *cost);
	if (slot == *at &&
		!flr_spend(arena, &replay->rule, &replay->state, *at, *at, *cost,
				   false, &debt))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory for simulated requests")));
	return slot;
}

PG_FUNCTION_INFO_V1(fl_rate_simulate);

/*
 * fl_rate_simulate(max_requests, period, arrivals, costs, algorithm, burst):
 * one row per arrival, in order.
 */
Datum
fl_rate_simulate(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Replay		replay;

	replay_begin(fcinfo, &replay);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < replay.n; i++)
	{
		TimestampTz at;
		int64		cost;
		int64		slot = replay_one(&replay, i, &at, &cost);
		Datum		values[5];
		bool		nulls[5] = {0};

		values[0] = TimestampTzGetDatum(at);
		values[1] = Int64GetDatum(cost);
		values[2] = BoolGetDatum(slot == at);
		values[3] = Int64GetDatum(flr_available(&replay.arena.arena,
												&replay.rule, &replay.state,
												at));
		nulls[4] = slot == FLR_NEVER || !IS_VALID_TIMESTAMP(slot);
		values[4] = TimestampTzGetDatum(slot);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values,
							 nulls);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(fl_rate_backtest);

/*
 * fl_rate_backtest(max_requests, period, arrivals, costs, algorithm, burst):
 * what fl_rate_simulate() says, in one row.  longest_wait is that of the
 * refused requests which would be granted some time.
 */
Datum
fl_rate_backtest(PG_FUNCTION_ARGS)
{
	Replay		replay;
	TupleDesc	desc;
	int64		granted = 0;
	TimestampTz first_refused = 0;
	Interval	longest = {0};
	Datum		values[5];
	bool		nulls[5] = {0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	replay_begin(fcinfo, &replay);
	for (int i = 0; i < replay.n; i++)
	{
		TimestampTz at;
		int64		cost;
		int64		slot = replay_one(&replay, i, &at, &cost);

		if (slot == at)
		{
			granted++;
			continue;
		}
		if (granted == i)
			first_refused = at;
		if (slot != FLR_NEVER)
			longest.time = Max(longest.time, slot - at);
	}
	values[0] = Int64GetDatum(replay.n);
	values[1] = Int64GetDatum(granted);
	values[2] = Int64GetDatum(replay.n - granted);
	values[3] = TimestampTzGetDatum(first_refused);
	nulls[3] = granted == replay.n;
	values[4] = IntervalPGetDatum(&longest);
	nulls[4] = longest.time == 0;
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values,
											 nulls));
}
