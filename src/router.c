/*-------------------------------------------------------------------------
 *
 * router.c
 *	  The same calls, answered by other servers.
 *
 * The functions of the extension fliplet_ratelimit_router: they read their
 * arguments like those of fliplet_ratelimit, ask the node that owns the key
 * for its verdict, and raise refusals here, so that every field of the error
 * is what it would be there.
 *
 * A request over keys of several nodes is asked about everywhere first, and
 * spent, in the order of the nodes, only if all would grant it.  When one of
 * them refuses all the same, because others were faster, what was spent
 * before is given back.  No lock is held meanwhile.  So no key is ever granted
 * more than its limit, and a refusal may be spurious while another request
 * holds what it is about to give back.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "node.h"
#include "refusal.h"
#include "request.h"
#include "router.h"
#include "row.h"

/* Places in fl_rate_verdict. */
#define REASON_COLUMN	1
#define DELAY_COLUMN	3

/* What a request asks of one node. */
typedef struct NodeGroup
{
	int			node;
	int			npairs;
	int			pairs[FLR_MAX_PAIRS];	/* their numbers in the request */
	bool		absent;			/* the node does not answer */
	FlrVerdictRow row;			/* its verdict, and the same read */
	FlrVerdict	verdict;
} NodeGroup;

/* A request, by nodes. */
typedef struct Spread
{
	FlrRequest *request;
	int			ngroups;
	NodeGroup	groups[FLR_MAX_PAIRS];
} Spread;

/* ------------------------------------------------------------------------
 * Arguments for a node
 * ------------------------------------------------------------------------
 */

/* Set an argument. */
static void
set_arg(FlrNodeRequest *call, int number, Datum value)
{
	call->args[number].value = value;
	call->args[number].isnull = false;
}

/* Set what all requests end with: api, cost and plan, from argument 3 on. */
static void
set_rest(FlrNodeRequest *call, const FlrRequest *request)
{
	set_arg(call, 3, flr_text_datum(request->api));
	set_arg(call, 4, Int64GetDatum(request->cost));
	call->args[5].isnull = request->plan.data == NULL;
	if (!call->args[5].isnull)
		set_arg(call, 5, flr_text_datum(request->plan));
}

/* Prepare a call about one pair. */
static void
about_pair(FlrNodeRequest *call, FlrNodeCall what, int node,
		   const FlrRequest *request, int pair)
{
	call->call = what;
	call->node = node;
	set_arg(call, 1, flr_text_datum(request->pairs[pair].scope));
	set_arg(call, 2, flr_text_datum(request->pairs[pair].key));
	set_rest(call, request);
}

/* Prepare a call about all pairs of a group. */
static void
about_group(FlrNodeRequest *call, FlrNodeCall what, const NodeGroup *group,
			const FlrRequest *request)
{
	Datum		scopes[FLR_MAX_PAIRS];
	Datum		keys[FLR_MAX_PAIRS];

	for (int i = 0; i < group->npairs; i++)
	{
		scopes[i] = flr_text_datum(request->pairs[group->pairs[i]].scope);
		keys[i] = flr_text_datum(request->pairs[group->pairs[i]].key);
	}
	call->call = what;
	call->node = group->node;
	set_arg(call, 1, PointerGetDatum(construct_array(scopes, group->npairs,
													 TEXTOID, -1, false,
													 TYPALIGN_INT)));
	set_arg(call, 2, PointerGetDatum(construct_array(keys, group->npairs,
													 TEXTOID, -1, false,
													 TYPALIGN_INT)));
	set_rest(call, request);
}

/* The node of a pair; flr_nodes_begin() has returned nslots. */
static int
node_of(const FlrPair *pair, int nslots)
{
	return flr_node_of_slot(flr_route_hash(pair->scope, pair->key) &
							(nslots - 1));
}

/* ------------------------------------------------------------------------
 * Answers
 * ------------------------------------------------------------------------
 */

/* The answer when nobody was asked, as an outcome. */
static FlrOutcome
granted_because(FlrReason reason)
{
	FlrOutcome	outcome;

	memset(&outcome, 0, sizeof(outcome));
	outcome.allowed = true;
	outcome.reason = reason;
	return outcome;
}

/*
 * Make a call.  False: the node is not there, and requests are granted then.
 * Everything else that is no answer is raised.
 */
static bool
ask(FlrNodeRequest *call)
{
	switch (flr_node_call(call))
	{
		case FLR_NODE_ANSWERED:
			return true;
		case FLR_NODE_FAILED:
			flr_node_count(flr_on_node_failure == FLR_FAILURE_OPEN);
			if (flr_on_node_failure == FLR_FAILURE_OPEN)
				return false;
			break;
		case FLR_NODE_RAISED:
			break;
	}
	flr_node_raise(call);
}

/* Raise the error for a node that answered null. */
static void
check_answer(int node, bool is_null)
{
	if (is_null)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("rate limit node \"%s\" answered null",
						flr_node_name(node))));
}

/* Read a row that a node has sent, or raise. */
static void
read_row(int node, bool is_null, Datum answer, int ncolumns, const Oid *types,
		 Datum *values, bool *nulls)
{
	check_answer(node, is_null);
	if (!flr_row_unpack(DatumGetByteaPP(answer), ncolumns, types, values,
						nulls))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("rate limit node \"%s\" has another version of extension \"fliplet_ratelimit\"",
						flr_node_name(node)),
				 errdetail("Its answers have other columns.")));
}

/* The same of a verdict. */
static void
read_verdict(int node, bool is_null, Datum answer, FlrVerdictRow *row)
{
	read_row(node, is_null, answer, FLR_VERDICT_COLUMNS, flr_verdict_types, row->values,
			 row->nulls);
}

/* ------------------------------------------------------------------------
 * Requests over several keys
 * ------------------------------------------------------------------------
 */

/* Sort the pairs of a request by the nodes that own them. */
static void
spread_out(Spread *spread, FlrRequest *request, int nslots)
{
	spread->request = request;
	spread->ngroups = 0;
	for (int i = 0; i < request->npairs; i++)
	{
		int			node = node_of(&request->pairs[i], nslots);
		int			g = spread->ngroups;

		while (g > 0 && spread->groups[g - 1].node >= node)
			g--;
		if (g == spread->ngroups || spread->groups[g].node != node)
		{
			memmove(&spread->groups[g + 1], &spread->groups[g],
					(spread->ngroups - g) * sizeof(NodeGroup));
			memset(&spread->groups[g], 0, sizeof(NodeGroup));
			spread->groups[g].node = node;
			spread->ngroups++;
		}
		spread->groups[g].pairs[spread->groups[g].npairs++] = i;
	}
}

/* Does a refusal keep the client away for longer than another one? */
static bool
waits_longer(const FlrVerdict *a, const FlrVerdict *b)
{
	if (!a->has_next || !b->has_next)
		return !a->has_next && b->has_next;
	return a->next_valid_at > b->next_valid_at;
}

/* Does a grant leave less than another one? */
static bool
leaves_less(const FlrVerdict *a, const FlrVerdict *b)
{
	if (!a->has_remaining || !b->has_remaining)
		return a->has_remaining ? !b->has_remaining :
			(a->name != NULL && b->name == NULL && !b->has_remaining);
	if (a->remaining != b->remaining)
		return a->remaining < b->remaining;
	return a->limit_id < b->limit_id;
}

/*
 * The group whose verdict is the request's: the refusal with the longest wait,
 * else the grant that leaves least.  NULL: no node answered.
 */
static NodeGroup *
deciding(Spread *spread)
{
	NodeGroup  *best = NULL;

	for (int g = 0; g < spread->ngroups; g++)
	{
		NodeGroup  *group = &spread->groups[g];

		if (group->absent)
			continue;
		if (best == NULL ||
			(best->verdict.allowed && !group->verdict.allowed) ||
			(!best->verdict.allowed && !group->verdict.allowed &&
			 waits_longer(&group->verdict, &best->verdict)) ||
			(best->verdict.allowed && group->verdict.allowed &&
			 leaves_less(&group->verdict, &best->verdict)))
			best = group;
	}
	return best;
}

/*
 * Give back what the first groups have spent.  A node that cannot be reached
 * keeps it, to its key's disadvantage.
 */
static void
give_back(Spread *spread, int ngroups)
{
	for (int g = 0; g < ngroups; g++)
	{
		const NodeGroup *group = &spread->groups[g];

		for (int i = 0; !group->absent && i < group->npairs; i++)
		{
			FlrNodeRequest call;

			about_pair(&call, FLR_NODE_REFUND, group->node, spread->request,
					   group->pairs[i]);
			if (flr_node_call(&call) != FLR_NODE_ANSWERED)
				ereport(WARNING,
						(errmsg("rate limit node \"%s\" could not be told to give back what a refused request had spent",
								flr_node_name(group->node)),
						 errdetail("%s", call.error->message)));
		}
	}
}

/* Ask one group, and keep its verdict.  What it raises comes after giving back. */
static void
ask_group(Spread *spread, int g, FlrNodeCall what)
{
	NodeGroup  *group = &spread->groups[g];
	FlrNodeRequest call;
	FlrNodeStatus status;

	about_group(&call, what, group, spread->request);
	status = flr_node_call(&call);
	if (status == FLR_NODE_FAILED)
		flr_node_count(flr_on_node_failure == FLR_FAILURE_OPEN);
	if (status == FLR_NODE_RAISED ||
		(status == FLR_NODE_FAILED &&
		 flr_on_node_failure == FLR_FAILURE_CLOSED))
	{
		if (what == FLR_NODE_TRY_ALL)
			give_back(spread, g);
		flr_node_raise(&call);
	}
	group->absent = status == FLR_NODE_FAILED;
	if (group->absent)
		return;
	read_verdict(group->node, call.is_null, call.result, &group->row);
	flr_verdict_of_row(&group->verdict, &group->row);
}

/* Delay a granted request. */
static void
set_delay(FlrVerdictRow *row, int64 delay)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = delay;
	row->values[DELAY_COLUMN] = IntervalPGetDatum(interval);
	row->nulls[DELAY_COLUMN] = false;
	row->values[REASON_COLUMN] =
		CStringGetTextDatum(flr_reason_name(FLR_REASON_DELAYED));
}

/*
 * Ask all groups, and spend if that is wanted and all would grant it.  False:
 * there is no node to ask.
 */
static bool
ask_all(Spread *spread, bool spend, FlrVerdictRow *row)
{
	NodeGroup  *best;
	int64		delay = 0;

	for (int g = 0; g < spread->ngroups; g++)
		ask_group(spread, g, FLR_NODE_PEEK_ALL);
	best = deciding(spread);
	for (int g = 0; spend && best != NULL && best->verdict.allowed &&
		 g < spread->ngroups; g++)
	{
		if (spread->groups[g].absent)
			continue;
		ask_group(spread, g, FLR_NODE_TRY_ALL);
		if (!spread->groups[g].absent && !spread->groups[g].verdict.allowed)
		{
			give_back(spread, g);
			*row = spread->groups[g].row;
			return true;
		}
	}
	best = deciding(spread);
	if (best == NULL)
		return false;
	*row = best->row;
	if (!best->verdict.allowed)
		return true;

	/* the request may be served when all of them say so */
	for (int g = 0; g < spread->ngroups; g++)
		if (!spread->groups[g].absent)
			delay = Max(delay, spread->groups[g].verdict.delay);
	if (delay > best->verdict.delay)
		set_delay(row, delay);
	return true;
}

/* ------------------------------------------------------------------------
 * The functions
 * ------------------------------------------------------------------------
 */

/*
 * The verdict on a request whose arguments have been read.  False: it is
 * granted because no node is there to judge it.
 */
static bool
routed_verdict(FunctionCallInfo fcinfo, FlrRequest *request, bool spend,
			   FlrVerdictRow *row)
{
	FlrNodeRequest call;
	Spread		spread;
	int			nslots;

	nslots = flr_nodes_begin(fcinfo->flinfo->fn_oid);
	if (request->npairs == 1)
		about_pair(&call, spend ? FLR_NODE_TRY : FLR_NODE_PEEK,
				   node_of(&request->pairs[0], nslots), request, 0);
	else
	{
		spread_out(&spread, request, nslots);
		if (spread.ngroups > 1)
			return ask_all(&spread, spend, row);
		about_group(&call, spend ? FLR_NODE_TRY_ALL : FLR_NODE_PEEK_ALL,
					&spread.groups[0], request);
	}
	if (!ask(&call))
		return false;
	read_verdict(call.node, call.is_null, call.result, row);
	return true;
}

/* The body of fl_rate_check() and its forms. */
static Datum
check(FunctionCallInfo fcinfo, FlrSignature signature)
{
	FlrRequest	request;
	char		buffer[FLR_BIGINT_SIZE];
	FlrVerdictRow row;
	FlrVerdict	verdict;

	flr_read_request(fcinfo, signature, &request, buffer);
	if (!flr_enabled || !routed_verdict(fcinfo, &request, true, &row))
		PG_RETURN_NULL();
	flr_verdict_of_row(&verdict, &row);
	return flr_verdict_result(fcinfo, &verdict);
}

/* The body of fl_rate_try(), fl_rate_peek() and their forms. */
static Datum
answer(FunctionCallInfo fcinfo, FlrSignature signature, bool spend)
{
	FlrRequest	request;
	char		buffer[FLR_BIGINT_SIZE];
	FlrVerdictRow row;
	FlrOutcome	outcome;

	flr_read_request(fcinfo, signature, &request, buffer);
	if (flr_enabled && routed_verdict(fcinfo, &request, spend, &row))
		return flr_row_datum(fcinfo, &row);
	outcome = granted_because(flr_enabled ? FLR_REASON_UNAVAILABLE :
							  FLR_REASON_OFF);
	return flr_outcome_datum(fcinfo, &request, &outcome);
}

/* The body of fl_rate_refund() and its form. */
static Datum
refund(FunctionCallInfo fcinfo, FlrSignature signature)
{
	FlrRequest	request;
	char		buffer[FLR_BIGINT_SIZE];
	FlrNodeRequest call;
	int			nslots;

	flr_read_request(fcinfo, signature, &request, buffer);
	if (!flr_enabled)
		PG_RETURN_NULL();
	nslots = flr_nodes_begin(fcinfo->flinfo->fn_oid);
	about_pair(&call, FLR_NODE_REFUND, node_of(&request.pairs[0], nslots),
			   &request, 0);
	if (!ask(&call) || call.is_null)
		PG_RETURN_NULL();
	return call.result;
}

/*
 * The body of fl_rate_reset() and its form.  A node that is not there is an
 * error, whatever the setting: nothing has been reset.
 */
static Datum
reset(FunctionCallInfo fcinfo, FlrSignature signature)
{
	FlrRequest	request;
	char		buffer[FLR_BIGINT_SIZE];
	FlrNodeRequest call;
	int			nslots;

	flr_read_pairs(fcinfo, signature, &request, buffer);
	request.api = flr_text_arg(fcinfo, 2, "api");
	request.cost = 1;
	request.plan.data = NULL;
	nslots = flr_nodes_begin(fcinfo->flinfo->fn_oid);
	about_pair(&call, FLR_NODE_RESET, node_of(&request.pairs[0], nslots),
			   &request, 0);
	if (flr_node_call(&call) != FLR_NODE_ANSWERED)
		flr_node_raise(&call);
	if (call.is_null)
		PG_RETURN_NULL();
	return call.result;
}

#define ROUTED_FUNCTION(name, call) \
	PG_FUNCTION_INFO_V1(name); \
	Datum name(PG_FUNCTION_ARGS) { return call; } \
	extern int	no_such_variable

ROUTED_FUNCTION(fl_routed_check, check(fcinfo, FLR_TEXT_KEY));
ROUTED_FUNCTION(fl_routed_check_bigint, check(fcinfo, FLR_BIGINT_KEY));
ROUTED_FUNCTION(fl_routed_check_all, check(fcinfo, FLR_ARRAYS));
ROUTED_FUNCTION(fl_routed_try, answer(fcinfo, FLR_TEXT_KEY, true));
ROUTED_FUNCTION(fl_routed_try_bigint, answer(fcinfo, FLR_BIGINT_KEY, true));
ROUTED_FUNCTION(fl_routed_try_all, answer(fcinfo, FLR_ARRAYS, true));
ROUTED_FUNCTION(fl_routed_peek, answer(fcinfo, FLR_TEXT_KEY, false));
ROUTED_FUNCTION(fl_routed_peek_bigint, answer(fcinfo, FLR_BIGINT_KEY, false));
ROUTED_FUNCTION(fl_routed_peek_all, answer(fcinfo, FLR_ARRAYS, false));
ROUTED_FUNCTION(fl_routed_refund, refund(fcinfo, FLR_TEXT_KEY));
ROUTED_FUNCTION(fl_routed_refund_bigint, refund(fcinfo, FLR_BIGINT_KEY));
ROUTED_FUNCTION(fl_routed_reset, reset(fcinfo, FLR_TEXT_KEY));
ROUTED_FUNCTION(fl_routed_reset_bigint, reset(fcinfo, FLR_BIGINT_KEY));

/* ------------------------------------------------------------------------
 * Many requests in one call
 * ------------------------------------------------------------------------
 */

/* The elements of an array that belong to a node; argument number of a call. */
static void
set_part(FlrNodeRequest *call, int number, const FlrBatchArray *array,
		 const int *node_of_item, Oid type)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n = 0;
	int			lower = 1;

	call->args[number].isnull = array->elements == NULL;
	if (array->elements == NULL)
		return;
	elements = palloc(array->n * sizeof(Datum));
	nulls = palloc(array->n * sizeof(bool));
	for (int i = 0; i < array->n; i++)
		if (node_of_item[i] == call->node)
		{
			elements[n] = array->elements[i];
			nulls[n++] = array->nulls[i];
		}
	set_arg(call, number,
			PointerGetDatum(construct_md_array(elements, nulls, 1, &n, &lower,
											   type,
											   type == TEXTOID ? -1 : (int) sizeof(int64),
											   type == TEXTOID ? false : FLOAT8PASSBYVAL,
											   type == TEXTOID ? TYPALIGN_INT : TYPALIGN_DOUBLE)));
}

/*
 * Have a node judge its part of a batch.  The answers get what it has sent, or
 * stay as they are if the node is not there.
 */
static void
judge_part(const FlrBatch *batch, const int *node_of_item, int node, int n,
		   NullableDatum *answers)
{
	FlrNodeRequest call;
	uint64		row = 0;

	call.call = FLR_NODE_TRY_BATCH;
	call.node = node;
	set_part(&call, 1, &batch->scopes, node_of_item, TEXTOID);
	set_part(&call, 2, &batch->keys, node_of_item, TEXTOID);
	set_part(&call, 3, &batch->apis, node_of_item, TEXTOID);
	set_part(&call, 4, &batch->costs, node_of_item, INT8OID);
	set_part(&call, 5, &batch->plans, node_of_item, TEXTOID);
	if (!ask(&call))
		return;
	if (call.rows->numvals != (uint64) n)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("rate limit node \"%s\" answered %d requests by %d rows",
						flr_node_name(node), n, (int) call.rows->numvals)));
	for (int i = 0; i < batch->scopes.n; i++)
		if (node_of_item[i] == node)
		{
			answers[i].value = SPI_getbinval(call.rows->vals[row++],
											 call.rows->tupdesc, 1,
											 &answers[i].isnull);
			check_answer(node, answers[i].isnull);
		}
}

PG_FUNCTION_INFO_V1(fl_routed_try_batch);

/*
 * fl_rate_try_batch(scopes, keys, apis, costs, plans): each node judges its
 * part in one call, one node after the other.  All arguments are validated
 * first, but only a node knows its scopes and APIs: an error about these comes
 * after other nodes have judged theirs.
 */
Datum
fl_routed_try_batch(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	FlrBatch	batch;
	FlrRequest	item;
	FlrOutcome	outcome;
	NullableDatum *answers;
	int		   *node_of_item;
	int			count[FLR_MAX_SLOTS] = {0};
	int			nslots = 0;

	flr_read_batch(fcinfo, &batch);
	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	if (flr_enabled)
		nslots = flr_nodes_begin(fcinfo->flinfo->fn_oid);
	outcome = granted_because(flr_enabled ? FLR_REASON_UNAVAILABLE :
							  FLR_REASON_OFF);
	answers = palloc(batch.scopes.n * sizeof(NullableDatum) + 1);
	node_of_item = palloc(batch.scopes.n * sizeof(int) + 1);
	for (int i = 0; i < batch.scopes.n; i++)
	{
		flr_batch_item(&batch, i, &item);
		answers[i].isnull = true;
		if (!flr_enabled)
			continue;
		node_of_item[i] = node_of(&item.pairs[0], nslots);
		count[node_of_item[i]]++;
	}
	for (int node = 0; node < nslots; node++)
		if (count[node] > 0)
		{
			CHECK_FOR_INTERRUPTS();
			judge_part(&batch, node_of_item, node, count[node], answers);
		}
	for (int i = 0; i < batch.scopes.n; i++)
	{
		FlrVerdictRow row;

		if (answers[i].isnull)
			flr_row_of_outcome(&row, &outcome, 0, batch.scopes.elements[i],
							   batch.keys.elements[i], batch.apis.elements[i]);
		else
			read_verdict(node_of_item[i], false, answers[i].value, &row);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc,
							 row.values, row.nulls);
	}
	SPI_finish();
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(fl_routed_explain);

/*
 * fl_rate_explain(scope, key, api, plan): as the node explains it.  A node
 * that is not there is an error, whatever the setting.
 */
Datum
fl_routed_explain(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	FlrRequest	request;
	FlrNodeRequest call;
	TupleDesc	desc;
	Oid		   *types;
	Datum	   *values;
	bool	   *nulls;

	flr_read_pairs(fcinfo, FLR_TEXT_KEY, &request, NULL);
	InitMaterializedSRF(fcinfo, 0);
	desc = rsinfo->setDesc;
	types = palloc(desc->natts * sizeof(Oid));
	values = palloc(desc->natts * sizeof(Datum));
	nulls = palloc(desc->natts * sizeof(bool));
	for (int i = 0; i < desc->natts; i++)
		types[i] = TupleDescAttr(desc, i)->atttypid;

	SPI_connect();
	call.call = FLR_NODE_EXPLAIN;
	call.node = node_of(&request.pairs[0],
						flr_nodes_begin(fcinfo->flinfo->fn_oid));
	set_arg(&call, 1, flr_text_datum(request.pairs[0].scope));
	set_arg(&call, 2, flr_text_datum(request.pairs[0].key));
	set_arg(&call, 3, flr_text_datum(flr_text_arg(fcinfo, 2, "api")));
	call.args[4].value = PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3);
	call.args[4].isnull = PG_ARGISNULL(3);
	if (flr_node_call(&call) != FLR_NODE_ANSWERED)
		flr_node_raise(&call);
	for (uint64 row = 0; row < call.rows->numvals; row++)
	{
		bool		is_null;
		Datum		answer = SPI_getbinval(call.rows->vals[row],
										   call.rows->tupdesc, 1, &is_null);

		read_row(call.node, is_null, answer, desc->natts, types, values, nulls);
		tuplestore_putvalues(rsinfo->setResult, desc, values, nulls);
	}
	SPI_finish();
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(fl_cluster_probe);

/*
 * fl_cluster_probe(slot, OUT answer, OUT error): what the node of a slot says
 * about itself, as JSON, or why it does not.
 */
Datum
fl_cluster_probe(PG_FUNCTION_ARGS)
{
	FlrNodeRequest call;
	TupleDesc	desc;
	Datum		values[2] = {0};
	bool		nulls[2] = {true, true};
	int			nslots = flr_nodes_begin(fcinfo->flinfo->fn_oid);
	int			slot = PG_ARGISNULL(0) ? -1 : PG_GETARG_INT32(0);

	if (slot < 0 || slot >= nslots)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("slot must be between 0 and %d", nslots - 1)));
	call.call = FLR_NODE_PROBE;
	call.node = flr_node_of_slot(slot);
	switch (flr_node_call(&call))
	{
		case FLR_NODE_ANSWERED:
			values[0] = call.result;
			nulls[0] = call.is_null;
			break;
		case FLR_NODE_FAILED:
			values[1] = CStringGetTextDatum(psprintf("%s: %s",
													 call.error->message,
													 call.error->detail));
			nulls[1] = false;
			break;
		case FLR_NODE_RAISED:
			/* a cancelled statement is no answer */
			if (call.error->sqlerrcode == ERRCODE_QUERY_CANCELED)
				flr_node_raise(&call);
			values[1] = CStringGetTextDatum(call.error->message);
			nulls[1] = false;
			break;
	}
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values,
											 nulls));
}

/* Called when the library is loaded. */
void
flr_router_init(void)
{
	flr_node_init();
}
