// SPDX-License-Identifier: GPL-2.0-or-later
/* tag: see tag.h. */
#include "tag.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "child.h"
#include "freeze.h"
#include "link.h"
#include "log.h"
#include "mounts.h"
#include "scripts.h"
#include "ship.h"
#include "util.h"

#define TAG_SYNCS_MAX 4u
#define TAG_FIRST_APP_MS 300000u /* after replication has become consistent */
#define TAG_RETRY_APP_MS 300000u

static const char *const step_names[] = { "settle", "sync", "pre", "freeze", "cut", "thaw", "post", "send", "done",
					  "failed" };

enum tag_state {
	TAG_SETTLE,
	TAG_SYNC,
	TAG_PRE,
	TAG_FREEZE,
	TAG_CUT,
	TAG_THAW,
	TAG_POST,
	TAG_SEND,
	TAG_DONE,
	TAG_FAILED
};

/**
 * struct tag_job - the job, also when it is over, until the next one
 * @epoch: that it goes with; 0: not cut yet
 * @lost: the epoch of it is over and was not applied
 * @mounts: to freeze, in order; @skipped: not to (freeze_skip), behind them
 */
struct tag_job {
	enum tag_state step;
	bool app, scheduled, exact, lost, applied;
	char name[TAG_NAME_BYTES];
	uint64_t id, started_ms, step_ms, deadline_ms, ended_ms;
	uint64_t epoch, cut_wall_ms, frozen_ms, thawed_ms;
	unsigned syncs;
	struct mount_entry *mounts;
	size_t mount_count, skipped;
	struct child *sync;
	struct scripts *scripts;
	struct freeze *freeze;
	struct agent_problem problem;
};

static bool active(const struct tag_job *job)
{
	return job && job->step < TAG_DONE;
}

bool tag_busy(const struct agent *agent)
{
	return active(agent->tag) && agent->tag->step >= TAG_SYNC && agent->tag->step <= TAG_POST;
}

bool tag_holds(const struct agent *agent)
{
	return active(agent->tag) && agent->tag->step >= TAG_SYNC && agent->tag->step <= TAG_FREEZE;
}

bool tag_wants(const struct agent *agent)
{
	return active(agent->tag) && agent->tag->epoch == agent->epoch.number && !agent->tag->lost;
}

static void step(struct tag_job *job, enum tag_state next)
{
	job->step = next;
	job->step_ms = util_now_ms();
	log_debug("tag %s: %s", job->name, step_names[next]);
}

static void post(struct agent *agent);

static void end(struct agent *agent)
{
	struct tag_job *job = agent->tag;
	bool failed = job->problem.text[0];

	step(job, failed ? TAG_FAILED : TAG_DONE);
	job->ended_ms = util_now_ms();
	if (failed)
		log_error("%s (%s)", job->problem.text, job->problem.remedy);
	else
		log_notice("tag %s (%s): epoch %" PRIu64 " is applied", job->name,
			   job->app ? "app" : "crash", job->epoch);
	if (job->app)
		agent->next_app_ms = util_now_ms() + (failed && agent->config.app_tag_interval_ms > TAG_RETRY_APP_MS ?
							      TAG_RETRY_APP_MS :
							      agent->config.app_tag_interval_ms);
	/* What was held back; behind an epoch that was applied the interval goes on as always. */
	if (!job->applied)
		agent_schedule(agent, 0);
}

/* What went wrong first is what people are told. */
static void __attribute__((format(printf, 3, 4)))
note(struct tag_job *job, const char *remedy, const char *format, ...)
{
	char text[AGENT_TEXT_BYTES - 160];
	va_list list;

	if (job->problem.text[0])
		return;
	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	snprintf(job->problem.text, sizeof(job->problem.text), "tag %s (%s): %s", job->name,
		 job->app ? "app" : "crash", text);
	snprintf(job->problem.remedy, sizeof(job->problem.remedy), "%s", remedy);
	job->problem.since_ms = util_wall_ms();
}

/* Undo what was begun, in order; the end of each step comes back here. */
static void unwind(struct agent *agent)
{
	struct tag_job *job = agent->tag;

	if (job->freeze && !job->thawed_ms) {
		step(job, TAG_THAW);
		freeze_thaw(job->freeze);
	} else if (job->scripts && job->step < TAG_POST) {
		post(agent);
	} else if (!job->problem.text[0] && job->epoch && !job->applied) {
		step(job, TAG_SEND);
	} else {
		end(agent);
	}
}

static void on_post(void *user, const char *error)
{
	struct agent *agent = user;
	struct tag_job *job = agent->tag;

	if (*error)
		note(job, "what they print is in reprotect status --json; try by hand: SCRIPT pre; SCRIPT post",
		     "%s", error);
	if (job->problem.text[0] || job->applied || !job->epoch)
		end(agent);
	else
		step(job, TAG_SEND);
	ship_writable(agent->ship); /* the epoch may wait for it */
}

static void post(struct agent *agent)
{
	step(agent->tag, TAG_POST);
	scripts_post(agent->tag->scripts, on_post, agent);
}

static void cut(struct agent *agent)
{
	struct tag_job *job = agent->tag;
	int rc;

	step(job, TAG_CUT);
	rc = epoch_cut_frozen(agent);
	if (rc)
		note(job, "see: reprotect status", "cannot cut: %s",
		     agent->epoch_problem.text[0] ? agent->epoch_problem.text : strerror(-rc));
	else if (agent->epoch.mode != BLKCBT_MODE_CONSISTENT)
		note(job, agent->epoch.remedy, "the epoch cannot be consistent: %s", agent->epoch.why);
	/* First let the machine go on; what was cut is sent after that. */
	unwind(agent);
	if (!rc)
		epoch_go(agent);
}

static void hook_frozen(void *user, int rc, const char *point)
{
	struct agent *agent = user;
	struct tag_job *job = agent->tag;

	if (job->step != TAG_FREEZE)
		return;
	if (!rc) {
		cut(agent);
		return;
	}
	note(job,
	     rc == -EBUSY      ? "someone else has frozen it: fsfreeze -u MOUNTPOINT" :
	     rc == -EOPNOTSUPP ? "it cannot be frozen: name it in freeze_skip, if that is good enough" :
				 "find what keeps it busy (dmesg; iostat), or raise freeze_timeout",
	     "filesystem %s: cannot freeze: %s", point,
	     rc == -ETIME ? "it does not come to rest within freeze_timeout" : strerror(-rc));
	/* Thawing has begun. */
	step(job, TAG_THAW);
}

static void hook_thawed(void *user, int rc, bool asked)
{
	struct agent *agent = user;
	struct tag_job *job = agent->tag;

	job->thawed_ms = util_now_ms();
	agent_allow_writes(agent);
	if (rc)
		note(job, "thaw by hand: fsfreeze -u MOUNTPOINT, root last",
		     "filesystems could not be thawed: %s", strerror(-rc));
	if (!asked)
		note(job, "raise freeze_timeout, or see what keeps this machine so busy",
		     "the filesystems were thawed after freeze_timeout (%" PRIu64 " ms), it may have been before "
		     "the cut",
		     agent->config.freeze_timeout_ms);
	unwind(agent);
}

static const struct freeze_hooks freeze_hooks = { hook_frozen, hook_thawed };

/* Read /proc/self/mountinfo; what is in freeze_skip goes to the end. */
static int list_mounts(struct agent *agent)
{
	struct tag_job *job = agent->tag;
	const char *skip = agent->config.freeze_skip ? agent->config.freeze_skip : "";
	dev_t devs[AGENT_DISKS_MAX];
	size_t count = 0, kept = 0;
	int rc;

	for (size_t i = 0; i < agent->disk_count; i++)
		if (agent->disks[i].active)
			devs[count++] = agent->disks[i].dev;
	free(job->mounts);
	job->mounts = NULL;
	job->mount_count = job->skipped = 0;
	rc = mounts_on(devs, count, &job->mounts, &count);
	if (rc)
		return rc;
	for (size_t i = 0; i < count; i++) {
		struct mount_entry entry = job->mounts[i];
		size_t length = strlen(entry.point);
		bool skipped = false;

		for (const char *at = skip; (at = strstr(at, entry.point)); at += length)
			skipped |= (at == skip || strchr(" ,", at[-1])) &&
				   (!at[length] || strchr(" ,", at[length]));
		if (skipped)
			continue;
		memmove(&job->mounts[kept + 1], &job->mounts[kept], (i - kept) * sizeof(entry));
		job->mounts[kept++] = entry;
	}
	job->mount_count = kept;
	job->skipped = count - kept;
	return 0;
}

static void on_pre(void *user, const char *error)
{
	struct agent *agent = user;
	struct tag_job *job = agent->tag;
	int rc;

	if (*error)
		note(job, "what they print is in reprotect status --json; try by hand: SCRIPT pre; SCRIPT post",
		     "%s", error);
	if (!job->problem.text[0] && !epoch_possible(agent))
		note(job, "see: reprotect status", "the way to the target was lost while the scripts ran");
	if (job->problem.text[0]) {
		unwind(agent);
		return;
	}
	if (!job->mount_count) {
		cut(agent);
		return;
	}
	step(job, TAG_FREEZE);
	agent_hold_writes(agent);
	job->frozen_ms = util_now_ms();
	rc = freeze_start(&job->freeze, agent->event, job->mounts, job->mount_count,
			  agent->config.freeze_timeout_ms, agent->config.freeze_timeout_ms, &freeze_hooks,
			  agent);
	if (rc) {
		job->freeze = NULL;
		agent_allow_writes(agent);
		note(job, "see the log", "cannot start the freeze helper: %s", strerror(-rc));
		unwind(agent);
	}
}

/* The directory of the control socket: in memory. */
static void run_dir(const struct agent *agent, char *out, size_t out_bytes)
{
	char *slash;

	snprintf(out, out_bytes, "%s", agent->config.control);
	slash = strrchr(out, '/');
	if (slash && slash != out)
		*slash = '\0';
}

static void pre(struct agent *agent)
{
	struct tag_job *job = agent->tag;
	char error[AGENT_TEXT_BYTES] = "", run[256];
	uint64_t hold_ms = agent->config.script_timeout_ms + agent->config.freeze_timeout_ms + 5000;
	int rc;

	step(job, TAG_PRE);
	run_dir(agent, run, sizeof(run));
	rc = scripts_new(&job->scripts, agent->event, agent->config.app_dir, job->name, run,
			 agent->config.script_timeout_ms, hold_ms, error, sizeof(error));
	if (rc) {
		job->scripts = NULL;
		note(job, "chown root:root, chmod go-w; see app_dir in the configuration", "scripts: %s",
		     error[0] ? error : strerror(-rc));
		unwind(agent);
		return;
	}
	scripts_pre(job->scripts, on_pre, agent);
}

/* In a process of its own: what has to be written back anyway, before anything waits for it. */
static int sync_all(void *argument)
{
	const struct tag_job *job = argument;

	for (size_t i = 0; i < job->mount_count + job->skipped; i++) {
		int fd = open(job->mounts[i].point, O_RDONLY | O_CLOEXEC);

		if (fd >= 0)
			syncfs(fd);
		if (fd >= 0)
			close(fd);
	}
	return 0;
}

static void on_synced(void *user, const struct child_result *result)
{
	struct agent *agent = user;
	struct tag_job *job = agent->tag;

	if (result->timed_out)
		note(job, "see what keeps the disks so busy (iostat), or raise script_timeout",
		     "the filesystems cannot be written back within %" PRIu64 " ms",
		     agent->config.script_timeout_ms);
	child_free(job->sync);
	job->sync = NULL;
	if (job->problem.text[0]) {
		end(agent); /* freezing would make writers wait as long */
		return;
	}
	job->syncs++;
	if (!epoch_possible(agent)) {
		step(job, TAG_SETTLE);
		return;
	}
	disks_refresh(agent); /* what is lost is seen again by the cut */
	/* Much was written back: send that first, so that it does not count against the frozen time. */
	if (agent_dirty_bytes(agent) > epoch_limit_bytes(agent) / 4 && job->syncs < TAG_SYNCS_MAX) {
		step(job, TAG_SETTLE);
		agent_schedule(agent, 0);
		return;
	}
	pre(agent);
}

static void begin_sync(struct agent *agent)
{
	struct tag_job *job = agent->tag;
	int rc = list_mounts(agent);

	if (!rc && !(job->mount_count + job->skipped)) {
		pre(agent);
		return;
	}
	step(job, TAG_SYNC);
	if (!rc)
		rc = child_start(&job->sync, agent->event, NULL, NULL, sync_all, job,
				 agent->config.script_timeout_ms, on_synced, agent);
	if (rc) {
		job->sync = NULL;
		note(job, "see the log", "cannot list or sync the filesystems: %s", strerror(-rc));
		end(agent);
	}
}

/* A cut would be consistent, with what is known. */
static bool settled(struct agent *agent)
{
	return epoch_possible(agent) && !agent->waiting_count &&
	       agent->chain == agent->points.acked_epoch;
}

bool tag_step(struct agent *agent)
{
	struct tag_job *job = agent->tag;

	if (!active(job) || job->step != TAG_SETTLE || !settled(agent))
		return false;
	if (job->app) {
		/* After a sync that dirtied much that is sent first: an epoch of its own. */
		if (job->syncs && agent_dirty_bytes(agent) > epoch_limit_bytes(agent) / 4 &&
		    job->syncs < TAG_SYNCS_MAX)
			return false;
		begin_sync(agent);
		return true;
	}
	step(job, TAG_CUT);
	return false;
}

void tag_epoch_cut(struct agent *agent)
{
	struct tag_job *job = agent->tag;

	if (!active(job) || job->step != TAG_CUT)
		return;
	job->epoch = agent->epoch.number;
	job->cut_wall_ms = agent->epoch.cut_wall_ms;
	if (!job->app) {
		step(job, TAG_SEND);
		if (agent->epoch.mode != BLKCBT_MODE_CONSISTENT) {
			note(job, agent->epoch.remedy, "the epoch cannot be consistent: %s", agent->epoch.why);
			end(agent);
		}
	}
}

static bool of_this_epoch(const struct agent *agent)
{
	return active(agent->tag) && agent->tag->epoch && agent->tag->epoch == agent->epoch.number &&
	       !agent->tag->lost;
}

bool tag_ready(const struct agent *agent)
{
	return !of_this_epoch(agent) || agent->tag->step >= TAG_SEND;
}

static json_t *mounts_json(const struct tag_job *job)
{
	json_t *list = json_array();

	for (size_t i = 0; i < job->mount_count + job->skipped; i++)
		json_array_append_new(list, json_pack("{s:s, s:s, s:b}", "point", job->mounts[i].point, "type",
						      job->mounts[i].type, "frozen", i < job->mount_count));
	return list;
}

static void time_text(uint64_t wall_ms, char *out, size_t out_bytes)
{
	time_t seconds = (time_t)(wall_ms / 1000);
	struct tm tm;
	char text[32];

	gmtime_r(&seconds, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out, out_bytes, "%s.%03uZ", text, (unsigned)(wall_ms % 1000));
}

char *tag_payload(struct agent *agent)
{
	struct agent_epoch *epoch = &agent->epoch;
	struct tag_job *job = of_this_epoch(agent) && !agent->tag->problem.text[0] ? agent->tag : NULL;
	char time[64];
	CLEANUP_JSON json_t *json = NULL;
	char *text;

	epoch->tag_app = job && job->app;
	if (job)
		snprintf(epoch->tag, sizeof(epoch->tag), "%s", job->name);
	else
		snprintf(epoch->tag, sizeof(epoch->tag), "crash-%" PRIu64, epoch->number);
	time_text(epoch->cut_wall_ms, time, sizeof(time));
	json = json_pack("{s:s, s:s, s:s, s:I}", "kind", epoch->tag_app ? "app" : "crash", "name", epoch->tag,
			 "time", time, "epoch", (json_int_t)epoch->number);
	if (job && job->app) {
		json_object_set(json, "scripts", scripts_results(job->scripts));
		json_object_set_new(json, "filesystems", mounts_json(job));
	}
	if (job)
		job->exact = true;
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	if (text && strlen(text) > WIRE_TAG_MAX) { /* hundreds of filesystems */
		free(text);
		json_object_del(json, "filesystems");
		text = json_dumps(json, JSON_COMPACT);
	}
	if (!text)
		epoch->tag[0] = '\0';
	return text;
}

void tag_epoch_fuzzy(struct agent *agent, const char *why, const char *remedy)
{
	struct tag_job *job = agent->tag;

	if (!of_this_epoch(agent))
		return;
	note(job, remedy ? remedy : "", "the epoch did not stay consistent: %s", why);
	if (job->step == TAG_SEND)
		end(agent);
}

void tag_epoch_failed(struct agent *agent, const char *why, const char *remedy)
{
	struct tag_job *job = agent->tag;

	if (!of_this_epoch(agent))
		return;
	job->lost = true;
	note(job, remedy ? remedy : "try again when the link is up", "its epoch was not acknowledged: %s", why);
	if (job->step == TAG_SEND)
		end(agent);
}

void tag_epoch_applied(struct agent *agent, uint64_t number)
{
	struct tag_job *job = agent->tag;

	if (!active(job) || !job->epoch || job->lost || number < job->epoch)
		return;
	job->applied = true;
	if (job->step == TAG_SEND)
		end(agent);
}

static bool name_valid(const char *name)
{
	size_t length = strlen(name);

	if (!length || length >= TAG_NAME_BYTES)
		return false;
	for (; *name; name++)
		if (*name <= ' ' || *name >= 0x7f || strchr("\"\\/", *name))
			return false;
	return true;
}

int tag_start(struct agent *agent, bool app, const char *name, uint64_t timeout_ms,
	      struct agent_problem *problem)
{
	struct tag_job *job;
	char time[64];

	if (active(agent->tag)) {
		agent_problem_set(problem, "wait for it: reprotect status", "tag %s is under way",
				  agent->tag->name);
		return -EBUSY;
	}
	if (agent->released || failback_active(agent) || agent->frozen || agent->snapshot) {
		agent_problem_set(problem, "wait for it, or release it: reprotect disk snapshot --release DEVICE",
				  "tag: not possible now: %s",
				  agent->snapshot ? "a snapshot is open, replication waits" :
				  agent->released ? "this machine has been failed back" :
						    "a failback is under way");
		return -EBUSY;
	}
	if (!agent->config.consistent) {
		agent_problem_set(problem, "set it to yes and restart the agent",
				  "tag: not possible: consistent = no in the configuration");
		return -EOPNOTSUPP;
	}
	if (name && !name_valid(name)) {
		agent_problem_set(problem, "use up to 64 letters, digits and signs, no spaces, quotes or slashes",
				  "tag: this name cannot be used");
		return -EINVAL;
	}
	job = calloc(1, sizeof(*job));
	if (!job) {
		agent_problem_set(problem, "free memory", "out of memory");
		return -ENOMEM;
	}
	tag_free(agent);
	agent->tag = job;
	job->app = app;
	job->id = util_random() >> 12;
	job->started_ms = job->step_ms = util_now_ms();
	job->deadline_ms = job->started_ms + (timeout_ms ? timeout_ms : TAG_SETTLE_MS);
	time_text(util_wall_ms(), time, sizeof(time));
	if (name)
		snprintf(job->name, sizeof(job->name), "%s", name);
	else
		snprintf(job->name, sizeof(job->name), "%s-%.19sZ", app ? "app" : "crash", time);
	agent_schedule(agent, 0);
	return 0;
}

/* Why it has not come further, for people. */
static const char *unsettled(const struct agent *agent, const char **remedy)
{
	*remedy = "see: reprotect status";
	if (agent->link->state != LINK_UP)
		return "there is no connection to the process server";
	if (agent->points.epoch && !agent->points.exact) {
		*remedy = agent->points.remedy;
		return agent->points.why;
	}
	return "the epoch before it is not applied yet";
}

static void plan_app(struct agent *agent, uint64_t now_ms)
{
	struct agent_problem problem = { 0 };
	uint64_t interval = agent->config.app_tag_interval_ms;

	if (!interval || !agent->config.consistent || agent->released)
		return;
	if (!agent->next_app_ms && agent->points.acked_epoch)
		agent->next_app_ms = now_ms + (interval < TAG_FIRST_APP_MS ? interval : TAG_FIRST_APP_MS);
	if (!agent->next_app_ms || now_ms < agent->next_app_ms)
		return;
	agent->next_app_ms = now_ms + interval;
	if (failback_active(agent) || agent->snapshot || active(agent->tag))
		agent->next_app_ms = now_ms + 10000;
	else if (!tag_start(agent, true, NULL, 0, &problem))
		agent->tag->scheduled = true;
}

void tag_tick(struct agent *agent, uint64_t now_ms)
{
	struct tag_job *job;
	const char *remedy, *why;

	plan_app(agent, now_ms);
	job = agent->tag;
	if (active(job) && job->step == TAG_CUT && !job->epoch)
		step(job, TAG_SETTLE); /* the cut failed */
	if (!active(job) || job->step != TAG_SETTLE)
		return;
	if (now_ms >= job->deadline_ms || agent->released || failback_active(agent)) {
		why = unsettled(agent, &remedy);
		note(job, remedy, "not begun within %" PRIu64 " s: %s",
		     (job->deadline_ms - job->started_ms) / 1000, why);
		end(agent);
	} else if (epoch_possible(agent)) {
		agent_schedule(agent, 0);
	}
}

static json_t *last_json(const struct agent_tag *tag)
{
	uint64_t now = util_wall_ms();
	char time[64];

	if (!tag->epoch)
		return json_null();
	time_text(tag->cut_wall_ms, time, sizeof(time));
	return json_pack("{s:s, s:I, s:s, s:I}", "name", tag->name, "epoch", (json_int_t)tag->epoch, "time", time,
			 "age_ms", (json_int_t)(now > tag->cut_wall_ms ? now - tag->cut_wall_ms : 0));
}

static json_t *job_json(const struct agent *agent)
{
	const struct tag_job *job = agent->tag;
	uint64_t now = util_now_ms();
	json_t *json;

	if (!job)
		return json_null();
	json = json_pack("{s:I, s:s, s:s, s:s, s:b, s:b, s:I, s:I, s:I, s:o}", "id", (json_int_t)job->id, "kind",
			 job->app ? "app" : "crash", "name", job->name, "step", step_names[job->step], "active",
			 active(job), "scheduled", job->scheduled, "epoch", (json_int_t)job->epoch, "elapsed_ms",
			 (json_int_t)((job->ended_ms ? job->ended_ms : now) - job->started_ms), "frozen_ms",
			 (json_int_t)(job->frozen_ms ? (job->thawed_ms ? job->thawed_ms : now) - job->frozen_ms :
						       0),
			 "filesystems", mounts_json(job));
	if (job->scripts)
		json_object_set(json, "scripts", scripts_results(job->scripts));
	if (job->problem.text[0])
		json_object_set_new(json, "error",
				    json_pack("{s:s, s:s, s:I}", "message", job->problem.text, "remedy",
					      job->problem.remedy, "since_ms",
					      (json_int_t)job->problem.since_ms));
	return json;
}

json_t *tag_json(const struct agent *agent)
{
	uint64_t now = util_now_ms();

	return json_pack("{s:o, s:o, s:o, s:I, s:I}", "crash", last_json(&agent->points.crash), "app",
			 last_json(&agent->points.app), "job", job_json(agent), "app_interval_ms",
			 (json_int_t)agent->config.app_tag_interval_ms, "next_app_in_ms",
			 (json_int_t)(agent->next_app_ms > now ? agent->next_app_ms - now : 0));
}

void tag_free(struct agent *agent)
{
	struct tag_job *job = agent->tag;

	if (!job)
		return;
	agent->tag = NULL;
	child_free(job->sync);
	freeze_free(job->freeze);
	scripts_free(job->scripts);
	free(job->mounts);
	free(job);
}
