/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tag: crash and application tags of the agent. A crash tag goes with every consistent epoch; a job
 * makes an application tag (or a named crash tag), by command or by schedule. Called by epoch.c (what
 * goes with this epoch), agent.c (tick), commands.c, status.c.
 *
 *	step      event                                              next
 *	SETTLE    the way is free: link up, in sync, nothing on its way  SYNC (app), CUT (crash)
 *	SYNC      the page caches are written back                   PRE, or SETTLE when that dirtied a lot
 *	PRE       all pre scripts succeeded                          FREEZE
 *	FREEZE    all filesystems are frozen                         CUT
 *	CUT       the epoch is cut                                   THAW (app), SEND (crash)
 *	THAW      thawed                                             POST
 *	POST      post scripts are over                              SEND, or FAILED
 *	SEND      the epoch is applied on the master target          DONE
 *	PRE, FREEZE, CUT  anything fails                             THAW, POST (what was begun is undone), FAILED
 *	SEND      the epoch was not exact in the end, or failed      FAILED
 *	SETTLE    the time is up                                     FAILED
 *
 * From PRE to CUT no other epoch is cut. A job that failed offers no application tag; the epoch, if it
 * was cut and is exact, is a crash point all the same.
 */
#ifndef REPROTECT_AGENT_TAG_H
#define REPROTECT_AGENT_TAG_H

#include "agent.h"

#define TAG_NAME_BYTES 65
#define TAG_SETTLE_MS (5u * 60 * 1000)

/** tag_start - begin a job; @name NULL: made up; @timeout_ms 0: TAG_SETTLE_MS */
int tag_start(struct agent *agent, bool app, const char *name, uint64_t timeout_ms,
	      struct agent_problem *problem);
/** tag_busy - a job is at work on this machine (scripts, frozen filesystems) */
bool tag_busy(const struct agent *agent);
/** tag_holds - no ordinary cut now */
bool tag_holds(const struct agent *agent);
/** tag_wants - the next consistent epoch has to be sent even when it is empty */
bool tag_wants(const struct agent *agent);
void tag_tick(struct agent *agent, uint64_t now_ms);

/* What epoch.c tells. */
/** tag_step - asked before a cut, with nothing on its way: true when the job has something else to do first */
bool tag_step(struct agent *agent);
/** tag_ready - whether all that goes into the tag of the epoch under way is there */
bool tag_ready(const struct agent *agent);
/** tag_payload - the TAG of the epoch under way, which is exact; malloc'ed, NULL: no memory. Notes its name. */
char *tag_payload(struct agent *agent);
void tag_epoch_cut(struct agent *agent);
/** tag_epoch_fuzzy - the epoch under way is not exact after all: @why, @remedy */
void tag_epoch_fuzzy(struct agent *agent, const char *why, const char *remedy);
void tag_epoch_failed(struct agent *agent, const char *why, const char *remedy);
/** tag_epoch_applied - everything up to @number is on the target */
void tag_epoch_applied(struct agent *agent, uint64_t number);

json_t *tag_json(const struct agent *agent);
void tag_free(struct agent *agent);

#endif
