// SPDX-License-Identifier: GPL-2.0-or-later
/* status: see status.h. Reads everything, changes nothing but through machine_forget(). */
#include <string.h>

#include "control.h"
#include "machine.h"
#include "session.h"
#include "points.h"
#include "points_control.h"
#include "status.h"
#include "thin.h"
#include "util.h"

static json_t *count(uint64_t value)
{
	return json_integer((json_int_t)value);
}

static json_t *fault_json(const struct fault *fault)
{
	if (!fault->wall_ms)
		return json_null();
	return json_pack("{s:s, s:s, s:s, s:o}", "code", fault->code, "message", fault->message, "remedy",
			 fault->remedy, "time_ms", count(fault->wall_ms));
}

static const struct target *open_target(const struct machine *machine, const char *name)
{
	for (size_t i = 0; i < machine->target_count; i++)
		if (!strcmp(machine->targets[i].name, name))
			return &machine->targets[i];
	return NULL;
}

static json_t *disks_json(const struct machine *machine)
{
	json_t *disks = json_array();

	for (size_t i = 0; i < machine->state.disk_count; i++) {
		const struct state_disk *disk = &machine->state.disks[i];
		const struct target *target = open_target(machine, disk->name);
		json_t *json = json_pack("{s:s, s:I, s:s, s:o, s:s}", "name", disk->name, "id",
					 (json_int_t)disk->id, "path", disk->path, "size_bytes",
					 count(disk->source_bytes), "state",
					 machine->state.status == STATE_RELEASED ? "released" :
					 target					 ? "open" :
										   "closed");

		if (target)
			json_object_set_new(json, "target_bytes", count(target->bytes));
		json_array_append_new(disks, json);
	}
	return disks;
}

static json_t *epoch_json(const struct machine *machine)
{
	const struct apply *apply = &machine->apply;

	if (apply->phase != APPLY_OPEN && apply->phase != APPLY_ENDING)
		return json_null();
	return json_pack("{s:o, s:o, s:o, s:I, s:b, s:b}", "epoch", count(apply->position.epoch), "bytes",
			 count(apply->position.bytes), "expected_bytes", count(apply->position.expected),
			 "frames", (json_int_t)apply->position.seq, "final",
			 (apply->position.flags & WIRE_EPOCH_FINAL) != 0, "verifying",
			 apply->position.verifying);
}

/* How many points can be had, and from when. */
static void count_points(const struct machine *machine, json_t *json)
{
	struct points points = { 0 };
	uint64_t oldest = UINT64_MAX, newest = 0;

	if (!machine->logged || points_collect(&points, &machine->log, &machine->state))
		return;
	json_object_set_new(json, "count", count(points.count));
	for (size_t i = 0; i < points.count; i++) { /* not in order after a rollback */
		uint64_t at = points.points[i].time_ms;

		oldest = at < oldest ? at : oldest;
		newest = at > newest ? at : newest;
	}
	if (points.count) {
		json_object_set_new(json, "oldest_ms", count(oldest));
		json_object_set_new(json, "newest_ms", count(newest));
	}
	json_object_set_new(json, "retention_bytes", count(machine->log.bytes));
	json_object_set_new(json, "layers", count(machine->log.chain.count));
	points_clear(&points);
}

/*
 * What the disks are. While an epoch is being written, and after one that was dropped until the next is whole
 * (in_between), they hold a part of it, whatever the last whole one was; the undo log has the rest.
 */
static json_t *points_json(const struct machine *machine)
{
	const struct state *state = &machine->state;
	const struct tags *tags = &state->tags;

	json_t *json = json_pack("{s:s, s:o, s:b, s:O?, s:O?, s:o}", "consistency",
			 tags_consistency(tags, state->last_applied), "consistent_epoch",
			 count(tags->consistent_epoch), "in_between", state->between, "last_crash", tags->crash,
			 "last_app", tags->app, "tags",
			 tags->list ? json_incref(tags->list) : json_array());
	count_points(machine, json);
	return json;
}

static json_t *machine_json(const struct machine *machine)
{
	const struct state *state = &machine->state;
	const char *peer = session_peer(machine->live);
	json_t *json = json_pack(
		"{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:o, s:o}", "machine",
		state->uuid, "host", state->host[0] ? state->host : state->uuid, "status",
		machine->damaged || (machine->failing && state->status != STATE_RELEASED) ?
			"error" :
			state_status_name(state->status),
		"connected", peer ? json_string(peer) : json_null(), "last_applied",
		count(state->last_applied), "max_epoch", count(state->max_epoch), "epoch",
		epoch_json(machine), "partial_seq", count(state->partial.seq), "bytes_applied",
		count(machine->apply.writer.bytes_done), "rate_bytes_per_second", count(machine->rate),
		"writes_in_flight", (json_int_t)writer_in_flight(&machine->apply.writer), "applied_ms",
		count(state->applied_ms), "released_ms", count(state->released_ms), "mismatch",
		state->last_mismatch ? json_incref(state->last_mismatch) : json_array(), "disks",
		disks_json(machine), "last_error", fault_json(&machine->last));

	if (json)
		json_object_set_new(json, "points", points_json(machine));
	if (json)
		json_object_set_new(json, "rollback", machine_rollback_json(machine));
	return json ? json : json_null();
}

static json_t *status(const struct server *server)
{
	json_t *machines = json_array();

	for (const struct machine *m = server->machines; m; m = m->next)
		json_array_append_new(machines, machine_json(m));
	return json_pack(
		"{s:b, s:s, s:s, s:s, s:s, s:s, s:I, s:o, s:{s:o, s:o, s:o, s:I, s:I, s:I, s:I}, s:o, s:o}", "ok",
		1, "program", "reprotect-master-target", "version", REPROTECT_VERSION, "listen",
		conn_listener_name(server->listener), "state_dir", server->config.state_dir, "engine",
		io_engine_name(server->io), "connections", (json_int_t)server->sessions, "rss_bytes",
		count(util_rss_bytes()), "limits", "buffer_bytes", count(server->config.buffer_bytes),
		"max_epoch_bytes", count(server->config.max_epoch_bytes), "max_machines",
		count(server->config.max_machines), "buffers_large",
		(json_int_t)pool_slots(server->pool, POOL_LARGE), "buffers_large_unused",
		(json_int_t)pool_unused(server->pool, POOL_LARGE), "buffers_small",
		(json_int_t)pool_slots(server->pool, POOL_SMALL), "buffers_small_unused",
		(json_int_t)pool_unused(server->pool, POOL_SMALL), "machines", machines, "retention",
		thin_json(server->thin));
}

static json_t *forget(struct server *server, const json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "machine"));
	struct machine *machine = name ? machine_find(server, name) : NULL;
	struct fault fault;

	if (!name)
		return control_error("reprotect target forget <machine>", "forget: no machine was named");
	if (!machine)
		return control_error("see reprotect status for the machines and their uuids",
				     "machine %s: not known here, or several have that name", name);
	if (machine_forget(machine, &fault))
		return control_error(fault.remedy, "%s", fault.message);
	return json_pack("{s:b}", "ok", 1);
}

json_t *status_handle(const char *command, const json_t *request, void *user)
{
	struct server *server = user;
	json_t *answer;

	if (!strcmp(command, "status"))
		answer = status(server);
	else if (!strcmp(command, "forget"))
		answer = forget(server, request);
	else if (!strcmp(command, "version"))
		answer = json_pack("{s:b, s:s, s:s}", "ok", 1, "program", "reprotect-master-target",
				   "version", REPROTECT_VERSION);
	else if ((answer = points_handle(command, request, server)))
		return answer;
	else
		return control_error("see reprotect --help", "unknown command %s", command);
	return answer ? answer : control_error("free memory on the master target", "out of memory");
}
