/*-------------------------------------------------------------------------
 *
 * copy.c
 *	  This backend's copy of the definitions.
 *
 * The copy (a Copy) consists of everyone's and the plans' rows, of rows for
 * single keys, and of choices, which are made in limits.c.
 *
 * Validity.  The relation cache tells us about every committed change of
 * fl_rate_limit (its row trigger sees to that) by calling relation_changed(),
 * which only clears a flag.  flr_limits_begin() receives such messages, and
 * reads the table when the flag is down.  The flag goes up before the table
 * is read, since a change may be announced meanwhile, and one call reads it
 * only once.  Where the table's lock is not to be had, a copy that is there
 * goes on being used and the next call tries again.
 *
 * What is known may not be what counts: a transaction that changes definitions
 * sees them before they are committed, and may roll them back; and where the
 * table is locked, rows for a single key cannot be looked up.  Requests are judged
 * by what is known, but their rules are marked as tentative, and forget nothing of a
 * record by which others will be judged; nor do counters expire sooner than by the
 * rules that count if the transaction is rolled back, as far as they are everyone's.  (A token bucket has no record: what has
 * drained of it by such a rule has drained.)
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xact.h"
#include "storage/sinval.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "copy.h"
#include "definitions.h"

/* Keys that are remembered one by one before all are forgotten. */
#define MAX_KEYS		20000

Copy	   *flr_copy = NULL;
bool		flr_copy_is_valid = false;
KeyMemo		flr_key_memo;

/* The last transaction of this session that has changed definitions. */
static TransactionId changing = InvalidTransactionId;

/* Which table belongs to which function: a few, found again by remainder. */
#define FUNCTION_SLOTS	64
static struct
{
	Oid			function;
	Oid			relation;
}			functions[FUNCTION_SLOTS];

/* Relation cache callback: a relation, or everything, has changed. */
static void
relation_changed(Datum arg, Oid relation)
{
	(void) arg;
	if (flr_copy == NULL || relation == InvalidOid || relation == flr_copy->relation)
		flr_copy_is_valid = false;
}

/* The row trigger: the current transaction has changed definitions. */
void
flr_limits_changing(void)
{
	changing = GetTopTransactionId();
}

/* Is it the current transaction that has changed some? */
static bool
is_changing(void)
{
	return TransactionIdIsValid(changing) &&
		TransactionIdIsCurrentTransactionId(changing);
}

/* Once per backend, when the library is loaded. */
void
flr_limits_init(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
}

/* The definitions table beside a function of ours. */
static Oid
relation_of(Oid function)
{
	int			slot = function % FUNCTION_SLOTS;

	if (functions[slot].function != function)
	{
		Oid			relation = flr_definitions_relation(function);

		functions[slot].relation = relation;
		functions[slot].function = function;
	}
	return functions[slot].relation;
}

/* Find a scope; NULL if no row has it and it is none of the four. */
Scope	   *
flr_copy_scope(Copy *c, FlrText name)
{
	for (Scope *scope = c->scopes; scope != NULL; scope = scope->next)
		if (flr_text_equals(scope->name, name))
			return scope;
	return NULL;
}

/* Find or add a scope. */
Scope	   *
flr_copy_add_scope(Copy *c, const char *name)
{
	FlrText		text = {name, strlen(name)};
	Scope	   *scope = flr_copy_scope(c, text);

	if (scope == NULL)
	{
		scope = MemoryContextAllocZero(c->context, sizeof(Scope));
		scope->name = MemoryContextStrdup(c->context, name);
		scope->secret = flr_siphash(c->secret, name, strlen(name));
		scope->keyed = !c->keys_complete;
		scope->next = c->scopes;
		c->scopes = scope;
	}
	return scope;
}

/* By what shared memory knows a limit's counters under some algorithm. */
static uint64
identity_of(const Copy *c, const FlrLimit *limit, FlrAlgorithm algorithm)
{
	char		text[4 * (FLR_MAX_NAME + 1)];
	int			size;

	size = snprintf(text, sizeof(text), "%s\"%s\"%s\"%d", limit->name,
					limit->scope, limit->api, (int) algorithm);
	return flr_siphash(c->secret, text, size).lo;
}

/* Compute the hashes by which shared memory knows a limit of a copy. */
static void
set_identity(const Copy *c, FlrLimit *limit)
{
	limit->relation = c->relation;
	limit->rule.tentative = c->tentative ? limit->rule.retention : 0;
	limit->identity = identity_of(c, limit, limit->rule.algorithm);
	limit->name_hash = flr_siphash(c->secret, limit->name,
								   strlen(limit->name)).hi;
}

/*
 * Have a limit know of everyone's and the plans' rows that share its counters.  A
 * record must reach back as far as the longest period of any row that may be applied
 * to it: those of the same identity, whatever the plan.  And a bucket lives as long
 * as the slowest of them needs.
 */
static void
share(const Scope *scope, FlrLimit *limit)
{
	for (const FlrLimit *other = scope->limits; other != NULL;
		 other = other->next)
		if (other->identity == limit->identity && other->enabled &&
			!other->unlimited)
			flr_rule_share(&limit->rule, &other->rule);
}

/*
 * Put a row for one key in front of the others of that key.  It keeps what
 * everyone's rows look back at, since these apply again when it does not any more;
 * they do not know of it, since there may be very many rows for single keys.
 */
static FlrLimit *
join_key_rows(const Scope *scope, FlrLimit *limit, FlrLimit *list)
{
	share(scope, limit);
	limit->next = list;
	return limit;
}

/* Remember a row for one key. */
static void
add_key_row(Copy *c, FlrLimit *limit)
{
	Scope	   *scope = flr_copy_add_scope(c, limit->scope);
	FlrText		key = {limit->key, strlen(limit->key)};
	FlrHash		subject = flr_subject_of(scope, &key);
	KeyRows    *rows;
	bool		found;

	scope->keyed = true;
	rows = hash_search(c->keys, &subject, HASH_ENTER, &found);
	if (!found)
		rows->limits = NULL;
	rows->limits = join_key_rows(scope, limit, rows->limits);
}

/* Start with no rows for single keys at hand. */
static void
reset_keys(Copy *c)
{
	HASHCTL		info = {0};

	MemoryContextReset(c->keys_context);
	info.keysize = sizeof(FlrHash);
	info.entrysize = sizeof(KeyRows);
	info.hcxt = c->keys_context;
	c->keys = hash_create("fliplet_ratelimit keys", 256, &info,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* flr_definitions_scan() callback: everyone's and the plans' rows. */
static void
load_row(FlrLimit *limit, void *arg)
{
	Copy	   *c = arg;
	Scope	   *scope = flr_copy_add_scope(c, limit->scope);

	set_identity(c, limit);
	if (strcmp(limit->api, "*") == 0)
		scope->star = true;
	limit->next = scope->limits;
	scope->limits = limit;
}

/* flr_definitions_scan() callback: rows for single keys. */
static void
load_key_row(FlrLimit *limit, void *arg)
{
	set_identity(arg, limit);
	add_key_row(arg, limit);
}

/* Have all rows that are not for single keys know of each other. */
static void
share_all(Copy *c)
{
	for (Scope *scope = c->scopes; scope != NULL; scope = scope->next)
		for (FlrLimit *limit = scope->limits; limit != NULL;
			 limit = limit->next)
			share(scope, limit);
}

/* Do something to every limit that is at hand. */
static void
for_limits(Copy *c, void (*act) (FlrLimit *limit, const void *arg),
		   const void *arg)
{
	HASH_SEQ_STATUS status;
	KeyRows    *rows;

	for (Scope *scope = c->scopes; scope != NULL; scope = scope->next)
		for (FlrLimit *limit = scope->limits; limit != NULL; limit = limit->next)
			act(limit, arg);
	hash_seq_init(&status, c->keys);
	while ((rows = hash_seq_search(&status)) != NULL)
		for (FlrLimit *limit = rows->limits; limit != NULL; limit = limit->next)
			act(limit, arg);
}

/* for_limits() action: another limit of the same counters may count in the end. */
static void
make_live(FlrLimit *limit, const void *arg)
{
	const FlrLimit *other = arg;

	if (limit->identity == other->identity)
		limit->rule.tentative = Max(limit->rule.tentative,
									other->rule.retention);
}

/* flr_definitions_scan_before() callback */
static void
load_before(FlrLimit *limit, void *arg)
{
	if (!limit->enabled || limit->unlimited)
		return;
	set_identity(arg, limit);
	for_limits(arg, make_live, limit);
}

/* for_limits() action */
static void
mark_tentative(FlrLimit *limit, const void *arg)
{
	(void) arg;
	limit->rule.tentative = limit->rule.retention;
}

/*
 * Have nothing forgotten by the rules of a copy: others, which count, may look
 * further back than these.
 */
static void
make_tentative(Copy *c)
{
	c->tentative = true;
	for_limits(c, mark_tentative, NULL);
}

/* Read the definitions into a new copy.  NULL: the table is locked. */
static Copy *
read_copy(Oid relation, bool wait)
{
	static const char *const four[] = {"device", "user", "app", "organisation"};
	MemoryContext context;
	MemoryContext old;
	FlrDefinitions *definitions;
	Copy	   *c;

	context = AllocSetContextCreate(CacheMemoryContext,
									"fliplet_ratelimit limits",
									ALLOCSET_DEFAULT_SIZES);
	definitions = flr_definitions_open(relation, wait, context);
	if (definitions == NULL)
	{
		MemoryContextDelete(context);
		return NULL;
	}
	PG_TRY();
	{
		old = MemoryContextSwitchTo(context);
		c = palloc0(sizeof(Copy));
		c->context = context;
		c->relation = relation;
		c->secret = flr_definitions_secret(definitions);
		flr_definitions_check_triggers(definitions);
		c->keys_context = AllocSetContextCreate(context,
												"fliplet_ratelimit keys",
												ALLOCSET_DEFAULT_SIZES);
		c->choices_context = AllocSetContextCreate(context,
												   "fliplet_ratelimit choices",
												   ALLOCSET_DEFAULT_SIZES);
		c->keys_complete = true;
		for (int i = 0; i < (int) lengthof(four); i++)
			flr_copy_add_scope(c, four[i]);
		flr_definitions_scan(definitions, load_row, c);
		share_all(c);

		reset_keys(c);
		if (!flr_definitions_scan_keys(definitions, load_key_row, c))
		{
			/* too many: fetch them when they are asked for */
			reset_keys(c);
			c->keys_complete = false;
			for (Scope *scope = c->scopes; scope != NULL; scope = scope->next)
				scope->keyed = true;
		}
		if (is_changing())
		{
			make_tentative(c);
			flr_definitions_scan_before(definitions, load_before, c);
		}
		MemoryContextSwitchTo(old);
	}
	PG_CATCH();
	{
		MemoryContextDelete(context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	flr_definitions_close(definitions);
	return c;
}

/*
 * Replace the copy by a fresh one, once.  Where the table is locked, a copy
 * that is there stays, and is looked at again at the next call.
 */
static void
refresh_copy(Oid relation)
{
	bool		have_one = flr_copy != NULL && flr_copy->relation == relation;
	Copy	   *volatile fresh = NULL;

	/* whatever is announced from here on makes the new copy invalid again */
	flr_copy_is_valid = true;
	PG_TRY();
	{
		fresh = read_copy(relation, !have_one);
	}
	PG_CATCH();
	{
		flr_copy_is_valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (fresh == NULL)
	{
		flr_copy_is_valid = false;
		return;
	}
	if (flr_copy != NULL)
		MemoryContextDelete(flr_copy->context);
	flr_copy = fresh;
}

/*
 * Begin a call: learn of changes, and read the definitions if there were any.
 * function is the called one, beside which the table is found.
 */
void
flr_limits_begin(Oid function)
{
	static Oid	last_function = InvalidOid;
	Oid			relation;

	AcceptInvalidationMessages();
	if (likely(flr_copy_is_valid && function == last_function &&
			   flr_copy->keys_complete && !flr_copy->tentative))
		return;
	last_function = InvalidOid;

	/* the transaction of the changes is over: this is not announced to itself */
	if (flr_copy != NULL && flr_copy->tentative && !is_changing())
		flr_copy_is_valid = false;
	if (!flr_copy_is_valid)
		memset(functions, 0, sizeof(functions));
	relation = relation_of(function);
	if (!flr_copy_is_valid || flr_copy->relation != relation)
		refresh_copy(relation);
	else if (!flr_copy->keys_complete &&
			 hash_get_num_entries(flr_copy->keys) > MAX_KEYS)
		reset_keys(flr_copy);
	if (flr_copy_is_valid)
		last_function = function;
}

/* The definitions table of the current call; invalid if none was ever read. */
Oid
flr_limits_relation(void)
{
	return flr_copy != NULL ? flr_copy->relation : InvalidOid;
}

/* flr_definitions_scan_key() callback: put a row in front of a list. */
static void
collect_row(FlrLimit *limit, void *arg)
{
	FlrLimit  **list = arg;
	FlrText		name = {limit->scope, strlen(limit->scope)};

	set_identity(flr_copy, limit);
	*list = join_key_rows(flr_copy_scope(flr_copy, name), limit, *list);
}

/* Rows for a single key: the first of a list, NULL when there are none. */
FlrLimit *
flr_copy_key_rows(const Scope *scope, FlrText key, FlrHash subject)
{
	KeyRows    *rows;
	FlrDefinitions *definitions;
	FlrLimit   *list = NULL;
	bool		found;

	if (!scope->keyed || key.size > FLR_MAX_ROW_KEY)
		return NULL;
	rows = hash_search(flr_copy->keys, &subject, HASH_FIND, NULL);
	if (rows != NULL || flr_copy->keys_complete)
		return rows ? rows->limits : NULL;

	/* look into the table, once, and remember also that there is none */
	definitions = flr_definitions_open(flr_copy->relation, false,
									   flr_copy->keys_context);
	if (definitions == NULL)
	{
		/* locked: what holds for everyone will have to do for now */
		make_tentative(flr_copy);
		flr_copy_is_valid = false;
		return NULL;
	}
	flr_definitions_scan_key(definitions, scope->name, key, collect_row,
							 &list);
	flr_definitions_close(definitions);
	rows = hash_search(flr_copy->keys, &subject, HASH_ENTER, &found);
	rows->limits = list;
	return list;
}

/* By what shared memory knows the statistics of a limit's name. */
uint64
flr_limits_name_hash(FlrText name)
{
	return flr_siphash(flr_copy->secret, name.data, name.size).hi;
}

/* The identity a limit's counters have under this algorithm. */
uint64
flr_limits_identity(const FlrLimit *limit, FlrAlgorithm algorithm)
{
	return identity_of(flr_copy, limit, algorithm);
}

/* A limit of this identity among those at hand; NULL when there is none. */
FlrLimit *
flr_limits_identified(uint64 identity)
{
	HASH_SEQ_STATUS status;
	KeyRows    *rows;

	for (Scope *scope = flr_copy->scopes; scope != NULL; scope = scope->next)
		for (FlrLimit *limit = scope->limits; limit != NULL;
			 limit = limit->next)
			if (limit->identity == identity && !limit->unlimited)
				return limit;
	hash_seq_init(&status, flr_copy->keys);
	while ((rows = hash_seq_search(&status)) != NULL)
		for (FlrLimit *limit = rows->limits; limit != NULL;
			 limit = limit->next)
			if (limit->identity == identity && !limit->unlimited)
			{
				hash_seq_term(&status);
				return limit;
			}
	return NULL;
}

/*
 * Find the row of this number, or read it from the table.  NULL when there is
 * none any more.  With n counters to explain this is called n times, so rows
 * that are at hand come first.
 */
FlrLimit *
flr_limits_fetch(int32 limit_id)
{
	FlrDefinitions *definitions;
	FlrLimit   *limit;

	for (Scope *scope = flr_copy->scopes; scope != NULL; scope = scope->next)
		for (limit = scope->limits; limit != NULL; limit = limit->next)
			if (limit->limit_id == limit_id)
				return limit;
	definitions = flr_definitions_open(flr_copy->relation, true,
									   CurrentMemoryContext);
	limit = flr_definitions_fetch(definitions, limit_id);
	flr_definitions_close(definitions);
	if (limit != NULL)
	{
		FlrText		name = {limit->scope, strlen(limit->scope)};
		Scope	   *scope = flr_copy_scope(flr_copy, name);

		set_identity(flr_copy, limit);
		if (scope != NULL)
			share(scope, limit);
	}
	return limit;
}
