// SPDX-License-Identifier: GPL-2.0-or-later
/* snapshot: see snapshot.h. */
#include "snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "log.h"
#include "tag.h"
#include "util.h"

struct snapshot {
	enum { SNAPSHOT_WAIT, SNAPSHOT_OPEN, SNAPSHOT_FAILED } state;
	char disk[64];
	char image[300];
	uint64_t epoch, since_ms;
	struct agent_problem problem;
};

static const char *const state_names[] = { "waiting", "open", "failed" };

int snapshot_start(struct agent *agent, const char *which, struct agent_problem *problem)
{
	struct agent_disk *disk = disks_find(agent, which);

	if (agent->snapshot && agent->snapshot->state != SNAPSHOT_FAILED) {
		agent_problem_set(problem, "release it: reprotect disk snapshot --release DEVICE",
				  "disk %s: a snapshot of disk %s is open already", which,
				  agent->snapshot->disk);
		return -EBUSY;
	}
	if (!disk || !disk->active) {
		agent_problem_set(problem, "attach it first: reprotect disk attach DEVICE",
				  "disk %s: no snapshot: it is not tracked", which);
		return -ENODEV;
	}
	if (agent->released || failback_active(agent) || tag_busy(agent)) {
		agent_problem_set(problem, "wait until it is over: reprotect status",
				  "disk %s: no snapshot: a failback or an application tag is under way", which);
		return -EBUSY;
	}
	snapshot_free(agent);
	agent->snapshot = calloc(1, sizeof(*agent->snapshot));
	if (!agent->snapshot) {
		agent_problem_set(problem, "free memory", "out of memory");
		return -ENOMEM;
	}
	snprintf(agent->snapshot->disk, sizeof(agent->snapshot->disk), "%s", disk->name);
	/* Without a link nothing is on its way either; it need not be there. */
	if (agent->epoch.phase == EPOCH_NONE)
		snapshot_step(agent);
	return 0;
}

static void fail(struct snapshot *snapshot, const char *remedy, const char *why)
{
	snapshot->state = SNAPSHOT_FAILED;
	agent_problem_set(&snapshot->problem, remedy, "disk %s: no snapshot: %s", snapshot->disk, why);
}

/* An open one that shows nothing any more is over: replication goes on. */
static void check(struct agent *agent)
{
	struct snapshot *snapshot = agent->snapshot;
	struct agent_disk *disk = disks_find(agent, snapshot->disk);

	if (snapshot->state != SNAPSHOT_OPEN)
		return;
	if (!disk || !disk->active || disk->info.epoch > snapshot->epoch) {
		fail(snapshot, "release it, and try again", "the disk was detached or attached anew");
	} else if (disk->info.epoch == snapshot->epoch && disk->info.epoch_mode == BLKCBT_MODE_FUZZY) {
		fail(snapshot, "release it; raise preserve_budget, or copy faster",
		     disk->info.downgrade_reason[0] ? disk->info.downgrade_reason : "it could not be preserved");
		agent->tracker_ops->abort(agent->tracker, snapshot->epoch, &disk->dev, 1);
	}
}

bool snapshot_step(struct agent *agent)
{
	struct snapshot *snapshot = agent->snapshot;
	const struct tracker_ops *ops = agent->tracker_ops;
	struct agent_disk *disk;
	struct cbt_cut cut = { .mode = BLKCBT_MODE_SNAPSHOT, .budget_bytes = agent->config.preserve_budget };
	int rc;

	if (!snapshot)
		return false;
	check(agent);
	if (snapshot->state == SNAPSHOT_FAILED)
		return false;
	if (snapshot->state == SNAPSHOT_OPEN)
		return true;
	disk = disks_find(agent, snapshot->disk);
	if (!disk || !disk->active) {
		fail(snapshot, "see: reprotect status", "the disk is gone");
		return false;
	}
	cut.epoch = epoch_number(agent);
	rc = ops->cut(agent->tracker, &cut, &disk->dev, 1);
	if (rc) {
		fail(snapshot, "see the kernel log: dmesg | grep blkcbt",
		     *ops->error(agent->tracker) ? ops->error(agent->tracker) : strerror(-rc));
		return false;
	}
	snapshot->state = SNAPSHOT_OPEN;
	snapshot->epoch = cut.epoch;
	snapshot->since_ms = util_now_ms();
	ops->get(agent->tracker, disk->dev, &disk->info);
	ops->image_path(agent->tracker, &disk->info, snapshot->image, sizeof(snapshot->image));
	log_notice("disk %s: snapshot open at %s; replication waits until it is released", snapshot->disk,
		   snapshot->image);
	return true;
}

int snapshot_release(struct agent *agent, const char *which, struct agent_problem *problem)
{
	struct snapshot *snapshot = agent->snapshot;
	struct agent_disk *disk = disks_find(agent, which);

	if (!snapshot || !disk || strcmp(disk->name, snapshot->disk) != 0) {
		agent_problem_set(problem, "see: reprotect status", "disk %s: no snapshot of it is open", which);
		return -ENOENT;
	}
	if (snapshot->state == SNAPSHOT_OPEN && disk->active) {
		int rc = agent->tracker_ops->abort(agent->tracker, snapshot->epoch, &disk->dev, 1);

		if (rc && rc != -ESRCH && rc != -ENOENT) {
			agent_problem_set(problem, "see the kernel log: dmesg | grep blkcbt",
					  "disk %s: cannot release its snapshot: %s: %s", disk->name,
					  strerror(-rc), agent->tracker_ops->error(agent->tracker));
			return rc;
		}
	}
	log_notice("disk %s: snapshot released; replication goes on", disk->name);
	snapshot_free(agent);
	agent_schedule(agent, 0);
	return 0;
}

json_t *snapshot_json(struct agent *agent)
{
	struct snapshot *snapshot = agent->snapshot;
	struct agent_disk *disk = snapshot ? disks_find(agent, snapshot->disk) : NULL;
	json_t *json;

	if (!snapshot)
		return json_null();
	check(agent);
	json = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I}", "disk", snapshot->disk, "state",
			 state_names[snapshot->state], "image", snapshot->image, "open_ms",
			 (json_int_t)(snapshot->since_ms ? util_now_ms() - snapshot->since_ms : 0),
			 "preserved_bytes", (json_int_t)(disk ? disk->info.preserved_bytes : 0), "budget_bytes",
			 (json_int_t)agent->config.preserve_budget);
	if (snapshot->problem.text[0])
		json_object_set_new(json, "error",
				    json_pack("{s:s, s:s}", "message", snapshot->problem.text, "remedy",
					      snapshot->problem.remedy));
	return json;
}

void snapshot_free(struct agent *agent)
{
	free(agent->snapshot);
	agent->snapshot = NULL;
}
