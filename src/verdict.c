/*-------------------------------------------------------------------------
 *
 * verdict.c
 *	  The answer to a request, made and read.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "verdict.h"

static const char *const reasons[] = {
	[FLR_REASON_OK] = "ok",
	[FLR_REASON_DELAYED] = "delayed",
	[FLR_REASON_NO_LIMIT] = "no_limit",
	[FLR_REASON_UNLIMITED] = "unlimited",
	[FLR_REASON_REFUSED] = "refused",
	[FLR_REASON_TOO_LARGE] = "too_large",
	[FLR_REASON_BLOCKED] = "blocked",
	[FLR_REASON_STORE_FULL] = "store_full",
	[FLR_REASON_OFF] = "off",
	[FLR_REASON_UNAVAILABLE] = "unavailable"
};

/* The types of the columns of fl_rate_verdict. */
const Oid	flr_verdict_types[FLR_VERDICT_COLUMNS] = {
	BOOLOID, TEXTOID, INT8OID, INTERVALOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
	TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, INT8OID, INTERVALOID
};

/* The name of a reason, as it is in the column. */
const char *
flr_reason_name(FlrReason reason)
{
	return reasons[reason];
}

/* Copy an argument's text into a string of its own. */
static const char *
to_string(FlrText text)
{
	return pnstrdup(text.data, text.size);
}

/*
 * The date that lies so many microseconds after the decision.  False for
 * never, and for what no timestamp can say.  wall_offset is what the calendar
 * is ahead of elapsed time, for limits that do not follow the calendar
 * themselves.
 */
static bool
date_after(const FlrOutcome *outcome, int64 wall_offset, int64 wait,
		   TimestampTz *date)
{
	TimestampTz now;

	if (outcome->wall_offset != 0)
		now = outcome->now + outcome->wall_offset;
	else
	{
		/* two clocks, each cut to the microsecond: never a moment too early */
		now = outcome->now + wall_offset + (wait > 0);
	}
	if (wait == FLR_NEVER || now >= END_TIMESTAMP - wait)
		return false;
	*date = now + wait;
	return true;
}

/* Is there nothing to say about any limit? */
static bool
says_nothing(const FlrOutcome *outcome)
{
	return outcome->reason == FLR_REASON_OFF ||
		outcome->reason == FLR_REASON_NO_LIMIT ||
		outcome->reason == FLR_REASON_UNAVAILABLE;
}

/* Describe a refusal, for flr_raise_refusal(). */
void
flr_verdict_fill(FlrVerdict *verdict, const FlrRequest *request,
				 const FlrOutcome *outcome)
{
	const FlrPair *pair = &request->pairs[outcome->pair];
	const FlrLimit *limit = outcome->limit;
	int64		wall_offset = flr_counters_date(0);

	memset(verdict, 0, sizeof(FlrVerdict));
	verdict->allowed = outcome->allowed;
	verdict->reason = reasons[outcome->reason];
	verdict->scope = to_string(pair->scope);
	verdict->key = to_string(pair->key);
	verdict->api = to_string(request->api);
	verdict->has_delay = true;
	verdict->delay = outcome->delay;
	verdict->has_next = date_after(outcome, wall_offset, outcome->wait,
								   &verdict->next_valid_at);
	verdict->has_reset = date_after(outcome, wall_offset, outcome->reset,
									&verdict->reset_at);
	verdict->name = limit->name;
	verdict->limit_id = limit->limit_id;
	verdict->has_period = limit->has_period;
	verdict->period = limit->period;
	verdict->has_remaining = true;
	verdict->remaining = outcome->remaining;
	verdict->has_max = true;
	verdict->max_requests = limit->rule.max_requests;
}

/* The name of a reason as a text datum, made once. */
static Datum
reason_datum(FlrReason reason)
{
	static Datum datums[lengthof(reasons)];

	if (datums[reason] == (Datum) 0)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		datums[reason] = CStringGetTextDatum(reasons[reason]);
		MemoryContextSwitchTo(old);
	}
	return datums[reason];
}

/*
 * Fill a row.  wall_offset is flr_counters_date(0); scope, key and api are text
 * datums.  What the values point to lives until the next request, or the next
 * call of this function.
 */
void
flr_row_of_outcome(FlrVerdictRow *row, const FlrOutcome *outcome,
				   int64 wall_offset, Datum scope, Datum key, Datum api)
{
	Datum	   *values = row->values;
	bool	   *nulls = row->nulls;
	static Interval delay;
	const FlrLimit *limit = outcome->limit;
	TimestampTz date = 0;

	memset(nulls, true, sizeof(row->nulls));
	nulls[0] = nulls[1] = nulls[6] = nulls[7] = nulls[8] = false;
	values[0] = BoolGetDatum(outcome->allowed);
	values[1] = reason_datum(outcome->reason);
	values[6] = scope;
	values[7] = key;
	values[8] = api;
	if (says_nothing(outcome))
		return;

	delay.time = outcome->delay;
	values[3] = IntervalPGetDatum(&delay);
	nulls[3] = false;
	nulls[4] = !date_after(outcome, wall_offset, outcome->wait, &date);
	values[4] = TimestampTzGetDatum(date);
	nulls[5] = !date_after(outcome, wall_offset, outcome->reset, &date);
	values[5] = TimestampTzGetDatum(date);
	if (limit == NULL)
		return;
	values[9] = limit->name_datum;
	nulls[9] = false;
	values[10] = Int32GetDatum(limit->limit_id);
	nulls[10] = false;
	values[12] = IntervalPGetDatum(&limit->period);
	nulls[12] = !limit->has_period;
	if (limit->unlimited)
		return;
	values[2] = Int64GetDatum(outcome->remaining);
	nulls[2] = false;
	values[11] = Int64GetDatum(limit->rule.max_requests);
	nulls[11] = false;
}

/* Raise an error unless these are the columns of fl_rate_verdict. */
static void
check_columns(TupleDesc desc)
{
	bool		usual = desc->natts == FLR_VERDICT_COLUMNS;

	for (int i = 0; usual && i < FLR_VERDICT_COLUMNS; i++)
		usual = TupleDescAttr(desc, i)->atttypid == flr_verdict_types[i];
	if (!usual)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the columns of type fl_rate_verdict are not what they were"),
				 errhint("Drop and create the extension again.")));
}

/* A text datum of an argument's text. */
Datum
flr_text_datum(FlrText text)
{
	return PointerGetDatum(cstring_to_text_with_len(text.data, text.size));
}

/* A datum of type fl_rate_verdict, which the called function returns. */
Datum
flr_row_datum(FunctionCallInfo fcinfo, const FlrVerdictRow *row)
{
	TupleDesc	desc = fcinfo->flinfo->fn_extra;

	if (desc == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be fl_rate_verdict");
		check_columns(desc);
		desc = BlessTupleDesc(CreateTupleDescCopy(desc));
		fcinfo->flinfo->fn_extra = desc;
		MemoryContextSwitchTo(old);
	}
	return HeapTupleGetDatum(heap_form_tuple(desc, (Datum *) row->values,
											 (bool *) row->nulls));
}

/* The same of an outcome. */
Datum
flr_outcome_datum(FunctionCallInfo fcinfo, const FlrRequest *request,
				  const FlrOutcome *outcome)
{
	const FlrPair *pair = &request->pairs[outcome->pair];
	FlrVerdictRow row;

	flr_row_of_outcome(&row, outcome,
					   says_nothing(outcome) ? 0 : flr_counters_date(0),
					   flr_text_datum(pair->scope), flr_text_datum(pair->key),
					   flr_text_datum(request->api));
	return flr_row_datum(fcinfo, &row);
}

/* ------------------------------------------------------------------------
 * Many rows
 * ------------------------------------------------------------------------
 */

/*
 * The room that a text column needs; 0 when its bytes are elsewhere or
 * compressed.
 */
static inline Size
text_room(Datum datum)
{
	struct varlena *text = (struct varlena *) DatumGetPointer(datum);

	if (VARATT_IS_4B_U(text))
		return ALIGNOF_INT + VARSIZE_4B(text);
	return VARATT_IS_SHORT(text) ? VARSIZE_SHORT(text) : 0;
}

/* Go on to a multiple of alignment, which is at most 8, over zeros. */
static inline char *
align(char *p, uintptr_t alignment)
{
	memset(p, 0, 8);
	return (char *) TYPEALIGN(alignment, p);
}

/* Write column number i of a row, unless it is null; returns its end. */
static inline char *
put_bool(char *p, const FlrVerdictRow *row, int i)
{
	if (!row->nulls[i])
		*p++ = DatumGetBool(row->values[i]);
	return p;
}

/* The same for an integer. */
static inline char *
put_int32(char *p, const FlrVerdictRow *row, int i)
{
	if (row->nulls[i])
		return p;
	p = align(p, ALIGNOF_INT);
	*(int32 *) p = DatumGetInt32(row->values[i]);
	return p + sizeof(int32);
}

/* The same for a bigint, or a timestamp. */
static inline char *
put_int64(char *p, const FlrVerdictRow *row, int i)
{
	if (row->nulls[i])
		return p;
	p = align(p, ALIGNOF_DOUBLE);
	*(int64 *) p = DatumGetInt64(row->values[i]);
	return p + sizeof(int64);
}

/* The same for an interval. */
static inline char *
put_interval(char *p, const FlrVerdictRow *row, int i)
{
	if (row->nulls[i])
		return p;
	p = align(p, ALIGNOF_DOUBLE);
	*(Interval *) p = *DatumGetIntervalP(row->values[i]);
	return p + sizeof(Interval);
}

/*
 * Copy the bytes of a text.  Names and keys are short, so two words that may overlap
 * are the usual case: faster than a call of memcpy(), five times a row.
 */
static inline void
copy_bytes(char *to, const char *from, Size size)
{
	if (size >= sizeof(uint64) && size <= 2 * sizeof(uint64))
	{
		uint64		words[2];

		memcpy(&words[0], from, sizeof(uint64));
		memcpy(&words[1], from + size - sizeof(uint64), sizeof(uint64));
		memcpy(to, &words[0], sizeof(uint64));
		memcpy(to + size - sizeof(uint64), &words[1], sizeof(uint64));
	}
	else if (size >= sizeof(uint32) && size < sizeof(uint64))
	{
		uint32		words[2];

		memcpy(&words[0], from, sizeof(uint32));
		memcpy(&words[1], from + size - sizeof(uint32), sizeof(uint32));
		memcpy(to, &words[0], sizeof(uint32));
		memcpy(to + size - sizeof(uint32), &words[1], sizeof(uint32));
	}
	else if (size > 2 * sizeof(uint64))
		memcpy(to, from, size);
	else if (size > 0)
	{
		to[0] = from[0];
		to[size / 2] = from[size / 2];
		to[size - 1] = from[size - 1];
	}
}

/* The same for a text, which gets a short header if that is possible. */
static inline char *
put_text(char *p, const FlrVerdictRow *row, int i)
{
	struct varlena *text = (struct varlena *) DatumGetPointer(row->values[i]);
	Size		size;

	if (row->nulls[i])
		return p;
	if (VARATT_CAN_MAKE_SHORT(text))
	{
		size = VARATT_CONVERTED_SHORT_SIZE(text);
		SET_VARSIZE_SHORT(p, size);
		copy_bytes(p + VARHDRSZ_SHORT, VARDATA(text), size - VARHDRSZ_SHORT);
		return p + size;
	}
	if (!VARATT_IS_SHORT(text))
		p = align(p, ALIGNOF_INT);
	size = VARSIZE_ANY(text);
	copy_bytes(p, (char *) text, size);
	return p + size;
}

/*
 * Write the columns of a row, of flr_verdict_types; returns their end.  last gets
 * to know where in the tuple some of them are.
 */
static inline char *
put_columns(char *tuple, char *p, const FlrVerdictRow *row, FlrLastRow *last)
{
	p = put_bool(p, row, 0);
	p = put_text(p, row, 1);
	p = put_int64(p, row, 2);
	last->remaining_at = p - tuple - sizeof(int64);
	p = put_interval(p, row, 3);
	last->delay_at = p - tuple - sizeof(Interval);
	p = put_int64(p, row, 4);
	last->next_at = p - tuple - sizeof(int64);
	p = put_int64(p, row, 5);
	last->reset_at = p - tuple - sizeof(int64);
	p = put_text(p, row, 6);
	last->key_at = p - tuple + VARHDRSZ_SHORT;
	p = put_text(p, row, 7);
	p = put_text(p, row, 8);
	p = put_text(p, row, 9);
	p = put_int32(p, row, 10);
	p = put_int64(p, row, 11);
	return put_interval(p, row, 12);
}

/* Where the columns of a row begin if some of them are null. */
#define ROW_HEADER \
	MAXALIGN(SizeofMinimalTupleHeader + BITMAPLEN(FLR_VERDICT_COLUMNS))

/*
 * What a row takes up besides its texts: a boolean, an integer, three numbers of
 * eight bytes and a bigint, two intervals, each of these aligned; and what align()
 * may write behind them.
 */
#define ROW_ROOM \
	(ROW_HEADER + 1 + 4 + 4 * 8 + 2 * sizeof(Interval) + 7 * 7 + 8)

/* All columns of a row */
#define ALL_PRESENT		((1U << FLR_VERDICT_COLUMNS) - 1)

/* No column of a row is null. */
static inline bool
is_complete(const FlrVerdictRow *row)
{
	static const bool no_nulls[FLR_VERDICT_COLUMNS];

	return memcmp(row->nulls, no_nulls, sizeof(no_nulls)) == 0;
}

/*
 * Does a row differ from the last one in its key and in numbers alone?  The period
 * is in the limit, so that where it is says which limit it is, and thereby scope.
 */
static inline bool
resembles_last(const FlrRows *rows, const FlrVerdictRow *row)
{
	const FlrLastRow *last = &rows->last;
	const Datum *values = row->values;

	return last->size > 0 && is_complete(row) &&
		values[1] == last->reason && values[8] == last->api &&
		values[12] == last->period && text_room(values[7]) > 0 &&
		VARSIZE_ANY_EXHDR(DatumGetPointer(values[7])) == last->key_size;
}

/* Remember the tuple of a row, if another one may be made from it. */
static inline void
remember(FlrRows *rows, const FlrVerdictRow *row, MinimalTuple tuple)
{
	FlrLastRow *last = &rows->last;
	struct varlena *key = (struct varlena *) DatumGetPointer(row->values[7]);

	last->size = 0;
	if (rows->present != ALL_PRESENT || tuple->t_len > FLR_LAST_ROW_SIZE ||
		!(VARATT_IS_SHORT(key) || VARATT_CAN_MAKE_SHORT(key)))
		return;
	last->size = tuple->t_len;
	last->reason = row->values[1];
	last->api = row->values[8];
	last->period = row->values[12];
	last->key_size = VARSIZE_ANY_EXHDR(key);
	memcpy(last->tuple, tuple, tuple->t_len);
}

/* A tuple that is the last one but for its key and its numbers. */
static inline MinimalTuple
make_similar(const FlrLastRow *last, const FlrVerdictRow *row)
{
	char	   *tuple = palloc(last->size);
	const Datum *values = row->values;

	memcpy(tuple, last->tuple, last->size);
	*(int64 *) (tuple + last->remaining_at) = DatumGetInt64(values[2]);
	*(Interval *) (tuple + last->delay_at) = *DatumGetIntervalP(values[3]);
	*(int64 *) (tuple + last->next_at) = DatumGetInt64(values[4]);
	*(int64 *) (tuple + last->reset_at) = DatumGetInt64(values[5]);
	copy_bytes(tuple + last->key_at, VARDATA_ANY(DatumGetPointer(values[7])),
			   last->key_size);
	return (MinimalTuple) tuple;
}

/*
 * Slot callback: the row that is to be put, as a tuple of its own.  Does what
 * heap_form_minimal_tuple() would, which looks up the type of each column
 * twice, to size it and to copy it: together that costs more than the request
 * itself, and here the types are known.
 */
static MinimalTuple
make_tuple(FLR_COPY_MINIMAL_TUPLE_ARGS(slot))
{
	FlrRows    *rows = (FlrRows *) slot;
	MinimalTuple tuple;
	Size		header = MAXALIGN(SizeofMinimalTupleHeader);

	if (rows->room == 0)
		return make_similar(&rows->last, rows->row);
	tuple = palloc(rows->room);
	memset(tuple, 0, ROW_HEADER);
	tuple->t_infomask = HEAP_HASVARWIDTH;
	if (rows->present != ALL_PRESENT)
	{
		tuple->t_infomask |= HEAP_HASNULL;
		header = ROW_HEADER;
		tuple->t_bits[0] = (bits8) rows->present;
		tuple->t_bits[1] = (bits8) (rows->present >> 8);
	}
	HeapTupleHeaderSetNatts(tuple, FLR_VERDICT_COLUMNS);
	tuple->t_hoff = header + MINIMAL_TUPLE_OFFSET;
	tuple->t_len = put_columns((char *) tuple, (char *) tuple + header,
							   rows->row, &rows->last) - (char *) tuple;
	Assert(tuple->t_len <= rows->room);
	remember(rows, rows->row, tuple);
	return tuple;
}

/* A slot that a tuplestore can take a tuple from, and no more. */
static const TupleTableSlotOps row_slot = {
	.base_slot_size = sizeof(FlrRows),
	.copy_minimal_tuple = make_tuple
};

/* Prepare for rows to be put into a tuplestore.  What is returned is palloc'd. */
FlrRows *
flr_rows_begin(Tuplestorestate *store, TupleDesc desc)
{
	FlrRows    *rows = palloc0(sizeof(FlrRows));

	NodeSetTag(&rows->slot, T_TupleTableSlot);
	*(const TupleTableSlotOps * *) &rows->slot.tts_ops = &row_slot;
	rows->store = store;
	rows->desc = desc;
	check_columns(desc);
	return rows;
}

/*
 * Put a row into the tuplestore, as tuplestore_putvalues() would: as a rule by way
 * of a slot whose tuple is made where the tuplestore keeps it.
 */
void
flr_rows_put(FlrRows *rows, const FlrVerdictRow *row)
{
	static const uint8 texts[] = {1, 6, 7, 8, 9};
	bool		simple = true;

	rows->row = row;
	if (resembles_last(rows, row))
	{
		rows->room = 0;			/* make_tuple() knows how large it is */
		tuplestore_puttupleslot(rows->store, &rows->slot);
		return;
	}
	rows->present = ALL_PRESENT;
	if (!is_complete(row))
		for (int i = 0; i < FLR_VERDICT_COLUMNS; i++)
			if (row->nulls[i])
				rows->present &= ~(1U << i);
	rows->room = ROW_ROOM;
	for (size_t i = 0; i < lengthof(texts); i++)
		if (!row->nulls[texts[i]])
		{
			Size		text = text_room(row->values[texts[i]]);

			simple = simple && text > 0;
			rows->room += text;
		}
	if (likely(simple))
		tuplestore_puttupleslot(rows->store, &rows->slot);
	else
		tuplestore_putvalues(rows->store, rows->desc, (Datum *) row->values,
							 (bool *) row->nulls);
}

/* Raise an error if a row does not say whether the request is allowed. */
static void
check_allowed(const FlrVerdictRow *row)
{
	if (row->nulls[0])
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("column \"allowed\" of a verdict must not be null")));
}

/*
 * Read a datum of type fl_rate_verdict, of which anybody may have made one by
 * hand: without allowed it is none.
 */
void
flr_row_read(HeapTupleHeader header, FlrVerdictRow *row)
{
	HeapTupleData tuple;
	TupleDesc	desc;

	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
								  HeapTupleHeaderGetTypMod(header));
	check_columns(desc);
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	heap_deform_tuple(&tuple, desc, row->values, row->nulls);
	ReleaseTupleDesc(desc);
	check_allowed(row);
}

/*
 * Read a row.  Anybody may make one by hand.  The limit's name goes into
 * headers and has to be one, and an infinite date is none.
 */
void
flr_verdict_of_row(FlrVerdict *verdict, const FlrVerdictRow *row)
{
	const Datum *values = row->values;
	const bool *nulls = row->nulls;

	check_allowed(row);
	memset(verdict, 0, sizeof(FlrVerdict));
	verdict->allowed = DatumGetBool(values[0]);
	verdict->reason = nulls[1] ? (verdict->allowed ? "ok" : "refused") :
		TextDatumGetCString(values[1]);
	verdict->has_remaining = !nulls[2];
	verdict->remaining = nulls[2] ? 0 : DatumGetInt64(values[2]);
	verdict->has_delay = !nulls[3];
	verdict->delay = nulls[3] ? 0 :
		flr_interval_usecs(DatumGetIntervalP(values[3]));
	verdict->next_valid_at = nulls[4] ? 0 : DatumGetTimestampTz(values[4]);
	verdict->has_next = !nulls[4] &&
		!TIMESTAMP_NOT_FINITE(verdict->next_valid_at);
	verdict->reset_at = nulls[5] ? 0 : DatumGetTimestampTz(values[5]);
	verdict->has_reset = !nulls[5] && !TIMESTAMP_NOT_FINITE(verdict->reset_at);
	verdict->scope = nulls[6] ? NULL : TextDatumGetCString(values[6]);
	verdict->key = nulls[7] ? NULL : TextDatumGetCString(values[7]);
	verdict->api = nulls[8] ? NULL : TextDatumGetCString(values[8]);
	if (!nulls[9])
	{
		FlrText		name;

		verdict->name = TextDatumGetCString(values[9]);
		name.data = verdict->name;
		name.size = strlen(verdict->name);
		flr_check_name(name, "name of a verdict");
	}
	verdict->limit_id = nulls[10] ? 0 : DatumGetInt32(values[10]);
	verdict->has_max = !nulls[11];
	verdict->max_requests = nulls[11] ? 0 : DatumGetInt64(values[11]);
	verdict->has_period = !nulls[12];
	if (!nulls[12])
		verdict->period = *DatumGetIntervalP(values[12]);
}
