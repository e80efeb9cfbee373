/*-------------------------------------------------------------------------
 *
 * saved.c
 *	  A counter as bytes, to be kept in a table across restarts.
 *
 * A version, an algorithm, the numbers of an FlrSaved; then for a window the
 * number of runs, and time and cost of each, every time but the first as its
 * distance from the one before; for a token bucket its level.  Unsigned
 * numbers are written seven bits a byte, least significant first, the high
 * bit set in all bytes but the last (LEB128); signed ones with their sign in
 * the lowest bit.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "saved.h"

#define FORMAT			1

/* The most bytes of a number, and the most numbers before the first run. */
#define NUMBER_BYTES	10
#define HEAD_NUMBERS	14

/* No time may be further from the epoch than that: 100000 years or so. */
#define LATEST_TIME		(PG_INT64_MAX / 4)

/* Bytes that are being read. */
typedef struct Reader
{
	const uint8 *at;
	const uint8 *end;
	bool		bad;
} Reader;

/* Write an unsigned number. */
static uint8 *
put(uint8 *at, uint64 number)
{
	while (number >= 0x80)
	{
		*at++ = (uint8) number | 0x80;
		number >>= 7;
	}
	*at++ = (uint8) number;
	return at;
}

/* Write a signed number. */
static uint8 *
put_signed(uint8 *at, int64 number)
{
	uint64		sign = number < 0 ? ~UINT64CONST(0) : 0;

	return put(at, ((uint64) number << 1) ^ sign);
}

/* Read an unsigned number. */
static uint64
get(Reader *reader)
{
	uint64		number = 0;

	for (int shift = 0; shift < 64 && reader->at < reader->end; shift += 7)
	{
		uint8		byte = *reader->at++;

		if (shift == 63 && byte > 1)
			break;
		number |= (uint64) (byte & 0x7f) << shift;
		if (byte < 0x80)
			return number;
	}
	reader->bad = true;
	return 0;
}

/* Read an unsigned number that is at most this. */
static uint64
get_up_to(Reader *reader, uint64 most)
{
	uint64		number = get(reader);

	if (number > most)
		reader->bad = true;
	return reader->bad ? 0 : number;
}

/* Read a signed number. */
static int64
get_signed(Reader *reader)
{
	uint64		number = get(reader);

	return (int64) ((number >> 1) ^ (~(number & 1) + 1));
}

/* Read a time. */
static int64
get_time(Reader *reader)
{
	int64		time = get_signed(reader);

	if (time > LATEST_TIME || time < -LATEST_TIME)
		reader->bad = true;
	return reader->bad ? 0 : time;
}

/* So many bytes are enough for a state. */
size_t
flr_saved_room(const FlrState *state)
{
	return NUMBER_BYTES * (HEAD_NUMBERS + 2 * (size_t) state->nruns);
}

/*
 * Write a counter to bytes, of which there are flr_saved_room().  offset is
 * what the wall clock is ahead of the state's times.  Returns how many bytes
 * it took.
 */
size_t
flr_saved_encode(const FlrArena *arena, const FlrSaved *saved,
				 const FlrState *state, int64 offset, uint8 *bytes)
{
	uint8	   *at = bytes;
	FlrCursor	cursor;
	int64		before = 0;

	at = put(at, FORMAT);
	at = put(at, saved->algorithm);
	at = put(at, saved->granted);
	at = put(at, saved->refused);
	at = put(at, saved->delayed);
	at = put(at, saved->shadow_refused);
	at = put_signed(at, saved->last_request);
	at = put(at, saved->last_refused != FLR_NEVER);
	at = put_signed(at, saved->last_refused != FLR_NEVER ?
					saved->last_refused : 0);
	if (saved->algorithm == FLR_TOKEN_BUCKET)
	{
		at = put(at, state->total);
		at = put(at, state->runs.bucket.remainder);
		at = put(at, state->runs.bucket.period);
		at = put_signed(at, state->base + offset);
		at = put_signed(at, state->runs.bucket.waits_until + offset);
		return at - bytes;
	}
	at = put(at, state->nruns);
	for (flr_record_start(&cursor, arena, state); cursor.left > 0;
		 flr_record_next(&cursor))
	{
		int64		time = cursor.time + offset;

		if (cursor.left == state->nruns)
			at = put_signed(at, time);
		else
			at = put(at, time - before);
		at = put(at, cursor.cost);
		before = time;
	}
	return at - bytes;
}

/* Read what precedes the runs, or the level. */
static void
get_head(Reader *reader, FlrSaved *saved)
{
	bool		was_refused;
	int64		last_refused;

	if (get(reader) != FORMAT)
		reader->bad = true;
	saved->algorithm = get_up_to(reader, FLR_FIXED_WINDOW);
	saved->granted = get(reader);
	saved->refused = get(reader);
	saved->delayed = get_up_to(reader, PG_UINT32_MAX);
	saved->shadow_refused = get_up_to(reader, PG_UINT32_MAX);
	saved->last_request = get_time(reader);
	was_refused = get_up_to(reader, 1);
	last_refused = get_time(reader);
	saved->last_refused = was_refused ? last_refused : FLR_NEVER;
}

/*
 * Hand each run to an empty state, or only look whether all is well if there
 * is none.  False: there is no memory.
 */
static bool
get_runs(Reader *reader, FlrArena *arena, int64 offset, int64 latest,
		 FlrState *state)
{
	uint64		n = get_up_to(reader, PG_UINT32_MAX);
	int64		time = 0;
	int64		at_latest = 0;

	for (uint64 i = 0; i < n && !reader->bad; i++)
	{
		int64		before = time;
		int64		cost;

		time = i == 0 ? get_time(reader) :
			time + (int64) get_up_to(reader, 2 * (uint64) LATEST_TIME);
		cost = (int64) get_up_to(reader, PG_INT64_MAX);
		if (time > LATEST_TIME || (i > 0 && time == before) || cost == 0)
			reader->bad = true;
		if (reader->bad || state == NULL)
			continue;
		if (time - offset >= latest)
		{
			/* these become one run, which may be full */
			cost = Min(cost, PG_INT64_MAX - at_latest);
			at_latest += cost;
			if (cost == 0)
				break;
		}
		if (!flr_record_add(arena, state, Min(time - offset, latest), cost,
							false, PG_INT64_MAX))
			return false;
	}
	return true;
}

/* Read the level of a token bucket. */
static void
get_bucket(Reader *reader, int64 offset, int64 latest, FlrState *state)
{
	uint64		total = get_up_to(reader, PG_INT64_MAX);
	int64		remainder = get_up_to(reader, PG_INT64_MAX);
	int64		period = get_up_to(reader, FLR_MAX_PERIOD);
	int64		base = get_time(reader);
	int64		waits_until = get_time(reader);

	if (remainder != 0 && remainder >= period)
		reader->bad = true;
	if (reader->bad || state == NULL)
		return;
	state->total = total;
	state->base = Min(base - offset, latest);
	state->runs.bucket.remainder = remainder;
	state->runs.bucket.period = period;
	state->runs.bucket.waits_until = Min(waits_until - offset, latest);
	state->runs.bucket.stamp = 1;
}

/*
 * Read what is saved of a counter beside what it has spent.  False when these
 * are not the bytes of a counter, whole and without anything behind it.
 */
bool
flr_saved_decode(const uint8 *bytes, size_t size, FlrSaved *saved)
{
	Reader		reader = {bytes, bytes + size, false};

	get_head(&reader, saved);
	if (reader.bad)
		return false;
	if (saved->algorithm == FLR_TOKEN_BUCKET)
		get_bucket(&reader, 0, 0, NULL);
	else
		(void) get_runs(&reader, NULL, 0, 0, NULL);
	return !reader.bad && reader.at == reader.end;
}

/*
 * Load what a counter has spent into an empty state.  The bytes have been
 * found good by flr_saved_decode().  offset is what the wall clock is ahead of
 * the state's times; what was spent, or reserved, after latest (in those
 * times) counts as spent at that instant.  False when there is no memory, and
 * the state is empty again.
 */
bool
flr_saved_load(FlrArena *arena, const uint8 *bytes, size_t size,
			   int64 offset, int64 latest, FlrState *state)
{
	Reader		reader = {bytes, bytes + size, false};
	FlrSaved	saved;

	get_head(&reader, &saved);
	if (saved.algorithm == FLR_TOKEN_BUCKET)
		get_bucket(&reader, offset, latest, state);
	else if (!get_runs(&reader, arena, offset, latest, state))
	{
		flr_record_clear(arena, state);
		return false;
	}
	return true;
}
