/*
 * ss_fault.c
 *	  Named fault points, in test builds only.
 *
 * NOTES
 *	  streamsink.fault is a list "name:action, ..." with the actions kill,
 *	  error, fatal and wait.  An action ending in "-once" leaves the file
 *	  streamsink_fault.<name> in the data directory and does nothing while it is
 *	  there: a point that kills would otherwise do so after every restart.
 *	  Every hit writes a line to the log, so that a test can tell it happened.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "ss_fault.h"

#ifdef STREAMSINK_TEST

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

static char *fault = NULL;

void
ss_fault_init(void)
{
	DefineCustomStringVariable("streamsink.fault", "Sets what happens at named fault points.",
							   NULL, &fault, "", PGC_SUSET, GUC_NOT_IN_SAMPLE,
							   NULL, NULL, NULL);
}

/* The action set for a point, copied into buf; false if there is none. */
static bool
find_action(const char *name, char *buf, Size size)
{
	const char *p = fault;
	size_t		name_len = strlen(name);

	while (p != NULL && *p != '\0')
	{
		size_t len;

		p += strspn(p, ", ");
		len = strcspn(p, ", ");
		if (len > name_len + 1 && len - name_len - 1 < size &&
			strncmp(p, name, name_len) == 0 && p[name_len] == ':')
		{
			memcpy(buf, p + name_len + 1, len - name_len - 1);
			buf[len - name_len - 1] = '\0';
			return true;
		}
		p += len;
	}
	return false;
}

/* True the first time only, for all processes and restarts. */
static bool
first_time(const char *name)
{
	char path[MAXPGPATH];
	int	 fd;

	snprintf(path, sizeof(path), "streamsink_fault.%s", name);
	fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

static void
wait_for_change(const char *name, const char *action)
{
	char now[64];

	while (find_action(name, now, sizeof(now)) && strcmp(now, action) == 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 20L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
	/* what set the latch meanwhile may have been for others */
	SetLatch(MyLatch);
}

void
ss_fault_point(const char *name)
{
	char  action[64];
	char *once;

	if (fault == NULL || fault[0] == '\0' || !find_action(name, action, sizeof(action)))
		return;
	once = strstr(action, "-once");
	if (once != NULL && !first_time(name))
		return;

	ereport(LOG,
			(errmsg("streamsink fault point \"%s\": %s", name, action)));

	if (strncmp(action, "kill", 4) == 0)
		kill(MyProcPid, SIGKILL);
	else if (strncmp(action, "error", 5) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IO_ERROR),
				 errmsg("fault point \"%s\"", name)));
	else if (strncmp(action, "fatal", 5) == 0)
		ereport(FATAL,
				(errcode(ERRCODE_IO_ERROR),
				 errmsg("fault point \"%s\"", name)));
	else if (strncmp(action, "wait", 4) == 0)
		wait_for_change(name, action);
}

#endif /* STREAMSINK_TEST */
