/*-------------------------------------------------------------------------
 *
 * maintain.c
 *	  The SQL functions that change counters by hand, and what maintenance
 *	  needs of the library.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "commands/dbcommands.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/uuid.h"

#include "definitions.h"
#include "keep.h"
#include "request.h"

/* ------------------------------------------------------------------------
 * Tables beside the counters
 * ------------------------------------------------------------------------
 */

/* May this transaction write tables? */
static bool
can_write(void)
{
	return !RecoveryInProgress() && !XactReadOnly;
}

/* The role that owns a table. */
static Oid
owner_of(Oid table)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", table);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Is there anything in a table, which is locked against changes of it? */
static bool
has_pages(Oid table)
{
	Relation	relation;
	bool		result;

	LockRelationOid(table, RowExclusiveLock);
	relation = RelationIdGetRelation(table);
	if (relation == NULL)
		return false;
	result = RelationGetNumberOfBlocks(relation) > 0;
	RelationClose(relation);
	return result;
}

/* The qualified name of a table of the extension; palloc'd. */
static const char *
qualified_name(const char *table)
{
	Oid			schema = get_rel_namespace(flr_limits_relation());

	return quote_qualified_identifier(get_namespace_name(schema), table);
}

/*
 * Delete rows from a table of the extension, with the rights of its owner.
 * where is a condition on $1, of the given type; empty: all rows.
 */
static void
delete_rows(const char *table, const char *where, Oid type, Datum value)
{
	Oid			schema = get_rel_namespace(flr_limits_relation());
	Oid			relation = get_relname_relid(table, schema);
	Oid			user;
	int			context;
	char	   *statement;
	SPIPlanPtr	plan;

	if (!OidIsValid(relation) || !has_pages(relation))
		return;
	statement = psprintf("DELETE FROM %s%s", qualified_name(table), where);
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(owner_of(relation), context |
						   SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_NOFORCE_RLS);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");

	/* also what was committed after a REPEATABLE READ caller's snapshot */
	plan = SPI_prepare(statement, where[0] == '\0' ? 0 : 1, &type);
	if (plan == NULL ||
		SPI_execute_snapshot(plan, &value, NULL, GetLatestSnapshot(),
							 InvalidSnapshot, false, true, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete rows of \"%s\"", table);
	SPI_finish();
	SetUserIdAndSecContext(user, context);
	pfree(statement);
}

/* Delete a subject's rows from a table that has its hash in a column. */
static void
delete_subject(const char *table, FlrHash subject)
{
	delete_rows(table, " WHERE subject OPERATOR(pg_catalog.=) $1",
				UUIDOID, flr_subject_datum(subject));
}

/*
 * Delete what is saved of those of a subject's counters.  Passes over rows that
 * somebody else has locked, so that it never waits: that is maintenance, and
 * the next one sees the counter as it is then.
 */
static void
delete_saved(FlrHash subject, const FlrCandidate *candidates, int n)
{
	StringInfoData where;
	const char *separator = "";

	initStringInfo(&where);
	appendStringInfo(&where,
					 " WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY("
					 "SELECT s.ctid FROM %s AS s"
					 " WHERE s.subject OPERATOR(pg_catalog.=) $1"
					 " AND s.identity OPERATOR(pg_catalog.=) ANY ('{",
					 qualified_name("fl_rate_saved"));
	for (int i = 0; i < n; i++)
		for (int a = FLR_SLIDING_WINDOW; a <= FLR_FIXED_WINDOW; a++)
		{
			appendStringInfo(&where, "%s" INT64_FORMAT, separator,
							 (int64) flr_limits_identity(candidates[i].limit,
														 a));
			separator = ",";
		}
	appendStringInfoString(&where, "}'::pg_catalog.int8[])"
						   " FOR UPDATE SKIP LOCKED))");
	delete_rows("fl_rate_saved", where.data, UUIDOID,
				flr_subject_datum(subject));
	pfree(where.data);
}

/* ------------------------------------------------------------------------
 * By hand
 * ------------------------------------------------------------------------
 */

/*
 * Read scope, key and api (arguments 0 to 2) and find every limit that such
 * a request may spend from, whatever its plan.  Returns their number.
 */
static int
read_candidates(FunctionCallInfo fcinfo, FlrSignature signature,
				FlrHash *subject, FlrCandidate **candidates)
{
	static const FlrText no_plan = {NULL, 0};
	char		buffer[FLR_BIGINT_SIZE];
	FlrRequest	request;
	FlrText		api;
	int			n;

	flr_read_pairs(fcinfo, signature, &request, buffer);
	api = flr_text_arg(fcinfo, 2, "api");
	flr_limits_begin(fcinfo->flinfo->fn_oid);
	n = flr_limits_candidates(request.pairs[0].scope, request.pairs[0].key,
							  api, no_plan, candidates);
	if (n > 0)
		*subject = flr_limits_subject(request.pairs[0].scope,
									  request.pairs[0].key);
	return n;
}

/* The body of fl_rate_reset() and its form for numbers. */
static Datum
reset(FunctionCallInfo fcinfo, FlrSignature signature)
{
	FlrCandidate *candidates;
	FlrHash		subject;
	int			n = read_candidates(fcinfo, signature, &subject, &candidates);
	int64		count;

	if (n == 0)
		PG_RETURN_INT64(0);
	count = flr_counters_reset(subject, candidates, n);

	/* where tables cannot be written, the next maintenance sees to it */
	if (can_write())
		delete_saved(subject, candidates, n);
	PG_RETURN_INT64(count);
}

PG_FUNCTION_INFO_V1(fl_rate_reset);

/* fl_rate_reset(scope, key, api): clear what such requests spend from. */
Datum
fl_rate_reset(PG_FUNCTION_ARGS)
{
	return reset(fcinfo, FLR_TEXT_KEY);
}

PG_FUNCTION_INFO_V1(fl_rate_reset_bigint);

/* fl_rate_reset(scope, key bigint, api) */
Datum
fl_rate_reset_bigint(PG_FUNCTION_ARGS)
{
	return reset(fcinfo, FLR_BIGINT_KEY);
}

PG_FUNCTION_INFO_V1(fl_rate_age);

/* fl_rate_age(scope, key, api, by): pretend that time has passed. */
Datum
fl_rate_age(PG_FUNCTION_ARGS)
{
	int64		by = flr_interval_arg(fcinfo, 3, "by");
	FlrCandidate *candidates;
	FlrHash		subject;
	int			n = read_candidates(fcinfo, FLR_TEXT_KEY, &subject, &candidates);

	PG_RETURN_INT64(n == 0 ? 0 :
					flr_counters_age(subject, candidates, n, by));
}

PG_FUNCTION_INFO_V1(fl_rate_forget);

/*
 * fl_rate_forget(scope, key): erase a subject, in memory and in tables.  On a
 * standby, whose tables follow the primary's, in memory.
 */
Datum
fl_rate_forget(PG_FUNCTION_ARGS)
{
	char		buffer[FLR_BIGINT_SIZE];
	FlrRequest	request;
	FlrHash		subject;
	int64		count;

	flr_read_pairs(fcinfo, FLR_TEXT_KEY, &request, buffer);
	flr_limits_begin(fcinfo->flinfo->fn_oid);
	subject = flr_limits_subject(request.pairs[0].scope,
								 request.pairs[0].key);
	if (RecoveryInProgress())
		PG_RETURN_INT64(flr_counters_forget(subject));

	/* so that nobody is about to save what this erases */
	PreventCommandIfReadOnly("fl_rate_forget()");
	flr_keep_check_role("execute fl_rate_forget()");
	flr_keep_lock(flr_limits_relation());
	count = flr_counters_forget(subject);
	delete_subject("fl_rate_saved", subject);
	delete_subject("fl_rate_history_top", subject);
	PG_RETURN_INT64(count);
}

PG_FUNCTION_INFO_V1(fl_rate_reset_all);

/*
 * fl_rate_reset_all(): erase every counter of this database, and every saved
 * one where tables can be written.
 */
Datum
fl_rate_reset_all(PG_FUNCTION_ARGS)
{
	int64		count;

	flr_limits_begin(fcinfo->flinfo->fn_oid);
	if (!can_write())
		PG_RETURN_INT64(flr_counters_reset_all());
	flr_keep_check_role("execute fl_rate_reset_all()");
	flr_keep_lock(flr_limits_relation());
	count = flr_counters_reset_all();
	delete_rows("fl_rate_saved", "", InvalidOid, (Datum) 0);
	PG_RETURN_INT64(count);
}

/* ------------------------------------------------------------------------
 * Maintenance
 * ------------------------------------------------------------------------
 */

/* Databases that counters belong to, as many as are looked at in one go. */
#define MAX_DATABASES	64

/* What a walk through the store learns. */
typedef struct Walk
{
	Oid			relation;		/* our definitions table */
	bool		orphans;		/* there are counters of another one here */
	int			n;
	Oid			databases[MAX_DATABASES];
} Walk;

/* flr_entries_visit() callback: note where an entry belongs. */
static void
note_entry(FlrEntry *entry, void *arg)
{
	Walk	   *walk = arg;
	const FlrStats *stats = flr_stats(entry->stats);

	if (stats->database == MyDatabaseId)
	{
		if (stats->relation != walk->relation)
			walk->orphans = true;
		return;
	}
	for (int i = walk->n; --i >= 0;)
		if (walk->databases[i] == stats->database)
			return;
	if (walk->n < MAX_DATABASES)
		walk->databases[walk->n++] = stats->database;
}

/*
 * flr_entries_remove() callback: does an entry belong to one of these databases,
 * or to another definitions table of ours?
 */
static bool
is_orphan(const FlrEntry *entry, const void *arg)
{
	const Walk *walk = arg;
	const FlrStats *stats = flr_stats(entry->stats);

	if (stats->database == MyDatabaseId)
		return stats->relation != walk->relation;
	for (int i = 0; i < walk->n; i++)
		if (walk->databases[i] == stats->database)
			return true;
	return false;
}

/*
 * Remove the counters of databases that do not exist any more, and those of an
 * extension that was dropped in this one.  Returns how many.
 */
static int64
sweep_orphans(void)
{
	Walk		walk = {.relation = flr_limits_relation()};
	int			gone = 0;

	for (uint32 stripe = 0; stripe < FLR_STRIPES; stripe++)
	{
		flr_entries_visit(flr_counters_lock(stripe), note_entry, &walk);
		flr_stripe_unlock(stripe);
		CHECK_FOR_INTERRUPTS();
	}
	for (int i = 0; i < walk.n; i++)
		if (!SearchSysCacheExists1(DATABASEOID,
								   ObjectIdGetDatum(walk.databases[i])))
			walk.databases[gone++] = walk.databases[i];
	walk.n = gone;
	if (gone == 0 && !walk.orphans)
		return 0;
	flr_homes_free(walk.databases, gone);
	return flr_counters_remove(is_orphan, &walk);
}

PG_FUNCTION_INFO_V1(fl_rate_sweep);

/*
 * fl_rate_sweep(): free the counters that have expired, and those of dropped
 * databases and of a dropped extension.  Returns how many.
 */
Datum
fl_rate_sweep(PG_FUNCTION_ARGS)
{
	int64		count;

	flr_limits_begin(fcinfo->flinfo->fn_oid);
	flr_counters_attach();
	flr_store_try_again();
	count = sweep_orphans();
	PG_RETURN_INT64(count + flr_store_sweep(flr_clock()));
}

PG_FUNCTION_INFO_V1(fl_rate_stay_local);

/*
 * Trigger (before, each row) of tables whose rows belong to one server: drops
 * what arrives by logical replication.
 */
Datum
fl_rate_stay_local(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by trigger manager",
						"fl_rate_stay_local")));
	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		PG_RETURN_POINTER(NULL);
	PG_RETURN_POINTER(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
					  trigger->tg_newtuple : trigger->tg_trigtuple);
}
