/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Differences between PostgreSQL's major versions.
 *
 * Every test of PG_VERSION_NUM in this extension is in this file.  The name
 * that the rest of the code uses is the newest version's.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_COMPAT_H
#define FLR_COMPAT_H

#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#if PG_VERSION_NUM < 150000
#error "fliplet_ratelimit needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "utils/guc.h"

#if PG_VERSION_NUM >= 170000
#include "storage/dsm_registry.h"
#include "storage/proc.h"
#else
#include "storage/backendid.h"
#include "utils/timestamp.h"
#endif

#if PG_VERSION_NUM < 180000
#define pg_noreturn __attribute__((noreturn))
#endif

/* The arguments of a slot's copy_minimal_tuple(); nobody asks ours for more room. */
#if PG_VERSION_NUM >= 180000
#define FLR_COPY_MINIMAL_TUPLE_ARGS(slot) \
	TupleTableSlot *slot, Size extra pg_attribute_unused()
#else
#define FLR_COPY_MINIMAL_TUPLE_ARGS(slot) TupleTableSlot *slot
#endif

/* A small number that is this backend's alone for as long as it lives. */
static inline int
flr_proc_number(void)
{
#if PG_VERSION_NUM >= 170000
	return MyProcNumber;
#else
	return MyBackendId - 1;
#endif
}

/*
 * Find or make a named piece of shared memory, without any preloading.  init
 * runs once, in whoever comes first.
 */
static inline void *
flr_named_segment(const char *name, size_t size, void (*init) (void *segment))
{
	void	   *segment;
	bool		found;

#if PG_VERSION_NUM >= 170000
	segment = GetNamedDSMSegment(name, size, init, &found);
#else
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	segment = ShmemInitStruct(name, size, &found);
	if (!found)
		init(segment);
	LWLockRelease(AddinShmemInitLock);
#endif
	return segment;
}

/* Is this interval infinite?  Before 17 there is no such thing. */
static inline bool
flr_interval_is_finite(const Interval *interval)
{
#if PG_VERSION_NUM >= 170000
	return !INTERVAL_NOT_FINITE(interval);
#else
	(void) interval;
	return true;
#endif
}

/*
 * Memory for what a check hook hands to its assign hook.  The server frees it,
 * in its own way since 16.
 */
static inline void *
flr_guc_malloc(size_t size)
{
#if PG_VERSION_NUM >= 160000
	return guc_malloc(LOG, size);
#else
	return malloc(size);
#endif
}

static inline void
flr_guc_free(void *memory)
{
#if PG_VERSION_NUM >= 160000
	guc_free(memory);
#else
	free(memory);
#endif
}

#endif							/* FLR_COMPAT_H */
