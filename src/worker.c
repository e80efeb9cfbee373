/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  Maintenance without a scheduler: a background worker for each database.
 *
 * Only where the library is in shared_preload_libraries, and only for the
 * databases in fliplet_ratelimit.worker_databases.  A worker calls
 * fl_rate_maintain() every fliplet_ratelimit.worker_interval, and once more
 * when the server shuts down, so that an orderly restart loses nothing.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/varlena.h"
#include "utils/wait_event.h"

#include "worker.h"

#define EXTENSION_NAME	"fliplet_ratelimit"

/* Seconds before a worker that failed is started again. */
#define RESTART_SECONDS	5

/* Maintenance that cannot get a lock gives up, so that shutdown never hangs. */
#define LOCK_TIMEOUT_MS	"5000"

static char *worker_databases;
static int	worker_interval;	/* seconds */

extern PGDLLEXPORT void flr_worker_main(Datum arg);

/* The schema of the extension in this database; NULL without it; palloc'd. */
static const char *
extension_schema(void)
{
	static const char query[] =
	"SELECT n.nspname FROM pg_catalog.pg_extension AS e"
	" JOIN pg_catalog.pg_namespace AS n"
	" ON n.oid OPERATOR(pg_catalog.=) e.extnamespace"
	" WHERE e.extname OPERATOR(pg_catalog.=) '" EXTENSION_NAME "'";

	if (SPI_execute(query, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look up the extension");
	return SPI_processed == 0 ? NULL :
		SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

/* Call fl_rate_maintain(), if the extension is there. */
static void
maintain(void)
{
	const char *schema;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetTransactionSnapshot());
	schema = extension_schema();
	if (schema != NULL)
	{
		const char *statement = psprintf("SELECT %s.fl_rate_maintain()",
										 quote_identifier(schema));

		pgstat_report_activity(STATE_RUNNING, statement);
		if (SPI_execute(statement, false, 0) != SPI_OK_SELECT)
			elog(ERROR, "could not execute \"%s\"", statement);
	}
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* The main function of a worker; its database is in bgw_extra. */
void
flr_worker_main(Datum arg)
{
	bool		last = false;

	(void) arg;
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(MyBgworkerEntry->bgw_extra, NULL, 0);
	SetConfigOption("lock_timeout", LOCK_TIMEOUT_MS, PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET,
					PGC_S_OVERRIDE);
	do
	{
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 worker_interval * 1000L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		last = ShutdownRequestPending;
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			if (!last)
				continue;
		}
		maintain();
	} while (!last);

	/* 0 would mean that nobody wants it again */
	proc_exit(1);
}

/* Check hook of fliplet_ratelimit.worker_databases. */
static bool
check_worker_databases(char **value, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*value);
	List	   *names;
	ListCell   *cell;
	bool		ok = SplitIdentifierString(copy, ',', &names);

	(void) extra;
	(void) source;
	if (!ok)
		GUC_check_errdetail("List syntax is invalid.");
	foreach(cell, names)
		if (strlen(lfirst(cell)) >= NAMEDATALEN)
	{
		GUC_check_errdetail("Name of database \"%s\" is too long.",
							(char *) lfirst(cell));
		ok = false;
	}
	list_free(names);
	pfree(copy);
	return ok;
}

/* Register a worker for each database of the setting. */
static void
register_workers(void)
{
	char	   *copy = pstrdup(worker_databases);
	List	   *names;
	ListCell   *cell;

	if (SplitIdentifierString(copy, ',', &names))
		foreach(cell, names)
	{
		BackgroundWorker worker = {0};

		worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
			BGWORKER_BACKEND_DATABASE_CONNECTION;
		worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
		worker.bgw_restart_time = RESTART_SECONDS;
		strlcpy(worker.bgw_library_name, EXTENSION_NAME,
				sizeof(worker.bgw_library_name));
		strlcpy(worker.bgw_function_name, "flr_worker_main",
				sizeof(worker.bgw_function_name));
		snprintf(worker.bgw_name, sizeof(worker.bgw_name),
				 "%s maintenance of %s", EXTENSION_NAME,
				 (char *) lfirst(cell));
		strlcpy(worker.bgw_type, EXTENSION_NAME " maintenance",
				sizeof(worker.bgw_type));
		strlcpy(worker.bgw_extra, lfirst(cell), sizeof(worker.bgw_extra));
		RegisterBackgroundWorker(&worker);
	}
	list_free(names);
	pfree(copy);
}

/* When the library is loaded by the postmaster; nothing otherwise. */
void
flr_worker_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	DefineCustomStringVariable("fliplet_ratelimit.worker_databases",
							   "Lists databases that a background worker maintains.",
							   "Needs the library in shared_preload_libraries.",
							   &worker_databases, "",
							   PGC_POSTMASTER, GUC_LIST_INPUT,
							   check_worker_databases, NULL, NULL);
	DefineCustomIntVariable("fliplet_ratelimit.worker_interval",
							"Sets how often background workers run maintenance.",
							NULL,
							&worker_interval, 10, 1, 3600,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	if (!IsBinaryUpgrade)
		register_workers();
}
