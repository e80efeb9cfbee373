/*-------------------------------------------------------------------------
 *
 * trigger.c
 *	  fl_rate_trigger(), and the trigger that announces new definitions.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/sysattr.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "check.h"
#include "definitions.h"
#include "request.h"

#define ROWS_ARGUMENT	"rows"

/* Raise the error for a trigger that was created the wrong way. */
static void
bad_trigger(const TriggerData *trigdata, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("trigger \"%s\" on table \"%s\" is not a valid rate limit trigger",
					trigdata->tg_trigger->tgname,
					RelationGetRelationName(trigdata->tg_relation)),
			 errdetail("%s", detail),
			 errhint("The arguments of fl_rate_trigger are a scope, an API, 'column:NAME' or 'setting:NAME' or 'role', and optionally 'rows'.")));
}

/* Raise the error for a statement that brings no key. */
static void
no_key(const TriggerData *trigdata, const char *what, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("trigger \"%s\" on table \"%s\" finds no key: %s \"%s\" is null, empty or not set",
					trigdata->tg_trigger->tgname,
					RelationGetRelationName(trigdata->tg_relation),
					what, name)));
}

/* The value of a column of the row that is being changed, as text. */
static char *
column_key(const TriggerData *trigdata, const char *column)
{
	TupleDesc	desc = RelationGetDescr(trigdata->tg_relation);
	HeapTuple	row;
	int			number;

	if (!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		bad_trigger(trigdata, "A key from a column needs a trigger FOR EACH ROW.");
	row = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ?
		trigdata->tg_newtuple : trigdata->tg_trigtuple;
	number = SPI_fnumber(desc, column);
	if (number == SPI_ERROR_NOATTRIBUTE || number <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("trigger \"%s\": column \"%s\" of table \"%s\" does not exist",
						trigdata->tg_trigger->tgname, column,
						RelationGetRelationName(trigdata->tg_relation))));
	return SPI_getvalue(row, desc, number);
}

/* Where the third argument says, find the key; an empty one is an error. */
static const char *
find_key(const TriggerData *trigdata, const char *source)
{
	const char *name;
	const char *key;

	switch (flr_key_source(source, &name))
	{
		case FLR_KEY_FROM_COLUMN:
			key = column_key(trigdata, name);
			if (key == NULL || key[0] == '\0')
				no_key(trigdata, "column", name);
			return key;
		case FLR_KEY_FROM_SETTING:
			key = GetConfigOption(name, true, true);
			if (key == NULL || key[0] == '\0')
				no_key(trigdata, "setting", name);
			return key;
		case FLR_KEY_FROM_ROLE:
			return GetUserNameFromId(GetUserId(), false);
		case FLR_KEY_FROM_NOWHERE:
			break;
	}
	bad_trigger(trigdata, "The third argument does not say where the key comes from.");
	return NULL;
}

/*
 * What the statement or the row costs: 1, or with the argument 'rows' the
 * number of rows in the transition table.  A transition table without rows
 * costs nothing either way.
 */
static int64
find_cost(const TriggerData *trigdata)
{
	Tuplestorestate *rows = trigdata->tg_newtable ? trigdata->tg_newtable :
	trigdata->tg_oldtable;
	bool		by_rows = trigdata->tg_trigger->tgnargs == 4;

	if (by_rows &&
		strcmp(trigdata->tg_trigger->tgargs[3], ROWS_ARGUMENT) != 0)
		bad_trigger(trigdata, "The fourth argument can only be 'rows'.");
	if (TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
	{
		if (by_rows)
			bad_trigger(trigdata, "'rows' needs a trigger FOR EACH STATEMENT.");
		return 1;
	}
	if (rows == NULL)
	{
		if (by_rows)
			bad_trigger(trigdata, "'rows' needs a trigger AFTER the statement with a transition table (REFERENCING NEW TABLE AS ... or OLD TABLE AS ...).");
		return 1;
	}
	return by_rows ? tuplestore_tuple_count(rows) :
		tuplestore_tuple_count(rows) > 0;
}

PG_FUNCTION_INFO_V1(fl_rate_trigger);

/* fl_rate_trigger(scope, api, key source [, 'rows']): see the README. */
Datum
fl_rate_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	FlrRequest	request;
	char	  **args;
	const char *key;
	int64		remaining;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("fl_rate_trigger can only be called as a trigger")));
	if (TRIGGER_FIRED_INSTEAD(trigdata->tg_event))
		bad_trigger(trigdata, "It cannot be an INSTEAD OF trigger.");
	if (trigdata->tg_trigger->tgnargs < 3 || trigdata->tg_trigger->tgnargs > 4)
		bad_trigger(trigdata, "It needs three or four arguments.");

	args = trigdata->tg_trigger->tgargs;
	request.cost = find_cost(trigdata);
	if (request.cost > 0)
	{
		key = find_key(trigdata, args[2]);
		request.npairs = 1;
		request.pairs[0].scope.data = args[0];
		request.pairs[0].scope.size = strlen(args[0]);
		request.pairs[0].key.data = key;
		request.pairs[0].key.size = strlen(key);
		request.api.data = args[1];
		request.api.size = strlen(args[1]);
		request.plan.data = NULL;
		request.plan.size = 0;
		flr_check_key(request.pairs[0].key);
		if (flr_enabled)
			flr_check_request(&request, fcinfo->flinfo->fn_oid, &remaining);
	}

	/* what a BEFORE ROW trigger returns is what happens to the row */
	if (!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		return PointerGetDatum(NULL);
	return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ?
						   trigdata->tg_newtuple : trigdata->tg_trigtuple);
}

PG_FUNCTION_INFO_V1(fl_rate_limit_changed);

/*
 * fl_rate_limit_changed(): trigger on fl_rate_limit that makes every session,
 * also on standbys, read the definitions again once the change has committed.
 * It also sees what the guard, a function of SQL, cannot: rows that are newer than
 * the transaction's snapshot.
 */
Datum
fl_rate_limit_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("fl_rate_limit_changed can only be called as a trigger")));
	flr_limits_changing();
	CacheInvalidateRelcache(trigdata->tg_relation);
	if (IsolationUsesXactSnapshot() &&
		SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA &&
		TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) &&
		!TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
	{
		bool		update = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event);

		flr_definitions_check_variants(trigdata->tg_relation,
									   update ? trigdata->tg_newtuple :
									   trigdata->tg_trigtuple,
									   update ? trigdata->tg_trigtuple : NULL);
	}
	return PointerGetDatum(NULL);
}
