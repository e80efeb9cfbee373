/*-------------------------------------------------------------------------
 *
 * slots.c
 *	  Which slot of a cluster a key belongs to.
 *
 * In a cluster every pair of scope and key belongs to one of a power of two of
 * slots, and every slot to one node.  The slot is the hash of the pair modulo
 * the number of slots.  The hash is part of the interface: it never changes,
 * and does not depend on the server's version, encoding or byte order.
 *
 * A node may be told which slots are its own; it then refuses requests that
 * came to the wrong place, instead of counting them a second time.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "request.h"
#include "slots.h"

/* What a node owns, as the setting says. */
typedef struct FlrOwnedSlots
{
	int			nslots;
	uint8		owned[FLR_MAX_SLOTS];
} FlrOwnedSlots;

const FlrOwnedSlots *flr_owned_slots = NULL;

/* What the setting says; flr_owned_slots is what it means. */
static char *owner_check;

/* FNV-1a, 64 bits, over more bytes. */
static uint64
fnv1a(uint64 hash, const char *data, int size)
{
	for (int i = 0; i < size; i++)
		hash = (hash ^ (unsigned char) data[i]) * UINT64CONST(0x100000001b3);
	return hash;
}

/* The same over a text, in UTF-8. */
static uint64
fnv1a_text(uint64 hash, FlrText text)
{
	char	   *utf8 = pg_server_to_any(text.data, text.size, PG_UTF8);

	if (utf8 != text.data)
	{
		hash = fnv1a(hash, utf8, strlen(utf8));
		pfree(utf8);
		return hash;
	}
	return fnv1a(hash, text.data, text.size);
}

/*
 * The hash of a pair: FNV-1a over scope, a zero byte and key, both halves
 * folded into one as the algorithm's authors recommend for fewer bits, without
 * the sign.
 *
 * Source: G. Fowler, L. C. Noll, K.-P. Vo and D. Eastlake, "The FNV
 * Non-Cryptographic Hash Algorithm" (draft-eastlake-fnv).
 */
uint32
flr_route_hash(FlrText scope, FlrText key)
{
	uint64		hash = fnv1a_text(UINT64CONST(0xcbf29ce484222325), scope);

	hash = fnv1a(hash, "", 1);
	hash = fnv1a_text(hash, key);
	return (uint32) (hash ^ (hash >> 32)) & 0x7fffffff;
}

PG_FUNCTION_INFO_V1(fl_cluster_hash);

/* fl_cluster_hash(scope, key): flr_route_hash() */
Datum
fl_cluster_hash(PG_FUNCTION_ARGS)
{
	FlrText		scope = flr_text_arg(fcinfo, 0, "scope");
	FlrText		key = flr_text_arg(fcinfo, 1, "key");

	PG_RETURN_INT32((int32) flr_route_hash(scope, key));
}

/* Read a number of at most so much; NULL if there is none. */
static const char *
read_number(const char *p, int most, int *number)
{
	const char *start = p;
	int			n = 0;

	for (; *p >= '0' && *p <= '9'; p++)
		if ((n = n * 10 + (*p - '0')) > most)
			return NULL;
	*number = n;
	return p == start ? NULL : p;
}

static const char *
skip_space(const char *p)
{
	while (*p == ' ')
		p++;
	return p;
}

/*
 * Read "SLOTS: FROM-TO, ONE, ...", spaces where they please.  NULL: it is not
 * that.
 */
static const char *
read_slots(const char *p, FlrOwnedSlots *slots)
{
	p = read_number(skip_space(p), FLR_MAX_SLOTS, &slots->nslots);
	if (p == NULL || slots->nslots == 0 ||
		(slots->nslots & (slots->nslots - 1)) != 0)
		return NULL;
	p = skip_space(p);
	if (*p++ != ':')
		return NULL;
	p = skip_space(p);
	if (*p == '\0')
		return p;
	for (;;)
	{
		int			from;
		int			to;

		p = read_number(skip_space(p), slots->nslots - 1, &from);
		if (p == NULL)
			return NULL;
		to = from;
		p = skip_space(p);
		if (*p == '-')
		{
			p = read_number(skip_space(p + 1), slots->nslots - 1, &to);
			if (p == NULL || to < from)
				return NULL;
			p = skip_space(p);
		}
		memset(slots->owned + from, true, to - from + 1);
		if (*p == '\0')
			return p;
		if (*p++ != ',')
			return NULL;
	}
}

/* Check hook of fliplet_ratelimit.owner_check. */
static bool
check_owner_check(char **value, void **extra, GucSource source)
{
	FlrOwnedSlots *slots;

	(void) source;
	if (*skip_space(*value) == '\0')
		return true;
	slots = flr_guc_malloc(sizeof(FlrOwnedSlots));
	if (slots == NULL)
		return false;
	memset(slots, 0, sizeof(FlrOwnedSlots));
	if (read_slots(*value, slots) == NULL)
	{
		GUC_check_errdetail("It must be the number of slots, a power of two of at most %d, a colon, and the slots of this node, like \"64: 0-15, 40\".",
							FLR_MAX_SLOTS);
		flr_guc_free(slots);
		return false;
	}
	*extra = slots;
	return true;
}

/* Assign hook of fliplet_ratelimit.owner_check. */
static void
assign_owner_check(const char *value, void *extra)
{
	(void) value;
	flr_owned_slots = extra;
}

/* Raise an error if one of these pairs belongs to another node. */
void
flr_refuse_foreign(const FlrPair *pairs, int npairs)
{
	for (int i = 0; i < npairs; i++)
	{
		int			slot = flr_route_hash(pairs[i].scope, pairs[i].key) %
		flr_owned_slots->nslots;

		if (!flr_owned_slots->owned[slot])
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("this node does not own slot %d, to which the key belongs",
							slot),
					 errhint("Call through the router, or correct \"fliplet_ratelimit.owner_check\".")));
	}
}

/* Define the setting. */
void
flr_slots_init(void)
{
	DefineCustomStringVariable("fliplet_ratelimit.owner_check",
							   "Sets which slots of a cluster belong to this node, like \"64: 0-15, 40\".",
							   "Requests for keys of other slots are refused. Empty checks nothing.",
							   &owner_check, "", PGC_SUSET, 0,
							   check_owner_check, assign_owner_check, NULL);
}
