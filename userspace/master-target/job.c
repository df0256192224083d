// SPDX-License-Identifier: GPL-2.0-or-later
/* job: see job.h. From the event loop only. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/statvfs.h>

#include "job.h"
#include "log.h"
#include "machine.h"
#include "session.h"
#include "util.h"

#define RETRY_MS 5000u
#define RATE_DEFAULT (100 * MIB) /* for an estimate before anything was measured */

/* ---- beginning -------------------------------------------------------------- */

static bool has_open_layer(const struct machine *machine)
{
	return machine->logged && machine->state.undo.open != 0;
}

static bool undo_due(const struct machine *machine)
{
	return has_open_layer(machine) &&
	       (apply_needs_undo(&machine->apply) || machine->state.undo.rollback_to);
}

bool job_needed(const struct machine *machine)
{
	return machine->job.kind != JOB_NONE || undo_due(machine) || machine->state.undo.rollback_to;
}

static void on_restored(void *user, const struct fault *fault)
{
	struct machine *machine = user;
	struct job *job = &machine->job;

	job->ok = !fault;
	if (fault)
		job->result = *fault;
	/* The restore is still on the stack. */
	sd_event_source_set_enabled(job->ended, SD_EVENT_ONESHOT);
}

static int prepare(struct machine *machine, struct undo *undo, uint64_t base, bool open, struct fault *fault)
{
	struct restore *restore = &machine->job.restore;

	memset(restore, 0, sizeof(*restore));
	restore->name = machine->name;
	restore->io = machine->server->io;
	restore->pool = machine->server->pool;
	restore->client = &machine->client;
	restore->undo = undo;
	restore->log = &machine->log;
	restore->targets = machine->targets;
	restore->target_count = machine->target_count;
	restore->done = on_restored;
	restore->user = machine;
	return restore_open(restore, base, open, fault);
}

/* The layer of what was not completed is, from now on, one to be read. */
static int reopen_layer(struct machine *machine, struct fault *fault)
{
	struct undo_entry *open = &machine->log.chain.open;
	char name[UNDO_NAME_BYTES];

	undo_close(&machine->undo);
	json_decref(open->meta);
	*open = (struct undo_entry){ .base = machine->state.number, .last = machine->state.undo.open };
	undo_layer_name(name, open->base, open->last);
	if (!faccessat(machine->log.dir, name, R_OK, 0))
		return 0;
	return fault_set(fault, -1, "undo-damaged", true,
			 "find the retention volume as it was and start the master target again; or give up the recovery "
			 "points: reprotect points discard <machine> --all (the next epochs make the disks whole)",
			 "machine %s: undo log %s: the layer of the epoch that was being written cannot be undone: %s: %s",
			 machine->name, machine->log.path, name, strerror(errno));
}

static int begin_undo(struct machine *machine, struct fault *fault)
{
	if (reopen_layer(machine, fault))
		return -1;
	if (machine_open_known(machine, fault) || machine_save(machine, fault) ||
	    prepare(machine, NULL, machine->state.number, true, fault))
		return -1;
	log_notice("machine %s: undoing an epoch that was not completed (%" PRIu64 " bytes)", machine->name,
		   machine->job.restore.total_bytes);
	return 0;
}

static int begin_rollback(struct machine *machine, struct fault *fault)
{
	struct state *state = &machine->state;
	uint64_t to = state->undo.rollback_to;
	int r;

	if (machine_open_known(machine, fault) || prepare(machine, &machine->undo, to, false, fault))
		return -1;
	r = undo_open(&machine->undo, state->number, state->undo.top + 1, state->now);
	if (r) {
		restore_close(&machine->job.restore);
		return fault_set(fault, -1, r == -ENOSPC ? "no-space" : "io", false,
				 "free space on the retention volume, or check it (dmesg)",
				 "machine %s: cannot begin a layer of its undo log in %s: %s", machine->name, machine->log.path,
				 strerror(-r));
	}
	state->undo.open = ++state->undo.top;
	state->between = true;
	state_position_clear(&state->partial);
	if (machine_save(machine, fault)) {
		state->undo.open = 0;
		state->between = false;
		undo_abandon(&machine->undo);
		restore_close(&machine->job.restore);
		return -1;
	}
	log_notice("machine %s: rolling back to state %" PRIu64 " (%" PRIu64 " bytes)", machine->name, to,
		   machine->job.restore.total_bytes);
	return 0;
}

/* ---- ending ------------------------------------------------------------------ */

static void end_waiting(struct machine *machine, const struct fault *fault)
{
	if (machine->waiting)
		session_waited(machine, fault);
}

static void failed(struct machine *machine, const struct fault *fault)
{
	machine_failed(machine, fault);
	machine->job.retry_ms = util_now_ms() + RETRY_MS;
	end_waiting(machine, fault);
}

static void end_undo(struct machine *machine)
{
	struct state *state = &machine->state;
	uint64_t open = state->undo.open;
	struct fault fault;

	state->undo.open = 0;
	state->between = false;
	state_position_clear(&state->partial);
	if (machine_save(machine, &fault)) {
		state->undo.open = open;
		state->between = true;
		failed(machine, &fault);
		return;
	}
	undo_log_undone(&machine->log);
	machine->failing = false;
	log_notice("machine %s: its targets are as of epoch %lld again", machine->name,
		   (long long)json_integer_value(json_object_get(state->now, "epoch")));
}

static void rollback_over(struct machine *machine, const struct fault *fault)
{
	struct job *job = &machine->job;

	snprintf(job->last, sizeof(job->last), "%s", !fault ? "done" : job->stopped ? "stopped" : "failed");
	memset(&job->why, 0, sizeof(job->why));
	if (fault)
		job->why = *fault;
	job->stopped = false;
}

static const struct fault *stopped_fault(const struct machine *machine, struct fault *fault)
{
	fault_set(fault, 0, "stopped", true, "nothing has to be done: what it did is undone",
		  "machine %s: its rollback was stopped by an operator", machine->name);
	log_notice("%s", fault->message);
	return fault;
}

/* A rollback that cannot be, or is not to be: what it has written is undone next. */
static void rollback_off(struct machine *machine, const struct fault *fault)
{
	struct fault other;

	machine->state.undo.rollback_to = 0;
	if (machine_save(machine, &other))
		failed(machine, &other);
	undo_close(&machine->undo); /* what it has written is read now */
	if (machine->job.stopped)
		fault = stopped_fault(machine, &other);
	else
		machine_failed(machine, fault);
	rollback_over(machine, fault);
}

static const json_t *meta_of(const struct undo_log *log, uint64_t id)
{
	const struct undo_entry *entry = undo_log_entry(log, id);

	return entry ? entry->meta : NULL;
}

static void end_rollback(struct machine *machine)
{
	struct state *state = &machine->state, before = *state;
	uint64_t to = state->undo.rollback_to;
	json_t *now = json_deep_copy(meta_of(&machine->log, to));
	bool newest = (uint64_t)json_integer_value(json_object_get(now, "epoch")) == state->last_applied;
	struct undo_entry entry;
	struct fault fault;

	if (!now || json_object_set_new(now, "rolled_back", json_integer((json_int_t)to)) ||
	    json_object_set_new(now, "active_ms", json_integer(json_integer_value(json_object_get(before.now, "active_ms"))))) {
		fault_set(&fault, 0, "busy", false, "free memory on the master target", "machine %s: out of memory", machine->name);
		json_decref(now);
		undo_close(&machine->undo);
		failed(machine, &fault);
		return;
	}
	state->now = now;
	state->number = state->undo.open;
	state->undo.open = state->undo.rollback_to = 0;
	state->between = false;
	state->rollback_from = newest ? 0 : before.number;
	if (!newest)
		state->status = STATE_ROLLED_BACK;
	else if (state->status == STATE_ROLLED_BACK)
		state->status = tags_consistency(&state->tags, state->last_applied)[0] == 's' ? STATE_INITIAL : STATE_REPLICATING;
	if (machine_save(machine, &fault)) {
		json_decref(now);
		*state = before;
		undo_close(&machine->undo);
		failed(machine, &fault);
		return;
	}
	undo_entry(&machine->undo, &entry);
	entry.meta = before.now; /* its reference */
	undo_close(&machine->undo);
	if (undo_log_sealed(&machine->log, &entry))
		undo_log_committed(&machine->log, state->number);
	machine_close_targets(machine);
	machine->failing = false;
	rollback_over(machine, NULL);
	log_notice("machine %s: rolled back to %s (epoch %lld); %s", machine->name,
		   json_string_value(json_object_get(now, "name")), (long long)json_integer_value(json_object_get(now, "epoch")),
		   newest ? "that is the newest epoch: replication goes on" :
			    "its disks may be used; replication waits until it is rolled back to the newest epoch (latest), or is "
			    "begun anew (reprotect target forget)");
}

static int on_ended(sd_event_source *source, void *user)
{
	struct machine *machine = user;
	struct job *job = &machine->job;
	enum job_kind kind = job->kind;
	uint64_t ms = util_now_ms() - job->restore.began_ms;

	(void)source;
	job->kind = JOB_NONE;
	job->last_total = job->restore.total_bytes;
	if (job->ok && ms > 100)
		job->rate_bytes = job->restore.done_bytes * 1000 / ms;
	restore_close(&job->restore);
	if (machine->server->ending && !job->ok) {
		undo_close(&machine->undo);
		return 0;
	}
	if (kind == JOB_UNDO && job->ok)
		end_undo(machine);
	else if (kind == JOB_UNDO)
		failed(machine, &job->result);
	else if (job->ok)
		end_rollback(machine);
	else
		rollback_off(machine, &job->result);
	if (!job->retry_ms)
		job_turn(machine);
	return 0;
}

void job_turn(struct machine *machine)
{
	struct job *job = &machine->job;
	struct fault fault = { 0 };
	uint64_t now = util_now_ms();
	int r;

	if (job->kind != JOB_NONE)
		restore_tick(&job->restore);
	if (job->kind != JOB_NONE || machine->server->ending || !apply_quiet(&machine->apply) || machine->live ||
	    (job->retry_ms && now < job->retry_ms))
		return;
	job->retry_ms = 0;
	if (undo_due(machine)) {
		job->kind = JOB_UNDO;
		r = begin_undo(machine, &fault);
	} else if (machine->state.undo.rollback_to && machine->logged) {
		job->kind = JOB_ROLLBACK;
		r = begin_rollback(machine, &fault);
	} else {
		end_waiting(machine, NULL);
		return;
	}
	if (!r) {
		restore_begin(&job->restore);
		return;
	}
	/* A target that is not there yet is waited for; whatever else it is, the operator decides. */
	if (job->kind == JOB_ROLLBACK && strcmp(fault.code, "target-refused"))
		rollback_off(machine, &fault);
	else
		failed(machine, &fault);
	job->kind = JOB_NONE;
	if (!job->retry_ms)
		job->retry_ms = now + RETRY_MS;
}

/* ---- the owner's calls --------------------------------------------------------- */

int job_init(struct machine *machine)
{
	int r = sd_event_add_defer(machine->server->event, &machine->job.ended, on_ended, machine);

	if (r >= 0)
		r = sd_event_source_set_enabled(machine->job.ended, SD_EVENT_OFF);
	return r < 0 ? r : 0;
}

void job_destroy(struct machine *machine)
{
	sd_event_source_disable_unref(machine->job.ended);
	machine->job.ended = NULL;
	restore_close(&machine->job.restore);
	json_decref(machine->job.to);
	machine->job.to = NULL;
}

void job_stop(struct machine *machine)
{
	if (machine->job.kind != JOB_NONE)
		restore_stop(&machine->job.restore);
}

bool job_quiet(const struct machine *machine)
{
	return machine->job.kind == JOB_NONE;
}

static int rollback_possible(const struct machine *machine, uint64_t id, struct fault *fault)
{
	const struct state *state = &machine->state;

	if (state->status == STATE_RELEASED)
		return fault_set(fault, -1, "released", true,
				 "the machine runs from these disks: shut it down and restore from a backup, or protect it again",
				 "machine %s: its disks were released: they are no longer the master target's", machine->name);
	if (!machine->logged)
		return fault_set(fault, -1, "no-retention", true, "set retention in master-target.conf",
				 "machine %s: has no undo log: there is nothing to roll back to", machine->name);
	if (machine->job.kind == JOB_ROLLBACK || state->undo.rollback_to)
		return fault_set(fault, -1, "busy", false, "wait for it: reprotect points rollback <machine> --status",
				 "machine %s: a rollback is under way", machine->name);
	if (id == state->number && !state->between)
		return fault_set(fault, -1, "present", true, "choose another point (reprotect points list)",
				 "machine %s: its disks are in that state already", machine->name);
	if (id != state->number && !meta_of(&machine->log, id))
		return fault_set(fault, -1, "unknown-point", true, "reprotect points list shows what there is",
				 "machine %s: state %" PRIu64 " is not in its undo log", machine->name, id);
	return 0;
}

/* What a rollback writes at most: all layers behind the state, less what they share. */
static uint64_t range_bytes(const struct undo_log *log, uint64_t id)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < log->chain.count; i++)
		if (log->chain.entries[i].base >= id)
			bytes += log->chain.entries[i].foot.range_bytes;
	return bytes;
}

static uint64_t free_bytes(const struct undo_log *log)
{
	struct statvfs st;

	return fstatvfs(log->dir, &st) ? 0 : (uint64_t)st.f_bavail * st.f_frsize;
}

json_t *machine_rollback_estimate(struct machine *machine, uint64_t id, struct fault *fault)
{
	uint64_t rate = machine->job.rate_bytes ? machine->job.rate_bytes : RATE_DEFAULT, bytes;

	if (rollback_possible(machine, id, fault))
		return NULL;
	bytes = range_bytes(&machine->log, id);
	return json_pack("{s:I, s:I, s:I, s:I}", "bytes", (json_int_t)bytes, "undo_bytes", (json_int_t)bytes, "free_bytes",
			 (json_int_t)free_bytes(&machine->log), "seconds", (json_int_t)(bytes / rate + 1));
}

int machine_rollback(struct machine *machine, uint64_t id, struct fault *fault)
{
	struct state *state = &machine->state;
	const json_t *meta;

	if (rollback_possible(machine, id, fault))
		return -1;
	meta = id == state->number ? state->now : meta_of(&machine->log, id);
	json_decref(machine->job.to);
	machine->job.to = json_pack("{s:I, s:O?, s:O?}", "id", (json_int_t)id, "name", json_object_get(meta, "name"), "time",
				    json_object_get(meta, "time"));
	machine->job.last[0] = 0;
	if (id != state->number) {
		state->undo.rollback_to = id;
		if (machine_save(machine, fault)) {
			state->undo.rollback_to = 0;
			return -1;
		}
	} else if (machine->undo.fd >= 0 && apply_quiet(&machine->apply)) {
		undo_close(&machine->undo); /* so that what was dropped half way is undone */
	} else {
		return fault_set(fault, -1, "busy", false, "stop its agent or its process server, then try again",
				 "machine %s: an epoch is being written", machine->name);
	}
	session_put_off(machine);
	machine->job.retry_ms = 0;
	job_turn(machine);
	return 0;
}

int machine_rollback_stop(struct machine *machine, struct fault *fault)
{
	struct job *job = &machine->job;
	uint64_t to = machine->state.undo.rollback_to;
	struct fault stopped;

	if (!to)
		return fault_set(fault, -1, "no-rollback", true, "see: reprotect points rollback <machine> --status",
				 "machine %s: no rollback is under way", machine->name);
	if (job->kind == JOB_ROLLBACK) {
		if (!restore_stop(&job->restore))
			return fault_set(fault, -1, "busy", false, "take it back: reprotect points rollback <machine> undo",
					 "machine %s: its rollback is at its end already", machine->name);
		job->stopped = true; /* on_ended() does the rest */
		return 0;
	}
	machine->state.undo.rollback_to = 0;
	if (machine_save(machine, fault)) {
		machine->state.undo.rollback_to = to;
		return -1;
	}
	job->stopped = true;
	rollback_over(machine, stopped_fault(machine, &stopped));
	job_turn(machine);
	return 0;
}

json_t *machine_rollback_json(const struct machine *machine)
{
	const struct job *job = &machine->job;
	const struct restore *restore = &job->restore;
	bool running = job->kind != JOB_NONE;
	uint64_t ms = running ? util_now_ms() - restore->began_ms : 0, done = running ? restore->done_bytes : 0;
	uint64_t rate = ms > 200 ? done * 1000 / ms : job->rate_bytes, total = running ? restore->total_bytes : job->last_total;
	const char *state = job->kind == JOB_UNDO			? "undoing" :
			    job->kind == JOB_ROLLBACK			? "restoring" :
			    machine->state.undo.rollback_to		? "waiting" :
			    job->last[0]				? job->last :
									  "idle";
	json_t *error = job->why.wall_ms && job->last[0] && strcmp(job->last, "done") ?
				json_pack("{s:s, s:s}", "message", job->why.message, "remedy", job->why.remedy) :
				json_null();

	return json_pack("{s:s, s:O?, s:I, s:I, s:I, s:I, s:o}", "state", state, "point", job->to, "done_bytes",
			 (json_int_t)(running ? done : total), "total_bytes", (json_int_t)total, "rate_bytes_per_second",
			 (json_int_t)rate, "eta_ms",
			 (json_int_t)(rate && total > done && running ? (total - done) * 1000 / rate : 0), "error", error);
}
