/*
 * ss_guc.h
 *	  Settings streamsink.*
 */
#ifndef SS_GUC_H
#define SS_GUC_H

extern int ss_guc_max_workers;		  /* slots for workers; postmaster start */
extern int ss_guc_max_pipelines;	  /* pipelines of all databases known to shared memory; postmaster start */
extern int ss_guc_max_databases;	  /* databases looked after; postmaster start */
extern int ss_guc_discovery_interval; /* ms between looks for new streams */
extern int ss_guc_block_time;		  /* ms a read waits in Redis; at most 5000 */
extern int ss_guc_command_timeout;	  /* ms a reply may take beyond that */
extern int ss_guc_backoff_max;		  /* ms, the longest wait between tries (reconnect, restart) */
extern int ss_guc_failover_delay;	  /* ms of silence of another server's workers before ours take over */
extern int ss_guc_setup_retry;		  /* ms between tries after a set-up error */
extern int ss_guc_batch_timeout;	  /* ms one batch may take, 0: no limit */
extern int ss_guc_sample_interval;	  /* ms between samples of stream lengths and lag */
extern int ss_guc_fold_rows;		  /* log rows that start a fold of the ledger */

extern int	ss_guc_ledger_join_age;		  /* ms since two settled intervals before they may be joined */
extern int	ss_guc_ledger_apart;		  /* newest intervals of a stream that are joined over a gap only if it is proven empty */
extern bool ss_guc_bulk_insert;			  /* past the statement where that means the same */
extern int	ss_guc_dead_letter_threshold; /* dead letters of a pipeline that are notified, 0: never */
extern int	ss_guc_max_columns;			  /* of a target, up to which columns are added for fields */

/* Define all of them; called from _PG_init.  Reserves the prefix. */
extern void ss_guc_init(void);

#endif /* SS_GUC_H */
