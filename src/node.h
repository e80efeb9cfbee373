/*-------------------------------------------------------------------------
 *
 * node.h
 *	  The nodes of a cluster, and calls to them.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef FLR_NODE_H
#define FLR_NODE_H

#include "fmgr.h"

#include "slots.h"

/* for this library only */
#pragma GCC visibility push(hidden)

/* The foreign server whose options say which slot is where. */
#define FLR_CLUSTER		"fliplet_ratelimit"

/* What a node can be asked. */
typedef enum FlrNodeCall
{
	FLR_NODE_TRY,
	FLR_NODE_PEEK,
	FLR_NODE_TRY_ALL,
	FLR_NODE_PEEK_ALL,
	FLR_NODE_REFUND,
	FLR_NODE_RESET,
	FLR_NODE_TRY_BATCH,			/* answers rows */
	FLR_NODE_EXPLAIN,			/* answers rows */
	FLR_NODE_PROBE
} FlrNodeCall;

#define FLR_NODE_MAX_ARGS	6

/* How a call ended. */
typedef enum FlrNodeStatus
{
	FLR_NODE_ANSWERED,
	FLR_NODE_FAILED,			/* the node is not there */
	FLR_NODE_RAISED				/* some other error */
} FlrNodeStatus;

/*
 * A call, and what became of it.  The first argument is the slot, which is
 * filled in.
 */
typedef struct FlrNodeRequest
{
	FlrNodeCall call;
	int			node;
	NullableDatum args[FLR_NODE_MAX_ARGS];
	Datum		result;
	bool		is_null;
	struct SPITupleTable *rows; /* until SPI_finish() */
	ErrorData  *error;			/* unless it was answered */
} FlrNodeRequest;

extern int	flr_on_node_failure;	/* FlrNodeFailure */

typedef enum FlrNodeFailure
{
	FLR_FAILURE_CLOSED,
	FLR_FAILURE_OPEN
} FlrNodeFailure;

extern int	flr_nodes_begin(Oid function);
extern int	flr_node_of_slot(int slot);
extern int	flr_slot_of_node(int node);
extern const char *flr_node_name(int node);
extern FlrNodeStatus flr_node_call(FlrNodeRequest *request);
pg_noreturn extern void flr_node_raise(const FlrNodeRequest *request);
extern void flr_node_count(bool open);
extern void flr_node_init(void);

#pragma GCC visibility pop

#endif							/* FLR_NODE_H */
