/*-------------------------------------------------------------------------
 *
 * definitions.h
 *	  Reading the tables fl_rate_limit and fl_rate_secret.
 *
 * Direct scans with a fresh snapshot: no SPI, no privileges, no regard to the
 * transaction's isolation level.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_DEFINITIONS_H
#define FLR_DEFINITIONS_H

#include "limits.h"

/* for this library only */
#pragma GCC visibility push(hidden)

/* Up to so many rows for single keys are copied whole. */
#define FLR_MAX_KEY_ROWS	256

/* The longest key that a row can be for, in bytes. */
#define FLR_MAX_ROW_KEY		1024

typedef struct FlrDefinitions FlrDefinitions;

typedef void (*FlrRowCallback) (FlrLimit *limit, void *arg);

extern Oid	flr_definitions_relation(Oid function);
extern const char *flr_definitions_name(Oid relation);
extern FlrDefinitions *flr_definitions_open(Oid relation, bool wait,
											MemoryContext rows);
extern void flr_definitions_close(FlrDefinitions *definitions);
extern void flr_definitions_check(const FlrLimit *limit);
extern void flr_definitions_check_triggers(FlrDefinitions *definitions);
extern FlrHash flr_definitions_secret(FlrDefinitions *definitions);
extern void flr_definitions_scan(FlrDefinitions *definitions,
								 FlrRowCallback callback, void *arg);
extern void flr_definitions_scan_before(FlrDefinitions *definitions,
										FlrRowCallback callback, void *arg);
extern bool flr_definitions_scan_keys(FlrDefinitions *definitions,
									  FlrRowCallback callback, void *arg);
extern void flr_definitions_scan_key(FlrDefinitions *definitions,
									 const char *scope, FlrText key,
									 FlrRowCallback callback, void *arg);
extern FlrLimit *flr_definitions_fetch(FlrDefinitions *definitions,
									   int32 limit_id);
extern bool flr_definitions_any_key_row(Oid relation, const FlrText *scope,
										const FlrText *api);
extern void flr_definitions_check_variants(Relation table, HeapTuple row,
										   HeapTuple old);

#pragma GCC visibility pop

#endif							/* FLR_DEFINITIONS_H */
