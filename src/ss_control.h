/*
 * ss_control.h
 *	  How a call begins that takes a pipeline for itself.
 */
#ifndef SS_CONTROL_H
#define SS_CONTROL_H

#include "fmgr.h"

#include "ss_run.h"

/*
 * The pipeline that the first argument names, for a caller who may control it,
 * behind its fence until the transaction ends.  ERROR if the server is not
 * writable (function is named then, like "adopt()"), or if there is no such
 * pipeline, also if it was dropped while the fence was waited for.
 */
extern SsRun *ss_control_open(FunctionCallInfo fcinfo, const char *function, MemoryContext parent);

#endif /* SS_CONTROL_H */
