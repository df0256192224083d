// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * upstream: connections of agents. A frame is checked against the state of its epoch before it is
 * appended, so that only whole, ordered epochs of known disks are ever complete in the spool;
 * whatever is wrong with one agent is said to it and ends its connection and its epoch, nothing else.
 *
 * Payloads land where the spool wants them (spool_reserve). When there is no room the
 * connection is paused; when there is none for NO_ROOM_MS in mid-epoch, the epoch is dropped, so that
 * agents that wait for each other's room cannot wait forever.
 */
#include "server.h"
#include "log.h"
#include "util.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static const char *name_of(const struct agent *a)
{
	static char name[384];

	if (a->machine)
		snprintf(name, sizeof(name), "agent of %s (machine %s, %s)", a->machine->host, a->machine->uuid, a->peer);
	else
		snprintf(name, sizeof(name), "agent at %s", a->peer);
	return name;
}

static void clear_epoch(struct agent *a)
{
	if (a->machine && a->machine->spool && a->begun) {
		spool_abort(a->machine->spool);
		downstream_pump(a->machine);
	}
	a->begun = a->discard = false;
}

static void detach(struct agent *a)
{
	struct machine *m = a->machine;

	clear_epoch(a);
	if (m && m->spool)
		spool_unreserve(m->spool);
	if (m && m->agent == a)
		m->agent = NULL;
	a->machine = NULL;
	a->state = AGENT_GOING;
}

static void remove_agent(struct agent *a)
{
	struct server *server = a->server;

	for (struct agent **at = &server->agents; *at; at = &(*at)->next) {
		if (*at == a) {
			*at = a->next;
			break;
		}
	}
	server->agent_count--;
	detach(a);
	free(a->scratch);
	free(a);
}

void upstream_close(struct agent *a)
{
	struct conn *conn = a->conn;

	remove_agent(a);
	conn_close(conn);
}

/* Say why, and close once that is written. */
static void refuse(struct agent *a, const char *code, const char *message, const char *remedy, bool fatal)
{
	struct conn *conn = a->conn;
	struct machine *m = a->machine;
	int r;

	log_warning("%s: %s: %s (%s)", name_of(a), code, message, remedy);
	if (m)
		machine_problem(m, "agent", code, message, remedy);
	r = conn_send_error(conn, a->epoch, code, message, remedy, fatal);
	if (r < 0)
		log_debug("%s: cannot be told: %s", a->peer, strerror(-r));
	remove_agent(a);
	conn_finish(conn);
}

static uint64_t max_epoch_bytes(const struct machine *m)
{
	const struct server *server = m->server;
	uint64_t bytes = server->config.spool_bytes / 4, connected = 0;

	for (const struct agent *a = server->agents; a; a = a->next)
		connected += a->state == AGENT_READY;
	if (connected > 1)
		bytes /= connected;
	if (bytes < 4 * MIB)
		bytes = 4 * MIB;
	if (m->target_max_epoch_bytes && bytes > m->target_max_epoch_bytes)
		bytes = m->target_max_epoch_bytes;
	return bytes / 4096 * 4096;
}

static int send_text(struct conn *conn, struct wire_frame frame, json_t *json)
{
	CLEANUP_FREE char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	if (!text)
		return -ENOMEM;
	frame.payload_bytes = (uint32_t)strlen(text);
	return conn_send(conn, &frame, false, text, NULL, NULL);
}

static int send_ack(struct agent *a, uint64_t epoch, uint64_t attempt, uint32_t flags, const char *text)
{
	struct wire_frame frame = { .type = WIRE_ACK, .flags = flags, .epoch = epoch, .attempt = attempt };

	if (text)
		frame.payload_bytes = (uint32_t)strlen(text);
	return conn_send(a->conn, &frame, false, text, NULL, NULL);
}

/* ---- HELLO ------------------------------------------------------------------------------- */

static void acknowledge_hello(struct agent *a)
{
	struct machine *m = a->machine;
	json_t *json;
	int r;

	a->state = AGENT_READY;
	a->since_ms = util_now_ms();
	json = json_pack("{s:s,s:s,s:I,s:I,s:I,s:I,s:n}", "program", SERVER_PROGRAM, "version", REPROTECT_VERSION,
			 "last_complete", (json_int_t)m->spool->last_complete, "last_applied",
			 (json_int_t)m->spool->last_applied, "max_epoch_bytes", (json_int_t)max_epoch_bytes(m), "max_epoch",
			 (json_int_t)m->spool->max_epoch, "partial");
	r = send_text(a->conn, (struct wire_frame){ .type = WIRE_HELLO_ACK }, json);
	/* What it may have missed: only this acknowledgement says more than last_applied does. */
	if (!r && m->final_epoch && m->final_epoch == m->spool->last_applied)
		r = send_ack(a, m->final_epoch, 0, m->final_flags, m->final_text);
	if (r) {
		log_error("%s: cannot answer its HELLO: %s (it will connect again)", name_of(a), strerror(-r));
		upstream_close(a);
		return;
	}
	log_notice("%s: connected; epoch %" PRIu64 " is complete here, %" PRIu64 " applied", name_of(a),
		   m->spool->last_complete, m->spool->last_applied);
}

/* The spool does not follow what the master target has. Return: whether the agent may go on. */
static bool settle(struct agent *a)
{
	struct machine *m = a->machine;
	char message[256];
	int r;

	if (m->down != DOWN_REFUSED)
		return true;
	if (m->committed > m->target_applied) {
		snprintf(message, sizeof(message), "the master target is at epoch %" PRIu64 ", but epochs up to %" PRIu64
			 " are committed at the source: what lies between is not on the target", m->target_applied,
			 m->committed);
		refuse(a, "resync-needed", message, "resync the machine: reprotect resync", true);
		return false;
	}
	/* The agent still has everything above marked: nothing is lost by starting over from there. */
	log_notice("machine %s: the agent still has all changes since epoch %" PRIu64 ": the spool starts over from there",
		   m->uuid, m->target_applied);
	r = spool_reset(m->spool, m->target_applied);
	if (r) {
		refuse(a, "io", "the process server cannot write its state", "check the disk of its spool", false);
		return false;
	}
	m->down = DOWN_IDLE;
	m->problem.wall_ms = 0;
	return true;
}

static void take_hello(struct agent *a, json_t *hello)
{
	struct server *server = a->server;
	const char *uuid = json_string_value(json_object_get(hello, "machine"));
	struct machine *m;
	bool differs;

	if (!spool_machine_valid(uuid)) {
		refuse(a, "bad-frame", "HELLO does not name a machine by its UUID", "check the agent's configuration", true);
		return;
	}
	m = machine_find(server, uuid);
	if (!m && server->machine_count >= server->config.max_machines) {
		refuse(a, "busy", "this process server has as many machines as it is allowed",
		       "raise max_machines, or use another process server", false);
		return;
	}
	if (!m)
		m = machine_new(server, uuid);
	if (!m) {
		refuse(a, "busy", "this process server is out of memory", "lower window_bytes or max_machines", false);
		return;
	}
	if (m->agent) {
		struct agent *old = m->agent;

		/* The machine must not be forgotten in between. */
		a->machine = m;
		clear_epoch(old);
		old->machine = NULL;
		m->agent = a;
		refuse(old, "busy", "another agent of this machine has connected", "run one agent on a machine", true);
	}
	a->machine = m;
	m->agent = a;
	differs = machine_hello(m, hello);
	if (!m->disk_count) {
		refuse(a, "bad-frame", "HELLO names no usable disk", "check the agent's [disk] sections", true);
		return;
	}
	if (!settle(a))
		return;
	if (m->spool) {
		acknowledge_hello(a);
		if (m->agent != a) /* it could not be told, and is gone */
			return;
	} else {
		a->state = AGENT_WAIT;
		a->since_ms = util_now_ms();
	}
	if (m->spool && m->known && m->state_dirty && machine_save(m) < 0)
		log_error("machine %s: cannot write its state.json (tried again soon; check the disk of the spool)", m->uuid);
	if (differs && m->target)
		downstream_restart(m);
	else
		downstream_want(m);
}

void upstream_known(struct machine *m, const char *code, const char *message, const char *remedy)
{
	struct agent *a = m->agent;

	if (!a || a->state != AGENT_WAIT)
		return;
	if (code)
		refuse(a, code, message, remedy, false);
	else
		acknowledge_hello(a);
}

/* ---- epochs ------------------------------------------------------------------------------ */

/* Stop reading until there is room. */
static void block(struct agent *a)
{
	if (a->blocked)
		return;
	a->blocked = true;
	if (a->blocked_ms)
		return; /* still, or again without any progress in between */
	a->blocked_ms = util_now_ms();
	if (a->machine->spool->waits != SPOOL_WAIT_WINDOW)
		log_warning("%s: epoch %" PRIu64 " waits for %s", name_of(a), a->epoch,
			    spool_wait_text(a->machine->spool->waits));
}

void upstream_space(struct machine *m)
{
	struct agent *a = m->agent;

	if (!a || !a->blocked || a->state != AGENT_READY)
		return;
	if (!spool_ready(m->spool))
		return;
	a->blocked = false;
	conn_resume(a->conn);
}

static const char *no_room_remedy(enum spool_wait wait)
{
	return wait == SPOOL_WAIT_IO ? "check the disk of the process server's spool" :
				       "see why the master target does not take more, or give the spool more room";
}

/* Return: 0, or 1: the agent is refused and gone. */
static int begin(struct agent *a, const struct wire_frame *f)
{
	struct machine *m = a->machine;
	char message[256];
	int r;

	clear_epoch(a);
	a->epoch = f->epoch;
	a->attempt = f->attempt;
	a->seq = 1;
	a->digest = a->data_bytes = 0;
	a->fuzzy = f->flags & (WIRE_EPOCH_FUZZY | WIRE_EPOCH_INITIAL);
	a->tagged = false;
	if (f->epoch <= m->spool->last_complete) {
		a->discard = true;
		return 0;
	}
	if (f->offset != m->spool->last_complete) {
		snprintf(message, sizeof(message), "epoch %" PRIu64 " follows epoch %" PRIu64 ", but the last one here is %" PRIu64,
			 f->epoch, f->offset, m->spool->last_complete);
		if (f->offset > m->spool->last_complete)
			refuse(a, "resync-needed", message, "resync the machine: reprotect resync", true);
		else
			refuse(a, "bad-frame", message, "connect again and go on from last_complete", true);
		return 1;
	}
	r = spool_append(m->spool, f);
	if (r) {
		snprintf(message, sizeof(message), "epoch %" PRIu64 " cannot begin: the process server waits for %s", f->epoch,
			 spool_wait_text(m->spool->waits));
		refuse(a, m->spool->waits == SPOOL_WAIT_IO ? "io" : "no-space", message, no_room_remedy(m->spool->waits), false);
		return 1;
	}
	a->begun = true;
	return 0;
}

static const char *check_frame(struct agent *a, const struct wire_frame *f)
{
	const struct machine *m = a->machine;

	if (!a->begun && !a->discard)
		return "it belongs to no epoch that was begun";
	if (f->epoch != a->epoch || f->attempt != a->attempt)
		return "it is of another epoch or attempt than BEGIN";
	if (f->seq != a->seq)
		return "it is out of sequence";
	if (f->type == WIRE_END) {
		bool consistent = f->flags & WIRE_END_CONSISTENT;

		return f->offset != a->digest	  ? "the digest of the epoch differs" :
		       f->length != a->data_bytes ? "the length of the epoch differs" :
		       consistent && a->fuzzy	  ? "it ends as consistent, but began as fuzzy" :
		       a->tagged && !consistent	  ? "the epoch has a tag, but does not end as consistent" :
						    NULL;
	}
	if (a->tagged)
		return "it comes after the tag of its epoch";
	if (f->type == WIRE_TAG)
		return a->fuzzy ? "a fuzzy epoch cannot have a tag" : NULL;
	for (unsigned i = 0; i < m->disk_count; i++) {
		if (m->disks[i].id != f->disk)
			continue;
		return f->offset + f->length > m->disks[i].size_bytes ? "it lies beyond the end of its disk" : NULL;
	}
	return "HELLO did not name its disk";
}

static void refuse_frame(struct agent *a, const struct wire_frame *f, const char *why)
{
	char message[256];

	snprintf(message, sizeof(message), "%s (epoch %" PRIu64 ", frame %u, disk %u, offset %" PRIu64 "): %s",
		 wire_type_name(f->type), f->epoch, f->seq, f->disk, f->offset, why);
	refuse(a, "bad-frame", message, "both ends must run the same release", true);
}

static int take_frame(struct agent *a, const struct wire_frame *f)
{
	struct machine *m = a->machine;
	const char *why;
	int r;

	if (f->type == WIRE_BEGIN) {
		if (!begin(a, f))
			downstream_want(m);
		return 0;
	}
	if (f->type == WIRE_ABORT) {
		clear_epoch(a);
		return 0;
	}
	why = check_frame(a, f);
	if (why) {
		refuse_frame(a, f, why);
		return 0;
	}
	a->seq++;
	m->in.total += WIRE_HEADER_BYTES + f->payload_bytes;
	if (wire_in_digest(f->type))
		a->digest = wire_digest_add(a->digest, f);
	if (f->type == WIRE_DATA || f->type == WIRE_ZERO)
		a->data_bytes += f->length;
	a->tagged |= f->type == WIRE_TAG;
	if (a->discard) {
		if (f->type != WIRE_END)
			return 0;
		a->discard = false;
		a->again_epoch = a->epoch;
		a->again_attempt = a->attempt;
		r = send_ack(a, a->epoch, a->attempt, WIRE_ACK_SPOOLED, NULL);
		if (!r && a->epoch == m->final_epoch)
			r = send_ack(a, a->epoch, a->attempt, m->final_flags, m->final_text);
		else if (!r)
			upstream_caught_up(m);
		return r;
	}
	r = spool_append(m->spool, f);
	if (r) {
		refuse(a, "no-space", "the process server has no room for the epoch", no_room_remedy(m->spool->waits), false);
		return 0;
	}
	a->blocked_ms = 0;
	if (f->type == WIRE_END)
		a->begun = false;
	else if (!spool_ready(m->spool)) {
		block(a);
		conn_pause(a->conn);
	}
	downstream_pump(m);
	return 0;
}

void upstream_complete(struct machine *m, const struct spool_epoch *epoch)
{
	struct agent *a = m->agent;

	m->state_dirty = true;
	if (a && a->state == AGENT_READY && a->epoch == epoch->epoch) {
		int r = send_ack(a, epoch->epoch, epoch->attempt, WIRE_ACK_SPOOLED, NULL);

		if (r)
			log_warning("%s: cannot acknowledge epoch %" PRIu64 ": %s (it asks again)", name_of(a), epoch->epoch,
				    strerror(-r));
	}
	downstream_want(m);
}

void upstream_applied(struct machine *m, const struct wire_frame *ack, const void *payload)
{
	struct agent *a = m->agent;
	struct wire_frame frame = *ack;
	int r;

	if (!a || a->state != AGENT_READY)
		return;
	a->told_applied = ack->epoch;
	if (a->again_epoch == ack->epoch)
		frame.attempt = a->again_attempt;
	r = conn_send(a->conn, &frame, true, payload, NULL, NULL);
	if (r)
		log_warning("%s: cannot pass on that epoch %" PRIu64 " is applied: %s (its next HELLO says it)", name_of(a),
			    ack->epoch, strerror(-r));
}

void upstream_caught_up(struct machine *m)
{
	struct agent *a = m->agent;
	int r;

	if (!a || a->state != AGENT_READY || !a->epoch || a->begun || a->discard || a->epoch > m->spool->last_applied ||
	    a->told_applied >= a->epoch)
		return;
	a->told_applied = a->epoch;
	r = send_ack(a, a->epoch, a->attempt, WIRE_ACK_APPLIED, NULL);
	if (r)
		log_warning("%s: cannot tell that epoch %" PRIu64 " is applied: %s (its next HELLO says it)", name_of(a),
			    a->epoch, strerror(-r));
}

void upstream_error(struct machine *m, uint64_t epoch, const char *code, const char *message, const char *remedy, bool close)
{
	struct agent *a = m->agent;

	if (!a || a->state == AGENT_GOING)
		return;
	if (a->state == AGENT_WAIT) {
		upstream_known(m, code, message, remedy);
		return;
	}
	if (close) {
		refuse(a, code, message, remedy, !strcmp(code, "resync-needed"));
		return;
	}
	if (conn_send_error(a->conn, epoch, code, message, remedy, false) < 0)
		log_debug("%s: cannot be told of %s", name_of(a), code);
}

void upstream_failed(struct machine *m, const struct spool_epoch *epoch, int error)
{
	struct agent *a = m->agent;
	char message[256];

	if (!a || a->epoch != epoch->epoch || a->attempt != epoch->attempt)
		return;
	snprintf(message, sizeof(message), "epoch %" PRIu64 " could not be made durable in the spool: %s", epoch->epoch,
		 strerror(-error));
	refuse(a, "io", message, "check the disk of the process server's spool", false);
}

void upstream_tick(struct agent *a, uint64_t now_ms)
{
	struct machine *m = a->machine;
	char message[256];

	if (a->state == AGENT_HELLO && now_ms - a->since_ms > HELLO_MS) {
		refuse(a, "bad-frame", "no HELLO came", "point the agent, and nothing else, at this port", true);
	} else if (a->state == AGENT_WAIT && now_ms - a->since_ms > DOWNSTREAM_MS) {
		snprintf(message, sizeof(message), "the master target at %s does not answer", a->server->config.master_target);
		upstream_known(m, "downstream-unreachable", message,
			       "start the master target, or correct master_target in process-server.conf");
	} else if (a->state == AGENT_READY && a->blocked && a->blocked_ms && now_ms - a->blocked_ms > NO_ROOM_MS) {
		enum spool_wait wait = m->spool->waits;

		snprintf(message, sizeof(message), "epoch %" PRIu64 " waited %u s for %s", a->epoch, NO_ROOM_MS / 1000,
			 spool_wait_text(wait));
		refuse(a, wait == SPOOL_WAIT_IO ? "io" : "no-space", message, no_room_remedy(wait), false);
	}
}

/* ---- the connection ---------------------------------------------------------------------- */

static void *on_payload(struct conn *conn, const struct wire_frame *f, void *user)
{
	struct agent *a = user;
	void *payload;

	(void)conn;
	if (a->state != AGENT_READY || !a->begun || !wire_in_digest(f->type)) {
		if (!a->scratch)
			a->scratch = malloc(WIRE_PAYLOAD_MAX);
		/* Out of memory: asked again when room is announced. */
		if (!a->scratch)
			log_error("%s: no memory", name_of(a));
		return a->scratch;
	}
	payload = spool_reserve(a->machine->spool, f->payload_bytes);
	if (!payload)
		block(a);
	return payload;
}

static int on_frame(struct conn *conn, const struct wire_frame *f, void *payload, void *user)
{
	struct agent *a = user;
	CLEANUP_JSON json_t *hello = NULL;

	(void)conn;
	switch (a->state) {
	case AGENT_GOING:
		return 0;
	case AGENT_HELLO:
		if (f->type == WIRE_HELLO)
			hello = json_loadb(payload, f->payload_bytes, 0, NULL);
		free(a->scratch);
		a->scratch = NULL;
		if (json_is_object(hello))
			take_hello(a, hello);
		else
			refuse_frame(a, f, f->type == WIRE_HELLO ? "its JSON cannot be read" : "HELLO must come first");
		return 0;
	case AGENT_WAIT:
		refuse_frame(a, f, "HELLO is not answered yet");
		return 0;
	case AGENT_READY:
		break;
	}
	if (!wire_in_digest(f->type) && f->type != WIRE_BEGIN && f->type != WIRE_END && f->type != WIRE_ABORT) {
		refuse_frame(a, f, "an agent does not send this here");
		return 0;
	}
	/* A payload that was put aside belongs to no epoch, or to one that is discarded. */
	return take_frame(a, f);
}

static void on_closed(struct conn *conn, int error, const char *why, void *user)
{
	struct agent *a = user;

	if (error == -EPROTO || error == -EBADMSG || error == -EPROTONOSUPPORT || error == -EINVAL) {
		log_warning("%s: %s: the connection is closed, its unfinished epoch is dropped", name_of(a), why);
		if (a->machine)
			machine_problem(a->machine, "agent", error == -EPROTONOSUPPORT ? "version" : "bad-frame", why,
					"both ends must run the same release; see what else may connect to this port");
	} else {
		log_notice("%s: disconnected: %s%s", name_of(a), why, a->begun ? "; its unfinished epoch is dropped" : "");
	}
	remove_agent(a);
	conn_close(conn);
}

static const struct conn_ops agent_ops = { .payload = on_payload, .frame = on_frame, .closed = on_closed };

void upstream_accept(struct conn *conn, void *user)
{
	struct server *server = user;
	struct agent *a = calloc(1, sizeof(*a));

	if (!a || server->stopping || server->agent_count >= server->config.max_machines * 2) {
		log_warning("%s: not accepted: too many connections (raise max_machines)", conn_peer(conn));
		free(a);
		conn_close(conn);
		return;
	}
	a->server = server;
	a->conn = conn;
	a->since_ms = util_now_ms();
	snprintf(a->peer, sizeof(a->peer), "%s", conn_peer(conn));
	a->next = server->agents;
	server->agents = a;
	server->agent_count++;
	conn_start(conn, &agent_ops, a);
}
