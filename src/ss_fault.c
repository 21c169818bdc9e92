/*
 * ss_fault.c
 *	  Named fault points, in test builds only.
 *
 * NOTES
 *	  streamsink.fault is a list "name:action, ...".  Actions are kill, error,
 *	  fatal, wait (until the setting changes) and sleepN (milliseconds), each
 *	  with one of these behind it at most:
 *
 *		-once	the first time only; a point that kills would otherwise do so
 *				after every restart.
 *		%n		every n-th time, over all processes and restarts.
 *		/n		one time in n, as streamsink.fault_seed, the name and the
 *				number of the time have it: the same seed gives the same times.
 *
 *	  A file streamsink_fault.<name>.<action> in the data directory keeps that.
 *	  What is written otherwise has another file: "kill-once2", "sleep05/3".
 *
 *	  Every hit writes a line to the log, so that a test can tell it happened.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "ss_fault.h"

#ifdef STREAMSINK_TEST

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <unistd.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

static char *fault = NULL;
static int	 fault_seed = 0;

void
ss_fault_init(void)
{
	DefineCustomStringVariable("streamsink.fault", "Sets what happens at named fault points.",
							   NULL, &fault, "", PGC_SUSET, GUC_NOT_IN_SAMPLE,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("streamsink.fault_seed", "Sets which times a fault point with a chance acts.",
							NULL, &fault_seed, 0, 0, INT_MAX, PGC_SUSET, GUC_NOT_IN_SAMPLE,
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

/* Open what is remembered of an action; -1 if it cannot be. */
static int
open_memory(const char *name, const char *action, int flags)
{
	char path[MAXPGPATH];

	snprintf(path, sizeof(path), "streamsink_fault.%s.%s", name, action);
	for (char *p = path; *p; p++)
		if (*p == '/')
			*p = '_';
	return open(path, O_CREAT | O_WRONLY | flags, 0600);
}

/* True the first time only, for all processes and restarts. */
static bool
first_time(const char *name, const char *action)
{
	int fd = open_memory(name, action, O_EXCL);

	if (fd < 0)
		return false;
	close(fd);
	return true;
}

/* How often the point was reached, this time included, by all processes since the file was made. */
static uint32
count_hit(const char *name, const char *action)
{
	int	  fd = open_memory(name, action, O_APPEND);
	off_t count = 0;

	if (fd < 0)
		return 0;
	/* the end of what this process appended is its own number, whoever else appends */
	if (write(fd, ".", 1) == 1)
		count = lseek(fd, 0, SEEK_CUR);
	close(fd);
	return (uint32) count;
}

/* Does the action happen this time?  *hit is the time's number where these are counted, else 0. */
static bool
is_due(const char *name, const char *action, uint32 *hit)
{
	const char *rule = strpbrk(action, "%/");
	uint32		chance;
	int			n;

	*hit = 0;
	if (strstr(action, "-once") != NULL)
		return first_time(name, action);
	if (rule == NULL)
		return true;
	n = atoi(rule + 1);
	*hit = chance = count_hit(name, action);
	if (n <= 0 || chance == 0)
		return false;
	if (*rule == '/')
		chance = hash_bytes_uint32(chance ^ hash_bytes_uint32((uint32) fault_seed ^ hash_bytes((const unsigned char *) name, (int) strlen(name))));
	return chance % (uint32) n == 0;
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

bool
ss_fault_is_set(const char *name)
{
	char action[64];

	return fault != NULL && find_action(name, action, sizeof(action));
}

void
ss_fault_point(const char *name)
{
	char   action[64];
	uint32 hit;

	if (fault == NULL || fault[0] == '\0' || !find_action(name, action, sizeof(action)))
		return;
	if (!is_due(name, action, &hit))
		return;

	ereport(LOG,
			(errmsg("streamsink fault point \"%s\": %s", name, action),
			 hit > 0 ? errdetail("It was reached %u times.", hit) : 0));

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
	else if (strncmp(action, "sleep", 5) == 0)
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, Min(Max(atoi(action + 5), 0), 60000), PG_WAIT_EXTENSION);
}

#endif /* STREAMSINK_TEST */
