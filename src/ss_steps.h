/*
 * ss_steps.h
 *	  The statements of a transform as kept plans over "batch" and the relations
 *	  that SELECT INTO makes.
 *
 * NOTES
 *	  A step is a statement, counted from 0.  All verbs from ss_steps_begin on
 *	  need an SPI connection and an active snapshot; what they register is
 *	  visible in this connection.
 */
#ifndef SS_STEPS_H
#define SS_STEPS_H

#include "utils/tuplestore.h"
#include "ss_mapping.h"

typedef struct SsSteps SsSteps;

/* What a relation made by SELECT INTO lies in; ended by who ran the step. */
typedef struct SsStepResult
{
	MemoryContext	 cxt;	/* given: for what is made */
	ResourceOwner	 owner; /* given: of the tuplestore, outlives the subtransaction */
	Tuplestorestate *store; /* NULL until the step runs */
} SsStepResult;

/*
 * Parse the pipeline's transform.  The steps live in cxt and go with it, as
 * their plans do; mapping and pipeline must outlive them.
 */
extern SsSteps *ss_steps_create(const SsPipeline *pipeline, SsMapping *mapping, MemoryContext cxt);

extern int ss_steps_count(const SsSteps *steps);

/*
 * Analyse all statements as the current user: ERROR with the server's own
 * message and the position in the transform; 55000 for a table that cannot be
 * written exactly once.  The mapping watches such tables.  With explain, plan them and check privileges too.
 * Opens a connection of its own.
 */
extern void ss_steps_prepare(SsSteps *steps, bool explain);

/* After that: does a statement read _fields? */
extern bool ss_steps_use_fields(const SsSteps *steps);

/* May a step leave something behind that no transaction id tells of: a notification, what a procedure did? */
extern bool ss_steps_has_effects(const SsSteps *steps, int step);

/* The relation that a step makes, or NULL. */
extern const char *ss_steps_into(const SsSteps *steps, int step);

/* Let the statements see the batch's rows; once more with other ones after ss_steps_end. */
extern void ss_steps_begin(SsSteps *steps, Tuplestorestate *store, int nrows);
extern void ss_steps_end(SsSteps *steps);

/* Run a step over a batch of nrows rows; returns the rows that it reports to have written. */
extern uint64 ss_steps_run(SsSteps *steps, int step, int nrows, SsStepResult *result);

/* Let an error of a step tell the position in the transform, and say what is missing. */
extern void ss_steps_explain_error(const SsSteps *steps, int step, ErrorData *error);

#endif /* SS_STEPS_H */
