/*
 * empty.c
 *	  What the benchmark compares with, and a stop-watch.
 *
 * Built by bench/run in its temporary folder; never part of the extension.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
#include "postgres.h"

#include <sys/mman.h>
#include <time.h>

#include "access/htup_details.h"
#include "catalog/pg_type_d.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/dsm.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(bench_empty);
PG_FUNCTION_INFO_V1(bench_bytes);
PG_FUNCTION_INFO_V1(bench_counter);
PG_FUNCTION_INFO_V1(bench_lines);
PG_FUNCTION_INFO_V1(bench_turns);
PG_FUNCTION_INFO_V1(bench_table);
PG_FUNCTION_INFO_V1(bench_access);
PG_FUNCTION_INFO_V1(bench_page);
PG_FUNCTION_INFO_V1(bench_empty_batch);
PG_FUNCTION_INFO_V1(bench_table_batch);
PG_FUNCTION_INFO_V1(bench_trigger);
PG_FUNCTION_INFO_V1(bench_latency);

/* A function with the arguments of fl_rate_check() that does nothing. */
Datum
bench_empty(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	PG_RETURN_INT64(0);
}

/* The size of a verdict on a key of six bytes, as a router's node sends it. */
#define VERDICT_SIZE	195

/* A function with the arguments of fl_rate_check() that answers so many bytes. */
Datum
bench_bytes(PG_FUNCTION_ARGS)
{
	bytea	   *result = palloc0(VARHDRSZ + VERDICT_SIZE);

	(void) fcinfo;
	SET_VARSIZE(result, VARHDRSZ + VERDICT_SIZE);
	PG_RETURN_BYTEA_P(result);
}

/* A line of a cache. */
typedef union Line
{
	struct
	{
		slock_t		lock;
		uint64		n;
	};
	char		pad[64];
} Line;

/* So many lines of shared memory, the same in each process. */
static Line *
find_lines(const char *name, int n)
{
	bool		found;
	char	   *memory;
	Line	   *lines;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	memory = ShmemInitStruct(name, (n + 1) * sizeof(Line), &found);
	lines = (Line *) TYPEALIGN(sizeof(Line), memory);
	if (!found)
	{
		memset(memory, 0, (n + 1) * sizeof(Line));
		SpinLockInit(&lines[0].lock);
	}
	LWLockRelease(AddinShmemInitLock);
	return lines;
}

/*
 * A function with the arguments of fl_rate_check() that adds to one number in
 * shared memory, under a spinlock, and does nothing else: the least that any
 * counter behind a lock costs.
 */
Datum
bench_counter(PG_FUNCTION_ARGS)
{
	static Line *line = NULL;
	int64		n;

	(void) fcinfo;
	if (line == NULL)
		line = find_lines("bench_counter", 1);
	SpinLockAcquire(&line->lock);
	n = ++line->n;
	SpinLockRelease(&line->lock);
	PG_RETURN_INT64(n);
}

/*
 * A function with the arguments of fl_rate_check() that adds, under a spinlock,
 * to a number in each line of memory that a check of a busy key writes to: two of
 * its counter, and from there the end of its record; the lock is in another.
 * It reads no clock and decides nothing: the least that a lock costs which guards
 * so much.
 */
Datum
bench_lines(PG_FUNCTION_ARGS)
{
	static Line *lines = NULL;
	int64		n;

	(void) fcinfo;
	if (lines == NULL)
		lines = find_lines("bench_lines", 4);
	SpinLockAcquire(&lines[0].lock);
	n = ++lines[1].n;
	lines[2].n++;
	lines[3 + (lines[2].n >> 63)].n++;	/* where is known from the one before */
	SpinLockRelease(&lines[0].lock);
	PG_RETURN_INT64(n);
}

/*
 * bench_turns(turn, n): so many times, wait until a number in shared memory is
 * even (turn 0) or odd (turn 1), and add one.  Two backends at it hand a line of
 * the cache over for each addition.
 */
Datum
bench_turns(PG_FUNCTION_ARGS)
{
	uint64		turn = PG_GETARG_INT32(0);
	Line	   *line = find_lines("bench_turns", 1);
	volatile uint64 *n = &line->n;

	for (int32 left = PG_GETARG_INT32(1); left > 0; left--)
	{
		for (uint64 tries = 1; *n % 2 != turn; tries++)
			if (tries % 1000000 == 0)
				CHECK_FOR_INTERRUPTS();
		*n = *n + 1;
	}
	PG_RETURN_INT32(0);
}

/* An entry of bench_table(): as large as a key's counter. */
typedef struct TableEntry
{
	uint64		hash;
	uint64		n;
	char		rest[112];
} TableEntry;

/* A page of bench_page(): as large as one of memory, and as full as the store's. */
#define PAGE_SIZE		4096
#define PAGE_ENTRIES	(PAGE_SIZE / sizeof(TableEntry))
#define PAGE_KEYS		25
#define PAGE_TRIES		4
#define PAGE_LOCKS		256

/* What bench_table() looks into: for each place of a hash, an entry. */
typedef struct Table
{
	uint64		size;			/* entries; there are twice as many places */
	uint32		places[FLEXIBLE_ARRAY_MEMBER];
} Table;

/* Where the entries of a table of so many begin. */
static Size
entries_at(uint64 size)
{
	return TYPEALIGN(PAGE_SIZE, offsetof(Table, places) +
					 2 * size * sizeof(uint32));
}

/* Make or find the table, and fill this backend's page tables for it. */
static Table *
find_table(uint64 size)
{
	typedef struct Handle
	{
		bool		made;
		dsm_handle	segment;
	} Handle;
	Handle	   *handle;
	dsm_segment *segment;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	Table	   *table;
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	handle = ShmemInitStruct("bench_table", sizeof(Handle), &found);
	if (!found)
		handle->made = false;
	if (!handle->made)
	{
		segment = dsm_create(entries_at(size) +
							 (size / PAGE_KEYS + 1) * PAGE_SIZE, 0);
		table = dsm_segment_address(segment);
		memset(table, 0, dsm_segment_map_length(segment));
		table->size = size;
		for (uint64 i = 0; i < 2 * size; i++)
			table->places[i] = (i * UINT64CONST(0x9E3779B97F4A7C15) >> 32) % size;
		dsm_pin_segment(segment);
		handle->segment = dsm_segment_handle(segment);
		handle->made = true;
	}
	else
		segment = dsm_attach(handle->segment);
	LWLockRelease(AddinShmemInitLock);
	dsm_pin_mapping(segment);
#ifdef MADV_POPULATE_WRITE
	(void) madvise(dsm_segment_address(segment), dsm_segment_map_length(segment),
				   MADV_POPULATE_WRITE);
#endif
	MemoryContextSwitchTo(old);
	return dsm_segment_address(segment);
}

/* The hash of a key. */
static uint64
hash_of(const text *key)
{
	return hash_bytes_extended((unsigned char *) VARDATA_ANY(key),
							   VARSIZE_ANY_EXHDR(key), 0);
}

/* The place of a hash. */
static uint32 *
place_of(Table *table, uint64 hash)
{
	return &table->places[hash % (2 * table->size)];
}

/* The entry that a place names. */
static TableEntry *
entry_at(Table *table, const uint32 *place)
{
	return (TableEntry *) ((char *) table + entries_at(table->size)) + *place;
}

/*
 * A function with the arguments of fl_rate_check() that hashes the key, looks
 * up a place in shared memory, from there an entry, and adds to it: no lock, no
 * clock, no limit, no record, collisions ignored.  No counter in a hash table
 * costs less.  cost is the number of entries, the same in all calls.
 */
Datum
bench_table(PG_FUNCTION_ARGS)
{
	static Table *table = NULL;
	uint64		hash;
	TableEntry *entry;

	if (table == NULL)
		table = find_table(PG_GETARG_INT64(3));
	hash = hash_of(PG_GETARG_TEXT_PP(1));
	entry = entry_at(table, place_of(table, hash));
	if (entry->hash != hash)
		entry->hash = hash;
	PG_RETURN_INT64(++entry->n);
}

/*
 * The same without a look-up: where the entry is follows from the key.  One
 * access to a random place in as much memory as the counters take: nothing
 * that keeps them in memory costs less, however it finds them.
 */
Datum
bench_access(PG_FUNCTION_ARGS)
{
	static Table *table = NULL;
	uint32		place;

	if (table == NULL)
		table = find_table(PG_GETARG_INT64(3));
	place = hash_of(PG_GETARG_TEXT_PP(1)) % table->size;
	PG_RETURN_INT64(++entry_at(table, &place)->n);
}

/*
 * The same with all that a check of a key in the store has to do with memory and
 * other backends, and nothing else: it asks for the beginning of a page, for the four
 * entries in it that the hash names and their second lines, reads the clock, takes one
 * of as many locks as the store has, and adds to both lines of one of the four.
 */
Datum
bench_page(PG_FUNCTION_ARGS)
{
	static Table *table = NULL;
	static Line *locks = NULL;
	uint64		hash;
	uint32		place;
	TableEntry *entry;
	Line	   *lock;
	struct timespec now;
	uint64		n;

	if (table == NULL)
	{
		table = find_table(PG_GETARG_INT64(3));
		locks = find_lines("bench_locks", PAGE_LOCKS);
	}
	hash = hash_of(PG_GETARG_TEXT_PP(1));
	place = ((hash >> 32) * (table->size / PAGE_KEYS) >> 32) * PAGE_ENTRIES;
	entry = entry_at(table, &place);
	__builtin_prefetch(entry);
	entry += 1 + (hash & 0xff) * (PAGE_ENTRIES - PAGE_TRIES) / 256;
	for (int try = 0; try < PAGE_TRIES; try++)
	{
		__builtin_prefetch(entry + try);
		__builtin_prefetch((char *) (entry + try) + sizeof(TableEntry) / 2);
	}
	lock = &locks[hash >> 8 & (PAGE_LOCKS - 1)];
	clock_gettime(CLOCK_BOOTTIME, &now);
	SpinLockAcquire(&lock->lock);
	entry += hash >> 16 & (PAGE_TRIES - 1);
	entry->hash = now.tv_nsec;
	n = ++entry->n;
	entry->rest[sizeof(entry->rest) - 1]++;
	SpinLockRelease(&lock->lock);
	PG_RETURN_INT64(n);
}

/*
 * Answer a batch with so many equal rows, whose columns are those of a grant,
 * and which are made once: what is left is to store them and to read them.
 */
static void
answer_rows(FunctionCallInfo fcinfo, int n)
{
	ReturnSetInfo *answers = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		word = PointerGetDatum(cstring_to_text("0123456789abcdef"));
	Interval	interval = {0};
	Datum		time = TimestampTzGetDatum(GetCurrentTimestamp());
	Datum		values[13] = {
		BoolGetDatum(true), word, Int64GetDatum(1), IntervalPGetDatum(&interval),
		time, time, word, word, word, word, Int32GetDatum(1), Int64GetDatum(1),
		IntervalPGetDatum(&interval)
	};
	bool		nulls[13] = {0};
	HeapTuple	tuple = heap_form_tuple(answers->setDesc, values, nulls);

	for (int i = 0; i < n; i++)
		tuplestore_puttuple(answers->setResult, tuple);
}

/*
 * A function with the arguments of fl_rate_try_batch() that answers every
 * request with the same row, whose columns it fills like a grant.
 */
Datum
bench_empty_batch(PG_FUNCTION_ARGS)
{
	int			n = ArrayGetNItems(1, ARR_DIMS(PG_GETARG_ARRAYTYPE_P(1)));

	InitMaterializedSRF(fcinfo, 0);
	answer_rows(fcinfo, n);
	return (Datum) 0;
}

/*
 * A function with the arguments of fl_rate_try_batch() that looks up all keys
 * at once as bench_table() does one: each pass over the keys asks for the
 * memory of the next, so that the waits overlap.  Answers like
 * bench_empty_batch().  bench_table() has made the table.
 */
Datum
bench_table_batch(PG_FUNCTION_ARGS)
{
	static Table *table = NULL;
	Datum	   *keys;
	bool	   *nulls;
	int			n;
	uint64	   *hashes;

	if (table == NULL)
		table = find_table(1);
	InitMaterializedSRF(fcinfo, 0);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false, TYPALIGN_INT,
					  &keys, &nulls, &n);
	hashes = palloc(n * sizeof(uint64));
	for (int i = 0; i < n; i++)
	{
		hashes[i] = hash_of(DatumGetTextPP(keys[i]));
		__builtin_prefetch(place_of(table, hashes[i]));
	}
	for (int i = 0; i < n; i++)
		__builtin_prefetch(entry_at(table, place_of(table, hashes[i])), 1);
	for (int i = 0; i < n; i++)
	{
		TableEntry *entry = entry_at(table, place_of(table, hashes[i]));

		entry->hash = hashes[i];
		entry->n++;
	}
	answer_rows(fcinfo, n);
	return (Datum) 0;
}

/* A trigger that does nothing. */
Datum
bench_trigger(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	return PointerGetDatum(NULL);
}

/* Nanoseconds of a clock that does not step. */
static uint64
nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64) now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Compare two durations, for qsort(). */
static int
compare(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

/*
 * bench_latency(function regprocedure, api text, calls integer): calls the
 * function once for each of so many keys of 16 bytes, in no order, and
 * returns p50, p99, p99.9 and the longest call in microseconds.
 */
Datum
bench_latency(PG_FUNCTION_ARGS)
{
	LOCAL_FCINFO(call, 5);
	FmgrInfo	flinfo;
	Oid			function = PG_GETARG_OID(0);
	int32		n = PG_GETARG_INT32(2);
	uint64	   *took;
	text	   *key = palloc(VARHDRSZ + 16);
	MemoryContext scratch;
	MemoryContext old;
	Datum		result[4];

	if (n < 1000)
		elog(ERROR, "too few calls");
	took = MemoryContextAllocHuge(CurrentMemoryContext, n * sizeof(uint64));
	/* the memory of the stop-watch itself shall not fault while it runs */
	memset(took, 0, n * sizeof(uint64));
	SET_VARSIZE(key, VARHDRSZ + 16);

	fmgr_info(function, &flinfo);
	InitFunctionCallInfoData(*call, &flinfo, 5, InvalidOid, NULL, NULL);
	call->args[0].value = PointerGetDatum(cstring_to_text("user"));
	call->args[1].value = PointerGetDatum(key);
	call->args[2].value = PG_GETARG_DATUM(1);
	call->args[3].value = Int64GetDatum(1);
	call->args[4].value = (Datum) 0;
	for (int i = 0; i < 4; i++)
		call->args[i].isnull = false;
	call->args[4].isnull = true;

	scratch = AllocSetContextCreate(CurrentMemoryContext, "bench_latency",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(scratch);
	for (int32 i = 0; i < n; i++)
	{
		/* a bijection, so that all keys are different */
		uint64		x = ((uint64) i + 1) * UINT64CONST(0x9E3779B97F4A7C15);
		char	   *p = VARDATA(key);
		uint64		start;

		x ^= x >> 32;
		for (int j = 0; j < 16; j++, x >>= 4)
			p[j] = "0123456789abcdef"[x & 15];

		call->isnull = false;
		start = nanoseconds();
		(void) FunctionCallInvoke(call);
		took[i] = nanoseconds() - start;
		if (i % 1024 == 0)
		{
			MemoryContextReset(scratch);
			CHECK_FOR_INTERRUPTS();
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);

	qsort(took, n, sizeof(uint64), compare);
	result[0] = Float8GetDatum(took[n / 2] / 1000.0);
	result[1] = Float8GetDatum(took[n - 1 - n / 100] / 1000.0);
	result[2] = Float8GetDatum(took[n - 1 - n / 1000] / 1000.0);
	result[3] = Float8GetDatum(took[n - 1] / 1000.0);
	PG_RETURN_ARRAYTYPE_P(construct_array(result, 4, FLOAT8OID, sizeof(float8),
										  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}
