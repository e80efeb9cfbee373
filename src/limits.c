/*-------------------------------------------------------------------------
 *
 * limits.c
 *	  Which definitions apply to a request.
 *
 * A choice is, for a scope, an api and a plan, the rows that apply to a key
 * without rows of its own.  It is made once and found again by comparing three
 * strings; it is made again when a date in one of its rows is reached.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "copy.h"
#include "definitions.h"

/* Choices that are remembered before all are forgotten. */
#define MAX_CHOICES		1024

/* A distance up to which an unknown name may be a slip of the keyboard. */
#define MAX_SLIP		3

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
		(plan.data == NULL || !flr_text_equals(limit->plan, plan)))
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
	return flr_text_equals(limit->api, api) || strcmp(limit->api, "*") == 0;
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

	for (Scope *scope = flr_copy->scopes; scope != NULL; scope = scope->next)
		best = closest(name, best, &distance, scope->name);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("unknown rate limit scope \"%.*s\"", name.size, name.data),
			 best ? errhint("Perhaps you meant \"%s\".", best) :
			 errhint("The scopes are \"device\", \"user\", \"app\", \"organisation\" and those in %s.",
					 flr_definitions_name(flr_copy->relation))));
}

/* Raise the error for an API that nobody has defined. */
static void
unknown_api(FlrText api)
{
	const char *best = NULL;
	int			distance = MAX_SLIP + 1;

	for (Scope *scope = flr_copy->scopes; scope != NULL; scope = scope->next)
		for (FlrLimit *limit = scope->limits; limit; limit = limit->next)
			if ((limit->limit_id > 0 || flr_shipped_limits) &&
				strcmp(limit->api, "*") != 0)
				best = closest(api, best, &distance, limit->api);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("unknown rate limit API \"%.*s\"", api.size, api.data),
			 best ? errhint("Perhaps you meant \"%s\".", best) :
			 errhint("Define a limit for it in %s, or set fliplet_ratelimit.undefined_limit to \"allow\".",
					 flr_definitions_name(flr_copy->relation))));
}

/* Does any row, also one for a single key, have this API? */
static bool
api_is_known(FlrText api)
{
	HASH_SEQ_STATUS status;
	KeyRows    *rows;
	bool		known = false;

	for (Scope *scope = flr_copy->scopes; scope != NULL; scope = scope->next)
		for (FlrLimit *limit = scope->limits; limit; limit = limit->next)
			if ((limit->limit_id > 0 || flr_shipped_limits) &&
				flr_text_equals(limit->api, api))
				return true;
	hash_seq_init(&status, flr_copy->keys);
	while ((rows = hash_seq_search(&status)) != NULL)
		for (FlrLimit *limit = rows->limits; limit; limit = limit->next)
			known = known || flr_text_equals(limit->api, api);
	return known || (!flr_copy->keys_complete &&
					 flr_definitions_any_key_row(flr_copy->relation, NULL, &api));
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

	if (!flr_copy->keys_complete)
		return flr_definitions_any_key_row(flr_copy->relation, &name, &star);
	hash_seq_init(&status, flr_copy->keys);
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
	Scope	   *scope = flr_copy_scope(flr_copy, name);

	if (scope == NULL && !flr_copy->keys_complete &&
		flr_definitions_any_key_row(flr_copy->relation, &name, NULL))
		scope = flr_copy_add_scope(flr_copy, pnstrdup(name.data, name.size));
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

/* Forget all choices: a setting has changed what they depend on. */
void
flr_limits_forget_choices(void)
{
	if (flr_copy == NULL)
		return;
	MemoryContextReset(flr_copy->choices_context);
	memset(flr_copy->choices, 0, sizeof(flr_copy->choices));
	flr_copy->nchoices = 0;
	flr_copy->last_choice = NULL;
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
	return &flr_copy->choices[hash % CHOICE_HEADS];
}

/* Copy a text into the memory of the choices. */
static FlrText
copy_text(FlrText text)
{
	FlrText		result = {NULL, text.size};

	if (text.data != NULL)
	{
		char	   *data = MemoryContextAlloc(flr_copy->choices_context,
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
		choice->exempts |= choice->limits[i]->unlimited ||
			choice->limits[i]->invalid != NULL;
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
	if (flr_text_equals("*", api))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the api of a request must not be \"*\"")));
	scope = known_scope(scope_name);
	if (scope == NULL)
		return NULL;
	check_api(scope, api);
	if (flr_copy->nchoices == MAX_CHOICES)
		flr_limits_forget_choices();
	memset(&fresh, 0, sizeof(Choice));
	fresh.scope = scope;
	choose(&fresh, api, plan);
	choice = MemoryContextAlloc(flr_copy->choices_context, sizeof(Choice));
	*choice = fresh;
	choice->scope_name = copy_text(scope_name);
	choice->api = copy_text(api);
	choice->plan = copy_text(plan);
	head = choice_head(scope_name, api, plan);
	choice->next = *head;
	*head = choice;
	flr_copy->nchoices++;
	return choice;
}

/* Find or make a choice; NULL when the scope is unknown and that is fine. */
static inline Choice *
find_choice(const FlrText *scope, const FlrText *api, const FlrText *plan)
{
	Choice	   *choice = flr_copy->last_choice;

	if (choice == NULL || !choice_is_for(choice, scope, api, plan))
	{
		choice = search_choice(*scope, *api, *plan);
		if (choice == NULL)
			return NULL;
	}
	if (choice->until != PG_INT64_MAX &&
		choice->until <= GetCurrentTimestamp())
		choose(choice, *api, *plan);
	flr_copy->last_choice = choice;
	return choice;
}

/* flr_limits_find() where rows for one key or exemptions may play a part. */
static pg_noinline void
find_specially(const Choice *choice, FlrText key, FlrHash subject,
			   FlrText api, FlrText plan, int pair, FlrLimitSet *set)
{
	FlrLimit   *chosen[FLR_MAX_LIMITS];
	FlrLimit   *rows = flr_copy_key_rows(choice->scope, key, subject);
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
		flr_definitions_check(chosen[i]);
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
	pair->subject = flr_subject_of(choice->scope, &pair->key);
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

/*
 * The limit that the last request had, if it was one, and the hash of another key of
 * the same scope: what the next request probably needs, before anything is known
 * about it.  NULL when there is nothing to go by.
 */
const FlrLimit *
flr_limits_foresee(const FlrText *key, FlrHash *subject)
{
	const Choice *choice = flr_copy != NULL ? flr_copy->last_choice : NULL;

	if (choice == NULL || choice->n != 1)
		return NULL;
	*subject = flr_subject_of(choice->scope, key);
	return choice->limits[0];
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
	return flr_subject_of(known, &key);
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
	lists[0] = flr_copy_key_rows(choice->scope, key, flr_subject_of(choice->scope, &key));
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
