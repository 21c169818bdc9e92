/*
 * ss_emit.h
 *	  Which pipeline's statements run in this backend: emit() and publish()
 *	  without a server go to its.
 */
#ifndef SS_EMIT_H
#define SS_EMIT_H

#include "ss_catalog.h"

/*
 * Set by who runs a pipeline's statements, around each try of them, and put
 * back to what it was on every way out; NULL elsewhere.
 */
extern const SsPipeline *MyPipeline;

#endif /* SS_EMIT_H */
