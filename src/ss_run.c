/*
 * ss_run.c
 *	  What turns a pipeline's entries into rows, kept as long as it holds good.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "mb/pg_wchar.h"
#include "portability/instr_time.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#include "ss_evolve.h"

static SsRun *
make_run(MemoryContext parent)
{
	MemoryContext cxt = AllocSetContextCreate(parent, "streamsink pipeline", ALLOCSET_DEFAULT_SIZES);
	SsRun		 *run = MemoryContextAllocZero(cxt, sizeof(SsRun));

	run->cxt = cxt;
	return run;
}

static void
prepare_names(SsRun *run)
{
	const char *letters = run->pipeline->dead_letter_stream;

	run->tmpl = ss_template_parse_except(run->pipeline->stream, letters);
	if (letters)
		run->dead_letter_key = pg_server_to_any(letters, strlen(letters), PG_UTF8);
}

SsRun *
ss_run_load(int32 pipeline_id, MemoryContext parent)
{
	SsRun		 *run = make_run(parent);
	MemoryContext saved = MemoryContextSwitchTo(run->cxt);

	run->pipeline = ss_catalog_load_by_id(pipeline_id);
	if (run->pipeline)
		prepare_names(run);
	MemoryContextSwitchTo(saved);
	if (!run->pipeline)
	{
		ss_run_free(run);
		return NULL;
	}
	return run;
}

SsRun *
ss_run_load_by_name(const char *name, MemoryContext parent)
{
	SsRun		 *run = make_run(parent);
	MemoryContext saved = MemoryContextSwitchTo(run->cxt);

	run->pipeline = ss_catalog_load(name, false);
	prepare_names(run);
	MemoryContextSwitchTo(saved);
	return run;
}

void
ss_run_free(SsRun *run)
{
	if (run->writer)
		ss_write_free(run->writer);
	if (run->mapping)
		ss_mapping_free(run->mapping);
	MemoryContextDelete(run->cxt);
}

static void
discard_mapping(SsRun *run)
{
	if (run->writer)
		ss_write_free(run->writer);
	run->writer = NULL;
	if (run->mapping)
		ss_mapping_free(run->mapping);
	run->mapping = NULL;
}

void
ss_run_refresh(SsRun *run)
{
	for (;;)
	{
		Oid target;

		if (!run->mapping)
			run->mapping = ss_mapping_build(run->pipeline, run->tmpl, run->cxt);

		/* Locking also accepts the invalidations of whoever held it before. */
		target = ss_mapping_target(run->mapping);
		if (OidIsValid(target))
			LockRelationOid(target, run->pipeline->transform != NULL ? AccessShareLock : RowExclusiveLock);
		if (ss_mapping_is_valid(run->mapping))
			break;
		discard_mapping(run);
	}
	if (!run->writer)
		run->writer = ss_write_create(run->pipeline, run->mapping, run->cxt);
	ss_write_prepare(run->writer);
}

bool
ss_run_batch(SsRun *run, SsBatch *batch, int64 *map_us, int64 *write_us)
{
	instr_time started;
	instr_time mapped;
	instr_time written;
	SsRow	  *rows;
	int		   nrows;

	INSTR_TIME_SET_CURRENT(started);
	nrows = run->pipeline->evolve ? ss_evolve_rows(run, batch, &rows) :
									ss_mapping_rows(run->mapping, batch, &rows);
	if (nrows < 0)
		return false;
	INSTR_TIME_SET_CURRENT(mapped);
	if (nrows > 0)
		ss_write_rows(run->writer, batch, rows, nrows);
	INSTR_TIME_SET_CURRENT(written);

	INSTR_TIME_SUBTRACT(written, mapped);
	INSTR_TIME_SUBTRACT(mapped, started);
	*map_us = INSTR_TIME_GET_MICROSEC(mapped);
	*write_us = INSTR_TIME_GET_MICROSEC(written);
	return true;
}

bool
ss_run_name_stream(SsRun *run, SsStream *stream, char *name, MemoryContext cxt)
{
	MemoryContext saved = MemoryContextSwitchTo(cxt);
	bool		  matches;

	stream->name = name;
	stream->name_len = strlen(name);
	stream->key = pg_server_to_any(name, stream->name_len, PG_UTF8);
	stream->key_len = strlen(stream->key);
	stream->placeholders = palloc0_array(SsSlice, run->tmpl->nplaceholders + 1);
	matches = ss_template_match(run->tmpl, name, stream->name_len, stream->placeholders);
	if (!matches)
		memset(stream->placeholders, 0, sizeof(SsSlice) * (run->tmpl->nplaceholders + 1));
	MemoryContextSwitchTo(saved);
	return matches;
}
