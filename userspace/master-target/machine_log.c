// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * machine_log: a machine's undo log and the retention volume: opened when it is first needed, given up in parts when
 * the volume is full, given up as a whole when the operator says so. See machine.h.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "log.h"
#include "machine.h"
#include "session.h"
#include "thin.h"
#include "util.h"

static int missing(const struct machine *machine, const char *why, struct fault *fault)
{
	return fault_set(fault, -1, "retention-missing", true,
			 "mount the retention volume as it was; to go on without the recovery points that are on it: reprotect "
			 "points discard <machine> --all",
			 "machine %s: its undo log cannot be had: %s; what is written without it would make its recovery points "
			 "wrong",
			 machine->name, why);
}

/* A machine that has none yet gets one. */
static int make(struct machine *machine, struct fault *fault)
{
	struct state *state = &machine->state;
	uint64_t random[2] = { util_random(), util_random() };
	char why[512];
	int r;

	r = undo_log_open(&machine->log, machine->server->config.retention, state->uuid, state->dir, (const uint8_t *)random,
			  state->number, true, why, sizeof(why));
	if (r)
		return fault_set(fault, -1, r == -ENOSPC ? "no-space" : "io", false,
				 "check the retention volume: reprotect preflight retention", "machine %s: %s", machine->name, why);
	memcpy(state->undo.log, random, sizeof(random));
	if (!machine_save(machine, fault))
		return 0;
	memset(state->undo.log, 0, sizeof(state->undo.log));
	undo_log_close(&machine->log);
	return -1;
}

/* A layer that the state does not know: it was begun, and nothing was written with it. */
static void remove_unknown(struct machine *machine)
{
	uint64_t open = machine->log.chain.open.last;

	if (open && open != machine->state.undo.open)
		undo_log_undone(&machine->log);
}

int machine_log_open(struct machine *machine, struct fault *fault)
{
	struct server *server = machine->server;
	const char *retention = server->config.retention;
	bool known = state_log_known(&machine->state);
	char why[640], remedy[640];
	int r;

	if (machine->logged)
		return 0;
	if (machine->state.status == STATE_RELEASED || (!retention && !known))
		return 0;
	if (!retention)
		return missing(machine, "no retention volume is configured", fault);
	if (!thin_volume_fit(server->thin, why, remedy))
		return known ? missing(machine, why, fault) :
			       fault_set(fault, -1, "retention-refused", true, remedy, "machine %s: %s", machine->name, why);
	if (!known) {
		if (make(machine, fault))
			return -1;
	} else {
		r = undo_log_open(&machine->log, retention, machine->state.uuid, machine->state.dir, machine->state.undo.log,
				  machine->state.number, false, why, sizeof(why));
		if (r)
			return missing(machine, why, fault);
		remove_unknown(machine);
	}
	machine->undo.log = &machine->log;
	machine->logged = true;
	machine->apply.undo = &machine->undo;
	return 0;
}

void machine_log_remove(struct machine *machine)
{
	int r;

	undo_close(&machine->undo);
	machine->apply.undo = machine->apply.writer.undo = NULL;
	if (!machine->logged)
		return;
	machine->logged = false;
	r = undo_log_remove(&machine->log);
	if (r)
		log_warning("machine %s: its undo log cannot be removed: %s (remove %s by hand)", machine->name, strerror(-r),
			    machine->log.path);
	undo_log_close(&machine->log);
}

int machine_drop_points(struct machine *machine, struct fault *fault)
{
	struct state *state = &machine->state;
	struct state_undo undo = state->undo;
	uint64_t rollback_from = state->rollback_from, used;
	json_t *now = state->now;

	if (!state_log_known(state))
		return fault_set(fault, -1, "no-retention", true, "nothing has to be done", "machine %s: has no undo log",
				 machine->name);
	if (machine->live || machine->waiting || !apply_quiet(&machine->apply) || !job_quiet(machine))
		return fault_set(fault, -1, "busy", false, "stop its agent or its process server first",
				 "machine %s: its recovery points cannot be given up while it is connected", machine->name);
	if (machine->logged && undo_log_used(&machine->log, &used))
		return fault_set(fault, -1, "busy", false, "end the exports first (reprotect points exports)",
				 "machine %s: recovery point %" PRIu64 " is exported", machine->name, used);
	memset(state->undo.log, 0, sizeof(state->undo.log));
	state->undo.open = state->undo.rollback_to = state->rollback_from = 0;
	state->now = NULL;
	if (machine_save(machine, fault)) {
		state->undo = undo;
		state->rollback_from = rollback_from;
		state->now = now;
		return -1;
	}
	json_decref(now);
	machine_log_remove(machine);
	log_notice("machine %s: all its recovery points were given up", machine->name);
	return 0;
}
