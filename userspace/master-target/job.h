/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * job: what a machine does to its own targets: undo an epoch that was not completed, and roll back to a state of
 * the past. Nothing else writes to the targets meanwhile; a connection waits until an undo is done, and is
 * refused during a rollback and after it.
 *
 *	state		| next
 *	----------------+------------------------------------------------------------------
 *	JOB_NONE	| job_turn(), the apply being quiet: a layer is open that cannot be gone on with, or a rollback is
 *			| wanted and a layer is open: UNDO; a rollback is wanted: ROLLBACK; else a waiting connection goes on
 *	JOB_UNDO	| done: recorded, NONE; failed: NONE, and again a little later
 *	JOB_ROLLBACK	| done: recorded, NONE; failed or stopped: the rollback is off, NONE (and so UNDO)
 *
 * What is wanted is in the state file (undo.open, undo.rollback_to), so a restart of the program goes on by itself.
 */
#ifndef MASTER_TARGET_JOB_H
#define MASTER_TARGET_JOB_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "fault.h"
#include "restore.h"

struct machine;

enum job_kind { JOB_NONE, JOB_UNDO, JOB_ROLLBACK };

/**
 * struct job - of one machine
 * @last: "" or how the last rollback ended ("done", "failed", "stopped"); @why: what was wrong, unless it is done; @to: id, name and
 *	time of its point
 * @stopped: the operator has stopped the one that is under way
 * @retry_ms: not before; 0: at once
 */
struct job {
	enum job_kind kind;
	struct restore restore;
	sd_event_source *ended; /* after @restore has said so */
	struct fault result;
	bool ok, stopped;
	char last[16];
	struct fault why;
	json_t *to;
	uint64_t retry_ms, rate_bytes, last_total;
};

int job_init(struct machine *machine);
void job_destroy(struct machine *machine);
/** job_turn - begin what is to be done, if nothing is under way; see the table */
void job_turn(struct machine *machine);
/** job_needed - whether a connection has to wait for something that job_turn() does */
bool job_needed(const struct machine *machine);
/** job_stop - at the end of the program */
void job_stop(struct machine *machine);
bool job_quiet(const struct machine *machine);

/** machine_rollback - begin to roll back to the state @id. 0, or -1 with @fault */
int machine_rollback(struct machine *machine, uint64_t id, struct fault *fault);
/** machine_rollback_stop - end the rollback that is wanted or under way, and undo what it did. 0, or -1 with @fault */
int machine_rollback_stop(struct machine *machine, struct fault *fault);
/** machine_rollback_estimate - {"bytes","undo_bytes","free_bytes","seconds"}; NULL with @fault */
json_t *machine_rollback_estimate(struct machine *machine, uint64_t id, struct fault *fault);
/**
 * machine_rollback_json - {"state" ("idle", "waiting", "undoing", "restoring", "done", "failed", "stopped"), "point", "done_bytes", "total_bytes",
 * "rate_bytes_per_second", "eta_ms", "error" ({"message","remedy"} or null)}
 */
json_t *machine_rollback_json(const struct machine *machine);

#endif
