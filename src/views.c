/*-------------------------------------------------------------------------
 *
 * views.c
 *	  The SQL functions that look at limits, counters and statistics.
 *
 * They spend nothing and wait for no counter longer than one check takes.
 * Each shows the current database only.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "keep.h"
#include "request.h"

/* Add one row to the result of a set-returning function. */
static void
put_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Set a column to a date, or to null for 0. */
static void
set_date(Datum *values, bool *nulls, int column, TimestampTz date)
{
	nulls[column] = date == 0;
	values[column] = TimestampTzGetDatum(date);
}

/* Set a column to now + wait, or to null for never. */
static void
set_wait(Datum *values, bool *nulls, int column, int64 wait)
{
	TimestampTz now = GetCurrentTimestamp();

	if (wait == FLR_NEVER || now >= END_TIMESTAMP - wait)
		nulls[column] = true;
	else
		values[column] = TimestampTzGetDatum(now + wait);
}

/* Whom a row is for. */
static const char *
row_for(const FlrLimit *limit)
{
	if (limit->key != NULL)
		return "for this key";
	if (limit->plan != NULL)
		return psprintf("for plan \"%s\"", limit->plan);
	return limit->limit_id < 0 ? "for everyone, shipped" : "for everyone";
}

/* Why a candidate applies or does not. */
static const char *
explain_why(const FlrCandidate *candidate)
{
	const FlrLimit *limit = candidate->limit;

	switch (candidate->why)
	{
		case FLR_WHY_APPLIES:
			return row_for(limit);
		case FLR_WHY_UNLIMITED:
			return psprintf("%s, exempts", row_for(limit));
		case FLR_WHY_SHADOW:
			return psprintf("%s, in shadow: counts, never refuses",
							row_for(limit));
		case FLR_WHY_DISABLED:
			return "disabled";
		case FLR_WHY_NOT_YET:
			return psprintf("not valid before %s",
							timestamptz_to_str(limit->valid_from));
		case FLR_WHY_OVER:
			return psprintf("not valid since %s",
							timestamptz_to_str(limit->valid_until));
		case FLR_WHY_SHIPPED_OFF:
			return "shipped limits are off";
		case FLR_WHY_OTHER_PLAN:
			return psprintf("only for plan \"%s\"", limit->plan);
		case FLR_WHY_REPLACED:
			return psprintf("replaced by the row %s", row_for(candidate->by));
	}
	return NULL;
}

/* qsort() comparator: by name, then by number. */
static int
compare_candidates(const void *a, const void *b)
{
	const FlrLimit *left = ((const FlrCandidate *) a)->limit;
	const FlrLimit *right = ((const FlrCandidate *) b)->limit;
	int			order = strcmp(left->name, right->name);

	if (order != 0)
		return order;
	return left->limit_id < right->limit_id ? -1 :
		left->limit_id > right->limit_id;
}

PG_FUNCTION_INFO_V1(fl_rate_explain);

/* fl_rate_explain(scope, key, api, plan): every candidate, and its fate. */
Datum
fl_rate_explain(PG_FUNCTION_ARGS)
{
	FlrText		scope = flr_text_arg(fcinfo, 0, "scope");
	FlrText		key = flr_text_arg(fcinfo, 1, "key");
	FlrText		api = flr_text_arg(fcinfo, 2, "api");
	FlrText		plan = {NULL, 0};
	FlrCandidate *candidates;
	FlrHash		subject;
	int			n;

	if (!PG_ARGISNULL(3))
	{
		plan = flr_text_arg(fcinfo, 3, "plan");
		if (plan.size == 0)
			flr_empty_argument("plan");
	}
	flr_check_key(key);
	InitMaterializedSRF(fcinfo, 0);
	flr_limits_begin(fcinfo->flinfo->fn_oid);
	n = flr_limits_candidates(scope, key, api, plan, &candidates);
	if (n == 0)
		return (Datum) 0;
	subject = flr_limits_subject(scope, key);
	qsort(candidates, n, sizeof(FlrCandidate), compare_candidates);
	for (int i = 0; i < n; i++)
	{
		const FlrCandidate *candidate = &candidates[i];
		const FlrLimit *limit = candidate->limit;
		bool		applies = candidate->why == FLR_WHY_APPLIES ||
		candidate->why == FLR_WHY_UNLIMITED ||
		candidate->why == FLR_WHY_SHADOW;
		Datum		values[11] = {0};
		bool		nulls[11] = {0};
		FlrLook		look;

		values[0] = CStringGetTextDatum(limit->name);
		values[1] = Int32GetDatum(limit->limit_id);
		values[2] = BoolGetDatum(applies);
		values[3] = CStringGetTextDatum(explain_why(candidate));
		values[4] = Int64GetDatum(limit->rule.max_requests);
		nulls[4] = limit->unlimited;
		values[5] = IntervalPGetDatum(&limit->period);
		nulls[5] = !limit->has_period;
		if (applies)
		{
			flr_counters_look(limit, subject, &look);
			values[6] = Int64GetDatum(look.used);
			values[7] = Int64GetDatum(look.available);
			nulls[6] = nulls[7] = limit->unlimited;
			values[8] = Int64GetDatum(look.granted);
			values[9] = Int64GetDatum(look.refused);
			if (limit->unlimited)
				nulls[10] = true;
			else
				set_wait(values, nulls, 10, look.wait);
		}
		else
			nulls[6] = nulls[7] = nulls[8] = nulls[9] = nulls[10] = true;
		put_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}

/* What is copied of an entry while its stripe is locked. */
typedef struct EntryCopy
{
	FlrHash		subject;
	uint64		identity;
	int32		limit_id;
	int			key_size;
	char		key[FLR_KEY_SIZE];
	uint64		refused;
	int64		last_refused;	/* elapsed time */
} EntryCopy;

/* Where the entries of a stripe are copied to. */
typedef struct CopyTarget
{
	Oid			relation;
	int64		refused_since;	/* only what was refused since then; or the
								 * minimum: everything */
	uint32		n;
	uint32		size;
	EntryCopy  *copies;
} CopyTarget;

/* flr_entries_visit() callback: copy an entry. */
static void
copy_entry(FlrEntry *entry, void *arg)
{
	CopyTarget *target = arg;
	const FlrExtra *counts = flr_entry_counts(entry);

	if (flr_entry_belongs(entry, MyDatabaseId, target->relation) &&
		target->n < target->size &&
		(target->refused_since == PG_INT64_MIN ||
		 (counts->refused > 0 &&
		  counts->last_refused >= target->refused_since)))
	{
		EntryCopy  *copy = &target->copies[target->n++];

		copy->subject = entry->id.subject;
		copy->identity = flr_limit_id(entry->id.limit, MyDatabaseId,
									  target->relation);
		copy->limit_id = entry->limit_id;
		copy->key_size = flr_entry_key_size(entry);
		flr_entry_key(entry, copy->key);
		if (flr_store_keys == FLR_KEYS_HASH)
			copy->key_size = flr_hash_digest(entry->id.subject, copy->key);
		copy->refused = counts->refused;
		copy->last_refused = counts->last_refused;
	}
}

/* Copy what a stripe holds of this database; target->copies is replaced. */
static void
copy_stripe(uint32 number, CopyTarget *target)
{
	for (;;)
	{
		FlrStripe  *stripe = flr_stripe(number);
		uint32		nentries;

		flr_counters_attach();
		flr_stripe_lock(number);
		nentries = stripe->nentries;
		target->n = 0;
		if (nentries <= target->size && flr_store_is_mapped())
		{
			flr_entries_visit(stripe, copy_entry, target);
			flr_stripe_unlock(number);
			return;
		}
		flr_stripe_unlock(number);
		if (nentries > target->size)
		{
			target->size = nentries + nentries / 4 + 16;
			if (target->copies)
				pfree(target->copies);
			target->copies = palloc_extended(target->size * sizeof(EntryCopy),
											 MCXT_ALLOC_HUGE);
		}
	}
}

/* A limit, found by its number once and then remembered. */
typedef struct KnownLimit
{
	int32		limit_id;
	FlrLimit   *limit;			/* NULL: there is none any more */
} KnownLimit;

/* Make an empty table of known limits. */
static HTAB *
make_known(void)
{
	HASHCTL		info = {0};

	info.keysize = sizeof(int32);
	info.entrysize = sizeof(KnownLimit);
	info.hcxt = CurrentMemoryContext;
	return hash_create("limits by number", 64, &info,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Find a limit by number, in a table of those already looked up. */
static FlrLimit *
known_limit(HTAB *known, int32 limit_id)
{
	bool		found;
	KnownLimit *entry = hash_search(known, &limit_id, HASH_ENTER, &found);

	if (!found)
	{
		entry->limit = NULL;
		entry->limit = flr_limits_fetch(limit_id);
	}
	return entry->limit;
}

/* Add a counter's row to the result, unless it is gone meanwhile. */
static void
put_counter(FunctionCallInfo fcinfo, const EntryCopy *copy,
			const FlrLimit *limit)
{
	Datum		values[15] = {0};
	bool		nulls[15] = {0};
	FlrLook		look;

	flr_counters_look(limit, copy->subject, &look);
	if (!look.exists)
		return;
	values[0] = CStringGetTextDatum(limit->name);
	values[1] = Int32GetDatum(limit->limit_id);
	values[2] = CStringGetTextDatum(limit->scope);
	values[3] = PointerGetDatum(cstring_to_text_with_len(copy->key,
														 copy->key_size));
	values[4] = CStringGetTextDatum(limit->api);
	values[5] = Int64GetDatum(look.used);
	values[6] = Int64GetDatum(look.available);
	values[7] = Int64GetDatum(look.granted);
	values[8] = Int64GetDatum(look.refused);
	values[9] = Int64GetDatum(look.delayed);
	values[10] = Int64GetDatum(look.shadow_refused);
	if (limit->unlimited)
		nulls[5] = nulls[6] = nulls[11] = true;
	else
		set_wait(values, nulls, 11, look.wait);
	set_date(values, nulls, 12, look.last_request);
	set_date(values, nulls, 13, look.last_refused);
	values[14] = Int64GetDatum(look.memory);
	put_row(fcinfo, values, nulls);
}

PG_FUNCTION_INFO_V1(fl_rate_counter_rows);

/* fl_rate_counter_rows(): what the view fl_rate_counters shows. */
Datum
fl_rate_counter_rows(PG_FUNCTION_ARGS)
{
	CopyTarget	target = {0};
	HTAB	   *known;
	MemoryContext row_context;

	InitMaterializedSRF(fcinfo, 0);
	flr_limits_begin(fcinfo->flinfo->fn_oid);
	flr_counters_attach();
	known = make_known();
	row_context = AllocSetContextCreate(CurrentMemoryContext,
										"fl_rate_counters",
										ALLOCSET_DEFAULT_SIZES);
	target.relation = flr_limits_relation();
	target.refused_since = PG_INT64_MIN;
	for (uint32 stripe = 0; stripe < FLR_STRIPES; stripe++)
	{
		copy_stripe(stripe, &target);
		for (uint32 i = 0; i < target.n; i++)
		{
			const EntryCopy *copy = &target.copies[i];
			FlrLimit   *limit = known_limit(known, copy->limit_id);
			MemoryContext old;

			/* a counter of a deleted row, or of its former name or algorithm */
			if (limit == NULL || limit->identity != copy->identity)
				continue;
			old = MemoryContextSwitchTo(row_context);
			put_counter(fcinfo, copy, limit);
			MemoryContextSwitchTo(old);
			MemoryContextReset(row_context);
		}
		CHECK_FOR_INTERRUPTS();
	}
	return (Datum) 0;
}

/* The keys of one limit's name that were refused most, most refused first. */
typedef struct Refused
{
	uint64		name_hash;
	const char *name;
	int			n;
	EntryCopy  *most;
} Refused;

/* Put a counter among the most refused ones of its name, if it belongs there. */
static void
rank_refused(HTAB *names, const FlrLimit *limit, const EntryCopy *copy,
			 int wanted)
{
	bool		found;
	Refused    *refused = hash_search(names, &limit->name_hash, HASH_ENTER,
									  &found);
	int			place;

	if (!found)
	{
		refused->name = pstrdup(limit->name);
		refused->n = 0;
		refused->most = palloc(wanted * sizeof(EntryCopy));
	}
	if (refused->n == wanted &&
		refused->most[wanted - 1].refused >= copy->refused)
		return;
	place = Min(refused->n, wanted - 1);
	refused->n = place + 1;
	while (place > 0 && refused->most[place - 1].refused < copy->refused)
	{
		refused->most[place] = refused->most[place - 1];
		place--;
	}
	refused->most[place] = *copy;
}

/* The elapsed time of a date; the minimum plus one for one long ago. */
static int64
elapsed_of(TimestampTz date)
{
	int64		ago;

	if (TIMESTAMP_IS_NOBEGIN(date))
		return PG_INT64_MIN + 1;
	ago = GetCurrentTimestamp() - date;
	return flr_clock() - ago;
}

PG_FUNCTION_INFO_V1(fl_rate_refused_keys);

/*
 * fl_rate_refused_keys(since, n): of each limit's name, the n keys with the
 * most refusals among those that were refused since a date.
 */
Datum
fl_rate_refused_keys(PG_FUNCTION_ARGS)
{
	CopyTarget	target = {0};
	HASHCTL		info = {0};
	HTAB	   *known;
	HTAB	   *names;
	HASH_SEQ_STATUS status;
	Refused    *refused;
	int			wanted;

	if (PG_ARGISNULL(0))
		flr_null_argument("since");
	if (PG_ARGISNULL(1))
		flr_null_argument("n");
	wanted = PG_GETARG_INT32(1);
	if (wanted < 1 || wanted > 1000)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("n must be between 1 and 1000")));
	InitMaterializedSRF(fcinfo, 0);
	flr_limits_begin(fcinfo->flinfo->fn_oid);
	flr_counters_attach();
	known = make_known();
	info.keysize = sizeof(uint64);
	info.entrysize = sizeof(Refused);
	info.hcxt = CurrentMemoryContext;
	names = hash_create("refused keys", 64, &info,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	target.relation = flr_limits_relation();
	target.refused_since = elapsed_of(PG_GETARG_TIMESTAMPTZ(0));
	for (uint32 stripe = 0; stripe < FLR_STRIPES; stripe++)
	{
		CHECK_FOR_INTERRUPTS();
		copy_stripe(stripe, &target);
		for (uint32 i = 0; i < target.n; i++)
		{
			const FlrLimit *limit = known_limit(known,
												target.copies[i].limit_id);

			if (limit != NULL && limit->identity == target.copies[i].identity)
				rank_refused(names, limit, &target.copies[i], wanted);
		}
	}
	hash_seq_init(&status, names);
	while ((refused = hash_seq_search(&status)) != NULL)
		for (int i = 0; i < refused->n; i++)
		{
			const EntryCopy *copy = &refused->most[i];
			Datum		values[5];
			bool		nulls[5] = {0};

			values[0] = CStringGetTextDatum(refused->name);
			values[1] = flr_subject_datum(copy->subject);
			values[2] = PointerGetDatum(cstring_to_text_with_len(copy->key,
																 copy->key_size));
			values[3] = Int64GetDatum(copy->refused);
			values[4] = TimestampTzGetDatum(flr_counters_date(copy->last_refused));
			put_row(fcinfo, values, nulls);
		}
	return (Datum) 0;
}

/* The statistics of one name, added up over the lanes. */
typedef struct StatsSum
{
	Oid			relation;
	uint64		name_hash;
	bool		any_name;
	bool		ever;			/* whatever was reset since */
	uint64		granted;
	uint64		refused;
	uint64		delayed;
	uint64		shadow_refused;
	int64		keys;
	int64		last_checked;
	int64		last_refused;
	TimestampTz since;
} StatsSum;

/* flr_stats_walk() callback: add one lane. */
static void
add_stats(FlrStats *stats, void *arg)
{
	StatsSum   *sum = arg;

	if (stats->relation != sum->relation ||
		(!sum->any_name && stats->name_hash != sum->name_hash))
		return;
	sum->granted += pg_atomic_read_u64(&stats->granted);
	sum->refused += pg_atomic_read_u64(&stats->refused);
	sum->delayed += pg_atomic_read_u64(&stats->delayed);
	sum->shadow_refused += pg_atomic_read_u64(&stats->shadow_refused);
	if (!sum->ever)
	{
		sum->granted -= pg_atomic_read_u64(&stats->reset_granted);
		sum->refused -= pg_atomic_read_u64(&stats->reset_refused);
		sum->delayed -= pg_atomic_read_u64(&stats->reset_delayed);
		sum->shadow_refused -=
			pg_atomic_read_u64(&stats->reset_shadow_refused);
	}
	sum->keys += (int64) pg_atomic_read_u64(&stats->keys);
	sum->last_checked = Max(sum->last_checked,
							(int64) pg_atomic_read_u64(&stats->last_checked));
	sum->last_refused = Max(sum->last_refused,
							(int64) pg_atomic_read_u64(&stats->last_refused));
	sum->since = Min(sum->since,
					 (TimestampTz) pg_atomic_read_u64(&stats->since));
}

/* Add up the statistics of a name, or of all names, and find the row type. */
static TupleDesc
sum_stats(FunctionCallInfo fcinfo, const FlrText *name, bool ever,
		  StatsSum *sum)
{
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	flr_limits_begin(fcinfo->flinfo->fn_oid);
	flr_counters_attach();
	memset(sum, 0, sizeof(StatsSum));
	sum->relation = flr_limits_relation();
	sum->any_name = name == NULL;
	sum->ever = ever;
	if (name != NULL)
		sum->name_hash = flr_limits_name_hash(*name);
	sum->since = PG_INT64_MAX;
	flr_stats_walk(name != NULL ? &sum->name_hash : NULL, add_stats, sum);
	return BlessTupleDesc(desc);
}

/*
 * Set the first five columns to what was counted.  What was granted before a reset
 * and taken back after it, by a wait that was cancelled, is not less than nothing.
 */
static void
set_sums(Datum *values, const StatsSum *sum)
{
	values[0] = Int64GetDatum(Max((int64) sum->granted, 0));
	values[1] = Int64GetDatum(sum->refused);
	values[2] = Int64GetDatum(Max((int64) sum->delayed, 0));
	values[3] = Int64GetDatum(sum->shadow_refused);
	values[4] = Int64GetDatum(Max(sum->keys, 0));
}

PG_FUNCTION_INFO_V1(fl_rate_stats_of);

/* fl_rate_stats_of(name): the statistics of one limit's name, one row. */
Datum
fl_rate_stats_of(PG_FUNCTION_ARGS)
{
	FlrText		name = flr_text_arg(fcinfo, 0, "name");
	StatsSum	sum;
	TupleDesc	desc = sum_stats(fcinfo, &name, false, &sum);
	Datum		values[8] = {0};
	bool		nulls[8] = {0};
	int64		wall_offset;

	set_sums(values, &sum);
	/* by one look at the clocks, so that equal times stay equal */
	wall_offset = flr_counters_date(0);
	set_date(values, nulls, 5, sum.last_checked ?
			 wall_offset + sum.last_checked : 0);
	set_date(values, nulls, 6, sum.last_refused ?
			 wall_offset + sum.last_refused : 0);
	values[7] = TimestampTzGetDatum(sum.since == PG_INT64_MAX ?
									flr_store->since : sum.since);
	return HeapTupleGetDatum(heap_form_tuple(desc,
											 values, nulls));
}

PG_FUNCTION_INFO_V1(fl_rate_totals_of);

/*
 * fl_rate_totals_of(name): what was counted for one limit's name since the
 * store was made, resets aside, and when that was.
 */
Datum
fl_rate_totals_of(PG_FUNCTION_ARGS)
{
	FlrText		name = flr_text_arg(fcinfo, 0, "name");
	StatsSum	sum;
	TupleDesc	desc = sum_stats(fcinfo, &name, true, &sum);
	Datum		values[6] = {0};
	bool		nulls[6] = {0};

	set_sums(values, &sum);
	values[5] = TimestampTzGetDatum(flr_store->since);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* flr_stats_walk() callback: start one lane anew. */
static void
reset_stats(FlrStats *stats, void *arg)
{
	(void) arg;
	pg_atomic_write_u64(&stats->reset_granted,
						pg_atomic_read_u64(&stats->granted));
	pg_atomic_write_u64(&stats->reset_refused,
						pg_atomic_read_u64(&stats->refused));
	pg_atomic_write_u64(&stats->reset_delayed,
						pg_atomic_read_u64(&stats->delayed));
	pg_atomic_write_u64(&stats->reset_shadow_refused,
						pg_atomic_read_u64(&stats->shadow_refused));
	pg_atomic_write_u64(&stats->last_checked, 0);
	pg_atomic_write_u64(&stats->last_refused, 0);
	pg_atomic_write_u64(&stats->since, (uint64) GetCurrentTimestamp());
}

PG_FUNCTION_INFO_V1(fl_rate_stats_reset);

/* fl_rate_stats_reset(): begin the statistics of this database anew. */
Datum
fl_rate_stats_reset(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	flr_counters_attach();
	flr_stats_walk(NULL, reset_stats, NULL);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(fl_rate_store_row);

/* fl_rate_store_row(): what the view fl_rate_store shows. */
Datum
fl_rate_store_row(PG_FUNCTION_ARGS)
{
	StatsSum	sum;
	TupleDesc	desc = sum_stats(fcinfo, NULL, false, &sum);
	Datum		values[7] = {0};
	bool		nulls[7] = {0};

	values[0] = Int64GetDatum(Max(sum.keys, 0));
	values[1] = Int64GetDatum(flr_store->committed);
	values[2] = Int64GetDatum((int64) flr_max_memory * 1024);
	values[3] = Int64GetDatum(pg_atomic_read_u64(&flr_store->swept));
	values[4] = Int64GetDatum(pg_atomic_read_u64(&flr_store->refused_full));
	values[5] = Int32GetDatum(pg_atomic_read_u32(&flr_store->waiters));
	values[6] = TimestampTzGetDatum(flr_store->since);
	return HeapTupleGetDatum(heap_form_tuple(desc,
											 values, nulls));
}
