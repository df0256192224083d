// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * session: see session.h.
 *
 *	state   | on
 *	--------+------------------------------------------------------------------
 *	HELLO   | a good HELLO: LIVE, or WAITING while an older connection's I/O ends; deadline: over
 *	WAITING | that I/O has ended: LIVE; deadline: over (busy)
 *	LIVE    | frames go to the apply; a fault, a newer connection, the peer's end: over
 *
 * Two things make it stop reading: no buffer (pool), and a frame that has to wait (apply). It reads
 * on when neither holds.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "log.h"
#include "session.h"
#include "util.h"

enum session_state { SESSION_HELLO, SESSION_WAITING, SESSION_LIVE };

struct session {
	struct server *server;
	struct session *next;
	struct conn *conn;
	struct machine *machine;
	enum session_state state;
	struct hello *hello;
	uint64_t since_ms;
	void *early;	 /* payload before the session is live */
	void *receiving; /* pool buffer that the connection is filling */
	bool wants_buffer, queue_full;
};

/* ---- the end ------------------------------------------------------------- */

/* Take the session from its machine; what is in flight goes on to its end. */
static void leave_machine(struct session *session)
{
	struct machine *machine = session->machine;

	session->machine = NULL;
	if (!machine)
		return;
	if (session->receiving)
		pool_put(machine->server->pool, &machine->client, session->receiving);
	session->receiving = NULL;
	if (machine->waiting == session)
		machine->waiting = NULL;
	if (machine->live == session) {
		machine->live = NULL;
		pool_leave(&machine->client);
		apply_stop(&machine->apply);
	}
}

static void forget_session(struct session *session)
{
	struct session **at = &session->server->session_list;

	while (*at != session)
		at = &(*at)->next;
	*at = session->next;
	session->server->sessions--;
	free(session->early);
	free(session->hello);
	free(session);
}

/* Say why, and close once that is written. */
static void refuse(struct session *session, const struct fault *fault, uint64_t epoch)
{
	struct conn *conn = session->conn;
	int r = conn_send_error(conn, epoch, fault->code, fault->message, fault->remedy, fault->fatal);

	if (r)
		log_warning("%s: cannot tell it why it is refused: %s", conn_peer(conn), strerror(-r));
	conn_finish(conn);
	leave_machine(session);
	forget_session(session);
}

static void refuse_text(struct session *session, const char *code, bool fatal, const char *remedy,
			const char *message)
{
	struct fault fault;

	fault_set(&fault, 0, code, fatal, remedy, "%s", message);
	log_warning("%s: %s (%s)", conn_peer(session->conn), message, remedy);
	refuse(session, &fault, 0);
}

static void closed(struct conn *conn, int error, const char *why, void *user)
{
	struct session *session = user;

	if (error)
		log_warning("%s%s%s: connection lost: %s", session->machine ? session->machine->name : "",
			    session->machine ? " at " : "", conn_peer(conn), why);
	else
		log_info("%s: connection closed", conn_peer(conn));
	conn_close(conn);
	leave_machine(session);
	forget_session(session);
}

void session_detach(struct machine *machine)
{
	struct session *session;

	while ((session = machine->waiting ? machine->waiting : machine->live)) {
		conn_close(session->conn);
		leave_machine(session);
		forget_session(session);
	}
}

void sessions_close(struct server *server)
{
	while (server->session_list) {
		struct session *session = server->session_list;

		conn_close(session->conn);
		leave_machine(session);
		forget_session(session);
	}
}

/* ---- HELLO --------------------------------------------------------------- */

static int hello_disk(const json_t *json, struct hello *hello, struct fault *fault)
{
	struct hello_disk *disk = &hello->disks[hello->disk_count];
	const char *name = json_string_value(json_object_get(json, "name"));
	json_int_t id = json_integer_value(json_object_get(json, "id"));
	json_int_t size = json_integer_value(json_object_get(json, "size_bytes"));

	if (!state_name_ok(name) || id <= 0 || id > UINT32_MAX || size <= 0 || size % WIRE_SECTOR)
		return fault_set(fault, -1, "bad-frame", true,
				 "disks need a name of letters, digits, dot, dash and underscore, an id from 1 "
				 "on, and a size that is a multiple of 512",
				 "HELLO of machine %s: disk %zu (%s, id %lld, %lld bytes) makes no sense",
				 hello->host, hello->disk_count + 1, name ? name : "no name", (long long)id,
				 (long long)size);
	snprintf(disk->name, sizeof(disk->name), "%s", name);
	disk->id = (uint32_t)id;
	disk->source_bytes = (uint64_t)size;
	for (size_t i = 0; i < hello->disk_count; i++)
		if (hello->disks[i].id == disk->id || !strcmp(hello->disks[i].name, disk->name))
			return fault_set(fault, -1, "bad-frame", true, "correct the agent's configuration",
					 "HELLO of machine %s: disks %s and %s have the same name or id",
					 hello->host, hello->disks[i].name, disk->name);
	hello->disk_count++;
	return 0;
}

int session_parse_hello(const void *text, size_t bytes, struct hello *hello, struct fault *fault)
{
	json_error_t error;
	CLEANUP_JSON json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
	const char *uuid = json_string_value(json_object_get(root, "machine"));
	const char *host = json_string_value(json_object_get(root, "host"));
	const json_t *disks = json_object_get(root, "disks"), *disk;
	size_t i;

	memset(hello, 0, sizeof(*hello));
	if (!root)
		return fault_set(fault, -1, "bad-frame", true,
				 "agent and process server have to be of a release that fits",
				 "HELLO is not JSON: %s", error.text);
	if (!state_name_ok(uuid) || !state_name_ok(host ? host : uuid))
		return fault_set(fault, -1, "bad-frame", true,
				 "names may have letters, digits, dot, dash and underscore",
				 "HELLO: \"machine\" or \"host\" is missing or not a plain name");
	snprintf(hello->uuid, sizeof(hello->uuid), "%s", uuid);
	snprintf(hello->host, sizeof(hello->host), "%s", host ? host : uuid);
	hello->committed = (uint64_t)json_integer_value(json_object_get(root, "committed"));
	if (!json_array_size(disks) || json_array_size(disks) > STATE_DISKS_MAX)
		return fault_set(fault, -1, "bad-frame", true, "name the disks in the agent's configuration",
				 "HELLO of machine %s: it names %zu disks, 1 to %d are possible", hello->host,
				 json_array_size(disks), STATE_DISKS_MAX);
	json_array_foreach(disks, i, disk)
		if (hello_disk(disk, hello, fault))
			return -1;
	return 0;
}

static void wake(void *user)
{
	struct machine *machine = user;
	struct session *session = machine->live;

	if (!session || !session->wants_buffer)
		return;
	session->wants_buffer = false;
	if (!session->queue_full)
		conn_resume(session->conn);
}

static int send_hello_ack(struct session *session)
{
	const struct machine *machine = session->machine;
	const struct state *state = &machine->state;
	json_t *partial = state->partial.seq ?
				  json_pack("{s:I, s:I, s:I}", "epoch", (json_int_t)state->partial.epoch,
					    "attempt", (json_int_t)state->partial.attempt, "seq",
					    (json_int_t)state->partial.seq) :
				  json_null();
	CLEANUP_JSON json_t *root = json_pack(
		"{s:s, s:s, s:I, s:I, s:I, s:I, s:s, s:o}", "program", "reprotect-master-target", "version",
		REPROTECT_VERSION, "last_complete", (json_int_t)state->last_applied, "last_applied",
		(json_int_t)state->last_applied, "max_epoch_bytes",
		(json_int_t)session->server->config.max_epoch_bytes, "max_epoch",
		(json_int_t)state->max_epoch, "status", state_status_name(state->status), "partial", partial);
	CLEANUP_FREE char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	struct wire_frame frame = { .type = WIRE_HELLO_ACK };

	if (!text)
		return -ENOMEM;
	frame.payload_bytes = (uint32_t)strlen(text);
	return conn_send(session->conn, &frame, false, text, NULL, NULL);
}

static void rolled_back(const struct machine *machine, struct fault *fault)
{
	fault_set(fault, 0, "rolled-back", true,
		  "to go on where replication was: reprotect points rollback <machine> latest; to protect it anew over these "
		  "disks: reprotect target forget <machine>, then reprotect resync",
		  machine->state.undo.rollback_to ? "machine %s: its disks are being rolled back to a recovery point" :
						    "machine %s: its disks were rolled back to a recovery point",
		  machine->name);
}

/* The machine is quiet: check and open its targets and begin. */
static void go_live(struct session *session)
{
	struct machine *machine = session->machine;
	struct fault fault = { 0 };

	if (machine->state.status == STATE_ROLLED_BACK || machine->state.undo.rollback_to) {
		rolled_back(machine, &fault);
		refuse(session, &fault, 0);
		return;
	}
	if (machine_log_open(machine, &fault)) {
		machine_failed(machine, &fault);
		refuse(session, &fault, 0);
		return;
	}
	if (job_needed(machine)) {
		machine->waiting = session;
		conn_pause(session->conn);
		machine->job.retry_ms = 0;
		job_turn(machine);
		return;
	}
	if (machine_open(machine, session->hello, &fault)) {
		machine_failed(machine, &fault);
		refuse(session, &fault, 0);
		return;
	}
	machine->waiting = NULL;
	machine->live = session;
	machine->failing = false;
	machine->client.wake = wake;
	machine->client.user = machine;
	pool_join(machine->server->pool, &machine->client);
	session->state = SESSION_LIVE;
	free(session->hello);
	session->hello = NULL;
	apply_start(&machine->apply, machine->targets, machine->target_count);
	int r = send_hello_ack(session);

	if (r) {
		fault_set(&fault, 0, "busy", false, "free memory on the master target",
			  "machine %s: cannot answer its HELLO: %s", machine->name, strerror(-r));
		machine_failed(machine, &fault);
		refuse(session, &fault, 0);
		return;
	}
	log_info("machine %s: connected from %s, %zu disks, last epoch applied: %" PRIu64 "%s", machine->name,
		 conn_peer(session->conn), machine->target_count, machine->state.last_applied,
		 machine->state.partial.seq ? ", going on inside an epoch" : "");
	conn_resume(session->conn);
}

static void on_hello(struct session *session, const void *payload, size_t bytes)
{
	struct fault fault;
	struct machine *machine;

	session->hello = calloc(1, sizeof(*session->hello));
	if (!session->hello) {
		refuse_text(session, "busy", false, "free memory on the master target", "out of memory");
		return;
	}
	if (session_parse_hello(payload, bytes, session->hello, &fault)) {
		log_warning("%s: %s (%s)", conn_peer(session->conn), fault.message, fault.remedy);
		refuse(session, &fault, 0);
		return;
	}
	machine = machine_get(session->server, session->hello, &fault);
	if (!machine) {
		log_error("%s (%s)", fault.message, fault.remedy);
		refuse(session, &fault, 0);
		return;
	}
	/* Out of the way first, so that the end of the old I/O starts this one and no other. */
	if (machine->waiting)
		refuse_text(machine->waiting, "busy", false, "let only one process server serve a machine",
			    "a newer connection for this machine takes its place");
	session->machine = machine;
	session->state = SESSION_WAITING;
	session->since_ms = util_now_ms();
	if (machine->live)
		refuse_text(machine->live, "busy", false, "let only one process server serve a machine",
			    "a newer connection for this machine takes its place");
	if (apply_quiet(&machine->apply) && job_quiet(machine)) {
		go_live(session);
		return;
	}
	machine->waiting = session;
	conn_pause(session->conn);
}

/* ---- frames -------------------------------------------------------------- */

static void *payload(struct conn *conn, const struct wire_frame *frame, void *user)
{
	struct session *session = user;

	(void)conn;
	if (session->state != SESSION_LIVE) {
		free(session->early);
		session->early = malloc(frame->payload_bytes);
		return session->early;
	}
	if (session->receiving) /* asked again for the same frame */
		return session->receiving;
	session->receiving =
		pool_get(&session->machine->client, pool_class_for(frame->payload_bytes));
	session->wants_buffer = !session->receiving;
	return session->receiving;
}

static int frame(struct conn *conn, const struct wire_frame *frame, void *data, void *user)
{
	struct session *session = user;
	struct machine *machine = session->machine;

	if (session->state == SESSION_HELLO && frame->type == WIRE_HELLO && data) {
		on_hello(session, data, frame->payload_bytes);
		return 0;
	}
	if (session->state != SESSION_LIVE || frame->type == WIRE_HELLO) {
		refuse_text(session, "bad-frame", true, "update the process server",
			    session->state == SESSION_LIVE ? "a second HELLO on one connection" :
							     "the first frame was not a HELLO");
		return 0;
	}
	session->receiving = NULL;
	bool go_on = apply_frame(&machine->apply, frame, data);

	/* The session may be gone: a fault ends it. */
	if (machine->live != session)
		return 0;
	if (!go_on) {
		session->queue_full = true;
		conn_pause(conn);
	}
	return 0;
}

static const struct conn_ops conn_ops = { .payload = payload, .frame = frame, .closed = closed };

void session_accepted(struct conn *conn, void *user)
{
	struct server *server = user;
	struct session *session = NULL;

	if (server->sessions < 2 * server->config.max_machines + 8)
		session = calloc(1, sizeof(*session));
	if (!session) {
		log_warning("%s: connection refused: too many are open (%u)", conn_peer(conn),
			    server->sessions);
		conn_close(conn);
		return;
	}
	session->server = server;
	session->conn = conn;
	session->since_ms = util_now_ms();
	session->next = server->session_list;
	server->session_list = session;
	server->sessions++;
	conn_start(conn, &conn_ops, session);
}

void session_tick(struct server *server)
{
	uint64_t now = util_now_ms();
	struct session *next;

	for (struct session *session = server->session_list; session; session = next) {
		next = session->next;
		if (session->state == SESSION_HELLO && now - session->since_ms > SESSION_HELLO_MS) {
			refuse_text(session, "bad-frame", true,
				    "only a process server may connect to this port",
				    "no HELLO came within 10 s");
			next = server->session_list; /* others may be gone with it */
		} else if (session->state == SESSION_WAITING &&
			   now - session->since_ms > SESSION_DRAIN_MS) {
			if (session->machine && !job_quiet(session->machine))
				refuse_text(session, "busy", false,
					    "the process server tries again; how far it is: reprotect points rollback <machine> "
					    "--status",
					    "an epoch that was not completed is being undone first");
			else
				refuse_text(session, "busy", false,
					    "check the target disks (dmesg); the process server tries again",
					    "writes of the previous connection have not completed for 30 s");
			next = server->session_list;
		}
	}
}

const char *session_peer(const struct session *session)
{
	return session ? conn_peer(session->conn) : NULL;
}

/* ---- what the apply says ------------------------------------------------- */

static void on_ack(void *user, uint32_t flags, uint64_t epoch, uint64_t attempt, uint32_t seq,
		   const json_t *mismatch)
{
	struct machine *machine = user;
	struct wire_frame out = {
		.type = WIRE_ACK, .flags = flags, .epoch = epoch, .attempt = attempt, .seq = seq
	};
	CLEANUP_JSON json_t *root = NULL;
	CLEANUP_FREE char *text = NULL;
	int r;

	if (json_array_size(mismatch)) {
		root = json_pack("{s:O}", "mismatch", mismatch);
		text = root ? json_dumps(root, JSON_COMPACT) : NULL;
		log_error("machine %s: epoch %" PRIu64 ": %zu ranges of its targets differ from the source (the "
			  "agent sends them again; if it goes on, check the target disks)",
			  machine->name, epoch, json_array_size(mismatch));
	}
	if (flags & WIRE_ACK_RELEASED)
		log_notice("machine %s: released with epoch %" PRIu64
			   ": its targets are verified and closed, the machine may be started from them",
			   machine->name, epoch);
	if (!machine->live)
		return;
	out.payload_bytes = text ? (uint32_t)strlen(text) : 0;
	r = conn_send(machine->live->conn, &out, false, text, NULL, NULL);
	/* A lost PROGRESS is made good by the next one; another is asked for again. */
	if (r && !(flags & WIRE_ACK_PROGRESS)) {
		struct fault fault;

		fault_set(&fault, 0, "busy", false, "the process server sends the epoch again",
			  "machine %s: cannot acknowledge epoch %" PRIu64 ": %s", machine->name, epoch,
			  strerror(-r));
		machine_failed(machine, &fault);
		refuse(machine->live, &fault, epoch);
	}
}

static void on_fault(void *user, const struct fault *fault, uint64_t epoch)
{
	struct machine *machine = user;

	machine_failed(machine, fault);
	if (machine->live)
		refuse(machine->live, fault, epoch);
}

static void on_ready(void *user)
{
	struct machine *machine = user;
	struct session *session = machine->live;

	if (!session || !session->queue_full)
		return;
	session->queue_full = false;
	if (!session->wants_buffer)
		conn_resume(session->conn);
}

static void on_idle(void *user)
{
	struct machine *machine = user;

	if (job_needed(machine))
		job_turn(machine);
	else if (machine->waiting)
		go_live(machine->waiting);
}

static enum undo_full on_full(void *user)
{
	return machine_log_full(user);
}

static bool on_paused(void *user)
{
	return machine_log_paused(user);
}

static void on_released(void *user)
{
	machine_close_targets(user);
}

const struct apply_events session_apply_events = {
	.ack = on_ack,
	.fault = on_fault,
	.ready = on_ready,
	.idle = on_idle,
	.released = on_released,
	.full = on_full,
	.paused = on_paused,
};

/* ---- what a job of the machine says --------------------------------------- */

void session_waited(struct machine *machine, const struct fault *fault)
{
	if (fault)
		refuse(machine->waiting, fault, 0);
	else
		go_live(machine->waiting);
}

void session_put_off(struct machine *machine)
{
	struct fault fault;

	rolled_back(machine, &fault);
	if (machine->waiting)
		refuse(machine->waiting, &fault, 0);
	if (machine->live)
		refuse(machine->live, &fault, 0);
}
