/*-------------------------------------------------------------------------
 *
 * definitions.c
 *	  Reading the tables fl_rate_limit and fl_rate_secret.
 *
 * The table is locked for the time of one scan only.  If asked not to wait,
 * flr_definitions_open() takes the locks it needs (the table's, its indexes',
 * the secret's) conditionally, so that a check with a copy of the definitions
 * at hand never hangs behind ALTER, TRUNCATE or REINDEX.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "definitions.h"

#define TABLE_NAME		"fl_rate_limit"
#define SECRET_NAME		"fl_rate_secret"

/* The triggers of the definitions table, all of which must fire always. */
#define TRIGGER_PREFIX	"fl_rate_limit_"

/* The columns of fl_rate_limit, as the install script has them. */
enum
{
	COLUMN_LIMIT_ID = 1,
	COLUMN_NAME,
	COLUMN_SCOPE,
	COLUMN_API,
	COLUMN_KEY,
	COLUMN_PLAN,
	COLUMN_MAX_REQUESTS,
	COLUMN_PERIOD,
	COLUMN_ALGORITHM,
	COLUMN_BURST,
	COLUMN_ANCHOR,
	COLUMN_TIME_ZONE,
	COLUMN_ON_LIMIT,
	COLUMN_MAX_DELAY,
	COLUMN_ENABLED,
	COLUMN_VALID_FROM,
	COLUMN_VALID_UNTIL,
	NCOLUMNS = COLUMN_VALID_UNTIL
};

/* Their types, in order. */
static const Oid column_types[NCOLUMNS] = {
	[COLUMN_LIMIT_ID - 1] = INT4OID,
	[COLUMN_NAME - 1] = TEXTOID,
	[COLUMN_SCOPE - 1] = TEXTOID,
	[COLUMN_API - 1] = TEXTOID,
	[COLUMN_KEY - 1] = TEXTOID,
	[COLUMN_PLAN - 1] = TEXTOID,
	[COLUMN_MAX_REQUESTS - 1] = INT8OID,
	[COLUMN_PERIOD - 1] = INTERVALOID,
	[COLUMN_ALGORITHM - 1] = TEXTOID,
	[COLUMN_BURST - 1] = INT8OID,
	[COLUMN_ANCHOR - 1] = TIMESTAMPTZOID,
	[COLUMN_TIME_ZONE - 1] = TEXTOID,
	[COLUMN_ON_LIMIT - 1] = TEXTOID,
	[COLUMN_MAX_DELAY - 1] = INTERVALOID,
	[COLUMN_ENABLED - 1] = BOOLOID,
	[COLUMN_VALID_FROM - 1] = TIMESTAMPTZOID,
	[COLUMN_VALID_UNTIL - 1] = TIMESTAMPTZOID
};

/* The relations that are read, in the order in which they are locked. */
enum
{
	REL_TABLE,
	REL_EVERYONE_INDEX,			/* (limit_id) where key is null */
	REL_KEY_INDEX,				/* (scope, key) where key is not null */
	REL_API_INDEX,				/* (api) where key is not null */
	REL_ID_INDEX,				/* (limit_id) */
	REL_SECRET,
	NRELS
};

static const char *const rel_names[NRELS] = {
	TABLE_NAME,
	"fl_rate_limit_everyone_idx",
	"fl_rate_limit_key_idx",
	"fl_rate_limit_api_idx",
	"fl_rate_limit_pkey",
	SECRET_NAME
};

struct FlrDefinitions
{
	Oid			oids[NRELS];
	Relation	table;
	MemoryContext rows;			/* where rows are allocated */
};

/* Does the table still have our columns? */
static bool
has_columns(Relation table)
{
	TupleDesc	desc = RelationGetDescr(table);

	if (table->rd_rel->relkind != RELKIND_RELATION || desc->natts < NCOLUMNS)
		return false;
	for (int i = 0; i < NCOLUMNS; i++)
		if (TupleDescAttr(desc, i)->attisdropped ||
			TupleDescAttr(desc, i)->atttypid != column_types[i])
			return false;
	return true;
}

/* The definitions table beside a function: the one in the same schema. */
Oid
flr_definitions_relation(Oid function)
{
	Oid			schema = get_func_namespace(function);
	Oid			relation = get_relname_relid(TABLE_NAME, schema);

	if (!OidIsValid(relation))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("there is no table \"%s\" in the schema of this function",
						TABLE_NAME),
				 errhint("Drop and create the extension \"fliplet_ratelimit\" again.")));
	return relation;
}

/* The qualified name of the definitions table, for messages; palloc'd. */
const char *
flr_definitions_name(Oid relation)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
									  TABLE_NAME);
}

/*
 * Lock and open the tables, to read rows into a memory context.  NULL if one
 * of the locks is not to be had and wait is false.  Raises if the table is
 * gone.
 */
FlrDefinitions *
flr_definitions_open(Oid relation, bool wait, MemoryContext rows)
{
	FlrDefinitions *definitions = palloc0(sizeof(FlrDefinitions));
	Oid			schema = get_rel_namespace(relation);

	definitions->rows = rows;

	for (int i = 0; i < NRELS; i++)
	{
		Oid			oid = i == REL_TABLE ? relation :
		get_relname_relid(rel_names[i], schema);

		if (!OidIsValid(oid))
			continue;
		if (wait)
			LockRelationOid(oid, AccessShareLock);
		else if (!ConditionalLockRelationOid(oid, AccessShareLock))
		{
			while (--i >= 0)
				if (OidIsValid(definitions->oids[i]))
					UnlockRelationOid(definitions->oids[i], AccessShareLock);
			return NULL;
		}
		definitions->oids[i] = oid;
	}
	definitions->table = try_table_open(relation, NoLock);
	if (definitions->table == NULL || !has_columns(definitions->table))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table \"%s\" is gone, or its columns are not what they were",
						TABLE_NAME),
				 errhint("Drop and create the extension \"fliplet_ratelimit\" again.")));
	return definitions;
}

/* Close the tables and give up the locks. */
void
flr_definitions_close(FlrDefinitions *definitions)
{
	table_close(definitions->table, NoLock);
	for (int i = NRELS; --i >= 0;)
		if (OidIsValid(definitions->oids[i]))
			UnlockRelationOid(definitions->oids[i], AccessShareLock);
	pfree(definitions);
}

/* Copy a text column; NULL where the column is null. */
static const char *
text_column(const Datum *values, const bool *nulls, int column)
{
	return nulls[column - 1] ? NULL : TextDatumGetCString(values[column - 1]);
}

/* Raise the error for a row that could only get in past the constraints. */
static void
invalid_row(int32 limit_id, const char *column)
{
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("row %d of table \"%s\" has an invalid value in column \"%s\"",
					limit_id, TABLE_NAME, column),
			 errhint("Correct or delete the row; the constraints of the table explain what is valid.")));
}

/* The same where a request would be judged by the row. */
void
flr_definitions_check(const FlrLimit *limit)
{
	if (unlikely(limit->invalid != NULL))
		invalid_row(limit->limit_id, limit->invalid);
}

/* Fill in the rule of a limit that has a maximum. */
static void
read_rule(FlrLimit *limit, const Datum *values, const bool *nulls)
{
	FlrRule    *rule = &limit->rule;
	const char *zone_name;
	pg_tz	   *zone;
	int64		usecs;

	rule->max_requests = DatumGetInt64(values[COLUMN_MAX_REQUESTS - 1]);
	if (rule->max_requests < 0)
		invalid_row(limit->limit_id, "max_requests");
	if (!limit->has_period)
	{
		if (rule->max_requests != 0)
			invalid_row(limit->limit_id, "period");
		limit->period.time = USECS_PER_SEC;
	}
	usecs = flr_interval_usecs(&limit->period);
	if (usecs <= 0 || usecs > FLR_MAX_PERIOD ||
		!flr_interval_is_finite(&limit->period) ||
		(limit->period.month != 0 && rule->algorithm != FLR_FIXED_WINDOW))
		invalid_row(limit->limit_id, "period");
	flr_rule_set_period(rule, usecs);
	rule->drain = rule->max_requests == 0 ? 0 :
		(usecs - 1) / rule->max_requests + 1;
	rule->burst = nulls[COLUMN_BURST - 1] ? rule->max_requests :
		DatumGetInt64(values[COLUMN_BURST - 1]);
	if (rule->burst < 0)
		invalid_row(limit->limit_id, "burst");
	if (rule->algorithm != FLR_FIXED_WINDOW)
		return;

	zone_name = text_column(values, nulls, COLUMN_TIME_ZONE);
	zone = pg_tzset(zone_name ? zone_name : "UTC");
	if (zone == NULL)
	{
		/* another server may know it: no reason to stop all other limits */
		limit->invalid = "time_zone";
		return;
	}
	if (!flr_calendar_setup(rule, &limit->calendar, &limit->period, zone,
							!nulls[COLUMN_ANCHOR - 1],
							nulls[COLUMN_ANCHOR - 1] ? 0 :
							DatumGetTimestampTz(values[COLUMN_ANCHOR - 1])))
		invalid_row(limit->limit_id, "period");
}

/* Turn a row into a limit. */
static FlrLimit *
read_row(FlrDefinitions *definitions, HeapTuple tuple)
{
	TupleDesc	desc = RelationGetDescr(definitions->table);
	MemoryContext old = MemoryContextSwitchTo(definitions->rows);
	Datum	   *values = palloc(desc->natts * sizeof(Datum));
	bool	   *nulls = palloc(desc->natts * sizeof(bool));
	FlrLimit   *limit = palloc0(sizeof(FlrLimit));
	const char *word;

	heap_deform_tuple(tuple, desc, values, nulls);
	if (nulls[COLUMN_LIMIT_ID - 1] || nulls[COLUMN_NAME - 1] ||
		nulls[COLUMN_SCOPE - 1] || nulls[COLUMN_API - 1])
		invalid_row(0, "name");
	limit->limit_id = DatumGetInt32(values[COLUMN_LIMIT_ID - 1]);
	limit->name = text_column(values, nulls, COLUMN_NAME);
	limit->name_datum = CStringGetTextDatum(limit->name);
	limit->scope = text_column(values, nulls, COLUMN_SCOPE);
	limit->api = text_column(values, nulls, COLUMN_API);
	limit->key = text_column(values, nulls, COLUMN_KEY);
	limit->plan = text_column(values, nulls, COLUMN_PLAN);
	if (strlen(limit->name) > FLR_MAX_NAME ||
		strlen(limit->scope) > FLR_MAX_NAME ||
		strlen(limit->api) > FLR_MAX_NAME)
		invalid_row(limit->limit_id, "name");
	limit->enabled = !nulls[COLUMN_ENABLED - 1] &&
		DatumGetBool(values[COLUMN_ENABLED - 1]);
	limit->valid_from = nulls[COLUMN_VALID_FROM - 1] ? PG_INT64_MIN :
		DatumGetTimestampTz(values[COLUMN_VALID_FROM - 1]);
	limit->valid_until = nulls[COLUMN_VALID_UNTIL - 1] ? PG_INT64_MAX :
		DatumGetTimestampTz(values[COLUMN_VALID_UNTIL - 1]);
	limit->has_period = !nulls[COLUMN_PERIOD - 1];
	if (limit->has_period)
		limit->period = *DatumGetIntervalP(values[COLUMN_PERIOD - 1]);
	limit->unlimited = nulls[COLUMN_MAX_REQUESTS - 1];

	word = text_column(values, nulls, COLUMN_ALGORITHM);
	if (word == NULL || strcmp(word, "sliding_window") == 0)
		limit->rule.algorithm = FLR_SLIDING_WINDOW;
	else if (strcmp(word, "token_bucket") == 0)
		limit->rule.algorithm = FLR_TOKEN_BUCKET;
	else if (strcmp(word, "fixed_window") == 0)
		limit->rule.algorithm = FLR_FIXED_WINDOW;
	else
		invalid_row(limit->limit_id, "algorithm");

	word = text_column(values, nulls, COLUMN_ON_LIMIT);
	if (word == NULL || strcmp(word, "refuse") == 0)
		limit->on_limit = FLR_ON_LIMIT_REFUSE;
	else if (strcmp(word, "delay") == 0)
		limit->on_limit = FLR_ON_LIMIT_DELAY;
	else if (strcmp(word, "count") == 0)
		limit->on_limit = FLR_ON_LIMIT_COUNT;
	else
		invalid_row(limit->limit_id, "on_limit");

	limit->max_delay = USECS_PER_SEC;
	if (!nulls[COLUMN_MAX_DELAY - 1])
		limit->max_delay =
			flr_interval_usecs(DatumGetIntervalP(values[COLUMN_MAX_DELAY - 1]));
	if (limit->max_delay < 0)
		invalid_row(limit->limit_id, "max_delay");
	if (!limit->unlimited)
		read_rule(limit, values, nulls);
	pfree(values);
	pfree(nulls);
	MemoryContextSwitchTo(old);
	return limit;
}

/*
 * Warn about triggers that would miss some changes, as a restore or an ALTER
 * TABLE may have left them: changes also arrive by logical replication.
 */
void
flr_definitions_check_triggers(FlrDefinitions *definitions)
{
	TriggerDesc *triggers = definitions->table->trigdesc;
	List	   *names = NIL;
	ListCell   *cell;

	/* first this: whatever looks at a catalog may replace the descriptor */
	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		const		Trigger *trigger = &triggers->triggers[i];

		if (strncmp(trigger->tgname, TRIGGER_PREFIX,
					strlen(TRIGGER_PREFIX)) == 0 &&
			trigger->tgenabled != TRIGGER_FIRES_ALWAYS)
			names = lappend(names, pstrdup(trigger->tgname));
	}
	foreach(cell, names)
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("trigger \"%s\" does not always fire: sessions may miss changes of rate limits",
						(char *) lfirst(cell)),
				 errhint("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s;",
						 flr_definitions_name(RelationGetRelid(definitions->table)),
						 quote_identifier(lfirst(cell)))));
	list_free_deep(names);
}

/*
 * Start a scan of the table; which is the index to use, if it is there.  The
 * snapshot is a fresh one if it is NULL.
 */
static SysScanDesc
begin_scan(FlrDefinitions *definitions, int which, Snapshot snapshot,
		   int nkeys, ScanKey keys)
{
	return systable_beginscan(definitions->table, definitions->oids[which],
							  OidIsValid(definitions->oids[which]),
							  snapshot, nkeys, keys);
}

/* Is this the row of a single key? */
static bool
is_key_row(FlrDefinitions *definitions, HeapTuple tuple)
{
	return !heap_attisnull(tuple, COLUMN_KEY,
						   RelationGetDescr(definitions->table));
}

/* Hand everyone's and the plans' rows that a snapshot shows to a callback. */
static void
scan_everyone(FlrDefinitions *definitions, Snapshot snapshot,
			  FlrRowCallback callback, void *arg)
{
	SysScanDesc scan = begin_scan(definitions, REL_EVERYONE_INDEX, snapshot,
								  0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		if (!is_key_row(definitions, tuple))
			callback(read_row(definitions, tuple), arg);
	systable_endscan(scan);
}

/* Hand everyone's and the plans' rows to a callback. */
void
flr_definitions_scan(FlrDefinitions *definitions, FlrRowCallback callback,
					 void *arg)
{
	scan_everyone(definitions, NULL, callback, arg);
}

/*
 * The same as they were before the current transaction has changed any: those that
 * count if it is rolled back.
 */
void
flr_definitions_scan_before(FlrDefinitions *definitions,
							FlrRowCallback callback, void *arg)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

	/* a copy, since it is registered: before the first command */
	snapshot->curcid = FirstCommandId;
	scan_everyone(definitions, snapshot, callback, arg);
	UnregisterSnapshot(snapshot);
}

/*
 * Hand the rows for single keys to a callback.  False, and the rest is not
 * read, when there are more than FLR_MAX_KEY_ROWS.
 */
bool
flr_definitions_scan_keys(FlrDefinitions *definitions,
						  FlrRowCallback callback, void *arg)
{
	SysScanDesc scan = begin_scan(definitions, REL_KEY_INDEX, NULL, 0, NULL);
	HeapTuple	tuple;
	int			n = 0;

	while (n <= FLR_MAX_KEY_ROWS &&
		   HeapTupleIsValid(tuple = systable_getnext(scan)))
		if (is_key_row(definitions, tuple) && ++n <= FLR_MAX_KEY_ROWS)
			callback(read_row(definitions, tuple), arg);
	systable_endscan(scan);
	return n <= FLR_MAX_KEY_ROWS;
}

/* Prepare to look for rows where a text column has a value. */
static void
text_key(ScanKey key, AttrNumber column, const char *data, int size)
{
	ScanKeyInit(key, column, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(cstring_to_text_with_len(data, size)));
}

/* Hand the rows for one key of a scope to a callback. */
void
flr_definitions_scan_key(FlrDefinitions *definitions, const char *scope,
						 FlrText key, FlrRowCallback callback, void *arg)
{
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	text_key(&keys[0], COLUMN_SCOPE, scope, strlen(scope));
	text_key(&keys[1], COLUMN_KEY, key.data, key.size);
	scan = begin_scan(definitions, REL_KEY_INDEX, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		callback(read_row(definitions, tuple), arg);
	systable_endscan(scan);
}

/* Read one row by its number; NULL when there is none. */
FlrLimit *
flr_definitions_fetch(FlrDefinitions *definitions, int32 limit_id)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	FlrLimit   *limit = NULL;

	ScanKeyInit(&key, COLUMN_LIMIT_ID, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(limit_id));
	scan = begin_scan(definitions, REL_ID_INDEX, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		limit = read_row(definitions, tuple);
	systable_endscan(scan);
	return limit;
}

/*
 * Is there a row for a single key with this scope and this api?  While the
 * table is locked the answer is no.
 */
bool
flr_definitions_any_key_row(Oid relation, const FlrText *scope,
							const FlrText *api)
{
	FlrDefinitions *definitions = flr_definitions_open(relation, false,
													   CurrentMemoryContext);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	if (definitions == NULL)
		return false;
	if (api != NULL)
		text_key(&key, COLUMN_API, api->data, api->size);
	else
		text_key(&key, COLUMN_SCOPE, scope->data, scope->size);
	scan = begin_scan(definitions, api ? REL_API_INDEX : REL_KEY_INDEX, NULL,
					  1, &key);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (!is_key_row(definitions, tuple))
			continue;
		if (api != NULL && scope != NULL)
		{
			FlrLimit   *limit = read_row(definitions, tuple);

			found = strlen(limit->scope) == (size_t) scope->size &&
				memcmp(limit->scope, scope->data, scope->size) == 0;
		}
		else
			found = true;
	}
	systable_endscan(scan);
	flr_definitions_close(definitions);
	return found;
}

/* Does a text column of two rows of the table say the same? */
static bool
same_text_column(TupleDesc desc, HeapTuple a, HeapTuple b, AttrNumber column)
{
	bool		anull;
	bool		bnull;
	Datum		x = heap_getattr(a, column, desc, &anull);
	Datum		y = heap_getattr(b, column, desc, &bnull);

	return anull == bnull &&
		(anull || DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID,
													   x, y)));
}

/*
 * Is this the name, scope and API of the last row that was checked, in the same
 * subtransaction?  As long as that lasts nobody else writes any.  Remembers it.
 */
static bool
is_checked(TupleDesc desc, HeapTuple row)
{
	static SubTransactionId checked_in = InvalidSubTransactionId;
	static TransactionId checked_by = InvalidTransactionId;
	static char checked[3][FLR_MAX_NAME + 1];
	static const AttrNumber columns[3] = {COLUMN_NAME, COLUMN_SCOPE, COLUMN_API};
	bool		same = checked_in == GetCurrentSubTransactionId() &&
	checked_by == GetTopTransactionId();

	checked_in = InvalidSubTransactionId;
	for (int i = 0; i < 3; i++)
	{
		bool		isnull;
		Datum		value = heap_getattr(row, columns[i], desc, &isnull);
		const char *string = isnull ? "" : TextDatumGetCString(value);

		same = same && strcmp(checked[i], string) == 0;
		strlcpy(checked[i], string, sizeof(checked[i]));
	}
	checked_in = GetCurrentSubTransactionId();
	checked_by = GetTopTransactionId();
	return same;
}

/* Has a row been committed since the transaction took its snapshot? */
static bool
is_newer(HeapTuple tuple)
{
	TransactionId writer = HeapTupleHeaderGetXmin(tuple->t_data);

	return !TransactionIdIsCurrentTransactionId(writer) &&
		XidInMVCCSnapshot(writer, GetTransactionSnapshot());
}

/*
 * Raise an error if a row that has just been written, in place of old unless that is
 * NULL, has another scope or API than a row of its name that was committed after the
 * transaction's snapshot was taken.  The guard, which sees what the snapshot shows,
 * has found those of before, and keeps others from being written until the
 * transaction is over.
 */
void
flr_definitions_check_variants(Relation table, HeapTuple row, HeapTuple old)
{
	TupleDesc	desc = RelationGetDescr(table);
	Oid			index;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;
	Datum		name;

	if (!has_columns(table))
		return;
	name = heap_getattr(row, COLUMN_NAME, desc, &isnull);
	if (isnull ||
		(old != NULL && same_text_column(desc, row, old, COLUMN_NAME) &&
		 same_text_column(desc, row, old, COLUMN_SCOPE) &&
		 same_text_column(desc, row, old, COLUMN_API)) ||
		is_checked(desc, row))
		return;
	index = get_relname_relid("fl_rate_limit_natural_key",
							  RelationGetNamespace(table));
	ScanKeyInit(&key, COLUMN_NAME, BTEqualStrategyNumber, F_TEXTEQ, name);
	scan = systable_beginscan(table, index, OidIsValid(index), NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		if (is_newer(tuple) &&
			(!same_text_column(desc, tuple, row, COLUMN_SCOPE) ||
			 !same_text_column(desc, tuple, row, COLUMN_API)))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to concurrent update"),
					 errdetail("Another session has given rate limit \"%s\" another scope or api.",
							   TextDatumGetCString(name))));
	systable_endscan(scan);
}

/* Read the secret that keys the hashes of subjects. */
FlrHash
flr_definitions_secret(FlrDefinitions *definitions)
{
	Relation	table = NULL;
	SysScanDesc scan;
	HeapTuple	tuple;
	FlrHash		secret = {0};
	bool		found = false;

	if (OidIsValid(definitions->oids[REL_SECRET]))
		table = try_table_open(definitions->oids[REL_SECRET], NoLock);
	if (table != NULL && table->rd_rel->relkind == RELKIND_RELATION &&
		RelationGetDescr(table)->natts > 0 &&
		TupleDescAttr(RelationGetDescr(table), 0)->atttypid == BYTEAOID)
	{
		scan = systable_beginscan(table, InvalidOid, false, NULL, 0, NULL);
		tuple = systable_getnext(scan);
		if (HeapTupleIsValid(tuple))
		{
			bool		isnull;
			Datum		value = heap_getattr(tuple, 1, RelationGetDescr(table),
											 &isnull);

			if (!isnull)
			{
				bytea	   *bytes = DatumGetByteaPP(value);

				if (VARSIZE_ANY_EXHDR(bytes) >= sizeof(FlrHash))
				{
					secret.lo = flr_read_le64((unsigned char *) VARDATA_ANY(bytes));
					secret.hi = flr_read_le64((unsigned char *) VARDATA_ANY(bytes) + 8);
					found = true;
				}
			}
		}
		systable_endscan(scan);
	}
	if (table != NULL)
		table_close(table, NoLock);
	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the table \"%s\" holds no secret", SECRET_NAME),
				 errhint("Drop and create the extension \"fliplet_ratelimit\" again.")));
	return secret;
}
