// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * status: what the control socket answers: {"command":"status"} and {"command":"version"}.
 * Called by control.c from the loop; reads only.
 */
#include "server.h"
#include "util.h"

#include <inttypes.h>
#include <string.h>

static const char *agent_text(const struct machine *m)
{
	if (!m->agent)
		return "away";
	switch (m->agent->state) {
	case AGENT_HELLO:
	case AGENT_WAIT:
		return "waiting for the master target";
	case AGENT_READY:
		return m->agent->blocked && m->spool->waits != SPOOL_WAIT_WINDOW ? "held up" : "connected";
	case AGENT_GOING:
		break;
	}
	return "closing";
}

static json_t *problem_json(const struct problem *p)
{
	if (!p->wall_ms)
		return json_null();
	return json_pack("{s:I,s:s,s:s,s:s,s:s}", "time_ms", (json_int_t)p->wall_ms, "from", p->from, "code", p->code, "message",
			 p->message, "remedy", p->remedy);
}

static json_t *machine_json(const struct machine *m)
{
	const struct spool *s = m->spool;
	json_t *json = json_pack("{s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:o}", "machine", m->uuid, "host", m->host, "agent", agent_text(m),
				 "agent_address", m->agent ? m->agent->peer : "", "master_target", downstream_name(m),
				 "in_bytes_per_second", (json_int_t)m->in.per_second, "out_bytes_per_second",
				 (json_int_t)m->out.per_second, "last_error", problem_json(&m->problem));
	const char *waits = "";

	if (!json || !s)
		return json;
	if (m->agent && m->agent->blocked && s->waits != SPOOL_WAIT_WINDOW)
		waits = spool_wait_text(s->waits);
	json_object_update_new(json, json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:s}", "last_complete",
		(json_int_t)s->last_complete, "last_applied", (json_int_t)s->last_applied, "max_epoch", (json_int_t)s->max_epoch,
		"epochs_in_spool", (json_int_t)s->epoch_count, "open_epoch", (json_int_t)(s->open ? s->open->epoch : 0),
		"unapplied_bytes", (json_int_t)spool_epochs_bytes(s), "spool_bytes", (json_int_t)s->bytes, "segments",
		(json_int_t)s->segment_count, "damaged_segments", (json_int_t)s->damaged_segments, "aborted_epochs",
		(json_int_t)s->aborted_epochs, "received_bytes", (json_int_t)m->in.total, "sent_bytes",
		(json_int_t)m->out.total, "waits_for", waits));
	if (m->at)
		json_object_update_new(json, json_pack("{s:{s:I,s:i,s:i}}", "sending", "epoch", (json_int_t)m->at->epoch, "frame",
						       (int)m->at_seq, "of", (int)m->at->frames));
	if (m->progress_epoch)
		json_object_update_new(json, json_pack("{s:{s:I,s:i}}", "target_progress", "epoch",
						       (json_int_t)m->progress_epoch, "frame", (int)m->progress_seq));
	return json;
}

json_t *status_answer(const char *command, const json_t *request, void *user)
{
	const struct server *server = user;
	const struct config *config = &server->config;
	json_t *machines;

	(void)request;
	if (!strcmp(command, "version"))
		return json_pack("{s:b,s:s,s:s}", "ok", 1, "program", SERVER_PROGRAM, "version", REPROTECT_VERSION);
	if (strcmp(command, "status"))
		return control_error("the process server knows: status, version", "unknown command %s", command);
	machines = json_array();
	for (const struct machine *m = server->machines; m; m = m->next)
		json_array_append_new(machines, machine_json(m));
	return json_pack("{s:b,s:s,s:s,s:I,s:I,s:s,s:s,s:{s:s,s:I,s:I,s:s,s:b},s:{s:I,s:I,s:I,s:I},s:o}", "ok", 1, "program",
			 SERVER_PROGRAM, "version", REPROTECT_VERSION, "uptime_ms",
			 (json_int_t)(util_now_ms() - server->started_ms), "rss_bytes", (json_int_t)util_rss_bytes(), "listen",
			 server->listener ? conn_listener_name(server->listener) : config->listen, "master_target",
			 config->master_target, "spool", "path", config->spool, "used_bytes",
			 (json_int_t)server->store.used_bytes, "quota_bytes", (json_int_t)config->spool_bytes, "engine",
			 io_engine_name(server->io), "direct_io", server->store.direct, "limits", "max_machines",
			 (json_int_t)config->max_machines, "window_bytes", (json_int_t)config->window_bytes, "max_epoch_bytes",
			 (json_int_t)(config->spool_bytes / 4), "segment_bytes", (json_int_t)server->store.segment_bytes,
			 "machines", machines);
}

void status_line(const struct server *server, char *out, size_t bytes)
{
	unsigned connected = 0, unreachable = 0, held = 0, problems = 0;

	for (const struct machine *m = server->machines; m; m = m->next) {
		connected += m->agent != NULL;
		unreachable += m->down == DOWN_WAIT || m->down == DOWN_REFUSED;
		held += m->agent && m->agent->blocked && m->spool && m->spool->waits != SPOOL_WAIT_WINDOW;
		problems += m->problem.wall_ms != 0;
	}
	snprintf(out, bytes, "%u machines, %u agents connected, spool %" PRIu64 " of %" PRIu64 " MiB%s%s%s", server->machine_count,
		 connected, server->store.used_bytes >> 20, server->config.spool_bytes >> 20,
		 unreachable ? "; master target not reached" : "", held ? "; SPOOL FULL" : "",
		 problems && !unreachable && !held ? "; errors, see reprotect status" : "");
}
