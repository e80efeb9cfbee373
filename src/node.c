/*-------------------------------------------------------------------------
 *
 * node.c
 *	  The nodes of a cluster, and calls to them.
 *
 * PL/Proxy does the talking: each call is a function in its language, whose
 * first argument is the slot to run on.  This file adds what it lacks.
 *
 * A deadline.  PL/Proxy looks at its own query_timeout only when something
 * arrives, and answers a cancelled statement by asking the server to cancel it
 * as well, which blocks if that server hangs.  It does leave its wait for any
 * other error.  The server's lock timeout raises such an error, so we let it
 * run for the length of a call; it has nothing else to do there, because a
 * call waits for no lock.  PL/Proxy drops the connection at its next use.
 *
 * Errors as they were.  PL/Proxy adds to message, detail and hint, and loses
 * the rest; the additions are taken away, and which node it was goes into the
 * context.  A call runs in a subtransaction, so that the caller may go on.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "port/atomics.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "node.h"
#include "settings.h"

/* A node, as this backend knows it. */
typedef struct ClusterNode
{
	const char *name;			/* what slots have for an option */
	int			slot;			/* the first of its slots */
	int64		down_until;		/* elapsed time; not asked before */
} ClusterNode;

/* The cluster, as the foreign server's options have it. */
static MemoryContext map_context;
static bool map_valid = false;
static ClusterNode *nodes;
static int	nnodes;
static int	nslots;
static int *node_of_slot;

/* The types of a node's slot, and of the arguments of a request. */
#define ABOUT_PAIR \
	{INT4OID, TEXTOID, TEXTOID, TEXTOID, INT8OID, TEXTOID}
#define ABOUT_PAIRS \
	{INT4OID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, INT8OID, TEXTOID}

/* PL/Proxy's functions, those of one schema. */
static const struct
{
	const char *name;
	int			nargs;
	bool		returns_rows;
	Oid			types[FLR_NODE_MAX_ARGS];
}			calls[] = {
	[FLR_NODE_TRY] = {"fl_node_try", 6, false, ABOUT_PAIR},
	[FLR_NODE_PEEK] = {"fl_node_peek", 6, false, ABOUT_PAIR},
	[FLR_NODE_TRY_ALL] = {"fl_node_try_all", 6, false, ABOUT_PAIRS},
	[FLR_NODE_PEEK_ALL] = {"fl_node_peek_all", 6, false, ABOUT_PAIRS},
	[FLR_NODE_REFUND] = {"fl_node_refund", 6, false, ABOUT_PAIR},
	[FLR_NODE_RESET] = {"fl_node_reset", 4, false, ABOUT_PAIR},
	[FLR_NODE_TRY_BATCH] = {"fl_node_try_batch", 6, true,
	{INT4OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT8ARRAYOID, TEXTARRAYOID}},
	[FLR_NODE_EXPLAIN] = {"fl_node_explain", 5, true,
	{INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}},
	[FLR_NODE_PROBE] = {"fl_node_probe", 1, false, {INT4OID}}
};

static MemoryContext function_context;
static bool functions_valid = false;
static Oid	functions_schema = InvalidOid;
static FmgrInfo functions[lengthof(calls)];

/* Failures, for all backends.  Its size is part of its name. */
#define FAILURES_NAME	"fliplet_ratelimit router 1"

typedef struct Failures
{
	pg_atomic_uint64 closed;	/* answered by an error */
	pg_atomic_uint64 open;		/* granted */
	pg_atomic_uint64 last_at;	/* TimestampTz of the last */
} Failures;

static Failures *failures = NULL;

int			flr_on_node_failure = FLR_FAILURE_CLOSED;
static int	node_timeout;		/* ms */
static int	node_retry;			/* ms */

static const struct config_enum_entry failure_answers[] = {
	{"closed", FLR_FAILURE_CLOSED, false},
	{"open", FLR_FAILURE_OPEN, false},
	{NULL, 0, false}
};

/* ------------------------------------------------------------------------
 * What the catalogs say
 * ------------------------------------------------------------------------
 */

/* Callback: what a flag says is valid was made from a catalog that changed. */
static void
catalog_changed(Datum flag, int cache, uint32 hash)
{
	(void) cache;
	(void) hash;
	*(bool *) DatumGetPointer(flag) = false;
}

/* The number of an option p0, p1, ...; -1: it is another option. */
static int
slot_of_option(const char *name)
{
	char	   *end;
	long		slot;

	if (name[0] != 'p' || name[1] < '0' || name[1] > '9')
		return -1;
	slot = strtol(name + 1, &end, 10);
	return *end == '\0' && slot < FLR_MAX_SLOTS ? (int) slot : -1;
}

/* Raise the error for a server whose options make no cluster. */
pg_noreturn static void
bad_cluster(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("foreign server \"%s\" is no cluster of rate limit nodes",
					FLR_CLUSTER),
			 errdetail("%s", detail),
			 errhint("Drop it and call fl_cluster_create().")));
}

/* Read the foreign server's options. */
static void
load_map(void)
{
	ForeignServer *server = GetForeignServerByName(FLR_CLUSTER, true);
	ListCell   *cell;
	const char *names[FLR_MAX_SLOTS] = {NULL};
	int			n = 0;
	MemoryContext old;

	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no cluster of rate limit nodes"),
				 errhint("Call fl_cluster_create().")));
	foreach(cell, server->options)
	{
		DefElem    *option = lfirst(cell);
		int			slot = slot_of_option(option->defname);

		if (slot < 0)
			continue;
		names[slot] = defGetString(option);
		n++;
	}
	if (n == 0 || (n & (n - 1)) != 0)
		bad_cluster("The number of its slots is no power of two.");
	for (int slot = 0; slot < n; slot++)
		if (names[slot] == NULL)
			bad_cluster("Its slots are not numbered from 0 on.");

	if (map_context == NULL)
		map_context = AllocSetContextCreate(TopMemoryContext,
											"fliplet_ratelimit cluster",
											ALLOCSET_SMALL_SIZES);
	MemoryContextReset(map_context);
	old = MemoryContextSwitchTo(map_context);
	nslots = n;
	nnodes = 0;
	node_of_slot = palloc(n * sizeof(int));
	nodes = palloc(n * sizeof(ClusterNode));
	for (int slot = 0; slot < n; slot++)
	{
		int			node = 0;

		while (node < nnodes && strcmp(nodes[node].name, names[slot]) != 0)
			node++;
		if (node == nnodes)
		{
			nodes[node].name = pstrdup(names[slot]);
			nodes[node].slot = slot;
			nodes[node].down_until = 0;
			nnodes++;
		}
		node_of_slot[slot] = node;
	}
	MemoryContextSwitchTo(old);
}

/* Find PL/Proxy's functions. */
static void
load_functions(Oid schema)
{
	char	   *name = get_namespace_name(schema);

	if (function_context == NULL)
		function_context = AllocSetContextCreate(TopMemoryContext,
												 "fliplet_ratelimit functions",
												 ALLOCSET_SMALL_SIZES);
	MemoryContextReset(function_context);
	for (int i = 0; i < (int) lengthof(calls); i++)
	{
		List	   *names = list_make2(makeString(name),
									   makeString(pstrdup(calls[i].name)));

		/* by its types too: others may give functions of theirs such a name */
		fmgr_info_cxt(LookupFuncName(names, calls[i].nargs, calls[i].types,
									 false), &functions[i], function_context);
	}
	functions_schema = schema;
}

/*
 * Make ready for calls on behalf of a function of the router.  Returns the
 * number of slots; raises an error if there is no cluster.
 */
int
flr_nodes_begin(Oid function)
{
	static Oid	last_function = InvalidOid;
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID, catalog_changed,
									  PointerGetDatum(&map_valid));
		CacheRegisterSyscacheCallback(PROCOID, catalog_changed,
									  PointerGetDatum(&functions_valid));
		registered = true;
	}
	AcceptInvalidationMessages();
	if (!map_valid)
	{
		/* first this, for the server may change while it is read */
		map_valid = true;
		PG_TRY();
		{
			load_map();
		}
		PG_CATCH();
		{
			map_valid = false;
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	if (!functions_valid || function != last_function)
	{
		Oid			schema = get_func_namespace(function);

		if (!functions_valid || schema != functions_schema)
		{
			functions_valid = true;
			PG_TRY();
			{
				load_functions(schema);
			}
			PG_CATCH();
			{
				functions_valid = false;
				PG_RE_THROW();
			}
			PG_END_TRY();
		}
		last_function = function;
	}
	return nslots;
}

/* The node that owns a slot. */
int
flr_node_of_slot(int slot)
{
	return node_of_slot[slot];
}

/* A slot that a node owns. */
int
flr_slot_of_node(int node)
{
	return nodes[node].slot;
}

/*
 * A node as errors name it.  Server options may be read by anybody, so that
 * its connection string is no secret; a password that it contains all the same
 * is not spread further.
 */
const char *
flr_node_name(int node)
{
	if (strstr(nodes[node].name, "password") != NULL)
		return psprintf("slot %d", nodes[node].slot);
	return nodes[node].name;
}

/* ------------------------------------------------------------------------
 * Errors
 * ------------------------------------------------------------------------
 */

/* What follows a mark in a text; the text itself if the mark is not there. */
static char *
after(char *text, const char *mark)
{
	char	   *found = text == NULL ? NULL : strstr(text, mark);

	return found == NULL ? text : found + strlen(mark);
}

/* Was this error raised by the server at the other end? */
static bool
is_remote(const ErrorData *error)
{
	return error->message != NULL && strstr(error->message, "] REMOTE ") != NULL;
}

/* Take away what PL/Proxy has added. */
static void
undress(ErrorData *error)
{
	if (is_remote(error))
		error->message = after(after(error->message, "] REMOTE "), ": ");
	else if (error->message != NULL &&
			 strncmp(error->message, "PL/Proxy function ", 18) == 0)
		error->message = after(error->message, "): ");
	error->detail = after(error->detail, "Remote detail: ");
	error->hint = after(error->hint, "Remote hint: ");
	error->cursorpos = 0;
	error->internalpos = 0;
	error->internalquery = NULL;
}

/* Does an error say that the node is not there, or not in time? */
static bool
is_failure(const ErrorData *error)
{
	bool		remote = is_remote(error);

	switch (error->sqlerrcode)
	{
		case ERRCODE_ADMIN_SHUTDOWN:
			return remote;
		case ERRCODE_CRASH_SHUTDOWN:
		case ERRCODE_CANNOT_CONNECT_NOW:
		case ERRCODE_TOO_MANY_CONNECTIONS:
			return true;
		case ERRCODE_LOCK_NOT_AVAILABLE:	/* the deadline, see above */
			return !remote;
		case ERRCODE_QUERY_CANCELED:	/* the node's statement_timeout */
			return remote;
		case ERRCODE_INTERNAL_ERROR:
			/* libpq's errors have no SQLSTATE */
			return error->message != NULL &&
				(strstr(error->message, "] REMOTE (null): ") != NULL ||
				 (strncmp(error->message, "PL/Proxy function ", 18) == 0 &&
				  (strstr(error->message, "] PQ") != NULL ||
				   strstr(error->message, " timeout") != NULL)));
		default:
			return ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
				ERRCODE_CONNECTION_EXCEPTION;
	}
}

/* Does an error say that the node has not what we call? */
static bool
is_stranger(const ErrorData *error)
{
	switch (error->sqlerrcode)
	{
		case ERRCODE_UNDEFINED_FUNCTION:
		case ERRCODE_UNDEFINED_SCHEMA:
		case ERRCODE_UNDEFINED_TABLE:
		case ERRCODE_UNDEFINED_COLUMN:
			return is_remote(error);
		case ERRCODE_INTERNAL_ERROR:
			return error->message != NULL &&
				strncmp(error->message, "PL/Proxy function ", 18) == 0 &&
				strstr(error->message, " remote ") != NULL;
		default:
			return false;
	}
}

/* The error for a node that is not there. */
static ErrorData *
failure(const char *name, const char *detail)
{
	ErrorData  *error = palloc0(sizeof(ErrorData));

	error->elevel = ERROR;
	error->output_to_server = true;
	error->output_to_client = true;
	error->filename = __FILE__;
	error->funcname = __func__;
	error->assoc_context = CurrentMemoryContext;
	error->sqlerrcode = FLR_ERRCODE_STORE_FULL;
	error->message = psprintf("rate limit node \"%s\" does not answer", name);
	error->detail = pstrdup(detail);
	error->hint = pstrdup("fl_cluster_status() shows all nodes; with \"fliplet_ratelimit.on_node_failure\" set to \"open\" requests are granted meanwhile.");
	return error;
}

/* ------------------------------------------------------------------------
 * Calls
 * ------------------------------------------------------------------------
 */

/* Call PL/Proxy's function. */
static void
invoke(FlrNodeRequest *request)
{
	FmgrInfo   *function = &functions[request->call];

	LOCAL_FCINFO(call, FLR_NODE_MAX_ARGS);

	InitFunctionCallInfoData(*call, function, calls[request->call].nargs,
							 InvalidOid, NULL, NULL);
	for (int i = 0; i < calls[request->call].nargs; i++)
		call->args[i] = request->args[i];
	request->result = FunctionCallInvoke(call);
	request->is_null = call->isnull;
}

/* The same of one that returns rows; the caller has connected to SPI. */
static void
invoke_rows(FlrNodeRequest *request)
{
	Oid		   *types;
	int			nargs;
	Datum		values[FLR_NODE_MAX_ARGS];
	char		nulls[FLR_NODE_MAX_ARGS];
	StringInfoData query;

	(void) get_func_signature(functions[request->call].fn_oid, &types, &nargs);
	if (nargs != calls[request->call].nargs)
		elog(ERROR, "function %s has %d arguments", calls[request->call].name,
			 nargs);
	initStringInfo(&query);
	appendStringInfo(&query, "SELECT * FROM %s.%s(",
					 quote_identifier(get_namespace_name(functions_schema)),
					 calls[request->call].name);
	for (int i = 0; i < nargs; i++)
	{
		values[i] = request->args[i].value;
		nulls[i] = request->args[i].isnull ? 'n' : ' ';
		appendStringInfo(&query, i == 0 ? "$%d" : ", $%d", i + 1);
	}
	appendStringInfoChar(&query, ')');
	if (SPI_execute_with_args(query.data, nargs, types, values, nulls,
							  false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not run: %s", query.data);
	if (SPI_tuptable->tupdesc->natts != 1 ||
		SPI_gettypeid(SPI_tuptable->tupdesc, 1) != BYTEAOID)
		elog(ERROR, "function %s does not return rows of a node",
			 calls[request->call].name);
	request->rows = SPI_tuptable;
}

/* The deadline is over, whether it came or not. */
static void
end_deadline(void)
{
	disable_timeout(LOCK_TIMEOUT, true);

	/* it came, but nobody has looked yet */
	if (get_timeout_indicator(LOCK_TIMEOUT, true))
		QueryCancelPending = false;
}

/* Remember that a node did not answer. */
static void
mark_down(int node)
{
	nodes[node].down_until = flr_clock() + (int64) node_retry * 1000;
}

/* What became of a call that raised an error. */
static FlrNodeStatus
judge_error(FlrNodeRequest *request)
{
	ErrorData  *error = request->error;
	const char *name = flr_node_name(request->node);

	if (is_failure(error))
	{
		bool		late = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;

		undress(error);
		request->error = failure(name, late ?
								 psprintf("There was no answer within %d ms.",
										  node_timeout) : error->message);
		mark_down(request->node);
		return FLR_NODE_FAILED;
	}
	if (is_stranger(error))
	{
		undress(error);
		error->detail = error->message;
		error->sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
		error->message = psprintf("rate limit node \"%s\" has no extension \"fliplet_ratelimit\" in schema \"%s\", or another version of it",
								  name, get_namespace_name(functions_schema));
		error->hint = NULL;
		return FLR_NODE_RAISED;
	}
	if (is_remote(error))
	{
		undress(error);
		error->context = psprintf("rate limit node \"%s\"", name);
	}
	return FLR_NODE_RAISED;
}

/*
 * Ask a node.  flr_nodes_begin() has run.  Returns whatever happens, except
 * for FATAL errors; what was refused by the node is an answer.
 */
FlrNodeStatus
flr_node_call(FlrNodeRequest *request)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int			messages = client_min_messages;
	volatile bool raised = false;

	request->args[0].value = Int32GetDatum(flr_slot_of_node(request->node));
	request->args[0].isnull = false;
	request->rows = NULL;
	request->error = NULL;
	if (flr_clock() < nodes[request->node].down_until)
	{
		request->error = failure(flr_node_name(request->node),
								 psprintf("It did not answer a moment ago; it is asked again after %d ms.",
										  node_retry));
		return FLR_NODE_FAILED;
	}

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		/* PL/Proxy tells the client of connections that it replaces */
		client_min_messages = Max(messages, WARNING);
		enable_timeout_after(LOCK_TIMEOUT, node_timeout);
		if (calls[request->call].returns_rows)
			invoke_rows(request);
		else
			invoke(request);
		end_deadline();
		client_min_messages = messages;
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		end_deadline();
		client_min_messages = messages;
		MemoryContextSwitchTo(context);
		request->error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		raised = true;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return raised ? judge_error(request) : FLR_NODE_ANSWERED;
}

/* Raise the error of a call. */
void
flr_node_raise(const FlrNodeRequest *request)
{
	ReThrowError(request->error);
}

/* ------------------------------------------------------------------------
 * Counting failures, and settings
 * ------------------------------------------------------------------------
 */

static void
init_failures(void *segment)
{
	Failures   *fresh = segment;

	pg_atomic_init_u64(&fresh->closed, 0);
	pg_atomic_init_u64(&fresh->open, 0);
	pg_atomic_init_u64(&fresh->last_at, 0);
}

/* Find the counters of failures, or make them. */
static Failures *
find_failures(void)
{
	if (failures == NULL)
		failures = flr_named_segment(FAILURES_NAME, sizeof(Failures),
									 init_failures);
	return failures;
}

/* Count a request that a node did not answer. */
void
flr_node_count(bool open)
{
	Failures   *all = find_failures();

	pg_atomic_fetch_add_u64(open ? &all->open : &all->closed, 1);
	pg_atomic_write_u64(&all->last_at, (uint64) GetCurrentTimestamp());
}

PG_FUNCTION_INFO_V1(fl_cluster_failures);

/* fl_cluster_failures(OUT closed, OUT open, OUT last_at) */
Datum
fl_cluster_failures(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Failures   *all = find_failures();
	uint64		last_at = pg_atomic_read_u64(&all->last_at);
	Datum		values[3] = {
		Int64GetDatum((int64) pg_atomic_read_u64(&all->closed)),
		Int64GetDatum((int64) pg_atomic_read_u64(&all->open)),
		TimestampTzGetDatum((TimestampTz) last_at)
	};
	bool		nulls[3] = {false, false, last_at == 0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values,
											 nulls));
}

/* Define the settings. */
void
flr_node_init(void)
{
	DefineCustomEnumVariable("fliplet_ratelimit.on_node_failure",
							 "Answers a request whose node does not.",
							 "\"closed\" raises an error, \"open\" grants the request.",
							 &flr_on_node_failure, FLR_FAILURE_CLOSED,
							 failure_answers,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("fliplet_ratelimit.node_timeout",
							"Sets how long a node may take to answer.",
							"Connecting to it included.",
							&node_timeout, 1000, 1, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("fliplet_ratelimit.node_retry",
							"Sets how long a session leaves a node alone that did not answer.",
							NULL,
							&node_retry, 1000, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
}
