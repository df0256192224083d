// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * downstream: the connection of a machine to the master target: connect, HELLO, go on where the master
 * target says, send the spool's frames in order, take its acknowledgements.
 *
 * Frames of an epoch are sent as they come, but END only when the epoch is durable in the spool: so the
 * master target never has an epoch that the spool has not, and what a restarted process
 * server tells an agent is never behind the target.
 *
 * What is queued refers to the spool's rings (pinned) and is bounded by QUEUE_BYTES.
 */
#include "server.h"
#include "log.h"
#include "util.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define QUEUE_BYTES (2u * 1024u * 1024u)
#define REFUSED_MS 15000u /* how often a refused machine asks again */

static const char *const names[] = {
	[DOWN_IDLE] = "idle",	[DOWN_WAIT] = "unreachable", [DOWN_CONNECTING] = "connecting",
	[DOWN_HELLO] = "greeting", [DOWN_STREAM] = "connected", [DOWN_REFUSED] = "resync-needed",
};

static void start_connect(struct machine *m);

const char *downstream_name(const struct machine *m)
{
	return names[m->down];
}

static int on_timer(sd_event_source *source, uint64_t usec, void *user)
{
	struct machine *m = user;

	(void)source;
	(void)usec;
	m->timer = sd_event_source_disable_unref(m->timer);
	if (m->down == DOWN_WAIT || m->down == DOWN_REFUSED) {
		m->down = DOWN_IDLE;
		downstream_want(m);
	}
	return 0;
}

static bool wanted(const struct machine *m)
{
	return m->hello && !m->server->stopping && (m->agent || (m->spool && m->spool->epochs));
}

/* Let go of the connection; what was pinned is released on the way. */
static void drop(struct machine *m)
{
	struct conn *conn = m->target;

	m->target = NULL;
	m->target_heard = false;
	m->at = NULL;
	m->at_begun = false;
	m->sent_pos = 0;
	conn_close(conn);
	if (m->spool) {
		spool_hold(m->spool, NULL);
		spool_read_stop(m->spool);
	}
}

static void set_timer(struct machine *m, uint64_t ms)
{
	int r;

	m->timer = sd_event_source_disable_unref(m->timer);
	r = sd_event_add_time_relative(m->server->event, &m->timer, CLOCK_BOOTTIME, ms * 1000, 50000, on_timer, m);
	if (r < 0)
		log_error("machine %s: cannot set a timer: %s (restart the process server)", m->uuid, strerror(-r));
}

static void back_off(struct machine *m)
{
	m->down = DOWN_WAIT;
	m->backoff_ms = m->backoff_ms ? m->backoff_ms * 2 : BACKOFF_MIN_MS;
	if (m->backoff_ms > BACKOFF_MAX_MS)
		m->backoff_ms = BACKOFF_MAX_MS;
	set_timer(m, m->backoff_ms + util_random() % 200);
}

static void lost(struct machine *m, const char *why)
{
	char message[400];

	snprintf(message, sizeof(message), "master target %s: %s", m->server->config.master_target, why);
	if (!m->problem.wall_ms || strcmp(m->problem.message, message))
		log_warning("machine %s (%s): %s (tried again; epochs stay in the spool)", m->uuid, m->host, message);
	/* What the master target itself said last weighs more than that it then hung up. */
	if (m->target_heard || strcmp(m->problem.from, "master target"))
		machine_problem(m, "network", "downstream-unreachable", message,
				"start the master target, or correct master_target in process-server.conf");
	drop(m);
	back_off(m);
	upstream_known(m, "downstream-unreachable", message,
		       "start the master target, or correct master_target in process-server.conf");
}

/* ---- sending ----------------------------------------------------------------------------- */

static struct spool_epoch *next_epoch(struct machine *m, const struct spool_epoch *after)
{
	struct spool_epoch *e = after ? after->next : m->spool->epochs;

	while (e && (e->state == SPOOL_ABORTED || (e->end && e->end <= m->sent_pos)))
		e = e->next;
	return e;
}

static void go_to(struct machine *m, struct spool_epoch *e)
{
	m->at = e;
	m->at_pos = e ? e->start : 0;
	m->at_seq = 0;
	m->at_begun = false;
	m->skip_until = 0;
	spool_hold(m->spool, e);
}

static void damaged(struct machine *m, int error)
{
	char message[300];

	snprintf(message, sizeof(message), "epoch %" PRIu64 " cannot be read back from the spool at frame %u: %s", m->at->epoch,
		 m->at_seq, strerror(-error));
	log_error("machine %s (%s): %s (check the disk under %s; it is tried again)", m->uuid, m->host, message,
		  m->server->config.spool);
	machine_problem(m, "spool", "io", message, "check the disk of the spool; if it is lost, resync the machine");
	drop(m);
	back_off(m);
}

/* Send the frame at the cursor. Return: whether there may be more to do. */
static bool send_next(struct machine *m)
{
	struct spool *spool = m->spool;
	struct wire_frame frame;
	const void *payload;
	struct ring *ring;
	struct ring_pin *pin = NULL;
	int r;

	if (m->at->state == SPOOL_ABORTED) {
		struct wire_frame abort = { .type = WIRE_ABORT, .epoch = m->at->epoch, .attempt = m->at->attempt,
					    .seq = m->at_seq };
		struct spool_epoch *next = next_epoch(m, m->at);

		if (m->at_begun && conn_send(m->target, &abort, true, NULL, NULL, NULL))
			return false; /* @writable comes */
		go_to(m, next);
		return next != NULL;
	}
	r = spool_frame(spool, &m->at_pos, &frame, &payload, &ring);
	if (r == -EAGAIN || r == -ENODATA)
		return false;
	if (!r && (frame.epoch != m->at->epoch || frame.attempt != m->at->attempt))
		r = -EBADMSG;
	if (r) {
		damaged(m, r);
		return false;
	}
	if (frame.type == WIRE_END && m->at->state != SPOOL_COMPLETE)
		return false; /* upstream_complete() */
	if (frame.seq >= m->skip_until) {
		/* Also where there is no payload: the release is what goes on after a full queue. */
		pin = ring_pin(ring, m->at_pos);
		if (!pin)
			return false;
		r = conn_send(m->target, &frame, true, payload, ring_unpin, pin);
		if (r)
			ring_unpin(pin);
		if (r)
			return false;
		m->at_begun = true;
		m->out.total += WIRE_HEADER_BYTES + frame.payload_bytes;
	}
	m->at_pos += WIRE_HEADER_BYTES + frame.payload_bytes;
	m->at_seq = frame.seq + 1;
	if (frame.type == WIRE_END) {
		struct spool_epoch *next;

		m->sent_pos = m->at->end;
		next = next_epoch(m, m->at);
		if (next)
			go_to(m, next);
		else
			m->at_pos = UINT64_MAX; /* stay, until there is one behind it */
		return next != NULL;
	}
	return true;
}

void downstream_pump(struct machine *m)
{
	unsigned turns = 0;

	if (m->down != DOWN_STREAM || m->pumping || !m->spool)
		return;
	m->pumping = true; /* releases call back in here */
	while (m->target && m->down == DOWN_STREAM && turns++ < 65536) {
		if (!m->at) {
			struct spool_epoch *e = next_epoch(m, NULL);

			if (!e)
				break;
			go_to(m, e);
		}
		if (m->at_pos == UINT64_MAX) {
			struct spool_epoch *e = next_epoch(m, m->at);

			if (!e)
				break;
			go_to(m, e);
		}
		if (conn_queued_bytes(m->target) > QUEUE_BYTES || !send_next(m))
			break;
	}
	m->pumping = false;
}

/* ---- what the master target says --------------------------------------------------------- */

/* The spool does not follow what the target has: the agent must come with a new HELLO. */
static void refused(struct machine *m, const char *message, const char *remedy)
{
	log_error("machine %s (%s): %s (%s)", m->uuid, m->host, message, remedy);
	machine_problem(m, "master target", "resync-needed", message, remedy);
	drop(m);
	m->down = DOWN_REFUSED;
	set_timer(m, REFUSED_MS);
	upstream_error(m, 0, "resync-needed", message, remedy, true);
}

/* Epochs up to @applied are on the target. A final one counts only with its own acknowledgement. */
static void applied_up_to(struct machine *m, uint64_t applied)
{
	for (const struct spool_epoch *e = m->spool->epochs; e; e = e->next)
		if (e->epoch == applied && e->state == SPOOL_COMPLETE && e->flags & WIRE_EPOCH_FINAL)
			applied--;
	if (m->at && m->at->epoch <= applied && m->at->state == SPOOL_COMPLETE)
		m->at = NULL;
	if (!m->at)
		spool_hold(m->spool, NULL);
	if (applied > m->spool->last_applied)
		m->state_dirty = true;
	spool_applied(m->spool, applied);
}

static bool follows(struct machine *m, uint64_t applied)
{
	const struct spool_epoch *e = m->spool->epochs;

	while (e && (e->state == SPOOL_ABORTED || e->epoch <= applied))
		e = e->next;
	return e ? e->previous == applied : m->spool->last_complete <= applied;
}

static void resume_at(struct machine *m, const json_t *partial)
{
	uint64_t epoch = (uint64_t)json_integer_value(json_object_get(partial, "epoch"));
	uint64_t attempt = (uint64_t)json_integer_value(json_object_get(partial, "attempt"));
	uint32_t seq = (uint32_t)json_integer_value(json_object_get(partial, "seq"));
	struct spool_epoch *e = next_epoch(m, NULL);

	if (e && seq && e->epoch == epoch && e->attempt == attempt) {
		go_to(m, e);
		m->skip_until = seq;
		m->at_begun = true;
		log_info("machine %s: epoch %" PRIu64 " goes on at frame %u", m->uuid, epoch, seq);
	}
}

static void take_hello_ack(struct machine *m, const json_t *json)
{
	struct server *server = m->server;
	uint64_t applied = (uint64_t)json_integer_value(json_object_get(json, "last_applied"));
	uint64_t max_epoch = (uint64_t)json_integer_value(json_object_get(json, "max_epoch"));
	char message[512];

	m->target_applied = applied;
	m->target_heard = true;
	m->target_max_epoch_bytes = (uint64_t)json_integer_value(json_object_get(json, "max_epoch_bytes"));
	m->backoff_ms = 0;
	m->down = DOWN_STREAM;
	m->target_since_ms = util_now_ms();
	if (!m->spool) {
		struct spool_known known = { .last_complete = applied, .last_applied = applied, .max_epoch = max_epoch };
		int r = machine_open(m, &known, message, sizeof(message));

		if (!r && machine_save(m) < 0) {
			snprintf(message, sizeof(message), "cannot write state.json in %s", server->config.spool);
			r = -EIO;
		}
		if (r) {
			log_error("machine %s: %s", m->uuid, message);
			upstream_known(m, "io", message, "check the disk of the process server's spool");
			return;
		}
	}
	if (max_epoch > m->spool->max_epoch)
		m->spool->max_epoch = max_epoch;
	if (applied > m->spool->last_complete) {
		snprintf(message, sizeof(message), "the master target has epoch %" PRIu64 ", the spool ended with %" PRIu64, applied,
			 m->spool->last_complete);
		log_notice("machine %s (%s): %s", m->uuid, m->host, message);
		if (m->agent && m->agent->state == AGENT_READY) /* it goes by what it was told */
			upstream_error(m, 0, "busy", message, "connect again and go on from last_complete", true);
	}
	applied_up_to(m, applied);
	if (!follows(m, applied)) {
		const struct spool_epoch *e = next_epoch(m, NULL);

		snprintf(message, sizeof(message), "the master target has epoch %" PRIu64 ", but the next one here follows epoch %"
			 PRIu64, applied, e ? e->previous : m->spool->last_complete);
		refused(m, message, "see whether the target was rolled back or replaced; then resync the machine: reprotect resync");
		return;
	}
	if (m->problem.wall_ms && (!strcmp(m->problem.from, "network") || !strcmp(m->problem.from, "master target")))
		m->problem.wall_ms = 0;
	log_notice("machine %s (%s): connected to the master target at %s, epoch %" PRIu64 " applied", m->uuid, m->host,
		   server->config.master_target, applied);
	resume_at(m, json_object_get(json, "partial"));
	upstream_known(m, NULL, NULL, NULL);
	upstream_caught_up(m);
	downstream_pump(m);
}

/*
 * Freeing takes renames, and state.json may have to be written first: the agent waits for its
 * acknowledgement meanwhile. So the first turn lets the loop send that, the second frees.
 */
static int on_freeing(sd_event_source *source, void *user)
{
	struct machine *m = user;

	if (m->freeing_next) {
		m->freeing_next = false;
		return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
	}
	m->freeing = sd_event_source_disable_unref(m->freeing);
	if (m->down != DOWN_STREAM)
		return 0; /* the next HELLO_ACK frees it */
	applied_up_to(m, m->target_applied);
	if (!wanted(m))
		downstream_stop(m);
	else
		downstream_pump(m);
	return 0;
}

static void take_ack(struct machine *m, const struct wire_frame *f, const void *payload)
{
	if (f->flags & WIRE_ACK_PROGRESS) {
		m->progress_epoch = f->epoch;
		m->progress_seq = f->seq;
		return;
	}
	if (!(f->flags & WIRE_ACK_APPLIED))
		return;
	if (f->epoch > m->spool->last_complete) {
		log_error("machine %s: the master target acknowledges epoch %" PRIu64 ", which it was never sent whole "
			  "(ignored; both ends must run the same release)", m->uuid, f->epoch);
		return;
	}
	if (f->flags & WIRE_ACK_RELEASED || f->payload_bytes) { /* kept: the agent must see it, whatever happens */
		char *text = f->payload_bytes ? strndup(payload, f->payload_bytes) : NULL;

		free(m->final_text);
		m->final_text = text;
		m->final_epoch = f->epoch;
		m->final_flags = f->flags;
		if (machine_save(m) < 0)
			log_error("machine %s: cannot write its state.json (check the disk of the spool)", m->uuid);
	}
	if (f->epoch > m->target_applied)
		m->target_applied = f->epoch;
	/* Its acknowledgement is here: now a final one counts, too. */
	for (struct spool_epoch *e = m->spool->epochs; e; e = e->next)
		if (e->epoch == f->epoch)
			e->flags &= ~WIRE_EPOCH_FINAL;
	m->problem.wall_ms = 0;
	upstream_applied(m, f, payload);
	m->freeing_next = true;
	if (m->freeing || sd_event_add_defer(m->server->event, &m->freeing, on_freeing, m) >= 0)
		return;
	m->freeing = NULL; /* no memory: at once, then */
	applied_up_to(m, m->target_applied);
	if (!wanted(m))
		downstream_stop(m);
	else
		downstream_pump(m);
}

static void take_error(struct machine *m, const json_t *json)
{
	const char *code = json_string_value(json_object_get(json, "code"));
	const char *message = json_string_value(json_object_get(json, "message"));
	const char *remedy = json_string_value(json_object_get(json, "remedy"));
	bool fatal = json_is_true(json_object_get(json, "fatal"));
	char text[512];

	if (!code)
		code = "?";
	snprintf(text, sizeof(text), "master target: %s", message ? message : "no reason given");
	if (!remedy || !*remedy)
		remedy = "see the log of the master target";
	if (!strcmp(code, "resync-needed") && m->spool) {
		refused(m, text, remedy);
		return;
	}
	if (!m->problem.wall_ms || strcmp(m->problem.message, text))
		log_error("machine %s (%s): %s: %s (%s)", m->uuid, m->host, code, text, remedy);
	machine_problem(m, "master target", code, text, remedy);
	if (fatal) {
		drop(m);
		if (strcmp(code, "busy"))
			m->backoff_ms = BACKOFF_MAX_MS;
		back_off(m);
	}
	upstream_error(m, 0, code, text, remedy, false);
}

/* ---- the connection ---------------------------------------------------------------------- */

static void on_connected(struct conn *conn, void *user)
{
	struct machine *m = user;
	struct wire_frame frame = { .type = WIRE_HELLO };
	CLEANUP_JSON json_t *hello = json_deep_copy(m->hello);
	CLEANUP_FREE char *text = NULL;
	int r = -ENOMEM;

	/* What the agent has forgotten may be more by now than when it said HELLO; less is harmless. */
	if (hello && !json_object_set_new(hello, "via", json_string(SERVER_PROGRAM " " REPROTECT_VERSION)))
		text = json_dumps(hello, JSON_COMPACT);
	if (text) {
		frame.payload_bytes = (uint32_t)strlen(text);
		r = conn_send(conn, &frame, false, text, NULL, NULL);
	}
	m->down = DOWN_HELLO;
	if (r)
		lost(m, strerror(-r));
}

static int on_frame(struct conn *conn, const struct wire_frame *f, void *payload, void *user)
{
	struct machine *m = user;
	CLEANUP_JSON json_t *json = NULL;

	if (conn != m->target)
		return 0;
	if (f->type == WIRE_ACK && m->down == DOWN_STREAM && m->spool) {
		take_ack(m, f, payload);
		return 0;
	}
	if (f->type != WIRE_HELLO_ACK && f->type != WIRE_ERROR)
		return -EPROTO;
	json = json_loadb(payload, f->payload_bytes, 0, NULL);
	if (!json_is_object(json))
		return -EBADMSG;
	if (f->type == WIRE_ERROR)
		take_error(m, json);
	else if (m->down == DOWN_HELLO)
		take_hello_ack(m, json);
	else
		return -EPROTO;
	return 0;
}

static void on_writable(struct conn *conn, void *user)
{
	(void)conn;
	downstream_pump(user);
}

static void on_closed(struct conn *conn, int error, const char *why, void *user)
{
	struct machine *m = user;

	(void)error;
	if (conn == m->target)
		lost(m, why);
	else
		conn_close(conn);
}

static const struct conn_ops target_ops = {
	.connected = on_connected, .frame = on_frame, .writable = on_writable, .closed = on_closed,
};

static void start_connect(struct machine *m)
{
	int r = conn_connect(&m->target, m->server->event, &transport_tcp, m->server->config.master_target, &target_ops, m);

	m->down = DOWN_CONNECTING;
	m->target_since_ms = util_now_ms();
	if (r) {
		m->target = NULL;
		lost(m, strerror(-r));
	}
}

void downstream_want(struct machine *m)
{
	if (m->down == DOWN_IDLE && !m->target && wanted(m))
		start_connect(m);
	else
		downstream_pump(m);
}

void downstream_stop(struct machine *m)
{
	/* What is not freed yet is freed at the next HELLO_ACK. */
	m->freeing = sd_event_source_disable_unref(m->freeing);
	m->timer = sd_event_source_disable_unref(m->timer);
	drop(m);
	m->down = DOWN_IDLE;
}

void downstream_restart(struct machine *m)
{
	downstream_stop(m);
	m->backoff_ms = 0;
	downstream_want(m);
}
