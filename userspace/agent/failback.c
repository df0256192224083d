// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * failback: the planned failback of this machine, a job with steps. Called by commands.c
 * (start, stop, progress), agent.c (tick), epoch.c (what the epochs found).
 *
 *	step      event                                       next
 *	CONVERGE  little is dirty after a whole epoch         FREEZE
 *	FREEZE    all filesystems of the disks are frozen     FINAL
 *	FINAL     two cuts in a row found nothing             VERIFY (the final epoch)
 *	FINAL     10 cuts, and still something is written     FAILED
 *	VERIFY    acknowledged as released                    RELEASED
 *	VERIFY    differences, or a write meanwhile           FAILED
 *	any       deadline, error, stop                       FAILED
 *
 * FAILED thaws, and replication goes on. RELEASED ends replication until "reprotect
 * resume"; the filesystems stay frozen unless thaw was asked for. While anything is frozen the
 * agent writes nothing to disk and keeps its messages in memory. If the agent dies, the helper
 * of freeze.c thaws.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent.h"
#include "freeze.h"
#include "link.h"
#include "log.h"
#include "mounts.h"
#include "ship.h"
#include "snapshot.h"
#include "stores.h"
#include "tag.h"
#include "util.h"

#define FAILBACK_SMALL_BYTES (32ull * MIB)
#define FAILBACK_ROUNDS_MAX 8u
#define FAILBACK_FINAL_MAX 10u
#define FAILBACK_PAUSE_MS 200u

enum failback_step {
	FAILBACK_CONVERGE,
	FAILBACK_FREEZE,
	FAILBACK_FINAL,
	FAILBACK_VERIFY,
	FAILBACK_RELEASED,
	FAILBACK_FAILED
};

static const char *const step_names[] = { "converge", "freeze", "final", "verify", "released",
					  "failed" };

struct failback {
	enum failback_step step;
	bool thaw_wanted, stopped;
	uint64_t started_ms, step_ms, ended_ms, deadline_ms;
	uint64_t frozen_ms, thawed_ms; /* the outage */
	unsigned rounds, finals, empties;
	uint64_t last_bytes;
	struct mount_entry *mounts;
	size_t mount_count;
	struct freeze *freeze;
	struct agent_problem problem;
};

bool failback_active(const struct agent *agent)
{
	return agent->failback && agent->failback->step < FAILBACK_RELEASED;
}

bool failback_eager(const struct agent *agent)
{
	return failback_active(agent) && agent->failback->step == FAILBACK_CONVERGE;
}

bool failback_holds(const struct agent *agent)
{
	return failback_active(agent) && agent->failback->step != FAILBACK_CONVERGE &&
	       agent->failback->step != FAILBACK_FINAL;
}

static void step(struct agent *agent, enum failback_step next)
{
	agent->failback->step = next;
	agent->failback->step_ms = util_now_ms();
	log_notice("failback: %s", step_names[next]);
}

/* Thawed again: what was put off can be written. */
static void unfrozen(struct agent *agent)
{
	if (agent->failback)
		agent->failback->thawed_ms = util_now_ms();
	agent_allow_writes(agent);
}

static void failback_end(struct agent *agent, const char *remedy, const char *text)
{
	struct failback *job = agent->failback;

	agent_problem_set(&job->problem, remedy, "failback: %s", text);
	step(agent, FAILBACK_FAILED);
	job->ended_ms = util_now_ms();
	if (job->freeze)
		freeze_thaw(job->freeze);
	if (!agent->frozen) {
		state_failback_set(agent, STATE_FAILBACK_NONE);
		log_flush();
	}
	epoch_abandon(agent);
	agent_schedule(agent, 1000);
}

static void __attribute__((format(printf, 3, 4)))
failback_fail(struct agent *agent, const char *remedy, const char *format, ...)
{
	char text[AGENT_TEXT_BYTES];
	va_list list;

	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	failback_end(agent, remedy, text);
}

static void hook_frozen(void *user, int rc, const char *point)
{
	struct agent *agent = user;
	struct failback *job = agent->failback;

	if (job->step != FAILBACK_FREEZE)
		return;
	if (rc) {
		failback_fail(agent,
			      rc == -EBUSY ? "it is frozen already: fsfreeze -u MOUNTPOINT, then try again" :
					     "find what keeps it busy (dmesg; iostat), then try again",
			      "filesystem %s: cannot freeze: %s", point,
			      rc == -ETIME ? "takes longer than 10 s" : strerror(-rc));
		return;
	}
	step(agent, FAILBACK_FINAL);
	agent_schedule(agent, 0);
}

static void hook_thawed(void *user, int rc, bool asked)
{
	struct agent *agent = user;
	struct failback *job = agent->failback;

	(void)asked;
	if (rc)
		agent_problem_set(&job->problem, "thaw by hand: fsfreeze -u MOUNTPOINT, root last",
				  "failback: filesystems could not be thawed: %s", strerror(-rc));
	unfrozen(agent);
	if (failback_active(agent))
		failback_fail(agent, NULL, "the freeze helper thawed before its time");
	state_failback_set(agent, job->step == FAILBACK_RELEASED ? STATE_FAILBACK_DONE :
								   STATE_FAILBACK_NONE);
	log_notice("failback: filesystems are thawed");
}

static const struct freeze_hooks hooks = { hook_frozen, hook_thawed };

static void begin_freeze(struct agent *agent)
{
	struct failback *job = agent->failback;
	dev_t devs[AGENT_DISKS_MAX];
	size_t count = 0;
	uint64_t now = util_now_ms();
	int rc;

	for (size_t i = 0; i < agent->disk_count; i++)
		if (agent->disks[i].active)
			devs[count++] = agent->disks[i].dev;
	rc = mounts_on(devs, count, &job->mounts, &job->mount_count);
	if (rc) {
		failback_fail(agent, NULL, "cannot list the mounted filesystems: %s", strerror(-rc));
		return;
	}
	step(agent, FAILBACK_FREEZE);
	for (size_t i = 0; i < job->mount_count; i++)
		log_notice("failback: to freeze: %s (%s, %s)", job->mounts[i].point,
			   job->mounts[i].type, job->mounts[i].source);
	/* On disk before anything is frozen: if we die now, the next agent asks downstream. */
	rc = state_failback_set(agent, STATE_FAILBACK_BEGUN);
	if (rc)
		log_warning("failback: cannot note it in the state directory: %s", strerror(-rc));
	agent_hold_writes(agent);
	job->frozen_ms = now;
	rc = freeze_start(&job->freeze, agent->event, job->mounts, job->mount_count,
			  FREEZE_EACH_MS,
			  job->deadline_ms > now ? job->deadline_ms - now + 5000 : 5000, &hooks, agent);
	if (rc) {
		unfrozen(agent);
		failback_fail(agent, NULL, "cannot start the freeze helper: %s", strerror(-rc));
	}
}

int failback_start(struct agent *agent, uint64_t timeout_ms, bool thaw, struct agent_problem *problem)
{
	struct failback *job;

	if (agent->released) {
		agent_problem_set(problem, "to protect this machine again: reprotect resume",
				  "this machine has been failed back already");
		return -EALREADY;
	}
	if (failback_active(agent) || agent->frozen) {
		agent_problem_set(problem, "watch it: reprotect status; or stop it: reprotect failback --stop",
				  "a failback is under way");
		return -EBUSY;
	}
	if (tag_busy(agent) || agent->snapshot) {
		agent_problem_set(problem, "wait for it, or release it: reprotect disk snapshot --release DEVICE",
				  "%s is under way", agent->snapshot ? "a snapshot" : "an application tag");
		return -EBUSY;
	}
	if (!agent_active(agent)) {
		agent_problem_set(problem, "attach the disks first: reprotect disk attach DEVICE",
				  "no disk is replicated");
		return -ENODEV;
	}
	for (size_t i = 0; i < agent->disk_count; i++) {
		const struct agent_disk *disk = &agent->disks[i];

		if (disk->detached || disk->active)
			continue;
		agent_problem_set(problem, "bring it back, or detach it: reprotect disk detach NAME",
				  "disk %s (%s) belongs to the group and is not replicated: %s", disk->name,
				  disk->device, disk->problem.text);
		return -ENODEV;
	}
	failback_free(agent);
	job = calloc(1, sizeof(*job));
	if (!job) {
		agent_problem_set(problem, NULL, "out of memory");
		return -ENOMEM;
	}
	agent->failback = job;
	job->thaw_wanted = thaw;
	job->started_ms = util_now_ms();
	job->deadline_ms = job->started_ms + timeout_ms;
	stores_let_go(agent);
	step(agent, FAILBACK_CONVERGE);
	agent_schedule(agent, 0);
	return 0;
}

void failback_stop(struct agent *agent, const char *why)
{
	if (!failback_active(agent))
		return;
	agent->failback->stopped = true;
	failback_fail(agent, NULL, "%s", why);
}

void failback_tick(struct agent *agent, uint64_t now_ms)
{
	struct failback *job = agent->failback;

	if (!failback_active(agent) || now_ms < job->deadline_ms)
		return;
	failback_fail(agent,
		      job->step == FAILBACK_CONVERGE ?
			      "give it more time (--timeout), or less to write; see reprotect status" :
			      "give it more time (--timeout)",
		      "not done within %" PRIu64 " s, in step %s (%" PRIu64 " bytes dirty)",
		      (job->deadline_ms - job->started_ms) / 1000, step_names[job->step],
		      agent_dirty_bytes(agent));
}

static void begin_verify(struct agent *agent)
{
	int rc;

	step(agent, FAILBACK_VERIFY);
	rc = epoch_verify(agent);
	if (!rc || agent->failback->step != FAILBACK_VERIFY)
		return;
	if (rc == -EAGAIN || rc == -EBUSY) {
		/* Written again, or the last cut is not put away yet. */
		agent->failback->empties = 0;
		step(agent, FAILBACK_FINAL);
		agent_schedule(agent, FAILBACK_PAUSE_MS);
		return;
	}
	failback_fail(agent, NULL, "cannot begin the final epoch: %s", strerror(-rc));
}

/* The disks that something still writes, for the message. */
static void dirty_names(const struct agent *agent, char *out, size_t out_bytes)
{
	size_t used = 0;

	out[0] = '\0';
	for (size_t i = 0; i < agent->disk_count && used + 1 < out_bytes; i++) {
		const struct agent_disk *disk = &agent->disks[i];
		int n;

		if (!disk->active || !(disk->info.dirty_bytes || disk->info.open_bytes))
			continue;
		n = snprintf(out + used, out_bytes - used, "%s%s (%s)", used ? ", " : "", disk->name,
			     disk->device);
		used += n > 0 ? (size_t)n : 0;
	}
}

void failback_cut_done(struct agent *agent, uint64_t dirty_bytes)
{
	struct failback *job = agent->failback;
	char names[256];

	if (!failback_active(agent))
		return;
	job->last_bytes = dirty_bytes;
	if (job->step == FAILBACK_CONVERGE) {
		job->rounds++;
		if (!dirty_bytes && !agent->waiting_count)
			begin_freeze(agent);
		return;
	}
	if (job->step != FAILBACK_FINAL)
		return;
	job->finals++;
	job->empties = dirty_bytes ? 0 : job->empties + 1;
	if (dirty_bytes && job->finals > FAILBACK_FINAL_MAX) {
		dirty_names(agent, names, sizeof(names));
		failback_fail(agent,
			      "swap, or a program on the raw disk? stop it (swapoff -a; lsof DEVICE), "
			      "then try again",
			      "something still writes, past the frozen filesystems, to %s", names);
	}
}

void failback_committed(struct agent *agent)
{
	struct failback *job = agent->failback;
	bool initial = false;

	if (!failback_active(agent) || job->step != FAILBACK_CONVERGE)
		return;
	for (size_t i = 0; i < agent->disk_count; i++)
		initial |= agent->disks[i].active && agent->disks[i].initial;
	if (initial || !agent->epoch.whole)
		return;
	if (job->last_bytes <= FAILBACK_SMALL_BYTES || job->rounds >= FAILBACK_ROUNDS_MAX)
		begin_freeze(agent);
}

void failback_epoch_failed(struct agent *agent, const char *text, const char *remedy)
{
	struct failback *job = agent->failback;

	if (!failback_active(agent))
		return;
	/* While nothing is frozen a broken link is no reason to give up before the deadline. */
	if (job->step == FAILBACK_CONVERGE)
		return;
	failback_end(agent, remedy, text);
}

static void mark_mismatches(struct agent *agent, const json_t *list)
{
	size_t i;
	const json_t *entry;

	json_array_foreach(list, i, entry)
	{
		uint32_t id = (uint32_t)json_integer_value(json_object_get(entry, "disk"));
		uint64_t offset = (uint64_t)json_integer_value(json_object_get(entry, "offset"));
		uint64_t length = (uint64_t)json_integer_value(json_object_get(entry, "length"));

		for (size_t d = 0; d < agent->disk_count; d++) {
			struct agent_disk *disk = &agent->disks[d];
			struct cbt_range range = { disk->dev, offset, offset + length };

			if (!disk->active || disk->id != id || !length)
				continue;
			log_error("disk %s (%s): target differs at [%" PRIu64 ", %" PRIu64 "): sent again",
				  disk->name, disk->device, offset, offset + length);
			if (agent->tracker_ops->mark(agent->tracker, &range))
				agent_resync(agent, "cannot mark what differs");
		}
	}
}

void failback_final_ack(struct agent *agent, bool released, const json_t *json)
{
	struct failback *job = agent->failback;
	const json_t *list = json_object_get(json, "mismatch");

	if (!failback_active(agent))
		return;
	if (!released) {
		size_t count = json_array_size(list);

		mark_mismatches(agent, list);
		failback_fail(agent,
			      "what differs is sent again by itself; then try again; if it comes back, "
			      "check the target's disks and memory",
			      "verification found %zu ranges of the target that differ", count);
		return;
	}
	step(agent, FAILBACK_RELEASED);
	job->ended_ms = util_now_ms();
	agent->released = true;
	agent_problem_set(&agent->released_problem,
			  "start the machine from its target disks; to protect this one again instead: "
			  "reprotect resume",
			  "this machine has been failed back%s",
			  job->thaw_wanted ? "" : "; its filesystems are kept frozen");
	state_failback_set(agent, STATE_FAILBACK_DONE);
	link_stop(agent->link);
	if (job->thaw_wanted)
		freeze_thaw(job->freeze);
	else
		freeze_keep(job->freeze);
}

/* Two empty cuts in a row begin the verification. */
static bool ready_to_verify(const struct agent *agent)
{
	return failback_active(agent) && agent->failback->step == FAILBACK_FINAL &&
	       agent->failback->empties >= 2 && agent->epoch.phase == EPOCH_NONE &&
	       ship_is_idle(agent->ship);
}

bool failback_step(struct agent *agent)
{
	if (!ready_to_verify(agent))
		return false;
	begin_verify(agent);
	return true;
}

uint64_t failback_pause_ms(const struct agent *agent)
{
	return failback_active(agent) && agent->failback->step == FAILBACK_FINAL ? FAILBACK_PAUSE_MS :
										     UINT64_MAX;
}

int failback_resume(struct agent *agent, struct agent_problem *problem)
{
	dev_t devs[AGENT_DISKS_MAX];
	struct mount_entry *mounts = NULL;
	size_t count = 0, mount_count = 0, failed = 0;
	int rc;

	if (!agent->released) {
		agent_problem_set(problem, NULL, "nothing to resume: this machine is not failed back");
		return -EALREADY;
	}
	for (size_t i = 0; i < agent->disk_count; i++)
		if (agent->disks[i].active ||
		    (agent->tracker && !agent->disks[i].detached &&
		     !agent->tracker_ops->resolve(agent->tracker, agent->disks[i].device,
						  &agent->disks[i].dev)))
			devs[count++] = agent->disks[i].dev;
	rc = mounts_on(devs, count, &mounts, &mount_count);
	if (!rc)
		failed = freeze_thaw_list(mounts, mount_count);
	free(mounts);
	if (rc || failed) {
		agent_problem_set(problem, "thaw by hand: fsfreeze -u MOUNTPOINT, root last; then again",
				  "filesystems could not be thawed");
		return rc ? rc : -EIO;
	}
	unfrozen(agent);
	rc = state_failback_set(agent, STATE_FAILBACK_NONE);
	if (rc) {
		agent_problem_set(problem, "make the state directory writable, then again",
				  "cannot forget the failback: %s", strerror(-rc));
		return rc;
	}
	failback_free(agent);
	agent->released = false;
	agent_problem_clear(&agent->released_problem);
	log_notice("resumed by command");
	link_start(agent->link);
	return 0;
}

json_t *failback_json(const struct agent *agent)
{
	const struct failback *job = agent->failback;
	uint64_t now = util_now_ms(), outage = 0;
	struct ship_progress progress;
	json_t *json, *mounts;

	if (!job)
		return json_null();
	if (job->frozen_ms)
		outage = (job->thawed_ms ? job->thawed_ms : now) - job->frozen_ms;
	ship_progress(agent->ship, &progress);
	json = json_pack("{s:s, s:b, s:I, s:I, s:I, s:i, s:i, s:I, s:b, s:b, s:b}", "step",
			 step_names[job->step], "active", failback_active(agent), "elapsed_ms",
			 (json_int_t)((job->ended_ms ? job->ended_ms : now) - job->started_ms),
			 "timeout_ms", (json_int_t)(job->deadline_ms - job->started_ms), "frozen_ms",
			 (json_int_t)outage, "rounds", (int)job->rounds, "final_cuts",
			 (int)job->finals, "dirty_bytes", (json_int_t)agent_dirty_bytes(agent),
			 "frozen", agent->frozen, "released", job->step == FAILBACK_RELEASED, "verified",
			 job->step == FAILBACK_RELEASED);
	if (job->step == FAILBACK_VERIFY) {
		json_object_set_new(json, "verified_bytes",
				    json_integer((json_int_t)progress.read_bytes));
		json_object_set_new(json, "verify_bytes",
				    json_integer((json_int_t)progress.total_bytes));
	}
	mounts = json_array();
	for (size_t i = 0; i < job->mount_count; i++)
		json_array_append_new(mounts, json_string(job->mounts[i].point));
	json_object_set_new(json, "filesystems", mounts);
	if (job->problem.text[0])
		json_object_set_new(json, "error",
				    json_pack("{s:s, s:s}", "message", job->problem.text, "remedy",
					      job->problem.remedy));
	return json;
}

void failback_free(struct agent *agent)
{
	struct failback *job = agent->failback;

	if (!job)
		return;
	agent->failback = NULL;
	freeze_free(job->freeze);
	free(job->mounts);
	free(job);
}
