/*-------------------------------------------------------------------------
 *
 * limits.c
 *	  Which definitions apply to a request: this backend's copy of them.
 *
 * The copy (a Copy) consists of everyone's and the plans' rows, of rows for
 * single keys, and of choices: for a scope, an api and a plan, the rows that
 * apply to a key without rows of its own.  A choice is made once and found
 * again by comparing three strings; it is made again when a date in one of
 * its rows is reached.
 *
 * Validity.  The relation cache tells us about every committed change of
 * fl_rate_limit (its row trigger sees to that) by calling relation_changed(),
 * which only clears a flag.  flr_limits_begin() receives such messages, and
 * reads the table when the flag is down.  The flag goes up before the table
 * is read, since a change may be announced meanwhile, and one call reads it
 * only once.  Where the table's lock is not to be had, a copy that is there
 * goes on being used and the next call tries again.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xact.h"
#include "storage/sinval.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "definitions.h"
#include "limits.h"

/* Choices that are remembered before all are forgotten. */
#define MAX_CHOICES		1024
#define CHOICE_HEADS	64

/* Keys that are remembered one by one before all are forgotten. */
#define MAX_KEYS		20000

/* A distance up to which an unknown name may be a slip of the keyboard. */
#define MAX_SLIP		3

/* What is known of a scope. */
typedef struct Scope
{
	const char *name;
	FlrHash		secret;			/* keys the hash of the keys in it */
	bool		keyed;			/* may have rows for single keys */
	bool		star;			/* has a row for every api */
	FlrLimit   *limits;			/* everyone's and the plans' rows */
	struct Scope *next;
} Scope;

/* The limits of a scope, an api and a plan, without rows for a single key. */
typedef struct Choice
{
	FlrText		scope_name;
	FlrText		api;
	FlrText		plan;			/* data is NULL: none */
	Scope	   *scope;
	TimestampTz until;			/* a date in one of the rows is reached */
	int			n;
	bool		exempts;		/* some of the limits are unlimited */
	FlrLimit   *limits[FLR_MAX_LIMITS];
	struct Choice *next;
} Choice;

/* Rows for one key, by the hash of scope and key. */
typedef struct KeyRows
{
	FlrHash		subject;
	FlrLimit   *limits;
} KeyRows;

/* This backend's copy of the definitions. */
typedef struct Copy
{
	MemoryContext context;
	Oid			relation;
	FlrHash		secret;
	Scope	   *scopes;
	HTAB	   *keys;
	MemoryContext keys_context;
	bool		keys_complete;	/* every row for a key is there */
	int			nchoices;
	MemoryContext choices_context;
	Choice	   *choices[CHOICE_HEADS];
} Copy;

static Copy *copy = NULL;
static bool copy_is_valid = false;
static Choice *last_choice = NULL;

/* The last short key and its hash: loops and row triggers ask for it again. */
#define MEMO_SIZE	32
static struct
{
	FlrHash		secret;			/* of the scope */
	FlrText		key;			/* size is 0: none */
	FlrHash		subject;
	char		data[MEMO_SIZE];
}			memo;

/* Which table belongs to which function: a few, found again by remainder. */
#define FUNCTION_SLOTS	64
static struct
{
	Oid			function;
	Oid			relation;
}			functions[FUNCTION_SLOTS];

/* ------------------------------------------------------------------------
 * Keeping the copy
 * ------------------------------------------------------------------------
 */

/* Relation cache callback: a relation, or everything, has changed. */
static void
relation_changed(Datum arg, Oid relation)
{
	(void) arg;
	if (copy == NULL || relation == InvalidOid || relation == copy->relation)
		copy_is_valid = false;
}

/* Once per backend, when the library is loaded. */
void
flr_limits_init(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
}

/* Forget all choices: a setting has changed what they depend on. */
void
flr_limits_forget_choices(void)
{
	last_choice = NULL;
	if (copy == NULL)
		return;
	MemoryContextReset(copy->choices_context);
	memset(copy->choices, 0, sizeof(copy->choices));
	copy->nchoices = 0;
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

/* Does a C string equal an argument? */
static inline bool
equals(const char *string, FlrText text)
{
	return strncmp(string, text.data, text.size) == 0 &&
		string[text.size] == '\0';
}

/* Find a scope; NULL if no row has it and it is none of the four. */
static Scope *
find_scope(Copy *c, FlrText name)
{
	for (Scope *scope = c->scopes; scope != NULL; scope = scope->next)
		if (equals(scope->name, name))
			return scope;
	return NULL;
}

/* Find or add a scope. */
static Scope *
add_scope(Copy *c, const char *name)
{
	FlrText		text = {name, strlen(name)};
	Scope	   *scope = find_scope(c, text);

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

/* The hash of a scope's key. */
static inline FlrHash
subject_of(const Scope *scope, const FlrText *key)
{
	if (key->size > MEMO_SIZE || key->size == 0)
		return flr_siphash(scope->secret, key->data, key->size);
	if (memo.secret.lo != scope->secret.lo ||
		memo.secret.hi != scope->secret.hi ||
		!flr_same_text(&memo.key, key))
	{
		memo.subject = flr_siphash(scope->secret, key->data, key->size);
		memo.secret = scope->secret;
		memo.key.data = memo.data;
		memo.key.size = key->size;
		memcpy(memo.data, key->data, key->size);
	}
	return memo.subject;
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

/* Compute the hashes by which shared memory knows a limit. */
static void
set_identity(const Copy *c, FlrLimit *limit)
{
	limit->relation = c->relation;
	limit->identity = identity_of(c, limit, limit->rule.algorithm);
	limit->name_hash = flr_siphash(c->secret, limit->name,
								   strlen(limit->name)).hi;
}

/* Remember a row for one key, in front of the others of that key. */
static void
add_key_row(Copy *c, FlrLimit *limit)
{
	Scope	   *scope = add_scope(c, limit->scope);
	FlrText		key = {limit->key, strlen(limit->key)};
	FlrHash		subject = subject_of(scope, &key);
	KeyRows    *rows;
	bool		found;

	scope->keyed = true;
	rows = hash_search(c->keys, &subject, HASH_ENTER, &found);
	if (!found)
		rows->limits = NULL;
	limit->next = rows->limits;
	rows->limits = limit;
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
	Scope	   *scope = add_scope(c, limit->scope);

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

/*
 * A record must reach back as far as the longest period of any row that may
 * be applied to it: those of the same identity, whatever the plan.
 */
static void
set_retention(Copy *c)
{
	for (Scope *scope = c->scopes; scope != NULL; scope = scope->next)
		for (FlrLimit *a = scope->limits; a != NULL; a = a->next)
			for (FlrLimit *b = scope->limits; b != NULL; b = b->next)
				if (a->identity == b->identity && b->enabled &&
					b->rule.retention > a->rule.retention)
					a->rule.retention = b->rule.retention;
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
			add_scope(c, four[i]);
		flr_definitions_scan(definitions, load_row, c);
		set_retention(c);

		reset_keys(c);
		if (!flr_definitions_scan_keys(definitions, load_key_row, c))
		{
			/* too many: fetch them when they are asked for */
			reset_keys(c);
			c->keys_complete = false;
			for (Scope *scope = c->scopes; scope != NULL; scope = scope->next)
				scope->keyed = true;
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
	bool		have_one = copy != NULL && copy->relation == relation;
	Copy	   *volatile fresh = NULL;

	/* whatever is announced from here on makes the new copy invalid again */
	copy_is_valid = true;
	PG_TRY();
	{
		fresh = read_copy(relation, !have_one);
	}
	PG_CATCH();
	{
		copy_is_valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (fresh == NULL)
	{
		copy_is_valid = false;
		return;
	}
	if (copy != NULL)
		MemoryContextDelete(copy->context);
	copy = fresh;
	last_choice = NULL;
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
	if (likely(copy_is_valid && function == last_function &&
			   copy->keys_complete))
		return;
	last_function = InvalidOid;
	if (!copy_is_valid)
		memset(functions, 0, sizeof(functions));
	relation = relation_of(function);
	if (!copy_is_valid || copy->relation != relation)
		refresh_copy(relation);
	else if (!copy->keys_complete &&
			 hash_get_num_entries(copy->keys) > MAX_KEYS)
		reset_keys(copy);
	if (copy_is_valid)
		last_function = function;
}

/* The definitions table of the current call; invalid if none was ever read. */
Oid
flr_limits_relation(void)
{
	return copy != NULL ? copy->relation : InvalidOid;
}

/* ------------------------------------------------------------------------
 * Choosing
 * ------------------------------------------------------------------------
 */

/* How special a row is: this key's, else this plan's; a user's, else ours. */
static inline int
rank(const FlrLimit *limit)
{
	return (limit->key ? 4 : limit->plan ? 2 : 0) + (limit->limit_id > 0);
}

/*
 * Is a row in force at now, for this plan?  *until is lowered to the next
 * date of the row.
 */
static FlrWhy
in_force(const FlrLimit *limit, FlrText plan, TimestampTz now,
		 TimestampTz *until)
{
	if (limit->limit_id < 0 && !flr_shipped_limits)
		return FLR_WHY_SHIPPED_OFF;
	if (limit->plan != NULL &&
		(plan.data == NULL || !equals(limit->plan, plan)))
		return FLR_WHY_OTHER_PLAN;
	if (!limit->enabled)
		return FLR_WHY_DISABLED;
	if (limit->valid_from > now)
	{
		*until = Min(*until, limit->valid_from);
		return FLR_WHY_NOT_YET;
	}
	if (limit->valid_until <= now)
		return FLR_WHY_OVER;
	*until = Min(*until, limit->valid_until);
	return FLR_WHY_APPLIES;
}

/* Does a row speak about this api? */
static inline bool
about(const FlrLimit *limit, FlrText api)
{
	return equals(limit->api, api) || strcmp(limit->api, "*") == 0;
}

/* Raise the error for a request to which too many limits apply. */
static void
too_many_limits(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("more than %d limits apply to one request",
					FLR_MAX_LIMITS),
			 errhint("Disable or delete some of the limits, or give several of them one name.")));
}

/* Let a row compete with those chosen so far. */
static void
compete(FlrLimit **chosen, int *n, FlrLimit *limit)
{
	for (int i = 0; i < *n; i++)
		if (chosen[i]->name_hash == limit->name_hash)
		{
			if (rank(limit) > rank(chosen[i]))
				chosen[i] = limit;
			return;
		}
	if (*n == FLR_MAX_LIMITS)
		too_many_limits();
	chosen[(*n)++] = limit;
}

/* flr_definitions_scan_key() callback: put a row in front of a list. */
static void
collect_row(FlrLimit *limit, void *arg)
{
	FlrLimit  **list = arg;

	set_identity(copy, limit);
	limit->next = *list;
	*list = limit;
}

/* Rows for a single key: the first of a list, NULL when there are none. */
static FlrLimit *
key_rows(const Scope *scope, FlrText key, FlrHash subject)
{
	KeyRows    *rows;
	FlrDefinitions *definitions;
	FlrLimit   *list = NULL;
	bool		found;

	if (!scope->keyed || key.size > FLR_MAX_ROW_KEY)
		return NULL;
	rows = hash_search(copy->keys, &subject, HASH_FIND, NULL);
	if (rows != NULL || copy->keys_complete)
		return rows ? rows->limits : NULL;

	/* look into the table, once, and remember also that there is none */
	definitions = flr_definitions_open(copy->relation, false,
									   copy->keys_context);
	if (definitions == NULL)
	{
		/* locked: what holds for everyone will have to do for now */
		copy_is_valid = false;
		return NULL;
	}
	flr_definitions_scan_key(definitions, scope->name, key, collect_row,
							 &list);
	flr_definitions_close(definitions);
	rows = hash_search(copy->keys, &subject, HASH_ENTER, &found);
	rows->limits = list;
	return list;
}

/* The closest known name to an unknown one, or NULL. */
static const char *
closest(FlrText text, const char *best, int *best_distance,
		const char *candidate)
{
	int			distance;

	/* another case is no distance at all */
	if (strlen(candidate) == (size_t) text.size &&
		pg_strncasecmp(candidate, text.data, text.size) == 0)
	{
		*best_distance = 0;
		return candidate;
	}
	distance = varstr_levenshtein_less_equal(text.data, text.size,
											 candidate, strlen(candidate),
											 1, 1, 1, *best_distance, true);
	if (distance >= *best_distance || distance >= text.size)
		return best;
	*best_distance = distance;
	return candidate;
}

/* Raise the error for a scope that nobody has defined. */
static void
unknown_scope(FlrText name)
{
	const char *best = NULL;
	int			distance = MAX_SLIP + 1;

	for (Scope *scope = copy->scopes; scope != NULL; scope = scope->next)
		best = closest(name, best, &distance, scope->name);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("unknown rate limit scope \"%.*s\"", name.size, name.data),
			 best ? errhint("Perhaps you meant \"%s\".", best) :
			 errhint("The scopes are \"device\", \"user\", \"app\", \"organisation\" and those in %s.",
					 flr_definitions_name(copy->relation))));
}

/* Raise the error for an API that nobody has defined. */
static void
unknown_api(FlrText api)
{
	const char *best = NULL;
	int			distance = MAX_SLIP + 1;

	for (Scope *scope = copy->scopes; scope != NULL; scope = scope->next)
		for (FlrLimit *limit = scope->limits; limit; limit = limit->next)
			if ((limit->limit_id > 0 || flr_shipped_limits) &&
				strcmp(limit->api, "*") != 0)
				best = closest(api, best, &distance, limit->api);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("unknown rate limit API \"%.*s\"", api.size, api.data),
			 best ? errhint("Perhaps you meant \"%s\".", best) :
			 errhint("Define a limit for it in %s, or set fliplet_ratelimit.undefined_limit to \"allow\".",
					 flr_definitions_name(copy->relation))));
}

/* Does any row, also one for a single key, have this API? */
static bool
api_is_known(FlrText api)
{
	HASH_SEQ_STATUS status;
	KeyRows    *rows;
	bool		known = false;

	for (Scope *scope = copy->scopes; scope != NULL; scope = scope->next)
		for (FlrLimit *limit = scope->limits; limit; limit = limit->next)
			if ((limit->limit_id > 0 || flr_shipped_limits) &&
				equals(limit->api, api))
				return true;
	hash_seq_init(&status, copy->keys);
	while ((rows = hash_seq_search(&status)) != NULL)
		for (FlrLimit *limit = rows->limits; limit; limit = limit->next)
			known = known || equals(limit->api, api);
	return known || (!copy->keys_complete &&
					 flr_definitions_any_key_row(copy->relation, NULL, &api));
}

/* Has any row for a single key of this scope the API "*"? */
static bool
key_row_for_every_api(const Scope *scope)
{
	static const FlrText star = {"*", 1};
	FlrText		name = {scope->name, strlen(scope->name)};
	HASH_SEQ_STATUS status;
	KeyRows    *rows;
	bool		found = false;

	if (!copy->keys_complete)
		return flr_definitions_any_key_row(copy->relation, &name, &star);
	hash_seq_init(&status, copy->keys);
	while ((rows = hash_seq_search(&status)) != NULL)
		for (FlrLimit *limit = rows->limits; limit; limit = limit->next)
			found = found || (strcmp(limit->scope, scope->name) == 0 &&
							  strcmp(limit->api, "*") == 0);
	return found;
}

/* Find a scope; one that is unknown raises, or is NULL if that is allowed. */
static Scope *
known_scope(FlrText name)
{
	Scope	   *scope = find_scope(copy, name);

	if (scope == NULL && !copy->keys_complete &&
		flr_definitions_any_key_row(copy->relation, &name, NULL))
		scope = add_scope(copy, pnstrdup(name.data, name.size));
	if (scope == NULL && flr_undefined_limit == FLR_ANSWER_ERROR)
		unknown_scope(name);
	return scope;
}

/* Is scope's API known?  The shipped star rows there may be do not count. */
static void
check_api(const Scope *scope, FlrText api)
{
	if (!scope->star && flr_undefined_limit == FLR_ANSWER_ERROR &&
		!api_is_known(api) && !key_row_for_every_api(scope))
		unknown_api(api);
}

/* The head of the chain in which a choice is kept. */
static inline Choice **
choice_head(FlrText scope, FlrText api, FlrText plan)
{
	uint32		hash = scope.size * 31 + api.size * 7 + plan.size;

	for (int i = 0; i < api.size; i++)
		hash = hash * 33 + (unsigned char) api.data[i];
	for (int i = 0; i < plan.size; i++)
		hash = hash * 33 + (unsigned char) plan.data[i];
	return &copy->choices[hash % CHOICE_HEADS];
}

/* Copy a text into the memory of the choices. */
static FlrText
copy_text(FlrText text)
{
	FlrText		result = {NULL, text.size};

	if (text.data != NULL)
	{
		char	   *data = MemoryContextAlloc(copy->choices_context,
											  text.size + 1);

		memcpy(data, text.data, text.size);
		result.data = data;
	}
	return result;
}

/* Is this the choice for these three? */
static inline bool
choice_is_for(const Choice *choice, const FlrText *scope, const FlrText *api,
			  const FlrText *plan)
{
	return flr_same_text(&choice->api, api) &&
		flr_same_text(&choice->scope_name, scope) &&
		flr_same_text(&choice->plan, plan);
}

/* Choose among the rows that are not for a single key. */
static void
choose(Choice *choice, FlrText api, FlrText plan)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz until = PG_INT64_MAX;
	FlrLimit   *chosen[FLR_MAX_LIMITS];
	int			n = 0;

	/* there may be too many, so nothing is stored before all is known */
	for (FlrLimit *limit = choice->scope->limits; limit; limit = limit->next)
		if (about(limit, api) &&
			in_force(limit, plan, now, &until) == FLR_WHY_APPLIES)
			compete(chosen, &n, limit);
	choice->n = n;
	choice->until = until;
	memcpy(choice->limits, chosen, n * sizeof(FlrLimit *));
	choice->exempts = false;
	for (int i = 0; i < choice->n; i++)
		choice->exempts |= choice->limits[i]->unlimited;
}

/*
 * Raise an error unless this argument can be a scope, an api, a plan, or the
 * name of a limit.
 */
void
flr_check_name(FlrText text, const char *what)
{
	if (!flr_is_name(text))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 text.size == 0 ? errmsg("%s must not be empty", what) :
				 errmsg("%s is not a valid name", what),
				 errdetail("Names are 1 to %d printable ASCII characters without \" and \\.",
						   FLR_MAX_NAME)));
}

/* find_choice() when the last choice is not the one. */
static Choice *
search_choice(FlrText scope_name, FlrText api, FlrText plan)
{
	Choice	  **head;
	Choice	   *choice;
	Choice		fresh;
	Scope	   *scope;

	for (choice = *choice_head(scope_name, api, plan); choice != NULL;
		 choice = choice->next)
		if (choice_is_for(choice, &scope_name, &api, &plan))
			return choice;

	flr_check_name(scope_name, "scope");
	flr_check_name(api, "api");
	if (plan.data != NULL)
		flr_check_name(plan, "plan");
	if (equals("*", api))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the api of a request must not be \"*\"")));
	scope = known_scope(scope_name);
	if (scope == NULL)
		return NULL;
	check_api(scope, api);
	if (copy->nchoices == MAX_CHOICES)
		flr_limits_forget_choices();
	memset(&fresh, 0, sizeof(Choice));
	fresh.scope = scope;
	choose(&fresh, api, plan);
	choice = MemoryContextAlloc(copy->choices_context, sizeof(Choice));
	*choice = fresh;
	choice->scope_name = copy_text(scope_name);
	choice->api = copy_text(api);
	choice->plan = copy_text(plan);
	head = choice_head(scope_name, api, plan);
	choice->next = *head;
	*head = choice;
	copy->nchoices++;
	return choice;
}

/* Find or make a choice; NULL when the scope is unknown and that is fine. */
static inline Choice *
find_choice(const FlrText *scope, const FlrText *api, const FlrText *plan)
{
	Choice	   *choice = last_choice;

	if (choice == NULL || !choice_is_for(choice, scope, api, plan))
	{
		choice = search_choice(*scope, *api, *plan);
		if (choice == NULL)
			return NULL;
	}
	if (choice->until != PG_INT64_MAX &&
		choice->until <= GetCurrentTimestamp())
		choose(choice, *api, *plan);
	last_choice = choice;
	return choice;
}

/* flr_limits_find() where rows for one key or exemptions may play a part. */
static pg_noinline void
find_specially(const Choice *choice, FlrText key, FlrHash subject,
			   FlrText api, FlrText plan, int pair, FlrLimitSet *set)
{
	FlrLimit   *chosen[FLR_MAX_LIMITS];
	FlrLimit   *rows = key_rows(choice->scope, key, subject);
	int			n = choice->n;

	memcpy(chosen, choice->limits, sizeof(FlrLimit *) * n);
	if (rows != NULL)
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz until = PG_INT64_MAX;

		for (FlrLimit *limit = rows; limit != NULL; limit = limit->next)
			if (about(limit, api) &&
				in_force(limit, plan, now, &until) == FLR_WHY_APPLIES)
				compete(chosen, &n, limit);
	}
	for (int i = 0; i < n; i++)
	{
		if (chosen[i]->unlimited)
		{
			set->unlimited = chosen[i];
			continue;
		}
		if (set->n == FLR_MAX_LIMITS)
			too_many_limits();
		set->pairs[set->n] = pair;
		set->limits[set->n++] = chosen[i];
	}
}

/*
 * Add the limits of a pair of scope and key, pair number so and so of its
 * request, to a set: for each name the most special row that is in force.
 * Fills in the pair's subject.
 */
void
flr_limits_find(FlrPair *pair, const FlrText *api, const FlrText *plan,
				int number, FlrLimitSet *set)
{
	const Choice *choice = find_choice(&pair->scope, api, plan);

	if (choice == NULL)
		return;
	pair->subject = subject_of(choice->scope, &pair->key);
	if (unlikely(choice->scope->keyed || choice->exempts ||
				 choice->n > FLR_MAX_LIMITS - set->n))
	{
		find_specially(choice, pair->key, pair->subject, *api, *plan, number,
					   set);
		return;
	}
	for (int i = 0; i < choice->n; i++)
	{
		set->pairs[set->n] = number;
		set->limits[set->n++] = choice->limits[i];
	}
}

/* The hash of a pair whose scope must be known. */
FlrHash
flr_limits_subject(FlrText scope, FlrText key)
{
	Scope	   *known;

	flr_check_name(scope, "scope");
	known = known_scope(scope);
	if (known == NULL)
		unknown_scope(scope);
	return subject_of(known, &key);
}

/* By what shared memory knows the statistics of a limit's name. */
uint64
flr_limits_name_hash(FlrText name)
{
	return flr_siphash(copy->secret, name.data, name.size).hi;
}

/* The identity a limit's counters have under this algorithm. */
uint64
flr_limits_identity(const FlrLimit *limit, FlrAlgorithm algorithm)
{
	return identity_of(copy, limit, algorithm);
}

/*
 * Every row of a scope that speaks about an API, for everyone, for any plan
 * or for this key, with what became of it.  The array is palloc'd.
 */
int
flr_limits_candidates(FlrText scope, FlrText key, FlrText api, FlrText plan,
					  FlrCandidate **candidates)
{
	Choice	   *choice = find_choice(&scope, &api, &plan);
	TimestampTz now = GetCurrentTimestamp();
	FlrLimit   *chosen[FLR_MAX_LIMITS];
	FlrLimit   *lists[2];
	int			nchosen = 0;
	int			size = 16;
	int			n = 0;

	*candidates = palloc(size * sizeof(FlrCandidate));
	if (choice == NULL)
		return 0;
	lists[0] = key_rows(choice->scope, key, subject_of(choice->scope, &key));
	lists[1] = choice->scope->limits;
	for (int i = 0; i < 2; i++)
		for (FlrLimit *limit = lists[i]; limit != NULL; limit = limit->next)
		{
			TimestampTz until = PG_INT64_MAX;
			FlrCandidate *candidate;

			if (!about(limit, api))
				continue;
			if (n == size)
			{
				size *= 2;
				*candidates = repalloc(*candidates,
									   size * sizeof(FlrCandidate));
			}
			candidate = &(*candidates)[n++];
			candidate->limit = limit;
			candidate->by = NULL;
			candidate->why = in_force(limit, plan, now, &until);
			if (candidate->why == FLR_WHY_APPLIES)
				compete(chosen, &nchosen, limit);
		}
	for (int i = 0; i < n; i++)
	{
		FlrCandidate *candidate = &(*candidates)[i];

		if (candidate->why != FLR_WHY_APPLIES)
			continue;
		for (int j = 0; j < nchosen; j++)
			if (chosen[j]->name_hash == candidate->limit->name_hash &&
				chosen[j] != candidate->limit)
			{
				candidate->why = FLR_WHY_REPLACED;
				candidate->by = chosen[j];
			}
		if (candidate->why != FLR_WHY_APPLIES)
			continue;
		if (candidate->limit->unlimited)
			candidate->why = FLR_WHY_UNLIMITED;
		else if (candidate->limit->on_limit == FLR_ON_LIMIT_COUNT)
			candidate->why = FLR_WHY_SHADOW;
	}
	return n;
}

/* A limit of this identity among those at hand; NULL when there is none. */
FlrLimit *
flr_limits_identified(uint64 identity)
{
	HASH_SEQ_STATUS status;
	KeyRows    *rows;

	for (Scope *scope = copy->scopes; scope != NULL; scope = scope->next)
		for (FlrLimit *limit = scope->limits; limit != NULL;
			 limit = limit->next)
			if (limit->identity == identity && !limit->unlimited)
				return limit;
	hash_seq_init(&status, copy->keys);
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

	for (Scope *scope = copy->scopes; scope != NULL; scope = scope->next)
		for (limit = scope->limits; limit != NULL; limit = limit->next)
			if (limit->limit_id == limit_id)
				return limit;
	definitions = flr_definitions_open(copy->relation, true,
									   CurrentMemoryContext);
	limit = flr_definitions_fetch(definitions, limit_id);
	flr_definitions_close(definitions);
	if (limit != NULL)
		set_identity(copy, limit);
	return limit;
}
