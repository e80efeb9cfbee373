/*
 * first.c
 *	  What any function pays at its first call in a connection whose library
 *	  has as many settings as the extension, and reads its table.
 *
 * Built by bench/run in its temporary folder; never part of the extension.
 * SETTINGS, how many, is given to the compiler.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "fmgr.h"
#include "utils/guc.h"
#include "utils/rel.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(bench_settings);
PG_FUNCTION_INFO_V1(bench_definitions);

static bool setting[SETTINGS];

/* Define the settings, of the cheapest type that there is. */
PGDLLEXPORT void
_PG_init(void)
{
	for (int i = 0; i < SETTINGS; i++)
	{
		char		name[NAMEDATALEN];

		snprintf(name, sizeof(name), "fliplet_bench.setting_%d", i);
		DefineCustomBoolVariable(name, "Does nothing.", NULL, &setting[i],
								 false, PGC_USERSET, 0, NULL, NULL, NULL);
	}
}

/* Answer an integer with itself. */
Datum
bench_settings(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(PG_GETARG_INT32(0));
}

/* Read a table of a few rows, without an index.  Returns how many. */
Datum
bench_definitions(PG_FUNCTION_ARGS)
{
	Relation	table = table_open(PG_GETARG_OID(0), AccessShareLock);
	SysScanDesc scan = systable_beginscan(table, InvalidOid, false, NULL, 0,
										  NULL);
	int			n = 0;

	while (HeapTupleIsValid(systable_getnext(scan)))
		n++;
	systable_endscan(scan);
	table_close(table, AccessShareLock);
	PG_RETURN_INT32(n);
}
