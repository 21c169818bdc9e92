/*
 * ss_stepscan.h
 *	  What an analysed statement of a transform reads, writes and calls.
 */
#ifndef SS_STEPSCAN_H
#define SS_STEPSCAN_H

#include "nodes/pg_list.h"
#include "ss_mapping.h"

typedef struct SsStepScan
{
	const SsPipeline *pipeline;	  /* given */
	SsMapping		 *mapping;	  /* given; watches what is written */
	bool			  use_fields; /* the column _fields of batch is read */
	bool			  effects;	  /* functions are called that may do more than read */
	Oid				  procedure;  /* of CALL */

	/* of the walk */
	List	  *rtables; /* of the queries around the node, innermost first */
	AttrNumber fields;	/* of _fields in batch, 0: it is no column of ours */
} SsStepScan;

/* Look at the queries of a statement.  ERROR 55000 for a table that cannot be written exactly once, 42809 for one of ours. */
extern void ss_stepscan_run(SsStepScan *scan, List *queries);

#endif /* SS_STEPSCAN_H */
