// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * status: what the agent shows of itself, as JSON for the control socket, and as one word
 * with a reason for everything else. Called by commands.c and the tick.
 *
 *	state         when
 *	starting      no tracker yet, nothing wrong so far
 *	error         something that needs a person
 *	connecting    no connection yet since the start
 *	paused        the link was up and is down; changes gather in the dirty maps
 *	initial-sync  a disk has not had its first complete pass
 *	replicating   all is well
 *	snapshot     one is open: replication waits
 *	failing-back, failed-back
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "early.h"
#include "link.h"
#include "points.h"
#include "ship.h"
#include "snapshot.h"
#include "stores.h"
#include "tag.h"
#include "util.h"

static uint64_t lag_ms(const struct agent *agent)
{
	bool newer = agent_dirty_bytes(agent) || agent->waiting_count ||
		     agent->epoch.phase == EPOCH_SENDING || agent->epoch.phase == EPOCH_WAITING;

	return newer && agent->synced_ms ? util_now_ms() - agent->synced_ms : 0;
}

const char *status_state(struct agent *agent, const struct agent_problem **problem)
{
	static struct agent_problem none;
	bool initial = false;

	*problem = NULL;
	if (agent->released) {
		*problem = &agent->released_problem;
		return "failed-back";
	}
	if (failback_active(agent))
		return "failing-back";
	if (agent->tracker_problem.text[0]) {
		*problem = &agent->tracker_problem;
		return "error";
	}
	if (!agent->tracker)
		return "starting";
	for (size_t i = 0; i < agent->disk_count; i++) {
		const struct agent_disk *disk = &agent->disks[i];

		if (!disk->detached && disk->problem.text[0]) {
			*problem = &disk->problem;
			return "error";
		}
		initial |= disk->active && disk->initial;
	}
	if (!agent_active(agent)) {
		snprintf(none.text, sizeof(none.text), "no disk is replicated");
		snprintf(none.remedy, sizeof(none.remedy), "reprotect disk attach DEVICE");
		*problem = &none;
		return "error";
	}
	if (agent->link->state != LINK_UP) {
		if (agent->link->problem.text[0])
			*problem = &agent->link->problem;
		return agent->epoch_acked ? "paused" : "connecting";
	}
	if (agent->epoch.phase == EPOCH_WAITING && agent->link->problem.text[0])
		*problem = &agent->link->problem;
	else if (agent->epoch_problem.text[0])
		*problem = &agent->epoch_problem;
	if (agent->snapshot && !*problem)
		return "snapshot";
	return initial ? "initial-sync" : "replicating";
}

static void add_problem(json_t *json, const struct agent_problem *problem)
{
	if (!problem || !problem->text[0])
		return;
	json_object_set_new(json, "error",
			    json_pack("{s:s, s:s, s:I}", "message", problem->text, "remedy",
				      problem->remedy, "since_ms", (json_int_t)problem->since_ms));
}

static json_t *disk_json(const struct agent *agent, const struct agent_disk *disk)
{
	const struct cbt_disk *info = &disk->info;
	uint64_t left = info->dirty_bytes + info->open_bytes;
	uint64_t done = info->size_bytes > left ? info->size_bytes - left : 0;
	json_t *json, *store;

	json = json_pack("{s:s, s:I, s:s, s:b, s:b, s:I}", "name", disk->name, "id",
			 (json_int_t)disk->id, "device", disk->device, "active", disk->active,
			 "detached", disk->detached, "granule_bytes", (json_int_t)disk->granule_bytes);
	if (disk->active) {
		json_object_set_new(json, "early",
				    json_boolean(early_report_disk(agent->early, info->id) != NULL));
		json_object_set_new(json, "degraded",
				    json_boolean(info->flags & BLKCBT_DISK_F_DEGRADED));
		json_object_update_new(
			json,
			json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "kernel_name", info->name,
				  "size_bytes", (json_int_t)info->size_bytes, "dirty_bytes",
				  (json_int_t)info->dirty_bytes, "open_bytes",
				  (json_int_t)info->open_bytes, "epoch", (json_int_t)info->epoch,
				  "committed", (json_int_t)info->epoch_committed, "map_bytes",
				  (json_int_t)info->map_bytes, "unreadable",
				  (json_int_t)disk->bad_count, "cursor_bytes",
				  (json_int_t)disk->cursor_bytes));
		store = stores_json(agent, disk);
		add_problem(store, &disk->store.problem);
		json_object_set_new(json, "store", store);
		json_object_set_new(json, "counters",
				    json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "escapes",
					      (json_int_t)info->escapes, "late", (json_int_t)info->late,
					      "passthrough", (json_int_t)info->passthrough, "parked",
					      (json_int_t)info->parked, "inflight",
					      (json_int_t)info->inflight, "map_fallbacks",
					      (json_int_t)info->map_fallbacks));
		json_object_set_new(json, "initial",
				    json_pack("{s:b, s:I, s:I, s:I}", "active", disk->initial,
					      "done_bytes",
					      (json_int_t)(disk->initial ? done : info->size_bytes),
					      "total_bytes", (json_int_t)info->size_bytes, "eta_s",
					      (json_int_t)(disk->initial && agent->rate_read ?
								   left / agent->rate_read :
								   0)));
	}
	add_problem(json, &disk->problem);
	return json;
}

/* How the module sees writes; a reason only when it is not by all its observers. */
static json_t *tracking_json(const struct cbt_info *module)
{
	json_t *json = json_pack("{s:s, s:b, s:s, s:b}", "mode", cbt_mode_name(module->gate_mode),
				 "degraded", module->gate_mode != BLKCBT_GATE_FULL, "module_version",
				 module->version, "fault_injection", module->faults);

	if (module->gate_mode != BLKCBT_GATE_FULL)
		json_object_set_new(json, "reason", json_string(module->gate_reason));
	return json;
}

static json_t *epochs_json(const struct agent *agent)
{
	static const char *const phases[] = { "none", "sending", "waiting", "draining" };
	const struct agent_epoch *epoch = &agent->epoch;
	struct ship_progress progress;
	json_t *json, *open = json_null();

	ship_progress(agent->ship, &progress);
	if (epoch->phase == EPOCH_SENDING || epoch->phase == EPOCH_WAITING)
		open = json_pack("{s:I, s:s, s:I, s:I, s:b, s:b}", "epoch", (json_int_t)epoch->number,
				 "phase", phases[epoch->phase], "total_bytes",
				 (json_int_t)progress.total_bytes, "sent_bytes",
				 (json_int_t)progress.queued_bytes, "initial",
				 (epoch->flags & WIRE_EPOCH_INITIAL) != 0, "final",
				 (epoch->flags & WIRE_EPOCH_FINAL) != 0);
	if (json_is_object(open))
		json_object_set_new(open, "mode",
				    json_string(epoch->mode == BLKCBT_MODE_CONSISTENT ? "consistent" : "fuzzy"));
	json = json_pack("{s:I, s:I, s:I, s:I, s:o}", "cut", (json_int_t)agent->epoch_cut, "acked",
			 (json_int_t)agent->epoch_acked, "committed",
			 (json_int_t)agent->epoch_committed, "applied",
			 (json_int_t)agent->epoch_applied, "open", open);
	return json;
}

json_t *status_json(struct agent *agent)
{
	const struct agent_problem *problem = NULL;
	const char *state;
	json_t *json, *disks = json_array(), *link, *early;

	if (agent->tracker && !agent->released && agent->epoch.phase == EPOCH_NONE &&
	    disks_refresh(agent))
		agent_group_changed(agent);
	agent_module(agent);
	state = status_state(agent, &problem);
	for (size_t i = 0; i < agent->disk_count; i++)
		json_array_append_new(disks, disk_json(agent, &agent->disks[i]));
	link = json_pack("{s:s, s:s, s:I, s:I}", "address", agent->config.process_server, "state",
			 link_state_name(agent->link), "up_since_ms",
			 (json_int_t)agent->link->up_since_ms, "connects",
			 (json_int_t)agent->link->reconnects);
	add_problem(link, &agent->link->problem);
	json = json_pack("{s:b, s:s, s:s, s:s, s:s, s:s, s:i}", "ok", 1, "program", "reprotect-agent",
			 "version", REPROTECT_VERSION, "state", state, "machine", agent->machine, "host",
			 agent->host, "pid", (int)getpid());
	json_object_set_new(json, "disks", disks);
	json_object_set_new(json, "epochs", epochs_json(agent));
	json_object_set_new(json, "lag_ms", json_integer((json_int_t)lag_ms(agent)));
	json_object_set_new(json, "synced", json_boolean(agent->synced_ms != 0));
	json_object_set_new(json, "dirty_bytes", json_integer((json_int_t)agent_dirty_bytes(agent)));
	json_object_set_new(json, "slice_bytes", json_integer((json_int_t)agent->slice_bytes));
	json_object_set_new(json, "rates",
			    json_pack("{s:I, s:I}", "sent_bytes_per_s", (json_int_t)agent->rate_sent,
				      "read_bytes_per_s", (json_int_t)agent->rate_read));
	json_object_set_new(json, "sent_bytes", json_integer((json_int_t)agent->sent_bytes));
	json_object_set_new(json, "link", link);
	json_object_set_new(json, "io_engine", json_string(io_engine_name(agent->io)));
	json_object_set_new(json, "rss_bytes", json_integer((json_int_t)util_rss_bytes()));
	json_object_set_new(json, "failback", failback_json(agent));
	json_object_set_new(json, "points", points_json(agent));
	json_object_set_new(json, "tags", tag_json(agent));
	json_object_set_new(json, "snapshot", snapshot_json(agent));
	if (agent->tracker)
		json_object_set_new(json, "tracking", tracking_json(&agent->module));
	early = early_json(agent);
	if (early)
		json_object_set_new(json, "early", early);
	if (agent->state_problem.text[0])
		json_object_set_new(json, "warning",
				    json_pack("{s:s, s:s}", "message", agent->state_problem.text,
					      "remedy", agent->state_problem.remedy));
	add_problem(json, problem);
	return json;
}
