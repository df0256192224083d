// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * machine: see machine.h. This file finds machines, and finds, checks and records their targets;
 * the connection's side is in session.c.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>
#include <systemd/sd-daemon.h>

#include "log.h"
#include "machine.h"
#include "session.h"
#include "thin.h"
#include "util.h"

#define STUCK_MS 30000u
#define BEGIN_TIMEOUT_US 300000000ull

static struct machine *add(struct server *server, const char *uuid)
{
	struct machine *machine = calloc(1, sizeof(*machine));

	if (!machine)
		return NULL;
	machine->server = server;
	state_init(&machine->state, server->config.state_dir, uuid);
	snprintf(machine->name, sizeof(machine->name), "%s", uuid);
	machine->apply.name = machine->name;
	machine->apply.events = &session_apply_events;
	machine->apply.user = machine;
	machine->apply.state = &machine->state;
	machine->apply.io = server->io;
	machine->apply.pool = server->pool;
	machine->apply.client = &machine->client;
	machine->undo.io = server->io;
	machine->undo.event = server->event;
	machine->undo.fd = -1;
	machine->log.dir = -1;
	if (apply_init(&machine->apply) || undo_init(&machine->undo) || job_init(machine)) {
		job_destroy(machine);
		undo_destroy(&machine->undo);
		apply_destroy(&machine->apply);
		free(machine);
		return NULL;
	}
	machine->next = server->machines;
	server->machines = machine;
	return machine;
}

static void drop(struct machine *machine)
{
	struct machine **at = &machine->server->machines;

	while (*at != machine)
		at = &(*at)->next;
	*at = machine->next;
	thin_forget(machine->server->thin, machine);
	machine_close_targets(machine);
	job_destroy(machine);
	apply_destroy(&machine->apply);
	undo_destroy(&machine->undo);
	if (machine->logged)
		undo_log_close(&machine->log);
	state_clear(&machine->state);
	free(machine);
}

static int load_one(struct server *server, const char *uuid)
{
	char error[512];
	struct state state;
	int r = state_load(&state, server->config.state_dir, uuid, error, sizeof(error));

	if (r == -ENOENT) {
		state_clear(&state);
		return 0; /* a directory whose state.json was forgotten or never came to be */
	}
	struct machine *machine = add(server, uuid);

	if (!machine) {
		state_clear(&state);
		return -ENOMEM;
	}
	machine->saved = true;
	if (r) {
		struct fault fault;

		fault_set(&fault, 0, "io", true,
			  "restore the file from a backup; or, to begin anew: reprotect target forget <machine>, "
			  "then resync",
			  "machine %s: its state is damaged: %s", uuid, error);
		state_clear(&state);
		machine->damaged = true;
		machine_failed(machine, &fault);
		return 0;
	}
	machine->state = state;
	if (state.host[0])
		snprintf(machine->name, sizeof(machine->name), "%s", state.host);
	log_info("machine %s (%s): %s, last epoch applied: %" PRIu64, machine->name, uuid,
		 state_status_name(state.status), state.last_applied);
	return 0;
}

/* What the machine was in the middle of goes on; what cannot be had is said, and tried again at the next connection or tick. */
static void begin(struct machine *machine)
{
	struct fault fault;

	if (machine->damaged)
		return;
	if (machine_log_open(machine, &fault))
		machine_failed(machine, &fault);
	else if (job_needed(machine))
		job_turn(machine);
}

int machines_load(struct server *server)
{
	DIR *dir = opendir(server->config.state_dir);
	const struct dirent *entry;
	int r = 0;

	if (!dir)
		return -errno;
	while (!r && (entry = readdir(dir)))
		if (entry->d_type != DT_REG && state_name_ok(entry->d_name))
			r = load_one(server, entry->d_name);
	closedir(dir);
	for (struct machine *m = server->machines; m && !r; m = m->next) {
		/* Heads and feet of all layers are read: 10,000 on a slow disk take a while. */
		sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%llu\nSTATUS=reading the undo log of machine %s", BEGIN_TIMEOUT_US, m->name);
		begin(m);
	}
	return r;
}

void machines_free(struct server *server)
{
	while (server->machines)
		drop(server->machines);
}

struct machine *machine_find(const struct server *server, const char *name)
{
	struct machine *by_host = NULL;

	for (struct machine *m = server->machines; m; m = m->next) {
		if (!strcasecmp(m->state.uuid, name))
			return m;
		if (!strcasecmp(m->state.host, name)) {
			if (by_host)
				return NULL; /* two of that name: the uuid has to say which */
			by_host = m;
		}
	}
	return by_host;
}

/* Machines that were only ever refused take no room from real ones. */
static void evict(struct server *server)
{
	for (struct machine *m = server->machines; m; m = m->next)
		if (!m->saved && !m->live && !m->waiting && apply_quiet(&m->apply)) {
			drop(m);
			return;
		}
}

struct machine *machine_get(struct server *server, const struct hello *hello, struct fault *fault)
{
	struct machine *machine = NULL;
	unsigned count = 0;

	for (struct machine *m = server->machines; m; m = m->next) {
		count++;
		if (!strcmp(m->state.uuid, hello->uuid))
			machine = m;
	}
	if (machine && machine->damaged) {
		*fault = machine->last;
		return NULL;
	}
	if (!machine && count >= server->config.max_machines) {
		evict(server);
		count = 0;
		for (struct machine *m = server->machines; m; m = m->next)
			count++;
	}
	if (!machine && count >= server->config.max_machines) {
		fault_set(fault, 0, "busy", true,
			  "raise max_machines in master-target.conf, or forget machines that are no longer "
			  "protected (reprotect target forget)",
			  "machine %s: not accepted: this master target already serves %" PRIu64 " machines",
			  hello->host, server->config.max_machines);
		return NULL;
	}
	if (!machine)
		machine = add(server, hello->uuid);
	if (!machine) {
		fault_set(fault, 0, "busy", false, "free memory on the master target",
			  "machine %s: out of memory", hello->host);
		return NULL;
	}
	snprintf(machine->state.host, sizeof(machine->state.host), "%s", hello->host);
	snprintf(machine->name, sizeof(machine->name), "%s", hello->host);
	return machine;
}

void machine_close_targets(struct machine *machine)
{
	for (size_t i = 0; i < machine->target_count; i++)
		target_close(&machine->targets[i]);
	free(machine->targets);
	machine->targets = NULL;
	machine->target_count = 0;
}

static bool same_object(const struct stat *a, const struct stat *b)
{
	if (S_ISBLK(a->st_mode) || S_ISBLK(b->st_mode))
		return S_ISBLK(a->st_mode) && S_ISBLK(b->st_mode) && a->st_rdev == b->st_rdev;
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Whether @path is, or was recorded as, the target of another machine or of another disk. */
static int check_taken(const struct machine *machine, const struct hello_disk *disk, const char *path,
		       struct fault *fault)
{
	struct stat st, other;
	bool exists = stat(path, &st) == 0;

	for (const struct machine *m = machine->server->machines; m; m = m->next) {
		for (size_t i = 0; i < m->state.disk_count; i++) {
			const struct state_disk *d = &m->state.disks[i];

			if (m == machine && !strcmp(d->name, disk->name))
				continue;
			if (strcmp(d->path, path) &&
			    !(exists && !stat(d->path, &other) && same_object(&st, &other)))
				continue;
			return fault_set(fault, -1, "target-refused", true,
					 "name another target for one of the two; if that machine is no longer "
					 "protected: reprotect target forget <machine>",
					 "disk %s/%s: cannot use target %s: it is the target of disk %s/%s "
					 "(machine %s)",
					 machine->name, disk->name, path, m->name, d->name, m->state.uuid);
		}
	}
	for (size_t i = 0; i < machine->target_count; i++) {
		const struct target *t = &machine->targets[i];

		if (exists && same_object(&st, &t->st))
			return fault_set(fault, -1, "target-refused", true, "give each disk its own target",
					 "disk %s/%s: cannot use target %s: it is the target of disk %s/%s",
					 machine->name, disk->name, path, machine->name, t->name);
	}
	return 0;
}

/* Where the disk goes: its section, else an image file. */
static int target_path(const struct machine *machine, const struct hello_disk *disk,
		       struct target_request *request, char *path, size_t path_bytes, struct fault *fault)
{
	const struct config *config = &machine->server->config;
	const struct config_target *section =
		config_target_find(config, machine->state.uuid, machine->state.host, disk->name);
	int n = -1;

	if (section) {
		n = snprintf(path, path_bytes, "%s", section->path);
		request->overwrite = section->overwrite;
	} else if (config->target_dir) {
		n = snprintf(path, path_bytes, "%s/%s/%s.img", config->target_dir, machine->state.host,
			     disk->name);
		request->create = config->create;
	}
	if (n > 0 && (size_t)n < path_bytes)
		return 0;
	return fault_set(fault, -1, "target-refused", true,
			 "add a [target <machine>/<disk>] section with its path (or target_dir) to "
			 "master-target.conf and restart the master target",
			 "disk %s/%s: no target is configured for it", machine->name, disk->name);
}

static int open_one(struct machine *machine, const struct hello_disk *disk, struct fault *fault)
{
	const struct state_disk *known = state_disk(&machine->state, disk->name);
	struct target_request request = {
		.machine = machine->name,
		.disk = disk->name,
		.id = disk->id,
		.source_bytes = disk->source_bytes,
		.known = known,
		.state_dir = machine->server->config.state_dir,
	};
	char path[4096];

	if (known && known->id != disk->id)
		return fault_set(fault, -1, "target-refused", true,
				 "restore the order of disks in the agent's configuration; or, to begin anew: "
				 "reprotect target forget <machine>, then resync",
				 "disk %s/%s: its number was %u and is %u; data on its way could reach the "
				 "wrong disk",
				 machine->name, disk->name, known->id, disk->id);
	if (target_path(machine, disk, &request, path, sizeof(path), fault) ||
	    check_taken(machine, disk, path, fault))
		return -1;
	request.path = path;
	if (target_open(&machine->targets[machine->target_count], &request, fault))
		return -1;
	machine->target_count++;
	return 0;
}

int machine_save(struct machine *machine, struct fault *fault)
{
	int r = state_save(&machine->state);

	if (r)
		return fault_set(fault, -1, r == -ENOSPC ? "no-space" : "io", false,
				 "free space or repair the file system of the state directory",
				 "machine %s: cannot save its state in %s: %s", machine->name, machine->state.dir, strerror(-r));
	machine->saved = true;
	return 0;
}

/* Write down what was accepted, before anything is written to it. */
static int record(struct machine *machine, struct fault *fault)
{
	for (size_t i = 0; i < machine->target_count; i++) {
		const struct target *target = &machine->targets[i];
		struct state_disk *disk = state_disk_add(&machine->state, target->name);

		if (!disk)
			return fault_set(fault, -1, "busy", false, "free memory on the master target",
					 "machine %s: out of memory", machine->name);
		snprintf(disk->path, sizeof(disk->path), "%s", target->path);
		disk->id = target->id;
		disk->source_bytes = target->source_bytes;
		disk->created |= target->created;
		json_decref(disk->identity);
		disk->identity = json_incref(target->identity);
	}
	return machine_save(machine, fault);
}

int machine_open(struct machine *machine, const struct hello *hello, struct fault *fault)
{
	machine_close_targets(machine);
	if (machine->state.status == STATE_RELEASED)
		return 0; /* somebody else's disks now */
	machine->targets = calloc(hello->disk_count, sizeof(*machine->targets));
	if (!machine->targets)
		return fault_set(fault, -1, "busy", false, "free memory on the master target",
				 "machine %s: out of memory", machine->name);
	for (size_t i = 0; i < hello->disk_count; i++)
		if (open_one(machine, &hello->disks[i], fault)) {
			machine_close_targets(machine);
			return -1;
		}
	for (size_t i = 0; i < machine->state.disk_count; i++) {
		bool named = false;

		for (size_t j = 0; j < hello->disk_count; j++)
			named |= !strcmp(hello->disks[j].name, machine->state.disks[i].name);
		if (!named)
			log_warning("machine %s: disk %s is no longer sent; its target %s stays as it is",
				    machine->name, machine->state.disks[i].name,
				    machine->state.disks[i].path);
	}
	if (record(machine, fault)) {
		machine_close_targets(machine);
		return -1;
	}
	return 0;
}

int machine_open_known(struct machine *machine, struct fault *fault)
{
	const struct state *state = &machine->state;
	CLEANUP_FREE struct hello *hello = calloc(1, sizeof(*hello));

	if (!hello)
		return fault_set(fault, -1, "busy", false, "free memory on the master target", "machine %s: out of memory",
				 machine->name);
	snprintf(hello->uuid, sizeof(hello->uuid), "%s", state->uuid);
	snprintf(hello->host, sizeof(hello->host), "%s", state->host);
	for (size_t i = 0; i < state->disk_count; i++) {
		struct hello_disk *disk = &hello->disks[hello->disk_count++];

		snprintf(disk->name, sizeof(disk->name), "%s", state->disks[i].name);
		disk->id = state->disks[i].id;
		disk->source_bytes = state->disks[i].source_bytes;
	}
	return machine_open(machine, hello, fault);
}

void machine_failed(struct machine *machine, const struct fault *fault)
{
	machine->last = *fault;
	machine->failing = true;
	log_error("%s (%s)", fault->message, fault->remedy);
}

int machine_forget(struct machine *machine, struct fault *fault)
{
	if ((machine->live || machine->waiting) && machine->state.status != STATE_RELEASED)
		return fault_set(fault, -1, "busy", false,
				 "stop its agent or its process server first, then forget it",
				 "machine %s: cannot be forgotten: it is connected", machine->name);
	if (!apply_quiet(&machine->apply) && machine->state.status != STATE_RELEASED)
		return fault_set(fault, -1, "busy", false, "try again in a few seconds",
				 "machine %s: cannot be forgotten: its last writes are still in flight",
				 machine->name);
	if (!job_quiet(machine))
		return fault_set(fault, -1, "busy", false, "wait for it: reprotect points rollback <machine> --status",
				 "machine %s: cannot be forgotten: its targets are being rolled back or an epoch is undone",
				 machine->name);
	uint64_t used;

	if (machine->logged && undo_log_used(&machine->log, &used))
		return fault_set(fault, -1, "busy", false, "end the exports first (reprotect points exports)",
				 "machine %s: cannot be forgotten: recovery point %" PRIu64 " is exported", machine->name, used);
	int r = state_forget(&machine->state);

	if (r)
		return fault_set(fault, -1, "io", false, "repair the file system of the state directory",
				 "machine %s: cannot remove its state %s: %s", machine->name,
				 machine->state.dir, strerror(-r));
	if (machine->logged) {
		machine_log_remove(machine);
		rmdir(machine->state.dir); /* its marks were in it */
	}
	log_notice("machine %s (%s): forgotten; its targets are free", machine->name, machine->state.uuid);
	session_detach(machine);
	if (apply_quiet(&machine->apply))
		drop(machine);
	else
		machine->saved = false;
	return 0;
}

void machine_tick(struct machine *machine)
{
	uint64_t now = util_now_ms();
	uint64_t bytes = machine->apply.writer.bytes_done;
	const struct writer *writer = &machine->apply.writer;

	apply_tick(&machine->apply);
	if (!machine->damaged && job_needed(machine))
		job_turn(machine);
	if (now - machine->rate_ms >= 2000) {
		uint64_t ms = machine->rate_ms ? now - machine->rate_ms : 2000;

		machine->rate = (bytes - machine->rate_bytes) * 1000 / ms;
		machine->rate_bytes = bytes;
		machine->rate_ms = now;
	}
	if ((writer_in_flight(writer) || writer_flushing(writer)) && now - writer->moved_ms > STUCK_MS &&
	    now - machine->stuck_said_ms > STUCK_MS) {
		machine->stuck_said_ms = now;
		log_warning("machine %s: its targets have completed nothing for %" PRIu64
			    " s, %u writes are in flight (check the disks and their paths: dmesg)",
			    machine->name, (now - writer->moved_ms) / 1000, writer_in_flight(writer));
	}
}
