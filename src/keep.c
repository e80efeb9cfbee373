/*-------------------------------------------------------------------------
 *
 * keep.c
 *	  Counters kept in the table fl_rate_saved across restarts.
 *
 * Saving.  fl_rate_unsaved() returns what has changed since it was last saved,
 * for fl_rate_maintain() to write to the table.  An entry that was changed has
 * a mark.  Returning it replaces the mark by another, "being saved", and only
 * the commit of the transaction takes that one away.  So a rollback, of
 * whatever kind, needs no one to do anything: entries with either mark are
 * returned the next time.
 *
 * Restoring.  The first request in a database after shared memory was made,
 * and the first after a promotion, reads the table back.  It holds a
 * heavyweight lock meanwhile, so that other sessions' requests wait for it,
 * interruptibly, and take over when it fails.  It writes nothing, so it works
 * on a standby and in a read-only transaction.  Where a counter exists
 * already, the larger spending stays.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "keep.h"
#include "request.h"
#include "saved.h"

#define TABLE_NAME		"fl_rate_saved"

/* The columns of fl_rate_saved, and of what fl_rate_unsaved() returns. */
enum
{
	COLUMN_SUBJECT,
	COLUMN_IDENTITY,
	COLUMN_LIMIT_ID,
	COLUMN_KEY,
	COLUMN_EXPIRES_AT,
	COLUMN_RECORD,
	NCOLUMNS
};

static const Oid column_types[NCOLUMNS] = {
	UUIDOID, INT8OID, INT4OID, TEXTOID, TIMESTAMPTZOID, BYTEAOID
};

FlrKeepReady flr_keep_ready = {InvalidOid, false};

/* ------------------------------------------------------------------------
 * Subjects as uuid
 * ------------------------------------------------------------------------
 */

/* The hash of a subject as a uuid; palloc'd. */
Datum
flr_subject_datum(FlrHash subject)
{
	pg_uuid_t  *uuid = palloc(sizeof(pg_uuid_t));

	for (int i = 0; i < 8; i++)
	{
		uuid->data[i] = (uint8) (subject.lo >> (56 - 8 * i));
		uuid->data[8 + i] = (uint8) (subject.hi >> (56 - 8 * i));
	}
	return UUIDPGetDatum(uuid);
}

/* The hash that a uuid stands for. */
static FlrHash
subject_of_datum(Datum datum)
{
	const		pg_uuid_t *uuid = DatumGetUUIDP(datum);
	FlrHash		subject = {0, 0};

	for (int i = 0; i < 8; i++)
	{
		subject.lo = (subject.lo << 8) | uuid->data[i];
		subject.hi = (subject.hi << 8) | uuid->data[8 + i];
	}
	return subject;
}

/* ------------------------------------------------------------------------
 * Locks
 * ------------------------------------------------------------------------
 */

/* Who holds which of the locks of a definitions table. */
typedef enum KeepLock
{
	KEEP_LOCK_READ = 1,			/* reads saved counters into memory */
	KEEP_LOCK_SAVE				/* saves counters, or forgets them */
} KeepLock;

/*
 * These are advisory locks, with a number in their last field that the SQL
 * functions for advisory locks do not use.
 */
static void
set_tag(LOCKTAG * tag, Oid relation, KeepLock lock)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, relation, lock, 429);
}

/*
 * Raise an error in a session that poses as a replica: the triggers of the
 * tables beside the counters would drop what it writes.
 */
void
flr_keep_check_role(const char *what)
{
	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot %s while \"session_replication_role\" is \"replica\"",
						what)));
}

/* Have no other transaction save, or forget, until this one has ended. */
void
flr_keep_lock(Oid relation)
{
	LOCKTAG		tag;

	set_tag(&tag, relation, KEEP_LOCK_SAVE);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* ------------------------------------------------------------------------
 * Limits by identity
 * ------------------------------------------------------------------------
 */

/* Variants share an identity but have rules of their own: both are the key. */
typedef struct KnownKey
{
	uint64		identity;
	int64		limit_id;
} KnownKey;

/* What a counter's identity and row lead to; found once, then remembered. */
typedef struct KnownLimit
{
	KnownKey	key;
	FlrLimit   *limit;			/* NULL: there is none any more */
} KnownLimit;

/* All of those, and where limits that were read for them are allocated. */
typedef struct KnownLimits
{
	HTAB	   *table;
	MemoryContext context;
} KnownLimits;

/* Begin with no known limits, in the current memory context. */
static void
init_known(KnownLimits *known)
{
	HASHCTL		info = {0};

	info.keysize = sizeof(KnownKey);
	info.entrysize = sizeof(KnownLimit);
	info.hcxt = CurrentMemoryContext;
	known->context = CurrentMemoryContext;
	known->table = hash_create("limits by identity", 64, &info,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * The row of that number, if it has that identity and limits anything; else any
 * variant that does; else NULL.
 */
static FlrLimit *
learn_limit(KnownLimits *known, uint64 identity, int32 limit_id)
{
	KnownKey	key = {identity, limit_id};
	bool		found;
	KnownLimit *entry = hash_search(known->table, &key, HASH_ENTER, &found);

	if (!found)
	{
		MemoryContext old = MemoryContextSwitchTo(known->context);

		entry->limit = NULL;
		entry->limit = flr_limits_fetch(limit_id);
		if (entry->limit == NULL || entry->limit->identity != identity ||
			entry->limit->unlimited)
			entry->limit = flr_limits_identified(identity);
		MemoryContextSwitchTo(old);
	}
	return entry->limit;
}

/* ------------------------------------------------------------------------
 * Restoring
 * ------------------------------------------------------------------------
 */

/* A row of fl_rate_saved, taken apart. */
typedef struct Row
{
	FlrEntryId	id;
	Oid			relation;
	FlrLimit   *limit;
	FlrSaved	saved;
	int			key_size;
	char		key[FLR_KEY_SIZE];
	const uint8 *bytes;
	size_t		size;
	TimestampTz expires_at;
} Row;

/* Open the table of saved counters; NULL if it is not there. */
static Relation
open_saved(Oid relation)
{
	Oid			oid = get_relname_relid(TABLE_NAME,
										get_rel_namespace(relation));
	Relation	table;
	TupleDesc	desc;

	if (!OidIsValid(oid))
		return NULL;
	table = try_table_open(oid, AccessShareLock);
	if (table == NULL)
		return NULL;
	desc = RelationGetDescr(table);
	for (int i = 0; i < NCOLUMNS; i++)
		if (table->rd_rel->relkind != RELKIND_RELATION ||
			desc->natts < NCOLUMNS || TupleDescAttr(desc, i)->attisdropped ||
			TupleDescAttr(desc, i)->atttypid != column_types[i])
		{
			table_close(table, AccessShareLock);
			return NULL;
		}
	return table;
}

/*
 * Take a row apart, and copy what is needed of it.  False when there is nothing
 * in it to be restored.
 */
static bool
read_saved(KnownLimits *known, Oid relation, const Datum *values, const bool *nulls,
		   TimestampTz now, Row *row)
{
	struct varlena *record;
	text	   *key;
	int			size;
	uint64		identity;

	for (int i = 0; i < NCOLUMNS; i++)
		if (nulls[i])
			return false;
	row->expires_at = DatumGetTimestampTz(values[COLUMN_EXPIRES_AT]);
	if (row->expires_at <= now)
		return false;
	identity = (uint64) DatumGetInt64(values[COLUMN_IDENTITY]);
	row->relation = relation;
	row->id.subject = subject_of_datum(values[COLUMN_SUBJECT]);
	row->id.limit = flr_limit_id(identity, MyDatabaseId, relation);
	row->limit = learn_limit(known, identity,
							 DatumGetInt32(values[COLUMN_LIMIT_ID]));
	if (row->limit == NULL || row->limit->unlimited)
		return false;

	record = pg_detoast_datum_packed((struct varlena *)
									 DatumGetPointer(values[COLUMN_RECORD]));
	row->size = VARSIZE_ANY_EXHDR(record);
	row->bytes = memcpy(palloc(row->size), VARDATA_ANY(record), row->size);
	key = pg_detoast_datum_packed((struct varlena *)
								  DatumGetPointer(values[COLUMN_KEY]));
	size = VARSIZE_ANY_EXHDR(key);
	if (size == 0 || size > FLR_KEY_SIZE ||
		!flr_saved_decode(row->bytes, row->size, &row->saved) ||
		row->saved.algorithm != row->limit->rule.algorithm)
	{
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a row of table \"%s\" is not a saved counter, and is ignored",
						TABLE_NAME)));
		return false;
	}
	row->key_size = size;
	memcpy(row->key, VARDATA_ANY(key), size);
	if (flr_store_keys == FLR_KEYS_HASH)
		row->key_size = flr_hash_digest(row->id.subject, row->key);
	return true;
}

/*
 * Put what was refused and delayed into an entry.  False when there is no memory
 * for that.
 */
static bool
put_saved_counts(FlrEntry *entry, const FlrSaved *saved, int64 now,
				 int64 wall_offset)
{
	FlrExtra   *extra;

	if (saved->refused == 0 && saved->delayed == 0 && saved->shadow_refused == 0)
		return true;
	extra = flr_entry_need_extra(entry);
	if (extra == NULL)
		return false;
	extra->refused = Max(extra->refused, saved->refused);
	extra->delayed = Max(extra->delayed, saved->delayed);
	extra->shadow_refused = Max(extra->shadow_refused, saved->shadow_refused);
	if (saved->last_refused != FLR_NEVER && extra->last_refused == 0)
		extra->last_refused = Min(saved->last_refused - wall_offset, now);
	return true;
}

/*
 * Put what a row says into its entry, which is made if need be.  Its stripe is
 * locked.  False when there is no memory.  wall_offset is what the wall clock
 * is ahead of elapsed time.
 */
static bool
put_saved(const Row *row, int64 now, int64 wall_offset)
{
	FlrStripe  *stripe = flr_stripe(flr_stripe_of(row->id.subject));
	const FlrRule *rule = &row->limit->rule;
	int64		ahead = rule->algorithm == FLR_FIXED_WINDOW ? wall_offset : 0;
	FlrEntry   *entry = flr_entry_find(stripe, &row->id);
	FlrState	state;
	int64		expiry;

	flr_state_init(&state);
	if (!flr_saved_load(flr_arena, row->bytes, row->size, wall_offset - ahead,
						now + ahead, &state))
		return false;
	if (entry == NULL && row->limit->stats == 0)
	{
		flr_record_clear(flr_arena, &state);
		return false;
	}
	if (entry == NULL)
	{
		(void) flr_stripe_make_room(stripe);
		entry = flr_entry_add(stripe, &row->id, row->limit->stats,
							  row->key, row->key_size, now);
		if (entry == NULL)
		{
			flr_record_clear(flr_arena, &state);
			return false;
		}
		entry->last_request = PG_INT64_MIN;
	}
	if (flr_used_by_any(flr_arena, rule, &entry->state, now + ahead) >=
		flr_used_by_any(flr_arena, rule, &state, now + ahead))
		flr_record_clear(flr_arena, &state);
	else
	{
		/* a reservation of before must not be taken back from this */
		if (rule->algorithm == FLR_TOKEN_BUCKET)
			state.runs.bucket.stamp = entry->state.runs.bucket.stamp + 1;
		flr_record_clear(flr_arena, &entry->state);
		state.owner = entry->state.owner;
		entry->state = state;
	}
	expiry = flr_expiry(flr_arena, rule, &entry->state);
	if (expiry == FLR_NEVER)
	{
		/* by a rule that lets nothing drain: as long as it was to live before */
		expiry = row->expires_at == DT_NOEND ? now + rule->retention :
			row->expires_at - wall_offset;
	}
	else if (expiry != PG_INT64_MIN)
		expiry -= ahead;
	flr_entry_set_expiry(entry, Max(now + 1, expiry));
	entry->state.owner |= FLR_ENTRY_HAS_COPY;
	entry->limit_id = row->limit->limit_id;
	entry->granted = Max(entry->granted, row->saved.granted);
	entry->last_request = Max(entry->last_request,
							  Min(row->saved.last_request - wall_offset, now));
	return put_saved_counts(entry, &row->saved, now, wall_offset);
}

/* Restore one counter.  False when there is no memory for it. */
static bool
restore_row(const Row *row, int64 wall_offset)
{
	uint32		stripe = flr_stripe_of(row->id.subject);
	FlrShortage shortage = {0};

	for (;;)
	{
		bool		done = false;
		bool		mapped;
		int64		now;

		flr_store_grow_if_wanted();
		if (!flr_store_map())
			return false;
		if (row->limit->stats == 0)
			row->limit->stats = flr_stats_find(row->relation,
											   row->limit->name_hash);
		now = flr_stripe_lock_timed(stripe, flr_clock());
		mapped = flr_store_is_mapped();
		if (mapped)
			done = put_saved(row, now, wall_offset);
		flr_stripe_unlock(stripe);
		if (done)
			return true;
		if (mapped && !flr_store_find_memory(&shortage, now))
			return false;
	}
}

/*
 * Restore some counters, which are on their way.  Returns
 * for how many there was no memory.
 */
static int64
restore_rows(const Row *rows, int n, int64 wall_offset)
{
	int64		lost = 0;

	for (int i = 0; i < n; i++)
		if (!restore_row(&rows[i], wall_offset))
			lost++;
	return lost;
}

/* So many rows are read before their counters are restored. */
#define ROWS_AT_ONCE	64

/* Restore what the table of saved counters holds. */
static void
restore_all(Oid relation)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		wall_offset = now - flr_clock();
	MemoryContext old = CurrentMemoryContext;
	MemoryContext rows_context;
	KnownLimits known;
	Relation	table = open_saved(relation);
	SysScanDesc scan;
	HeapTuple	tuple;
	Row		   *rows;
	int			n = 0;
	int64		lost = 0;

	if (table == NULL)
		return;
	init_known(&known);
	rows = palloc(ROWS_AT_ONCE * sizeof(Row));
	rows_context = AllocSetContextCreate(old, "fl_rate_saved rows",
										 ALLOCSET_DEFAULT_SIZES);
	scan = systable_beginscan(table, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[NCOLUMNS];
		bool		nulls[NCOLUMNS];

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < NCOLUMNS; i++)
			values[i] = heap_getattr(tuple, i + 1, RelationGetDescr(table),
									 &nulls[i]);
		MemoryContextSwitchTo(rows_context);
		if (read_saved(&known, relation, values, nulls, now, &rows[n]))
		{
			const FlrEntryId *id = &rows[n++].id;

			flr_entry_prefetch(flr_stripe(flr_stripe_of(id->subject)), id);
		}
		MemoryContextSwitchTo(old);
		if (n == ROWS_AT_ONCE)
		{
			lost += restore_rows(rows, n, wall_offset);
			n = 0;
			MemoryContextReset(rows_context);
		}
	}
	lost += restore_rows(rows, n, wall_offset);
	systable_endscan(scan);
	table_close(table, AccessShareLock);
	MemoryContextDelete(rows_context);
	pfree(rows);
	hash_destroy(known.table);
	if (lost > 0)
		ereport(LOG,
				(errcode(FLR_ERRCODE_STORE_FULL),
				 errmsg("no room for %lld saved rate limit counters",
						(long long) lost),
				 errhint("Raise \"fliplet_ratelimit.max_memory\".")));
}

/*
 * flr_keep_restore() when this backend does not know yet that the counters
 * are there: read them, unless another one has, and wait if one is at it.
 */
void
flr_keep_read(Oid relation)
{
	FlrKept		wanted = RecoveryInProgress() ? FLR_KEPT_READ_IN_RECOVERY :
	FLR_KEPT_READ;
	FlrHome    *home;
	FlrShortage shortage = {0};
	LOCKTAG		tag;

	if (!OidIsValid(relation))
		return;
	home = flr_home_find(relation);
	if (home == NULL && flr_store_find_memory(&shortage, flr_clock()))
		home = flr_home_find(relation);
	if (home == NULL)
		return;					/* the store is full to the last block */
	if (home->kept < wanted)
	{
		set_tag(&tag, relation, KEEP_LOCK_READ);
		(void) LockAcquire(&tag, ExclusiveLock, false, false);
		if (home->kept < wanted)
		{
			restore_all(relation);
			home->kept = wanted;
		}
		LockRelease(&tag, ExclusiveLock, false);
	}
	flr_keep_ready.relation = relation;
	flr_keep_ready.in_recovery = wanted == FLR_KEPT_READ_IN_RECOVERY;
}

/* ------------------------------------------------------------------------
 * Saving
 * ------------------------------------------------------------------------
 */

/* The marks that a commit of this transaction takes away. */
static struct
{
	bool		pending;
	Oid			relation;
	SubTransactionId subid;
	bool		stripes[FLR_STRIPES];	/* in which there are any */
}			saving;

/* flr_entries_visit() callback: an entry was saved. */
static void
mark_saved(FlrEntry *entry, void *arg)
{
	(void) arg;
	if ((entry->state.owner & FLR_ENTRY_SAVING) != 0 &&
		flr_entry_belongs(entry, MyDatabaseId, saving.relation))
		entry->state.owner &= ~FLR_ENTRY_SAVING;
}

/*
 * The transaction has committed.  Must not raise, so where there is memory
 * that is not mapped, marks stay, and counters are saved once more.
 */
static void
mark_all_saved(void)
{
	for (uint32 stripe = 0; stripe < FLR_STRIPES; stripe++)
	{
		if (!saving.stripes[stripe])
			continue;
		flr_stripe_lock(stripe);
		if (flr_store_is_mapped())
			flr_entries_visit(flr_stripe(stripe), mark_saved, NULL);
		flr_stripe_unlock(stripe);
	}
}

/* Transaction callback. */
static void
transaction_ended(XactEvent event, void *arg)
{
	(void) arg;
	if (!saving.pending)
		return;
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			saving.pending = false;
			mark_all_saved();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			saving.pending = false;
			break;
		default:
			break;
	}
}

/* Subtransaction callback. */
static void
subtransaction_ended(SubXactEvent event, SubTransactionId subid,
					 SubTransactionId parent, void *arg)
{
	(void) arg;
	if (!saving.pending || saving.subid != subid)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		saving.pending = false;
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		saving.subid = parent;
}

/* Once per backend, when the library is loaded. */
void
flr_keep_init(void)
{
	RegisterXactCallback(transaction_ended, NULL);
	RegisterSubXactCallback(subtransaction_ended, NULL);
}

/* What is copied of an entry while its stripe is locked. */
typedef struct SavedCopy
{
	FlrHash		subject;
	uint64		identity;
	int32		limit_id;
	int32		key_size;
	char		key[FLR_KEY_SIZE];
	int64		expiry;			/* elapsed time */
	size_t		at;				/* its bytes */
	size_t		size;
} SavedCopy;

/* An identity that has to be looked up before its counters can be copied. */
typedef struct Unknown
{
	uint64		identity;
	int32		limit_id;
} Unknown;

#define MAX_UNKNOWN		64

/* Where the entries of a stripe are copied to. */
typedef struct SaveTarget
{
	KnownLimits known;
	Oid			relation;
	int64		wall_offset;
	uint32		n;				/* copies */
	uint32		max;
	SavedCopy  *copies;
	size_t		used;			/* bytes */
	size_t		size;
	uint8	   *bytes;
	uint32		more;			/* copies, and bytes, that found no room */
	size_t		more_bytes;
	uint32		nunknown;
	Unknown		unknown[MAX_UNKNOWN];
} SaveTarget;

/* flr_entries_visit() callback: copy an entry that is to be saved. */
static void
copy_changed(FlrEntry *entry, void *arg)
{
	SaveTarget *target = arg;
	size_t		room = flr_saved_room(&entry->state);
	int64		offset = target->wall_offset;
	const KnownLimit *known;
	KnownKey	key;
	const FlrRule *rule;
	SavedCopy  *copy;
	FlrSaved	saved;
	const FlrExtra *counts = flr_entry_counts(entry);

	if ((entry->state.owner & (FLR_ENTRY_CHANGED | FLR_ENTRY_SAVING)) == 0 ||
		!flr_entry_belongs(entry, MyDatabaseId, target->relation))
		return;
	key.identity = flr_limit_id(entry->id.limit, MyDatabaseId, target->relation);
	key.limit_id = entry->limit_id;
	known = hash_search(target->known.table, &key, HASH_FIND, NULL);
	if (known == NULL)
	{
		for (uint32 i = 0; i < target->nunknown; i++)
			if (target->unknown[i].identity == key.identity &&
				target->unknown[i].limit_id == entry->limit_id)
				return;
		if (target->nunknown < MAX_UNKNOWN)
		{
			target->unknown[target->nunknown].identity = key.identity;
			target->unknown[target->nunknown++].limit_id = entry->limit_id;
		}
		return;
	}
	if (known->limit == NULL || known->limit->unlimited)
		return;
	rule = &known->limit->rule;
	if (rule->retention < (int64) flr_save_min_period * USECS_PER_SEC)
		return;
	if (target->n == target->max || target->size - target->used < room)
	{
		target->more++;
		target->more_bytes += room;
		return;
	}

	saved.algorithm = rule->algorithm;
	saved.granted = entry->granted;
	saved.refused = counts->refused;
	saved.delayed = counts->delayed;
	saved.shadow_refused = counts->shadow_refused;
	saved.last_request = entry->last_request + offset;
	saved.last_refused = counts->last_refused == 0 ? FLR_NEVER :
		counts->last_refused + offset;
	copy = &target->copies[target->n++];
	copy->subject = entry->id.subject;
	copy->identity = key.identity;
	copy->limit_id = entry->limit_id;
	copy->key_size = flr_entry_key_size(entry);
	flr_entry_key(entry, copy->key);
	copy->at = target->used;
	copy->expiry = flr_expiry(flr_arena, rule, &entry->state);
	if (rule->algorithm == FLR_FIXED_WINDOW)
	{
		if (copy->expiry != FLR_NEVER && copy->expiry != PG_INT64_MIN)
			copy->expiry -= offset;
		offset = 0;
	}
	if (copy->expiry == FLR_NEVER)
		copy->expiry = entry->expiry;
	copy->size = flr_saved_encode(flr_arena, &saved, &entry->state, offset,
								  target->bytes + target->used);
	target->used += copy->size;
	entry->state.owner &= ~FLR_ENTRY_CHANGED;
	entry->state.owner |= FLR_ENTRY_SAVING | FLR_ENTRY_HAS_COPY;
}

/* Make room for what found none, and some more. */
static void
enlarge(SaveTarget *target)
{
	target->max += target->more + 64;
	target->size += target->more_bytes + 16384;
	if (target->copies != NULL)
	{
		pfree(target->copies);
		pfree(target->bytes);
	}
	target->copies = palloc_extended(target->max * sizeof(SavedCopy),
									 MCXT_ALLOC_HUGE);
	target->bytes = palloc_extended(target->size, MCXT_ALLOC_HUGE);
}

/*
 * Copy the entries of a stripe that are to be saved.  When it has to be done
 * again, those that were marked the first time are still marked.
 */
static void
copy_stripe(uint32 stripe, SaveTarget *target)
{
	for (;;)
	{
		bool		mapped;

		flr_counters_attach();
		target->wall_offset = GetCurrentTimestamp() - flr_clock();
		target->n = 0;
		target->used = 0;
		target->more = 0;
		target->more_bytes = 0;
		target->nunknown = 0;
		flr_stripe_lock(stripe);
		mapped = flr_store_is_mapped();
		if (mapped)
			flr_entries_visit(flr_stripe(stripe), copy_changed, target);
		flr_stripe_unlock(stripe);
		for (uint32 i = 0; i < target->nunknown; i++)
			(void) learn_limit(&target->known, target->unknown[i].identity,
							   target->unknown[i].limit_id);
		if (target->more > 0)
			enlarge(target);
		else if (mapped && target->nunknown == 0)
			return;
	}
}

/* Add a row for a copy to the result. */
static void
put_copy(ReturnSetInfo *rsinfo, const SaveTarget *target,
		 const SavedCopy *copy, int64 now)
{
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {0};
	char		digest[FLR_DIGEST_SIZE];
	const char *key = copy->key;
	int			key_size = copy->key_size;
	bytea	   *record = palloc(VARHDRSZ + copy->size);

	if (flr_store_keys == FLR_KEYS_HASH)
	{
		key_size = flr_hash_digest(copy->subject, digest);
		key = digest;
	}
	SET_VARSIZE(record, VARHDRSZ + copy->size);
	memcpy(VARDATA(record), target->bytes + copy->at, copy->size);
	values[COLUMN_SUBJECT] = flr_subject_datum(copy->subject);
	values[COLUMN_IDENTITY] = Int64GetDatum((int64) copy->identity);
	values[COLUMN_LIMIT_ID] = Int32GetDatum(copy->limit_id);
	values[COLUMN_KEY] = PointerGetDatum(cstring_to_text_with_len(key,
																  key_size));
	if (copy->expiry == FLR_NEVER ||
		copy->expiry >= END_TIMESTAMP - target->wall_offset)
		values[COLUMN_EXPIRES_AT] = TimestampTzGetDatum(DT_NOEND);
	else
		values[COLUMN_EXPIRES_AT] = TimestampTzGetDatum(copy->expiry <= now ?
														DT_NOBEGIN :
														copy->expiry +
														target->wall_offset);
	values[COLUMN_RECORD] = PointerGetDatum(record);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

PG_FUNCTION_INFO_V1(fl_rate_unsaved);

/*
 * fl_rate_unsaved(): the counters of limits with a period of save_min_period
 * or more that have changed since a transaction committed that called it, as
 * rows of fl_rate_saved.  expires_at is -infinity for what is worth nothing.
 */
Datum
fl_rate_unsaved(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SaveTarget	target = {0};
	MemoryContext row_context;

	flr_keep_check_role("save counters");
	InitMaterializedSRF(fcinfo, 0);
	flr_limits_begin(fcinfo->flinfo->fn_oid);
	target.relation = flr_limits_relation();
	flr_keep_lock(target.relation);
	flr_counters_attach();
	init_known(&target.known);
	row_context = AllocSetContextCreate(CurrentMemoryContext,
										"fl_rate_unsaved row",
										ALLOCSET_DEFAULT_SIZES);
	enlarge(&target);
	if (!saving.pending)
		memset(saving.stripes, 0, sizeof(saving.stripes));
	saving.pending = true;
	saving.relation = target.relation;
	saving.subid = GetCurrentSubTransactionId();
	for (uint32 stripe = 0; stripe < FLR_STRIPES; stripe++)
	{
		int64		now;

		CHECK_FOR_INTERRUPTS();
		copy_stripe(stripe, &target);
		now = flr_clock();
		for (uint32 i = 0; i < target.n; i++)
		{
			MemoryContext old = MemoryContextSwitchTo(row_context);

			put_copy(rsinfo, &target, &target.copies[i], now);
			MemoryContextSwitchTo(old);
			MemoryContextReset(row_context);
		}
		saving.stripes[stripe] = saving.stripes[stripe] || target.n > 0;
	}
	return (Datum) 0;
}
