/*-------------------------------------------------------------------------
 *
 * check.c
 *	  The SQL functions that spend, or ask what spending would do.
 *
 * Each reads its arguments, finds the limits, has the counters judge the
 * request, and turns the outcome into its return type.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "check.h"
#include "refusal.h"
#include "request.h"
#include "slots.h"

/* fl_rate_wait() looks at the clock at least this often. */
#define LONGEST_NAP_MS	3600000

/* The answer of the kill switch. */
static void
kill_switch(FlrOutcome *outcome)
{
	memset(outcome, 0, sizeof(FlrOutcome));
	outcome->allowed = true;
	outcome->reason = FLR_REASON_OFF;
}

/*
 * Judge a request whose arguments have been read.  With the kill switch off
 * everything is allowed, whatever the scopes and APIs.
 */
static inline void
judge(FlrRequest *request, Oid function, FlrMode mode, int64 max_wait,
	  FlrOutcome *outcome, FlrReservation *reservation)
{
	if (!flr_enabled)
	{
		kill_switch(outcome);
		return;
	}
	if (request->npairs == 1)
		flr_counters_foresee(&request->pairs[0].key);
	flr_check_owner(request->pairs, request->npairs);
	flr_find_limits(request, function);
	flr_counters_request(request, mode, max_wait, outcome, reservation);
}

/* Raise the refusal that an outcome describes. */
static pg_noinline void
raise_outcome(const FlrRequest *request, const FlrOutcome *outcome)
{
	FlrVerdict	verdict;

	flr_verdict_fill(&verdict, request, outcome);
	flr_raise_refusal(&verdict);
}

/*
 * Spend a request, or raise its refusal.  Returns false if no limit applies;
 * else *remaining is what the tightest limit has left.
 */
bool
flr_check_request(FlrRequest *request, Oid function, int64 *remaining)
{
	FlrOutcome	outcome;

	judge(request, function, FLR_MODE_CHECK, 0, &outcome, NULL);
	if (!outcome.allowed)
		raise_outcome(request, &outcome);
	*remaining = outcome.remaining;
	return outcome.limit != NULL && !outcome.limit->unlimited;
}

/* The body of fl_rate_check() and its forms. */
static Datum
check(FunctionCallInfo fcinfo, FlrSignature signature)
{
	FlrRequest	request;
	char		buffer[FLR_BIGINT_SIZE];
	int64		remaining;

	flr_read_request(fcinfo, signature, &request, buffer);
	if (!flr_check_request(&request, fcinfo->flinfo->fn_oid, &remaining))
		PG_RETURN_NULL();
	PG_RETURN_INT64(remaining);
}

/* The body of fl_rate_try(), fl_rate_peek() and their forms. */
static Datum
answer(FunctionCallInfo fcinfo, FlrSignature signature, FlrMode mode)
{
	FlrRequest	request;
	char		buffer[FLR_BIGINT_SIZE];
	FlrOutcome	outcome;

	flr_read_request(fcinfo, signature, &request, buffer);
	judge(&request, fcinfo->flinfo->fn_oid, mode, 0, &outcome, NULL);
	return flr_outcome_datum(fcinfo, &request, &outcome);
}

/* The body of fl_rate_refund() and its forms. */
static Datum
refund(FunctionCallInfo fcinfo, FlrSignature signature)
{
	FlrRequest	request;
	char		buffer[FLR_BIGINT_SIZE];
	int64		remaining;

	flr_read_request(fcinfo, signature, &request, buffer);
	if (!flr_enabled)
		PG_RETURN_NULL();
	flr_check_owner(request.pairs, request.npairs);
	flr_find_limits(&request, fcinfo->flinfo->fn_oid);
	if (!flr_counters_refund(&request, &remaining))
		PG_RETURN_NULL();
	PG_RETURN_INT64(remaining);
}

/*
 * A sleeper that does not wake up in the ordinary way.  First what cannot fail:
 * taking the reservation back may raise.
 */
static void
give_slot_back(int code, Datum arg)
{
	(void) code;
	flr_counters_wait_over();
	flr_counters_cancel((FlrReservation *) DatumGetPointer(arg));
}

/* Sleep until an elapsed time, interruptibly. */
static void
sleep_until(int64 until)
{
	int64		left;

	while ((left = until - flr_clock()) > 0)
	{
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (long) Min((left + 999) / 1000, LONGEST_NAP_MS),
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);

		/* what follows may have to look at memory that others have added */
		(void) flr_store_map();
		CHECK_FOR_INTERRUPTS();
	}
}

/* The body of fl_rate_wait() and its forms. */
static Datum
wait_for_slot(FunctionCallInfo fcinfo, FlrSignature signature)
{
	FlrRequest	request;
	char		buffer[FLR_BIGINT_SIZE];
	FlrOutcome	outcome;
	FlrReservation reservation;
	Interval   *slept = palloc0(sizeof(Interval));
	int64		max_wait;

	flr_read_request(fcinfo, signature, &request, buffer);
	max_wait = flr_interval_arg(fcinfo, 5, "max_wait");
	judge(&request, fcinfo->flinfo->fn_oid, FLR_MODE_WAIT, max_wait,
		  &outcome, &reservation);
	if (!outcome.allowed)
		raise_outcome(&request, &outcome);
	if (outcome.delay > 0)
	{
		PG_ENSURE_ERROR_CLEANUP(give_slot_back,
								PointerGetDatum(&reservation));
		{
			sleep_until(outcome.now + outcome.delay);
		}
		PG_END_ENSURE_ERROR_CLEANUP(give_slot_back,
									PointerGetDatum(&reservation));
		flr_counters_wait_over();
		slept->time = flr_clock() - outcome.now;
	}
	PG_RETURN_INTERVAL_P(slept);
}

#define REQUEST_FUNCTION(name, call) \
	PG_FUNCTION_INFO_V1(name); \
	Datum name(PG_FUNCTION_ARGS) { return call; } \
	extern int	no_such_variable

REQUEST_FUNCTION(fl_rate_check, check(fcinfo, FLR_TEXT_KEY));
REQUEST_FUNCTION(fl_rate_check_bigint, check(fcinfo, FLR_BIGINT_KEY));
REQUEST_FUNCTION(fl_rate_check_all, check(fcinfo, FLR_ARRAYS));
REQUEST_FUNCTION(fl_rate_try, answer(fcinfo, FLR_TEXT_KEY, FLR_MODE_TRY));
REQUEST_FUNCTION(fl_rate_try_bigint,
				 answer(fcinfo, FLR_BIGINT_KEY, FLR_MODE_TRY));
REQUEST_FUNCTION(fl_rate_try_all, answer(fcinfo, FLR_ARRAYS, FLR_MODE_TRY));
REQUEST_FUNCTION(fl_rate_peek, answer(fcinfo, FLR_TEXT_KEY, FLR_MODE_PEEK));
REQUEST_FUNCTION(fl_rate_peek_bigint,
				 answer(fcinfo, FLR_BIGINT_KEY, FLR_MODE_PEEK));
REQUEST_FUNCTION(fl_rate_peek_all, answer(fcinfo, FLR_ARRAYS, FLR_MODE_PEEK));
REQUEST_FUNCTION(fl_rate_refund, refund(fcinfo, FLR_TEXT_KEY));
REQUEST_FUNCTION(fl_rate_refund_bigint, refund(fcinfo, FLR_BIGINT_KEY));
REQUEST_FUNCTION(fl_rate_wait, wait_for_slot(fcinfo, FLR_TEXT_KEY));
REQUEST_FUNCTION(fl_rate_wait_bigint, wait_for_slot(fcinfo, FLR_BIGINT_KEY));

/* ------------------------------------------------------------------------
 * Many requests in one call
 * ------------------------------------------------------------------------
 */

/* A request with one pair needs no more than this of an FlrRequest. */
#define ITEM_SIZE \
	MAXALIGN(offsetof(FlrRequest, pairs) + sizeof(FlrPair))

/* Read request number i of a batch and find its limits, or raise. */
static void
read_item(const FlrBatch *batch, int i, FlrRequest *item)
{
	flr_batch_item(batch, i, item);
	item->set.n = 0;
	item->set.unlimited = NULL;
	if (!flr_enabled)
		return;
	flr_check_owner(item->pairs, 1);
	flr_limits_find(item->pairs, &item->api, &item->plan, 0, &item->set);
}

/* Request number i of a chunk. */
static inline FlrRequest *
chunk_item(char *items, int i)
{
	return (FlrRequest *) (items + (size_t) i * ITEM_SIZE);
}

/* Read the requests of a chunk, from number first on. */
static void
read_chunk(const FlrBatch *batch, Oid function, int first, int n, char *items)
{
	flr_limits_begin(function);
	for (int i = 0; i < n; i++)
		read_item(batch, first + i, chunk_item(items, i));
}

PG_FUNCTION_INFO_V1(fl_rate_try_batch);

/*
 * fl_rate_try_batch(scopes, keys, apis, costs, plans): independent requests,
 * answered in order.  All arguments are validated before anything is spent.
 * Then as many at a time as are judged together are read, and judged.
 */
Datum
fl_rate_try_batch(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			function = fcinfo->flinfo->fn_oid;
	FlrBatch	batch;
	FlrRows    *rows;
	char	   *items = palloc(FLR_MAX_TOGETHER * ITEM_SIZE);
	MemoryContext chunk_context;
	MemoryContext old;
	Datum		api = (Datum) 0;
	int			total;

	flr_read_batch(fcinfo, &batch);
	InitMaterializedSRF(fcinfo, 0);
	rows = flr_rows_begin(rsinfo->setResult, rsinfo->setDesc);
	total = batch.scopes.n;

	/* detoasted elements and the like live as long as their chunk */
	chunk_context = AllocSetContextCreate(CurrentMemoryContext,
										  "fl_rate_try_batch",
										  ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(chunk_context);

	/* more than a chunk: first see that there is nothing wrong anywhere */
	for (int first = 0; total > FLR_MAX_TOGETHER && first < total;
		 first += FLR_MAX_TOGETHER)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(chunk_context);
		read_chunk(&batch, function, first, Min(total - first, FLR_MAX_TOGETHER),
				   items);
	}

	for (int first = 0; first < total; first += FLR_MAX_TOGETHER)
	{
		int			n = Min(total - first, FLR_MAX_TOGETHER);
		int64		wall_offset = flr_counters_date(0);
		FlrRequest *requests[FLR_MAX_TOGETHER];
		FlrOutcome	outcomes[FLR_MAX_TOGETHER];

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(chunk_context);
		read_chunk(&batch, function, first, n, items);
		for (int i = 0; i < n; i++)
		{
			requests[i] = chunk_item(items, i);
			if (!flr_enabled)
				kill_switch(&outcomes[i]);
		}
		if (flr_enabled)
			flr_counters_try_together(requests, n, outcomes);
		rows->last.size = 0;	/* the limits may be others now */
		for (int i = 0; i < n; i++)
		{
			FlrVerdictRow row;

			/* the same datum as the last row's, which may be like this one */
			if (i == 0 || !flr_same_text(&requests[i]->api,
										 &requests[i - 1]->api))
				api = batch.apis.elements[first + i];
			flr_row_of_outcome(&row, &outcomes[i], wall_offset,
							   batch.scopes.elements[first + i],
							   batch.keys.elements[first + i], api);
			flr_rows_put(rows, &row);
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(chunk_context);
	pfree(rows);
	pfree(items);
	return (Datum) 0;
}
