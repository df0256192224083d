// SPDX-License-Identifier: GPL-2.0-or-later
/* thin: see thin.h. From the event loop; removing and renaming files block shortly, merging is a child's job. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "lock.h"
#include "log.h"
#include "machine.h"
#include "merge.h"
#include "points.h"
#include "retention.h"
#include "retention_volume.h"
#include "thin.h"
#include "undo_file.h"
#include "undo_use.h"
#include "util.h"

#define LOOK_MS 5000u	      /* between two looks at a machine */
#define CHECK_MS 10000u	      /* between two looks at a volume that is not fit */
#define CHURN_MS 60000u	      /* of which the hour's churn is told at least */
#define ALERT_MS 600000u      /* an alert is repeated in the log */
#define MERGE_PAUSE_MS 300000u /* after a merge that failed */
#define MERGE_NICE 10
#define RESERVE_DEFAULT (256 * MIB)
#define EXIT_DAMAGED 3

extern char **environ;

/* The child, and then (@ready) the file that it made, until that is in place. */
struct merging {
	struct machine *machine;
	pid_t pid;
	bool ready;
	sd_event_source *source;
	uint64_t base, last;
	uint64_t not_before_ms;
};

struct thin {
	struct server *server;
	bool fit, said;
	int lock; /* of the volume, while it is used */
	char why[640], remedy[640];
	uint64_t look_ms, checked_ms;
	struct merging merging;
	uint64_t born_ms;
	uint64_t dropped, alert_ms, alerted_ms; /* alert_ms: when it was last logged */
	char alert[400];
};

/* ---- the volume -------------------------------------------------------------- */

static size_t add_path(const char **list, size_t count, size_t most, const char *path)
{
	if (path && count + 1 < most)
		list[count++] = path;
	return count;
}

static enum retention_level check(struct thin *thin)
{
	const struct config *config = &thin->server->config;
	const char *targets[1024] = { 0 }, *directories[4] = { 0 };
	const struct retention_others others = { .targets = targets, .directories = directories };
	struct retention_facts *facts = calloc(1, sizeof(*facts));
	enum retention_level level = RETENTION_REFUSED;
	size_t count = 0;

	for (const struct config_target *t = config->targets; t; t = t->next)
		count = add_path(targets, count, ARRAY_LENGTH(targets), t->path);
	for (const struct machine *m = thin->server->machines; m; m = m->next)
		for (size_t i = 0; i < m->state.disk_count; i++)
			count = add_path(targets, count, ARRAY_LENGTH(targets), m->state.disks[i].path);
	add_path(directories, add_path(directories, 0, ARRAY_LENGTH(directories), config->state_dir),
		 ARRAY_LENGTH(directories), config->target_dir);
	if (facts) {
		retention_volume_look(config->retention, &others, facts);
		level = retention_volume_judge(facts, NULL, NULL, thin->why, thin->remedy);
	} else {
		snprintf(thin->why, sizeof(thin->why), "out of memory");
		snprintf(thin->remedy, sizeof(thin->remedy), "free memory on the master target");
	}
	free(facts);
	return level;
}

/* One master target for each volume. */
static bool take_lock(struct thin *thin)
{
	CLEANUP_FREE char *path = NULL;
	pid_t owner = 0;
	int r;

	if (asprintf(&path, "%s/" RETENTION_LOCK, thin->server->config.retention) < 0) {
		path = NULL;
		return false;
	}
	thin->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	r = thin->lock < 0 ? -errno : lock_take(thin->lock, "retention volume", 0, &owner);
	if (!r)
		return true;
	if (thin->lock >= 0)
		close(thin->lock);
	thin->lock = -1;
	snprintf(thin->why, sizeof(thin->why), "retention volume %s: cannot lock it: %s (process %d)",
		 thin->server->config.retention, strerror(-r), (int)owner);
	snprintf(thin->remedy, sizeof(thin->remedy), "one master target for each retention volume: stop the other one");
	return false;
}

static void recheck(struct thin *thin)
{
	uint64_t now = util_now_ms();
	enum retention_level level;

	if (thin->fit || !thin->server->config.retention || (thin->checked_ms && now - thin->checked_ms < CHECK_MS))
		return;
	thin->checked_ms = now;
	level = check(thin);
	thin->fit = level != RETENTION_REFUSED && take_lock(thin);
	if (thin->fit && thin->said)
		log_notice("retention volume %s: fit now", thin->server->config.retention);
	if (thin->fit && level == RETENTION_WARNING)
		log_warning("%s (%s)", thin->why, thin->remedy);
	else if (!thin->fit && !thin->said)
		log_error("%s (%s)", thin->why, thin->remedy);
	thin->said = !thin->fit;
}

bool thin_volume_fit(struct thin *thin, char *why, char *remedy)
{
	recheck(thin);
	snprintf(why, 640, "%s", thin->why);
	snprintf(remedy, 640, "%s", thin->remedy);
	return thin->fit;
}

static void alert(struct thin *thin, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void alert(struct thin *thin, const char *format, ...)
{
	uint64_t now = util_now_ms();
	char text[sizeof(thin->alert)];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (strcmp(text, thin->alert) || now - thin->alert_ms > ALERT_MS) {
		thin->alert_ms = now;
		log_error("%s (enlarge the retention volume, or shorten the policy: reprotect preflight retention)", text);
	}
	thin->alerted_ms = now;
	snprintf(thin->alert, sizeof(thin->alert), "%s", text);
}

/* ---- decisions ---------------------------------------------------------------- */

static const struct retention_policy *policy(const struct thin *thin)
{
	return &thin->server->config.policy;
}

static bool consistent(const json_t *meta)
{
	return json_is_true(json_object_get(meta, "consistent"));
}

static uint64_t active_ms(const json_t *meta)
{
	return (uint64_t)json_integer_value(json_object_get(meta, "active_ms"));
}

/* All but whether somebody reads it. */
static void describe(const struct machine *machine, uint64_t id, const json_t *meta, struct retention_state *state)
{
	const char *kind = json_string_value(json_object_get(meta, "kind"));
	const struct undo_log *log = &machine->log;
	uint64_t active = active_ms(machine->state.now), own = active_ms(meta);

	state->id = id;
	state->time_ms = (uint64_t)json_integer_value(json_object_get(meta, "time_ms"));
	state->age_ms = active > own ? active - own : 0;
	/* What a rollback has left can be taken back until the operator discards it, or new epochs follow. */
	state->point = consistent(meta) || id == machine->state.rollback_from;
	state->app = kind && !strcmp(kind, "app");
	state->discarded = json_is_true(undo_log_marked(log, id, "discarded"));
	state->pinned = (machine->state.undo.rollback_to && id >= machine->state.undo.rollback_to) ||
			(!state->discarded && (json_is_true(undo_log_marked(log, id, "pinned")) ||
					       id == machine->state.rollback_from || machine->state.status == STATE_ROLLED_BACK));
}

/* All states of a machine, the present one last; NULL: no memory. */
static struct retention_state *states_of(const struct thin *thin, const struct machine *machine, size_t *count)
{
	const struct undo_chain *chain = &machine->log.chain;
	struct retention_state *states = calloc(chain->count + 1, sizeof(*states));
	uint64_t oldest;

	if (!states)
		return NULL;
	for (size_t i = 0; i < chain->count; i++) {
		describe(machine, chain->entries[i].base, chain->entries[i].meta, &states[i]);
		states[i].bytes = chain->entries[i].bytes;
	}
	describe(machine, machine->state.number, machine->state.now, &states[chain->count]);
	*count = chain->count + 1;
	if (undo_log_used(&machine->log, &oldest))
		for (size_t i = 0; i < *count; i++)
			states[i].used = states[i].id >= oldest && undo_log_state_used(&machine->log, states[i].id);
	retention_decide(policy(thin), states, *count);
	return states;
}

/* Remove the oldest layer of @machine, under the guard; @why for the log. */
static int drop_oldest(struct machine *machine, const char *why)
{
	const struct undo_entry *entry = &machine->log.chain.entries[0];
	const char *name = json_string_value(json_object_get(entry->meta, "name"));

	if (consistent(entry->meta))
		log_info("machine %s: recovery point %s (%" PRIu64 "): removed, %s", machine->name, name ? name : "?", entry->base,
			 why);
	return undo_log_drop(&machine->log);
}

static bool expire(struct machine *machine, const struct retention_state *states, size_t count)
{
	size_t head = retention_expired_head(states, count);

	for (size_t i = 0; i < head; i++) {
		int r = drop_oldest(machine, "as the policy says");

		if (r) {
			log_warning("machine %s: cannot remove a layer of its undo log in %s: %s", machine->name,
				    machine->log.path, strerror(-r));
			return false;
		}
	}
	return head != 0;
}

/* ---- room ---------------------------------------------------------------------- */

/* The oldest state of @machine may go. */
static bool may_drop(const struct machine *machine)
{
	struct retention_state state = { 0 };
	const struct undo_entry *entry;

	if (!machine->logged || !machine->log.chain.count)
		return false;
	entry = &machine->log.chain.entries[0];
	describe(machine, entry->base, entry->meta, &state);
	return !state.pinned && !undo_log_state_used(&machine->log, entry->base);
}

static struct machine *oldest(const struct thin *thin)
{
	struct machine *found = NULL;
	int64_t best = 0;

	for (struct machine *m = thin->server->machines; m; m = m->next) {
		int64_t at;

		if (!may_drop(m))
			continue;
		at = (int64_t)json_integer_value(json_object_get(m->log.chain.entries[0].meta, "applied_ms"));
		if (!found || at < best) {
			found = m;
			best = at;
		}
	}
	return found;
}

/* The same with the guard taken here. */
static int drop_guarded(struct machine *machine, const char *why)
{
	int guard = undo_use_guard(machine->log.dir), r;

	if (guard < 0)
		return guard;
	r = may_drop(machine) ? drop_oldest(machine, why) : -EBUSY;
	close(guard);
	return r;
}

enum undo_full thin_make_room(struct thin *thin, struct machine *machine)
{
	struct machine *victim;

	if (policy(thin)->pause_when_full) {
		alert(thin, "retention volume %s: full: replication of %s is paused, as the policy says", thin->server->config.retention,
		      machine->name);
		return UNDO_FULL_FAIL;
	}
	victim = oldest(thin);
	if (victim && !drop_guarded(victim, "the retention volume is full")) {
		thin->dropped++;
		alert(thin, "retention volume %s: full: the oldest recovery points are given up", thin->server->config.retention);
		return UNDO_FULL_AGAIN;
	}
	if (machine->log.chain.count || undo_log_state_used(&machine->log, machine->state.number) ||
	    json_is_true(undo_log_marked(&machine->log, machine->state.number, "pinned"))) {
		alert(thin, "retention volume %s: full, and what is on it is pinned or exported: replication of %s is paused",
		      thin->server->config.retention, machine->name);
		return UNDO_FULL_FAIL;
	}
	alert(thin, "retention volume %s: too small for one epoch of %s: it is applied without undo, and there is no recovery "
		    "point before it",
	      thin->server->config.retention, machine->name);
	return UNDO_FULL_GIVE_UP;
}

enum undo_full machine_log_full(struct machine *machine)
{
	return thin_make_room(machine->server->thin, machine);
}

static uint64_t used_bytes(const struct thin *thin)
{
	uint64_t bytes = 0;

	for (const struct machine *m = thin->server->machines; m; m = m->next)
		if (m->logged)
			bytes += m->log.bytes;
	return bytes;
}

/* Whether less is free on the volume than is to stay free. */
static bool short_of_space(const struct thin *thin)
{
	uint64_t reserve = policy(thin)->reserve_bytes;
	struct statvfs st;

	if (statvfs(thin->server->config.retention, &st))
		return false;
	if (!reserve && st.f_blocks * st.f_frsize / 20 < RESERVE_DEFAULT)
		reserve = st.f_blocks * st.f_frsize / 20;
	else if (!reserve)
		reserve = RESERVE_DEFAULT;
	return (uint64_t)st.f_bavail * st.f_frsize < reserve;
}

static bool over_limit(const struct thin *thin)
{
	uint64_t used = used_bytes(thin), most = policy(thin)->max_bytes;

	return (most && used > most) || (used && short_of_space(thin));
}

bool machine_log_paused(struct machine *machine)
{
	struct thin *thin = machine->server->thin;

	if (!policy(thin)->pause_when_full || !over_limit(thin))
		return false;
	alert(thin, "retention volume %s: space is short: replication of %s is paused, as the policy says", thin->server->config.retention,
	      machine->name);
	return true;
}

static void limit_space(struct thin *thin)
{
	if (!thin->server->config.retention || policy(thin)->pause_when_full)
		return;
	while (over_limit(thin)) {
		struct machine *victim = oldest(thin);

		if (!victim || drop_guarded(victim, "space is short"))
			return;
		thin->dropped++;
		alert(thin, "retention volume %s: space is short: the oldest recovery points are given up",
		      thin->server->config.retention);
	}
}

/* ---- merging ------------------------------------------------------------------- */

int thin_child(int argc, char **argv)
{
	uint8_t log[UNDO_UUID_BYTES];
	char error[512] = "";
	CLEANUP_FD int dir = -1;
	int r;

	if (argc != 5 || !undo_uuid_parse(argv[1], log))
		return 64;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != (pid_t)strtol(argv[4], NULL, 10))
		return 1; /* it was killed before that */
	if (setpriority(PRIO_PROCESS, 0, MERGE_NICE))
		log_debug("merge: cannot lower its priority: %s", strerror(errno));
	dir = open(argv[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = dir < 0 ? -errno :
		      merge_layers(dir, log, strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10), NULL, error,
				   sizeof(error));
	if (!r)
		return 0;
	log_warning("undo log %s: cannot merge layers: %s", argv[0], error[0] ? error : strerror(-r));
	return r == -EBADMSG ? EXIT_DAMAGED : 1;
}

static int spawn(struct thin *thin, const struct machine *machine, uint64_t base, uint64_t last)
{
	char log[UNDO_UUID_TEXT], from[24], to[24], parent[24];
	char *argv[] = { (char[]){ "reprotect-master-target" }, (char[]){ "--merge" }, (char *)(uintptr_t)machine->log.path, log, from,
			 to, parent, NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attributes;
	sigset_t none;
	int r;

	undo_uuid_text(machine->log.uuid, log);
	snprintf(from, sizeof(from), "%" PRIu64, base);
	snprintf(to, sizeof(to), "%" PRIu64, last);
	snprintf(parent, sizeof(parent), "%d", (int)getpid());
	sigemptyset(&none);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	/* Closed on exec is too late: that may be after we go on here, and the child has our locks until then. */
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addclosefrom_np(&files, 3);
	r = posix_spawn(&thin->merging.pid, "/proc/self/exe", &files, &attributes, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attributes);
	return -r;
}

/* The new file is there under its temporary name: put it in place. */
static int adopt(struct machine *machine, uint64_t base, uint64_t last)
{
	struct undo_log *log = &machine->log;
	char name[UNDO_NAME_BYTES], temporary[UNDO_NAME_BYTES + 8], why[256] = "";
	struct undo_layer layer;
	struct undo_entry entry;
	int r;

	undo_layer_name(name, base, last);
	snprintf(temporary, sizeof(temporary), "%s.tmp", name);
	if (!undo_log_entry(log, base)) /* dropped meanwhile */
		return undo_unlink(log->dir, temporary);
	r = undo_rename(log->dir, temporary, name);
	if (!r)
		r = undo_sync_dir(log->dir);
	if (!r)
		r = undo_layer_open(&layer, log->dir, name, log->uuid, why, sizeof(why));
	if (r)
		return r;
	entry = (struct undo_entry){ .base = base, .last = last, .bytes = layer.bytes, .sealed = layer.sealed,
				     .foot = layer.foot, .meta = json_incref(layer.meta) };
	undo_layer_close(&layer);
	r = entry.sealed ? undo_log_merged(log, &entry) : -EBADMSG;
	if (r == -ENOENT || r == -EBADMSG)
		json_decref(entry.meta);
	return r;
}

static void put_in_place(struct thin *thin)
{
	struct merging *merging = &thin->merging;
	struct machine *machine = merging->machine;
	int guard = undo_use_guard(machine->log.dir), r;

	if (guard == -EWOULDBLOCK)
		return; /* somebody is just choosing a state: at the next tick */
	r = guard < 0 ? guard : adopt(machine, merging->base, merging->last);
	if (r)
		log_error("machine %s: undo log %s: cannot replace layers by a merged one: %s", machine->name,
			  machine->log.path, strerror(-r));
	if (guard >= 0)
		close(guard);
	merging->machine = NULL;
	merging->ready = false;
	thin->look_ms = 0;
}

static int on_child(sd_event_source *source, const siginfo_t *info, void *user)
{
	struct thin *thin = user;
	struct merging *merging = &thin->merging;
	struct machine *machine = merging->machine;

	(void)source;
	sd_event_source_unref(merging->source);
	merging->source = NULL;
	merging->pid = 0;
	if (!machine)
		return 0;
	if (info->si_code == CLD_EXITED && info->si_status == 0) {
		merging->ready = true;
		put_in_place(thin);
		return 0;
	}
	merging->machine = NULL;
	/* The child has said why, or was killed. The layers stay as they are; points that expire at the old end still go. */
	merging->not_before_ms = util_now_ms() + (info->si_code == CLD_EXITED ? MERGE_PAUSE_MS : LOOK_MS);
	if (info->si_code == CLD_EXITED && info->si_status == EXIT_DAMAGED)
		alert(thin, "machine %s: a layer of its undo log in %s is damaged: recovery points before it may not be had "
			    "(reprotect points verify)",
		      machine->name, machine->log.path);
	return 0;
}

static bool begin_merge(struct thin *thin, struct machine *machine, const struct retention_state *states, size_t count)
{
	struct merging *merging = &thin->merging;
	const struct undo_entry *entries = machine->log.chain.entries;
	struct retention_merge merge;
	int r;

	if (merging->pid || merging->ready || util_now_ms() < merging->not_before_ms || !retention_next_merge(states, count, &merge))
		return false;
	merging->base = entries[merge.first].base;
	merging->last = entries[merge.first + merge.count - 1].last;
	r = spawn(thin, machine, merging->base, merging->last);
	if (r) {
		merging->pid = 0;
		log_warning("machine %s: cannot start to merge layers of its undo log: %s", machine->name, strerror(-r));
		return false;
	}
	merging->machine = machine;
	r = sd_event_add_child(thin->server->event, &merging->source, merging->pid, WEXITED, on_child, thin);
	if (r < 0) {
		log_warning("event loop: cannot watch a child: %s", strerror(-r));
		kill(merging->pid, SIGKILL);
		while (waitpid(merging->pid, NULL, 0) < 0 && errno == EINTR)
			;
		*merging = (struct merging){ 0 };
		return false;
	}
	log_debug("machine %s: merging %zu layers", machine->name, merge.count);
	return true;
}

static void look(struct thin *thin, struct machine *machine)
{
	struct retention_state *states;
	int guard;
	size_t count;

	if (!machine->logged || machine->job.kind == JOB_ROLLBACK)
		return;
	guard = undo_use_guard(machine->log.dir);
	if (guard == -EWOULDBLOCK)
		return; /* somebody is just choosing a state: next time */
	if (guard < 0) {
		log_warning("machine %s: undo log %s: cannot be locked, so that none of its recovery points is removed: %s", machine->name,
			    machine->log.path, strerror(-guard));
		return;
	}
	undo_use_clean(machine->log.dir);
	states = states_of(thin, machine, &count);
	if (states && !expire(machine, states, count))
		begin_merge(thin, machine, states, count);
	free(states);
	close(guard);
}

void thin_tick(struct thin *thin)
{
	uint64_t now = util_now_ms();

	recheck(thin);
	if (thin->merging.ready)
		put_in_place(thin);
	if (thin->alert[0] && now - thin->alerted_ms > ALERT_MS)
		thin->alert[0] = 0;
	if (thin->look_ms && now - thin->look_ms < LOOK_MS)
		return;
	thin->look_ms = now;
	for (struct machine *m = thin->server->machines; m; m = m->next)
		look(thin, m);
	limit_space(thin);
}

/* ---- the owner's calls ----------------------------------------------------------- */

int thin_new(struct thin **out, struct server *server)
{
	struct thin *thin = calloc(1, sizeof(*thin));

	if (!thin)
		return -ENOMEM;
	thin->server = server;
	thin->lock = -1;
	thin->born_ms = util_now_ms();
	*out = thin;
	return 0;
}

void thin_free(struct thin *thin)
{
	if (!thin)
		return;
	if (thin->merging.pid) {
		kill(thin->merging.pid, SIGKILL);
		sd_event_source_disable_unref(thin->merging.source);
		while (waitpid(thin->merging.pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	if (thin->lock >= 0)
		close(thin->lock);
	free(thin);
}

void thin_forget(struct thin *thin, const struct machine *machine)
{
	if (thin->merging.machine != machine)
		return;
	thin->merging.machine = NULL;
	thin->merging.ready = false;
}

static uint64_t churn(const struct thin *thin)
{
	uint64_t bytes = 0, ms = util_now_ms() - thin->born_ms;

	for (const struct machine *m = thin->server->machines; m; m = m->next)
		bytes += m->undo.total_bytes;
	return ms < CHURN_MS ? 0 : bytes * 3600 / (ms / 1000);
}

json_t *thin_json(struct thin *thin)
{
	const struct config *config = &thin->server->config;
	const struct retention_policy *p = policy(thin);
	struct statvfs st = { 0 };
	bool have = config->retention && !statvfs(config->retention, &st);
	json_t *targets = config->retention ? json_array() : NULL;

	if (!config->retention)
		return json_null();
	for (const struct config_target *t = config->targets; t; t = t->next)
		json_array_append_new(targets, json_string(t->path));
	return json_pack("{s:s, s:b, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:I, s:s, s:o}", "path",
			 config->retention, "fit", thin->fit, "why", thin->fit ? "" : thin->why, "remedy",
			 thin->fit ? "" : thin->remedy, "bytes_total", (json_int_t)(have ? (uint64_t)st.f_blocks * st.f_frsize : 0),
			 "bytes_free", (json_int_t)(have ? (uint64_t)st.f_bavail * st.f_frsize : 0), "bytes_used",
			 (json_int_t)used_bytes(thin), "churn_bytes_per_hour", (json_int_t)churn(thin), "keep_all_ms",
			 (json_int_t)p->keep_all_ms, "keep_hourly_ms", (json_int_t)p->keep_hourly_ms, "keep_app_ms",
			 (json_int_t)p->keep_app_ms, "max_bytes", (json_int_t)p->max_bytes, "reserve_bytes",
			 (json_int_t)p->reserve_bytes, "pause_when_full", p->pause_when_full, "merging",
			 thin->merging.pid != 0, "dropped_for_space", (json_int_t)thin->dropped, "alert", thin->alert, "targets", targets);
}
