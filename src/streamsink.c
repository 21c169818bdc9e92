/*
 * streamsink.c
 *	  What the server calls when it loads the library.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "miscadmin.h"

#include "ss_fault.h"
#include "ss_guard.h"
#include "ss_guc.h"
#include "ss_launcher.h"
#include "ss_shmem.h"

/* Before 16 the server's macros leave visibility to the compiler's default. */
extern SS_EXPORT const Pg_magic_struct *PG_MAGIC_FUNCTION_NAME(void);
extern SS_EXPORT void					_PG_init(void);

PG_MODULE_MAGIC;

void
_PG_init(void)
{
	ss_guc_init();
	ss_fault_init();
	ss_guard_init();
	ss_shmem_init();
	ss_launcher_register();
}
