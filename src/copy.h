/*-------------------------------------------------------------------------
 *
 * copy.h
 *	  This backend's copy of the definitions, for limits.c.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_COPY_H
#define FLR_COPY_H

#include "utils/hsearch.h"

#include "limits.h"

/* for this library only */
#pragma GCC visibility push(hidden)

#define CHOICE_HEADS	64

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
	bool		exempts;		/* some of the limits are unlimited, or
								 * invalid */
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
	bool		tentative;		/* its rules are: see copy.c */
	int			nchoices;
	MemoryContext choices_context;
	Choice	   *choices[CHOICE_HEADS];
	Choice	   *last_choice;	/* or NULL */
} Copy;

extern Copy *flr_copy;			/* NULL: none was ever read */
extern bool flr_copy_is_valid;

/* The last short key and its hash: loops and row triggers ask for it again. */
#define MEMO_SIZE	32
typedef struct KeyMemo
{
	FlrHash		secret;			/* of the scope */
	FlrText		key;			/* size is 0: none */
	FlrHash		subject;
	char		data[MEMO_SIZE];
} KeyMemo;

extern KeyMemo flr_key_memo;

/* The hash of a scope's key. */
static inline FlrHash
flr_subject_of(const Scope *scope, const FlrText *key)
{
	if (key->size > MEMO_SIZE || key->size == 0)
		return flr_siphash(scope->secret, key->data, key->size);
	if (flr_key_memo.secret.lo != scope->secret.lo ||
		flr_key_memo.secret.hi != scope->secret.hi ||
		!flr_same_text(&flr_key_memo.key, key))
	{
		flr_key_memo.subject = flr_siphash(scope->secret, key->data, key->size);
		flr_key_memo.secret = scope->secret;
		flr_key_memo.key.data = flr_key_memo.data;
		flr_key_memo.key.size = key->size;
		memcpy(flr_key_memo.data, key->data, key->size);
	}
	return flr_key_memo.subject;
}

extern Scope *flr_copy_scope(Copy *c, FlrText name);
extern Scope *flr_copy_add_scope(Copy *c, const char *name);
extern FlrLimit *flr_copy_key_rows(const Scope *scope, FlrText key,
								   FlrHash subject);

#pragma GCC visibility pop

#endif							/* FLR_COPY_H */
