/*-------------------------------------------------------------------------
 *
 * row.c
 *	  Rows that another server has sent.
 *
 * They travel as what record_send() makes of them, as one value: that is
 * cheaper to plan, to send and to read than a column each, and means the same
 * whatever DateStyle, IntervalStyle and TimeZone are on either side.  Not
 * record_recv(), which takes texts for the encoding of this session's client.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "row.h"

/* A message that is this memory. */
static void
init_message(StringInfo message, const char *data, int size)
{
	message->data = unconstify(char *, data);
	message->len = message->maxlen = size;
	message->cursor = 0;
}

/* Read a column, of which the message holds the bytes. */
static Datum
unpack_column(StringInfo message, Oid type)
{
	Interval   *interval;

	switch (type)
	{
		case BOOLOID:
			return BoolGetDatum(pq_getmsgbyte(message) != 0);
		case INT4OID:
			return Int32GetDatum((int32) pq_getmsgint(message, 4));
		case INT8OID:
			return Int64GetDatum(pq_getmsgint64(message));
		case TIMESTAMPTZOID:
			return TimestampTzGetDatum(pq_getmsgint64(message));
		case INTERVALOID:
			interval = palloc(sizeof(Interval));
			interval->time = pq_getmsgint64(message);
			interval->day = (int32) pq_getmsgint(message, 4);
			interval->month = (int32) pq_getmsgint(message, 4);
			return IntervalPGetDatum(interval);
		case TEXTOID:
			/* PL/Proxy has the sender use this database's encoding */
			pg_verifymbstr(message->data, message->len, false);
			return PointerGetDatum(cstring_to_text_with_len(message->data,
															message->len));
		default:
			elog(ERROR, "rows of type %u are not sent", type);
	}
}

/*
 * Read a row of so many columns, of these types.  Its bytes are the number of
 * columns, and of each the type, the size (-1: null) and the value.  False if
 * it has other columns; raises an error if it is no row at all.
 */
bool
flr_row_unpack(const bytea *packed, int ncolumns, const Oid *types,
			   Datum *values, bool *nulls)
{
	StringInfoData message;
	StringInfoData column;

	init_message(&message, VARDATA_ANY(packed), VARSIZE_ANY_EXHDR(packed));
	if (pq_getmsgint(&message, 4) != (unsigned int) ncolumns)
		return false;
	for (int i = 0; i < ncolumns; i++)
	{
		Oid			type = pq_getmsgint(&message, 4);
		int32		size = (int32) pq_getmsgint(&message, 4);

		if (type != types[i])
			return false;
		nulls[i] = size < 0;
		values[i] = (Datum) 0;
		if (nulls[i])
			continue;
		init_message(&column, pq_getmsgbytes(&message, size), size);
		values[i] = unpack_column(&column, type);
	}
	pq_getmsgend(&message);
	return true;
}
