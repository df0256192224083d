// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * server: start and end of the process server, its machines, and what is done every second.
 * Called by main.c. At start every spool is recovered before anybody is let in.
 *
 * state.json of a machine is written (blocking, shortly) when it is new, its HELLO changes, a final
 * epoch is acknowledged, its last segment is freed, and otherwise a few seconds late:
 * segments carry the same numbers in their headers, so none that matters is ever lost.
 */
#include "server.h"
#include "log.h"
#include "util.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#define STATE_MS 5000u
#define TICK_US 1000000u

void machine_problem(struct machine *m, const char *from, const char *code, const char *message, const char *remedy)
{
	m->problem.wall_ms = util_wall_ms();
	snprintf(m->problem.from, sizeof(m->problem.from), "%s", from);
	snprintf(m->problem.code, sizeof(m->problem.code), "%s", code);
	snprintf(m->problem.message, sizeof(m->problem.message), "%s", message);
	snprintf(m->problem.remedy, sizeof(m->problem.remedy), "%s", remedy ? remedy : "");
}

struct machine *machine_find(struct server *server, const char *uuid)
{
	for (struct machine *m = server->machines; m; m = m->next)
		if (!strcmp(m->uuid, uuid))
			return m;
	return NULL;
}

struct machine *machine_new(struct server *server, const char *uuid)
{
	struct machine *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->server = server;
	snprintf(m->uuid, sizeof(m->uuid), "%s", uuid);
	snprintf(m->host, sizeof(m->host), "?");
	m->next = server->machines;
	server->machines = m;
	server->machine_count++;
	return m;
}

static void machine_free(struct machine *m)
{
	struct server *server = m->server;

	for (struct machine **at = &server->machines; *at; at = &(*at)->next) {
		if (*at == m) {
			*at = m->next;
			break;
		}
	}
	server->machine_count--;
	downstream_stop(m);
	spool_free(m->spool);
	json_decref(m->hello);
	free(m->final_text);
	free(m);
}

/* ---- the spool's calls ------------------------------------------------------------------- */

static void on_complete(const struct spool_epoch *epoch, void *user)
{
	upstream_complete(user, epoch);
}

static void on_failed(const struct spool_epoch *epoch, int error, void *user)
{
	struct machine *m = user;
	char message[200];

	snprintf(message, sizeof(message), "epoch %" PRIu64 " could not be made durable: %s", epoch->epoch, strerror(-error));
	machine_problem(m, "spool", "io", message, "check the disk of the spool");
	upstream_failed(m, epoch, error);
	downstream_pump(m);
}

static void on_space(void *user)
{
	struct machine *m = user;

	upstream_space(m);
	/* The quota is everybody's: who else waits for it? The tick asks the others. */
}

static void on_readable(void *user)
{
	downstream_pump(user);
}

static int on_save(void *user)
{
	return machine_save(user);
}

static const struct spool_ops spool_callbacks = {
	.complete = on_complete, .failed = on_failed, .space = on_space, .readable = on_readable, .save = on_save,
};

/* ---- state.json -------------------------------------------------------------------------- */

int machine_save(struct machine *m)
{
	CLEANUP_FREE char *path = NULL;
	CLEANUP_JSON json_t *json = NULL;
	int r;

	if (!m->spool)
		return 0;
	if (asprintf(&path, "%s/%s/state.json", m->server->config.spool, m->uuid) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	json = json_pack("{s:i,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:s*,s:O*}", "format", 1, "machine", m->uuid, "last_complete",
			 (json_int_t)m->spool->last_complete, "last_applied", (json_int_t)m->spool->last_applied, "max_epoch",
			 (json_int_t)m->spool->max_epoch, "first_segment", (json_int_t)m->spool->first_number,
			 "target_max_epoch_bytes", (json_int_t)m->target_max_epoch_bytes, "final_epoch",
			 (json_int_t)m->final_epoch, "final_flags", (json_int_t)m->final_flags, "final_text", m->final_text,
			 "hello", m->hello);
	if (!json)
		return -ENOMEM;
	r = util_write_json(path, json);
	if (r) {
		log_error("%s: cannot write it: %s (check the disk and the permissions; tried again)", path, strerror(-r));
		m->state_dirty = true;
		return r;
	}
	m->spool->saved_complete = m->spool->last_complete;
	m->known = true;
	m->state_dirty = false;
	m->state_ms = util_now_ms();
	return 0;
}

bool machine_hello(struct machine *m, json_t *hello)
{
	CLEANUP_JSON json_t *old = m->hello ? json_copy(m->hello) : NULL;
	CLEANUP_JSON json_t *new = json_copy(hello);
	json_t *disk, *disks = json_object_get(hello, "disks");
	bool differs;
	size_t i;

	if (old)
		json_object_del(old, "committed");
	if (new)
		json_object_del(new, "committed");
	differs = !old || !new || !json_equal(old, new);
	json_decref(m->hello);
	m->hello = json_incref(hello);
	m->committed = (uint64_t)json_integer_value(json_object_get(hello, "committed"));
	snprintf(m->host, sizeof(m->host), "%s", json_string_value(json_object_get(hello, "host")) ?: "?");
	m->disk_count = 0;
	json_array_foreach(disks, i, disk) {
		json_int_t id = json_integer_value(json_object_get(disk, "id"));
		json_int_t bytes = json_integer_value(json_object_get(disk, "size_bytes"));

		if (id <= 0 || id > UINT32_MAX || bytes <= 0 || m->disk_count == DISKS_MAX)
			continue;
		m->disks[m->disk_count++] = (struct disk){ .id = (uint32_t)id, .size_bytes = (uint64_t)bytes };
	}
	m->state_dirty |= differs;
	return differs;
}

int machine_open(struct machine *m, const struct spool_known *known, char *error, size_t error_bytes)
{
	return spool_open(&m->spool, &m->server->store, m->uuid, known, &spool_callbacks, m, error, error_bytes);
}

static uint64_t number(const json_t *json, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(json, key));
}

static int machine_load(struct server *server, const char *uuid, char *error, size_t error_bytes)
{
	struct machine *m = machine_new(server, uuid);
	CLEANUP_FREE char *path = NULL;
	CLEANUP_JSON json_t *json = NULL;
	struct spool_known known = { 0 };
	char why[256];
	int r;

	if (!m || asprintf(&path, "%s/%s/state.json", server->config.spool, uuid) < 0) {
		path = NULL;
		snprintf(error, error_bytes, "out of memory");
		return -ENOMEM;
	}
	sd_notifyf(0, "STATUS=Recovering the spool of machine %s\nEXTEND_TIMEOUT_USEC=60000000", uuid);
	r = util_read_json(path, &json, why, sizeof(why));
	if (r && r != -ENOENT)
		log_error("%s (the segments are used without it; the agent and the master target say the rest)", why);
	if (!r) {
		const char *text = json_string_value(json_object_get(json, "final_text"));

		known = (struct spool_known){ .last_complete = number(json, "last_complete"),
					      .last_applied = number(json, "last_applied"),
					      .max_epoch = number(json, "max_epoch"),
					      .first_number = number(json, "first_segment") };
		m->target_max_epoch_bytes = number(json, "target_max_epoch_bytes");
		m->final_epoch = number(json, "final_epoch");
		m->final_flags = (uint32_t)number(json, "final_flags");
		m->final_text = text ? strdup(text) : NULL;
		if (json_is_object(json_object_get(json, "hello")))
			machine_hello(m, json_object_get(json, "hello"));
		m->known = true;
	}
	r = machine_open(m, &known, error, error_bytes);
	if (r)
		return r;
	if (!m->known && !m->spool->epochs && !m->spool->last_complete) {
		/* Nothing but an empty directory: as good as never seen. The master target is asked. */
		machine_free(m);
		return 0;
	}
	m->state_dirty = false;
	log_notice("machine %s (%s): %u epochs in the spool (%" PRIu64 " MiB); %" PRIu64 " complete, %" PRIu64 " applied", uuid,
		   m->host, m->spool->epoch_count, m->spool->bytes >> 20, m->spool->last_complete, m->spool->last_applied);
	return 0;
}

static int machines_load(struct server *server, char *error, size_t error_bytes)
{
	DIR *dir = opendir(server->config.spool);
	int r = 0;

	if (!dir) {
		r = -errno;
		snprintf(error, error_bytes, "spool directory %s: cannot list it: %s", server->config.spool, strerror(-r));
		return r;
	}
	while (!r) {
		struct dirent *entry;

		errno = 0;
		entry = readdir(dir);
		if (!entry && errno) {
			r = -errno;
			snprintf(error, error_bytes, "spool directory %s: cannot list it: %s", server->config.spool, strerror(-r));
		}
		if (!entry)
			break;
		if (spool_machine_valid(entry->d_name))
			r = machine_load(server, entry->d_name, error, error_bytes);
	}
	closedir(dir);
	return r;
}

/* ---- the tick ---------------------------------------------------------------------------- */

static void rate_tick(struct rate *rate, uint64_t ms)
{
	uint64_t now = (rate->total - rate->before) * 1000 / (ms ? ms : 1);

	rate->before = rate->total;
	rate->per_second = (rate->per_second * 3 + now) / 4;
}

static bool anybody_waits(const struct server *server)
{
	for (const struct agent *a = server->agents; a; a = a->next)
		if (a->blocked && a->machine && a->machine->spool && a->machine->spool->waits == SPOOL_WAIT_QUOTA)
			return true;
	return false;
}

static void machine_tick(struct machine *m, uint64_t now, uint64_t since, bool quota)
{
	rate_tick(&m->in, since);
	rate_tick(&m->out, since);
	if (m->spool) {
		if (!m->spool->epochs && (quota || !m->agent))
			spool_reclaim(m->spool, true);
		spool_retry(m->spool);
		if (m->state_dirty && now - m->state_ms > STATE_MS && m->known)
			machine_save(m); /* it says itself when it fails, and is tried again */
	}
	if ((m->down == DOWN_HELLO || m->down == DOWN_CONNECTING) && now - m->target_since_ms > 15000)
		downstream_restart(m);
	else if (m->down == DOWN_STREAM && !m->agent && m->spool && !m->spool->epochs)
		downstream_stop(m);
	else
		downstream_want(m);
}

static int on_tick(sd_event_source *source, uint64_t usec, void *user)
{
	struct server *server = user;
	uint64_t now = util_now_ms(), since = now - server->ticked_ms;
	bool quota = anybody_waits(server);
	char line[256];

	(void)usec;
	server->ticked_ms = now;
	for (struct agent *a = server->agents, *next; a; a = next) {
		next = a->next;
		upstream_tick(a, now);
	}
	for (struct machine *m = server->machines, *next; m; m = next) {
		next = m->next;
		machine_tick(m, now, since, quota);
		if (!m->spool && !m->agent) /* it never got further than HELLO */
			machine_free(m);
	}
	status_line(server, line, sizeof(line));
	sd_notifyf(0, "STATUS=%s", line);
	sd_event_source_set_time_relative(source, TICK_US);
	return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

/* ---- start and end ----------------------------------------------------------------------- */

int server_start(struct server *server, sd_event *event, char *error, size_t error_bytes)
{
	static const struct io_ops *const engines[] = { NULL, &io_uring_ops, &io_libaio_ops };
	struct config *config = &server->config;
	int r;

	server->event = event;
	server->started_ms = server->ticked_ms = util_now_ms();
	r = spool_store_open(&server->store, config->spool, error, error_bytes);
	if (r)
		return r;
	server->store.quota_bytes = config->spool_bytes;
	server->store.window_bytes = config->window_bytes;
	server->store.direct = config->direct_io;
	server->store.segment_bytes = config->spool_bytes / 16 / (1 * MIB) * MIB;
	if (server->store.segment_bytes > 64 * MIB)
		server->store.segment_bytes = 64 * MIB;
	r = io_engine_new(&server->io, event, engines[config->engine], 128);
	if (!r)
		r = io_engine_hold(server->io, server->store.lockfd);
	if (r) {
		snprintf(error, error_bytes, "cannot start disk I/O: %s (try engine = libaio)", strerror(-r));
		return r;
	}
	server->store.io = server->io;
	/* First the cheap things that can be wrong, then the recovery, which may take a while. */
	r = control_new(&server->control, event, config->control, status_answer, server);
	if (r) {
		snprintf(error, error_bytes, "control socket %s: %s", config->control,
			 r == -EADDRINUSE ? "another process server serves it (stop that one, or name another with control =)" :
					    strerror(-r));
		return r;
	}
	r = conn_listen(&server->listener, event, &transport_tcp, config->listen, upstream_accept, server);
	if (r) {
		snprintf(error, error_bytes, "cannot listen on %s: %s (%s)", config->listen, strerror(-r),
			 r == -EADDRINUSE ? "another program does, or name another with listen =" :
			 r == -EACCES ? "only loopback addresses are allowed as long as connections are not encrypted" :
					"correct listen =");
		return r;
	}
	r = machines_load(server, error, error_bytes);
	if (r)
		return r;
	r = sd_event_add_time_relative(event, &server->tick, CLOCK_BOOTTIME, TICK_US, 50000, on_tick, server);
	if (r < 0) {
		snprintf(error, error_bytes, "cannot set a timer: %s", strerror(-r));
		return r;
	}
	for (struct machine *m = server->machines; m; m = m->next)
		downstream_want(m);
	log_notice("process server " REPROTECT_VERSION " listens on %s; spool %s (%" PRIu64 " of %" PRIu64
		   " MiB, %s, %s); master target %s", conn_listener_name(server->listener), config->spool,
		   server->store.used_bytes >> 20, config->spool_bytes >> 20, io_engine_name(server->io),
		   server->store.direct ? "O_DIRECT" : "page cache", config->master_target);
	return 0;
}

void server_stop(struct server *server)
{
	server->stopping = true;
	server->tick = sd_event_source_disable_unref(server->tick);
	conn_listener_close(server->listener);
	control_free(server->control);
	while (server->agents)
		upstream_close(server->agents);
	for (struct machine *m = server->machines; m; m = m->next) {
		if (m->spool && m->known && machine_save(m) < 0)
			log_warning("machine %s: its state.json is not up to date (the segments are)", m->uuid);
		downstream_stop(m);
	}
	if (server->io)
		io_engine_free(server->io);
	server->io = NULL;
	while (server->machines)
		machine_free(server->machines);
	if (server->store.path)
		spool_store_close(&server->store);
	config_free(&server->config);
}
